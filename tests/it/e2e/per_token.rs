//! A message for each token: whatever fails, and whoever dies, a reader who puts them in order has the text in the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;
use tokenrelay::config::Delivery;
use tokenrelay::emulator::{self, Emulator, Faults};

use super::audit::lives::audited;
use super::relay::{self, Relay};
use super::story::Story;
use super::{KEY, results};
use crate::world::World;

const PER_TOKEN: &str = "input.pattern=message-per-token";

async fn ably(faults: Faults) -> Emulator {
    let config = emulator::Config { keys: vec![KEY.to_owned()], faults, ..emulator::Config::default() };
    emulator::start(config).await.expect("an emulator")
}

fn faults() -> Faults {
    Faults {
        reject: 0.1,
        reject_applied: 0.3,
        lose_ack: 0.03,
        skip_ack: 0.02,
        drop: 0.02,
        late_apply: 500,
        refuse_resume: 0.5,
        delay: 20,
        seed: 7,
        ..Faults::default()
    }
}

/// The text on a channel, and how it ends.
async fn read(ably: SocketAddr, channel: &str) -> (String, String) {
    assembled(&relay::messages(ably, channel).await)
}

/// The text of messages that are tokens, and how it ends, as the header contract says.
pub(super) fn assembled(messages: &[Value]) -> (String, String) {
    let header = |message: &Value, name: &str| message["extras"]["headers"][name].as_str().unwrap_or("0").to_owned();
    let number = |message: &Value, name: &str| header(message, name).parse::<u64>().expect("a number");
    let data = |message: &Value| message["data"].as_str().unwrap_or_default().to_owned();
    let named = |name: &'static str| messages.iter().filter(move |message| message["name"] == name);
    let round = |message: &Value| (number(message, "epoch"), number(message, "round"));
    let mut rounds: BTreeMap<(u64, u64), BTreeMap<u64, &Value>> = BTreeMap::new();
    for message in named("response-complete") {
        rounds.entry(round(message)).or_default().insert(number(message, "segment"), message);
    }
    let said = |parts: &BTreeMap<u64, &Value>, name: &str| parts.values().next().map_or(0, |part| number(part, name));
    let is_whole = |parts: &&BTreeMap<u64, &Value>| parts.len() as u64 == said(parts, "segments");
    let whole = rounds.values().rev().find(is_whole);
    let mut text: String = whole.into_iter().flatten().map(|(_, message)| data(message)).collect();
    let mut next = whole.map_or(0, |parts| said(parts, "n"));
    let mut pieces: Vec<&Value> = named("token").chain(named("stop")).collect();
    pieces.sort_by_key(|message| number(message, "seq"));
    for piece in pieces {
        if number(piece, "seq") == next {
            text += &data(piece);
            next += number(piece, "n");
        }
    }
    let stop = named("stop").max_by_key(|message| round(message)).expect("it stops");
    assert_eq!(number(stop, "length"), text.len() as u64, "{stop}");
    (text, header(stop, "status"))
}

async fn judge(world: &World, ably: &Emulator, mut relay: Relay, story: &Story) -> results::Summary {
    let results = results::wait(world, &mut relay, story.responses().len()).await;
    let summary = results.check(story.responses());
    look(world, ably, relay, story).await;
    summary
}

/// Looks at the channels and lets the audit look at everything, when all is settled.
async fn look(world: &World, ably: &Emulator, relay: Relay, story: &Story) {
    ably.set_faults(Faults::default());
    for response in story.responses() {
        let (text, status) = read(ably.local_addr(), &response.channel()).await;
        assert_eq!((text, &*status), (response.text(), response.status()), "on {}", response.channel());
    }
    relay.stop().await;
    for (partition, committed, end) in world.committed() {
        assert_eq!(committed, end, "partition {partition}");
    }
    let counts = audited(world, ably.local_addr(), Delivery::ExactlyOnce).await.counts;
    let count = story.responses().len() as u64;
    assert_eq!((counts.settled, counts.messages, counts.failed), (count, count, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_is_a_message_and_every_text_is_right() {
    let (world, ably) = (World::new(2, 2, 1).await, ably(Faults::default()).await);
    let relay = Relay::set(&world.settings, ably.local_addr(), &[PER_TOKEN]);
    let story = Story::new(41, 30);
    story.produce(&world).await;
    let summary = judge(&world, &ably, relay, &story).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn among_tokens_too_the_texts_are_right_in_the_end_whatever_fails() {
    for transport in ["ably.transport=realtime", "ably.transport=rest"] {
        let (world, ably) = (World::new(2, 2, 1).await, ably(faults()).await);
        let relay = Relay::set(&world.settings, ably.local_addr(), &[PER_TOKEN, transport, "ably.per_token=joined"]);
        let story = Story::new(42, 40);
        story.produce(&world).await;
        let summary = judge(&world, &ably, relay, &story).await;
        assert!(summary.unknown > 0, "the faults did happen: {summary:?}");
        assert!(summary.reconciled > 0, "and were mended: {summary:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn among_tokens_too_owners_may_die() {
    let (world, ably) = (World::new(2, 2, 1).await, ably(faults()).await);
    let story = Story::new(43, 40);
    let set = || Relay::set(&world.settings, ably.local_addr(), &[PER_TOKEN]);
    let mut relay = set();
    story.produce_in_turns(&world);
    for settled in [5, 15, 25] {
        results::wait(&world, &mut relay, settled).await;
        std::mem::replace(&mut relay, set()).kill().await;
    }
    results::wait(&world, &mut relay, story.responses().len()).await;
    look(&world, &ably, relay, &story).await;
}
