//! What is measured, and how.

use std::io::Write;
use std::time::{Duration, Instant};

use super::load::Load;
use super::process::Process;
use super::relay::{AT_LEAST_ONCE, EXACTLY_ONCE, UNLIMITED};
use super::report::{Goal, Row};
use super::sink::Seen;
use super::{Plan, floor, relay};
use peers::Peer;

mod costs;
mod exact;
mod peers;

/// More than any scenario takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs what the plan wants.
pub(crate) fn all(plan: &Plan) -> Vec<Row> {
    let mut sink = Process::start(&["as-sink".to_owned()]);
    let ports = sink.line();
    let (port, requests) = ports.split_once(' ').expect("two ports");
    let ports = (port.parse().expect("a port"), requests.parse().expect("a port"));
    let mut bench = Bench { plan, sink, ports, runs: 0 };
    let mut rows = Vec::new();
    if plan.wants("throughput") {
        rows.extend(bench.throughput());
    }
    if plan.wants("latency") {
        rows.extend(bench.latency());
    }
    if plan.wants("memory") {
        rows.extend(bench.memory());
    }
    if plan.wants("delivery") {
        rows.extend(bench.delivery());
    }
    if plan.wants("restart") {
        rows.push(bench.restart());
    }
    if plan.wants("connections") {
        rows.extend(bench.connections());
    }
    if plan.wants("transports") {
        rows.extend(bench.transports());
    }
    if plan.wants("limits") {
        rows.push(bench.limits());
    }
    if plan.wants("peers") {
        rows.extend(bench.peers());
    }
    rows
}

struct Bench<'a> {
    plan: &'a Plan,
    sink: Process,
    /// For WebSockets, and for requests.
    ports: (u16, u16),
    runs: u32,
}

/// What a saturated run has shown.
#[derive(Debug)]
struct Saturated {
    tokens_per_second: f64,
    cpu_seconds_per_million: f64,
    tokens_per_operation: f64,
    /// Milliseconds that a transaction took in the mean, and the share of the time that one was open.
    commit_ms: f64,
    commit_share: f64,
}

impl Saturated {
    fn median(runs: &[Self]) -> Self {
        let median = |number: fn(&Self) -> f64| {
            let mut numbers: Vec<f64> = runs.iter().map(number).collect();
            numbers.sort_unstable_by(f64::total_cmp);
            numbers[numbers.len() / 2]
        };
        Self {
            tokens_per_second: median(|run| run.tokens_per_second),
            cpu_seconds_per_million: median(|run| run.cpu_seconds_per_million),
            tokens_per_operation: median(|run| run.tokens_per_operation),
            commit_ms: median(|run| run.commit_ms),
            commit_share: median(|run| run.commit_share),
        }
    }
}

/// Which of them.
#[derive(Clone, Copy)]
enum Subject {
    Relay {
        channel_rate: u32,
        delivery: &'static str,
    },
    /// By request instead.
    Requests,
    /// The relay under limits.
    Limited {
        connections: u32,
        rate: u32,
    },
    Floor {
        join: usize,
        keep: bool,
    },
    Peer(&'static Peer),
}

impl Subject {
    /// Whether it answers what it is asked.
    fn is_ours(self) -> bool {
        !matches!(self, Self::Peer(_))
    }
}

/// The relay, with nothing between it and what it can do.
const RELAY: Subject = Subject::Relay { channel_rate: UNLIMITED, delivery: AT_LEAST_ONCE };

impl Bench<'_> {
    fn throughput(&mut self) -> Vec<Row> {
        let floor = |join| Subject::Floor { join, keep: false };
        let (relay, floor_one) = self.by_turns(RELAY, |_| floor(1));
        let mut rows = rows("one operation per token", &relay, &floor_one);
        // A rate on channels makes the relay join: about five tokens, if it then reads twice as fast as it did.
        let channels = f64::from(ABREAST);
        let channel_rate = (relay.tokens_per_second * 2.0 / channels / 5.0).max(1.0) as u32;
        let joined = |relay: &Saturated| floor(relay.tokens_per_operation.round() as usize);
        let (relay, floor_joined) = self.by_turns(Subject::Relay { channel_rate, delivery: AT_LEAST_ONCE }, joined);
        let name = format!("{:.0} tokens joined", relay.tokens_per_operation);
        rows.extend(self::rows(&name, &relay, &floor_joined));
        rows
    }

