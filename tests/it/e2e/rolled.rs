//! Keys that are rolled while streams go on: new connections first, then the old ones end. Nobody restarts anything.

use std::collections::{BTreeMap, HashSet};
use std::pin::pin;
use std::time::Duration;

use serde_json::Value;
use tempfile::NamedTempFile;
use tokenrelay::emulator::{self, Emulator, Faults};

use super::auth::until;
use super::member::Member;
use super::relay::{self, Relay};
use super::results::{self, Results};
use super::story::Story;
use super::{KEY, Stage};
use crate::world::{PATIENCE, World};

const NEXT_KEY: &str = "app.next:other-secret";
/// Their names.
const KEY_NAME: &str = "app.key";

const TICK: Duration = Duration::from_millis(100);
/// One a tick and response: longer than it takes until a file is looked at.
const TOKENS: usize = 160;
/// Of these so many come when the key has been rolled, however long that takes.
const TOKENS_AFTER: usize = 10;
const RESPONSES: usize = 6;
const CONNECTIONS: u64 = 4;

/// A file that holds a key.
fn holding(key: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(&file, key).expect("written");
    file
}

fn story(seed: u64, tokens: usize) -> Story {
    Story::sized(seed, RESPONSES, tokens, 8)
}

async fn ably() -> Emulator {
    let keys = vec![KEY.to_owned(), NEXT_KEY.to_owned()];
    emulator::start(emulator::Config { keys, ..emulator::Config::default() }).await.expect("an emulator")
}

/// A relay that finds its key in this file.
async fn stage(key: &str, file: &NamedTempFile, more: &[&str]) -> Stage {
    let (world, ably) = (World::new(2, 2, 1).await, ably().await);
    let setting = format!("{key}={}", file.path().display());
    let settings: Vec<&str> = ["ably.key_file=", &setting].into_iter().chain(more.iter().copied()).collect();
    let relay = Relay::set(&world.settings, ably.local_addr(), &settings);
    Stage { world, ably, relay }
}

/// Produces a token of each response at a time.
struct Producer<'a> {
    world: &'a World,
    story: &'a Story,
    events: Vec<Vec<String>>,
    turns: usize,
}

impl<'a> Producer<'a> {
    fn new(world: &'a World, story: &'a Story) -> Self {
        let events = story.responses().iter().map(|response| response.events()).collect();
        Self { world, story, events, turns: 0 }
    }

    fn turn(&mut self) {
        let partitions = self.world.partitions(&self.world.settings.tokens_topic);
        for ((number, response), events) in (0..).zip(self.story.responses()).zip(&self.events) {
            let event = events[self.turns].as_bytes();
            self.world.send(number % partitions, Some(response.id.as_bytes()), Some(event), &[]);
        }
        self.world.flush();
        self.turns += 1;
    }

    /// Goes on until something is over.
    async fn during<T>(&mut self, something: impl Future<Output = T>) -> T {
        let mut pace = tokio::time::interval(TICK);
        let mut something = pin!(something);
        loop {
            tokio::select! {
                over = &mut something => return over,
                _ = pace.tick(), if self.turns + TOKENS_AFTER < self.events[0].len() => self.turn(),
            }
        }
    }

    /// Waits until Ably has all of it.
    async fn carried(&self, ably: &Emulator) {
        let carried = async {
            for response in self.story.responses() {
                let text = response.beginning(self.turns);
                while relay::message(ably.local_addr(), &response.channel()).await.text != text {
                    tokio::time::sleep(TICK).await;
                }
            }
        };
        tokio::time::timeout(PATIENCE, carried).await.expect("in time");
    }

    /// Produces the rest.
    async fn end(mut self) {
        let mut pace = tokio::time::interval(TICK);
        while self.turns < self.events[0].len() {
            pace.tick().await;
            self.turn();
        }
    }
}

fn revoke(ably: &Emulator) {
    ably.set_faults(Faults { revoked_keys: vec![KEY_NAME.to_owned()], ..Faults::default() });
}

/// Waits until all responses are under way, on all connections.
async fn under_way(ably: &Emulator) {
    until(|| ably.stats().creates >= RESPONSES as u64).await;
}

/// How each response travelled: its operations on one connection, those on the next, and so on.
fn ways(results: &Results) -> Vec<Vec<(String, Vec<String>)>> {
    let mut operations: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for operation in results.of_operations() {
        operations.entry(operation["responseId"].as_str().expect("an id")).or_default().push(operation);
    }
    let way = |mut operations: Vec<&Value>| {
        operations.sort_by_key(|operation| operation["opSeq"].as_u64());
        let by = operations.chunk_by(|one, next| one["connectionId"] == next["connectionId"]);
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        by.map(|some| (text(&some[0]["connectionId"]), some.iter().map(|one| text(&one["op"])).collect())).collect()
    };
    operations.into_values().map(way).collect()
}

