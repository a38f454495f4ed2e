//! Topics that get more partitions while they are relayed: nobody has to stop, what is new is read as soon as its results have
//! a place, and a response that the change has split is not taken for whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokenrelay::emulator::{self, Emulator};

use super::KEY;
use super::member::Member;
use crate::world::{PATIENCE, World};

const BEFORE: i32 = 12;
const AFTER: i32 = 24;

struct Growing {
    world: World,
    ably: Emulator,
}

impl Growing {
    async fn new() -> Self {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
        let ably = emulator::start(config).await.expect("an emulator");
        Self { world: World::new(BEFORE, BEFORE, 1).await, ably }
    }

    /// A process that relays, once it has partitions.
    async fn member(&self) -> Member {
        let mut member = Member::start(&self.world.settings, self.ably.local_addr(), &["response.idle=5s"]);
        member.joins().await;
        member
    }

    async fn grow(&mut self, topic: &str) {
        self.world.grow(topic, AFTER as usize).await;
    }

    fn say(&self, partition: i32, id: &str, event: &Value) {
        self.world.send(partition, Some(id.as_bytes()), Some(event.to_string().as_bytes()), &[]);
    }

    /// Tokens of these numbers.
    fn says(&self, partition: i32, id: &str, numbers: std::ops::Range<u32>) {
        for seq in numbers {
            self.say(partition, id, &json!({"type": "token", "text": format!("{seq} "), "seq": seq}));
        }
    }

    fn ends(&self, partition: i32, id: &str) {
        self.say(partition, id, &json!({"type": "end"}));
    }

    /// How so many responses ended, by name and partition.
    fn results(&self, count: usize) -> BTreeMap<(String, i64), (String, String)> {
        let mut tail = self.world.tail(&self.world.settings.results_topic);
        let mut results = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        while results.len() < count {
            assert!(Instant::now() < deadline, "{} of {count}: {results:?}", results.len());
            let seen = tokio::task::block_in_place(|| tail.next(Duration::from_millis(100)));
            let Some(seen) = seen.filter(|seen| seen.header("kind") == Some("response")) else { continue };
            let result: Value = serde_json::from_slice(seen.value.as_deref().unwrap_or_default()).expect("a result");
            let word = |name: &str| result[name].as_str().unwrap_or_default().to_owned();
            let place = (word("responseId"), result["covered"]["partition"].as_i64().expect("a partition"));
            let former = results.insert(place, (word("outcome"), word("reason")));
            assert_eq!(former, None, "over twice: {result}");
        }
        results
    }
}

/// The partitions that these have been given.
fn assigned(members: &[&Member]) -> BTreeSet<i64> {
    let lines = members.iter().flat_map(|member| member.said("partition assigned"));
    lines.filter_map(|line| line["partition"].as_i64()).collect()
}

/// Waits until these have been given the partitions that are new.
async fn all_assigned(members: &[&Member]) {
    let deadline = Instant::now() + PATIENCE;
    while assigned(members).range(i64::from(BEFORE)..).count() < (AFTER - BEFORE) as usize {
        assert!(Instant::now() < deadline, "{:?}", assigned(members));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_then_tokens_grow_and_nobody_stops() {
    let mut growing = Growing::new().await;
    let first = growing.member().await;
    let second = growing.member().await;
    for partition in 0..BEFORE {
        growing.says(partition, &format!("whole-{partition}"), 0..3);
        growing.ends(partition, &format!("whole-{partition}"));
        growing.says(partition, &format!("split-{partition}"), 0..2);
    }
    growing.world.flush();
    let (tokens, results) = (growing.world.settings.tokens_topic.clone(), growing.world.settings.results_topic.clone());
    growing.grow(&results).await;
    first.stop().await;
    let mut first = growing.member().await;
    growing.grow(&tokens).await;
    for old in 0..BEFORE {
        let partition = old + BEFORE;
        growing.says(partition, &format!("split-{old}"), 2..4);
        growing.ends(partition, &format!("split-{old}"));
        growing.says(partition, &format!("new-{partition}"), 0..3);
        growing.ends(partition, &format!("new-{partition}"));
    }
    growing.world.flush();
    let mut second = second;
    all_assigned(&[&first, &second]).await;

    let results = growing.results(4 * BEFORE as usize);
    for ((id, partition), (outcome, reason)) in &results {
        let expected = match (id.split_once('-').expect("two words").0, *partition < i64::from(BEFORE)) {
            ("whole" | "new", _) => ["delivered", ""],
            ("split", true) => ["abandoned", ""],
            _ => ["failed", "headless"],
        };
        assert_eq!([outcome, reason], expected, "{id} in partition {partition}");
    }
    let mut headless = 0;
    for member in [&mut first, &mut second] {
        let metrics = member.metrics().await;
        let count = metrics.lines().find_map(|line| line.strip_prefix("tokenrelay_responses_headless_total "));
        headless += count.and_then(|count| count.parse::<i32>().ok()).expect("a count");
        let errors = member.said("\"ERROR\"");
        assert!(errors.iter().all(|line| line["message"] == "response given up on"), "{errors:?}");
    }
    assert_eq!(headless, BEFORE, "those that were split are counted");
    first.stop().await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_grow_first_wait_for_results_and_that_is_said() {
    tokens_first(Growing::new().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn they_wait_in_an_eager_group_too() {
    let mut growing = Growing::new().await;
    growing.world.settings.librdkafka.insert("partition.assignment.strategy".into(), "range".into());
    tokens_first(growing).await;
}

async fn tokens_first(mut growing: Growing) {
    let mut member = growing.member().await;
    let (tokens, results) = (growing.world.settings.tokens_topic.clone(), growing.world.settings.results_topic.clone());
    growing.grow(&tokens).await;
    for partition in BEFORE..AFTER {
        growing.says(partition, &format!("new-{partition}"), 0..3);
        growing.ends(partition, &format!("new-{partition}"));
    }
    growing.world.flush();
    member.says("these tokens wait", 1).await;
    let ready = member.ready().await;
    assert!(ready.contains("\"ready\":false") && ready.contains("the results topic lacks them"), "{ready}");
    // The others go on.
    growing.says(0, "old", 0..3);
    growing.ends(0, "old");
    growing.world.flush();
    assert_eq!(growing.results(1).into_keys().next(), Some(("old".to_owned(), 0)));
    assert!(assigned(&[&member]).iter().all(|partition| *partition < i64::from(BEFORE)));
    growing.grow(&results).await;
    all_assigned(&[&member]).await;
    let results = growing.results(1 + BEFORE as usize);
    assert!(results.values().all(|(outcome, _)| outcome == "delivered"), "{results:?}");
    member.says("no partition waits for its results any longer", 1).await;
    member.becomes_ready().await;
    member.stop().await;
}
