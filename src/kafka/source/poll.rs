//! Turns what librdkafka brings into items.
//!
//! Questions to the brokers (where to begin, where a topic's edges are) block, so each runs on a thread of its own while
//! records go on; one at a time, and the next rebalance waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Waking, Poll};
use std::time::Duration;

use futures_util::Stream;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::group::{Rebalanced, give, is_eager};
use super::held::Waiting;
use super::{Intake, Item};
use crate::kafka::assignment::{Assigned, edges};
use crate::kafka::error::Error;
use crate::kafka::restore;

/// How long to wait before a question is asked again that no broker answered.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// An answer from the brokers.
#[derive(Debug)]
pub(super) enum Answer {
    /// Where to begin with those that the group has given us; the others wait.
    Assigned(Vec<Assigned>, Waiting),
    /// The same of those that waited.
    Freed(Vec<Assigned>, Waiting),
    /// Partition, first offset, end.
    Edges(Vec<(i32, i64, i64)>),
}

impl<'a> Intake<'a> {
    pub(super) fn poll(&mut self, waking: &mut Waking<'_>) -> Poll<Item<'a>> {
        loop {
            if let Some(item) = self.poll_group(waking) {
                return Poll::Ready(item);
            }
            match Pin::new(&mut self.stream).poll_next(waking) {
                Poll::Ready(Some(Ok(message))) => {
                    if self.offsets.accept(message.partition(), message.offset()) {
                        return Poll::Ready(Item::Record(message));
                    }
                    self.repeated += 1;
                }
                Poll::Ready(Some(Err(error))) => {
                    if let Some(item) = self.went_wrong(error) {
                        return Poll::Ready(item);
                    }
                }
                Poll::Ready(None) => return Poll::Ready(Item::Failed(Error::Ended { role: "the consumer" })),
                // The poll may have brought a rebalance.
                Poll::Pending if self.looks_at_events() && self.source.consumer.context().has_event() => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Nothing is asked, and nothing was handed out that is to be started.
    fn looks_at_events(&self) -> bool {
        self.asking.is_none() && !self.offered
    }

    /// Everything but records: each thing is finished before the next is looked at.
    fn poll_group(&mut self, waking: &mut Waking<'_>) -> Option<Item<'a>> {
        loop {
            if let Some(item) = self.found.pop_front() {
                return Some(item);
            }
            if let Some(asking) = &mut self.asking {
                let Poll::Ready(answer) = Pin::new(asking).poll(waking) else { return None };
                self.asking = None;
                match answer.unwrap_or(Err(Error::Ended { role: "questions to the brokers" })) {
                    Ok(Answer::Assigned(ready, waiting)) => self.assigned(ready, waiting),
                    Ok(Answer::Freed(ready, waiting)) => self.freed(ready, waiting),
                    Ok(Answer::Edges(edges)) => self.find_places(&edges),
                    Err(error) => return Some(Item::Failed(error)),
                }
                continue;
            }
            if !self.looks_at_events() {
                return None;
            }
            let group = self.source.consumer.context();
            match group.next_event() {
                Some(Rebalanced::Assigned(partitions)) => self.ask_start(partitions),
                Some(Rebalanced::Revoked(partitions)) => self.revoked(&partitions),
                Some(Rebalanced::Lost(partitions)) => self.lost(&partitions),
                None if group.is_waiting() => return None,
                None if std::mem::take(&mut self.astray) => self.ask_edges(),
                None if self.held.is_due(waking) => self.ask_held(),
                None => return None,
            }
        }
    }

    fn assigned(&mut self, ready: Vec<Assigned>, waiting: Waiting) {
        if !waiting.is_empty() {
            self.held.hold(waiting);
            self.tell_held();
        }
        if !ready.is_empty() {
            self.found.push_back(Item::Assigned(ready));
        } else if let Err(error) = self.start(&[]) {
            self.found.push_back(Item::Failed(error));
        }
    }

    fn freed(&mut self, ready: Vec<Assigned>, waiting: Waiting) {
        if self.held.keep(waiting) {
            self.tell_held();
        }
        for partition in self.held.overdue(self.source.clients.transaction_timeout()) {
            let settings = self.source.clients.settings();
            tracing::error!(
                partition,
                "kafka: a transaction on topic {0} (kafka.results_topic) is open for longer than brokers let any be, so nobody \
                 will end it, and nobody can read behind it: find it with kafka-transactions.sh --bootstrap-server {1} \
                 find-hanging --topic {0} --partition {partition}, and end it with its verb abort",
                settings.results_topic,
                settings.bootstrap_servers
            );
        }
        if !ready.is_empty() {
            self.offered = true;
            self.found.push_back(Item::Assigned(ready));
        }
    }

    fn revoked(&mut self, partitions: &[i32]) {
        if self.held.forget(partitions) {
            self.tell_held();
        }
        let ours: Vec<i32> = partitions.iter().copied().filter(|partition| self.offsets.has(*partition)).collect();
        if !ours.is_empty() {
            self.found.push_back(Item::Revoked(ours));
        } else if let Err(error) = self.release(&[]) {
            self.found.push_back(Item::Failed(error));
        }
    }

    fn lost(&mut self, partitions: &[i32]) {
        if self.held.forget(partitions) {
            self.tell_held();
        }
        let ours: Vec<i32> = partitions.iter().copied().filter(|partition| self.offsets.has(*partition)).collect();
        let released = self.release(&ours);
        self.found.push_back(released.map_or_else(Item::Failed, |()| Item::Lost(ours)));
    }

    fn tell_held(&mut self) {
        let waiting = self.held.waiting();
        let Waiting { lacking, unstable } = &waiting;
        let topic = &self.source.policy.results;
        if waiting.is_empty() {
            tracing::info!(topic, "kafka: no partition waits for its results any longer");
        }
        if !lacking.is_empty() {
            tracing::warn!(topic, ?lacking, "kafka: the results topic has too few partitions, these tokens wait");
        }
        if !unstable.is_empty() {
            tracing::warn!(
                topic,
                ?unstable,
                "kafka: a former owner has left transactions open, these tokens wait until brokers end them"
            );
        }
        self.found.push_back(Item::Held(waiting));
    }

    fn went_wrong(&mut self, error: KafkaError) -> Option<Item<'a>> {
        match error {
            KafkaError::PartitionEOF(partition) if self.offsets.has(partition) => {
                self.source.consumer.context().log.well();
                Some(Item::End(partition))
            }
            KafkaError::MessageConsumptionFatal(code) => {
                let fatal = self.source.consumer.client().fatal_error();
                let reason = fatal.map_or_else(|| code.to_string(), |(_, reason)| reason);
                Some(Item::Failed(Error::Fatal { role: "tokens", reason }))
            }
            // It does not say which partition.
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset) => {
                self.astray = true;
                None
            }
            // Passing: librdkafka goes on by itself, and the context has logged it.
            _ => None,
        }
    }

    fn ask_start(&mut self, partitions: Vec<i32>) {
        self.ask_places(partitions, Answer::Assigned);
    }

    fn ask_held(&mut self) {
        let Waiting { mut lacking, unstable } = self.held.waiting();
        lacking.extend(unstable);
        self.ask_places(lacking, Answer::Freed);
    }

    fn ask_places(&mut self, partitions: Vec<i32>, answer: fn(Vec<Assigned>, Waiting) -> Answer) {
        let (policy, clients) = (self.source.policy.clone(), self.source.clients.clone());
        let pulse = self.pulse.clone();
        self.ask(move |consumer| {
            let results = policy.results_partitions(consumer)?;
            let (lacking, there): (Vec<_>, Vec<_>) =
                partitions.iter().copied().partition(|partition| *partition >= results);
            let mut ready = policy.decide(consumer, &there)?;
            let unstable = restore::complete(&clients, &mut ready, &pulse)?;
            Ok(answer(ready, Waiting { lacking, unstable }))
        });
    }

    fn ask_edges(&mut self) {
        let partitions = self.offsets.partitions();
        if partitions.is_empty() {
            return;
        }
        let topic = self.source.policy.topic.clone();
        self.ask(move |consumer| {
            let begins = edges(consumer, &topic, &partitions, Offset::Beginning)?;
            let ends = edges(consumer, &topic, &partitions, Offset::End)?;
            let both = begins.into_iter().zip(ends);
            Ok(Answer::Edges(both.map(|((partition, begins), (_, end))| (partition, begins, end)).collect()))
        });
    }

    /// Asks until a broker answers.
    fn ask(&mut self, question: impl Fn(&super::Consuming) -> Result<Answer, Error> + Send + 'static) {
        let (consumer, pulse) = (Arc::clone(&self.source.consumer), self.pulse.clone());
        self.asking = Some(tokio::task::spawn_blocking(move || {
            loop {
                pulse.beat();
                let answer = question(&consumer);
                pulse.rest();
                match answer {
                    Err(Error::Client { doing, source }) if !consumer.context().is_closing() => {
                        consumer.context().log.say(doing, || format!("cannot {doing} yet: {source}"));
                        std::thread::sleep(ASK_AGAIN);
                    }
                    answer => return answer,
                }
            }
        }));
    }

    /// Seats the partitions anew whose next offset is not in the topic, at the topic's beginning; all of them where they
    /// are, when it is none of them (then librdkafka had read ahead).
    fn find_places(&mut self, edges: &[(i32, i64, i64)]) {
        let mut gaps = Vec::new();
        for (partition, position) in self.offsets.positions() {
            let edge = edges.iter().find(|(found, ..)| *found == partition);
            if let Some((_, begins, end)) = edge
                && !(*begins..=*end).contains(&position)
            {
                gaps.push((partition, position, *begins));
            }
        }
        let seats =
            if gaps.is_empty() { self.offsets.positions() } else { gaps.iter().map(|gap| (gap.0, gap.2)).collect() };
        if let Err(error) = self.seat(&seats) {
            self.found.push_back(Item::Failed(error));
            return;
        }
        for (partition, expected, begins) in gaps {
            tracing::warn!(partition, expected, begins, "kafka: the topic does not hold the next offset any more");
            self.found.push_back(Item::Gap { partition, expected, begins });
        }
    }

    fn seat(&mut self, seats: &[(i32, i64)]) -> Result<(), Error> {
        let partitions: Vec<i32> = seats.iter().map(|(partition, _)| *partition).collect();
        let list = self.list(&partitions);
        let mut seated = TopicPartitionList::with_capacity(seats.len());
        for (partition, offset) in seats {
            seated
                .add_partition_offset(&self.source.policy.topic, *partition, Offset::Offset(*offset))
                .map_err(Error::client("find the place again"))?;
            self.offsets.jump(*partition, *offset);
        }
        let consumer = &*self.source.consumer;
        let failed = || Error::client("find the place again");
        let all = self.places().map_err(failed())?;
        if !is_eager(consumer) {
            consumer.incremental_unassign(&list).map_err(failed())?;
        }
        give(consumer, &seated, &all).map_err(failed())
    }
}
