//! Pacing: what is sent under limits, against a server that counts what it publishes after its own rollup.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::*;

mod budgets;
mod connections;
mod fairness;

/// From an operation to its answer.
const ROUND_TRIP: Duration = Duration::from_millis(20);

/// What the server limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Connection,
    Channel,
    Account,
    /// Frames of a connection, whatever becomes of them.
    Frames,
}

/// A server with one limit.
#[derive(Debug)]
struct Server {
    scope: Scope,
    /// Publishes a second; infinite for none.
    limit: f64,
    /// Whether its refusals say so.
    names: bool,
    rollup: Duration,
    /// Per whatever is limited: how much is used up, and since when.
    levels: HashMap<String, (f64, Time)>,
    messages: HashMap<Serial, Message>,
    made: u64,
    published: u64,
    refused: u64,
    /// Channels that a connection takes, and those that it has.
    channels_max: usize,
    /// It refuses everything for its rate.
    refuses: bool,
    channels: HashMap<ConnectionId, Vec<Arc<str>>>,
}

#[derive(Debug)]
struct Message {
    response_id: String,
    text: String,
    /// When its last publish is, or was, due.
    published: Option<Time>,
}

impl Server {
    fn take(&mut self, now: Time, operation: &Operation) -> Outcome {
        let channels = self.channels.entry(operation.connection).or_default();
        if !channels.contains(&operation.head.channel) {
            if channels.len() == self.channels_max {
                return rejected(90_010, String::new());
            }
            channels.push(operation.head.channel.clone());
        }
        let message = operation.serial.as_ref().and_then(|serial| self.messages.get(serial));
        let published = message.and_then(|message| message.published).filter(|_| operation.kind == OpKind::Append);
        let joins = published.is_some_and(|published| now < published);
        if self.refuses || ((self.scope == Scope::Frames || !joins) && !self.allows(now, operation)) {
            self.refused += 1;
            let named = if self.names { format!("permitted rate = {}", self.limit) } else { String::new() };
            let code = match self.scope {
                Scope::Connection | Scope::Frames => 42_911,
                Scope::Channel => 42_913,
                Scope::Account => 42_917,
            };
            return rejected(code, named);
        }
        self.published += u64::from(!joins);
        self.made += 1;
        let version: Serial = format!("{:012}", self.made).into();
        let serial = operation.serial.clone().unwrap_or_else(|| version.clone());
        let message = self.messages.entry(serial).or_insert_with(|| Message {
            response_id: operation.head.response_id.to_string(),
            text: String::new(),
            published: None,
        });
        match operation.kind {
            OpKind::Append => {
                message.text.push_str(&operation.data);
                message.published = match published.filter(|published| now < *published + self.rollup) {
                    Some(published) if joins => Some(published),
                    Some(published) => Some(published + self.rollup),
                    None => Some(now),
                };
            }
            OpKind::Create | OpKind::Update | OpKind::Publish => {
                message.text = operation.data.to_string();
                message.published = None;
            }
        }
        Outcome::Acked { serial: Some(version) }
    }

    /// Half a second's worth may come at once.
    fn allows(&mut self, now: Time, operation: &Operation) -> bool {
        let key = match self.scope {
            Scope::Connection | Scope::Frames => operation.connection.to_string(),
            Scope::Channel => operation.head.channel.to_string(),
            Scope::Account => String::new(),
        };
        let (level, since) = self.levels.entry(key).or_insert((0.0, now));
        *level = (*level - now.since(*since).as_secs_f64() * self.limit).max(0.0);
        *since = now;
        if self.limit.is_finite() && *level + 1.0 > (self.limit / 2.0).max(1.0) {
            return false;
        }
        if self.limit.is_finite() {
            *level += 1.0;
        }
        true
    }

    fn text(&self, response_id: &str) -> &str {
        let mut messages = self.messages.values().filter(|message| message.response_id == response_id);
        messages.next().map_or("", |message| &message.text)
    }
}

fn rejected(code: u32, message: String) -> Outcome {
    Outcome::Rejected(Rejection { code, status_code: 429, class: Class::RateLimited, message })
}

/// A producer.
#[derive(Debug)]
struct Stream {
    id: &'static str,
    channel: String,
    partition: usize,
    gap: Duration,
    next: Option<Time>,
    written: usize,
    /// When it wrote what no operation has carried yet.
    waiting: Option<Time>,
    sent: usize,
    /// The longest that anything of it has waited since somebody last looked.
    longest: Duration,
    ended: bool,
}

