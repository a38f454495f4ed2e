//! The floor: the barest loop that consumes, encodes, sends, matches acknowledgements and writes a result of each.
//!
//! No repair, no budgets, no idea of what is durable: one thread, one connection, one queue of what is in flight.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, SinkExt, StreamExt};
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, ThreadedProducer};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde::Deserialize;
use tokenrelay::ably::encode::Encoder;
use tokenrelay::ably::wire::Encoding;
use tokenrelay::engine::{Head, OpId, OpKind, Operation, Serial, Status};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::process;

/// What one run of it is told.
pub(crate) struct Options {
    pub(crate) bootstrap: String,
    /// First part of the topics' names, and the group.
    pub(crate) prefix: String,
    pub(crate) port: u16,
    /// Tokens that go out as one operation.
    pub(crate) join: usize,
    /// Keep the texts, as whoever wants to repair them must.
    pub(crate) keep: bool,
}

impl Options {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { bootstrap, prefix, port, join, keep } = self;
        let words = ["as-floor", bootstrap, prefix, &port.to_string(), &join.to_string(), &keep.to_string()];
        words.map(str::to_owned).to_vec()
    }

    pub(crate) fn parse(words: &[&str]) -> Self {
        let words: [&str; 5] = words.try_into().expect("five arguments");
        let [bootstrap, prefix, port, join, keep] = words;
        Self {
            bootstrap: bootstrap.to_owned(),
            prefix: prefix.to_owned(),
            port: port.parse().expect("a port"),
            join: join.parse().expect("a number"),
            keep: keep.parse().expect("true or false"),
        }
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow, default)]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Ack<'a> {
    #[serde(borrow, default)]
    res: Vec<Given<'a>>,
}

#[derive(Deserialize)]
struct Given<'a> {
    #[serde(borrow)]
    serials: Vec<&'a str>,
}

struct Response {
    head: Arc<Head>,
    waiting: String,
    tokens: usize,
    seq: u32,
    text: String,
}

struct InFlight {
    head: Arc<Head>,
    partition: i32,
    offset: i64,
    seq: u32,
}

/// Relays until it is ended.
pub(crate) fn run(options: &Options) {
    process::end_with_parent(String::new);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(relay(options));
}

async fn relay(options: &Options) {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &options.bootstrap).set("enable.metrics.push", "false");
    let mut consuming = client.clone();
    consuming.set("group.id", &options.prefix).set("auto.offset.reset", "earliest").set("enable.auto.commit", "false");
    consuming.set("enable.auto.offset.store", "false").set("fetch.queue.backoff.ms", "20");
    let consumer: StreamConsumer = consuming.create().expect("a consumer");
    consumer.subscribe(&[&format!("{}.tokens", options.prefix)]).expect("subscribes");
    let producer = client.set("enable.idempotence", "true").set("linger.ms", "10").create().expect("a producer");
    let url = format!("ws://127.0.0.1:{}/?v=6&format=msgpack", options.port);
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.expect("connects");
    if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
        stream.set_nodelay(true).expect("is set");
    }
    socket.next().await.expect("says CONNECTED").expect("a frame");
    writeln!(std::io::stdout(), "started").expect("written");
    let mut floor = Floor {
        options,
        results: format!("{}.results", options.prefix),
        producer,
        encoder: Encoder::new(Encoding::Msgpack),
        responses: HashMap::new(),
        in_flight: VecDeque::new(),
        next_serial: 0,
        acked: HashMap::new(),
        record: String::new(),
        headers: headers(),
    };
    let mut commits = tokio::time::interval(Duration::from_millis(150));
    loop {
        tokio::select! {
            biased;
            frame = socket.next() => floor.answered(&frame.expect("a server").expect("a frame")),
            _ = commits.tick() => floor.commit(&consumer),
            record = consumer.recv() => {
                floor.consume(&record.expect("a record"), &mut socket).await;
                for _ in 1..256 {
                    let Some(record) = consumer.recv().now_or_never() else { break };
                    floor.consume(&record.expect("a record"), &mut socket).await;
                }
                socket.flush().await.expect("flushed");
            }
        }
    }
}

struct Floor<'a> {
    options: &'a Options,
    results: String,
    producer: ThreadedProducer<DefaultProducerContext>,
    encoder: Encoder,
    responses: HashMap<Box<[u8]>, Response>,
    in_flight: VecDeque<InFlight>,
    next_serial: u64,
    /// By partition, the offset behind the last record that was acknowledged.
    acked: HashMap<i32, i64>,
    record: String,
    headers: OwnedHeaders,
}

