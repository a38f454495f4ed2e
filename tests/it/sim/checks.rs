//! The invariants, from books of our own: nothing here asks the engine what it thinks.
//!
//! This file keeps the books of what came in: which response every event belongs to, what its text is, what may be
//! committed. `sends.rs` checks what goes out, `records.rs` what is said of it, `rest.rs` what there is at rest.

use std::collections::{HashMap, HashSet, VecDeque};

use super::budgets::Budgets;
use super::given_up::Reach;
use super::plan::Plan;
use super::records::Recorded;
use super::scene::{Kept, Scene, hold};
use super::tokens::Tokens;
use super::topic::Logged;
use crate::engine::{EventKind, OpKind, Operation, Pattern, Serial, Status};

/// The books.
pub(super) struct Checks {
    pub(super) plan: Plan,
    pub(super) partitions: Vec<Partition>,
    pub(super) instances: Vec<Instance>,
    pub(super) current: HashMap<(&'static str, u32), usize>,
    /// There have been more responses at once than the hard limit allows even without their texts.
    pub(super) crowded: bool,
    /// Operations and bytes in flight by connection.
    pub(super) in_flight: Vec<(u32, usize)>,
    pub(super) budgets: Budgets,
    pub(super) reach: Reach,
    /// Messages that were seen to be changed by somebody else.
    pub(super) others: HashSet<Serial>,
}

/// What is known of a partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Offsets at which the committed offset has to wait.
    pub(super) held: Vec<i64>,
    pub(super) next: i64,
    pub(super) watermark: i64,
    pub(super) record_time: u64,
    pub(super) caught_up_since: Option<u64>,
    /// Responses that settled last, and whether they were abandoned.
    remembered: VecDeque<((&'static str, u32), bool)>,
    /// The record that is being applied must go to the dead letters, or must not.
    refused: Option<i64>,
    /// The responses that it touched.
    touched: Vec<usize>,
    pub(super) reports: u64,
    /// Offsets let go when that many reports are durable.
    pub(super) ending: VecDeque<(u64, i64)>,
}

/// One part of one response, from its first event until it is settled for the last time.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: &'static str,
    pub(super) part: u32,
    pub(super) partition: usize,
    pub(super) hold: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) text: String,
    pub(super) token_offsets: Vec<i64>,
    pub(super) headless: bool,
    pub(super) ended: Option<Status>,
    pub(super) arrived: u64,
    pub(super) last_event_at: u64,
    /// It had been idle for long enough when we stopped reading.
    was_idle: bool,
    pub(super) reopened: u32,
    /// How it was settled, while it is, and when.
    pub(super) settled: Option<&'static str>,
    pub(super) settled_at: u64,
    /// A message of it was seen to be changed by somebody else.
    pub(super) is_others: bool,
    /// An event was refused that may have been its own: then it must have been given up on.
    pub(super) suspect: bool,
    // What was sent, and what became of it.
    pub(super) operations: u32,
    pub(super) updates: u32,
    /// The byte of the text that the present message begins with.
    pub(super) from: usize,
    pub(super) sent: usize,
    pub(super) terminal_sent: bool,
    /// The last status that ended a message.
    pub(super) closed: Option<Status>,
    /// The text is another one than its messages were made for.
    pub(super) recut: bool,
    /// A message was found that should not be there.
    pub(super) found: bool,
    /// The messages besides the present one.
    pub(super) others: Vec<Other>,
    /// How many messages the text has, when the present one is left over.
    pub(super) count: u32,
    /// The create was larger than the server takes.
    pub(super) too_large: bool,
    pub(super) create: Option<Operation>,
    pub(super) serial: Option<Serial>,
    pub(super) version: Option<Serial>,
    pub(super) doubtful: bool,
    pub(super) tainted: bool,
    /// The full text in flight is not the right one any more.
    pub(super) outdated: bool,
    pub(super) moved: bool,
    pub(super) gone: bool,
    pub(super) connection: Option<u32>,
    /// When the server publishes, or has published, the last append that was not joined to another.
    pub(super) published: Option<u64>,
    pub(super) quiet_until: u64,
    pub(super) refusals: u32,
    /// When something happened last for which it may be given up on.
    pub(super) refused_at: u64,
    pub(super) channel_refused: Option<u64>,
    /// The operation that said that it is given up on, and whether that was taken.
    pub(super) last_word: Option<(Operation, bool)>,
    pub(super) in_flight: Vec<(u32, OpKind, usize)>,
    pub(super) kinds: Vec<OpKind>,
    pub(super) outcomes: Vec<Option<&'static str>>,
    pub(super) records: Vec<Recorded>,
    /// Its tokens are messages of their own.
    pub(super) tokens: Option<Tokens>,
    /// Its messages may be replaced instead of changed: the creates of all of them, and when they were first sent.
    pub(super) is_whole: bool,
    pub(super) wholes: Vec<(u64, Operation, bool)>,
}

/// A message of a response besides the present one.
#[derive(Debug, Clone)]
pub(super) struct Other {
    pub(super) create: Operation,
    pub(super) serial: Option<Serial>,
    pub(super) version: Option<Serial>,
}

