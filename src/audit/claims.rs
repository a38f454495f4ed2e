//! What the results topic claims of each response, folded from its records.
//!
//! Records are read by their names alone, without the types that write them: a renamed field shows here. A response id can
//! come back after its response was over and forgotten; then a new claim begins. One operation costs 24 bytes here, one
//! response a few hundred.

use std::borrow::Cow;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use jiff::Timestamp;
use serde::Deserialize;

/// What the results of one partition claim, by response id.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) by_id: HashMap<String, Vec<Claim>, RandomState>,
}

/// What is claimed of one life of one part of a response.
#[derive(Debug, Clone, Default)]
pub(super) struct Claim {
    pub(super) part: u32,
    /// From the first to the last offset that any record covers; none while none does.
    pub(super) span: Option<(i64, i64)>,
    pub(super) channel: Box<str>,
    /// A later record named another channel.
    pub(super) channel_changes: bool,
    pub(super) operations: Vec<Operation>,
    pub(super) verdicts: Vec<Verdict>,
    /// When the first of its operations was sent, in milliseconds since the Unix epoch.
    pub(super) since: Option<i64>,
}

/// The result of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) seq: u32,
    pub(super) outcome: Answered,
    /// It carried what had come, or the end; not a full text that mends.
    pub(super) is_stream: bool,
    pub(super) is_update: bool,
}

/// What became of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answered {
    Acked,
    Rejected,
    Unknown,
}

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    Delivered,
    Reconciled,
    Failed,
    Cancelled,
    Abandoned,
    Skipped,
}

impl Outcome {
    /// Whether the response's text is said to be on its channel.
    pub(super) fn is_on_channel(self) -> bool {
        !matches!(self, Self::Failed | Self::Skipped)
    }
}

/// The result of a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// How many results of operations came before it.
    pub(super) behind: usize,
    pub(super) outcome: Outcome,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) tokens: u64,
    pub(super) bytes: u64,
    pub(super) operations: u32,
    pub(super) rejected: u32,
    pub(super) unknown: u32,
    pub(super) repairs: u32,
    pub(super) reopened: u32,
    pub(super) hash: Option<[u8; 32]>,
    pub(super) has_reason: bool,
}

/// A record as far as it matters here. Fields of later versions are passed over.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    v: u32,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    response_id: Cow<'a, str>,
    part: u32,
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    covered: Covered<'a>,
    epoch: u64,
}

#[derive(Deserialize)]
struct Covered<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    partition: i32,
    first: i64,
    last: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OperationLine<'a> {
    #[serde(borrow)]
    op: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    op_seq: u32,
    #[serde(borrow)]
    cause: Cow<'a, str>,
    outcome: Answered,
    #[serde(borrow)]
    sent_at: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResponseLine<'a> {
    outcome: Outcome,
    #[serde(borrow, default)]
    reason: Option<Cow<'a, str>>,
    tokens: u64,
    bytes: u64,
    operations: u32,
    rejected: u32,
    unknown: u32,
    repairs: u32,
    #[serde(default)]
    reopened: u32,
    #[serde(borrow)]
    text_sha256: Cow<'a, str>,
}

/// What a record of the results topic is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// It was taken in; the owner's number.
    Taken { epoch: u64, is_response: bool },
    /// It speaks of another topic.
    Foreign,
    /// It is no result, and why.
    Not(&'static str),
}

impl Claims {
    /// Takes a record in: its key and value, the tokens topic, and the partition that it lies in.
    pub(super) fn add(&mut self, topic: &str, partition: i32, key: &[u8], value: &[u8]) -> Read {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(value) else {
            return Read::Not("it is no result of a shape that is known");
        };
        if line.v != 1 {
            return Read::Not("its version is not known");
        }
        if line.covered.topic != topic {
            return Read::Foreign;
        }
        if line.covered.partition != partition {
            return Read::Not("it covers offsets of another partition than it lies in");
        }
        if key != line.response_id.as_bytes() {
            return Read::Not("its key is not its response id");
        }
        let taken = match &*line.kind {
            "operation" => serde_json::from_slice(value).ok().map(|more| self.operation(&line, &more)),
            "response" => serde_json::from_slice(value).ok().map(|more| self.response(&line, &more)),
            _ => None,
        };
        match taken {
            Some(()) => Read::Taken { epoch: line.epoch, is_response: line.kind == "response" },
            None => Read::Not("it is no result of a shape that is known"),
        }
    }