/// Everything that was promised of it, and how it travelled.
async fn judge(stage: Stage, story: &Story) -> (results::Summary, Vec<Vec<(String, Vec<String>)>>) {
    let Stage { world, ably, mut relay } = stage;
    let results = results::wait(&world, &mut relay, story.responses().len()).await;
    let summary = results.check(story.responses());
    // Whoever looks at the end has the former key.
    ably.set_faults(Faults::default());
    for response in story.responses() {
        let message = relay::message(ably.local_addr(), &response.channel()).await;
        assert_eq!((message.text, &*message.status), (response.text(), "complete"), "{}", response.id);
    }
    relay.stop().await;
    (summary, ways(&results))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_rolled_key_connections_are_replaced_before_the_former_key_ends() {
    let file = holding(KEY);
    let stage = stage("ably.key_file", &file, &[&format!("ably.connections.max={CONNECTIONS}")]).await;
    let story = story(31, TOKENS);
    let mut producer = Producer::new(&stage.world, &story);
    let roll = async {
        under_way(&stage.ably).await;
        until(|| stage.ably.stats().connections == CONNECTIONS).await;
        let before = stage.ably.stats();
        std::fs::write(&file, NEXT_KEY).expect("written");
        until(|| {
            let stats = stage.ably.stats();
            stats.closed == before.closed + CONNECTIONS && stats.connections == CONNECTIONS
        })
        .await;
        before
    };
    let before = producer.during(roll).await;
    producer.turn();
    producer.carried(&stage.ably).await;
    revoke(&stage.ably);
    producer.end().await;
    let after = stage.ably.stats();
    assert_eq!(before.connections_most, CONNECTIONS);
    assert_eq!(after.connections_most, CONNECTIONS + 1, "the next is up before the former ends");
    assert_eq!(after.connected, before.connected + CONNECTIONS, "the former key is needed no more");
    assert_eq!((after.resumed, after.resumes_refused), (0, 0), "no connection was lost");
    let (summary, ways) = judge(stage, &story).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0), "nothing was interrupted");
    let (mut former, mut next) = (HashSet::new(), HashSet::new());
    for way in &ways {
        let [(one, _), (other, operations)] = &way[..] else { panic!("on a connection, then on the next: {way:?}") };
        assert_eq!(operations[0], "update", "it begins there with its full text");
        assert!(operations.len() > 1 && !operations[1..].contains(&"update".to_owned()), "and goes on: {way:?}");
        former.insert(one);
        next.insert(other);
    }
    assert!(former.is_disjoint(&next), "{former:?}, then {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_key_that_ends_at_once_nobody_comes_back_with_it() {
    for transport in ["realtime", "rest"] {
        let file = holding(KEY);
        let stage = stage("ably.key_file", &file, &[&format!("ably.transport={transport}")]).await;
        let story = story(32, 3 * TOKENS_AFTER);
        let by_request = transport == "rest";
        let mut producer = Producer::new(&stage.world, &story);
        let roll = async {
            under_way(&stage.ably).await;
            let before = stage.ably.stats();
            std::fs::write(&file, NEXT_KEY).expect("written");
            revoke(&stage.ably);
            until(|| stage.ably.stats().connected == before.connected + before.connections).await;
            before
        };
        let before = producer.during(roll).await;
        producer.end().await;
        let after = stage.ably.stats();
        let returned = after.resumes_refused - before.resumes_refused;
        assert_eq!(returned, before.connections, "each came back at once, before anybody had given it up");
        let (summary, ways) = judge(stage, &story).await;
        if by_request {
            assert_eq!((summary.rejected, summary.unknown), (0, 0), "what is refused for its key is asked again");
        }
        let connections = if by_request { 1 } else { 2 };
        assert!(ways.iter().all(|way| way.len() == connections), "{transport}: {ways:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_rolled_key_signs_are_shown_on_the_connections_that_there_are() {
    let file = holding(KEY);
    let stage = stage("ably.jwt.key_file", &file, &[&format!("ably.connections.max={CONNECTIONS}")]).await;
    let story = story(33, TOKENS);
    let mut producer = Producer::new(&stage.world, &story);
    let roll = async {
        under_way(&stage.ably).await;
        until(|| stage.ably.stats().connections == CONNECTIONS).await;
        let before = stage.ably.stats();
        std::fs::write(&file, NEXT_KEY).expect("written");
        until(|| {
            let stats = stage.ably.stats();
            stats.authorised == before.authorised + CONNECTIONS && stats.closed > before.closed
        })
        .await;
        before
    };
    let before = producer.during(roll).await;
    producer.turn();
    producer.carried(&stage.ably).await;
    revoke(&stage.ably);
    producer.end().await;
    let after = stage.ably.stats();
    let opened = (after.connected - before.connected, after.closed - before.closed);
    assert_eq!(opened, (1, 1), "one was to see whether the key is taken, and said goodbye");
    let (summary, ways) = judge(stage, &story).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0), "nothing was interrupted");
    assert!(ways.iter().all(|way| way.len() == 1), "all on the connections that there were: {ways:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_that_is_not_taken_is_not_used() {
    for transport in ["realtime", "rest"] {
        let (world, ably, file) = (World::new(1, 1, 1).await, ably().await, holding(KEY));
        let (key, transport) =
            (format!("ably.key_file={}", file.path().display()), format!("ably.transport={transport}"));
        let mut member = Member::start(&world.settings, ably.local_addr(), &[&key, &transport]);
        member.becomes_ready().await;
        std::fs::write(&file, "app.none:hunter2").expect("written");
        member.says("a new key or token is not used", 1).await;
        let story = Story::sized(34, 3, 20, 8);
        story.produce_in_turns(&world);
        until(|| ably.stats().creates == 3).await;
        assert!(member.ready().await.contains("\"ready\":true"), "what it has is still good");
        std::fs::write(&file, NEXT_KEY).expect("written");
        let taken = if transport.ends_with("rest") { "requests show the new key" } else { "has taken over" };
        member.says(taken, 1).await;
        revoke(&ably);
        assert!(member.ready().await.contains("\"ready\":true"));
        member.stop().await;
    }
}
