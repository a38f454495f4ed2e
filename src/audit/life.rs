//! One life of one part of a response, recomputed from its records: from its first event to the one that ends it.
//!
//! Of its text only length and hash are kept. What the results claim of it is known before the first record is read, so
//! coverage is looked up as the offsets go by, and a hash is taken wherever a result says that the response was over.

use sha2::{Digest, Sha256};

use super::claims::{Answered, Claim, Verdict};
use crate::engine::{Event, EventKind};

/// How a response was ended by its producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Complete,
    Cancelled,
    Error,
}

/// One life of one part of a response, so far.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) part: u32,
    pub(super) first: i64,
    pub(super) last: i64,
    /// Time of its first record, in milliseconds since the Unix epoch.
    pub(super) began: Option<i64>,
    pub(super) channel: Box<str>,
    pub(super) tokens: u64,
    pub(super) end: Option<End>,
    /// Its beginning is not in the topic.
    pub(super) headless: bool,
    /// It began before the range: nothing of its text can be known.
    pub(super) partial: bool,
    pub(super) claim: Claim,
    /// Verdicts that have been judged.
    pub(super) judged: usize,
    /// The first event after it was abandoned.
    pub(super) resumed: Option<i64>,
    /// The first offset that no operation covers, and how many there are.
    pub(super) uncovered: Option<(i64, u64)>,
    text: Text,
    /// What the producer says the text is.
    final_text: Option<Text>,
    /// What operations that were taken cover, in order and apart.
    covered: Vec<(i64, i64)>,
    covered_at: usize,
}

#[derive(Debug, Clone, Default)]
struct Text {
    bytes: u64,
    hash: Sha256,
}

impl Text {
    fn add(&mut self, text: &str) {
        self.bytes += text.len() as u64;
        self.hash.update(text);
    }
}

impl Life {
    /// One that begins with an event at `offset`, and what the results claim of it.
    pub(super) fn new(event: &Event<'_>, offset: i64, began: Option<i64>, channel: Box<str>, mut claim: Claim) -> Self {
        claim.verdicts.sort_by_key(|verdict| verdict.last);
        Self {
            part: event.part,
            first: offset,
            last: offset,
            began,
            channel,
            tokens: 0,
            end: None,
            headless: event.begins == Some(false),
            partial: false,
            covered: covered(&claim),
            claim,
            judged: 0,
            resumed: None,
            uncovered: None,
            text: Text::default(),
            final_text: None,
            covered_at: 0,
        }
    }

    /// Takes an event in.
    pub(super) fn event(&mut self, event: &Event<'_>, offset: i64) {
        self.last = offset;
        self.look_whether_covered(offset);
        match &event.kind {
            EventKind::Start => {}
            EventKind::Token(text) => {
                self.tokens += 1;
                self.text.add(text);
            }
            EventKind::End { final_text } => {
                self.end = Some(End::Complete);
                self.final_text = final_text.as_ref().map(|text| {
                    let mut whole = Text::default();
                    whole.add(text);
                    whole
                });
            }
            EventKind::Cancel => self.end = Some(End::Cancelled),
            EventKind::Error => self.end = Some(End::Error),
        }
    }

    /// The next verdict that has not been judged, if it says that all was over before `offset`.
    pub(super) fn verdict_before(&self, offset: i64) -> Option<&Verdict> {
        self.claim.verdicts.get(self.judged).filter(|verdict| verdict.last < offset)
    }

    /// Length and SHA-256 of the text.
    pub(super) fn text(&self) -> (u64, [u8; 32]) {
        let text = self.final_text.as_ref().unwrap_or(&self.text);
        (text.bytes, text.hash.clone().finalize().into())
    }

    fn look_whether_covered(&mut self, offset: i64) {
        while self.covered.get(self.covered_at).is_some_and(|(_, last)| *last < offset) {
            self.covered_at += 1;
        }
        if self.covered.get(self.covered_at).is_none_or(|(first, _)| *first > offset) {
            let (_, count) = self.uncovered.get_or_insert((offset, 0));
            *count += 1;
        }
    }
}

/// What operations that were taken cover, joined where they overlap.
fn covered(claim: &Claim) -> Vec<(i64, i64)> {
    let taken = claim.operations.iter().filter(|operation| operation.outcome == Answered::Acked);
    let mut ranges: Vec<_> = taken.map(|operation| (operation.first, operation.last)).collect();
    ranges.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if first <= *end => *end = last.max(*end),
            _ if first <= last => joined.push((first, last)),
            _ => {}
        }
    }
    joined
}
