//! Everything that a fault can meet, and the verdict in the end.

use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;
use tokenrelay::emulator::Faults;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::ably::{Ably, Reader};
use super::broker::Broker;
use super::load::{Load, Plan, Response};
use super::progress::Progress;
use super::way::Way;
use crate::e2e::member::Member;
use crate::e2e::{KEY, relay};
use crate::world::World;

pub(super) const PARTITIONS: i32 = 6;
/// How long nothing may come of anything. Two processes that die one after the other hold everything up for a session and a
/// transaction each.
const PATIENCE: Duration = Duration::from_secs(180);
/// What the relays are told. The session is short, as it is in every test.
const SESSION: Duration = Duration::from_secs(6);
const SETTINGS: [&str; 2] = ["response.idle=10s", "ably.append_rollup=40ms"];
/// What `tokenrelay run` may end with when it is told to end: all is done, or the next one has something left to do.
const ENDS: [i32; 2] = [0, 75];

/// One of the relays: a process at a time.
struct Relay {
    member: Member,
    settings: Vec<String>,
}

/// See the module.
pub(super) struct Stage {
    pub(super) world: World,
    pub(super) ably: Ably,
    way: Way,
    relays: Vec<Relay>,
    /// Processes that have ended; for their logs.
    past: Vec<Member>,
    pub(super) progress: Progress,
    load: Option<Load>,
    reader: Reader,
}

impl Stage {
    /// On the Kafka that all tests share, or on this one.
    pub(super) async fn new(broker: Option<&Broker>, plan: Plan, way: Way) -> Self {
        let world = match broker {
            Some(broker) => World::at(broker.servers.clone(), PARTITIONS, PARTITIONS, 1).await,
            None => World::new(PARTITIONS, PARTITIONS, 1).await,
        };
        let ably = Ably::start().await;
        let reader = Reader::start(&ably).await;
        let (progress, load) = (Progress::start(&world), Load::start(&world, plan));
        Self { world, ably, way, relays: Vec::new(), past: Vec::new(), progress, load: Some(load), reader }
    }

    /// Starts relays with settings of their own, and waits until each has partitions.
    pub(super) async fn enter(&mut self, settings: &[&[&str]]) {
        for settings in settings {
            let given = SETTINGS.iter().chain(*settings).map(|&setting| setting.to_owned());
            let settings: Vec<String> = given.chain(self.way.settings()).collect();
            let member = self.start(&settings);
            self.relays.push(Relay { member, settings });
        }
        for relay in &mut self.relays {
            relay.member.joins().await;
        }
    }

    fn start(&self, settings: &[String]) -> Member {
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        Member::start(&self.world.settings, self.ably.address, &settings)
    }

    pub(super) fn relay(&mut self, number: usize) -> &mut Member {
        &mut self.relays[number].member
    }

    fn relays(&self) -> usize {
        self.relays.len()
    }

    /// Waits until so many more responses are over.
    pub(super) async fn proceed(&mut self, responses: usize) {
        let goal = self.progress.over() + responses;
        let done = timeout(PATIENCE, self.progress.until(goal)).await.is_ok();
        self.check_alive();
        if !done {
            let mut states = String::new();
            for number in 0..self.relays() {
                let relay = self.relay(number);
                states += &format!("{}\n{}\n", relay.ready().await, relay.metrics().await);
            }
            panic!("only {} of {goal} responses are over:\n{states}", self.progress.over());
        }
    }

    pub(super) fn check_alive(&mut self) {
        self.relays.iter_mut().for_each(|relay| relay.member.check_alive());
    }

    /// Ends a process in the middle of whatever it is doing, and starts the next.
    pub(super) async fn kill(&mut self, number: usize) {
        let code = self.replace(number, "KILL").await;
        assert_eq!(code, None, "it was alive");
    }

    /// Ends a process in order, and starts the next.
    pub(super) async fn terminate(&mut self, number: usize) {
        let code = self.replace(number, "TERM").await;
        assert!(code.is_some_and(|code| ENDS.contains(&code)), "it ended with {code:?}");
    }

    /// A process that was fenced off in the middle of a commit cannot know whether that was taken. It ends, and whoever
    /// watches it starts it again.
    pub(super) async fn replace_if_fenced(&mut self, number: usize) {
        const UNAVAILABLE: i32 = 69;
        let member = &mut self.relays[number].member;
        if member.said("the writer of results has ended").is_empty() {
            return;
        }
        let ended = member.ends().await;
        assert_eq!(ended.code(), Some(UNAVAILABLE), "{ended}");
        let next = self.start(&self.relays[number].settings);
        self.past.push(std::mem::replace(&mut self.relays[number].member, next));
    }

    async fn replace(&mut self, number: usize, signal: &str) -> Option<i32> {
        self.relays[number].member.check_alive();
        let ended = self.relays[number].member.end(signal).await;
        let next = self.start(&self.relays[number].settings);
        self.past.push(std::mem::replace(&mut self.relays[number].member, next));
        ended.code()
    }

