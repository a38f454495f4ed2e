//! Ably is away for longer than a response may be idle, and the producers go on: nobody is punished for that. When it is
//! back, what has piled up does not come as a flood.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use tokenrelay::emulator::{self, Emulator, Faults};

use super::member::Member;
use super::story::{Response, Story};
use super::{KEY, Stage, relay, results};
use crate::world::World;

/// Well above the time between two tokens, well below the outage.
const IDLE: &str = "response.idle=3s";
const TICK: Duration = Duration::from_millis(100);
const TOKENS: usize = 60;

/// The tick at which Ably goes away. It is back after the last one.
const AWAY: usize = 15;
const TICKS: usize = 75;

/// When a response begins and when it ends: before, in and at the end of the outage.
const SPANS: [(usize, usize); 5] = [(0, TICKS), (0, 40), (5, 60), (30, 45), (40, TICKS)];
/// So many of each.
const EACH: usize = 6;

fn story() -> Story {
    Story::sized(8, SPANS.len() * EACH, TOKENS, 12)
}

fn span(number: usize) -> (usize, usize) {
    SPANS[number % SPANS.len()]
}

/// Produces what every response says within these ticks, at their pace.
async fn produce(world: &World, story: &Story, ticks: std::ops::Range<usize>) {
    let mut pace = tokio::time::interval(TICK);
    let partitions = world.partitions(&world.settings.tokens_topic);
    for tick in ticks {
        pace.tick().await;
        for (number, response) in story.responses().iter().enumerate() {
            let (from, to) = span(number);
            let events = response.events();
            let said = |tick: usize| (tick.clamp(from, to) - from) * events.len() / (to - from);
            for event in &events[said(tick)..said(tick + 1)] {
                let partition = number as i32 % partitions;
                world.send(partition, Some(response.id.as_bytes()), Some(event.as_bytes()), &[]);
            }
        }
        world.flush();
    }
}

/// Waits until each of these has its message.
async fn begun(ably: &Emulator, responses: &[Response]) {
    let begun = (0..responses.len()).filter(|number| span(*number).0 < AWAY).count();
    while ably.stats().creates < begun as u64 {
        tokio::time::sleep(TICK).await;
    }
}

/// Judges what was done since Ably is back: all texts are right, and nobody needed more than two operations.
async fn judge(stage: Stage, story: &Story, back: Timestamp) {
    let Stage { world, ably, mut relay } = stage;
    let results = results::wait(&world, &mut relay, story.responses().len()).await;
    results.check(story.responses());
    let mut since: HashMap<&str, Vec<String>> = HashMap::new();
    for operation in results.of_operations() {
        let sent: Timestamp = operation["sentAt"].as_str().expect("a time").parse().expect("a time");
        if sent >= back {
            since.entry(operation["responseId"].as_str().expect("an id")).or_default().push(operation.to_string());
        }
    }
    assert!(since.len() > EACH, "there was something to do: {}", since.len());
    for operations in since.values() {
        assert!(operations.len() <= 2, "{operations:#?}");
    }
    for response in story.responses() {
        let message = relay::message(ably.local_addr(), &response.channel()).await;
        assert_eq!((message.text, &*message.status), (response.text(), "complete"), "{}", response.id);
    }
    relay.stop().await;
    for (partition, committed, end) in world.committed() {
        assert_eq!(committed, end, "partition {partition}");
    }
}

/// An outage that these faults are.
async fn outage(faults: Faults) {
    let story = story();
    let stage = Stage::set(World::new(2, 2, 1).await, Faults::default(), &[IDLE]).await;
    produce(&stage.world, &story, 0..AWAY).await;
    begun(&stage.ably, story.responses()).await;
    stage.ably.set_faults(faults);
    produce(&stage.world, &story, AWAY..TICKS).await;
    assert!(stage.relay.reasons().contains("ably"), "it is away: {}", stage.relay.reasons());
    let back = Timestamp::now();
    stage.ably.set_faults(Faults::default());
    judge(stage, &story, back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_abandoned_while_ably_lets_nobody_in() {
    // The next operation ends the connection that it comes on, and no other is let in.
    outage(Faults { drop: 1.0, refuse_connections: true, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_abandoned_while_ably_stands_still() {
    // What was sent meanwhile is read when it moves again, though we have given those connections up.
    outage(Faults { silent: true, ..Faults::default() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_abandoned_when_ably_has_forgotten_everything() {
    let story = story();
    let stage = Stage::set(World::new(2, 2, 1).await, Faults::default(), &[IDLE]).await;
    produce(&stage.world, &story, 0..AWAY).await;
    begun(&stage.ably, story.responses()).await;
    let Stage { world, ably, relay } = stage;
    let listen = ably.local_addr();
    ably.stop().await;
    produce(&world, &story, AWAY..TICKS).await;
    assert!(relay.reasons().contains("ably"), "it is away: {}", relay.reasons());
    let back = Timestamp::now();
    let config = emulator::Config { listen, keys: vec![KEY.to_owned()], ..emulator::Config::default() };
    let ably = emulator::start(config).await.expect("the same place");
    judge(Stage { world, ably, relay }, &story, back).await;
}

/// What `tokenrelay run` ends with when something is left for the next process.
const TRY_AGAIN: i32 = 75;

#[tokio::test(flavor = "multi_thread")]
async fn the_end_does_not_wait_for_ever_for_what_kafka_refuses() {
    const RECORDS: usize = 20_000;
    let Stage { world, ably, relay } = Stage::set(World::new(1, 1, 1).await, Faults::default(), &[]).await;
    relay.stop().await;
    let settings = ["results.delivery=at-least-once", "shutdown.drain=5s"];
    let mut member = Member::start(&world.settings, ably.local_addr(), &settings);
    member.joins().await;
    // No dead letter is short enough, so more and more of them wait.
    world.alter(&world.settings.dead_letters_topic, "max.message.bytes", "20").await;
    world.produce(0, 0, 1);
    member.shows("readyz", |page| page.contains("refuses a record")).await;
    world.produce(0, 1, RECORDS as i64 - 1);
    let all = format!("tokenrelay_records_total {RECORDS}");
    member.shows("metrics", |page| page.lines().any(|line| line == all)).await;
    assert_eq!(member.end("TERM").await.code(), Some(TRY_AGAIN));
}
