//! Keys that are rolled while streams go on: new connections first, then the old ones end. Nobody restarts anything.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::NamedTempFile;
use tokenrelay::emulator::{self, Emulator, Faults};

use super::auth::until;
use super::member::Member;
use super::relay::{self, Relay};
use super::results::{self, Results};
use super::story::Story;
use super::{KEY, Stage};
use crate::world::World;

const NEXT_KEY: &str = "app.next:other-secret";
/// Their names.
const KEY_NAME: &str = "app.key";

const TICK: Duration = Duration::from_millis(100);
/// One a tick and response: longer than it takes until a file is looked at.
const TOKENS: usize = 160;
const RESPONSES: usize = 6;
const CONNECTIONS: u64 = 4;

/// A file that holds a key.
fn holding(key: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(&file, key).expect("written");
    file
}

fn story(seed: u64) -> Story {
    Story::sized(seed, RESPONSES, TOKENS, 8)
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

/// Produces it all, a token of each response at a time.
async fn produce(world: &World, story: &Story) {
    let partitions = world.partitions(&world.settings.tokens_topic);
    let mut pace = tokio::time::interval(TICK);
    let events: Vec<_> = story.responses().iter().map(|response| (response.id.as_bytes(), response.events())).collect();
    for turn in 0..=TOKENS {
        pace.tick().await;
        for (number, (id, events)) in events.iter().enumerate() {
            world.send(number as i32 % partitions, Some(id), Some(events[turn].as_bytes()), &[]);
        }
        world.flush();
    }
}

fn revoke(ably: &Emulator) {
    ably.set_faults(Faults { revoked_keys: vec![KEY_NAME.to_owned()], ..Faults::default() });
}

/// Waits until all responses are under way, on all connections.
async fn under_way(ably: &Emulator) {
    until(|| ably.stats().creates >= RESPONSES as u64).await;
}

/// The longest time in which nothing of a response was sent, from its first operation to its last.
fn longest_gap(results: &Results) -> Duration {
    let mut sent: HashMap<&str, Vec<Timestamp>> = HashMap::new();
    for operation in results.of_operations() {
        let at = operation["sentAt"].as_str().expect("a time").parse().expect("a time");
        sent.entry(operation["responseId"].as_str().expect("an id")).or_default().push(at);
    }
    let gaps = sent.values_mut().flat_map(|times| {
        times.sort();
        times.windows(2).map(|two| two[1].duration_since(two[0]).unsigned_abs()).collect::<Vec<_>>()
    });
    gaps.max().expect("something was sent")
}

/// Everything that was promised of it, and how long a stream stood still at the most.
async fn judge(stage: Stage, story: &Story) -> (results::Summary, Duration) {
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
    (summary, longest_gap(&results))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_rolled_key_connections_are_replaced_before_the_former_key_ends() {
    let file = holding(KEY);
    let stage = stage("ably.key_file", &file, &[&format!("ably.connections.max={CONNECTIONS}")]).await;
    let story = story(31);
    let roll = async {
        under_way(&stage.ably).await;
        until(|| stage.ably.stats().connections == CONNECTIONS).await;
        let before = stage.ably.stats().connected;
        std::fs::write(&file, NEXT_KEY).expect("written");
        until(|| {
            let stats = stage.ably.stats();
            stats.connected == before + CONNECTIONS && stats.connections == CONNECTIONS
        })
        .await;
        revoke(&stage.ably);
        before + CONNECTIONS
    };
    let ((), connected) = tokio::join!(produce(&stage.world, &story), roll);
    assert_eq!(stage.ably.stats().connected, connected, "the former key is needed no more");
    let (summary, gap) = judge(stage, &story).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0), "nothing was interrupted");
    assert!(gap < Duration::from_secs(2), "a stream stood still for {gap:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_ends_at_once_costs_a_moment() {
    for (transport, gap_max) in [("realtime", 5), ("rest", 2)] {
        let file = holding(KEY);
        let stage = stage("ably.key_file", &file, &[&format!("ably.transport={transport}")]).await;
        let story = story(32);
        let roll = async {
            under_way(&stage.ably).await;
            std::fs::write(&file, NEXT_KEY).expect("written");
            revoke(&stage.ably);
        };
        tokio::join!(produce(&stage.world, &story), roll);
        let (summary, gap) = judge(stage, &story).await;
        assert!(gap < Duration::from_secs(gap_max), "{transport}: a stream stood still for {gap:?}");
        assert!(transport == "realtime" || summary.rejected == 0, "what is refused for its key is asked again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_a_rolled_key_signs_are_shown_on_the_connections_that_there_are() {
    let file = holding(KEY);
    let stage = stage("ably.jwt.key_file", &file, &[&format!("ably.connections.max={CONNECTIONS}")]).await;
    let story = story(33);
    let roll = async {
        under_way(&stage.ably).await;
        until(|| stage.ably.stats().connections == CONNECTIONS).await;
        let before = stage.ably.stats();
        std::fs::write(&file, NEXT_KEY).expect("written");
        until(|| stage.ably.stats().authorised == before.authorised + CONNECTIONS).await;
        revoke(&stage.ably);
        before.connected
    };
    let ((), connected) = tokio::join!(produce(&stage.world, &story), roll);
    assert_eq!(stage.ably.stats().connected, connected + 1, "one was to see whether the key is taken");
    let (summary, gap) = judge(stage, &story).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0), "nothing was interrupted");
    assert!(gap < Duration::from_secs(2), "a stream stood still for {gap:?}");
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