    /// Stops a process for so much longer than the group waits for it, and lets it go on.
    pub(super) async fn freeze(&mut self, number: usize, longer: Duration) {
        self.relays[number].member.check_alive();
        self.relays[number].member.signal("STOP").await;
        sleep(SESSION + longer).await;
        self.relays[number].member.signal("CONT").await;
    }

    /// Waits until everything is over, ends the relays in order, and checks everything that was promised. Gives what the
    /// audit counts.
    pub(super) async fn judge(mut self) -> Value {
        self.ably.fail(&Faults::default()).await;
        let load = self.load.take().expect("it is judged once");
        let responses = load.finish().await;
        while self.progress.over() < responses.len() {
            self.proceed(1).await;
        }
        self.comes_to_rest().await;
        for mut relay in std::mem::take(&mut self.relays) {
            let ended = relay.member.end("TERM").await;
            self.past.push(relay.member);
            assert!(ended.success(), "{ended}");
        }
        let counts = self.audit(&responses).await;
        self.reader.check(&self.ably, self.way, &responses).await;
        counts
    }

    /// Waits until the group has committed all that there is.
    async fn comes_to_rest(&mut self) {
        let (mut before, mut deadline) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            self.check_alive();
            let committed = tokio::task::block_in_place(|| self.world.committed());
            if committed.iter().all(|(_, committed, end)| committed == end) {
                return;
            }
            assert!(Instant::now() < deadline, "it lags behind: {committed:?}");
            if committed != before {
                (before, deadline) = (committed, Instant::now() + PATIENCE);
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    async fn audit(&self, responses: &[Response]) -> Value {
        let (_folder, file) = relay::settings(&self.world.settings, self.ably.address, KEY);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
        command.arg("audit").arg("--config").arg(file).args(["--ably", "--at-rest", "--json"]).env_remove("RUST_LOG");
        let ended = timeout(PATIENCE, command.output()).await.expect("a verdict in time").expect("it runs");
        let err = String::from_utf8_lossy(&ended.stderr);
        let report: Value = serde_json::from_slice(&ended.stdout).unwrap_or_else(|_| panic!("no verdict: {err}"));
        if !ended.status.success() || report["clean"] != true {
            let how = self.explain(&report["differences"]).await;
            panic!("{}: {err}{report:#}{how}", ended.status);
        }
        let letters: usize = responses.iter().map(Response::letters).sum();
        let counts = &report["counts"];
        for (name, expected) in
            [("settled", responses.len()), ("messages", responses.len()), ("failed", 0), ("letters", letters)]
        {
            assert_eq!(counts[name], expected, "{name}: {report:#}");
        }
        counts.clone()
    }
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    Freeze,
    Terminate,
    /// The broker is away for a while.
    Broker,
}

impl Stage {
    /// Lets something happen, once something has come of what was before.
    pub(super) async fn suffer(&mut self, fault: Fault, rng: &mut Rng, broker: Option<&Broker>) {
        self.proceed(rng.usize(10..60)).await;
        let number = rng.usize(..self.relays());
        let (trouble, faults) = troubles(rng);
        eprintln!("after {} responses: {fault:?} of {number}, with {trouble}", self.progress.over());
        self.ably.fail(&faults).await;
        match (fault, broker) {
            (Fault::Kill, _) => self.kill(number).await,
            (Fault::Terminate, _) => self.terminate(number).await,
            (Fault::Freeze, _) => self.freeze(number, Duration::from_millis(rng.u64(500..6_000))).await,
            (Fault::Broker, Some(broker)) => {
                broker.stop().await;
                sleep(Duration::from_millis(rng.u64(..15_000))).await;
                broker.again().await;
            }
            (Fault::Broker, None) => panic!("a broker that others need is not stopped"),
        }
    }
}

/// What fails on the way to the channels meanwhile: a little of everything, and more of something, which has a name.
fn troubles(rng: &mut Rng) -> (&'static str, Faults) {
    let some = Faults {
        reject: 0.02,
        reject_fold: 0.5,
        lose_ack: 0.003,
        skip_ack: 0.003,
        drop: 0.003,
        refuse_resume: 0.5,
        seed: rng.u64(..),
        ..Faults::default()
    };
    match rng.u8(..5) {
        0 => ("refusals", Faults { reject: 0.2, reject_applied: 0.2, ..some }),
        1 => ("lost answers", Faults { lose_ack: 0.03, skip_ack: 0.02, ..some }),
        2 => ("dropped connections", Faults { drop: 0.03, late_apply: 3_000, ..some }),
        3 => ("rate limits", Faults { rate_limit: 30, channel_rate_limit: 10, ..some }),
        _ => ("slow answers", Faults { delay: 200, fail_requests: 0.2, ..some }),
    }
}
