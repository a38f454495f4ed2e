//! The demo's Kafka: librdkafka's mock cluster, which listens on loopback as a real one would.
//!
//! It keeps 5 MiB or 100,000 batches of a partition and drops the oldest without a word, so nobody may write faster than
//! the relay and the results' reader keep up: [`Progress`] says how far they are, [`Writer`] waits for it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;

use super::Error;
use super::generator::Cue;

/// The tokens topic.
pub(super) const TOKENS: &str = "llm.tokens.v1";
/// The results topic.
pub(super) const RESULTS: &str = "llm.tokens.results.v1";
/// The dead-letter topic.
pub(super) const DEAD_LETTERS: &str = "llm.tokens.dead-letters.v1";
/// Partitions of each.
pub(super) const PARTITIONS: usize = 8;

/// Records of one partition that may be written and not yet spoken of in the results: well below what the mock keeps.
const UNREAD_MAX: i64 = 2_000;

/// A Kafka that lives as long as this value.
pub(super) struct Broker {
    producer: ThreadedProducer<Deliveries>,
    lost: Arc<AtomicU64>,
}

/// Counts what could not be delivered: a record that is lost here would look like a fault of the relay.
struct Deliveries {
    lost: Arc<AtomicU64>,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Broker {
    /// Starts a cluster of one broker and makes the topics.
    pub(super) fn start() -> Result<Self, Error> {
        let lost = Arc::new(AtomicU64::new(0));
        let mut config = ClientConfig::new();
        config.set("test.mock.num.brokers", "1").set("linger.ms", "1").set("enable.metrics.push", "false");
        let producer = ThreadedProducer::from_config_and_context(&config, Deliveries { lost: lost.clone() })?;
        let broker = Self { producer, lost };
        let cluster = broker.producer.client().mock_cluster().ok_or(Error::NoBroker)?;
        for topic in [TOKENS, RESULTS, DEAD_LETTERS] {
            cluster.create_topic(topic, PARTITIONS as i32, 1)?;
        }
        drop(cluster);
        Ok(broker)
    }

    /// Where clients connect.
    pub(super) fn bootstrap_servers(&self) -> Result<String, Error> {
        Ok(self.producer.client().mock_cluster().ok_or(Error::NoBroker)?.bootstrap_servers())
    }

    /// How many records never arrived; known once the queue is empty.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

/// How far the results speak of the tokens, for each partition.
#[derive(Debug)]
pub(super) struct Progress {
    spoken_of: [AtomicI64; PARTITIONS],
    moved: Notify,
}

impl Default for Progress {
    fn default() -> Self {
        Self { spoken_of: [const { AtomicI64::new(-1) }; PARTITIONS], moved: Notify::new() }
    }
}

impl Progress {
    /// A result speaks of this record.
    pub(super) fn reached(&self, partition: i32, offset: i64) {
        if let Some(place) = usize::try_from(partition).ok().and_then(|partition| self.spoken_of.get(partition)) {
            place.fetch_max(offset, Ordering::Relaxed);
            self.moved.notify_waiters();
        }
    }

    async fn wait_for(&self, partition: usize, offset: i64) {
        loop {
            let moved = self.moved.notified();
            if self.spoken_of[partition].load(Ordering::Relaxed) >= offset {
                return;
            }
            moved.await;
        }
    }
}

/// Puts cues on the tokens topic.
pub(super) struct Writer {
    broker: Arc<Broker>,
    progress: Arc<Progress>,
    written: [i64; PARTITIONS],
}

impl Writer {
    /// A writer to topics that are empty.
    pub(super) fn new(broker: Arc<Broker>, progress: Arc<Progress>) -> Self {
        Self { broker, progress, written: [0; PARTITIONS] }
    }

    /// Writes one record, when there is room for it.
    pub(super) async fn write(&mut self, cue: &Cue) -> Result<(), Error> {
        let script = &cue.script;
        let partition = (script.index % PARTITIONS as u64) as usize;
        self.progress.wait_for(partition, self.written[partition] - UNREAD_MAX).await;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64;
        let mut record = BaseRecord::to(TOKENS)
            .partition(partition as i32)
            .key(script.id.as_str())
            .payload(script.lines[cue.line].value.as_slice())
            .timestamp(now);
        if script.channel_named {
            let channel = Header { key: "channel", value: Some(script.channel.as_str()) };
            record = record.headers(OwnedHeaders::new().insert(channel));
        }
        loop {
            match self.broker.producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), refused)) => {
                    record = refused;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        self.written[partition] += 1;
        Ok(())
    }
}

/// Settings that let any client live with the mock: it answers an empty fetch only when the wait is over.
pub(super) fn client_settings() -> HashMap<String, String> {
    [("fetch.wait.max.ms", "5"), ("fetch.queue.backoff.ms", "5"), ("enable.metrics.push", "false")]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}