/// Engines that share one flow, streams that feed them, and the server.
struct World {
    engines: Vec<Engine>,
    offsets: Vec<Offset>,
    shared: Shared,
    server: Server,
    effects: Effects,
    streams: Vec<Stream>,
    answers: BinaryHeap<Reverse<(Time, u64)>>,
    pending: BTreeMap<u64, Answer>,
    now: Time,
    opened: u64,
    pipelining: Pipelining,
    rate_max: Option<u32>,
    operations: u64,
    frames: BTreeMap<ConnectionId, u64>,
    tokens: u64,
}

impl World {
    fn new(limits: Limits, rollup: Duration, partitions: i32, scope: Scope, limit: f64) -> Self {
        let settings = Arc::new(Settings { append_rollup: rollup, ..settings() });
        let engines = (0..partitions).map(|partition| Engine::new(settings.clone(), partition, 0)).collect();
        Self {
            engines,
            offsets: vec![0; partitions as usize],
            shared: Shared::new(limits, rollup),
            server: Server {
                scope,
                limit,
                names: false,
                rollup,
                levels: HashMap::new(),
                messages: HashMap::new(),
                made: 0,
                published: 0,
                refused: 0,
                channels_max: usize::MAX,
                refuses: false,
                channels: HashMap::new(),
            },
            effects: Effects::default(),
            streams: Vec::new(),
            answers: BinaryHeap::new(),
            pending: BTreeMap::new(),
            now: Time::from_millis(1_000_000_000),
            opened: 0,
            pipelining: Pipelining::On,
            rate_max: None,
            operations: 0,
            frames: BTreeMap::new(),
            tokens: 0,
        }
    }

    fn stream(&mut self, channel: &str, partition: usize, gap: Duration) -> usize {
        let n = self.streams.len();
        let id: &'static str = Box::leak(format!("r{n}").into_boxed_str());
        // Not all at once.
        let next = Some(self.now + gap * (n as u32 % 7) / 7);
        let channel = format!("ai:{channel}");
        self.streams.push(Stream {
            id,
            channel,
            partition,
            gap,
            next,
            written: 0,
            waiting: None,
            sent: 0,
            longest: Duration::ZERO,
            ended: false,
        });
        n
    }

    /// Lets everything happen that happens within this time.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let token = (0..).zip(&self.streams).filter_map(|(n, stream)| Some((stream.next?, n))).min();
            let answer = self.answers.peek().map(|Reverse((time, _))| *time);
            let ticks = (0..).zip(&self.engines).filter_map(|(p, engine)| Some((engine.next_deadline()?, p)));
            let tick: Option<(Time, usize)> = ticks.min();
            let next = [token.map(|(time, _)| time), answer, tick.map(|(time, _)| time)].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            if let Some((_, p)) = tick.filter(|(time, _)| *time <= self.now) {
                self.apply(p, Input::Tick);
                let due = self.engines[p].next_deadline();
                assert!(due.is_none_or(|due| due > self.now), "a tick at a time that has passed");
            } else if answer.is_some_and(|time| time <= self.now) {
                self.answered();
            } else if let Some((_, n)) = token {
                self.write(n);
            }
        }
        self.now = end;
    }

    fn answered(&mut self) {
        let Some(Reverse((_, number))) = self.answers.pop() else { return };
        let answer = self.pending.remove(&number).expect("it was asked");
        self.apply(answer.op.partition as usize, Input::Answer(answer));
        for p in 0..self.engines.len() {
            if self.engines[p].is_blocked(&self.shared) {
                self.apply(p, Input::Tick);
            }
        }
    }

    fn write(&mut self, n: usize) {
        let stream = &mut self.streams[n];
        let (id, p) = (stream.id, stream.partition);
        stream.next = stream.next.map(|next| next + stream.gap);
        stream.written += 1;
        stream.waiting.get_or_insert(self.now);
        self.tokens += 1;
        let channel = Some(stream.channel.clone().into());
        let kind = EventKind::Token("abcdefg ".into());
        self.record(
            p,
            Event { response_id: id.into(), part: 0, kind, seq: None, begins: None, channel, pattern: None },
        );
    }

    fn record(&mut self, p: usize, event: Event<'_>) {
        let id = event.response_id.to_string();
        let (offset, time) = (self.offsets[p], self.now);
        self.offsets[p] += 1;
        self.apply(p, Input::Record(Record { offset, time, key: &id, traceparent: None, events: &[event] }));
    }

    /// The streams say no more; a while later all is over.
    fn end(&mut self) {
        for n in 0..self.streams.len() {
            self.end_one(n);
        }
        self.pass(Duration::from_secs(900));
        for stream in &self.streams {
            let text = "abcdefg ".repeat(stream.written);
            assert!(self.server.text(stream.id) == text, "the text of {} is not what its producer wrote", stream.id);
        }
        assert_eq!(self.engines.iter().map(Engine::open).sum::<usize>(), 0, "responses are open");
    }

    fn end_one(&mut self, n: usize) {
        let stream = &mut self.streams[n];
        stream.next = None;
        let (id, p) = (stream.id, stream.partition);
        if !std::mem::replace(&mut stream.ended, true) {
            let channel = Some(stream.channel.clone().into());
            self.record(
                p,
                Event { response_id: id.into(), part: 0, kind: END, seq: None, begins: None, channel, pattern: None },
            );
        }
    }

    fn apply(&mut self, p: usize, input: Input<'_>) {
        self.engines[p].apply(self.now, input, &mut self.shared, &mut self.effects);
        if self.opened != self.shared.flow.opened() {
            self.opened = self.shared.flow.opened();
            for connection in 0..self.shared.flow.connections() {
                if self.shared.flow.is_wanted(connection) {
                    self.shared.flow.up(connection, "c".into(), self.pipelining, 1 << 20, self.rate_max);
                }
            }
            self.tick_all();
        }
        let operations: Vec<Operation> = self.effects.list.drain(..).filter_map(sent).collect();
        self.effects.clear();
        for operation in operations {
            self.send(&operation);
        }
    }

    /// Requests take the place of connections, or the other way round.
    fn go_over_to(&mut self, pipelining: Pipelining) {
        self.pipelining = pipelining;
        self.opened = 0;
        (0..self.engines.len()).for_each(|p| self.apply(p, Input::Tick));
    }

    fn tick_all(&mut self) {
        for engine in &mut self.engines {
            engine.apply(self.now, Input::Tick, &mut self.shared, &mut self.effects);
        }
    }

    fn send(&mut self, operation: &Operation) {
        self.operations += 1;
        *self.frames.entry(operation.connection).or_default() += 1;
        let stream = self.streams.iter_mut().find(|stream| *stream.id == *operation.head.response_id);
        if let Some(stream) = stream {
            let waited = stream.waiting.take().map_or(Duration::ZERO, |since| self.now.since(since));
            stream.longest = stream.longest.max(waited);
            stream.sent += 1;
        }
        let outcome = self.server.take(self.now, operation);
        let number = self.operations;
        self.answers.push(Reverse((self.now + ROUND_TRIP, number)));
        let answer = Answer { op: operation.id, connection: operation.connection, outcome, resent: false };
        self.pending.insert(number, answer);
    }

    /// What was published, what was refused, and how many tokens an operation carried, since the last time.
    fn pace(&mut self) -> (u64, u64, f64) {
        let tokens = self.tokens as f64 / self.operations.max(1) as f64;
        (self.operations, self.tokens) = (0, 0);
        (std::mem::take(&mut self.server.published), std::mem::take(&mut self.server.refused), tokens)
    }
}

