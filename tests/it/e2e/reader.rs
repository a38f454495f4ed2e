//! What an ordinary reader sees while the relay works: an unmodified ably-js, subscribed before the first token. Texts come
//! piece by piece, and whatever fails, the text that its reader holds in the end is that of the topic.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tokenrelay::emulator::Faults;

use super::story::Story;
use super::{KEY, Stage, results};
use crate::sdk::subscriber::Subscriber;
use crate::world::World;

/// The emulator allows more than an account does: no token has to wait for another.
const FAST: [&str; 2] = ["ably.connections.rate=5000", "ably.channels.rate=5000"];

/// A message as its reader has it.
#[derive(Debug, Default)]
struct Held {
    serial: String,
    text: String,
    status: String,
    /// Events that brought something.
    pieces: usize,
}

impl Held {
    /// Does with an event what Ably's documentation tells readers to do.
    fn take(&mut self, event: &Value) {
        let field = |name: &str| event[name].as_str().unwrap_or_default();
        assert!(self.serial.is_empty() || self.serial == field("serial"), "another message: {event}, not {self:?}");
        if event["news"] != true {
            return;
        }
        self.serial = field("serial").to_owned();
        if field("action") != "message.append" {
            self.text.clear();
        }
        self.text += field("data");
        self.pieces += usize::from(!field("data").is_empty());
        self.status = event["headers"]["status"].as_str().unwrap_or_default().to_owned();
    }
}

/// Plays the story before a reader. Gives how many events brought something, and how many texts came whole.
async fn play(story: &Story, faults: Faults, format: &str) -> (usize, BTreeSet<String>) {
    let Stage { world, ably, mut relay } = Stage::set(World::new(2, 2, 1).await, faults, &FAST).await;
    let channels: Vec<String> = story.responses().iter().map(|response| response.channel()).collect();
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    let mut reader = Subscriber::start(ably.local_addr(), KEY, format, &names).await;
    story.produce(&world).await;
    results::wait(&world, &mut relay, story.responses().len()).await.check(story.responses());

    // Nothing more will be sent; what is on its way to the reader is waited for.
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    let mut actions = BTreeSet::new();
    let right = |held: &BTreeMap<String, Held>| {
        story.responses().iter().all(|response| {
            let message = held.get(&response.channel());
            message.is_some_and(|message| message.text == response.text() && message.status == response.status())
        })
    };
    while !right(&held) {
        let event = reader.next().await;
        actions.insert(event["action"].as_str().unwrap_or_default().to_owned());
        held.entry(event["channel"].as_str().expect("a channel").to_owned()).or_default().take(&event);
    }
    let texts = reader.finish().await;
    for response in story.responses() {
        let held = &held[&response.channel()];
        assert!(held.pieces > 1, "all at once: {held:?}");
        let messages = texts[&response.channel()].as_object().expect("messages");
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert_eq!(messages[&held.serial]["text"], response.text(), "{messages:?}");
    }
    relay.stop().await;
    (held.values().map(|held| held.pieces).sum(), actions)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_one_by_one() {
    let story = Story::sized(9, 12, 40, 8);
    let (pieces, actions) = play(&story, Faults::default(), "msgpack").await;
    assert!(pieces > 12 * 40 / 2, "most tokens have an event of their own: {pieces}");
    assert_eq!(actions, ["message.append", "message.create"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_the_reader_has_the_text_in_the_end() {
    for format in ["msgpack", "json"] {
        let faults = Faults {
            reject: 0.1,
            reject_fold: 0.5,
            lose_ack: 0.02,
            skip_ack: 0.01,
            drop: 0.02,
            refuse_resume: 0.5,
            delay: 20,
            seed: 10,
            ..Faults::default()
        };
        let (pieces, actions) = play(&Story::sized(10, 12, 60, 8), faults, format).await;
        assert!(pieces > 12 * 3, "texts come in pieces: {pieces}");
        assert!(actions.contains("message.update"), "texts were mended: {actions:?}");
    }
}
