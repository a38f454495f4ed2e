//! The engine: decides, for one partition of the tokens topic, what is sent to Ably and what is said of it.
//!
//! Pure: no clock, no sockets, no tasks. [`Engine::apply`] takes one [`Input`] and the moment at which it happened and adds
//! [`Effect`]s to a buffer. What partitions of one process share (connections, budgets, limits) is [`Shared`], lent to every
//! call.
//!
//! Reading order: this file (what can happen), `engine/next.rs` (what a response sends next), `engine/response.rs` (what
//! changes that), `engine/reconcile.rs` (how a text is mended), `engine/flow.rs` (what may leave now).

mod backoff;
mod bucket;
mod channel;
mod drive;
mod effect;
mod event;
mod flow;
mod give_up;
mod history;
mod inherit;
mod intake;
mod ledger;
mod line;
mod look;
mod next;
mod op;
mod outcome;
mod per_token;
mod reconcile;
mod record;
mod remember;
mod report;
mod response;
mod search;
mod segment;
mod settings;
mod shared;
mod slots;
mod text;
mod time;
mod turns;
mod verify;
mod whole;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

pub use channel::{ChannelRules, ChannelRulesError, Template};
pub use effect::{
    Effect, Effects, Fact, Found, Input, Latest, LookUp, Notice, ReadBack, Refusal, Reload, Report, ReportSeq,
};
pub use event::{Event, EventKind, Offset, Record};
pub use flow::{Flow, Pipelining, namespace_of};
pub use history::History;
pub use inherit::{Beginnings, Inheritance, Stale};
pub use op::{
    Batch, ConnectionId, Head, MESSAGE_NAME, OpId, OpKind, Operation, Pattern, Piece, Publish, PublishName, Sender,
    Status, Sum,
};
pub use outcome::{Answer, Class, Doubt, Outcome, Rejection, Serial};
pub use record::{
    Cause, Covered, Cut, ErrorClass, ErrorInfo, OperationOutcome, OperationRecord, Reopens, ResponseOutcome,
    ResponseRecord, ResultRecord, SCHEMA_VERSION, Stamp,
};
pub use settings::{Limits, RESPONSE_ID_BYTES_MAX, ReconcileSettings, ReconcileWhen, Settings, Verify};
pub use shared::{Shared, Usage};
pub use time::Time;

use inherit::Legacy;
use ledger::Ledger;
use line::Ticket;
use next::FRAME_OVERHEAD;
use remember::{Memory, Remembered};
use report::Reporter;
use response::Response;
use shared::Weight;
use slots::{SlotId, Slots};
use turns::Turns;

/// The engine of one partition.
#[derive(Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    partition: i32,
    responses: Slots<Response>,
    /// Slots by response id and part.
    by_id: HashTable<u32>,
    hasher: RandomState,
    remembered: Remembered<Memory>,
    ledger: Ledger,
    timers: BinaryHeap<Reverse<(Time, SlotId)>>,
    /// Per connection, the responses that wait for it, in order.
    blocked: Vec<BTreeMap<Ticket, SlotId>>,
    /// Per connection, when its budgets let the first of them pass.
    blocked_until: Vec<Option<Time>>,
    /// Responses that wait until something may be tried in their namespaces.
    turns: Turns,
    /// How far the partition's record time has come.
    record_time: Time,
    caught_up_since: Option<Time>,
    /// This owner of the partition.
    sender: Arc<Sender>,
    legacy: Legacy,
    draining: bool,
    /// Owners after us do not know of us yet.
    unannounced: bool,
    in_flight: usize,
    /// Memory for one record's responses, used again.
    touched: Vec<SlotId>,
}

impl Engine {
    /// The engine of a partition that will be read from offset `next` on.
    #[must_use]
    pub fn new(settings: Arc<Settings>, partition: i32, next: Offset) -> Self {
        let remembered = Remembered::new(settings.remember);
        let sender = Arc::new(Sender { instance: settings.instance.clone(), epoch: 0 });
        Self {
            settings,
            partition,
            responses: Slots::new(0),
            by_id: HashTable::new(),
            hasher: RandomState::default(),
            remembered,
            ledger: Ledger::new(next),
            timers: BinaryHeap::new(),
            blocked: Vec::new(),
            blocked_until: Vec::new(),
            turns: Turns::default(),
            record_time: Time::default(),
            caught_up_since: None,
            sender,
            legacy: Legacy::default(),
            draining: false,
            unannounced: false,
            in_flight: 0,
            touched: Vec::new(),
        }
    }

