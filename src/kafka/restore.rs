//! Reads what a former owner has left in the results topic, when partitions are given to us. Blocks.
//!
//! Read to the end, exactly: after the committed offset is known (a broker gives it only when no transaction with that
//! offset is open), the partition's end is asked for *including* what is not committed; then committed records are read up
//! to there. The last stable offset of the moment would not do: results whose offset is visible already may lie behind it.
//! A transaction that its dead owner left open holds this up until the broker ends it (`results.transaction_timeout`).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::assignment::{Assigned, Before, QUESTION};
use super::client::Clients;
use super::context::{Log, Plain};
use super::error::Error;
use super::predecessor::Stretch;
use super::pulse::Pulse;
use crate::engine::History;

/// How often it is looked whether an open transaction has ended.
const LOOK: Duration = Duration::from_millis(20);
/// How long reading may stand still before it is begun again.
const SILENCE: Duration = Duration::from_secs(30);

/// Completes what is known of the partitions that were given to us.
///
/// # Errors
/// That the brokers do not say; then it is worth asking again.
pub(super) fn complete(clients: &Clients, assigned: &mut [Assigned], results: i32, pulse: &Pulse) -> Result<(), Error> {
    // A tokens partition without a counterpart has no results.
    let places: Vec<(i32, Before)> = assigned
        .iter()
        .filter(|assigned| assigned.partition < results)
        .map(|assigned| (assigned.partition, assigned.before.clone()))
        .collect();
    let began = Instant::now();
    let mut restorer = Restorer::new(clients)?;
    let stretches = restorer.stretches(&places, pulse)?;
    let mut histories = restorer.read(&stretches, pulse)?;
    let responses: usize = histories.values().map(History::len).sum();
    if responses > 0 {
        tracing::info!(
            partitions = stretches.len(),
            records = restorer.records,
            responses,
            millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "results of former owners were read"
        );
    }
    for assigned in assigned {
        let Some(stretch) = stretches.get(&assigned.partition) else { continue };
        let history = histories.remove(&assigned.partition).unwrap_or_default();
        if history.unreadable() > 0 {
            tracing::warn!(
                partition = assigned.partition,
                records = history.unreadable(),
                "results that are not ours, or of a version that is not known: every open response begins with its full text"
            );
        }
        assigned.inherit(history, *stretch);
    }
    Ok(())
}

struct Restorer {
    tokens: String,
    topic: String,
    committed: BaseConsumer<Plain>,
    uncommitted: BaseConsumer<Plain>,
    records: u64,
}

impl Restorer {
    fn new(clients: &Clients) -> Result<Self, Error> {
        let make = |isolation: &str| {
            let mut config = clients.rereader();
            config.set("isolation.level", isolation);
            BaseConsumer::from_config_and_context(&config, Plain { log: Log::new("restore", clients.stranded()) })
                .map_err(Error::client("make a reader of results"))
        };
        Ok(Self {
            tokens: clients.settings().tokens_topic.clone(),
            topic: clients.settings().results_topic.clone(),
            committed: make("read_committed")?,
            uncommitted: make("read_uncommitted")?,
            records: 0,
        })
    }

    /// From where to where each partition is read; waits for open transactions.
    fn stretches(&self, places: &[(i32, Before)], pulse: &Pulse) -> Result<HashMap<i32, Stretch>, Error> {
        let failed = || Error::client("read the results topic's offsets");
        let mut stretches = HashMap::with_capacity(places.len());
        for (partition, before) in places {
            pulse.beat();
            let (low, end) = self.uncommitted.fetch_watermarks(&self.topic, *partition, QUESTION).map_err(failed())?;
            let stretch = Stretch::of(before, low, end);
            if let Some((place, until)) = before.results(end).filter(|_| !stretch.whole) {
                tracing::warn!(
                    partition,
                    place,
                    until,
                    begins = low,
                    ends = end,
                    topic = self.topic,
                    "results that are needed are not there any more: every open response begins with its full text"
                );
            }
            stretches.insert(*partition, stretch);
        }
        let mut said = false;
        for (partition, stretch) in &stretches {
            loop {
                pulse.beat();
                let (_, stable) =
                    self.committed.fetch_watermarks(&self.topic, *partition, QUESTION).map_err(failed())?;
                if stable >= stretch.end {
                    break;
                }
                if !std::mem::replace(&mut said, true) {
                    tracing::info!(partition, "waiting for the end of a transaction that a former owner has left open");
                }
                std::thread::sleep(LOOK);
            }
        }
        Ok(stretches)
    }

    fn read(&mut self, stretches: &HashMap<i32, Stretch>, pulse: &Pulse) -> Result<HashMap<i32, History>, Error> {
        let failed = || Error::client("read results again");
        let mut left: HashMap<i32, i64> = HashMap::new();
        let mut list = TopicPartitionList::new();
        for (partition, stretch) in stretches.iter().filter(|(_, stretch)| stretch.from < stretch.end) {
            list.add_partition_offset(&self.topic, *partition, Offset::Offset(stretch.from)).map_err(failed())?;
            left.insert(*partition, stretch.end);
        }
        let mut histories: HashMap<i32, History> = HashMap::new();
        if left.is_empty() {
            return Ok(histories);
        }
        self.committed.assign(&list).map_err(failed())?;
        let tokens = &self.tokens;
        let mut heard = Instant::now();
        while !left.is_empty() {
            pulse.beat();
            match self.committed.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let Some(end) = left.get(&message.partition()) else { continue };
                    if message.offset() + 1 >= *end {
                        left.remove(&message.partition());
                    }
                    self.records += 1;
                    histories
                        .entry(message.partition())
                        .or_default()
                        .add(tokens, message.payload().unwrap_or_default());
                }
                // What remains is marks of transactions.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    left.remove(&partition);
                }
                Some(Err(_)) | None if heard.elapsed() < SILENCE => {}
                Some(Err(source)) => return Err(failed()(source)),
                None => return Err(failed()(KafkaError::NoMessageReceived)),
            }
        }
        self.committed.unassign().map_err(failed())?;
        Ok(histories)
    }
}
