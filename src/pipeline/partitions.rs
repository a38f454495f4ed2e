//! The engines of the partitions that are ours, what they share, and their effects sorted by where they go.
//!
//! Synchronous: inputs in, and out come operations per connection, records for Kafka, and requests to read something again.
//! The loop in [`relay`](super::relay) does the waiting.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::stay::Stay;
use crate::engine::{
    ConnectionId, Effect, Effects, Engine, Input, LookUp, Notice, Operation, ReadBack, Refusal, Reload, ReportSeq,
    Settings, Shared, Time,
};
use crate::kafka::assignment::Assigned;
use crate::kafka::results::{Batch, Lane, Mark};
use crate::telemetry::{Facts, Metrics};

/// The partitions that are ours.
#[derive(Debug)]
pub(super) struct Partitions {
    settings: Arc<Settings>,
    pub(super) shared: Shared,
    owned: BTreeMap<i32, Owned>,
    lives: u32,
}

/// A partition that is ours.
#[derive(Debug)]
struct Owned {
    stay: Stay,
    lane: Lane,
    /// Nothing has come since it was read to its end.
    at_end: bool,
}

impl Owned {
    fn mark(&mut self, last: bool, with_all: bool) -> Mark {
        let (offset, metadata) = self.stay.mark(last, with_all);
        Mark { lane: self.lane, offset, metadata }
    }
}

/// Effects, sorted by where they go.
#[derive(Debug)]
pub(super) struct Outbox {
    effects: Effects,
    facts: Facts,
    /// Operations by connection, in order.
    pub(super) operations: Vec<Vec<Operation>>,
    /// Results and dead letters.
    pub(super) batch: Batch,
    /// Texts that are wanted again, by partition.
    pub(super) reloads: Vec<(i32, Reload)>,
    /// Messages that are looked for.
    pub(super) look_ups: Vec<LookUp>,
    /// Messages that are read back.
    pub(super) read_backs: Vec<ReadBack>,
    /// For the log.
    pub(super) notices: Vec<Notice>,
}

impl Partitions {
    pub(super) fn new(settings: Arc<Settings>, shared: Shared) -> Self {
        Self { settings, shared, owned: BTreeMap::new(), lives: 0 }
    }

    /// A partition is ours.
    pub(super) fn assign(&mut self, now: Time, assigned: Assigned, out: &mut Outbox) {
        let partition = assigned.partition;
        self.lives += 1;
        let (stay, inheritance) = Stay::begin(self.settings.clone(), self.lives, assigned);
        let lane = Lane { partition, life: self.lives };
        self.owned.insert(partition, Owned { stay, lane, at_end: false });
        self.apply(now, partition, Input::Inherited(Box::new(inheritance)), out);
    }

    /// All reports of a stay up to `seq` are durable, and the results partition ended at `end` then.
    pub(super) fn durable(&mut self, now: Time, lane: Lane, seq: ReportSeq, end: Option<i64>, out: &mut Outbox) {
        self.apply_in(now, lane, Input::Durable(seq), out);
        if let (Some(owned), Some(end)) = (self.owned.get_mut(&lane.partition), end)
            && owned.lane == lane
        {
            owned.stay.written(end);
        }
    }

    /// What may be committed of each partition. `last`: of these nothing more will be read. `with_all`: together with
    /// everything that the engines have asked for, else alone.
    pub(super) fn marks(&mut self, last: &[i32], with_all: bool) -> impl Iterator<Item = Mark> {
        self.owned.values_mut().map(move |owned| owned.mark(last.contains(&owned.lane.partition), with_all))
    }

    /// The stay of a partition with us.
    pub(super) fn lane(&self, partition: i32) -> Option<Lane> {
        self.owned.get(&partition).map(|owned| owned.lane)
    }

    /// A partition is not ours any more. The connections that carry unanswered operations of it.
    pub(super) fn revoke(&mut self, partition: i32) -> Vec<ConnectionId> {
        self.owned.remove(&partition).map(|owned| owned.stay.engine.leave(&mut self.shared)).unwrap_or_default()
    }

    /// Tells one engine. A dead letter that it asks for is given back: only the caller has the record's bytes.
    pub(super) fn apply(
        &mut self,
        now: Time,
        partition: i32,
        input: Input<'_>,
        out: &mut Outbox,
    ) -> Option<(Lane, Refusal)> {
        let owned = self.owned.get_mut(&partition)?;
        owned.at_end &= !matches!(input, Input::Record(_) | Input::Undecodable { .. });
        out.tell(now, owned, input, &mut self.shared).map(|refusal| (owned.lane, refusal))
    }

    /// A partition was read to its end. Only while intake is `open` does that mean that nothing more has come.
    pub(super) fn ended(&mut self, now: Time, partition: i32, open: bool, out: &mut Outbox) {
        if let Some(owned) = self.owned.get_mut(&partition) {
            owned.at_end = true;
            out.tell(now, owned, Input::CaughtUp(open), &mut self.shared);
        }
    }

