//! What the pipeline hands to the writer at once: keys and values in one buffer, which goes round.

use std::ops::Range;
use std::sync::Arc;

use rdkafka::message::BorrowedMessage;

use super::letter::Letter;
use crate::engine::{Refusal, Report, ReportSeq};

/// A batch with so many bytes takes no more.
pub const BATCH_BYTES_MAX: usize = 1 << 20;

/// One stay of a partition with us: its reports are counted from the stay's first, and what an earlier stay left behind
/// says nothing about this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The partition of the tokens topic, and of the results topic.
    pub partition: i32,
    /// Tells one stay from the next.
    pub life: u32,
}

/// Results and dead letters on their way.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) reports: Vec<Reported>,
    pub(super) letters: Vec<Letter>,
    letter_bytes: usize,
}

/// A result; key and value stand in [`Batch::bytes`].
#[derive(Debug)]
pub(super) struct Reported {
    pub(super) lane: Lane,
    pub(super) seq: ReportSeq,
    pub(super) key: Range<usize>,
    pub(super) value: Range<usize>,
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
    pub(super) traceparent: Option<Arc<str>>,
}

impl Batch {
    /// Where keys and values of reports are written, behind what is there.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Adds a report; its key and value stand in [`Batch::buffer`]. Those of one lane must come in order.
    pub fn report(&mut self, lane: Lane, report: Report) {
        let Report { seq, key, value, fact, traceparent } = report;
        let (kind, outcome) = (fact.kind(), fact.outcome());
        self.reports.push(Reported { lane, seq, key, value, kind, outcome, traceparent });
    }

    /// Adds a record that goes to the dead-letter topic. `detail` must not repeat any of its text.
    pub fn dead_letter(&mut self, lane: Lane, message: &BorrowedMessage<'_>, reason: Refusal, detail: &str) {
        self.letter_bytes += message.key_len() + message.payload_len();
        self.letters.push(Letter::new(lane, message, reason, detail));
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.letters.is_empty()
    }

    /// Whether no more should be put into it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes() >= BATCH_BYTES_MAX
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len() + self.letter_bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.reports.clear();
        self.letters.clear();
        self.letter_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Fact, ResponseOutcome};

    fn report(seq: ReportSeq) -> Report {
        let outcome = ResponseOutcome::Delivered;
        let fact = Fact::Response { outcome, headless: false, gaps: 0, duplicates: 0 };
        Report { seq, key: 1..3, value: 3..6, fact, traceparent: None }
    }

    #[test]
    fn it_is_full_by_bytes() {
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        batch.buffer().resize(BATCH_BYTES_MAX, 0);
        batch.report(Lane { partition: 0, life: 0 }, report(0));
        assert!(batch.is_full());
        batch.clear();
        assert!(batch.is_empty() && !batch.is_full());
    }
}
