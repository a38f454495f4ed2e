//! How a transport ends, and how a connection does.
//!
//! A transport that ends takes nothing with it: the session connects again and resumes. A connection that ends takes with
//! it what was unanswered, for good: it is forgotten, so that no later resume can put old appends on top of a repaired text.

use std::time::Duration;

use super::super::fault::{self, Error, Fate};
use super::incoming::Incoming;
use super::{Action, Credentials, Link, STATE_TTL, Session, retry};
use crate::engine::{Answer, Doubt, Outcome, Time};

impl Session {
    /// The server ended the transport (DISCONNECTED) or the connection (ERROR).
    pub(super) fn ended(&mut self, now: Time, frame: &Incoming<'_>, for_good: bool, actions: &mut Vec<Action>) {
        let error = frame.error.as_ref();
        let reason = Error::refused(error);
        let fate = error.map_or(Fate::Again, |error| Fate::of(error.code, error.status_code));
        if self.closing.is_some() {
            return self.stop(actions);
        }
        actions.push(Action::Hangup);
        match fate {
            Fate::Fatal if self.may_be_rolled(error.map(|error| error.code)) => {
                self.credentials = Credentials::Stale;
                self.down_until(now, now, reason, actions);
            }
            Fate::Renew if self.credentials == Credentials::Renewed => self.fatal(now, reason, actions),
            Fate::Fatal if for_good => self.fatal(now, reason, actions),
            Fate::Again | Fate::Fatal => self.down(now, reason, actions),
            Fate::Renew => {
                self.credentials = Credentials::Stale;
                self.down_until(now, now, reason, actions);
            }
            Fate::Slowly => {
                let wait = retry::slow_delay(self.failures, &mut self.random);
                self.down_until(now, now + wait, reason, actions);
            }
        }
    }

    /// Whether a key that has served until now was taken back: another one may have taken its place already.
    fn may_be_rolled(&self, code: Option<u32>) -> bool {
        self.kept.is_some() && self.credentials == Credentials::Good && matches!(code, Some(40131 | 40132))
    }

    /// The transport is gone: connect again at once if it had worked, else after a wait.
    pub(super) fn down(&mut self, now: Time, reason: Error, actions: &mut Vec<Action>) {
        let wait = if matches!(self.link, Link::Up { .. }) {
            Duration::ZERO
        } else {
            self.failures = self.failures.saturating_add(1);
            retry::delay(self.failures, &mut self.random)
        };
        self.down_until(now, now + wait, reason, actions);
    }

    fn down_until(&mut self, now: Time, until: Time, reason: Error, actions: &mut Vec<Action>) {
        let earliest = self.last_attempt.map_or(now, |attempt| attempt + retry::SPACING);
        self.link = Link::Waiting { until: until.max(earliest) };
        actions.push(Action::Down(reason));
        let Some(kept) = &mut self.kept else { return };
        kept.down_since.get_or_insert(now);
        if kept.key.is_none() {
            self.lose(Doubt::ConnectionLost, actions);
        }
    }

    /// Nothing will be accepted until a person changes something; look now and then whether they have.
    pub(super) fn fatal(&mut self, now: Time, reason: Error, actions: &mut Vec<Action>) {
        self.failures = self.failures.saturating_add(1);
        let wait = retry::fatal_delay(&mut self.random);
        self.down_until(now, now + wait, reason.clone(), actions);
        self.lose(Doubt::ConnectionLost, actions);
        self.credentials = Credentials::Stale;
        actions.push(Action::Fatal(reason));
    }

    /// The oldest frame was not answered in time.
    pub(super) fn overdue(&mut self, now: Time, actions: &mut Vec<Action>) {
        let again = self.unanswered.oldest_written().is_some_and(|oldest| oldest.overdue);
        self.unanswered.mark_overdue();
        actions.push(Action::Hangup);
        self.down(now, Error::Overdue(self.settings.ack_timeout), actions);
        if again {
            self.lose(Doubt::ConnectionLost, actions);
        }
    }

    /// It was down for longer than the server keeps it.
    pub(super) fn expired(&mut self, now: Time, actions: &mut Vec<Action>) {
        let ttl = self.kept.as_ref().map_or(STATE_TTL, |kept| kept.ttl);
        if matches!(self.link, Link::Opening { .. }) {
            actions.push(Action::Hangup);
            self.down(now, Error::Expired(ttl), actions);
        }
        self.lose(Doubt::ConnectionLost, actions);
    }

    /// The server says that the connection is over.
    pub(super) fn closed(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.closing.is_some_and(|closing| closing.asked) {
            self.link = Link::Closed;
            self.give_up(Doubt::Stopped, actions);
            return actions.push(Action::Closed);
        }
        actions.push(Action::Hangup);
        self.down(now, Error::TransportLost("closed by the server".to_owned()), actions);
        self.lose(Doubt::ConnectionLost, actions);
    }

    /// What is unanswered must not be written again, whatever became of it: the connection is forgotten, and another begun.
    pub fn abandon(&mut self, now: Time, actions: &mut Vec<Action>) {
        if self.unanswered.size().0 == 0 {
            return;
        }
        if self.closing.is_some() {
            return self.stop(actions);
        }
        if matches!(self.link, Link::Opening { .. } | Link::Up { .. }) {
            actions.push(Action::Hangup);
            self.down(now, Error::Abandoned, actions);
        }
        self.lose(Doubt::ConnectionLost, actions);
    }

    /// The end, whatever is unanswered.
    pub(super) fn stop(&mut self, actions: &mut Vec<Action>) {
        if self.link == Link::Closed {
            return;
        }
        self.link = Link::Closed;
        actions.push(Action::Hangup);
        self.give_up(Doubt::Stopped, actions);
        actions.push(Action::Closed);
    }

    /// Forgets the connection: it will never be resumed.
    pub(super) fn lose(&mut self, doubt: Doubt, actions: &mut Vec<Action>) {
        self.give_up(doubt, actions);
        if self.kept.take().is_some() {
            self.lost = true;
            actions.push(Action::Lost);
        }
    }

    fn give_up(&mut self, doubt: Doubt, actions: &mut Vec<Action>) {
        let (connection, trust_resume) = (self.settings.connection, self.settings.trust_resume);
        self.unanswered.give_up(|frame, was_written| {
            let unknown = Outcome::Unknown(doubt);
            let outcome = if was_written { unknown } else { Outcome::Rejected(fault::never_sent()) };
            let resent = frame.resent && !trust_resume;
            actions.push(Action::Answer(Answer { op: frame.op, connection, outcome, resent }));
        });
    }
}
