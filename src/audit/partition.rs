//! One partition of the tokens topic, read once: every record becomes part of a response, or has a dead letter, or says
//! nothing; and every response is judged as soon as it is over.
//!
//! What is in memory: the claims of the partition's results, until the response that they are of is over; of responses that
//! are open, a hash; of those that are over, eight bytes, so that late events are known as such.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use rdkafka::message::{BorrowedMessage, Message};

use super::channels::{Expected, Text};
use super::claims::{Claim, Claims, Outcome};
use super::difference::{Findings, Kind, Place};
use super::judge::Judge;
use super::letters::{Letters, Reason};
use super::life::{End, Life};
use super::{Counts, Rules};
use crate::decode::Raw;
use crate::engine::Event;
use crate::kafka;

/// Longer ids cannot be relayed.
const RESPONSE_ID_BYTES_MAX: usize = 1_024;

/// Where a partition's range lies, and what is known about it from elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) partition: i32,
    pub(super) range: Range<i64>,
    /// There was something before the range, there is something behind it.
    pub(super) cut: (bool, bool),
    /// Everything below has been settled, says the group.
    pub(super) committed: Option<i64>,
    /// Results and dead letters of records before this time may have been deleted, or were not read.
    pub(super) known_since: Option<i64>,
}

/// A partition while it is read.
pub(super) struct Partition<'a> {
    pub(super) scope: &'a Scope,
    pub(super) rules: &'a Rules,
    pub(super) letters: &'a mut Letters,
    pub(super) findings: &'a mut Findings,
    pub(super) counts: &'a mut Counts,
    /// What is to be found on channels; none if nobody looks.
    pub(super) expected: Option<&'a mut Vec<Expected>>,
    claims: Claims,
    open: HashMap<String, Vec<Life>, RandomState>,
    ended: HashSet<u64, RandomState>,
    hasher: RandomState,
}

impl<'a> Partition<'a> {
    /// One of which nothing has been read, and what the results claim of it.
    pub(super) fn new(
        scope: &'a Scope,
        rules: &'a Rules,
        claims: Claims,
        letters: &'a mut Letters,
        (findings, counts): (&'a mut Findings, &'a mut Counts),
        expected: Option<&'a mut Vec<Expected>>,
    ) -> Self {
        let (open, ended, hasher) = (HashMap::default(), HashSet::default(), RandomState::default());
        Self { scope, rules, letters, findings, counts, expected, claims, open, ended, hasher }
    }

    /// Takes a record in.
    pub(super) fn record(&mut self, message: &BorrowedMessage<'_>) {
        self.counts.records += 1;
        let (offset, time) = (message.offset(), message.timestamp().to_millis());
        let mut events = Vec::new();
        let header = |name: &str| kafka::header(message, name);
        let raw = Raw { key: message.key(), value: message.payload(), header };
        let mut refused = Vec::new();
        match self.rules.decoder.decode(&raw, &mut events) {
            Err(_) => refused.push(Reason::Undecodable),
            Ok(key) => {
                self.counts.absorbed += u64::from(events.is_empty());
                let has_late_letter = self.letters.reason(self.scope.partition, offset) == Some(Reason::AfterEnd);
                for event in &events {
                    refused.extend(self.event(event, key, offset, time, has_late_letter));
                }
            }
        }
        self.letter(message, &refused);
    }

    /// All of it has been read: judges what is still open, and names what speaks of nothing.
    pub(super) fn end(mut self) {
        for (id, lives) in std::mem::take(&mut self.open) {
            for life in lives {
                self.leave_open(&id, life);
            }
        }
        let range = &self.scope.range;
        for (id, claims) in &self.claims.by_id {
            for claim in claims {
                let Some((first, last)) = claim.span else { continue };
                if first >= range.start && last < range.end {
                    let response = Some((&**id, claim.part));
                    let place =
                        Place { response, channel: Some(&claim.channel), ..Place::at(self.scope.partition, first) };
                    self.findings.add(Kind::ResultUnexplained, place, || {
                        format!("results cover offsets {first} to {last}, where no such response is")
                    });
                }
            }
        }
    }

    /// Takes an event in; the reason for which it cannot be relayed, if there is one.
    fn event(
        &mut self,
        event: &Event<'_>,
        key: &str,
        offset: i64,
        time: Option<i64>,
        has_late_letter: bool,
    ) -> Option<Reason> {
        let id = &*event.response_id;
        match id.len() {
            0 => return Some(Reason::NoResponseId),
            1..=RESPONSE_ID_BYTES_MAX => {}
            _ => return Some(Reason::ResponseIdTooLong),
        }
        let mut life = match self.take_open(id, event.part) {
            Some(life) => self.still_open(id, life, offset),
            None => None,
        };
        if life.is_none() {
            life = match self.begin(event, key, offset, time, has_late_letter) {
                Ok(life) => Some(life),
                Err(reason) => return Some(reason),
            };
        }
        let mut life = life?;
        self.counts.events += 1;
        life.event(event, offset);
        match life.end {
            Some(_) => self.finish(id, life),
            None => self.open.entry_ref(id).or_default().push(life),
        }
        None
    }