    /// Tells this stay of the partition with us from earlier ones, so that a late answer to one of those finds nothing.
    #[must_use]
    pub fn in_life(mut self, life: u32) -> Self {
        const GENERATIONS_PER_LIFE: u32 = 1 << 20;
        self.responses = Slots::new(life.wrapping_mul(GENERATIONS_PER_LIFE));
        self
    }

    /// The partition is not ours any more: gives back everything that its responses hold of what is shared. The connections
    /// that carry unanswered operations of it: these must not be written again, for they would land behind what its next
    /// owner sends.
    pub fn leave(mut self, shared: &mut Shared) -> Vec<ConnectionId> {
        let mut carrying = Vec::new();
        let ids: Vec<_> = self.responses.ids().collect();
        for id in ids {
            self.stop_waiting_for_budgets(Time::default(), id, shared);
            let Some(response) = self.responses.remove(id) else { continue };
            shared.usage.subtract(Weight::of(&response));
            let connection = shared.flow.connection(response.channel);
            for operation in &response.in_flight {
                shared.flow.answered(connection, response.channel, operation.bytes + FRAME_OVERHEAD);
            }
            if !response.in_flight.is_empty() && !carrying.contains(&connection) {
                carrying.push(connection);
            }
            shared.flow.unclaim(response.channel, response.claim);
            shared.flow.close(Time::default(), response.channel);
        }
        carrying
    }

    /// Decides; never waits, never reads a clock. `effects` is reused by the caller.
    pub fn apply(&mut self, now: Time, input: Input<'_>, shared: &mut Shared, effects: &mut Effects) {
        match input {
            Input::Inherited(left) => self.inherit(now, *left, shared, effects),
            Input::Announced => self.announced(now, shared, effects),
            Input::Record(record) => self.record(now, &record, shared, effects),
            Input::Undecodable { offset } => self.undecodable(now, offset, shared, effects),
            Input::Lost { begins } => {
                self.ledger.pass(begins);
                self.lose(now, shared, effects);
            }
            Input::Answer(answer) => self.answer(now, answer, shared, effects),
            Input::Moved(connection) => self.moved(now, connection, shared, effects),
            Input::Durable(seq) => self.ledger.durable(seq),
            Input::DeadLetterDurable(offset) => self.ledger.dead_letter_durable(offset),
            Input::CaughtUp(caught_up) => self.caught_up(now, caught_up, shared, effects),
            Input::Reloaded { id, text } => self.reloaded(now, id, text, shared, effects),
            Input::LookedUp { id, found } => self.looked_up(now, id, found, shared, effects),
            Input::ReadBack { id, latest } => self.read_back(now, id, latest, shared, effects),
            Input::Tick => self.tick(now, shared, effects),
            Input::Drain => self.draining = true,
        }
        self.take_turns(now, shared, effects);
        self.make_room(now, shared, effects);
    }

