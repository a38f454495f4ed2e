//! Messages that are made whole: on channels that take no changes each response is published once, when all of it is there.
//!
//! Nothing is created while a response goes on; what it ends with, or what fills a message, leaves as one create, and is never
//! touched again. A message that was begun before that was known cannot be finished: at the end a new one takes its place, with
//! the whole text, and names it. Whether changes are taken is tried by changing: a message that is all there is sent again as
//! it is, which does no harm if it is taken and none if it is refused.

use std::sync::Arc;
use std::time::Duration;

use super::backoff;
use super::effect::{Found, Latest};
use super::flow::{LOOK_AGAIN, Takes, Trial};
use super::next::Next;
use super::op::OpKind;
use super::outcome::{Answer, Doubt, Outcome, Serial};
use super::reconcile::Due;
use super::response::{Create, InFlight, Response};
use super::search::SEARCHES;
use super::settings::{ReconcileSettings, ReconcileWhen, Settings, Verify};
use super::time::Time;

/// History may lag: how soon a message that was not found there is looked for again at first.
const NAME_AGAIN: Duration = Duration::from_secs(1);

/// What became of a create whose answer names no message: if messages are changed, nobody knows what that is; if not, it need
/// not be known.
pub(super) fn judge_name(answer: &mut Answer, takes: Takes) {
    let is_unnamed = matches!(answer.outcome, Outcome::Acked { serial: None } | Outcome::Unknown(Doubt::NoSerial));
    if is_unnamed {
        answer.outcome = match takes {
            Takes::Changes => Outcome::Unknown(Doubt::NoSerial),
            Takes::Whole(_) => Outcome::Acked { serial: None },
        };
    }
}

impl Response {
    /// Whether its present message was made, for all that is known.
    pub(super) const fn is_made(&self) -> bool {
        self.serial.is_some() || self.create.unnamed
    }

    /// Whether it waits for its end before anything is sent of its present message.
    pub(super) fn waits_for_all(&self, takes: Takes) -> bool {
        takes.is_whole() && self.create.bytes.is_none() && self.closing().is_none()
    }

    /// Whether its present message, which cannot be changed, waits for the end to be made anew.
    fn waits_to_be_remade(&self, takes: Takes) -> bool {
        self.is_made() && self.closing().is_none() && (takes.is_whole() || self.create.unnamed)
    }

    /// What it wants on a channel that takes no changes, as far as is known.
    pub(super) fn next_whole(&self, now: Time, policy: &ReconcileSettings, takes: Takes) -> Next {
        if !self.in_flight.is_empty() || self.looking_up {
            return Next::Nothing;
        }
        if self.is_made() {
            return self.next_of_made(now, policy, takes);
        }
        match self.waits_for_all(takes) && !takes.may_begin() {
            true => Next::Turn(Trial::Create),
            false => self.next_create(now),
        }
    }

    /// Its message is there: as it should be, or else it is made anew at the end.
    fn next_of_made(&self, now: Time, policy: &ReconcileSettings, takes: Takes) -> Next {
        let is_whole = self.is_said() && !self.create.unread;
        let tries = takes.may_change() && self.serial.is_some();
        if is_whole {
            return match self.next_of_whole(now, policy) {
                Next::Settle | Next::Continue if tries && self.lacks_text() => self.next_reload(),
                Next::Settle | Next::Continue if tries => Next::Send(OpKind::Update),
                next => next,
            };
        }
        if policy.when == ReconcileWhen::Never && self.repair.is_tainted() {
            return if self.end.is_some() { Next::Settle } else { Next::Nothing };
        }
        // As long as it goes on it is not finished, whatever its former owner has sent of it.
        if tries && (!self.create.unread || self.closing().is_none()) {
            return self.next_trial(now, policy);
        }
        match self.closing() {
            None => self.next_turn(now, policy),
            Some(_) if self.cut_off.is_some() => Next::Settle,
            Some(_) if now < self.repair.not_before() => Next::At(self.repair.not_before()),
            Some(_) if self.serial.is_none() && self.create.searched < SEARCHES => self.next_name(now),
            Some(_) if self.may_be_whole(policy) => self.next_reading(now),
            Some(_) => self.next_look(now, now).unwrap_or(Next::Remake),
        }
    }

