//! What an ordinary reader sees while the relay works: an unmodified ably-js, subscribed before the first token. Texts come
//! piece by piece, and whatever fails, the text that its reader holds in the end is that of the topic.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokenrelay::emulator::Faults;

use super::story::{Response, Story};
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

/// So many tokens are produced of each response before the reader must have them.
const PORTION: usize = 15;

/// Produces this portion of each response, all of them by turns.
fn produce(world: &World, story: &Story, portion: std::ops::Range<usize>) {
    for number in portion {
        for response in story.responses() {
            let event = &response.events()[number];
            world.send(0, Some(response.id.as_bytes()), Some(event.as_bytes()), &[]);
        }
        world.flush();
    }
}

/// Plays the story before a reader, who must have each portion before the next is produced: what fails is mended while it
/// streams. Gives what kinds of events there were.
async fn play(story: &Story, faults: Faults, format: &str) -> BTreeSet<String> {
    let Stage { world, ably, mut relay } = Stage::set(World::new(1, 1, 1).await, faults, &FAST).await;
    let channels: Vec<String> = story.responses().iter().map(Response::channel).collect();
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    let mut reader = Subscriber::start(ably.local_addr(), KEY, format, &names).await;
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    let mut actions = BTreeSet::new();
    let tokens = story.responses()[0].tokens();
    for from in (0..=tokens).step_by(PORTION) {
        let to = (from + PORTION).min(tokens);
        let ends = from == tokens;
        produce(&world, story, if ends { from..from + 1 } else { from..to });
        let has = |held: &BTreeMap<String, Held>, response: &Response| {
            let message = held.get(&response.channel());
            let status = if ends { response.status() } else { "streaming" };
            message.is_some_and(|message| message.text == response.beginning(to) && message.status == status)
        };
        while !story.responses().iter().all(|response| has(&held, response)) {
            let event = reader.next().await;
            actions.insert(event["action"].as_str().unwrap_or_default().to_owned());
            held.entry(event["channel"].as_str().expect("a channel").to_owned()).or_default().take(&event);
        }
    }
    results::wait(&world, &mut relay, story.responses().len()).await.check(story.responses());

    let texts = reader.finish().await.texts;
    for response in story.responses() {
        let held = &held[&response.channel()];
        assert!(held.pieces >= tokens / PORTION, "{held:?}");
        let messages = texts[&response.channel()].as_object().expect("messages");
        assert_eq!(messages.len(), 1, "{messages:?}");
        assert_eq!(messages[&held.serial]["text"], response.text(), "{messages:?}");
    }
    relay.stop().await;
    actions
}

/// The next event on the channel that brings something.
async fn piece(reader: &mut Subscriber) -> Value {
    loop {
        let event = reader.next().await;
        if event["data"].as_str().is_some_and(|data| !data.is_empty()) {
            return event;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_one_by_one() {
    let Stage { world, ably, relay } = Stage::set(World::new(1, 1, 1).await, Faults::default(), &FAST).await;
    let mut reader = Subscriber::start(ably.local_addr(), KEY, "msgpack", &["ai:r"]).await;
    let tokens = ["The ", "answer", " is", " 42", ".", "\n\n", "Größe", " 日本語", " 👩‍👩‍👧", "e\u{301}", "!"];
    let say = |event: Value| world.produce_raw(Some(b"r"), Some(event.to_string().as_bytes()), &[]);
    // No token is produced before the reader has the one before it.
    for (number, token) in tokens.into_iter().enumerate() {
        say(json!({"type": "token", "text": token}));
        let event = piece(&mut reader).await;
        let action = if number == 0 { "message.create" } else { "message.append" };
        assert_eq!((&event["action"], &event["data"]), (&json!(action), &json!(token)), "{event}");
    }
    say(json!({"type": "end"}));
    while reader.next().await["headers"]["status"] != "complete" {}
    let texts = reader.finish().await.texts;
    let messages = texts["ai:r"].as_object().expect("messages");
    let texts: Vec<&Value> = messages.values().map(|message| &message["text"]).collect();
    assert_eq!(texts, [&json!(tokens.concat())]);
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_the_reader_has_the_text_in_the_end() {
    let fails = async |format| {
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
        let actions = play(&Story::sized(10, 12, 60, 8), faults, format).await;
        assert!(actions.contains("message.update"), "texts were mended: {actions:?}");
    };
    tokio::join!(fails("msgpack"), fails("json"));
}
