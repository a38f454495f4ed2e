//! The producer, and what is on its way through it.
//!
//! `BaseProducer::poll` handles one event when it is told not to wait; otherwise it never returns before its time, and spins
//! for what is left of it below a millisecond (seen in rdkafka 0.39). So the thread sleeps by itself and looks then.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, BorrowedMessage, DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};

use super::batch::{Lane, Reported};
use super::letter::{Letter, Written};
use super::thread::is_too_long;
use crate::engine::{ReportSeq, SCHEMA_VERSION};
use crate::kafka::client::Clients;
use crate::kafka::context::{Log, lock, speaks_through};
use crate::kafka::error::Error;

/// In the place of a letter that was taken.
const NOBODY: Lane = Lane { partition: -1, life: 0 };

/// Records that may be on their way at once.
const ON_ITS_WAY_MAX: usize = 50_000;

/// A record that was given to the producer.
#[derive(Debug)]
pub(super) enum Sent {
    Report {
        lane: Lane,
        seq: ReportSeq,
        /// Only once it was refused; until then librdkafka has it.
        record: Option<Record>,
    },
    Letter(Box<Letter>),
}

/// Where a record has come to stand in its topic.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) partition: i32,
    pub(super) offset: i64,
}

/// A record that came back.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) sent: Sent,
    code: RDKafkaErrorCode,
}

#[derive(Debug)]
pub(super) struct Record {
    key: Vec<u8>,
    value: Vec<u8>,
    headers: OwnedHeaders,
}

/// The producer's context: what was delivered waits here until the thread looks.
#[derive(Debug)]
struct Deliveries {
    log: Log,
    done: Mutex<Vec<Delivery>>,
    /// Where brokers claim to have records, and the offset that the next one of the same batch would seem to have.
    claims: Mutex<HashMap<(String, i32), i64>>,
}

#[derive(Debug)]
struct Delivery {
    slot: usize,
    partition: i32,
    offset: i64,
    refused: Option<(RDKafkaErrorCode, Record)>,
}

/// See the module.
pub(super) struct Outbox {
    producer: BaseProducer<Deliveries>,
    results: String,
    dead_letters: String,
    slots: Vec<Option<Sent>>,
    free: Vec<usize>,
    headers: Described,
    fatal: Option<String>,
}

/// The headers of reports, made once for each kind and outcome and then copied, which is cheaper.
#[derive(Debug, Default)]
struct Described(Vec<(&'static str, &'static str, OwnedHeaders)>);

speaks_through!(Deliveries, log);

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        let (Ok(message) | Err((_, message))) = result;
        let refused = match result {
            Ok(_) if !self.is_claimed(message) => None,
            Ok(_) => Some(RDKafkaErrorCode::DuplicateSequenceNumber),
            Err((error, _)) => Some(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        let refused = refused.map(|code| (code, Record::of(message)));
        lock(&self.done).push(Delivery { slot, partition: message.partition(), offset: message.offset(), refused });
    }
}

impl Deliveries {
    /// Whether the broker has told librdkafka only that it has the record already, and not where. After a crash of either that
    /// need not be so. Such a batch has offsets from -1 on (seen in librdkafka 2.12, whose authors doubt it, too).
    fn is_claimed(&self, message: &BorrowedMessage<'_>) -> bool {
        let mut claims = lock(&self.claims);
        let offset = message.offset();
        if offset >= 0 && claims.is_empty() {
            return false;
        }
        let place = (message.topic().to_owned(), message.partition());
        let goes_on = claims.get(&place) == Some(&offset);
        match offset < 0 || goes_on {
            true => _ = claims.insert(place, offset.max(-1) + 1),
            false => _ = claims.remove(&place),
        }
        offset < 0 || goes_on
    }
}

impl Outbox {
    pub(super) fn new(clients: &Clients) -> Result<Self, Error> {
        let log = Log::new("results", clients.stranded());
        let context = Deliveries { log, done: Mutex::default(), claims: Mutex::default() };
        let producer = BaseProducer::from_config_and_context(&clients.producer(), context)
            .map_err(Error::client("make the producer"))?;
        let settings = clients.settings();
        Ok(Self {
            producer,
            results: settings.results_topic.clone(),
            dead_letters: settings.dead_letters_topic.clone(),
            slots: Vec::new(),
            free: Vec::new(),
            headers: Described::default(),
            fatal: None,
        })
    }