    /// Intake is open again. librdkafka says only once that it is at an end.
    pub(super) fn opened(&mut self, now: Time, out: &mut Outbox) {
        for owned in self.owned.values_mut().filter(|owned| owned.at_end) {
            out.tell(now, owned, Input::CaughtUp(true), &mut self.shared);
        }
    }

    /// Tells the engine of one stay of a partition; what concerns an earlier stay concerns nobody.
    pub(super) fn apply_in(&mut self, now: Time, lane: Lane, input: Input<'_>, out: &mut Outbox) {
        if self.owned.get(&lane.partition).is_some_and(|owned| owned.lane == lane) {
            self.apply(now, lane.partition, input, out);
        }
    }

    /// Tells every engine.
    pub(super) fn apply_all(&mut self, now: Time, input: impl Fn() -> Input<'static>, out: &mut Outbox) {
        for owned in self.owned.values_mut() {
            out.tell(now, owned, input(), &mut self.shared);
        }
    }

    /// Tells the engines whose time has come, and after answers those that wait for a connection.
    pub(super) fn tick_due(&mut self, now: Time, after_answers: bool, out: &mut Outbox) {
        let full = !self.shared.intake_open();
        for owned in self.owned.values_mut() {
            let due = owned.stay.engine.next_deadline().is_some_and(|deadline| deadline <= now);
            if due || full || (after_answers && owned.stay.engine.is_blocked(&self.shared)) {
                out.tell(now, owned, Input::Tick, &mut self.shared);
            }
        }
    }

    /// When the next of them wants to be told the time.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.owned.values().filter_map(|owned| owned.stay.engine.next_deadline()).min()
    }

    pub(super) fn engine(&self, partition: i32) -> Option<&Engine> {
        self.owned.get(&partition).map(|owned| &owned.stay.engine)
    }

    pub(super) fn engines(&self) -> impl Iterator<Item = &Engine> {
        self.owned.values().map(|owned| &owned.stay.engine)
    }

    /// The numbers of the partitions that are ours.
    pub(super) fn numbers(&self) -> Vec<i32> {
        self.owned.keys().copied().collect()
    }

    /// Operations of these partitions that have no answer yet.
    pub(super) fn in_flight_of(&self, partitions: &[i32]) -> usize {
        partitions.iter().filter_map(|partition| self.engine(*partition)).map(Engine::in_flight).sum()
    }

    /// Whether all results of these partitions are durable.
    pub(super) fn is_durable(&self, partitions: &[i32]) -> bool {
        partitions.iter().filter_map(|partition| self.engine(*partition)).all(Engine::is_durable)
    }

    /// Operations that have no answer yet.
    pub(super) fn in_flight(&self) -> usize {
        self.engines().map(Engine::in_flight).sum()
    }
}

impl Outbox {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            effects: Effects::default(),
            facts: metrics.facts(),
            operations: Vec::new(),
            batch: Batch::default(),
            reloads: Vec::new(),
            look_ups: Vec::new(),
            read_backs: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// A partition is not ours any more: nothing of it is sent.
    pub(super) fn forget(&mut self, partition: i32) {
        for operations in &mut self.operations {
            operations.retain(|operation| operation.id.partition != partition);
        }
    }

    /// Tells an engine and sorts what it asks for. It writes reports where they stay: into the batch.
    fn tell(&mut self, now: Time, owned: &mut Owned, input: Input<'_>, shared: &mut Shared) -> Option<Refusal> {
        std::mem::swap(&mut self.effects.bytes, self.batch.buffer());
        owned.stay.engine.apply(now, input, shared, &mut self.effects);
        std::mem::swap(&mut self.effects.bytes, self.batch.buffer());
        let mut refusal = None;
        for effect in self.effects.list.drain(..) {
            match effect {
                Effect::Send(operation) => operations_on(&mut self.operations, operation.connection).push(operation),
                Effect::Report(report) => {
                    self.facts.count(&report.fact);
                    self.batch.report(owned.lane, report);
                }
                Effect::DeadLetter { reason, .. } => refusal = Some(reason),
                Effect::Reload(reload) => self.reloads.push((owned.lane.partition, *reload)),
                Effect::LookUp(look_up) => self.look_ups.push(*look_up),
                Effect::ReadBack(read_back) => self.read_backs.push(*read_back),
                Effect::Notice(notice) => self.notices.push(notice),
            }
        }
        refusal
    }
}

