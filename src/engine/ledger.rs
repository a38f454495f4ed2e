//! The ledger of offsets: what may be committed.
//!
//! An offset may be committed when everything below it is accounted for: its response settled and the results durable, its
//! dead letter durable, or nothing owed. Responses overlap, so the watermark is the lowest offset that is still held.
//! Holds are per response and per dead letter, never per token.

use std::collections::{BTreeSet, VecDeque};

use super::effect::ReportSeq;
use super::event::Offset;

/// Keeps the watermark at or below an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hold {
    offset: Offset,
    /// Tells holds on one offset apart.
    number: u64,
}

/// What may be committed.
#[derive(Debug)]
pub(super) struct Ledger {
    /// The first offset that has not been read.
    next: Offset,
    holds: BTreeSet<Hold>,
    /// Holds that end with what has been asked for and is not durable yet.
    settling: BTreeSet<Hold>,
    holds_made: u64,
    dead_letters: VecDeque<(Offset, Hold)>,
    /// Records from the watermark on whose dead letters were asked for.
    letters: Vec<(Offset, Offset)>,
    /// Holds that end when the report of that number is durable; reports are durable in order.
    ending: VecDeque<(ReportSeq, Hold)>,
    reports_made: ReportSeq,
    reports_durable: ReportSeq,
}

impl Ledger {
    /// A ledger for a partition that will be read from `next` on.
    pub(super) fn new(next: Offset) -> Self {
        Self {
            next,
            holds: BTreeSet::new(),
            settling: BTreeSet::new(),
            holds_made: 0,
            dead_letters: VecDeque::new(),
            letters: Vec::new(),
            ending: VecDeque::new(),
            reports_made: 0,
            reports_durable: 0,
        }
    }

    /// A record has been read; offsets rise, but may have holes.
    pub(super) fn read(&mut self, offset: Offset) {
        assert!(offset >= self.next, "offset {offset} was read twice: {} was expected", self.next);
        self.next = offset + 1;
    }

    /// What is below `offset` will never be read.
    pub(super) fn pass(&mut self, offset: Offset) {
        self.next = self.next.max(offset);
    }

    /// Keeps the watermark at or below `offset` until released.
    pub(super) fn hold(&mut self, offset: Offset) -> Hold {
        let hold = Hold { offset, number: self.holds_made };
        self.holds_made += 1;
        self.holds.insert(hold);
        hold
    }

    /// A hold ends once the newest report is durable.
    pub(super) fn release_with_last_report(&mut self, hold: Hold) {
        assert!(self.reports_made > 0, "a response cannot settle without a report");
        self.holds.remove(&hold);
        self.settling.insert(hold);
        self.ending.push_back((self.reports_made - 1, hold));
    }

    /// Keeps the watermark at or below `offset` until its dead letter is durable.
    pub(super) fn hold_dead_letter(&mut self, offset: Offset) {
        let hold = self.hold(offset);
        self.holds.remove(&hold);
        self.settling.insert(hold);
        self.dead_letters.push_back((offset, hold));
        self.note_letter(offset);
    }

    /// The dead letter of `offset` is durable. Telling it twice does no harm.
    pub(super) fn dead_letter_durable(&mut self, offset: Offset) {
        if let Some(position) = self.dead_letters.iter().position(|(held, _)| *held == offset)
            && let Some((_, hold)) = self.dead_letters.remove(position)
        {
            self.settling.remove(&hold);
        }
    }

    /// The next report's number.
    pub(super) fn next_report(&mut self) -> ReportSeq {
        let seq = self.reports_made;
        self.reports_made += 1;
        seq
    }

    /// Every report up to and including `seq` is durable.
    pub(super) fn durable(&mut self, seq: ReportSeq) {
        self.reports_durable = self.reports_durable.max(seq + 1);
        while self.ending.front().is_some_and(|(after, _)| *after <= seq) {
            if let Some((_, hold)) = self.ending.pop_front() {
                self.settling.remove(&hold);
            }
        }
    }

    /// Whether every report that was asked for is durable.
    pub(super) fn is_durable(&self) -> bool {
        self.reports_durable >= self.reports_made
    }

