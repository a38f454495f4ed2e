//! What connections cost at rest, what requests cost beside them, and how much of what limits allow is used.

use std::io::Write;
use std::time::Duration;

use super::{Bench, Goal, RELAY, Row, Subject};
use crate::process::Process;

/// Connections of one process.
const CONNECTIONS: u32 = 2_000;

/// Connections under limits, and what the server takes on one in a second.
const LIMITED: u32 = 4;
const RATE: u32 = 50;

impl Bench<'_> {
    /// Memory and CPU of a connection that carries nothing.
    pub(super) fn connections(&mut self) -> Vec<Row> {
        self.sink.ask("look rest");
        let arguments = ["as-connections".to_owned(), self.ports.0.to_string(), CONNECTIONS.to_string()];
        writeln!(std::io::stderr(), "== {}", arguments.join(" ")).expect("written");
        let mut process = Process::start(&arguments);
        assert_eq!(process.line(), "started");
        let before = process.memory_mib();
        assert_eq!(process.ask("open"), "up");
        std::thread::sleep(Duration::from_secs(2));
        let memory = (process.memory_mib() - before) * 1_024.0 / f64::from(CONNECTIONS);
        let duration = Duration::from_secs(u64::from(60 / self.plan.scale.min(2)));
        let cpu = process.cpu_seconds();
        std::thread::sleep(duration);
        let cpu = (process.cpu_seconds() - cpu) / duration.as_secs_f64() / f64::from(CONNECTIONS);
        let row = |what: &str, unit, relay, most| Row {
            name: format!("{what} of a connection at rest"),
            unit,
            relay,
            floor: None,
            goal: Some(Goal::AtMost(most)),
        };
        vec![row("memory", "kB", memory * 1.024, 60.0), row("CPU", "us/s", cpu * 1e6, 20.0)]
    }

    /// Requests beside a connection.
    pub(super) fn transports(&mut self) -> Vec<Row> {
        let (requests, frames) = self.by_turns(Subject::Requests, |_| RELAY);
        let (by_request, by_frame) = (self.paced(Subject::Requests), self.paced(RELAY));
        let row = |what: &str, unit, relay, floor| Row {
            name: format!("rest (realtime), {what}"),
            unit,
            relay,
            floor: Some(floor),
            goal: None,
        };
        let millis = |micros: u64| micros as f64 / 1e3;
        let (cpu, floor) = (requests.cpu_seconds_per_million, frames.cpu_seconds_per_million);
        vec![
            row("CPU at full load", "s/M tokens", cpu, floor),
            row("tokens per operation", "1", requests.tokens_per_operation, frames.tokens_per_operation),
            row("CPU at 5,000 tokens/s", "s/M tokens", by_request.1, by_frame.1),
            row("p50 at 5,000 tokens/s", "ms", millis(by_request.0.p50_us), millis(by_frame.0.p50_us)),
        ]
    }

    /// Many more tokens than the limits let through one by one: how many operations leave of those that may.
    pub(super) fn limits(&mut self) -> Row {
        let load = self.load();
        let process = self.start(Subject::Limited { connections: LIMITED, rate: RATE }, "none");
        let (warm_up, duration) =
            (Duration::from_secs(10), Duration::from_secs(u64::from(30 / self.plan.scale.min(3))));
        let (mut begun, mut ended) = (0, 0);
        let sink = &mut self.sink;
        let mut frames = || {
            let seen: super::Seen = serde_json::from_str(&sink.ask("seen")).expect("what the sink saw");
            seen.frames
        };
        std::thread::scope(|scope| {
            scope.spawn(|| load.pace(0, 4_000, 100, warm_up + duration + Duration::from_secs(2)));
            std::thread::sleep(warm_up);
            begun = frames();
            std::thread::sleep(duration);
            ended = frames();
        });
        drop(process);
        let allowed = f64::from(LIMITED * RATE) * duration.as_secs_f64();
        let share = (ended - begun) as f64 / allowed;
        let name = format!("share of {} operations/s that the limits allow", LIMITED * RATE);
        Row { name, unit: "1", relay: share, floor: None, goal: Some(Goal::AtLeast(0.97)) }
    }
}
