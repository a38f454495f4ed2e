//! Members come and go under load, whatever protocol the group speaks: every text is right, nothing is missing or there twice,
//! and nobody has to mend what was handed over in order. The audit judges, with the channels.

use std::cell::Cell;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokenrelay::audit::{self, Report, Request};
use tokenrelay::config::Delivery;
use tokenrelay::emulator::{self, Emulator, Faults};
use tokenrelay::pipeline;

use super::KEY;
use super::audit::config_of;
use super::member::Member;
use super::story::Story;
use crate::world::{PATIENCE, World};

const PARTITIONS: i32 = 6;
/// More than any of these tests takes.
const RESPONSES: usize = 10_000;

/// Properties of a group that Kafka 4 assigns itself.
const OF_KAFKA_4: [(&str, &str); 1] = [("group.protocol", "consumer")];
/// Of a group that gives all partitions anew each time.
const EAGER: [(&str, &str); 1] = [("partition.assignment.strategy", "range")];
const COOPERATIVE: [(&str, &str); 0] = [];

/// A group, and channels for it.
struct Group {
    world: World,
    ably: Emulator,
    delivery: Delivery,
}

impl Group {
    async fn new(properties: &[(&str, &str)], faults: Faults) -> Self {
        // The audit's client insists on a provider for TLS, though none is used here.
        let _already = rustls::crypto::ring::default_provider().install_default();
        let config = emulator::Config { keys: vec![KEY.to_owned()], faults, ..emulator::Config::default() };
        let ably = emulator::start(config).await.expect("an emulator");
        let mut world = World::new(PARTITIONS, PARTITIONS, 1).await;
        for (property, value) in properties {
            world.settings.librdkafka.insert((*property).to_owned(), (*value).to_owned());
        }
        Self { world, ably, delivery: Delivery::ExactlyOnce }
    }

    /// A process that will be a member.
    fn start(&self) -> Member {
        let delivery = match self.delivery {
            Delivery::ExactlyOnce => "results.delivery=exactly-once",
            Delivery::AtLeastOnce => "results.delivery=at-least-once",
        };
        Member::start(&self.world.settings, self.ably.local_addr(), &[delivery])
    }

    /// A member, once it has partitions.
    async fn join(&self) -> Member {
        let mut member = self.start();
        member.joins().await;
        member
    }

    /// A member that the group knows by name.
    fn start_as(&self, name: &str) -> Member {
        let name = format!("kafka.group_instance_id={name}");
        Member::start(&self.world.settings, self.ably.local_addr(), &[&name])
    }

    /// Produces while the members come and go, and gives how many responses there are and who is left.
    async fn under_load(&self, members: impl Future<Output = Vec<Member>>) -> (usize, Vec<Member>) {
        let story = Story::new(41, RESPONSES);
        let enough = Cell::new(false);
        let play = async {
            let left = members.await;
            enough.set(true);
            left
        };
        let (responses, left) = tokio::join!(story.produce_until(&self.world, || enough.get()), play);
        (responses.len(), left)
    }

    /// Waits until so many responses are over, and stops the members. All results, and the verdict.
    async fn judge(self, responses: usize, members: Vec<Member>) -> (Vec<Value>, Report) {
        let results = tokio::task::block_in_place(|| self.results(responses));
        for member in members {
            member.stop().await;
        }
        self.ably.set_faults(Faults::default());
        for (partition, committed, end) in self.world.committed() {
            assert_eq!(committed, end, "partition {partition}");
        }
        let mut config = config_of(&self.world, self.ably.local_addr());
        config.results.delivery = self.delivery;
        let request = Request { ably: true, at_rest: true, kept_max: 100, ..Request::default() };
        let report = audit::run(request, &config, pipeline::decoder(&config).expect("a decoder")).await;
        let report = report.expect("a verdict");
        assert_eq!(report.differences, []);
        assert_eq!((report.counts.settled, report.counts.failed), (responses as u64, 0));
        (results, report)
    }

    fn results(&self, responses: usize) -> Vec<Value> {
        let mut tail = self.world.tail(&self.world.settings.results_topic);
        let (mut results, mut over) = (Vec::new(), 0);
        let deadline = Instant::now() + PATIENCE;
        while over < responses {
            assert!(Instant::now() < deadline, "{over} of {responses} are over");
            let Some(seen) = tail.next(Duration::from_millis(100)) else { continue };
            over += usize::from(seen.header("kind") == Some("response"));
            results.push(serde_json::from_slice(seen.value.as_deref().unwrap_or_default()).expect("a result"));
        }
        results
    }
}