    fn operation(&mut self, line: &Line<'_>, more: &OperationLine<'_>) {
        let Covered { first, last, .. } = line.covered;
        let begins = (more.op == "create" || more.name.as_deref() == Some("start")) && more.op_seq == 0;
        let is_full_text = more.name.as_deref() == Some("response-complete") && first <= last;
        // A start has no offset of its own: the first that it stands before is not of what was over before.
        let end = if begins { last.max(first) } else { last };
        let claim = self.claim(line, |claim| claim.may_have_operation(end, begins));
        if first <= last {
            claim.stretch(first, last);
        }
        let sent = more.sent_at.parse::<Timestamp>().ok().map(Timestamp::as_millisecond);
        claim.since = claim.since.into_iter().chain(sent).min();
        claim.operations.push(Operation {
            first,
            last,
            seq: more.op_seq,
            outcome: more.outcome,
            is_stream: matches!(&*more.cause, "stream" | "final"),
            // What is given up on says so with an update that leaves the text as it is.
            is_update: (more.op == "update" && more.cause != "final") || is_full_text,
        });
    }

    fn response(&mut self, line: &Line<'_>, more: &ResponseLine<'_>) {
        let Covered { first, last, .. } = line.covered;
        let claim = self.claim(line, |claim| claim.may_have_verdict(first));
        claim.stretch(first, last);
        let behind = claim.operations.len();
        claim.verdicts.push(Verdict {
            behind,
            outcome: more.outcome,
            first,
            last,
            tokens: more.tokens,
            bytes: more.bytes,
            operations: more.operations,
            rejected: more.rejected,
            unknown: more.unknown,
            repairs: more.repairs,
            reopened: more.reopened,
            hash: from_hex(&more.text_sha256),
            has_reason: more.reason.as_ref().is_some_and(|reason| !reason.is_empty()),
        });
    }

    /// The claim that a record belongs to; a new one if it fits none.
    fn claim(&mut self, line: &Line<'_>, fits: impl Fn(&Claim) -> bool) -> &mut Claim {
        let claims = self.by_id.entry_ref(&*line.response_id).or_default();
        let found = claims.iter().position(|claim| claim.part == line.part && fits(claim));
        let index = found.unwrap_or_else(|| {
            claims.push(Claim { part: line.part, channel: line.channel.as_ref().into(), ..Claim::default() });
            claims.len() - 1
        });
        let claim = &mut claims[index];
        claim.channel_changes |= *claim.channel != *line.channel;
        claim
    }
}

impl Claim {
    fn stretch(&mut self, first: i64, last: i64) {
        let (low, high) = self.span.unwrap_or((first, last));
        self.span = Some((low.min(first), high.max(last)));
    }

    /// The last offset of what it says is over, and whether it may open again.
    fn over(&self) -> Option<(i64, bool)> {
        let verdict = self.verdicts.iter().max_by_key(|verdict| verdict.last)?;
        Some((verdict.last, verdict.outcome == Outcome::Abandoned))
    }

    fn may_have_operation(&self, last: i64, begins: bool) -> bool {
        match self.over() {
            None => true,
            Some((over, reopens)) => last <= over || (reopens && !begins),
        }
    }

    fn may_have_verdict(&self, first: i64) -> bool {
        self.over().is_none_or(|(over, _)| first <= over)
    }
}

