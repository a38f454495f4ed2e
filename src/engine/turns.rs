//! Turns: who waits until something may be tried in a namespace, or more is known of it.
//!
//! Where messages cannot be changed every response waits there for as long as it goes on. So they stand in lines and have no
//! timers of their own: when something may be tried, one of a line is asked, and more only if that one does not try; when it
//! becomes known that changes are taken, all are.

use std::collections::BTreeMap;

use super::Engine;
use super::effect::Effects;
use super::flow::{NamespaceKey, Takes, Trial};
use super::next::Next;
use super::op::OpKind;
use super::response::Response;
use super::shared::Shared;
use super::slots::SlotId;
use super::time::Time;

/// How many are asked at once, at most: the rest is asked at once after what has come meanwhile.
const ASKED_MAX: usize = 1_000;

/// A place in a line: for what it waits, and how many came before.
pub(super) type Turn = (NamespaceKey, Trial, u64);

/// The lines of an engine.
#[derive(Debug, Default)]
pub(super) struct Turns {
    lines: BTreeMap<Turn, SlotId>,
    came: u64,
    /// What was known of namespaces when they were last looked at, as a number.
    seen: u64,
    /// When something may be tried that somebody waits for.
    due: Option<Time>,
}

impl Turns {
    /// When somebody is to be asked.
    pub(super) const fn due(&self) -> Option<Time> {
        self.due
    }

    /// Whether more is known than those who wait have heard.
    pub(super) fn lag(&self, news: u64) -> bool {
        self.seen != news && !self.lines.is_empty()
    }

    pub(super) fn leave(&mut self, turn: Option<Turn>) {
        turn.and_then(|turn| self.lines.remove(&turn));
    }

    fn due_by(&mut self, time: Option<Time>) {
        self.due = self.due.into_iter().chain(time).min();
    }
}

impl Engine {
    /// What a response wants now; none if nothing, before all that a former owner had read has been read again.
    pub(super) fn wanted(&mut self, now: Time, id: SlotId, shared: &mut Shared) -> Option<Next> {
        let takes = self.takes(now, self.responses.get(id)?, shared);
        let response = self.responses.get_mut(id).filter(|response| !response.waiting)?;
        if response.waits_for_all(takes)
            && let Some(room) = response.room(shared)
        {
            response.fix_limit(room);
        }
        response.look_for_cut();
        let policy = &self.settings.reconcile;
        let next = response.next(now, policy, takes);
        let does = matches!(next, Next::Send(_) | Next::Reload | Next::Look);
        // What it would not do without a trial is one, or leads to it: nobody else is to begin with that meanwhile.
        if does && takes.is_whole() && next != response.next(now, policy, takes.untried()) {
            shared.flow.claim(now, response.channel, &mut response.claim);
        }
        Some(match next {
            // The next owner need not begin anew for a last word.
            _ if self.draining && response.lacks_last_word() => Next::Settle,
            // Who cannot write yet does not look yet: it would not see what is there then.
            Next::Look if !shared.flow.is_up(response.channel) => Next::Send(OpKind::Update),
            next => next,
        })
    }

    /// What the channel of a response takes. Who is about to leave tries nothing.
    pub(super) fn takes(&self, now: Time, response: &Response, shared: &Shared) -> Takes {
        match self.settings.whole {
            false => Takes::Changes,
            true if response.per_token.is_some() => Takes::Changes,
            true if self.draining => shared.flow.takes(now, response.channel, response.claim).untried(),
            true => shared.flow.takes(now, response.channel, response.claim),
        }
    }

    /// A response waits until that may be tried.
    pub(super) fn line_up(&mut self, id: SlotId, trial: Trial, shared: &Shared) {
        let Some(response) = self.responses.get_mut(id) else { return };
        let namespace = shared.flow.namespace(response.channel);
        if response.turn.is_some_and(|(known, for_that, _)| (known, for_that) == (namespace, trial)) {
            return;
        }
        self.turns.leave(response.turn);
        self.turns.came += 1;
        let turn = (namespace, trial, self.turns.came);
        response.turn = Some(turn);
        self.turns.lines.insert(turn, id);
        self.turns.due_by(shared.flow.tried_from(namespace, trial));
    }

    /// A response does not wait for that any more.
    pub(super) fn leave_line(&mut self, id: SlotId) {
        let Some(response) = self.responses.get_mut(id) else { return };
        self.turns.leave(response.turn.take());
    }

    /// Asks those whose turn it is.
    pub(super) fn take_turns(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        let is_due = self.turns.due.is_some_and(|due| due <= now);
        if self.draining || !(is_due || self.turns.lag(shared.flow.news())) {
            return;
        }
        (self.turns.seen, self.turns.due) = (shared.flow.news(), None);
        let mut left = ASKED_MAX;
        let mut first = self.turns.lines.first_key_value().map(|(turn, _)| *turn);
        while let Some((namespace, trial, _)) = first {
            self.ask(now, (namespace, trial), &mut left, shared, effects);
            first = self.turns.lines.range((namespace, trial, u64::MAX)..).next().map(|(turn, _)| *turn);
        }
    }

    /// Asks those of one line, as long as one may try. Who stands in it again thereafter has had its turn.
    fn ask(
        &mut self,
        now: Time,
        (namespace, trial): (NamespaceKey, Trial),
        left: &mut usize,
        shared: &mut Shared,
        effects: &mut Effects,
    ) {
        let line = (namespace, trial, 0)..=(namespace, trial, self.turns.came);
        while let Some((_, id)) = self.turns.lines.range(line.clone()).next().map(|(turn, id)| (*turn, *id)) {
            if !shared.flow.lets_try(now, namespace, trial) {
                return self.turns.due_by(shared.flow.tried_from(namespace, trial));
            }
            if *left == 0 {
                return self.turns.due_by(Some(now));
            }
            *left -= 1;
            self.leave_line(id);
            self.advance(now, id, shared, effects);
        }
        if self.turns.lines.range((namespace, trial, 0)..=(namespace, trial, u64::MAX)).next().is_some() {
            self.turns.due_by(shared.flow.tried_from(namespace, trial));
        }
    }
}