fn operations_on(operations: &mut Vec<Vec<Operation>>, connection: ConnectionId) -> &mut Vec<Operation> {
    let index = connection as usize;
    if operations.len() <= index {
        operations.resize_with(index + 1, Vec::new);
    }
    &mut operations[index]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::{
        Batch, ChannelRules, Event, EventKind, Limits, Pattern, ReconcileSettings, ReconcileWhen, Record, Stale,
        Template, Verify,
    };
    use crate::kafka::assignment::Before;
    use crate::kafka::{Ending, Handover};

    fn settings() -> Settings {
        let template = Template::parse("ai:{key}").expect("a template");
        Settings {
            topic: "tokens".into(),
            id_namespace: "test".into(),
            instance: "one".into(),
            relay_version: "0",
            channels: ChannelRules::new(template, "tokens".into(), &["ai:*".to_owned()]).expect("rules"),
            idle: Duration::from_secs(600),
            remember: 100,
            reconcile: ReconcileSettings {
                when: ReconcileWhen::Eager,
                debounce: Duration::ZERO,
                attempts: 3,
                verify: Verify::Never,
                late_check: Duration::ZERO,
                verify_timeout: Duration::ZERO,
            },
            refused_hold: Duration::from_secs(600),
            whole: false,
            append_rollup: Duration::ZERO,
            pattern: Pattern::MessagePerResponse,
            batch: Batch::Array,
        }
    }

    const LIMITS: Limits = Limits {
        open_max: 100,
        stub_max: 100,
        text_bytes_max: 1 << 20,
        connections_max: 1,
        openings: 0,
        connection_idle: Duration::from_secs(60),
        connection_rate: 50,
        frame_rate: 0,
        channel_rate: 50,
        channel_bandwidth: 0,
        account_rate: 0,
        request_rate: 0,
        account_bandwidth: 0,
        refused_rate_hold: Duration::from_secs(600),
        read_back_rate: 0,
        in_flight_operations: 10,
        in_flight_bytes: 1 << 20,
        message_bytes_max: 65_536,
    };

    #[test]
    fn only_what_leaves_is_said_to_have_ended() {
        let mut out = Outbox::new(&Metrics::new());
        let mut partitions = Partitions::new(settings().into(), Shared::new(LIMITS, Duration::ZERO));
        for partition in [3, 5] {
            let assigned = Assigned::new(partition, 7, 7, Before::Nobody, None);
            partitions.assign(Time::default(), assigned, &mut out);
        }
        let endings = partitions.marks(&[5], true).map(|mark| {
            let handover = Handover::parse(&mark.metadata, mark.offset).expect("it is ours");
            (mark.lane.partition, handover.read, handover.ending)
        });
        assert_eq!(endings.collect::<Vec<_>>(), [(3, 7, Ending::None), (5, 7, Ending::Clean)]);
    }

    #[test]
    fn nobody_vouches_for_an_end_together_with_results_that_nobody_has_seen() {
        let mut out = Outbox::new(&Metrics::new());
        let mut partitions = Partitions::new(settings().into(), Shared::new(LIMITS, Duration::ZERO));
        let now = Time::from_millis(1_000_000);
        // What is too old has a result, and nothing is sent for it.
        let stale = Some(Stale { below: 1, before: now + Duration::from_secs(1) });
        let before = Before::Left(Handover { stale, ..Handover::first(0) });
        partitions.assign(now, Assigned::new(5, 0, 1, before, None), &mut out);
        partitions.apply(now, 5, Input::Announced, &mut out);
        let event = |kind| {
            let response_id = "r".into();
            Event { response_id, part: 0, kind, seq: None, begins: None, channel: None, pattern: None }
        };
        let events = [event(EventKind::Token("a".into())), event(EventKind::End { final_text: None })];
        let record = Record { offset: 0, time: now, key: "r", traceparent: None, events: &events };
        partitions.apply(now, 5, Input::Record(record), &mut out);
        let last = |partitions: &mut Partitions| {
            let mark = partitions.marks(&[5], true).next().expect("it is ours");
            (mark.offset, Handover::parse(&mark.metadata, mark.offset).expect("it is ours").ending)
        };
        assert_eq!(last(&mut partitions), (1, Ending::Unanswered));
        let lane = partitions.lane(5).expect("it is ours");
        partitions.durable(now, lane, 0, None, &mut out);
        assert_eq!(last(&mut partitions), (1, Ending::Clean));
    }

    #[test]
    fn idle_time_passes_again_after_a_pause_in_which_nothing_came() {
        let mut out = Outbox::new(&Metrics::new());
        let mut partitions = Partitions::new(settings().into(), Shared::new(LIMITS, Duration::ZERO));
        let now = Time::from_millis(1_000_000);
        partitions.assign(now, Assigned::new(0, 0, 0, Before::Nobody, None), &mut out);
        let kind = EventKind::Token("a".into());
        let event =
            Event { response_id: "r".into(), part: 0, kind, seq: None, begins: None, channel: None, pattern: None };
        let record = |offset| Input::Record(Record { offset, time: now, key: "r", traceparent: None, events: &[] });
        let events = [event];
        let first = Record { offset: 0, time: now, key: "r", traceparent: None, events: &events };
        partitions.apply(now, 0, Input::Record(first), &mut out);
        partitions.ended(now, 0, true, &mut out);
        let idle = partitions.next_deadline();
        assert!(idle.is_some());
        partitions.apply_all(now, || Input::CaughtUp(false), &mut out);
        assert_eq!(partitions.next_deadline(), None);
        partitions.opened(now, &mut out);
        assert_eq!(partitions.next_deadline(), idle);

        partitions.apply_all(now, || Input::CaughtUp(false), &mut out);
        partitions.apply(now, 0, record(1), &mut out);
        partitions.opened(now, &mut out);
        assert_eq!(partitions.next_deadline(), None, "more may have come");
    }
}