    pub(super) fn on_its_way(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.on_its_way() >= ON_ITS_WAY_MAX
    }

    /// Why the producer is beyond help, if it is.
    pub(super) fn fatal(&mut self) -> Option<String> {
        self.fatal.take()
    }

    /// Sleeps, then lets librdkafka report what has come meanwhile.
    pub(super) fn wait(&self, time: Duration) {
        std::thread::sleep(time);
        self.look();
    }

    /// Lets librdkafka report what it has at hand.
    pub(super) fn look(&self) {
        look(&self.producer);
    }

    /// Makes our name known to the brokers, and ends what another of that name has left open.
    pub(super) fn introduce(&self, within: Duration) -> Result<(), KafkaError> {
        self.look();
        self.producer.init_transactions(within)
    }

    pub(super) fn begin(&self) -> Result<(), KafkaError> {
        self.producer.begin_transaction()
    }

    pub(super) fn add_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &ConsumerGroupMetadata,
        within: Duration,
    ) -> Result<(), KafkaError> {
        self.producer.send_offsets_to_transaction(offsets, group, within)
    }

    /// To be called with nothing on its way: rdkafka would wait for it in steps of a tenth of a second.
    pub(super) fn commit(&self, within: Duration) -> Result<(), KafkaError> {
        self.look();
        self.producer.commit_transaction(within)
    }

    pub(super) fn abort(&self, within: Duration) -> Result<(), KafkaError> {
        self.look();
        self.producer.abort_transaction(within)
    }

    pub(super) fn report(&mut self, report: &Reported, bytes: &[u8]) {
        let slot = self.put(Sent::Report { lane: report.lane, seq: report.seq, record: None });
        let record = BaseRecord::with_opaque_to(&self.results, slot)
            .partition(report.lane.partition)
            .key(&bytes[report.key.clone()])
            .payload(&bytes[report.value.clone()])
            .headers(self.headers.of(report));
        send(&self.producer, record);
    }

    /// Sends a dead letter, or again what was refused.
    pub(super) fn resend(&mut self, sent: Sent) {
        let slot = self.put(sent);
        match &mut self.slots[slot] {
            Some(Sent::Report { lane, record, .. }) => {
                let partition = lane.partition;
                let Some(Record { key, value, headers }) = record.take() else { return };
                let record = BaseRecord::with_opaque_to(&self.results, slot).partition(partition).headers(headers);
                send(&self.producer, record.key(&key[..]).payload(&value[..]));
            }
            Some(Sent::Letter(letter)) => {
                let Written { key, value, headers } = letter.write();
                let mut record: BaseRecord<'_, [u8], [u8], usize> =
                    BaseRecord::with_opaque_to(&self.dead_letters, slot);
                record.key = key.as_deref();
                record.payload = value.as_deref();
                record.headers = headers;
                send(&self.producer, record);
            }
            None => {}
        }
    }

    /// What has come to an end since it was last asked: delivered to a place, or refused.
    pub(super) fn delivered(&mut self) -> Vec<Result<(Sent, Place), Kept>> {
        let deliveries = std::mem::take(&mut *lock(&self.producer.context().done));
        if deliveries.iter().any(|delivery| delivery.refused.is_none()) {
            self.producer.context().log.well();
        }
        deliveries.into_iter().filter_map(|delivery| self.end(delivery)).collect()
    }

    fn end(&mut self, Delivery { slot, partition, offset, refused }: Delivery) -> Option<Result<(Sent, Place), Kept>> {
        let mut sent = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        let Some((code, came_back)) = refused else { return Some(Ok((sent, Place { partition, offset }))) };
        if let Some((_, reason)) = self.producer.client().fatal_error() {
            self.fatal = Some(reason);
        }
        if let Sent::Report { record, .. } = &mut sent {
            *record = Some(came_back);
        }
        Some(Err(Kept { sent, code }))
    }

    fn put(&mut self, sent: Sent) -> usize {
        if let Some(slot) = self.free.pop() {
            self.slots[slot] = Some(sent);
            return slot;
        }
        self.slots.push(Some(sent));
        self.slots.len() - 1
    }
}

