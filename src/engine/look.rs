//! Looking before writing: what somebody else has made of a message is left to them.
//!
//! A message that a former owner has written, or that refuses what is ours, may have been changed or deleted by somebody else
//! meanwhile; a full text would wipe that out. So it is read first, and if it shows a version that is nobody's of us the
//! response fails, and nothing more is written to that message. Whose a version is stands in its metadata: see
//! `ably::history`.
//!
//! Reads lag, fail, and wait for their turn, and a takeover must not become slow for that: who cannot look within a short while
//! goes on without. What is read back before the response settles shows the same then, only later.

use std::time::Duration;

use super::backoff;
use super::effect::Latest;
use super::flow::TURN;
use super::next::Next;
use super::response::Response;
use super::settings::{ReconcileSettings, Verify};
use super::time::Time;

/// How long a message is waited for that is to be looked at.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// Reads are eventually consistent: how soon one that says nothing of use is repeated at first.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Why a response fails whose message somebody else has changed.
const CHANGED: &str = "changed-by-other";

/// A look at a message before it is written.
#[derive(Debug, Clone, Default)]
pub(super) struct Look {
    wanted: bool,
    /// Until when it is waited for; none before it was tried.
    until: Option<Time>,
    not_before: Time,
    /// Reads that said nothing of use.
    in_vain: u32,
    /// The number of the read that is under way.
    asked: Option<u32>,
    /// How many reads there were.
    reads: u32,
}

impl Response {
    /// Its message is to be looked at before it is written again.
    pub(super) fn look_first(&mut self, now: Time, policy: &ReconcileSettings) {
        if policy.verify != Verify::Never && self.per_token.is_none() {
            self.want_look(now);
        }
    }

    fn want_look(&mut self, now: Time) {
        let look = self.look.get_or_insert_default();
        let is_under_way = look.wanted && look.until.is_none_or(|until| now < until);
        if !is_under_way {
            **look = Look { wanted: true, reads: look.reads, ..Look::default() };
        }
    }

    /// It has turned to another message, which is looked at if it is in doubt.
    pub(super) fn look_if_in_doubt(&mut self, now: Time) {
        if self.check.is_some() {
            self.want_look(now);
        }
    }

    /// Another message takes the place of its present one: no answer is waited for.
    pub(super) fn look_away(&mut self) {
        if let Some(look) = &mut self.look {
            **look = Look { reads: look.reads, ..Look::default() };
        }
    }

    /// What it wants before its message is written, which is due at `due`; none if nothing.
    pub(super) fn next_look(&self, now: Time, due: Time) -> Option<Next> {
        let look = self.look.as_ref().filter(|look| look.wanted && self.serial.is_some())?;
        let early = due.since(now).saturating_sub(PATIENCE);
        match look.until {
            Some(until) if now >= until => None,
            Some(until) if look.asked.is_some() => Some(Next::At(until)),
            Some(until) if now < look.not_before => Some(Next::At(look.not_before.min(until))),
            // What is seen long before it is written says little.
            None if !early.is_zero() => Some(Next::At(now + early)),
            Some(_) | None => Some(Next::Look),
        }
    }

    /// It is about to be looked at: the number of the read. Numbers are counted down, so that none is an operation's.
    pub(super) fn looks(&mut self, now: Time) -> u32 {
        let look = self.look.get_or_insert_default();
        look.until.get_or_insert(now + PATIENCE);
        look.reads += 1;
        let number = u32::MAX - look.reads;
        look.asked = Some(number);
        number
    }

    /// It cannot be looked at before then.
    pub(super) fn looks_later(&mut self, now: Time, not_before: Time) {
        let look = self.look.get_or_insert_default();
        look.until.get_or_insert(now + PATIENCE);
        look.not_before = not_before.max(now + TURN);
    }

    /// Takes in what the look has shown. Whether it was one.
    pub(super) fn looked(&mut self, now: Time, number: u32, latest: &Latest) -> bool {
        let Some(look) = &mut self.look else { return false };
        if look.asked.take_if(|asked| *asked == number).is_none() {
            return false;
        }
        match latest {
            Latest::Message { version, .. } if version.as_deref().unwrap_or_default() >= &*self.version => {
                look.wanted = false;
                // What is written next must win over it.
                self.raise_version(version.as_ref());
            }
            Latest::Refused(_) => look.wanted = false,
            Latest::Message { .. } | Latest::Unreadable | Latest::Deleted => {
                look.in_vain += 1;
                look.not_before = now + backoff::delay(LOOK_AGAIN, look.in_vain);
            }
        }
        true
    }

    /// Its message is not ours to write any more.
    pub(super) fn leave_to_others(&mut self) {
        self.give_up_silently(CHANGED);
    }
}