    /// What may be committed: everything below is accounted for.
    pub(super) fn watermark(&self) -> Offset {
        let settling = self.settling.first().map_or(self.next, |hold| hold.offset);
        self.watermark_once_durable().min(settling)
    }

    /// What may be committed together with all that has been asked for.
    pub(super) fn watermark_once_durable(&self) -> Offset {
        self.holds.first().map_or(self.next, |hold| hold.offset)
    }

    /// Owners before us have written the dead letters of these records: ranges with both ends included, rising.
    pub(super) fn inherit_letters(&mut self, letters: Vec<(Offset, Offset)>) {
        self.letters = letters;
    }

    /// Whether the dead letter of a record is written or asked for.
    pub(super) fn has_letter(&self, offset: Offset) -> bool {
        let after = self.letters.partition_point(|(first, _)| *first <= offset);
        after.checked_sub(1).is_some_and(|index| offset <= self.letters[index].1)
    }

    /// The dead letter of a record is asked for; it has none yet.
    fn note_letter(&mut self, offset: Offset) {
        let watermark = self.watermark();
        let below = self.letters.partition_point(|(_, last)| *last < watermark);
        if below > self.letters.len() / 2 {
            self.letters.drain(..below);
        }
        let at = self.letters.partition_point(|(first, _)| *first < offset);
        match at.checked_sub(1).map(|before| &mut self.letters[before]) {
            Some((_, last)) if *last + 1 == offset => *last = offset,
            _ => self.letters.insert(at, (offset, offset)),
        }
    }

    /// Records whose dead letters were asked for: all from the watermark on, and perhaps some below.
    pub(super) fn letters(&self) -> &[(Offset, Offset)] {
        &self.letters
    }

    /// Of these, those before the first that is not durable.
    pub(super) fn letters_durable(&self) -> Vec<(Offset, Offset)> {
        let end = self.dead_letters.front().map_or(Offset::MAX, |(offset, _)| *offset);
        let durable = self.letters.iter().filter(|(first, _)| *first < end);
        durable.map(|(first, last)| (*first, (*last).min(end - 1))).collect()
    }

    /// The first offset that has not been read.
    pub(super) fn next(&self) -> Offset {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watermark_waits_for_the_oldest_response_and_its_reports() {
        let mut ledger = Ledger::new(10);
        ledger.read(10);
        let first = ledger.hold(10);
        ledger.read(11);
        let second = ledger.hold(11);
        ledger.read(14);
        assert_eq!(ledger.watermark(), 10);

        ledger.next_report();
        ledger.release_with_last_report(second);
        ledger.durable(0);
        assert_eq!(ledger.watermark(), 10, "the older one is still open");

        ledger.next_report();
        ledger.release_with_last_report(first);
        assert_eq!(ledger.watermark(), 10, "its report is not durable");
        ledger.durable(1);
        assert_eq!(ledger.watermark(), 15);
    }

    #[test]
    fn letters_of_owners_before_us_are_told_on_before_they_are_read_again() {
        let mut ledger = Ledger::new(0);
        ledger.inherit_letters(vec![(2, 3), (7, 7)]);
        assert_eq!(ledger.letters(), [(2, 3), (7, 7)]);
        ledger.read(4);
        assert!(!ledger.has_letter(4) && ledger.has_letter(3) && ledger.has_letter(7));
        ledger.hold_dead_letter(4);
        ledger.read(5);
        ledger.hold(5);
        ledger.read(6);
        ledger.hold_dead_letter(6);
        assert_eq!(ledger.letters(), [(2, 4), (6, 6), (7, 7)]);
    }

    #[test]
    fn a_dead_letter_holds_until_it_is_durable() {
        let mut ledger = Ledger::new(0);
        for offset in 0..3 {
            ledger.read(offset);
            ledger.hold_dead_letter(offset);
        }
        ledger.dead_letter_durable(1);
        assert_eq!(ledger.watermark(), 0);
        ledger.dead_letter_durable(0);
        ledger.dead_letter_durable(0);
        assert_eq!(ledger.watermark(), 2);
        ledger.dead_letter_durable(2);
        assert_eq!(ledger.watermark(), 3);
    }
}