impl Kept {
    pub(super) fn is_too_long(&self) -> bool {
        is_too_long(self.code)
    }

    /// Whether it came back because its transaction has failed.
    pub(super) fn is_purged(&self) -> bool {
        matches!(self.code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
    }

    /// That is why.
    pub(super) fn explain(&mut self, error: &KafkaError) {
        self.code = error.rdkafka_error_code().unwrap_or(self.code);
    }

    /// Whether it is a dead letter, or was one that has been taken.
    pub(super) fn is_letter(&self) -> bool {
        matches!(self.sent, Sent::Letter(_) | Sent::Report { lane: NOBODY, .. })
    }

    pub(super) fn take_letter(&mut self) -> Option<Box<Letter>> {
        match &mut self.sent {
            Sent::Report { .. } => None,
            sent @ Sent::Letter(_) => {
                match std::mem::replace(sent, Sent::Report { lane: NOBODY, seq: 0, record: None }) {
                    Sent::Letter(letter) => Some(letter),
                    Sent::Report { .. } => None,
                }
            }
        }
    }

    /// Results of a partition are sent again in the order in which they were made.
    pub(super) fn order(&self) -> (i32, ReportSeq) {
        match &self.sent {
            Sent::Report { lane, seq, .. } => (lane.partition, *seq),
            Sent::Letter(letter) => (letter.lane.partition, 0),
        }
    }

    /// What a person has to mend.
    pub(super) fn trouble(&self, outbox: &Outbox) -> String {
        let (key, topic) = match &self.sent {
            Sent::Report { .. } => ("kafka.results_topic", &outbox.results),
            Sent::Letter(_) => ("kafka.dead_letters_topic", &outbox.dead_letters),
        };
        format!("topic {topic} ({key}) refuses a record: {}", self.code)
    }
}

impl Record {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        Self {
            key: message.key().unwrap_or_default().to_vec(),
            value: message.payload().unwrap_or_default().to_vec(),
            headers: message.headers().map(BorrowedHeaders::detach).unwrap_or_default(),
        }
    }
}

/// Gives a record to librdkafka. What it refuses at once comes back like what a broker refuses; while its queue is full
/// it is asked again.
fn send(producer: &BaseProducer<Deliveries>, mut record: BaseRecord<'_, [u8], [u8], usize>) {
    while let Err((error, back)) = producer.send(record) {
        let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
        if code != RDKafkaErrorCode::QueueFull || matches!(error, KafkaError::Nul(_)) {
            let record = Record {
                key: back.key.unwrap_or_default().to_vec(),
                value: back.payload.unwrap_or_default().to_vec(),
                headers: back.headers.unwrap_or_default(),
            };
            let delivery =
                Delivery { slot: back.delivery_opaque, partition: -1, offset: -1, refused: Some((code, record)) };
            lock(&producer.context().done).push(delivery);
            return;
        }
        record = back;
        std::thread::sleep(Duration::from_millis(5));
        look(producer);
    }
}

fn look(producer: &BaseProducer<Deliveries>) {
    let ended = || lock(&producer.context().done).len();
    loop {
        let before = ended();
        producer.poll(Duration::ZERO);
        if ended() == before {
            return;
        }
    }
}

impl Described {
    fn of(&mut self, report: &Reported) -> OwnedHeaders {
        let is_known = |(kind, outcome, _): &(&str, &str, _)| *kind == report.kind && *outcome == report.outcome;
        let known = self.0.iter().position(is_known).unwrap_or_else(|| {
            self.0.push((report.kind, report.outcome, describe(report.kind, report.outcome)));
            self.0.len() - 1
        });
        let headers = self.0[known].2.clone();
        match &report.traceparent {
            Some(traceparent) => headers.insert(Header { key: "traceparent", value: Some(&**traceparent) }),
            None => headers,
        }
    }
}

fn describe(kind: &str, outcome: &str) -> OwnedHeaders {
    let version = SCHEMA_VERSION.to_string();
    OwnedHeaders::new_with_capacity(5)
        .insert(Header { key: "kind", value: Some(kind) })
        .insert(Header { key: "outcome", value: Some(outcome) })
        .insert(Header { key: "content-type", value: Some("application/json") })
        .insert(Header { key: "schema-version", value: Some(&version) })
}
