//! Reads a topic from outside: without a group, without a trace, committed records only.
//!
//! One scanner a topic, and one partition at a time: what librdkafka says of the end of a partition names neither the topic
//! nor the offset, so a partition that was read before must not be mistaken for the one that is read now. Blocks.

use std::ops::Range;
use std::time::{Duration, Instant};

use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::assignment::QUESTION;
use super::client::Clients;
use super::context::{Log, Plain};
use super::error::{Error, is_refusal};

/// How long a broker is waited for at first.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a partition may give nothing before it is given up on.
const SILENCE: Duration = Duration::from_secs(30);

/// What librdkafka may fetch at once, and hold of what we have not taken. Results compress well: by its defaults it holds
/// hundreds of megabytes of them.
const FETCHED: [(&str, &str); 2] = [("fetch.message.max.bytes", "262144"), ("queued.max.messages.kbytes", "8192")];

/// A reader of one topic.
pub struct Scanner {
    topic: String,
    servers: String,
    committed: BaseConsumer<Plain>,
    uncommitted: BaseConsumer<Plain>,
}

/// Where a partition begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The first offset that is still there.
    pub low: i64,
    /// The end of what is decided: no transaction below is open.
    pub stable: i64,
    /// The end, with what belongs to open transactions.
    pub high: i64,
}

impl Scanner {
    /// Makes a reader of `topic`. It does not connect yet.
    ///
    /// # Errors
    /// When librdkafka does not accept the settings.
    pub fn open(clients: &Clients, topic: &str) -> Result<Self, Error> {
        let make = |isolation: &str| {
            let mut config = clients.reader();
            config.set("isolation.level", isolation);
            for (property, value) in FETCHED {
                if !clients.settings().librdkafka.contains_key(property) {
                    config.set(property, value);
                }
            }
            BaseConsumer::from_config_and_context(&config, Plain { log: Log::new("scan", clients.stranded()) })
                .map_err(Error::client("make a reader of topics"))
        };
        Ok(Self {
            topic: topic.to_owned(),
            servers: clients.settings().bootstrap_servers.clone(),
            committed: make("read_committed")?,
            uncommitted: make("read_uncommitted")?,
        })
    }

    /// How many partitions the topic has. `key` is the setting that names it.
    ///
    /// # Errors
    /// When no broker answers, or the topic is not there, or not for us.
    pub fn partitions(&self, key: &'static str) -> Result<i32, Error> {
        let topic = self.topic.clone();
        let metadata =
            self.committed.fetch_metadata(Some(&topic), PATIENCE).map_err(|error| self.unreachable(&error))?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let error = found.and_then(|found| found.error()).map(RDKafkaErrorCode::from);
        match (found.map_or(0, |found| found.partitions().len()), error) {
            (_, Some(code)) if is_refusal(code) => {
                Err(Error::TopicForbidden { key, topic, reason: code.to_string(), rights: "Read and Describe" })
            }
            (0, _) => Err(Error::TopicMissing { key, topic, partitions: 1, servers: self.servers.clone() }),
            (count, _) => Ok(i32::try_from(count).unwrap_or(i32::MAX)),
        }
    }

    /// Where a partition begins and ends now.
    ///
    /// # Errors
    /// When the broker does not say.
    pub fn extent(&self, partition: i32) -> Result<Extent, Error> {
        let failed = || Error::client("read a topic's offsets");
        let (low, high) = self.uncommitted.fetch_watermarks(&self.topic, partition, QUESTION).map_err(failed())?;
        let (_, stable) = self.committed.fetch_watermarks(&self.topic, partition, QUESTION).map_err(failed())?;
        Ok(Extent { low, stable, high: high.max(stable) })
    }

    /// The first record of a partition whose time is `millis` (since the Unix epoch) or later; none if all are earlier.
    ///
    /// # Errors
    /// When the broker does not say.
    pub fn at(&self, partition: i32, millis: i64) -> Result<Option<i64>, Error> {
        let failed = || Error::client("look an offset up by its time");
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition, Offset::Offset(millis)).map_err(failed())?;
        let found = self.committed.offsets_for_times(list, QUESTION).map_err(failed())?;
        let offset = found.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::offset);
        Ok(match offset {
            Some(Offset::Offset(offset)) => Some(offset),
            _ => None,
        })
    }

    /// What the group has committed of each of the partitions `0..partitions`.
    ///
    /// # Errors
    /// When the group's coordinator does not say.
    pub fn group_offsets(&self, partitions: i32) -> Result<Vec<Option<i64>>, Error> {
        let mut list = TopicPartitionList::new();
        list.add_partition_range(&self.topic, 0, partitions - 1);
        let found = self.committed.committed_offsets(list, QUESTION);
        let found = found.map_err(Error::client("read the group's offsets"))?;
        let offset = |partition| match found.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok((0..partitions).map(offset).collect())
    }

    /// Reads what a partition holds in `range`, which ends no later than what is decided.
    ///
    /// # Errors
    /// When the broker is silent for too long, or refuses.
    pub fn read(
        &self,
        partition: i32,
        range: Range<i64>,
        mut each: impl FnMut(&BorrowedMessage<'_>),
    ) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        let failed = || Error::client("read a range of a topic");
        let mut list = TopicPartitionList::with_capacity(1);
        list.add_partition_offset(&self.topic, partition, Offset::Offset(range.start))
            .and_then(|()| self.committed.assign(&list))
            .map_err(failed())?;
        let mut heard = Instant::now();
        loop {
            match self.committed.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.partition() != partition => {}
                Some(Ok(message)) => {
                    heard = Instant::now();
                    if message.offset() < range.end {
                        each(&message);
                    }
                    if message.offset() + 1 >= range.end {
                        break;
                    }
                }
                // The rest of the range is what transactions and compaction leave.
                Some(Err(KafkaError::PartitionEOF(ended))) if ended == partition => break,
                Some(Err(source)) if source.rdkafka_error_code().is_some_and(is_refusal) => {
                    return Err(failed()(source));
                }
                Some(Err(_)) | None if heard.elapsed() < SILENCE => {}
                Some(Err(source)) => return Err(failed()(source)),
                None => return Err(failed()(KafkaError::NoMessageReceived)),
            }
        }
        self.committed.unassign().map_err(failed())
    }

    fn unreachable(&self, error: &KafkaError) -> Error {
        // Its errors come as events, each behind lines for the log.
        while self.committed.poll(Duration::from_millis(20)).is_some() {}
        let trouble = self.committed.context().log.trouble();
        let detail = trouble.as_ref().map_or_else(|| error.to_string(), |trouble| trouble.reason.clone());
        let servers = self.servers.clone();
        match trouble.map(|trouble| trouble.code) {
            Some(code) if is_refusal(code) || code == RDKafkaErrorCode::SSL => Error::Unwelcome { servers, detail },
            _ => Error::Unreachable { servers, detail },
        }
    }
}
