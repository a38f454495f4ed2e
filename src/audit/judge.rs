//! Compares what the results claim of a response with what its records say.
//!
//! Nothing is asked of the engine: the rules are written down here once more, from what is promised.

use super::Rules;
use super::claims::{Answered, Operation, Outcome, Verdict};
use super::difference::{Findings, Kind, Place};
use super::life::{End, Life};

/// A response, and where what is wrong with it goes.
pub(super) struct Judge<'a> {
    pub(super) rules: &'a Rules,
    pub(super) partition: i32,
    pub(super) response_id: &'a str,
    /// Results of operations may have been deleted by retention.
    pub(super) weak: bool,
    pub(super) findings: &'a mut Findings,
}

impl Judge<'_> {
    /// Judges one verdict against what came up to its last record.
    pub(super) fn verdict(&mut self, life: &Life, verdict: &Verdict) {
        self.outcome(life, verdict);
        if life.partial {
            return;
        }
        self.offsets(life, verdict);
        // Of what was cut off by an operator's hand, or could not be read, a result knows no text.
        if verdict.hash.is_some() || verdict.outcome.is_on_channel() {
            self.text(life, verdict);
        }
        if self.weak {
            return;
        }
        // After it was abandoned it may have gone on.
        let is_last = verdict.outcome != Outcome::Abandoned;
        let behind = if is_last { life.claim.operations.len() } else { verdict.behind };
        let operations = &life.claim.operations[..behind];
        self.operations(life, verdict, operations);
        if verdict.outcome.is_on_channel() {
            self.coverage(life);
        }
    }

    /// Judges what concerns all results of a life together.
    pub(super) fn life(&mut self, life: &Life) {
        if life.claim.operations.is_empty() && life.claim.verdicts.is_empty() {
            return;
        }
        if life.claim.channel_changes || (!life.partial && life.claim.channel != life.channel) {
            let (is, should) = (&life.claim.channel, &life.channel);
            self.add(life, Kind::ChannelWrong, || format!("results name channel {is}, the records say {should}"));
        }
        if self.rules.exactly_once {
            self.doubles(life);
        }
    }

    fn outcome(&mut self, life: &Life, verdict: &Verdict) {
        let outcome = verdict.outcome;
        let fits = match (outcome, life.end) {
            (Outcome::Failed | Outcome::Skipped, _) | (Outcome::Abandoned, None) => true,
            (Outcome::Cancelled, end) => end == Some(End::Cancelled),
            (Outcome::Delivered | Outcome::Reconciled, end) => {
                matches!(end, Some(End::Complete | End::Error)) && (life.partial || !life.headless)
            }
            (Outcome::Abandoned, Some(_)) => false,
        };
        if !fits {
            let end = match life.end {
                None => "has not ended",
                Some(End::Complete) if life.headless => "has no beginning",
                Some(End::Complete) => "is complete",
                Some(End::Cancelled) => "was cancelled",
                Some(End::Error) => "ended with an error",
            };
            self.add(life, Kind::OutcomeWrong, || format!("the result says {outcome:?}, but the response {end}"));
        }
        if !verdict.has_reason && matches!(outcome, Outcome::Failed | Outcome::Skipped) {
            self.add(life, Kind::ReasonMissing, || format!("the result says {outcome:?} and not why"));
        }
    }

    fn offsets(&mut self, life: &Life, verdict: &Verdict) {
        // What an operator's reset has cut off had been read by nobody to its end.
        let is_cut_off = verdict.outcome == Outcome::Failed && verdict.hash.is_none();
        if (verdict.first, verdict.last) != (life.first, life.last) && !is_cut_off {
            let (is, should) = ((verdict.first, verdict.last), (life.first, life.last));
            let text =
                || format!("the result covers {} to {}, the records are {} to {}", is.0, is.1, should.0, should.1);
            self.add(life, Kind::CoveredWrong, text);
        }
    }

    fn text(&mut self, life: &Life, verdict: &Verdict) {
        let (bytes, hash) = life.text();
        if (verdict.tokens, verdict.bytes) != (life.tokens, bytes) {
            let tokens = life.tokens;
            self.add(life, Kind::TokensWrong, || {
                format!(
                    "the result counts {} tokens of {} bytes, the topic holds {tokens} of {bytes}",
                    verdict.tokens, verdict.bytes
                )
            });
        }
        if verdict.hash != Some(hash) {
            self.add(life, Kind::TextWrong, || "the result's hash is not that of the text".to_owned());
        }
    }

    fn operations(&mut self, life: &Life, verdict: &Verdict, operations: &[Operation]) {
        let operations = distinct(operations);
        let count = |outcome| operations.iter().filter(|operation| operation.outcome == outcome).count();
        let (rejected, unknown) = (count(Answered::Rejected), count(Answered::Unknown));
        let repairs = operations.iter().filter(|operation| operation.is_update).count();
        let said = [verdict.rejected, verdict.unknown, verdict.repairs].map(|count| count as usize);
        let beyond = operations.iter().filter(|operation| operation.seq >= verdict.operations).count();
        // One whose result died with its process has lent its number to the next owner's first.
        let lost = (verdict.operations as usize).saturating_sub(operations.len() - beyond);
        if lost > 0 {
            let said = verdict.operations;
            self.add(life, Kind::OperationMissing, || format!("{lost} of {said} operations have no result"));
        } else if said != [rejected, unknown, repairs] || beyond > 0 {
            let is = operations.len();
            self.add(life, Kind::CountsWrong, || {
                format!(
                    "the result counts {} operations, {} rejected, {} unknown, {} repairs; there are results of {is}, \
                     {rejected}, {unknown}, {repairs}",
                    verdict.operations, said[0], said[1], said[2]
                )
            });
        }
        if verdict.outcome == Outcome::Delivered && rejected + unknown > 0 {
            self.add(life, Kind::OutcomeWrong, || {
                format!("the result says delivered, but {} operations failed", rejected + unknown)
            });
        }
        if self.rules.exactly_once {
            self.order(life, &operations);
        }
    }

    /// Ranges of a stream are apart and rise.
    fn order(&mut self, life: &Life, operations: &[Operation]) {
        let stream = operations.iter().filter(|operation| operation.is_stream);
        let mut stream = stream.filter(|operation| operation.first <= operation.last);
        let Some(mut before) = stream.next() else { return };
        for operation in stream {
            if operation.first <= before.last {
                let (seq, first, last) = (operation.seq, operation.first, before.last);
                self.add(life, Kind::CoveredOverlaps, || {
                    format!("operation {seq} begins at offset {first}, the one before ended at {last}")
                });
            }
            before = operation;
        }
    }

    fn coverage(&mut self, life: &Life) {
        if let Some((first, count)) = life.uncovered {
            self.add_at(life, first, Kind::OffsetUncovered, || {
                format!("{count} of its offsets, from this on, are covered by no operation that was taken")
            });
        }
    }

    fn doubles(&mut self, life: &Life) {
        let mut seqs: Vec<u32> = life.claim.operations.iter().map(|operation| operation.seq).collect();
        seqs.sort_unstable();
        let mut doubled: Vec<u32> = seqs.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        doubled.dedup();
        for seq in doubled {
            let text = || format!("operation {seq} has more than one result");
            self.add(life, Kind::OperationTwice, text);
        }
        let verdicts = &life.claim.verdicts;
        let surplus = (1..verdicts.len()).filter(|&index| !continues(&verdicts[index - 1], &verdicts[index])).count();
        if surplus > 0 {
            self.add(life, Kind::ResponseTwice, || format!("{} results instead of one", surplus + 1));
        }
    }

    /// Adds a difference that is about all of a life.
    pub(super) fn add(&mut self, life: &Life, kind: Kind, detail: impl FnOnce() -> String) {
        self.add_at(life, life.first, kind, detail);
    }

    fn add_at(&mut self, life: &Life, offset: i64, kind: Kind, detail: impl FnOnce() -> String) {
        let response = Some((self.response_id, life.part));
        let place = Place { response, channel: Some(&life.channel), ..Place::at(self.partition, offset) };
        self.findings.add(kind, place, detail);
    }
}

/// Whether a verdict may follow another: the response was abandoned and has opened again.
fn continues(before: &Verdict, after: &Verdict) -> bool {
    before.outcome == Outcome::Abandoned && after.reopened > before.reopened
}

/// By number, each once.
fn distinct(operations: &[Operation]) -> Vec<Operation> {
    let mut operations = operations.to_vec();
    operations.sort_by_key(|operation| operation.seq);
    operations.dedup_by_key(|operation| operation.seq);
    operations
}
