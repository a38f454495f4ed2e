//! The load: responses as models write them, many at once, of realistic lengths, with ends of all kinds, on channels that
//! they share as the answers of a conversation do. A thread of its own writes it, at a given pace, until it is enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::e2e::story::PIECES;
use crate::world::World;

/// As many as one connection of a reader may be attached to, and one more for a last word.
const CHANNELS: usize = 199;
/// Responses that are open at once.
const OPEN_MAX: usize = 60;
/// The shortest and the longest response, in tokens.
const TOKENS: (f64, f64) = (6.0, 350.0);
/// How long the producer waits at a time: its pace, and that of retries.
const TICK: Duration = Duration::from_millis(10);
/// A broker that is away may be away for long.
const PATIENCE: Duration = Duration::from_secs(180);

/// How a response ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    End,
    /// With the whole text, which is not that of the tokens.
    Final(String),
    Cancel,
    Error,
    /// It just says nothing more.
    Silence,
}

/// A response, as its reader is to have it in the end.
#[derive(Debug, Clone)]
pub(super) struct Response {
    pub(super) id: String,
    pub(super) channel: String,
    partition: i32,
    tokens: Vec<String>,
    ending: Ending,
    /// Something that cannot be read comes before this token.
    garbage: Option<usize>,
    /// Something comes after the end.
    late: bool,
}

impl Response {
    fn new(rng: &mut Rng, number: usize, partitions: usize, may_be_silent: bool) -> Self {
        let (least, most) = TOKENS;
        let count = (least * (most / least).powf(rng.f64())) as usize;
        let tokens = (0..count).map(|_| PIECES[rng.usize(..PIECES.len())].to_owned()).collect();
        let ending = match rng.u8(..20) {
            0 => Ending::Cancel,
            1 => Ending::Error,
            2 => Ending::Final(format!("The final word of {number}.")),
            3 if may_be_silent => Ending::Silence,
            _ => Ending::End,
        };
        let late = ending != Ending::Silence && rng.u8(..50) == 0;
        Self {
            id: format!("resp-{number}-é"),
            channel: channel(number % CHANNELS),
            partition: (number % partitions) as i32,
            garbage: (rng.u8(..50) == 0).then(|| rng.usize(..count)),
            tokens,
            ending,
            late,
        }
    }

    pub(super) fn text(&self) -> String {
        match &self.ending {
            Ending::Final(text) => text.clone(),
            _ => self.tokens.concat(),
        }
    }

    pub(super) fn status(&self) -> &'static str {
        match self.ending {
            Ending::End | Ending::Final(_) => "complete",
            Ending::Cancel => "cancelled",
            Ending::Error => "error",
            Ending::Silence => "abandoned",
        }
    }

    /// Records of it that nobody can relay.
    pub(super) fn letters(&self) -> usize {
        usize::from(self.late) + usize::from(self.garbage.is_some())
    }

    fn values(&self) -> Vec<String> {
        let token = |text: &str| json!({"type": "token", "text": text, "channel": self.channel}).to_string();
        let mut values: Vec<String> = self.tokens.iter().map(|text| token(text)).collect();
        if let Some(at) = self.garbage {
            values.insert(at, "{\"type\":".to_owned());
        }
        let end = match &self.ending {
            Ending::End => Some(json!({"type": "end"})),
            Ending::Final(text) => Some(json!({"type": "end", "finalText": text})),
            Ending::Cancel => Some(json!({"type": "cancel"})),
            Ending::Error => Some(json!({"type": "error"})),
            Ending::Silence => None,
        };
        values.extend(end.map(|end| end.to_string()));
        values.extend(self.late.then(|| token("too late")));
        values
    }
}

fn channel(number: usize) -> String {
    format!("ai:chat-{number}")
}

/// Where responses will be.
pub(super) fn channels() -> impl Iterator<Item = String> {
    (0..CHANNELS).map(channel)
}

/// How much of it, and how fast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// So many responses at least.
    pub(super) least: usize,
    /// Records a second.
    pub(super) rate: u64,
}

/// A load that is being written. Dropping it ends it.
pub(super) struct Load {
    writer: Option<JoinHandle<Vec<Response>>>,
    wanted: Arc<Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// No more responses than there must be.
    enough: AtomicBool,
    /// Nothing at all.
    nothing: AtomicBool,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.wanted.nothing.store(true, Ordering::Relaxed);
    }
}

impl Load {
    pub(super) fn start(world: &World, plan: Plan) -> Self {
        let wanted = Arc::new(Wanted::default());
        let writer = Writer::new(world, plan, Arc::clone(&wanted));
        Self { writer: Some(tokio::task::spawn_blocking(|| writer.run())), wanted }
    }

    /// Begins no more responses, but for those that were planned at least; gives them all when the broker has them.
    pub(super) async fn finish(mut self) -> Vec<Response> {
        self.wanted.enough.store(true, Ordering::Relaxed);
        self.writer.take().expect("it ends once").await.expect("it writes")
    }
}

struct Writer {
    plan: Plan,
    rng: Rng,
    wanted: Arc<Wanted>,
    producer: BaseProducer,
    topic: String,
    partitions: usize,
    responses: Vec<Response>,
    open: Vec<(usize, std::vec::IntoIter<String>)>,
}

impl Writer {
    fn new(world: &World, plan: Plan, wanted: Arc<Wanted>) -> Self {
        let topic = world.settings.tokens_topic.clone();
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &world.settings.bootstrap_servers)
            // A broker that comes back must get each record once, in order.
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", PATIENCE.as_millis().to_string())
            .set("queue.buffering.max.messages", "1000000")
            .create()
            .expect("a producer");
        let partitions = world.partitions(&topic) as usize;
        let rng = Rng::with_seed(plan.seed);
        Self { plan, rng, wanted, producer, topic, partitions, responses: Vec::new(), open: Vec::new() }
    }

    fn run(mut self) -> Vec<Response> {
        let (start, mut written) = (Instant::now(), 0);
        self.begin();
        while !self.open.is_empty() && !self.wanted.nothing.load(Ordering::Relaxed) {
            let due = start.elapsed().as_millis() as u64 * self.plan.rate / 1_000;
            while written < due && !self.open.is_empty() {
                self.write_one();
                self.begin();
                written += 1;
            }
            self.producer.poll(TICK);
        }
        self.producer.flush(PATIENCE).expect("the broker has it");
        self.responses
    }

    fn begin(&mut self) {
        let is_enough = |number| number >= self.plan.least && self.wanted.enough.load(Ordering::Relaxed);
        while self.open.len() < OPEN_MAX && !is_enough(self.responses.len()) {
            let number = self.responses.len();
            // Later ones would have to be waited for.
            let may_be_silent = number < self.plan.least / 2;
            let response = Response::new(&mut self.rng, number, self.partitions, may_be_silent);
            self.open.push((number, response.values().into_iter()));
            self.responses.push(response);
        }
    }

    fn write_one(&mut self) {
        let chosen = self.rng.usize(..self.open.len());
        let (number, values) = &mut self.open[chosen];
        let Some(value) = values.next() else {
            self.open.swap_remove(chosen);
            return;
        };
        let Response { id, partition, .. } = &self.responses[*number];
        let mut record = BaseRecord::to(&self.topic).partition(*partition).key(id).payload(&value);
        while let Err((error, back)) = self.producer.send(record) {
            assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
            self.producer.poll(TICK);
            record = back;
        }
    }
}
