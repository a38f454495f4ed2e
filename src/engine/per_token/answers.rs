//! What changes a response whose tokens are messages: answers, and what a former owner has left.

use std::time::Duration;

use super::{FAILURES_MAX, PerToken};
use crate::engine::backoff;
use crate::engine::history::Past;
use crate::engine::op::PublishName;
use crate::engine::outcome::{Class, Rejection};
use crate::engine::reconcile::settling_time;
use crate::engine::response::{InFlight, Response, TOO_LARGE};
use crate::engine::segment::LIMIT_MIN;
use crate::engine::settings::{ReconcileSettings, Settings};
use crate::engine::time::Time;

impl Response {
    /// A publish was taken.
    pub(in crate::engine) fn published(
        &mut self,
        now: Time,
        operation: &InFlight,
        resent: bool,
        policy: &ReconcileSettings,
    ) {
        let (Some(tokens), Some(published)) = (&mut self.per_token, operation.published) else { return };
        self.repair.taken();
        let is_current = tokens.attempt.is_some_and(|attempt| attempt.last == operation.seq);
        match published.name {
            PublishName::Start | PublishName::Token => {
                tokens.failures = 0;
                if resent {
                    tokens.doubtful = true;
                    self.repair.taint(now, policy.debounce);
                }
            }
            // Nobody promises that what was written again was looked at; by its id it can come once more.
            PublishName::ResponseComplete | PublishName::Stop if resent => {
                self.repair.taint(now, policy.debounce);
            }
            PublishName::ResponseComplete if is_current => {
                tokens.attempt = None;
                let Some(round) = &mut tokens.round else { return };
                (round.part, round.from) = (round.part + 1, round.from + operation.bytes);
                if published.completes {
                    (tokens.doubtful, tokens.repaired, tokens.round) = (false, true, None);
                    self.repair.cleaned(now);
                }
            }
            PublishName::Stop if is_current => {
                (tokens.stopped, tokens.attempt) = (true, None);
                self.repair.cleaned(now);
            }
            PublishName::ResponseComplete | PublishName::Stop => {}
        }
    }

    /// A publish was refused.
    pub(in crate::engine) fn publish_refused(
        &mut self,
        now: Time,
        operation: &InFlight,
        rejection: &Rejection,
        settings: &Settings,
    ) {
        let size = self.published_size(operation);
        let (Some(tokens), Some(published)) = (&mut self.per_token, operation.published) else { return };
        let policy = &settings.reconcile;
        let is_piece = matches!(published.name, PublishName::Start | PublishName::Token);
        // What was told may be many times what is taken: what was refused says more.
        let lower = tokens.room.min(size) / 4 * 3;
        if rejection.code == TOO_LARGE && operation.bytes > 0 && lower >= LIMIT_MIN {
            // What left before the room was lowered says nothing new.
            if operation.bytes <= tokens.room {
                (tokens.room, tokens.room_max) = (lower, lower);
            }
            (tokens.round, tokens.attempt) = (None, None);
            if !is_piece {
                return self.repair.failed(now, policy.debounce);
            }
        }
        if is_piece {
            tokens.failed(now, policy.debounce);
            self.repair.taint(now, policy.debounce);
        }
        if !is_piece || rejection.class == Class::Channel {
            self.refused(now, rejection, settings);
        }
    }

    /// What it took of its room.
    fn published_size(&self, operation: &InFlight) -> usize {
        let is_token = operation.published.is_some_and(|published| published.name == PublishName::Token);
        let tokens = self.per_token.as_ref().filter(|_| is_token);
        let further = tokens.map_or(0, |tokens| self.further(tokens));
        operation.bytes + further * (operation.tokens as usize).saturating_sub(1)
    }

    /// Nobody knows what became of a publish.
    pub(in crate::engine) fn publish_unknown(&mut self, now: Time, operation: &InFlight, settings: &Settings) {
        let (Some(tokens), Some(published)) = (&mut self.per_token, operation.published) else { return };
        let wait = settling_time(settings.reconcile.debounce, settings.append_rollup);
        match published.name {
            PublishName::Start | PublishName::Token => {
                tokens.failed(now, wait);
                self.repair.taint(now, wait);
            }
            PublishName::ResponseComplete | PublishName::Stop => self.repair.failed(now, wait),
        }
    }

    /// Takes in what is known of it from before. What any operation has carried is not sent as tokens again.
    pub(in crate::engine) fn inherit_publishes(&mut self, now: Time, past: &Past, settings: &Settings) {
        let is_taken_over = self.takeover.is_some();
        let Some(tokens) = &mut self.per_token else { return };
        tokens.started = past.operations > 0;
        tokens.repaired = past.repairs > 0;
        self.through = past.span.map(|(_, last)| last);
        if past.ever_tainted {
            self.repair.taint(now, settings.reconcile.debounce);
            self.repair.cleaned(now);
        }
        if past.tainted || is_taken_over {
            tokens.doubtful = true;
            self.repair.taint(now, settings.reconcile.debounce);
        }
    }
}

impl PerToken {
    /// Tokens were not taken, or may not have been.
    fn failed(&mut self, now: Time, wait: Duration) {
        self.doubtful = true;
        self.failures += 1;
        if let Some(beyond) = self.failures.checked_sub(FAILURES_MAX).filter(|beyond| *beyond > 0) {
            self.not_before = now + backoff::delay(wait, beyond);
        }
    }
}
