//! Segments: a text that is longer than the server's largest message goes on in further messages.
//!
//! Where a text is cut follows from nothing but the text and a limit that is fixed when the response's first message is made
//! (and stands in the results), so every owner cuts alike. One message is finished, with status `continued`, before the next
//! one is made. When the cuts move (the producer says at the end that the text is another one, or the server takes less than
//! it said) what is on the channel is gone through from the first message on; messages that are left over then are emptied.

mod behind;
mod cut;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::event::Offset;
use super::next::Next;
use super::op::{Head, OpKind, Status};
use super::outcome::Serial;
use super::record::Cut;
use super::response::{Create, InFlight, Response};
use super::settings::{ReconcileSettings, Verify};
use super::time::Time;
use super::verify::Check;
use cut::WINDOW;
pub(super) use cut::cut;

/// A limit below this cannot even hold one code point for sure.
pub(super) const LIMIT_MIN: usize = 4;

/// Limits of two owners differ by less than this factor.
const LIMITS_DIFFER: usize = 16;

/// How soon a history that could not be read is read again at first.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where the present message of a response is in its text, and what other messages there are.
#[derive(Debug, Clone, Default)]
pub(super) struct Segments {
    /// The byte of the text that the present message begins with.
    pub(super) from: usize,
    /// Bytes of text in one message, at the most; none before the first is made.
    pub(super) limit: Option<usize>,
    /// The byte that the next message begins with, once that is known.
    cut: Option<usize>,
    /// The present message is left over.
    surplus: bool,
    /// The text is another one than the messages were made for.
    moved: bool,
    /// Operations from this number on were sent under the limit.
    limit_since: u32,
    others: Option<Box<Others>>,
}

/// What few responses have.
#[derive(Debug, Clone, Default)]
struct Others {
    /// The messages before the present one.
    former: Vec<Made>,
    /// Messages after the present one that are there already.
    beyond: VecDeque<Made>,
    /// Messages that others have taken the place of, by segment.
    replaced: Vec<(u32, Serial)>,
    /// How many messages the text has, once the present one is left over.
    count: u32,
    /// Whether the messages before were read back and right.
    verified: Option<bool>,
    orphans: Option<Orphans>,
    /// Nobody knows what became of a create: there may be two messages of it.
    twins: bool,
    /// When they are looked for again, and how often that was in vain.
    look: (Time, u32),
    /// They are being looked for.
    looking: bool,
}

/// A message that is there.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) head: Arc<Head>,
    /// It was made, or may have been. If not, it takes the place of one that was, and is still to be made.
    pub(super) is_there: bool,
    /// None if no answer has named it.
    pub(super) serial: Option<Serial>,
    pub(super) version: String,
    pub(super) remade: u32,
    pub(super) check: Option<Box<Check>>,
}

/// Where a former owner was in the text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) from: usize,
    pub(super) limit: Option<usize>,
    pub(super) superseded: bool,
}

/// A former owner may have made messages that no result speaks of.
#[derive(Debug, Clone)]
pub(super) struct Orphans {
    /// It has read nothing from here on.
    pub(super) before: Offset,
    /// What is to be looked at in them.
    pub(super) check: Option<Box<Check>>,
    /// Bytes of text that it may have had.
    pub(super) reach: usize,
}

impl Segments {
    fn others(&mut self) -> &mut Others {
        self.others.get_or_insert_default()
    }

    /// Whether messages are told from each other at all.
    pub(super) fn is_one(&self) -> bool {
        self.from == 0 && self.cut.is_none() && !self.surplus
    }

    /// Whether the present message is the last one of the text.
    pub(super) const fn is_surplus(&self) -> bool {
        self.surplus
    }

    /// Where the present message is in the text, once one was made.
    pub(super) fn place(&self) -> Option<Cut> {
        let Self { from, limit, surplus, .. } = *self;
        limit.map(|limit| Cut { from, limit, superseded: surplus })
    }

    /// Takes over what former owners have made besides the present message, which may have been left over already.
    pub(super) fn inherit(&mut self, place: Place, former: Vec<Made>, beyond: VecDeque<Made>) {
        (self.from, self.limit, self.moved) = (place.from, place.limit, place.superseded);
        if !former.is_empty() || !beyond.is_empty() {
            let others = self.others();
            (others.former, others.beyond) = (former, beyond);
        }
    }

    /// Another message takes the place of one of a segment.
    pub(super) fn replaced(&mut self, segment: u32, serial: Option<&Serial>) {
        if let Some(serial) = serial {
            self.others().replaced.push((segment, serial.clone()));
        }
    }

    /// A former owner may have made more than is known.
    pub(super) fn doubt(&mut self, orphans: Orphans) {
        self.others().orphans = Some(orphans);
    }