    fn take_open(&mut self, id: &str, part: u32) -> Option<Life> {
        let lives = self.open.get_mut(id)?;
        let at = lives.iter().position(|life| life.part == part)?;
        Some(lives.swap_remove(at))
    }

    /// Judges the verdicts that say that the life was over before this offset; none if it was over for good.
    fn still_open(&mut self, id: &str, mut life: Life, offset: i64) -> Option<Life> {
        while let Some(verdict) = life.verdict_before(offset) {
            let over = verdict.outcome != Outcome::Abandoned;
            let verdict = verdict.clone();
            self.judge(id, &life).verdict(&life, &verdict);
            life.judged += 1;
            life.resumed = Some(offset);
            if over {
                self.close(id, life, verdict.outcome);
                return None;
            }
        }
        Some(life)
    }

    /// Begins a new life, if the event may begin one.
    fn begin(
        &mut self,
        event: &Event<'_>,
        key: &str,
        offset: i64,
        time: Option<i64>,
        has_late_letter: bool,
    ) -> Result<Life, Reason> {
        let id = &*event.response_id;
        let was_over = self.ended.contains(&self.hasher.hash_one((id, event.part)));
        if has_late_letter && (was_over || self.scope.cut.0) {
            return Err(Reason::AfterEnd);
        }
        let claim = self.take_claim(id, event.part, offset);
        // The relay forgets what was over long ago; then, and only then, results begin anew.
        let is_claimed = |claim: &Claim| claim.span.is_some_and(|(first, _)| first <= offset);
        if was_over && !claim.as_ref().is_some_and(is_claimed) {
            self.give_back(id, claim);
            return Err(Reason::AfterEnd);
        }
        let channel = match self.rules.channel(event.channel.as_deref(), key) {
            Ok(channel) => channel,
            Err(reason) => {
                self.give_back(id, claim);
                return Err(reason);
            }
        };
        let partial =
            claim.as_ref().and_then(|claim| claim.span).is_some_and(|(first, _)| first < self.scope.range.start)
                || (self.scope.cut.0 && claim.is_none() && event.begins != Some(true));
        let mut life = Life::new(event, offset, time, channel.into(), claim.unwrap_or_default());
        life.partial = partial;
        Ok(life)
    }

    /// The claim that covers an offset, else the first one behind it.
    fn take_claim(&mut self, id: &str, part: u32, offset: i64) -> Option<Claim> {
        let claims = self.claims.by_id.get_mut(id)?;
        let behind = claims.iter().enumerate().filter_map(|(at, claim)| {
            let (first, last) = claim.span?;
            (claim.part == part && last >= offset).then_some((first, at))
        });
        let (_, at) = behind.min()?;
        let claim = claims.swap_remove(at);
        if claims.is_empty() {
            self.claims.by_id.remove(id);
        }
        Some(claim)
    }

    fn give_back(&mut self, id: &str, claim: Option<Claim>) {
        if let Some(claim) = claim {
            self.claims.by_id.entry_ref(id).or_default().push(claim);
        }
    }

    /// The event that ends it has come.
    fn finish(&mut self, id: &str, mut life: Life) {
        // It was taken for want of a nearer one.
        if life.claim.span.is_some_and(|(first, _)| first > life.last) {
            let claim = std::mem::take(&mut life.claim);
            self.give_back(id, Some(claim));
        }
        let verdicts: Vec<_> = life.claim.verdicts.drain(life.judged..).collect();
        for verdict in &verdicts {
            self.judge(id, &life).verdict(&life, verdict);
        }
        let outcome = verdicts.last().map(|verdict| verdict.outcome);
        life.claim.verdicts.extend(verdicts);
        match outcome {
            Some(outcome) => self.close(id, life, outcome),
            None => self.without_verdict(id, life),
        }
    }

    /// It has its verdict.
    fn close(&mut self, id: &str, life: Life, outcome: Outcome) {
        self.judge(id, &life).life(&life);
        self.counts.settled += 1;
        self.counts.partial += u64::from(life.partial);
        self.counts.failed += u64::from(outcome == Outcome::Failed);
        self.over(id, life.part);
        let status = if outcome == Outcome::Abandoned { "abandoned" } else { status(life.end) };
        self.expect(id, &life, outcome.is_on_channel().then_some(status));
    }