impl Checks {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            partitions: (0..plan.partitions).map(|_| Partition::default()).collect(),
            plan: plan.clone(),
            instances: Vec::new(),
            current: HashMap::new(),
            crowded: false,
            in_flight: Vec::new(),
            budgets: Budgets::default(),
            reach: Reach::default(),
            others: HashSet::new(),
        }
    }

    /// A record is about to be applied.
    pub(super) fn record(&mut self, now: u64, p: usize, record: &Logged) {
        let partition = &mut self.partitions[p];
        partition.next = record.offset + 1;
        partition.refused = None;
        partition.touched.clear();
        if !record.decodable {
            partition.refused = Some(record.offset);
            return;
        }
        partition.record_time = partition.record_time.max(record.stamped.0.min(now));
        for event in &record.events {
            let Some(i) = self.instance(p, record, event.part, event.channel.as_deref(), event.begins) else {
                self.partitions[p].refused = Some(record.offset);
                continue;
            };
            self.instances[i].event(now, record, &event.kind);
            self.partitions[p].touched.push(i);
        }
        let open = self.instances.iter().filter(|instance| instance.settled.is_none()).count();
        self.crowded |= open > self.plan.limits.stub_max;
    }

    /// The response that an event belongs to; none if it is to be refused.
    fn instance(
        &mut self,
        p: usize,
        record: &Logged,
        part: u32,
        channel: Option<&str>,
        begins: Option<bool>,
    ) -> Option<usize> {
        let key = (record.key, part);
        let partition = &mut self.partitions[p];
        if let Some(i) = self.current.get(&key).copied().filter(|i| self.instances[*i].settled.is_none()) {
            let instance = &mut self.instances[i];
            return match instance.ended {
                None => Some(i),
                Some(Status::Abandoned) => {
                    instance.go_on();
                    Some(i)
                }
                Some(_) => None,
            };
        }
        if let Some(at) = partition.remembered.iter().position(|(other, _)| *other == key) {
            let (_, abandoned) = partition.remembered[at];
            if !abandoned {
                return None;
            }
            partition.remembered.remove(at);
            partition.held.push(record.offset);
            let i = *self.current.get(&key)?;
            let instance = &mut self.instances[i];
            instance.settled = None;
            instance.hold = record.offset;
            instance.reopened += 1;
            instance.connection = None;
            instance.go_on();
            instance.tainted |= instance.tokens.is_none();
            return Some(i);
        }
        if channel.is_some_and(|channel| !channel.starts_with("ai:") || channel.contains('\n')) {
            return None;
        }
        partition.held.push(record.offset);
        self.current.insert(key, self.instances.len());
        let tokens = (self.plan.pattern == Pattern::MessagePerToken).then(Tokens::default);
        let is_whole = self.plan.whole.is_some() && tokens.is_none();
        self.instances.push(Instance { tokens, is_whole, ..Instance::new(p, record, part, begins == Some(false)) });
        Some(self.instances.len() - 1)
    }

    /// A record went to the dead letters.
    pub(super) fn dead_letter(&mut self, p: usize, offset: i64) -> Kept {
        let partition = &mut self.partitions[p];
        let good = partition.refused != Some(offset);
        hold!(
            !good || !partition.touched.is_empty(),
            "I7: the record at {offset} went to the dead letters, but it is good"
        );
        for i in partition.touched.drain(..) {
            self.instances[i].suspect = true;
        }
        partition.refused = None;
        partition.held.push(offset);
        Ok(())
    }

    /// A record has been applied.
    pub(super) fn applied(&mut self, p: usize) -> Kept {
        let missed = self.partitions[p].refused;
        hold!(missed.is_none(), "I7: the record at {missed:?} should have gone to the dead letters");
        Ok(())
    }

    /// A dead letter is durable.
    pub(super) fn dead_letter_durable(&mut self, p: usize, offset: i64) {
        release(&mut self.partitions[p].held, offset);
    }

    /// The first `reports` reports of a partition are durable.
    pub(super) fn durable(&mut self, p: usize, reports: u64) {
        let Partition { ending, held, .. } = &mut self.partitions[p];
        while let Some((_, offset)) = ending.pop_front_if(|(after, _)| *after <= reports) {
            release(held, offset);
        }
    }

    /// What an engine says may be committed.
    pub(super) fn watermark(&mut self, p: usize, watermark: i64) -> Kept {
        let partition = &mut self.partitions[p];
        if watermark == partition.watermark {
            return Ok(());
        }
        let bound = partition.held.iter().copied().min().unwrap_or(partition.next);
        hold!(watermark <= bound, "I3: {watermark} would be committed, but {bound} is not accounted for");
        hold!(
            watermark > partition.watermark,
            "I3: the watermark goes back from {} to {watermark}",
            partition.watermark
        );
        partition.watermark = watermark;
        Ok(())
    }

    /// Whether an engine was told that its partition has been read to the end.
    pub(super) fn caught_up(&mut self, now: u64, p: usize, caught_up: bool) {
        for i in 0..self.instances.len() {
            self.instances[i].was_idle |= self.instances[i].partition == p && self.is_idle(now, &self.instances[i]);
        }
        let since = &mut self.partitions[p].caught_up_since;
        *since = caught_up.then(|| since.unwrap_or(now));
    }

    /// A response is settled: it is remembered.
    pub(super) fn remember(&mut self, i: usize, abandoned: bool) {
        let instance = &self.instances[i];
        let partition = &mut self.partitions[instance.partition];
        if self.plan.remember > 0 {
            partition.remembered.push_back(((instance.id, instance.part), abandoned));
        }
        if partition.remembered.len() > self.plan.remember {
            partition.remembered.pop_front();
        }
    }

    /// A response ends though its producer did not say so: it must have been silent for long enough, while we read.
    pub(super) fn abandoned(&self, scene: &Scene, instance: &Instance) -> Kept {
        let idle = instance.was_idle || self.is_idle(scene.now, instance);
        hold!(idle, "R5: {} is abandoned though it was not idle while we read", instance.name());
        Ok(())
    }

    fn is_idle(&self, now: u64, instance: &Instance) -> bool {
        let partition = &self.partitions[instance.partition];
        let idle = self.plan.idle();
        let by_records = partition.record_time.saturating_sub(instance.last_event_at) >= idle;
        let by_clock = |since: u64| now.saturating_sub(since.max(instance.arrived)) >= idle;
        by_records || partition.caught_up_since.is_some_and(by_clock)
    }
}