pub(super) fn from_hex(hex: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn operation(seq: u32, first: i64, last: i64) -> Value {
        json!({
            "kind": "operation", "v": 1, "responseId": "r", "part": 0, "channel": "c", "pattern": "message-per-response",
            "op": if seq == 0 { "create" } else { "append" }, "opSeq": seq, "cause": "stream", "outcome": "acked",
            "covered": {"topic": "t", "partition": 3, "first": first, "last": last}, "epoch": 1,
            "sentAt": "1970-01-01T00:00:01.500Z",
        })
    }

    fn response(outcome: &str, first: i64, last: i64) -> Value {
        json!({
            "kind": "response", "v": 1, "responseId": "r", "part": 0, "channel": "c", "outcome": outcome,
            "covered": {"topic": "t", "partition": 3, "first": first, "last": last}, "epoch": 2, "tokens": 1, "bytes": 1,
            "operations": 1, "rejected": 0, "unknown": 0, "repairs": 0, "textSha256": "00".repeat(32),
        })
    }

    fn add(claims: &mut Claims, record: &Value) -> Read {
        claims.add("t", 3, b"r", record.to_string().as_bytes())
    }

    /// Of a claim its span, and how many operations and verdicts it has.
    type Folded = (Option<(i64, i64)>, usize, usize);

    fn folded(records: &[Value]) -> Vec<Folded> {
        let mut claims = Claims::default();
        for record in records {
            let is_response = record["kind"] == "response";
            let epoch = if is_response { 2 } else { 1 };
            assert_eq!(add(&mut claims, record), Read::Taken { epoch, is_response });
        }
        let of_it = claims.by_id.remove("r").unwrap_or_default();
        of_it.iter().map(|claim| (claim.span, claim.operations.len(), claim.verdicts.len())).collect()
    }

    #[test]
    fn what_comes_after_the_end_begins_anew() {
        let lives = [
            operation(0, 4, 4),
            operation(1, 6, 7),
            response("delivered", 4, 7),
            operation(0, 9, 9),
            response("failed", 9, 12),
        ];
        assert_eq!(folded(&lives), [(Some((4, 7)), 2, 1), (Some((9, 12)), 1, 1)]);
    }

    #[test]
    fn what_was_abandoned_goes_on_unless_it_begins_with_a_create() {
        let begun = [operation(0, 4, 4), operation(1, 5, 4), response("abandoned", 4, 4)];
        let goes_on = [operation(2, 8, 8), response("delivered", 4, 8)];
        assert_eq!(folded(&[&begun[..], &goes_on].concat()), [(Some((4, 8)), 3, 2)]);
        let begins = [operation(0, 8, 8), response("delivered", 8, 8)];
        assert_eq!(folded(&[&begun[..], &begins].concat()), [(Some((4, 4)), 2, 1), (Some((8, 8)), 1, 1)]);
    }

    #[test]
    fn what_comes_twice_stays_where_it_belongs() {
        let once = [operation(0, 4, 4), response("delivered", 4, 4), operation(0, 9, 9)];
        assert_eq!(folded(&[&once[..], &once[..2]].concat()), [(Some((4, 4)), 2, 2), (Some((9, 9)), 1, 0)]);
    }

    #[test]
    fn what_is_no_result_is_named_and_not_taken() {
        let mut claims = Claims::default();
        let mut other = operation(0, 4, 4);
        other["covered"]["topic"] = json!("u");
        assert_eq!(add(&mut claims, &other), Read::Foreign);
        for (field, value) in
            [("v", json!(2)), ("kind", json!("other")), ("opSeq", json!(-1)), ("responseId", json!("s"))]
        {
            let mut wrong = operation(0, 4, 4);
            wrong[field] = value;
            assert!(matches!(add(&mut claims, &wrong), Read::Not(_)), "{field}");
        }
        let misplaced = claims.add("t", 4, b"r", operation(0, 4, 4).to_string().as_bytes());
        assert!(matches!(misplaced, Read::Not(_)));
        assert!(claims.by_id.is_empty());
    }

    #[test]
    fn times_and_hashes_are_read() {
        let mut claims = Claims::default();
        add(&mut claims, &operation(0, 4, 4));
        add(&mut claims, &response("delivered", 4, 4));
        let claim = &claims.by_id["r"][0];
        assert_eq!((claim.since, claim.verdicts[0].hash), (Some(1_500), Some([0; 32])));
        for bad in ["", "00", &"0g".repeat(32), &"é".repeat(32), &"00".repeat(33)] {
            assert_eq!(from_hex(bad), None, "{bad}");
        }
    }
}
