//! What people would write instead: the same topic into the same server, with the official clients of two languages.
//!
//! `tests/bench/run` installs them into `target/peers`. They do what anybody would do who has understood that nobody can wait
//! for each append; what the relay promises besides, they do not do.

use std::path::{Path, PathBuf};

use super::{AT_LEAST_ONCE, Bench, EXACTLY_ONCE, Goal, Row, Saturated, Subject, UNLIMITED};

/// A program that does the relay's work.
pub(super) struct Peer {
    name: &'static str,
    /// Below `target/peers`, as is what it runs: nothing when that is on the path.
    folder: &'static str,
    interpreter: &'static str,
    script: &'static str,
}

const PEERS: [Peer; 2] = [
    Peer { name: "kafkajs + ably-js", folder: "node", interpreter: "node", script: "peer.mjs" },
    Peer { name: "confluent-kafka + ably-python", folder: "python", interpreter: "bin/python", script: "peer.py" },
];

/// Responses, and tokens of each: no more than takes the slowest a few minutes.
const LOAD: (u32, u32) = (500, 200);

/// As it is delivered, with nothing between it and what it can do; and with no more than the others promise.
const RELAYS: [Subject; 2] = [
    Subject::Relay { channel_rate: UNLIMITED, delivery: EXACTLY_ONCE },
    Subject::Relay { channel_rate: UNLIMITED, delivery: AT_LEAST_ONCE },
];

impl Peer {
    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder").join("peers").join(self.folder)
    }

    pub(super) fn program(&self) -> PathBuf {
        let own = self.folder().join(self.interpreter);
        if own.exists() { own } else { self.interpreter.into() }
    }

    pub(super) fn arguments(&self, bootstrap: &str, prefix: &str, port: u16) -> Vec<String> {
        let script = self.folder().join(self.script).display().to_string();
        vec![script, bootstrap.to_owned(), prefix.to_owned(), port.to_string()]
    }
}

impl Bench<'_> {
    /// CPU for the same tokens, by turns.
    pub(super) fn peers(&mut self) -> Vec<Row> {
        let (responses, tokens) = (LOAD.0 / self.plan.scale.min(5), LOAD.1);
        let mut runs = [(); 4].map(|()| Vec::new());
        for _ in 0..self.plan.turns() {
            let subjects = [RELAYS[0], RELAYS[1], Subject::Peer(&PEERS[0]), Subject::Peer(&PEERS[1])];
            for (runs, subject) in runs.iter_mut().zip(subjects) {
                runs.push(self.loaded(subject, responses, tokens));
            }
        }
        let [relay, at_least_once, peers @ ..] = runs.map(|runs| Saturated::median(&runs));
        let rows = PEERS.iter().zip(&peers).flat_map(|(peer, shown)| {
            let row = |what: &str, unit, relay, peer_number, goal| Row {
                name: format!("beside {}, {what}", peer.name),
                unit,
                relay,
                floor: Some(peer_number),
                goal,
            };
            let cpu = |relay: &Saturated| (relay.cpu_seconds_per_million, shown.cpu_seconds_per_million);
            let (exactly, at_least) = (cpu(&relay), cpu(&at_least_once));
            let speeds = (relay.tokens_per_second / 1e3, shown.tokens_per_second / 1e3);
            let goal = Some(Goal::TimesFloor(0.1));
            [
                row("CPU", "s/M tokens", exactly.0, exactly.1, goal),
                row("at-least-once, CPU", "s/M tokens", at_least.0, at_least.1, goal),
                row("throughput", "k tokens/s", speeds.0, speeds.1, None),
            ]
        });
        rows.collect()
    }
}
