//! The loop. It waits for one thing, takes everything else that is ready, lets the engines decide, and acts once: one hand-over
//! per connection, one batch of records. No part of it depends on a single wake-up: a tick looks at everything again.

use std::time::Duration;

use rdkafka::Message;
use rdkafka::message::BorrowedMessage;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::again::{Again, Done};
use super::clock::Clock;
use super::commit::Committing;
use super::identity::Identity;
use super::notices::Notices;
use super::partitions::{Outbox, Partitions};
use super::start::{Rest, TICK};
use super::{Error, Stop};
use crate::ably::{Event, Pool};
use crate::config::Config;
use crate::decode::{self, Decoder, Raw};
use crate::engine::{self, Input, Record, Shared};
use crate::kafka::assignment::{Assigned, Gap};
use crate::kafka::results::{Progress, Writer};
use crate::kafka::source::{Intake, Item, Lag};
use crate::kafka::{self, header};
use crate::telemetry::{Gauges, Health, Metrics};

/// Records that are taken before operations leave.
const BATCH: usize = 256;
/// Intake that has been closed for so long is told to Kafka, too, so that nothing is fetched in vain.
const PAUSE_AFTER: Duration = Duration::from_millis(500);
/// How long a commit may hold everything else up.
const COMMIT_MAX: Duration = Duration::from_secs(5);
const LAG_EVERY: Duration = Duration::from_secs(5);
/// Behind, and not a record read for so long: something is wrong.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// The loop's state.
pub(super) struct Relay<'a> {
    pub(super) config: &'a Config,
    pub(super) metrics: Metrics,
    pub(super) health: Health,
    pub(super) clock: Clock,
    pub(super) partitions: Partitions,
    pub(super) out: Outbox,
    pub(super) intake: Intake<'a>,
    pub(super) writer: Writer,
    pub(super) progress: Progress,
    pub(super) committing: Committing,
    pub(super) pool: Pool,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) again: Again,
    stranded: kafka::Stranded,
    decoder: Decoder,
    notices: Notices,
    pub(super) identity: Identity,
    decoded: Vec<engine::Event<'static>>,
    pub(super) opened: u64,
    /// Connections that are to be replaced.
    pub(super) leaving: Vec<engine::ConnectionId>,
    /// Of the tokens topic, at the least.
    pub(super) all_partitions: usize,
    intake_closed: Option<Instant>,
    next_commit: Instant,
    next_tick: Instant,
    next_lag: Instant,
    read_last: Instant,
    records: u64,
}

impl<'a> Relay<'a> {
    pub(super) fn new(config: &'a Config, metrics: Metrics, health: Health, rest: Rest, intake: Intake<'a>) -> Self {
        let shared = Shared::new(rest.limits, rest.settings.append_rollup);
        let now = Instant::now();
        health.set("partitions", "no partition has been assigned yet".to_owned());
        Self {
            config,
            clock: Clock::start(),
            partitions: Partitions::new(rest.settings, shared),
            out: Outbox::new(&metrics),
            intake,
            writer: rest.writer,
            progress: Progress::default(),
            committing: Committing::new(rest.lease, config.kafka.session_timeout),
            pool: rest.pool,
            events: rest.events,
            again: rest.again,
            stranded: rest.stranded,
            decoder: rest.decoder,
            notices: Notices::new(health.clone()),
            identity: Identity::default(),
            decoded: Vec::new(),
            opened: 0,
            leaving: Vec::new(),
            all_partitions: rest.all_partitions,
            intake_closed: None,
            next_commit: now,
            next_tick: now,
            next_lag: now,
            read_last: now,
            records: 0,
            metrics,
            health,
        }
    }