impl Instance {
    fn new(partition: usize, record: &Logged, part: u32, headless: bool) -> Self {
        Self {
            id: record.key,
            part,
            partition,
            hold: record.offset,
            first: record.offset,
            last: record.offset,
            text: String::new(),
            token_offsets: Vec::new(),
            headless,
            ended: None,
            arrived: 0,
            last_event_at: 0,
            was_idle: false,
            reopened: 0,
            settled: None,
            settled_at: 0,
            is_others: false,
            suspect: false,
            operations: 0,
            updates: 0,
            from: 0,
            sent: 0,
            terminal_sent: false,
            closed: None,
            recut: false,
            found: false,
            others: Vec::new(),
            count: 0,
            too_large: false,
            create: None,
            serial: None,
            version: None,
            doubtful: false,
            tainted: false,
            outdated: false,
            moved: false,
            gone: false,
            connection: None,
            published: None,
            quiet_until: 0,
            refusals: 0,
            refused_at: 0,
            channel_refused: None,
            last_word: None,
            in_flight: Vec::new(),
            kinds: Vec::new(),
            outcomes: Vec::new(),
            records: Vec::new(),
            tokens: None,
            is_whole: false,
            wholes: Vec::new(),
        }
    }

    fn event(&mut self, now: u64, record: &Logged, kind: &EventKind<'static>) {
        self.last = record.offset;
        self.arrived = now;
        self.was_idle = false;
        self.last_event_at = record.stamped.0.min(now);
        match kind {
            EventKind::Start => {}
            EventKind::Token(text) => {
                self.text.push_str(text);
                self.token_offsets.push(record.offset);
                self.tokens.iter_mut().for_each(|tokens| tokens.token(text));
            }
            EventKind::End { final_text } => {
                self.ended = Some(Status::Complete);
                if let Some(text) = final_text.as_deref().filter(|text| **text != *self.text) {
                    self.text = text.to_owned();
                    self.sent = self.from.min(self.text.len());
                    // Whoever is at the first message goes through them all anyway.
                    let is_first = self.create.as_ref().is_some_and(|create| create.head.segment == 0);
                    self.recut = !self.others.is_empty() && !is_first;
                    self.outdated = self.create.is_some();
                    self.tainted |= self.create.is_some() || self.tokens.is_some();
                    self.tokens.iter_mut().for_each(Tokens::replace);
                }
            }
            EventKind::Cancel => self.ended = Some(Status::Cancelled),
            EventKind::Error => self.ended = Some(Status::Error),
        }
    }

    fn go_on(&mut self) {
        self.ended = None;
        if let Some(tokens) = &mut self.tokens {
            self.tainted |= tokens.go_on();
            return;
        }
        self.recut |= self.closed == Some(Status::Superseded);
        if self.closed == Some(Status::Continued) {
            return;
        }
        self.outdated |= self.terminal_sent;
        self.tainted |= self.terminal_sent;
        self.terminal_sent = false;
    }

    /// The creates of its messages, in order.
    pub(super) fn creates(&self) -> Vec<&Operation> {
        let mut creates: Vec<_> = self.create.iter().chain(self.others.iter().map(|other| &other.create)).collect();
        creates.sort_by_key(|create| create.head.segment);
        creates
    }

    /// The offset that its messages are named by.
    pub(super) const fn hold_first(&self) -> i64 {
        self.first
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.id, self.part)
    }
}

fn release(held: &mut Vec<i64>, offset: i64) {
    if let Some(at) = held.iter().position(|other| *other == offset) {
        held.swap_remove(at);
    }
}