    /// It has ended and nothing says so: too early to tell, too late to tell, or wrong.
    fn without_verdict(&mut self, id: &str, life: Life) {
        self.over(id, life.part);
        let is_due = self.is_due(life.resumed.unwrap_or(life.first));
        match (is_due, self.is_weak(&life)) {
            (false, _) => self.counts.pending += 1,
            (true, true) => self.counts.unverifiable += 1,
            (true, false) => {
                let mut judge = self.judge(id, &life);
                judge.add(&life, Kind::ResponseMissing, || "it has ended and has no result".to_owned());
                judge.life(&life);
            }
        }
        self.expect(id, &life, is_due.then_some(status(life.end)));
    }

    /// The range is at its end, the life is not, unless it was abandoned.
    fn leave_open(&mut self, id: &str, life: Life) {
        let Some(life) = self.still_open(id, life, self.scope.range.end) else { return };
        if life.resumed == Some(self.scope.range.end) {
            self.judge(id, &life).life(&life);
            self.counts.settled += 1;
            self.expect(id, &life, (!self.scope.cut.1).then_some("abandoned"));
        } else {
            self.counts.open += 1;
            self.expect(id, &life, None);
        }
    }

    /// Notes what should be on its channel; without a status nothing is promised of that.
    fn expect(&mut self, id: &str, life: &Life, status: Option<&'static str>) {
        let Some(expected) = self.expected.as_deref_mut() else { return };
        let status = status.filter(|_| !life.partial);
        expected.push(Expected {
            channel: life.channel.clone(),
            response_id: id.into(),
            part: life.part,
            partition: self.scope.partition,
            first: life.first,
            since: life.claim.since,
            text: status.map(|status| {
                let (bytes, hash) = life.text();
                Text { bytes, hash, status }
            }),
        });
    }

    /// Forgets where a life was that is not open any more.
    fn over(&mut self, id: &str, part: u32) {
        self.ended.insert(self.hasher.hash_one((id, part)));
        if self.open.get(id).is_some_and(Vec::is_empty) {
            self.open.remove(id);
        }
    }

    /// Looks whether a record has the dead letter that it should have, and no other.
    fn letter(&mut self, message: &BorrowedMessage<'_>, refused: &[Reason]) {
        let (partition, offset) = (self.scope.partition, message.offset());
        let letter = self.letters.take(partition, offset);
        let place = Place::at(partition, offset);
        let should = || refused.first().map_or("", |reason| reason.as_str());
        let Some(letter) = letter else {
            if refused.is_empty() || self.letters.take_bare(message) {
                self.counts.letters += u64::from(!refused.is_empty());
            } else if !self.is_due(offset) {
                self.counts.pending += 1;
            } else if self.is_before_what_is_known(message.timestamp().to_millis()) {
                self.counts.unverifiable += 1;
            } else {
                self.findings.add(Kind::LetterMissing, place, || format!("it cannot be relayed: {}", should()));
            }
            return;
        };
        self.counts.letters += 1;
        if !refused.contains(&letter.reason) {
            self.findings.add(Kind::LetterUnexplained, place, || match refused.is_empty() {
                true => format!("it has a dead letter ({}) and could be relayed", letter.reason.as_str()),
                false => format!("its dead letter says {}, it should say {}", letter.reason.as_str(), should()),
            });
        }
        if letter.count > 1 && self.rules.exactly_once {
            self.findings.add(Kind::LetterTwice, place, || format!("it has {} dead letters", letter.count));
        }
        if !letter.is_of(message) {
            self.findings.add(Kind::LetterChanged, place, || "its dead letter holds other bytes".to_owned());
        }
    }

    fn judge<'b>(&'b mut self, response_id: &'b str, life: &Life) -> Judge<'b> {
        let weak = self.is_weak(life);
        Judge { rules: self.rules, partition: self.scope.partition, response_id, weak, findings: self.findings }
    }

    /// Whether what becomes of a record at this offset has to be known by now.
    fn is_due(&self, offset: i64) -> bool {
        self.rules.at_rest || self.scope.committed.is_some_and(|committed| committed > offset)
    }

    fn is_weak(&self, life: &Life) -> bool {
        self.is_before_what_is_known(life.began)
    }

    fn is_before_what_is_known(&self, time: Option<i64>) -> bool {
        self.scope.known_since.is_some_and(|since| time.is_none_or(|time| time < since))
    }
}

/// The header that a message of a response that has ended so bears.
const fn status(end: Option<End>) -> &'static str {
    match end {
        Some(End::Cancelled) => "cancelled",
        Some(End::Error) => "error",
        Some(End::Complete) | None => "complete",
    }
}