    /// Relays until told to stop, then ends in order.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<Stop>) -> Result<(), Error> {
        self.health.clear("starting");
        let stop_requested = stop.clone();
        let ended = loop {
            self.act();
            if *stop_requested.borrow() != Stop::No {
                break Ok(());
            }
            if let Err(error) = self.wait(&mut stop).await {
                break Err(error);
            }
        };
        match ended {
            Ok(()) => self.drain(stop).await,
            Err(error) => Err(error),
        }
    }

    /// Waits for one thing and takes what is ready behind it.
    async fn wait(&mut self, stop: &mut watch::Receiver<Stop>) -> Result<(), Error> {
        let wake = self.next_wake();
        let reading = self.intake_closed.is_none() || self.intake.is_paused();
        tokio::select! {
            biased;
            Some(event) = self.events.recv() => self.ably(event),
            progress = self.writer.progress(&mut self.progress) => {
                progress?;
                self.durable();
            }
            Some(done) = self.again.tasks.join_next(), if !self.again.tasks.is_empty() => {
                self.found_again(done.map_err(|_| Error::Ended("a look-up"))?);
            }
            _ = stop.changed() => {}
            () = sleep_until(wake) => {
                self.tick()?;
                // However many deadlines there are, records come between them.
                if reading && let Some(item) = self.intake.try_next() {
                    self.items(item).await?;
                }
            }
            item = self.intake.next(), if reading => self.items(item).await?,
        }
        Ok(())
    }

    /// Hands over everything that the engines have asked for.
    pub(super) fn act(&mut self) {
        let now = self.clock.now();
        self.partitions.tick_due(now, false, &mut self.out);
        self.open_connections();
        self.hear();
        if self.committing.may_send() {
            for (connection, operations) in (0..).zip(&mut self.out.operations) {
                self.pool.send(connection, operations);
            }
        }
        self.leave_connections();
        for (partition, reload) in self.out.reloads.drain(..) {
            self.again.reload(partition, reload);
        }
        for look_up in self.out.look_ups.drain(..) {
            self.again.look_up(look_up);
        }
        for read_back in self.out.read_backs.drain(..) {
            self.again.read_back(read_back);
        }
        for notice in self.out.notices.drain(..) {
            self.notices.say(notice);
        }
        self.offer();
        self.gate();
    }

    /// Closes intake at a limit and opens it again below.
    fn gate(&mut self) {
        let open = self.partitions.shared.intake_open() && !self.out.batch.is_full();
        match (open, self.intake_closed) {
            (true, Some(_)) => {
                self.intake_closed = None;
                self.partitions.opened(self.clock.now(), &mut self.out);
            }
            (false, None) => {
                self.intake_closed = Some(Instant::now());
                let now = self.clock.now();
                self.partitions.apply_all(now, || Input::CaughtUp(false), &mut self.out);
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    /// Takes a record and those behind it, up to a batch.
    async fn items(&mut self, first: Item<'a>) -> Result<(), Error> {
        let mut next = first;
        let now = self.clock.now();
        for taken in 1.. {
            match next {
                Item::Record(message) => self.record(now, &message),
                other => return self.rebalance(other).await,
            }
            self.gate();
            // What is taken must be applied: at a limit nothing more is taken.
            if taken == BATCH || self.intake_closed.is_some() {
                break;
            }
            match self.intake.try_next() {
                Some(item) => next = item,
                None => break,
            }
        }
        Ok(())
    }

    fn record(&mut self, now: engine::Time, message: &BorrowedMessage<'_>) {
        let (partition, offset) = (message.partition(), message.offset());
        self.records += 1;
        let bare = message.headers().is_none();
        let find = |name: &str| if bare { None } else { header(message, name) };
        let raw = Raw { key: message.key(), value: message.payload(), header: find };
        let mut events = recycled(std::mem::take(&mut self.decoded));
        let decoded = self.decoder.decode(&raw, &mut events);
        let input = match &decoded {
            Ok(key) => Input::Record(Record {
                offset,
                time: message
                    .timestamp()
                    .to_millis()
                    .map_or(now, |millis| engine::Time::from_millis(millis.unsigned_abs())),
                key,
                traceparent: find("traceparent").and_then(|value| std::str::from_utf8(value).ok()),
                events: &events,
            }),
            Err(_) => Input::Undecodable { offset },
        };
        if let Some((lane, reason)) = self.partitions.apply(now, partition, input, &mut self.out) {
            let detail =
                decoded.err().map_or_else(|| reason.as_str().to_owned(), |error: decode::Error| error.to_string());
            self.out.batch.dead_letter(lane, message, reason, &detail);
            self.metrics.dead_letter(reason.as_str());
        }
        self.decoded = recycled(events);
    }

    /// Partitions come, go, or have been read to their end.
    async fn rebalance(&mut self, item: Item<'a>) -> Result<(), Error> {
        let now = self.clock.now();
        match item {
            Item::Record(message) => self.record(now, &message),
            Item::End(partition) => {
                let open = self.intake_closed.is_none();
                self.partitions.ended(now, partition, open, &mut self.out);
            }
            Item::Assigned(assigned) => self.take(assigned).await?,
            Item::Revoked(partitions) => {
                self.metrics.rebalance();
                tracing::info!(?partitions, "partitions revoked");
                self.let_go(&partitions).await?;
                if let Err(error) = self.commit_now(&partitions, true, COMMIT_MAX).await {
                    if self.is_end(&error) {
                        return Err(error);
                    }
                    tracing::warn!(%error, "the last commit before partitions leave has failed: the next owner repeats some work");
                }
                self.intake.release(&partitions)?;
                self.forget(&partitions);
            }
            Item::Lost(partitions) => {
                self.metrics.rebalance();
                tracing::warn!(?partitions, "partitions lost: this process was not heard from in time");
                self.forget(&partitions);
            }
            Item::Held(waiting) if waiting.is_empty() => self.health.clear("held"),
            Item::Held(waiting) => self.health.set("held", waiting.to_string()),
            Item::Gap { partition, expected, begins } => self.lose(partition, expected, begins)?,
            Item::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Records are gone from the topic before we read them.
    fn lose(&mut self, partition: i32, expected: i64, begins: i64) -> Result<(), Error> {
        if begins < expected {
            return Err(Error::TopicAnew { partition });
        }
        self.metrics.records_lost(begins - expected);
        tracing::error!(
            partition,
            expected,
            begins,
            "records are gone from the topic: reading goes on behind them, and responses that are open fail as input-lost"
        );
        let now = self.clock.now();
        self.partitions.apply(now, partition, Input::Lost { begins }, &mut self.out);
        Ok(())
    }

    /// Partitions are ours. That there is a new owner, which may begin anything, is committed before it begins something.
    async fn take(&mut self, assigned: Vec<Assigned>) -> Result<(), Error> {
        self.metrics.rebalance();
        let now = self.clock.now();
        let starts: Vec<_> = assigned.iter().map(|assigned| (assigned.partition, assigned.start)).collect();
        for assigned in assigned {
            let Assigned { partition, start, gap, inheritance, .. } = &assigned;
            let (epoch, clean, responses) = (inheritance.epoch, inheritance.clean, inheritance.history.len());
            tracing::info!(partition, offset = start, epoch, clean, responses, "partition assigned");
            self.identity.inherit(inheritance.history.makers());
            if let Some(Gap { committed, begins }) = gap {
                self.metrics.records_lost(begins - committed);
                tracing::error!(
                    partition,
                    committed,
                    begins,
                    "records are gone from the topic: reading goes on at the first that is there, and responses that have lost \
                     some fail as input-lost"
                );
            }
            let partition = *partition;
            self.partitions.assign(now, assigned, &mut self.out);
            self.announce_later(partition);
        }
        self.share_account();
        self.intake.start(&starts)?;
        let numbers: Vec<i32> = starts.iter().map(|(partition, _)| *partition).collect();
        if let Err(error) = self.commit_now(&numbers, false, COMMIT_MAX).await {
            if self.is_end(&error) {
                return Err(error);
            }
            tracing::warn!(%error, "the first commit of a new owner is not confirmed: nothing of its partitions is sent before");
        }
        self.announce();
        self.health.clear("partitions");
        Ok(())
    }

    /// Takes in what has become durable.
    pub(super) fn durable(&mut self) {
        let now = self.clock.now();
        self.committing.confirmed(self.progress.committed);
        self.look_at_lease();
        match &self.progress.trouble {
            Some(trouble) => self.health.set("results", trouble.clone()),
            None => self.health.clear("results"),
        }
        for (lane, seq) in self.progress.durable.drain() {
            self.partitions.durable(now, lane, seq, self.progress.ends.remove(&lane), &mut self.out);
        }
        for (lane, offset) in self.progress.letters.drain(..) {
            self.partitions.apply_in(now, lane, Input::DeadLetterDurable(offset), &mut self.out);
        }
        self.progress.commit_times.drain(..).for_each(|took| self.metrics.commit(took));
        self.announce();
    }

    pub(super) fn found_again(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::Reloaded { partition, id, text } => {
                let input = Input::Reloaded { id, text: text.as_deref() };
                self.partitions.apply(now, partition, input, &mut self.out);
            }
            Done::LookedUp { partition, id, found } => {
                self.partitions.apply(now, partition, Input::LookedUp { id, found }, &mut self.out);
            }
            Done::ReadBack { partition, id, latest } => {
                self.partitions.apply(now, partition, Input::ReadBack { id, latest }, &mut self.out);
            }
            Done::Lag(Ok(lags)) => {
                self.health.clear("kafka");
                self.lag(&lags);
            }
            Done::Lag(Err(error)) => self.lag_unknown(&error),
        }
    }

    fn tick(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if now >= self.next_commit {
            self.next_commit = now + self.config.results.commit_interval.min(self.config.kafka.session_timeout / 4);
            self.commit()?;
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.look_at_everything(now)?;
        }
        Ok(())
    }

    fn look_at_everything(&mut self, now: Instant) -> Result<(), Error> {
        self.health.beat();
        let stuck = self.writer.is_stuck().then_some("results").or(self.intake.is_stuck().then_some("tokens"));
        if let Some(client) = self.stranded.who().or(stuck) {
            return Err(Error::Stranded { client });
        }
        self.look_at_lease();
        self.notices.tick();
        self.announce();
        self.partitions.apply_all(self.clock.now(), || Input::Tick, &mut self.out);
        self.close_idle_connections();
        match self.intake_closed {
            Some(since) if now.duration_since(since) >= PAUSE_AFTER => self.intake.pause()?,
            Some(_) => {}
            None if self.intake.is_paused() => self.intake.resume()?,
            None => {}
        }
        let records = std::mem::take(&mut self.records);
        if records > 0 {
            self.read_last = now;
        }
        self.metrics.records(records);
        self.metrics.commit_failures(self.intake.commits_failed());
        let (flow, usage) = (&self.partitions.shared.flow, self.partitions.shared.usage());
        self.metrics.gauges(&Gauges {
            open: usage.open,
            stubs: usage.stubs,
            text_bytes: usage.text_bytes,
            in_flight: flow.in_flight(),
            connections_up: flow.connections_up(),
            connections: flow.connections_wanted(),
            intake_paused: self.intake_closed.is_some(),
            look_ups: self.again.tasks.len(),
        });
        if now >= self.next_lag {
            self.next_lag = now + LAG_EVERY;
            let asked = self.intake.lag();
            self.again.tasks.spawn(async move { Done::Lag(asked.await) });
        }
        Ok(())
    }

    fn lag(&mut self, lags: &[Lag]) {
        let mut behind = false;
        for lag in lags {
            let Some(engine) = self.partitions.engine(lag.partition) else { continue };
            behind |= lag.end > engine.next_offset();
            let intake = (lag.end - engine.next_offset()).max(0);
            self.metrics.lag(lag.partition, intake, (lag.end - engine.watermark()).max(0));
        }
        let stalled = behind && self.intake_closed.is_none() && self.read_last.elapsed() >= STALLED_AFTER;
        match stalled {
            true => self.health.set("stalled", format!("behind, and nothing read for {STALLED_AFTER:?}")),
            false => self.health.clear("stalled"),
        }
    }

    /// While we have partitions, this passes, or they are lost. Without any, it is why: said once, in the words of the first
    /// error.
    fn lag_unknown(&self, error: &kafka::Error) {
        tracing::debug!(%error, "the lag is unknown");
        if self.partitions.numbers().is_empty() && !self.health.reasons().contains_key("kafka") {
            self.health.set("kafka", format!("kafka does not answer: {error}"));
        }
    }

    fn next_wake(&self) -> Instant {
        let engines = self.partitions.next_deadline().map(|time| Instant::from_std(self.clock.instant(time)));
        let own = self.next_commit.min(self.next_tick);
        engines.map_or(own, |engines| engines.min(own))
    }
}

/// The same memory, for events that borrow from another record.
fn recycled<'b>(mut events: Vec<engine::Event<'_>>) -> Vec<engine::Event<'b>> {
    events.clear();
    events.into_iter().map(|_| unreachable!("it is empty")).collect()
}