    /// Its message is all there. Others may be that should not: those are replaced only if it was seen to be right itself.
    fn next_of_whole(&self, now: Time, policy: &ReconcileSettings) -> Next {
        let is_surplus = self.segments.is_surplus();
        if self.lacks_name(policy) {
            return self.next_name(now);
        }
        if self.serial.is_none() {
            return self.next_message(now);
        }
        if self.may_be_more() && self.verified.is_none() && !is_surplus && policy.verify != Verify::Never {
            return self.next_reading(now);
        }
        match self.next_check(now, policy) {
            Next::LookBehind if self.verified != Some(true) && !is_surplus => Next::Settle,
            next => next,
        }
    }

    /// Its message is not finished, and goes on: whether it can be changed after all is tried in its turn.
    fn next_turn(&self, now: Time, policy: &ReconcileSettings) -> Next {
        let due = self.repair.due(now, policy.when, false, true);
        match due {
            Due::Now | Due::At(_) if self.serial.is_some() => Next::Turn(Trial::Change),
            Due::Now | Due::At(_) | Due::Later | Due::Never => Next::Nothing,
        }
    }

    /// Its message is not finished, and may be changed after all.
    fn next_trial(&self, now: Time, policy: &ReconcileSettings) -> Next {
        match self.repair.due(now, policy.when, self.end.is_some(), true) {
            Due::Now if self.lacks_text() => self.next_reload(),
            Due::Now => self.next_look(now, now).unwrap_or(Next::Send(OpKind::Update)),
            Due::At(time) => Next::At(time),
            Due::Later | Due::Never => Next::Nothing,
        }
    }

    /// Whether its message, which an owner before us may have made, may show all of its text. If there is text that nobody is
    /// known to have carried, it is made anew in any case.
    fn may_be_whole(&self, policy: &ReconcileSettings) -> bool {
        self.create.unread && self.serial.is_some() && self.sent == self.shown() && policy.verify != Verify::Never
    }

    /// Its message is read, to see whether it shows all of its text.
    fn next_reading(&self, now: Time) -> Next {
        match self.check_pause(now) {
            Some(next) => next,
            None if self.lacks_text() => self.next_reload(),
            None => Next::ReadBack,
        }
    }

    /// Whether it is to be read back, or told from others, and nobody knows which message it is.
    fn lacks_name(&self, policy: &ReconcileSettings) -> bool {
        let is_to_be_read = self.is_unverified() || (policy.verify == Verify::Always && self.verified.is_none());
        let is_wanted = (is_to_be_read || self.may_be_more()) && !self.segments.is_surplus();
        self.serial.is_none() && is_wanted && self.create.searched < SEARCHES
    }

    /// Its message is looked for, to learn which it is.
    fn next_name(&self, now: Time) -> Next {
        if now < self.create.search_from { Next::At(self.create.search_from) } else { Next::LookUp }
    }

    /// Its create was taken.
    pub(super) fn created(
        &mut self,
        now: Time,
        serial: Option<&Serial>,
        resent: bool,
        takes: Takes,
        settings: &Settings,
    ) {
        self.raise_version(serial);
        self.serial = serial.cloned();
        self.create.unnamed = serial.is_none();
        let doubtful = self.create.doubtful || resent;
        // It shows what it was made with, whichever try has made it; but it may have been made by an owner before us.
        // What it repeats of an owner before us need not be all that we are to say.
        let is_whole = takes.is_whole() && self.terminal_sent && !self.has_more_to_send();
        let is_known = !self.create.doubtful || self.takeover.is_none();
        // Who never reads has to believe in what was made anew.
        let is_believed = settings.reconcile.verify == Verify::Never && self.create.remade > 0;
        self.create.unread = takes.is_whole() && !is_known && !is_believed && !self.segments.is_surplus();
        let clean = !self.outdated && (is_whole || (serial.is_some() && !doubtful));
        let wait = self.quiet_time(settings);
        if clean { self.repair.cleaned(now) } else { self.repair.taint(now, wait) }
    }

    /// Takes in the failure of an operation that only matters where messages are changed. Whether it was one.
    pub(super) fn forgives(&mut self, now: Time, operation: &InFlight, refuses_changes: bool) -> bool {
        if operation.repeats {
            self.repair.noted();
        } else if refuses_changes {
            self.repair.taint(now, Duration::ZERO);
        }
        operation.repeats || refuses_changes
    }