impl Floor<'_> {
    async fn consume(
        &mut self,
        record: &rdkafka::message::BorrowedMessage<'_>,
        socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>,
    ) {
        let (Some(key), Some(value)) = (record.key(), record.payload()) else { return };
        let event: Event<'_> = serde_json::from_slice(value).expect("an event");
        let is_end = event.kind == "end";
        let response = match self.responses.get_mut(key) {
            Some(response) => response,
            None => self.responses.entry(key.into()).or_insert_with(|| open(key)),
        };
        response.waiting.push_str(&event.text);
        response.tokens += 1;
        if response.seq > 0 && response.tokens < self.options.join && !is_end {
            return;
        }
        let kind = if response.seq == 0 { OpKind::Create } else { OpKind::Append };
        let operation = Operation {
            id: OpId { partition: 0, slot: 0, generation: 0, seq: response.seq },
            connection: 0,
            kind,
            sender: Arc::default(),
            head: response.head.clone(),
            serial: (kind != OpKind::Create).then(serial),
            data: response.waiting.as_str().into(),
            keeps_text: false,
            status: if is_end { Status::Complete } else { Status::Streaming },
            segments: None,
            publish: None,
        };
        if self.options.keep {
            response.text.push_str(&response.waiting);
        }
        response.waiting.clear();
        response.tokens = 0;
        response.seq += 1;
        let (partition, offset) = (record.partition(), record.offset());
        self.in_flight.push_back(InFlight { head: operation.head.clone(), partition, offset, seq: operation.id.seq });
        let frame = self.encoder.encode(&operation, self.next_serial);
        self.next_serial += 1;
        socket.feed(Message::Binary(frame)).await.expect("fed");
        if is_end {
            self.responses.remove(key);
        }
    }

    fn answered(&mut self, frame: &Message) {
        let Message::Binary(bytes) = frame else { return };
        let ack: Ack<'_> = rmp_serde::from_slice(bytes).expect("an acknowledgement");
        for given in ack.res {
            let Some(operation) = self.in_flight.pop_front() else { return };
            self.record.clear();
            write_result(&mut self.record, &operation, given.serials[0]);
            let InFlight { head, partition, offset, .. } = operation;
            self.acked.insert(partition, offset + 1);
            let record =
                BaseRecord::to(&self.results).partition(partition).key(&*head.response_id).payload(&self.record);
            let mut record = record.headers(self.headers.clone());
            while let Err((_, refused)) = self.producer.send(record) {
                record = refused;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn commit(&mut self, consumer: &StreamConsumer) {
        let topic = format!("{}.tokens", self.options.prefix);
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in self.acked.drain() {
            offsets.add_partition_offset(&topic, partition, Offset::Offset(offset)).expect("an offset");
        }
        if offsets.count() > 0 {
            consumer.commit(&offsets, CommitMode::Async).expect("commits");
        }
    }
}

fn open(key: &[u8]) -> Response {
    let id = String::from_utf8_lossy(key);
    let head = Head {
        channel: format!("ai:{id}").into(),
        response_id: id.as_ref().into(),
        part: 0,
        segment: 0,
        create_id: format!("bench.tokens.0.{id}.0.0").into(),
        supersedes: None,
        prev: None,
    };
    Response { head: Arc::new(head), waiting: String::new(), tokens: 0, seq: 0, text: String::new() }
}

/// A result as the contract wants it: what is in it is the floor's business only as far as it differs, but it costs its
/// bytes.
fn write_result(out: &mut String, operation: &InFlight, serial: &str) {
    let InFlight { head, partition, offset, seq } = operation;
    let Head { response_id, channel, .. } = &**head;
    write!(
        out,
        r#"{{"kind":"operation","v":1,"responseId":"{response_id}","part":0,"channel":"{channel}","pattern":"message-per-response","op":"append","opSeq":{seq},"cause":"stream","outcome":"acked","covered":{{"topic":"bench-1716-2.tokens","partition":{partition},"first":{offset},"last":{offset}}},"tokens":1,"bytes":6,"segment":0,"serial":"00000001005003-000@sinksinksi:000","versionSerial":"{serial}","attempt":1,"sentAt":"2026-11-23T17:15:05.392Z","settledAt":"2026-11-23T17:15:05.399Z","latencyMs":7.012,"queuedMs":0.0,"instance":"vm-1932","relayVersion":"0.1.0","epoch":0,"connectionId":"1005002"}}"#
    )
    .expect("written");
}

fn headers() -> OwnedHeaders {
    let pairs =
        [("kind", "operation"), ("outcome", "acked"), ("content-type", "application/json"), ("schema-version", "1")];
    let add = |headers: OwnedHeaders, (key, value)| headers.insert(Header { key, value: Some(value) });
    pairs.into_iter().fold(OwnedHeaders::new(), add)
}

/// The barest loop does not wait for serials: any will do.
fn serial() -> Serial {
    "01826232498871-001@abcdefghij:000".into()
}
