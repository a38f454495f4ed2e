//! What is said of operations and responses: the records of the results topic (I4, I5, I6, I11).

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::checks::{Checks, Instance};
use super::scene::{Broken, Kept, Scene, hold};
use crate::engine::{OpKind, ReconcileWhen, Status};

/// What a record says of an operation.
#[derive(Debug, Clone)]
pub(super) struct Recorded {
    seq: u32,
    cause: Why,
    acked: bool,
    first: i64,
    last: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Why {
    Stream,
    Repair,
    Final,
}

#[derive(Deserialize)]
struct Range {
    first: i64,
    last: i64,
    partition: usize,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Said<'a> {
    kind: &'a str,
    response_id: &'a str,
    part: u32,
    outcome: &'a str,
    covered: Range,
    tokens: u64,
    bytes: usize,
    op: Option<OpKind>,
    op_seq: Option<u32>,
    cause: Option<Why>,
    operations: Option<u32>,
    rejected: Option<u32>,
    unknown: Option<u32>,
    repairs: Option<u32>,
    text_sha256: Option<&'a str>,
    reason: Option<&'a str>,
    reopened: Option<u32>,
    segments: Option<u32>,
}

impl Checks {
    /// A report has a number.
    pub(super) fn numbered(&mut self, p: usize, seq: u64) -> Kept {
        let partition = &mut self.partitions[p];
        hold!(seq == partition.reports, "report {seq} of partition {p} should be number {}", partition.reports);
        partition.reports += 1;
        Ok(())
    }

    /// A report is read.
    pub(super) fn report(&mut self, scene: &Scene, p: usize, value: &[u8]) -> Kept {
        let said: Said<'_> = serde_json::from_slice(value).map_err(|error| Broken(format!("a report: {error}")))?;
        let i = self.current.iter().find(|((id, part), _)| *id == said.response_id && *part == said.part);
        let Some(i) = i.map(|(_, i)| *i) else { return Err(Broken(format!("a report of {}", said.response_id))) };
        let instance = &mut self.instances[i];
        let name = instance.name();
        hold!(said.covered.partition == p && instance.partition == p, "{name}: reported by partition {p}");
        hold!(instance.settled.is_none(), "I11: {name} is settled, but a report names it");
        match said.kind {
            "operation" => instance.operation_said(&said),
            _ => self.response_said(scene, i, &said),
        }
    }

    fn response_said(&mut self, scene: &Scene, i: usize, said: &Said<'_>) -> Kept {
        let instance = &self.instances[i];
        let name = instance.name();
        // Events that came while it waited to be given up on were not its own any more.
        let was_over = instance.suspect && said.outcome == "failed";
        if instance.ended.is_none() && !self.crowded && !was_over {
            self.abandoned(scene, instance)?;
        }
        instance.sums_up(said, self.plan.audits)?;
        if said.outcome == "failed" {
            self.may_fail(scene, instance, said.reason)?;
        } else {
            hold!(instance.last_word.is_none(), "R15: {name} is {} after it was given up on", said.outcome);
            hold!(!instance.is_others, "R17: {name} is {} though it was seen to be changed by others", said.outcome);
            let expected = match instance.ended {
                None | Some(Status::Abandoned) => "abandoned",
                Some(Status::Cancelled) => "cancelled",
                Some(_) if instance.ever_failed() => "reconciled",
                Some(_) => "delivered",
            };
            let reconciled = said.outcome == "reconciled" && expected == "delivered";
            hold!(said.outcome == expected || reconciled, "{name}: {} should be {expected}", said.outcome);
            hold!(!instance.headless, "O7: {name} began without its beginning and is {}", said.outcome);
            let done = match &instance.tokens {
                Some(tokens) => tokens.is_stopped() && !instance.tainted,
                None => instance.is_whole || instance.is_done(),
            };
            hold!(done, "{name}: {} before its text is complete and clean", said.outcome);
            hold!(
                instance.is_whole || said.segments == Some(instance.shows()),
                "I6: {name}: {:?} segments",
                said.segments
            );
            if self.plan.audits {
                instance.is_covered()?;
            }
        }
        let partition = &mut self.partitions[instance.partition];
        partition.ending.push_back((partition.reports, instance.hold));
        let abandoned = said.outcome == "abandoned";
        let instance = &mut self.instances[i];
        if instance.ended.is_none() {
            instance.ended = Some(Status::Abandoned);
        }
        instance.settled = Some(match said.outcome {
            "failed" => "failed",
            _ => "done",
        });
        instance.settled_at = scene.now;
        self.remember(i, abandoned);
        Ok(())
    }

