//! What comes in from the topic: records, the passing of their time, and the room that their texts take.

use super::effect::{Effect, Effects, Refusal};
use super::event::{Event, Offset, Record};
use super::inherit::INPUT_LOST;
use super::op::{Head, OpId, Status};
use super::remember::{self, Memory};
use super::response::Response;
use super::settings::RESPONSE_ID_BYTES_MAX;
use super::shared::{Shared, Weight};
use super::slots::{Order, SlotId};
use super::time::Time;
use super::{Engine, slot_of};

impl Engine {
    /// A record: all of its events first, then what follows from them, so that one operation carries what one record brings.
    pub(super) fn record(&mut self, now: Time, record: &Record<'_>, shared: &mut Shared, effects: &mut Effects) {
        self.ledger.read(record.offset);
        self.record_time = self.record_time.max(record.time.min(now));
        let mut touched = std::mem::take(&mut self.touched);
        let mut refused = None;
        for event in record.events {
            match self.event(now, record, event, shared, effects) {
                Ok(Some(id)) => touched.push(id),
                Ok(None) => {}
                Err(reason) => refused = Some(reason),
            }
        }
        if let Some(reason) = refused {
            self.dead_letter(record.offset, reason, effects);
        }
        self.look_whether_read(now, shared, effects);
        for id in touched.drain(..) {
            self.advance(now, id, shared, effects);
        }
        self.touched = touched;
    }

    /// A record that no decoder understands: its offset passes through the same ledger.
    pub(super) fn undecodable(&mut self, now: Time, offset: Offset, shared: &mut Shared, effects: &mut Effects) {
        self.ledger.read(offset);
        self.dead_letter(offset, Refusal::Undecodable, effects);
        self.look_whether_read(now, shared, effects);
    }

    fn dead_letter(&mut self, offset: Offset, reason: Refusal, effects: &mut Effects) {
        if self.ledger.has_letter(offset) {
            return;
        }
        self.ledger.hold_dead_letter(offset);
        effects.list.push(Effect::DeadLetter { offset, reason });
    }

    fn event(
        &mut self,
        now: Time,
        record: &Record<'_>,
        event: &Event<'_>,
        shared: &mut Shared,
        effects: &mut Effects,
    ) -> Result<Option<SlotId>, Refusal> {
        match event.response_id.len() {
            0 => return Err(Refusal::NoResponseId),
            1..=RESPONSE_ID_BYTES_MAX => {}
            _ => return Err(Refusal::ResponseIdTooLong),
        }
        let id = match self.find(&event.response_id, event.part) {
            Some(id) => id,
            None => match self.open_response(now, record, event, shared, effects)? {
                Some(id) => id,
                None => return Ok(None),
            },
        };
        let Some(response) = self.responses.get_mut(id).filter(|response| response.takes_events()) else {
            return Err(Refusal::AfterEnd);
        };
        let before = Weight::of(response);
        response.event(now, record, event, &self.settings);
        response.drop_former_text();
        if response.given_up.is_some() {
            response.drop_text();
            response.per_token.iter_mut().for_each(|tokens| tokens.skip());
        }
        shared.usage.change(before, Weight::of(response));
        match response.end {
            None => self.responses.move_to_back(Order::Activity, id),
            Some(_) => self.responses.unlink(Order::Activity, id),
        }
        Ok(Some(id))
    }

    /// A response that is not open: it is new, or abandoned and opens again, or over; none if the record was part of what
    /// is over.
    fn open_response(
        &mut self,
        now: Time,
        record: &Record<'_>,
        event: &Event<'_>,
        shared: &mut Shared,
        effects: &mut Effects,
    ) -> Result<Option<SlotId>, Refusal> {
        if !self.remembered.is_empty() {
            let key = remember::key(&event.response_id, event.part);
            if let Some(through) = self.remembered.through(key) {
                if record.offset <= through {
                    return Ok(None);
                }
                let mut response = match self.remembered.revive(key).ok_or(Refusal::AfterEnd)? {
                    Memory::Ours(response) => *response,
                    Memory::Past(past) => return self.revive(now, record, event, *past, shared).map(Some),
                };
                let channel = shared.flow.open(now, &response.head.channel);
                let hold = self.ledger.hold(record.offset);
                response.reopen(now, channel, hold, &self.settings);
                shared.usage.add(Weight::of(&response));
                return Ok(Some(self.insert(response)));
            }
        }
        if let Some(id) = self.open_inherited(now, record, event, shared)? {
            return Ok(Some(id));
        }
        let channel_name = self.settings.channels.resolve(event.channel.as_deref(), record.key)?;
        let channel = shared.flow.open(now, &channel_name);
        let head = Head {
            channel: channel_name,
            response_id: event.response_id.as_ref().into(),
            part: event.part,
            segment: 0,
            create_id: self.create_id(record.offset, event.part, 0),
            supersedes: None,
            prev: None,
        };
        let hold = self.ledger.hold(record.offset);
        let mut response = Response::new(now, record, event.begins, head, channel, hold);
        response.per_token = self.per_token(event.pattern);
        self.look_for_beginning(event.begins, &mut response);
        if let Some(notice) = self.legacy.is_too_old(record, self.partition) {
            effects.list.extend(notice.map(Effect::Notice));
            response.skipped = true;
            response.give_up_silently("too-old");
        } else if self.legacy.may_have_begun(record.offset) {
            self.legacy.doubt(now, &mut response, &self.settings.reconcile);
        }
        shared.usage.add(Weight::of(&response));
        Ok(Some(self.insert(response)))
    }