    /// Relay and floor by turns, so that whatever else the machine does meets both; the medians of each.
    fn by_turns(&mut self, relay: Subject, floor: impl Fn(&Saturated) -> Subject) -> (Saturated, Saturated) {
        let (mut relays, mut floors) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            let shown = self.saturated(relay);
            floors.push(self.saturated(floor(&shown)));
            relays.push(shown);
        }
        (Saturated::median(&relays), Saturated::median(&floors))
    }

    fn saturated(&mut self, subject: Subject) -> Saturated {
        let responses = 5_000 / self.plan.scale.min(5);
        let tokens = 200 / (self.plan.scale / 5).max(1);
        self.loaded(subject, responses, tokens)
    }

    fn loaded(&mut self, subject: Subject, responses: u32, tokens: u32) -> Saturated {
        let load = self.load();
        load.fill(responses, tokens, ABREAST, " token", true, None);
        let mut process = self.start(subject, "none");
        // What it takes to start is not what is measured.
        wait("it has begun", || {
            process.must_live();
            self.seen().frames > 0
        });
        let (before, cpu) = (self.seen().frames, process.cpu_seconds());
        let watcher = load.watcher();
        wait("everything is committed", || {
            process.must_live();
            load.lag(&watcher) == 0
        });
        let seen = self.seen();
        let (commits, in_commits) = if subject.is_ours() { process.commits() } else { (0, 0.0) };
        let seconds = (seen.last_us - seen.first_us) as f64 / 1e6;
        let tokens = f64::from(responses * tokens);
        let measured = tokens * (1.0 - before as f64 / seen.frames as f64);
        let shown = Saturated {
            tokens_per_second: tokens / seconds,
            cpu_seconds_per_million: (process.cpu_seconds() - cpu) / (measured / 1e6),
            tokens_per_operation: tokens / seen.frames as f64,
            commit_ms: in_commits * 1e3 / f64::from(commits.max(1)),
            commit_share: in_commits / seconds,
        };
        writeln!(std::io::stderr(), "   {shown:.2?}").expect("written");
        shown
    }

    fn latency(&mut self) -> Vec<Row> {
        let floor = self.paced(Subject::Floor { join: 1, keep: false });
        let relay = self.paced(RELAY);
        let row =
            |name: &str, unit, relay, floor, goal| Row { name: name.to_owned(), unit, relay, floor: Some(floor), goal };
        let millis = |micros: u64| micros as f64 / 1e3;
        let name = "latency at 5,000 tokens/s";
        let p50 = Some(Goal::TimesFloor(2.0));
        vec![
            row(&format!("{name}, p50"), "ms", millis(relay.0.p50_us), millis(floor.0.p50_us), p50),
            row(&format!("{name}, p99"), "ms", millis(relay.0.p99_us), millis(floor.0.p99_us), None),
            row(&format!("{name}, p99.9"), "ms", millis(relay.0.p999_us), millis(floor.0.p999_us), None),
            row("CPU at 5,000 tokens/s", "s/M tokens", relay.1, floor.1, None),
        ]
    }

    fn paced(&mut self, subject: Subject) -> (Seen, f64) {
        const RATE: u32 = 5_000;
        let load = self.load();
        let process = self.start(subject, "none");
        let warm_up = Duration::from_secs(6);
        load.pace(0, RATE, 100, warm_up);
        self.sink.ask("look stamps");
        let cpu = process.cpu_seconds();
        let duration = Duration::from_secs(u64::from(20 / self.plan.scale.min(4)));
        load.pace(1_000_000, RATE, 100, duration);
        std::thread::sleep(Duration::from_millis(500));
        let cpu = process.cpu_seconds() - cpu;
        (self.seen(), cpu / (f64::from(RATE) * duration.as_secs_f64() / 1e6))
    }

    fn memory(&mut self) -> Vec<Row> {
        let responses = 100_000 / self.plan.scale;
        let floor = self.held(Subject::Floor { join: 1, keep: true }, responses);
        let relay = self.held(RELAY, responses);
        let name = format!("memory, {responses} open responses of 2 KB");
        let goal = (self.plan.scale == 1).then_some(Goal::AtMost(400.0));
        vec![Row { name, unit: "MiB", relay, floor: Some(floor), goal }]
    }

    fn held(&mut self, subject: Subject, responses: u32) -> f64 {
        const TOKENS: u32 = 8;
        const BYTES: usize = 256;
        let load = self.load();
        let mut process = self.start(subject, "bytes");
        // No faster than it is read, or what is measured is the backlog.
        load.fill(responses, TOKENS, responses, &"x".repeat(BYTES), false, Some(40_000));
        let expected = u64::from(responses * TOKENS) * BYTES as u64;
        wait("all texts have arrived", || {
            process.must_live();
            self.seen().text_bytes >= expected
        });
        std::thread::sleep(Duration::from_secs(2));
        process.memory_mib()
    }

    fn load(&mut self) -> Load {
        self.runs += 1;
        let prefix = format!("bench-{}-{}", std::process::id(), self.runs);
        Load::new(&self.plan.bootstrap, &prefix)
    }

    fn start(&mut self, subject: Subject, look: &str) -> Process {
        self.sink.ask(&format!("look {look}"));
        let (bootstrap, (port, requests)) = (self.plan.bootstrap.clone(), self.ports);
        let prefix = format!("bench-{}-{}", std::process::id(), self.runs);
        let arguments = match subject {
            Subject::Floor { join, keep } => floor::Options { bootstrap, prefix, port, join, keep }.arguments(),
            Subject::Peer(peer) => peer.arguments(&bootstrap, &prefix, port),
            relay => {
                let mut options = relay::Options {
                    bootstrap,
                    prefix,
                    port,
                    channel_rate: UNLIMITED,
                    // One, as the floor has.
                    connections: 1,
                    connection_rate: UNLIMITED,
                    delivery: AT_LEAST_ONCE.to_owned(),
                    by_request: false,
                };
                match relay {
                    Subject::Relay { channel_rate, delivery } => {
                        (options.channel_rate, options.delivery) = (channel_rate, delivery.to_owned());
                    }
                    Subject::Limited { connections, rate } => {
                        (options.connections, options.connection_rate, options.channel_rate) =
                            (connections, rate, rate);
                    }
                    Subject::Requests => (options.port, options.by_request) = (requests, true),
                    Subject::Floor { .. } | Subject::Peer(_) => {}
                }
                options.arguments()
            }
        };
        writeln!(std::io::stderr(), "== {}", arguments.join(" ")).expect("written");
        let mut process = match subject {
            Subject::Peer(peer) => Process::spawn(&peer.program(), &arguments),
            _ => Process::start(&arguments),
        };
        assert_eq!(process.line(), "started");
        process
    }

    fn seen(&mut self) -> Seen {
        serde_json::from_str(&self.sink.ask("seen")).expect("what the sink saw")
    }
}

/// Responses that stream at the same time.
const ABREAST: u32 = 1_000;

/// How often each saturated run is repeated.
const TURNS: u32 = 3;

fn rows(name: &str, relay: &Saturated, floor: &Saturated) -> Vec<Row> {
    let row = |what: &str, unit, relay, floor, goal| {
        let floor = Some(floor);
        Row { name: format!("{name}, {what}"), unit, relay, floor, goal }
    };
    let (cpu, speed) = (Some(Goal::TimesFloor(1.6)), None);
    vec![
        row("CPU", "s/M tokens", relay.cpu_seconds_per_million, floor.cpu_seconds_per_million, cpu),
        row("throughput", "k tokens/s", relay.tokens_per_second / 1e3, floor.tokens_per_second / 1e3, speed),
        row("tokens per operation", "1", relay.tokens_per_operation, floor.tokens_per_operation, None),
    ]
}

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "it takes too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