    /// Nobody knows what became of a create: its message may be there twice in the end, which shows when nothing can land any
    /// more.
    pub(super) fn doubt_twins(&mut self, now: Time, policy: &ReconcileSettings) {
        if policy.verify == Verify::Never {
            return;
        }
        let others = self.others();
        others.twins = true;
        others.look.0 = others.look.0.max(now + policy.late_check);
    }

    /// The text has grown with the record at `offset`.
    pub(super) fn grown(&mut self, offset: Offset, bytes: usize) {
        let orphans = self.others.as_mut().and_then(|others| others.orphans.as_mut());
        if let Some(orphans) = orphans.filter(|orphans| offset < orphans.before) {
            orphans.reach = orphans.reach.max(bytes);
        }
    }
}

impl Response {
    /// Whether its text goes on in another message.
    pub(super) fn is_full(&self) -> bool {
        let Segments { from, limit, surplus, .. } = self.segments;
        !surplus && limit.is_some_and(|limit| self.text.len().saturating_sub(from) > limit)
    }

    /// The status that its present message ends with, if it is known that it ends.
    pub(super) fn closing(&self) -> Option<Status> {
        match self.segments.surplus {
            true => Some(Status::Superseded),
            false if self.is_full() => Some(Status::Continued),
            false => self.end,
        }
    }

    /// The byte of the text up to which its present message may show it. What is close to the limit is held back until it is
    /// known whether it must be cut.
    pub(super) fn shown(&self) -> usize {
        let Segments { from, limit, cut, surplus, .. } = self.segments;
        match (surplus, cut, limit) {
            (true, ..) => from,
            (_, Some(cut), _) => cut,
            (.., Some(limit)) if self.end.is_none() => {
                let sure = from + limit - WINDOW.min(limit / 4);
                match self.text.len() {
                    all if all <= sure => all,
                    // It was held back when it was dropped from memory.
                    _ if self.text.dropped() > sure => self.sent,
                    _ => self.text.floor(sure),
                }
            }
            _ => self.text.len(),
        }
    }

    /// Whether text that its next full text needs is not in memory.
    pub(super) fn lacks_text(&self) -> bool {
        self.text.is_unknown() || self.text.dropped() > self.segments.from
    }

    /// Looks whether it is known by now where its text is cut.
    pub(super) fn look_for_cut(&mut self) {
        if self.segments.cut.is_none() && self.is_full() {
            let Segments { from, limit, .. } = self.segments;
            self.segments.cut = cut(&self.text, from, limit.unwrap_or(usize::MAX));
        }
    }

    /// Fixes how much text one message takes, if it is not fixed yet. Whether that is enough for anything.
    pub(super) fn fix_limit(&mut self, limit: usize) -> bool {
        let limit = *self.segments.limit.get_or_insert(limit);
        self.look_for_cut();
        limit >= LIMIT_MIN
    }

    /// The server has found an operation too large, and takes less than it said. Whether it is worth a try with less text in
    /// one message.
    pub(super) fn lower_limit(&mut self, operation: &InFlight) -> bool {
        if operation.seq < self.segments.limit_since {
            return true;
        }
        let too_many = if operation.kind == OpKind::Append { usize::MAX } else { operation.bytes };
        let lower = self.segments.limit.map_or(0, |limit| (limit / 4 * 3).min(too_many.saturating_sub(1)));
        if lower < LIMIT_MIN {
            return false;
        }
        (self.segments.limit, self.segments.limit_since) = (Some(lower), self.counts.operations);
        self.segments.cut = None;
        self.terminal_sent = false;
        if self.serial.is_none() {
            // It made nothing: the next try is another one.
            self.create.resize();
        }
        true
    }

    /// The producer says that the text is another one.
    pub(super) fn recut(&mut self) {
        self.segments.cut = None;
        let has_others = self.head.segment > 0 || self.segments.others.as_ref().is_some_and(|o| !o.beyond.is_empty());
        self.segments.moved |= has_others;
    }

    /// What former messages hold need not stay in memory.
    pub(super) fn drop_former_text(&mut self) {
        if !self.must_rewind() {
            self.text.drop_before(self.segments.from);
        }
    }

    /// Whether what is on the channel has to be gone through from the first message on.
    pub(super) fn must_rewind(&self) -> bool {
        let lacks_beginning = !self.text.is_unknown() && self.text.len() < self.segments.from;
        self.segments.moved || lacks_beginning
    }

    /// Goes back to the first message.
    pub(super) fn rewind(&mut self, now: Time) {
        let present = self.leave();
        let others = self.segments.others();
        let mut all: VecDeque<Made> = std::mem::take(&mut others.former).into();
        all.extend(present);
        all.append(&mut others.beyond);
        others.beyond = all;
        (self.segments.moved, self.segments.surplus) = (false, false);
        if self.text.dropped() > 0 {
            // What is read again is all of it.
            self.drop_text();
        }
        self.enter(now, 0, 0);
    }