    /// When [`Input::Tick`] is wanted next, at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        let timer = self.timers.peek().map(|Reverse((time, _))| *time);
        let rate = self.blocked_until.iter().flatten().min().copied();
        let idle = self.next_idle();
        let turn = self.turns.due().filter(|_| !self.draining);
        [timer, rate, idle, turn].into_iter().flatten().min()
    }

    /// What may be committed together with every report and dead letter that has been asked for: with them every record
    /// below is accounted for.
    #[must_use]
    pub fn watermark_once_durable(&self) -> Offset {
        self.ledger.watermark_once_durable()
    }

    /// Records at or above the watermark whose dead letters have been asked for, as ranges with both ends included.
    #[must_use]
    pub fn letters(&self) -> &[(Offset, Offset)] {
        self.ledger.letters()
    }

    /// Records at or above the watermark whose dead letters are durable.
    #[must_use]
    pub fn letters_durable(&self) -> Vec<(Offset, Offset)> {
        self.ledger.letters_durable()
    }

    /// What may be committed: every record below is accounted for, durably.
    #[must_use]
    pub fn watermark(&self) -> Offset {
        self.ledger.watermark()
    }

    /// The first offset that has not been applied.
    #[must_use]
    pub fn next_offset(&self) -> Offset {
        self.ledger.next()
    }

    /// Below which offset we, or owners before us, may have begun to send.
    #[must_use]
    pub fn begun_below(&self) -> Offset {
        self.ledger.next().max(self.legacy.begun_below())
    }

    /// Whether all that was ever sent of what is open is answered, by us and by owners before us, reported, and nothing of it
    /// may be under way: results tell all there is to know.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        let any = |is: fn(&Response) -> bool| self.responses.ids().any(|id| self.responses.get(id).is_some_and(is));
        let all_read = self.ledger.next() >= self.legacy.begun_below();
        let before_us = self.legacy.is_clean() || (all_read && !any(Response::is_taken_over));
        self.in_flight == 0 && before_us && !any(Response::is_unverified) && !any(Response::may_have_orphans)
    }

    /// Where beginnings are that may be missing, and until when, if that is known; the next owner is to be told until what
    /// began in that time must be over, too.
    #[must_use]
    pub fn missing(&self) -> (Beginnings, Option<Time>) {
        let (beginnings, until) = self.legacy.missing();
        let is_over = until.is_some_and(|until| self.record_time > until + self.settings.idle);
        if is_over { (Beginnings::Here, None) } else { (beginnings, until) }
    }

    /// Whether every report that has been asked for is durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.ledger.is_durable()
    }

    /// What the next owner must not begin either: it is told until all of it is behind us.
    #[must_use]
    pub fn stale(&self) -> Option<Stale> {
        self.legacy.stale().filter(|stale| self.ledger.watermark() < stale.below)
    }

    /// Operations that have no answer yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Responses that are not settled.
    #[must_use]
    pub fn open(&self) -> usize {
        self.responses.len()
    }

    /// Whether responses wait for a connection, or for what is known by now: then a [`Input::Tick`] after answers of other
    /// partitions helps.
    #[must_use]
    pub fn is_blocked(&self, shared: &Shared) -> bool {
        self.blocked.iter().any(|queue| !queue.is_empty()) || self.turns.lag(shared.flow.news())
    }

    /// The partition that this engine decides for.
    #[must_use]
    pub fn partition(&self) -> i32 {
        self.partition
    }

    fn find(&self, response_id: &str, part: u32) -> Option<SlotId> {
        let hash = self.hasher.hash_one((response_id, part));
        let index = self.by_id.find(hash, |index| self.is_at(*index, response_id, part))?;
        Some(self.responses.id_at(*index))
    }

    fn is_at(&self, index: u32, response_id: &str, part: u32) -> bool {
        self.responses.at(index).is_some_and(|other| other.head.part == part && *other.head.response_id == *response_id)
    }

    fn insert(&mut self, response: Response) -> SlotId {
        let hash = self.hasher.hash_one((&*response.head.response_id, response.head.part));
        let id = self.responses.insert(response);
        let (hasher, responses) = (&self.hasher, &self.responses);
        self.by_id.insert_unique(hash, id.index, |index| {
            responses.at(*index).map_or(0, |other| hasher.hash_one((&*other.head.response_id, other.head.part)))
        });
        id
    }

    fn remove(&mut self, id: SlotId) -> Option<Response> {
        self.leave_line(id);
        let response = self.responses.get(id)?;
        let hash = self.hasher.hash_one((&*response.head.response_id, response.head.part));
        if let Ok(entry) = self.by_id.find_entry(hash, |index| *index == id.index) {
            entry.remove();
        }
        self.responses.remove(id)
    }

    fn op_id(&self, id: SlotId, seq: u32) -> OpId {
        OpId { partition: self.partition, slot: id.index, generation: id.generation, seq }
    }

    fn reporter(settings: &Settings, partition: i32, epoch: u64, now: Time) -> Reporter<'_> {
        Reporter { now, partition, epoch, settings }
    }
}

const fn slot_of(op: OpId) -> SlotId {
    SlotId { index: op.slot, generation: op.generation }
}

#[cfg(test)]
mod tests;