/// What was handed over in order needs no mending: it goes on with a full text, because its connection is another one, and
/// that is all.
fn nothing_was_mended(results: &[Value]) {
    let mut owners = std::collections::HashSet::new();
    for result in results {
        owners.insert((result["covered"]["partition"].as_i64(), result["epoch"].as_u64()));
        assert_ne!(result["cause"], "takeover", "{result}");
        assert_ne!(result["outcome"], "reconciled", "{result}");
    }
    assert!(owners.len() > PARTITIONS as usize, "partitions did move: {owners:?}");
}

/// Members come and go in order, and nothing fails.
async fn in_order(properties: &[(&str, &str)], delivery: Delivery) {
    let group = Group { delivery, ..Group::new(properties, Faults::default()).await };
    let (responses, left) = group
        .under_load(async {
            let first = group.join().await;
            let second = group.join().await;
            let third = group.join().await;
            first.stop().await;
            let fourth = group.join().await;
            second.stop().await;
            vec![third, fourth]
        })
        .await;
    let (results, _) = group.judge(responses, left).await;
    nothing_was_mended(&results);
}

/// Members die, and whatever can fail on the way to the channels does.
async fn by_accident(properties: &[(&str, &str)]) {
    let faults = Faults {
        reject: 0.05,
        lose_ack: 0.01,
        skip_ack: 0.01,
        drop: 0.005,
        refuse_resume: 0.5,
        seed: 8,
        ..Faults::default()
    };
    let group = Group::new(properties, faults).await;
    let (responses, left) = group
        .under_load(async {
            let mut first = group.join().await;
            first.carries().await;
            let mut second = group.join().await;
            first.kill().await;
            let third = group.join().await;
            second.carries().await;
            second.kill().await;
            let fourth = group.join().await;
            vec![third, fourth]
        })
        .await;
    let (results, _) = group.judge(responses, left).await;
    assert!(results.iter().any(|result| result["cause"] == "takeover"), "there was something to mend");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_in_a_cooperative_group() {
    in_order(&COOPERATIVE, Delivery::ExactlyOnce).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_in_an_eager_group() {
    in_order(&EAGER, Delivery::ExactlyOnce).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_die_in_an_eager_group() {
    by_accident(&EAGER).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_end_while_the_group_rebalances_leave_nothing_undone() {
    let group = Group::new(&COOPERATIVE, Faults::default()).await;
    let (responses, left) = group
        .under_load(async {
            let mut stays = group.join().await;
            for _ in 0..6 {
                let mut comes = group.start();
                let moved = stays.said("partitions revoked").len();
                stays.says("partitions revoked", moved + 1).await;
                comes.joins().await;
                comes.stop().await;
                stays.stop().await;
                stays = group.join().await;
            }
            vec![stays]
        })
        .await;
    group.judge(responses, left).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_in_a_group_of_kafka_4() {
    in_order(&OF_KAFKA_4, Delivery::ExactlyOnce).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_when_results_come_at_least_once() {
    in_order(&OF_KAFKA_4, Delivery::AtLeastOnce).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_die_in_a_cooperative_group() {
    by_accident(&COOPERATIVE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_die_in_a_group_of_kafka_4() {
    by_accident(&OF_KAFKA_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_name_comes_back_to_its_partitions() {
    let group = Group::new(&[], Faults::default()).await;
    let (responses, left) = group
        .under_load(async {
            let mut first = group.start_as("first");
            first.joins().await;
            let mut second = group.start_as("second");
            second.joins().await;
            let freeze = &first.said("after the loss of a node")[0];
            let parts = ["session_ms", "transaction_ms", "restore_ms", "worst_ms"].map(|name| freeze[name].as_u64());
            assert_eq!(parts, [6_000, 10_000, 3_000, 19_000].map(Some));
            // The group has come to rest when the partitions that moved have a new owner, and no others move.
            let moved = first.said("partitions revoked").len();
            second.says("partition assigned", 3).await;
            first.stop().await;
            let mut first = group.start_as("first");
            first.says("partition assigned", 3).await;
            assert_eq!((moved, second.said("revoked").len()), (1, 0), "nobody else was asked for anything");
            vec![first, second]
        })
        .await;
    let (results, _) = group.judge(responses, left).await;
    nothing_was_mended(&results);
}