fn sent(effect: Effect) -> Option<Operation> {
    match effect {
        Effect::Send(operation) => Some(operation),
        _ => None,
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// Ten streams of fifty tokens a second, on as many connections as they fill, and for a minute a server that takes a tenth.
#[test]
fn under_a_tenth_of_the_load_streams_become_coarser_and_recover() {
    for names in [false, true] {
        let limits = Limits { connections_max: 5, connection_rate: 50, channel_rate: 50, ..LIMITS };
        let mut world = World::new(limits, Duration::from_millis(40), 2, Scope::Connection, f64::INFINITY);
        world.server.names = names;
        for n in 0..10 {
            world.stream(&n.to_string(), n % 2, Duration::from_millis(20));
        }
        world.pass(SECOND * 60);
        let (before, refused, tokens) = world.pace();
        assert_eq!(refused, 0);
        assert!((before as f64) > 0.9 * 250.0 * 60.0, "{before} published in a minute without a limit");
        assert!(tokens < 1.1, "{tokens} tokens an operation without a limit");

        world.server.limit = 5.0;
        world.pass(SECOND * 10);
        let (_, learning, _) = world.pace();
        assert!(learning <= 5 * 20, "{learning} refusals to learn the limit of five connections");
        world.pass(SECOND * 50);
        let (published, refused, tokens) = world.pace();
        assert!(refused <= 5 * 3, "{refused} refusals once it is known");
        assert!(published as f64 >= 0.6 * 25.0 * 50.0, "{published} of 1,250 that the limit allows");
        assert!(tokens > 15.0, "{tokens} tokens an operation under the limit");

        world.server.limit = f64::INFINITY;
        world.pass(SECOND * 660);
        world.pace();
        world.pass(SECOND * 30);
        let (after, refused, tokens) = world.pace();
        assert_eq!(refused, 0);
        assert!(after as f64 >= 0.97 * before as f64 / 2.0, "{after} published in half a minute afterwards");
        assert!(tokens < 2.1, "{tokens} tokens an operation afterwards: what the server publishes together anyway");
        world.end();
    }
}
