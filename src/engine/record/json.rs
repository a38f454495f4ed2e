//! Operation records as JSON, written by hand: there is one for every operation, and serde looked for escapes in names that
//! have none and formatted moments that had just been formatted.
//!
//! What it writes is what serde writes of the same record, byte for byte; a test holds the two together. Rare parts, such as
//! errors, are left to serde.

use serde::Serialize;

use super::{OperationRecord, ResultRecord, Stamp};
use crate::engine::time::Time;

/// Bytes of a moment as RFC 3339 up to its second and the point behind it.
const TO_SECOND: usize = "2026-11-23T17:15:05.".len();

/// The last second that was written: most moments are in the same one.
#[derive(Debug, Default)]
pub(in crate::engine) struct LastSecond {
    second: Option<u64>,
    text: String,
}

/// Adds a record to `out`.
pub(in crate::engine) fn write(record: &ResultRecord<'_>, last: &mut LastSecond, out: &mut Vec<u8>) {
    match record {
        ResultRecord::Operation(record) => operation(record, last, out),
        ResultRecord::Response(_) => value(record, out),
    }
}

/// Every field is named here, so that none can be forgotten.
fn operation(record: &OperationRecord<'_>, last: &mut LastSecond, out: &mut Vec<u8>) {
    let OperationRecord { v, response_id, part, channel, pattern, op, name, op_seq, cause, outcome, .. } = record;
    let OperationRecord { covered, tokens, bytes, segment, serial, version_serial, create_id, .. } = record;
    let OperationRecord { resent, error, attempt, sent_at, settled_at, latency_ms, queued_ms, .. } = record;
    let OperationRecord { instance, relay_version, epoch, connection_id, client_id, .. } = record;
    let OperationRecord { supersedes, replaces, cut, reopens, .. } = record;
    out.extend_from_slice(br#"{"kind":"operation","v":"#);
    value(v, out);
    text(r#","responseId":"#, response_id, out);
    number(r#","part":"#, part, out);
    text(r#","channel":"#, channel, out);
    text(r#","pattern":"#, pattern, out);
    text(r#","op":"#, op.as_str(), out);
    name.iter().for_each(|name| text(r#","name":"#, name, out));
    number(r#","opSeq":"#, op_seq, out);
    text(r#","cause":"#, cause.as_str(), out);
    text(r#","outcome":"#, outcome.as_str(), out);
    text(r#","covered":{"topic":"#, covered.topic, out);
    number(r#","partition":"#, &covered.partition, out);
    number(r#","first":"#, &covered.first, out);
    number(r#","last":"#, &covered.last, out);
    number(r#"},"tokens":"#, tokens, out);
    number(r#","bytes":"#, bytes, out);
    number(r#","segment":"#, segment, out);
    serial.iter().for_each(|serial| text(r#","serial":"#, serial, out));
    version_serial.iter().for_each(|serial| text(r#","versionSerial":"#, serial, out));
    create_id.iter().for_each(|id| text(r#","createId":"#, id, out));
    if *resent {
        out.extend_from_slice(br#","resent":true"#);
    }
    error.iter().for_each(|error| number(r#","error":"#, error, out));
    number(r#","attempt":"#, attempt, out);
    last.moment(r#","sentAt":""#, *sent_at, out);
    last.moment(r#"","settledAt":""#, *settled_at, out);
    number(r#"","latencyMs":"#, latency_ms, out);
    number(r#","queuedMs":"#, queued_ms, out);
    text(r#","instance":"#, instance, out);
    text(r#","relayVersion":"#, relay_version, out);
    number(r#","epoch":"#, epoch, out);
    connection_id.iter().for_each(|id| text(r#","connectionId":"#, id, out));
    client_id.iter().for_each(|id| text(r#","clientId":"#, id, out));
    supersedes.iter().for_each(|covered| number(r#","supersedes":"#, covered, out));
    replaces.iter().for_each(|serial| text(r#","replaces":"#, serial, out));
    cut.iter().for_each(|cut| number(r#","cut":"#, cut, out));
    reopens.iter().for_each(|reopens| number(r#","reopens":"#, reopens, out));
    out.push(b'}');
}

fn number(name: &str, it: &impl Serialize, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    value(it, out);
}

/// Few texts need an escape, and that none does is soon seen.
fn text(name: &str, text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    let needs_escape = |found, byte: u8| found | (byte < 0x20) | (byte == b'"') | (byte == b'\\');
    if text.bytes().fold(false, needs_escape) {
        return value(text, out);
    }
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

fn value<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, value);
    assert!(written.is_ok(), "a result record is always valid JSON");
}

impl LastSecond {
    /// Adds a moment without its quotes.
    fn moment(&mut self, name: &str, stamp: Stamp, out: &mut Vec<u8>) {
        out.extend_from_slice(name.as_bytes());
        let millis = stamp.0.millis();
        let second = millis / 1_000;
        if self.second != Some(second) {
            self.second = Some(second);
            self.text = Stamp(Time::from_millis(second * 1_000)).to_text();
        }
        let millis = millis % 1_000;
        let digit = |ten: u64| b'0' + (millis / ten % 10) as u8;
        out.extend_from_slice(&self.text.as_bytes()[..TO_SECOND]);
        out.extend_from_slice(&[digit(100), digit(10), digit(1), b'Z']);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cause, Covered, Cut, ErrorClass, ErrorInfo, OperationOutcome, Reopens};
    use super::*;
    use crate::engine::op::OpKind;
    use crate::engine::outcome::{Class, Doubt};

    fn record() -> OperationRecord<'static> {
        OperationRecord {
            v: 1,
            response_id: "r-1",
            part: 0,
            channel: "ai:r-1",
            pattern: "message-per-response",
            op: OpKind::Append,
            name: None,
            op_seq: 7,
            cause: Cause::Stream,
            outcome: OperationOutcome::Acked,
            covered: Covered { topic: "tokens", partition: 3, first: -1, last: i64::MAX },
            tokens: 2,
            bytes: 12,
            segment: 0,
            serial: None,
            version_serial: None,
            create_id: None,
            resent: false,
            error: None,
            attempt: 1,
            sent_at: Stamp(Time(1_795_453_199_999_999)),
            settled_at: Stamp(Time(1_795_453_200_000_000)),
            latency_ms: 31.207,
            queued_ms: 0.0,
            instance: "vm-1",
            relay_version: "0.1.0",
            epoch: 4,
            connection_id: None,
            client_id: None,
            supersedes: None,
            replaces: None,
            cut: None,
            reopens: None,
        }
    }

    #[track_caller]
    fn is_as_by_serde(record: OperationRecord<'_>) {
        let record = ResultRecord::Operation(record);
        let (mut ours, mut last) = (b"before".to_vec(), LastSecond::default());
        write(&record, &mut last, &mut ours);
        let theirs = serde_json::to_string(&record).expect("serialises");
        assert_eq!(String::from_utf8(ours).expect("text"), format!("before{theirs}"));
    }

    #[test]
    fn what_is_written_is_what_serde_writes() {
        is_as_by_serde(record());
        for op in [OpKind::Create, OpKind::Append, OpKind::Update, OpKind::Publish] {
            is_as_by_serde(OperationRecord { op, ..record() });
        }
        for cause in [Cause::Stream, Cause::Repair, Cause::Final, Cause::Takeover, Cause::Replay] {
            is_as_by_serde(OperationRecord { cause, ..record() });
        }
        for outcome in [OperationOutcome::Acked, OperationOutcome::Rejected, OperationOutcome::Unknown] {
            is_as_by_serde(OperationRecord { outcome, resent: true, ..record() });
        }
        for class in [ErrorClass::Refused(Class::RateLimited), ErrorClass::Doubtful(Doubt::Skipped)] {
            let error = ErrorInfo { code: Some(42_911), status_code: None, class, message: "too \"fast\"" };
            is_as_by_serde(OperationRecord { error: Some(error), ..record() });
        }
    }

    #[test]
    fn everything_that_may_be_there_is_where_serde_puts_it() {
        let covered = Covered { topic: "t", partition: 0, first: 1, last: 2 };
        let (serial, version_serial, create_id) = (Some("s"), Some("v"), Some("c"));
        let (connection_id, supersedes, name) = (Some("id"), Some(covered), Some("stop"));
        is_as_by_serde(OperationRecord {
            name,
            serial,
            version_serial,
            create_id,
            connection_id,
            client_id: Some("us"),
            supersedes,
            replaces: Some("r"),
            ..record()
        });
        let started_at = Stamp(Time::from_millis(1_000));
        let reopens = Some(Reopens { first: 1, last: 2, tokens: 3, bytes: 4, reopened: 5, started_at });
        is_as_by_serde(OperationRecord { reopens, ..record() });
        for superseded in [false, true] {
            let cut = Some(Cut { from: 5, limit: 64, superseded });
            is_as_by_serde(OperationRecord { cut, ..record() });
        }
    }

    #[test]
    fn texts_are_escaped_as_serde_does() {
        for id in ["", "\"", "a\\b", "line\n", "\u{0}\u{1f}\u{7f}", "\u{20ac} \u{1f600}", "\u{2028}"] {
            is_as_by_serde(OperationRecord { response_id: id, channel: id, instance: id, ..record() });
        }
    }

    #[test]
    fn moments_are_written_as_serde_does() {
        let mut last = LastSecond::default();
        for micros in [0, 999, 1_000, 999_999, 1_000_000, 1_795_453_199_999_999, 1_795_453_200_000_001, 5] {
            let stamp = Stamp(Time(micros));
            let mut ours = Vec::new();
            last.moment("\"", stamp, &mut ours);
            let theirs = serde_json::to_string(&stamp).expect("serialises");
            assert_eq!(String::from_utf8(ours).expect("text") + "\"", theirs, "{micros}");
        }
    }
}