    /// Takes in what the channel's history says of its message, of which no answer has said which it is.
    pub(super) fn named(&mut self, now: Time, found: &Found) {
        if let Found::Message { serial, version } = found {
            self.raise_version(Some(serial));
            self.raise_version(version.as_ref());
            self.serial = Some(serial.clone());
            (self.create.unnamed, self.create.found) = (false, true);
            return;
        }
        match found {
            // It is to be replaced, and readers are to know by what.
            Found::Unreadable if !self.is_said() => self.create.search_from = now + LOOK_AGAIN,
            Found::Refused(_) => self.create.searched = SEARCHES,
            Found::Unreadable | Found::Nothing | Found::Others | Found::Message { .. } | Found::Successor { .. } => {
                self.create.searched += 1;
                self.create.search_from = now + backoff::delay(NAME_AGAIN, self.create.searched.into());
            }
        }
        if self.create.searched >= SEARCHES {
            // Where nobody can look, what was made anew is made anew no more.
            self.create.unread &= self.create.remade == 0;
            if self.is_said() {
                self.verified_as(false);
            }
        }
    }

    /// Takes in what a message shows that an owner before us may have made: all of it, or it is made anew.
    pub(super) fn read_whole(&mut self, now: Time, latest: Latest, asked: Time, policy: &ReconcileSettings) {
        let seen = match latest {
            Latest::Message { version, text, status, .. } => {
                self.raise_version(version.as_ref());
                Some(self.closing().is_some_and(|closing| closing.as_str() == status) && self.message_text() == text)
            }
            Latest::Unreadable | Latest::Deleted if self.reads_in_vain(now, policy) => return,
            Latest::Unreadable | Latest::Deleted | Latest::Refused(_) => None,
        };
        self.create.unread = false;
        // Where nobody can read, what was made anew is made anew no more.
        let is_believed = seen.unwrap_or(self.create.remade > 0);
        if !is_believed {
            self.repair.taint(now, Duration::ZERO);
            return self.differs();
        }
        (self.terminal_sent, self.outdated) = (true, false);
        self.repair.cleaned(now);
        match seen {
            Some(_) => self.seen_right(asked),
            None => self.verified_as(false),
        }
    }

    /// Its message is gone, or cannot be finished: a new one is to take its place, with the whole text.
    pub(super) fn remake(&mut self, now: Time) {
        let remade = self.create.remade + 1;
        self.look_away();
        self.segments.replaced(self.head.segment, self.serial.as_ref());
        self.head = Arc::new(self.head.remade(remade, self.serial.take()));
        self.create = Create { remade, ..Create::default() };
        if self.takeover.is_some() {
            // An owner before us may have made it anew, too.
            self.doubt_create();
        }
        self.version.clear();
        self.sent = self.segments.from;
        self.terminal_sent = false;
        self.gone = false;
        self.published_at = None;
        self.repair.taint(now, Duration::ZERO);
    }

    /// Whether its text may be dropped from memory: all of it was taken and nothing is wrong (a change of connection is not,
    /// and may be the last thing that happens for a while), or what is to be sent waits for its end, which may stand behind a
    /// pause.
    pub(super) fn may_drop_text(&self, when: ReconcileWhen, takes: Takes) -> bool {
        if let Some(tokens) = &self.per_token {
            // Tokens without text wait for those that come after them, perhaps behind a pause.
            let is_sent = tokens.is_idle() || self.sent >= self.text.len();
            let is_quiet = self.in_flight.is_empty() && !self.reloading && is_sent;
            return is_quiet && self.end.is_none() && self.text.in_memory() > 0;
        }
        let waits_for_all = self.waits_for_all(takes) || self.waits_to_be_remade(takes);
        let waits_for_end = self.repair.is_tainted() && when != ReconcileWhen::Eager;
        let is_done = !self.repair.is_tainted() && !self.has_more_to_send();
        let is_quiet = self.end.is_none() && self.in_flight.is_empty() && !self.reloading;
        let may_be_dropped = waits_for_all || (self.is_made() && (is_done || waits_for_end));
        is_quiet && may_be_dropped && self.text.in_memory() > 0
    }
}