    fn may_fail(&self, scene: &Scene, instance: &Instance, reason: Option<&str>) -> Kept {
        let name = instance.name();
        let Some(reason) = reason else { return Err(Broken(format!("I1: {name} failed without a reason"))) };
        hold!(!instance.is_whole || reason != "channel-refused-93002", "{name} failed for the rule");
        hold!(!self.plan.must_deliver || instance.headless, "{name} failed with {reason:?}, and nothing may");
        let allowed = match reason {
            "headless" => instance.headless,
            "not-reconciled" => {
                let left_out = instance.tokens.as_ref().is_some_and(|tokens| tokens.leaves_out());
                self.plan.when == ReconcileWhen::Never && (instance.tainted || left_out || instance.is_whole)
            }
            "limit" => self.crowded,
            "changed-by-other" => instance.is_others,
            "input-lost" => self.plan.odds.of(super::fault::Fault::InputLost) > 0,
            reason if reason.starts_with("refused-") => instance.refusals >= self.plan.attempts,
            reason if reason.starts_with("channel-refused-") => {
                let since = instance.channel_refused.unwrap_or(scene.now);
                scene.now - since >= 600 * super::scene::SECOND
            }
            _ => false,
        };
        hold!(allowed, "R4: {name} failed with {reason:?}, for which there is no cause");
        self.are_told(scene, instance, reason)
    }
}

impl Instance {
    fn operation_said(&mut self, said: &Said<'_>) -> Kept {
        let name = self.name();
        let (Some(op), Some(seq), Some(cause)) = (said.op, said.op_seq, said.cause) else {
            return Err(Broken(format!("{name}: a record of an operation without op, opSeq or cause")));
        };
        let told = self.outcomes.get(seq as usize).copied().flatten();
        hold!(self.kinds.get(seq as usize) == Some(&op), "{name}: the record says that operation {seq} was {op:?}");
        // Whether that is in doubt depends on whether messages are changed.
        let is_told = told == Some(said.outcome) || (told == Some("unnamed") && said.outcome != "rejected");
        hold!(is_told, "{name}: operation {seq} was {told:?}, the record says {}", said.outcome);
        hold!(self.records.iter().all(|other| other.seq != seq), "I4: {name}: two records of operation {seq}");
        let (first, last) = (said.covered.first, said.covered.last);
        hold!(first <= last + 1, "I5: {name}: operation {seq} covers {first} to {last}");
        self.records.push(Recorded { seq, cause, acked: said.outcome == "acked", first, last });
        Ok(())
    }

    /// I6: the counts are the sums over the records of the operations.
    fn sums_up(&self, said: &Said<'_>, audited: bool) -> Kept {
        let name = self.name();
        let outcomes = |word: &str| self.outcomes.iter().filter(|outcome| **outcome == Some(word)).count();
        let counted = [said.operations, said.rejected, said.unknown, said.repairs, said.reopened];
        let operations = self.operations as usize;
        let unknown = outcomes("unknown");
        let unnamed = unknown..=unknown + outcomes("unnamed");
        let unknown = said.unknown.map(|n| n as usize).filter(|n| unnamed.contains(n)).unwrap_or(unknown);
        let expected = [operations, outcomes("rejected"), unknown, self.updates as usize, self.reopened as usize];
        hold!(!audited || self.records.len() == operations, "I6: {name}: an operation has no record");
        hold!(
            counted.iter().zip(expected).all(|(counted, expected)| counted.map(|n| n as usize) == Some(expected)),
            "I6: {name}: operations, rejected, unknown, repairs, reopened are {counted:?}, not {expected:?}"
        );
        if self.suspect && said.outcome == "failed" {
            return Ok(());
        }
        let tokens = self.token_offsets.len() as u64;
        hold!(said.tokens == tokens, "I6: {name}: {} tokens, not {tokens}", said.tokens);
        let span = (said.covered.first, said.covered.last);
        hold!(span == (self.first, self.last), "I6: {name}: covers {span:?}, not {:?}", (self.first, self.last));
        hold!(said.bytes == self.text.len(), "I6: {name}: {} bytes, not {}", said.bytes, self.text.len());
        let hash = Sha256::digest(self.text.as_bytes());
        let is_hex = said.text_sha256.is_some_and(|hex| {
            hex.len() == 64
                && hex.bytes().zip(0..).all(|(digit, n): (u8, usize)| {
                    let half = if n % 2 == 0 { hash[n / 2] >> 4 } else { hash[n / 2] & 15 };
                    char::from_digit(u32::from(half), 16) == Some(char::from(digit))
                })
        });
        hold!(is_hex, "I6: {name}: the hash is not that of its text");
        Ok(())
    }

    /// Whether its message shows all of its text, and says that it has ended.
    fn is_done(&self) -> bool {
        let is_shown = self.terminal_sent && self.sent == self.text.len();
        is_shown && !self.tainted && self.serial.is_some()
    }

    /// I5: ranges of what streamed are disjoint and rising, and every token is covered by something that was taken.
    fn is_covered(&self) -> Kept {
        let name = self.name();
        let mut records: Vec<_> = self.records.iter().collect();
        records.sort_unstable_by_key(|record| record.seq);
        let mut next = i64::MIN;
        for record in records.iter().filter(|record| record.cause != Why::Repair && record.first <= record.last) {
            hold!(record.first >= next, "I5: {name}: operation {} covers {} again", record.seq, record.first);
            next = record.last + 1;
        }
        let taken: Vec<_> = records.iter().filter(|record| record.acked).collect();
        for offset in &self.token_offsets {
            let covered = taken.iter().any(|record| (record.first..=record.last).contains(offset));
            hold!(covered, "I5: {name}: nothing that was taken covers the token at {offset}");
        }
        Ok(())
    }

    fn ever_failed(&self) -> bool {
        self.outcomes.iter().any(|outcome| !matches!(outcome, Some("acked" | "unnamed")))
    }
}