    /// What is done when its present message is finished.
    pub(super) fn next_message(&self, now: Time) -> Next {
        let others = self.segments.others.as_deref();
        let is_left_over = others.is_some_and(|others| !others.beyond.is_empty());
        if self.looking_up {
            return Next::Nothing;
        }
        if self.is_full() || is_left_over {
            return if self.lacks_text() { self.next_reload() } else { Next::Continue };
        }
        let Some(others) = others else { return Next::Settle };
        // Who does not know its own message cannot tell another one from it.
        match (self.may_have_orphans() || others.twins) && (self.serial.is_some() || self.segments.surplus) {
            true if now < others.look.0 => Next::At(others.look.0),
            true => Next::LookBehind,
            false => Next::Settle,
        }
    }

    /// Goes on with the next message: one that is there, or a new one.
    pub(super) fn next_segment(&mut self, now: Time) {
        let from = match (self.segments.surplus, self.segments.cut) {
            (true, _) => self.segments.from,
            (false, Some(cut)) => cut,
            (false, None) => {
                self.segments.others().count = self.head.segment + 1;
                self.segments.surplus = true;
                self.text.len()
            }
        };
        let (verified, segment) = (self.verified.take(), self.head.segment + 1);
        let left = self.leave();
        let others = self.segments.others();
        others.former.extend(left);
        others.verified = both(others.verified, verified);
        self.enter(now, segment, from);
    }

    /// The present message, as one of others.
    fn leave(&mut self) -> Option<Made> {
        self.look_away();
        // One that is not there yet, but takes the place of another: its name may not be used for anything else.
        let is_there = self.is_made();
        let made = is_there || (self.create.remade > 0 && self.create.bytes.is_none());
        let serial = self.serial.take();
        let version = std::mem::take(&mut self.version);
        let (head, remade, check) = (Arc::clone(&self.head), self.create.remade, self.check.take().map(Check::left));
        made.then_some(Made { head, is_there, serial, version, remade, check })
    }

    /// The text goes on from byte `from` in a message that is there, or in a new one.
    fn enter(&mut self, now: Time, segment: u32, from: usize) {
        (self.segments.from, self.segments.cut) = (from, None);
        (self.sent, self.terminal_sent, self.outdated, self.published_at) = (from, false, false, None);
        self.repair.cleaned(now);
        self.text.drop_before(from);
        let others = self.segments.others();
        let prev = others.former.last().and_then(|made| made.serial.clone());
        if let Some(made) = others.beyond.pop_front_if(|made| made.head.segment == segment) {
            self.head =
                if made.head.prev == prev { made.head } else { Arc::new(Head { prev, ..(*made.head).clone() }) };
            (self.serial, self.version, self.check) = (made.serial, made.version, made.check);
            self.create = match made.is_there {
                true => Create { unnamed: self.serial.is_none(), ..Create::answered(made.remade) },
                false => Create { remade: made.remade, ..Create::default() },
            };
            if !made.is_there && self.takeover.is_some() {
                self.doubt_create();
            }
            self.repair.taint(now, Duration::ZERO);
            return self.look_if_in_doubt(now);
        }
        let doubt = others.orphans.clone().filter(|orphans| from <= orphans.reach);
        self.head = Arc::new(self.head.of_segment(segment, prev));
        self.create = Create::default();
        if let Some(orphans) = doubt {
            self.doubt_create();
            self.check = orphans.check;
            self.look_if_in_doubt(now);
        }
    }

    /// Whether its present message is there and is known.
    pub(super) fn has_message(&self) -> bool {
        // Of one that is looked for the serial is not known to be its.
        self.serial.is_some() && !self.gone && !self.create.search
    }

    /// The last message after the present one, or else, if wanted, before it.
    pub(super) fn last_of_others(&self, before: bool) -> Option<(&Arc<Head>, &Serial)> {
        let others = self.segments.others.as_deref()?;
        let named = |made: &'_ Made| made.serial.is_some();
        let former = others.former.iter().filter(|_| before);
        let last = former.chain(&others.beyond).rfind(|made| named(made))?;
        Some((&last.head, last.serial.as_ref()?))
    }

    /// How many messages its text has.
    pub(super) fn count_segments(&self) -> u32 {
        let count = self.segments.others.as_ref().map(|others| others.count);
        count.filter(|_| self.segments.surplus).unwrap_or(self.head.segment + 1)
    }

    /// Whether all of its messages that were to be read back were right.
    pub(super) fn verified(&self) -> Option<bool> {
        both(self.segments.others.as_ref().and_then(|others| others.verified), self.verified)
    }

    /// The serial of its first message.
    pub(super) fn first_serial(&self) -> Option<&Serial> {
        let first = self.segments.others.as_ref().and_then(|others| others.former.first());
        first.map_or(self.serial.as_ref(), |made| made.serial.as_ref())
    }
}

const fn both(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one && other),
        (Some(known), None) | (None, Some(known)) => Some(known),
        (None, None) => None,
    }
}
