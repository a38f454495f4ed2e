//! What goes out: asks each response what it wants, takes the permits, sends, matches answers, settles.

use super::effect::{Effect, Effects, Found, Latest, LookUp, Notice, ReadBack, Reload};
use super::flow::{NO_RULE, Pipelining, TURN, Wait, Wanted};
use super::inherit::INPUT_LOST;
use super::line::Ticket;
use super::next::{FRAME_OVERHEAD, Next};
use super::op::{ConnectionId, OpId, OpKind, Status};
use super::outcome::{Answer, Class, Outcome, Rejection};
use super::record::ResponseOutcome;
use super::remember::{self, Memory};
use super::response::{InFlight, Response};
use super::settings::ReconcileWhen;
use super::shared::{Shared, Weight};
use super::slots::{Order, SlotId};
use super::time::Time;
use super::{Engine, slot_of};

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Engine {
    /// Does for a response what it wants, until it wants nothing more for now.
    pub(super) fn advance(&mut self, now: Time, id: SlotId, shared: &mut Shared, effects: &mut Effects) {
        let policy = self.settings.reconcile;
        let (mut is_waiting, mut is_in_line) = (false, false);
        loop {
            let Some(next) = self.wanted(now, id, shared) else { return };
            match next {
                Next::Nothing => break,
                Next::At(time) => {
                    self.wake_at(time, id);
                    break;
                }
                Next::Turn(trial) => {
                    self.line_up(id, trial, shared);
                    is_in_line = true;
                    break;
                }
                Next::Reload => {
                    self.reload(id, effects);
                    break;
                }
                Next::LookUp => {
                    self.look_up(id, effects);
                    break;
                }
                Next::Look if self.draining => break,
                Next::Look => self.look(now, id, shared, effects),
                Next::ReadBack => {
                    self.try_read_back(now, id, shared, effects);
                    break;
                }
                Next::Remake => self.change_message(now, id, Response::remake, shared),
                Next::Rewind => self.change_message(now, id, Response::rewind, shared),
                Next::Continue => self.change_message(now, id, Response::next_segment, shared),
                Next::LookBehind => {
                    self.look_behind(id, effects);
                    break;
                }
                Next::Settle => return self.settle(now, id, shared, effects),
                Next::Send(kind) => {
                    if !self.try_send(now, id, kind, shared, effects) {
                        is_waiting = !self.draining;
                        self.wait_with_last_word(now, id);
                        break;
                    }
                }
            }
        }
        if !is_waiting {
            self.stop_waiting_for_budgets(now, id, shared);
        }
        if !is_in_line {
            self.leave_line(id);
        }
        let may_drop_text =
            |response: &Response| response.may_drop_text(policy.when, self.takes(now, response, shared));
        match self.responses.get(id).is_some_and(may_drop_text) {
            true => self.responses.move_to_back(Order::Quiet, id),
            false => self.responses.unlink(Order::Quiet, id),
        }
    }

    /// Sends an operation if it may leave now; otherwise arranges for another try. Whether to go on asking.
    fn try_send(&mut self, now: Time, id: SlotId, kind: OpKind, shared: &mut Shared, effects: &mut Effects) -> bool {
        let Some(takes) = self.responses.get(id).map(|response| self.takes(now, response, shared)) else {
            return false;
        };
        let Some(response) = self.responses.get_mut(id) else { return false };
        if self.draining || self.unannounced || response.blocked {
            return false;
        }
        let channel = response.channel;
        shared.flow.settle_pin(now, channel);
        let pinned = shared.flow.connection(channel);
        if response.connection.is_some_and(|former| former != pinned)
            && response.changes_connection(now, &self.settings)
        {
            return true;
        }
        if !response.fits(now, kind, shared) {
            return true;
        }
        let alone = shared.flow.pipelining(channel) == Pipelining::Off;
        if alone && !response.in_flight.is_empty() {
            self.stop_waiting_for_budgets(now, id, shared);
            return false;
        }
        let charged = alone || shared.flow.counts_frames(channel) || response.is_charged(now, kind);
        let wanted = Wanted { kind, bytes: response.bytes_of(kind), charged, ticket: response.ticket };
        match shared.flow.take(now, channel, wanted) {
            Ok(connection) => {
                (response.ticket, response.connection) = (None, Some(connection));
                if charged {
                    response.charge(now, kind, &self.settings);
                }
                if takes.is_whole() && (kind == OpKind::Update || response.closing().is_none()) {
                    shared.flow.tries(now, channel);
                }
                let seq = response.counts.operations;
                let op = OpId { partition: self.partition, slot: id.index, generation: id.generation, seq };
                let sender = Arc::clone(&self.sender);
                let operation = response.operate(now, kind, op, connection, sender);
                effects.list.extend(operation.map(Effect::Send));
                self.in_flight += 1;
                return true;
            }
            Err((wait, ticket)) => {
                response.ticket = Some(ticket);
                match wait {
                    Wait::Until(time) => self.wake_at(time, id),
                    Wait::Connection(until) => self.block(id, pinned, ticket, until),
                }
            }
        }
        false
    }

    /// An operation has its outcome.
    pub(super) fn answer(&mut self, now: Time, mut answer: Answer, shared: &mut Shared, effects: &mut Effects) {
        let id = slot_of(answer.op);
        let Some(takes) = self.responses.get(id).map(|response| self.takes(now, response, shared)) else { return };
        let Some(response) = self.responses.get_mut(id) else { return };
        let Some(operation) = response.answer(now, &mut answer, takes, &self.settings) else { return };
        self.in_flight -= 1;
        shared.flow.answered(answer.connection, response.channel, operation.bytes + FRAME_OVERHEAD);
        learn(now, response, &operation, &answer, self.settings.whole, shared, effects);
        let reporter = Self::reporter(&self.settings, self.partition, self.sender.epoch, now);
        reporter.operation(self.ledger.next_report(), response, &operation, &answer, &shared.flow, effects);
        if operation.is_whole() && response.given_up.is_none() && matches!(answer.outcome, Outcome::Acked { .. }) {
            response.takeover = None;
        }
        response.forget_if_given_up(shared);
        self.advance(now, id, shared, effects);
        self.pump(now, answer.connection, shared, effects);
    }

    /// A connection was lost and not resumed: what it carried begins with a full text on the next one.
    pub(super) fn moved(&mut self, now: Time, connection: ConnectionId, shared: &mut Shared, effects: &mut Effects) {
        let ids: Vec<_> = self.responses.ids().collect();
        for id in ids {
            let Some(response) = self.responses.get_mut(id) else { continue };
            let pinned = shared.flow.connection(response.channel);
            if pinned == connection || response.connection == Some(connection) {
                response.moved(now, &self.settings);
                self.advance(now, id, shared, effects);
            }
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        while let Some(Reverse((time, id))) = self.timers.peek().copied().filter(|Reverse((time, _))| *time <= now) {
            self.timers.pop();
            if let Some(response) = self.responses.get_mut(id) {
                if response.timer == Some(time) {
                    response.timer = None;
                }
                self.advance(now, id, shared, effects);
            }
        }
        for connection in (0..).take(self.blocked.len()) {
            self.pump(now, connection, shared, effects);
        }
        self.end_idle(now, shared, effects);
    }

    /// Lets the responses that wait for a connection try again, in their order, until the first has to wait on.
    fn pump(&mut self, now: Time, connection: ConnectionId, shared: &mut Shared, effects: &mut Effects) {
        let c = connection as usize;
        if self.blocked.get(c).is_none_or(BTreeMap::is_empty) || self.blocked_until[c].is_some_and(|until| now < until)
        {
            return;
        }
        self.blocked_until[c] = None;
        while let Some((ticket, id)) = self.blocked[c].pop_first() {
            shared.flow.leave_connection(connection, ticket);
            let Some(response) = self.responses.get_mut(id).filter(|response| response.blocked) else { continue };
            response.blocked = false;
            self.advance(now, id, shared, effects);
            if self.blocked[c].contains_key(&ticket) {
                break;
            }
        }
    }

    /// Puts a response into its connection's queue.
    fn block(&mut self, id: SlotId, connection: ConnectionId, ticket: Ticket, until: Option<Time>) {
        let c = connection as usize;
        if self.blocked.len() <= c {
            self.blocked.resize_with(c + 1, BTreeMap::new);
            self.blocked_until.resize(c + 1, None);
        }
        if let Some(response) = self.responses.get_mut(id) {
            response.blocked = true;
        }
        self.blocked[c].insert(ticket, id);
        if self.blocked[c].first_key_value().is_some_and(|(first, _)| *first == ticket) {
            self.blocked_until[c] = until;
        }
    }

    /// A response wants nothing now: those behind it move up.
    pub(super) fn stop_waiting_for_budgets(&mut self, now: Time, id: SlotId, shared: &mut Shared) {
        let Some(response) = self.responses.get_mut(id) else { return };
        let Some(ticket) = response.ticket.take() else { return };
        shared.flow.leave(response.channel, ticket);
        if !std::mem::take(&mut response.blocked) {
            return;
        }
        for (connection, queue) in (0..).zip(&mut self.blocked) {
            if queue.get(&ticket) == Some(&id) {
                let was_first = queue.first_key_value().is_some_and(|(first, _)| *first == ticket);
                queue.remove(&ticket);
                shared.flow.leave_connection(connection, ticket);
                if was_first {
                    self.blocked_until[connection as usize] = (!queue.is_empty()).then(|| now + TURN);
                }
            }
        }
    }

    fn wake_at(&mut self, time: Time, id: SlotId) {
        let Some(response) = self.responses.get_mut(id) else { return };
        if response.timer.is_none_or(|earlier| time < earlier) {
            response.timer = Some(time);
            self.timers.push(Reverse((time, id)));
        }
    }

    /// A last word does not wait for ever.
    fn wait_with_last_word(&mut self, now: Time, id: SlotId) {
        let until = self.responses.get_mut(id).and_then(|response| response.last_word_waits(now));
        until.into_iter().for_each(|until| self.wake_at(until, id));
    }

    fn reload(&mut self, id: SlotId, effects: &mut Effects) {
        let op = self.op_id(id, 0);
        let Some(response) = self.responses.get_mut(id) else { return };
        response.reloading = true;
        effects.list.push(Effect::Reload(Box::new(Reload {
            id: op,
            response_id: response.head.response_id.clone(),
            part: response.head.part,
            offsets: (response.span.0, response.dropped_through),
        })));
    }

    fn look_up(&mut self, id: SlotId, effects: &mut Effects) {
        let op = self.op_id(id, 0);
        let Some(response) = self.responses.get_mut(id) else { return };
        response.looking_up = true;
        let since = response.create.sent_at.unwrap_or(response.started_at);
        let (head, known) = (response.head.clone(), Vec::new());
        effects.list.push(Effect::LookUp(Box::new(LookUp { id: op, head, since, known })));
    }

    fn look_behind(&mut self, id: SlotId, effects: &mut Effects) {
        let op = self.op_id(id, 0);
        let Some(response) = self.responses.get_mut(id) else { return };
        response.looking_up = true;
        response.looks_behind();
        let (head, since, known) = (response.head.clone(), response.started_at, response.messages());
        effects.list.push(Effect::LookUp(Box::new(LookUp { id: op, head, since, known })));
    }

    /// Another message becomes the present one of a response; what was finished need not stay in memory.
    fn change_message(&mut self, now: Time, id: SlotId, change: fn(&mut Response, Time), shared: &mut Shared) {
        let Some(response) = self.responses.get_mut(id) else { return };
        let before = Weight::of(response);
        change(response, now);
        shared.usage.change(before, Weight::of(response));
    }

    /// The channel's history has been searched for a message.
    pub(super) fn looked_up(&mut self, now: Time, op: OpId, found: Found, shared: &mut Shared, effects: &mut Effects) {
        let id = slot_of(op);
        let Some(response) = self.responses.get_mut(id).filter(|response| response.looking_up) else { return };
        let rejection = match &found {
            Found::Refused(rejection) => Some(rejection.clone()),
            Found::Message { .. } | Found::Successor { .. } | Found::Nothing | Found::Others | Found::Unreadable => {
                None
            }
        };
        let was = response.verified;
        response.looked_up(now, found, &self.settings);
        effects.list.extend(unverified(response, was, rejection));
        response.forget_if_given_up(shared);
        self.advance(now, id, shared, effects);
    }

    /// Asks for a message to be read back, at the pace that is allowed.
    fn try_read_back(&mut self, now: Time, id: SlotId, shared: &mut Shared, effects: &mut Effects) {
        let Some(response) = self.responses.get(id).filter(|_| !self.draining) else { return };
        let (number, Some(serial)) = (response.counts.operations, response.serial.clone()) else { return };
        let op = self.op_id(id, number);
        let Some(response) = self.responses.get_mut(id) else { return };
        match shared.flow.take_read_back(now) {
            Err(time) => self.wake_at(time, id),
            Ok(()) => {
                response.asked_back(now, number);
                let head = response.head.clone();
                effects.list.push(Effect::ReadBack(Box::new(ReadBack { id: op, head, serial })));
            }
        }
    }

    /// Asks for a message to be looked at, at the pace that is allowed.
    fn look(&mut self, now: Time, id: SlotId, shared: &mut Shared, effects: &mut Effects) {
        let Some(response) = self.responses.get_mut(id) else { return };
        match (shared.flow.take_read_back(now), response.serial.clone()) {
            (Err(time), _) => response.looks_later(now, time),
            (Ok(()), None) => {}
            (Ok(()), Some(serial)) => {
                let (number, head) = (response.looks(now), response.head.clone());
                let id = self.op_id(id, number);
                effects.list.push(Effect::ReadBack(Box::new(ReadBack { id, head, serial })));
            }
        }
    }

    /// A message has been read back.
    pub(super) fn read_back(
        &mut self,
        now: Time,
        op: OpId,
        latest: Latest,
        shared: &mut Shared,
        effects: &mut Effects,
    ) {
        let id = slot_of(op);
        let Some(response) = self.responses.get_mut(id) else { return };
        let rejection = match &latest {
            Latest::Refused(rejection) => Some(rejection.clone()),
            Latest::Message { .. } | Latest::Deleted | Latest::Unreadable => None,
        };
        let was = response.verified;
        response.read_back(now, op.seq, latest, &self.settings);
        effects.list.extend(unverified(response, was, rejection));
        response.forget_if_given_up(shared);
        self.advance(now, id, shared, effects);
    }

    fn settle(&mut self, now: Time, id: SlotId, shared: &mut Shared, effects: &mut Effects) {
        self.stop_waiting_for_budgets(now, id, shared);
        let Some(mut response) = self.remove(id) else { return };
        assert!(response.in_flight.is_empty(), "a response settles with nothing in flight");
        shared.usage.subtract(Weight::of(&response));
        shared.flow.unclaim(response.channel, response.claim.take());
        shared.flow.close(now, response.channel);

        let (outcome, reason) = verdict(&response, self.settings.reconcile.when);
        let reporter = Self::reporter(&self.settings, self.partition, self.sender.epoch, now);
        reporter.response(self.ledger.next_report(), &response, outcome, reason, effects);
        self.ledger.release_with_last_report(response.hold);
        if outcome == ResponseOutcome::Failed {
            let (channel, response_id) = (response.head.channel.clone(), response.head.response_id.clone());
            let reason = reason.unwrap_or_default().into();
            effects.list.push(Effect::Notice(Notice::Failed { channel, response_id, reason }));
        }

        let key = remember::key(&response.head.response_id, response.head.part);
        response.drop_text();
        let through = response.span.1;
        let revival = (outcome == ResponseOutcome::Abandoned).then(|| Memory::Ours(Box::new(response)));
        self.remembered.insert(key, through, revival, self.ledger.next());
    }
}

/// That it will settle without having been read back is said once.
fn unverified(response: &Response, was: Option<bool>, rejection: Option<Rejection>) -> Option<Effect> {
    let is_news = was != Some(false) && response.verified == Some(false);
    let channel = || response.head.channel.clone();
    is_news.then(|| Effect::Notice(Notice::Unverified { channel: channel(), rejection }))
}

/// What an answer says of the channel.
fn learn(
    now: Time,
    response: &Response,
    operation: &InFlight,
    answer: &Answer,
    whole: bool,
    shared: &mut Shared,
    effects: &mut Effects,
) {
    let (channel, kind) = (response.channel, operation.kind);
    let name = || response.head.channel.clone();
    let is_news = match &answer.outcome {
        Outcome::Acked { serial } => {
            shared.flow.accepted(channel, kind);
            match (kind, serial) {
                (OpKind::Create, None) if whole => shared.flow.unnamed(now, channel, operation.sent_at),
                (OpKind::Create, Some(_)) if whole => {
                    shared.flow.named(now, channel);
                    false
                }
                (OpKind::Append | OpKind::Update, _) if whole => {
                    shared.flow.takes_changes(now, channel, operation.sent_at);
                    false
                }
                _ => false,
            }
        }
        Outcome::Unknown(_) => false,
        Outcome::Rejected(rejection) if whole && operation.changes() && rejection.code == NO_RULE => {
            shared.flow.takes_no_changes(now, channel, operation.sent_at)
        }
        // Where changes are not taken for all that is known, it makes no difference why: the channel takes messages that are whole.
        Outcome::Rejected(rejection)
            if whole
                && operation.changes()
                && rejection.class == Class::Channel
                && shared.flow.tries_changes(channel) =>
        {
            let is_news = shared.flow.takes_no_changes(now, channel, operation.sent_at);
            let notice = || Effect::Notice(Notice::Rejected { channel: name(), rejection: rejection.clone() });
            effects.list.extend(is_news.then(notice));
            is_news
        }
        Outcome::Rejected(rejection) => {
            // Credentials that may not change messages hold nobody up where messages need not be changed.
            let is_trial = whole && operation.changes() && shared.flow.tries_changes(channel);
            if rejection.class != Class::Account || !is_trial {
                shared.flow.refused(now, answer.connection, channel, (kind, operation.sent_at), rejection);
            }
            effects.list.push(Effect::Notice(Notice::Rejected { channel: name(), rejection: rejection.clone() }));
            false
        }
    };
    if is_news {
        effects.list.push(Effect::Notice(Notice::Whole { channel: name() }));
    }
}

/// How a response ended, and why if that needs a reason.
fn verdict(response: &Response, when: ReconcileWhen) -> (ResponseOutcome, Option<&str>) {
    if let Some(given_up) = &response.given_up {
        let outcome = if response.skipped { ResponseOutcome::Skipped } else { ResponseOutcome::Failed };
        return (outcome, Some(&given_up.reason));
    }
    if when == ReconcileWhen::Never && response.repair.is_tainted() {
        return (ResponseOutcome::Failed, Some("not-reconciled"));
    }
    if let Some(reason) = response.cut_off {
        return (ResponseOutcome::Failed, Some(reason));
    }
    if response.beginning_lost {
        return (ResponseOutcome::Failed, Some(INPUT_LOST));
    }
    if response.headless {
        return (ResponseOutcome::Failed, Some("headless"));
    }
    let delivered = match response.repair.was_tainted() {
        true => ResponseOutcome::Reconciled,
        false => ResponseOutcome::Delivered,
    };
    match response.end {
        Some(Status::Cancelled) => (ResponseOutcome::Cancelled, None),
        Some(Status::Abandoned) => (ResponseOutcome::Abandoned, None),
        Some(Status::Error) => (delivered, Some("producer-error")),
        Some(Status::Complete | Status::Failed | Status::Streaming | Status::Continued | Status::Superseded) | None => {
            (delivered, None)
        }
    }
}