    /// Text that had been dropped from memory is here again.
    pub(super) fn reloaded(
        &mut self,
        now: Time,
        op: OpId,
        text: Option<&str>,
        shared: &mut Shared,
        effects: &mut Effects,
    ) {
        let id = slot_of(op);
        let Some(response) = self.responses.get_mut(id) else { return };
        let before = Weight::of(response);
        response.reloading = false;
        let reason = match text {
            // The producer has said in the meantime what the whole text is.
            _ if !response.lacks_text() && response.text.dropped() <= response.sent => None,
            None => Some(INPUT_LOST),
            Some(text) if !response.text.restore(text) => Some("input-changed"),
            Some(_) => {
                response.drop_former_text();
                None
            }
        };
        if let Some(reason) = reason {
            response.give_up(reason);
        }
        if response.given_up.is_some() {
            response.drop_text();
        }
        shared.usage.change(before, Weight::of(response));
        self.advance(now, id, shared, effects);
    }

    /// Idle time passes by the clock only while every record has been read.
    pub(super) fn caught_up(&mut self, now: Time, caught_up: bool, shared: &mut Shared, effects: &mut Effects) {
        self.caught_up_since = caught_up.then(|| self.caught_up_since.unwrap_or(now));
        if caught_up {
            self.all_is_read(now, shared, effects);
        }
    }

    /// Ends responses of which nothing has come for too long.
    pub(super) fn end_idle(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        while let Some(id) = self.responses.first(Order::Activity) {
            let Some(response) = self.responses.get(id).filter(|response| self.is_idle(now, response)) else { return };
            debug_assert!(response.end.is_none(), "only responses that go on are in the order of activity");
            self.end_response(now, id, Status::Abandoned, shared, effects);
        }
    }

    /// When the longest silent response will be idle, if the clock counts.
    pub(super) fn next_idle(&self) -> Option<Time> {
        let since = self.caught_up_since?;
        let response = self.responses.get(self.responses.first(Order::Activity)?)?;
        Some(since.max(response.arrived) + self.settings.idle)
    }

    fn is_idle(&self, now: Time, response: &Response) -> bool {
        let idle = self.settings.idle;
        let by_clock = |since: Time| now.since(since.max(response.arrived)) >= idle;
        self.record_time.since(response.last_event_at) >= idle || self.caught_up_since.is_some_and(by_clock)
    }

    /// Drops texts from memory while limits are reached, the longest quiet first. What was dropped is read from the topic
    /// again if it is needed. When there are too many responses even without text, the longest silent end, loudly.
    pub(super) fn make_room(&mut self, now: Time, shared: &mut Shared, effects: &mut Effects) {
        while shared.is_full() {
            let Some(id) = self.responses.first(Order::Quiet) else { break };
            self.responses.unlink(Order::Quiet, id);
            let Some(response) = self.responses.get_mut(id) else { break };
            let before = Weight::of(response);
            response.drop_text();
            shared.usage.change(before, Weight::of(response));
        }
        if shared.is_full() {
            self.stop_waiting(now, shared, effects);
        }
        while shared.usage.stubs > shared.limits.stub_max {
            // They may be another engine's.
            let Some(id) = self.responses.in_order(Order::Activity).find(|id| self.is_stub(*id)) else { break };
            if let Some(response) = self.responses.get_mut(id) {
                response.give_up_silently("limit");
            }
            self.end_response(now, id, Status::Abandoned, shared, effects);
        }
    }

    fn is_stub(&self, id: SlotId) -> bool {
        self.responses.get(id).is_some_and(|response| Weight::of(response).stub)
    }

    fn end_response(&mut self, now: Time, id: SlotId, status: Status, shared: &mut Shared, effects: &mut Effects) {
        self.responses.unlink(Order::Activity, id);
        if let Some(response) = self.responses.get_mut(id) {
            response.end = Some(status);
        }
        self.advance(now, id, shared, effects);
    }
}
