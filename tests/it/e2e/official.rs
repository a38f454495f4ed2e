//! The official clients as applications have them, unmodified, on what the relay writes: each of them has every text, piece by
//! piece as it came and in the history. So does the reader for front ends, with a client of its own.

use serde_json::{Value, json};
use tokenrelay::emulator::{self, Emulator, Faults};

use super::per_token::assembled;
use super::relay::Relay;
use super::story::{Response, Story};
use super::{KEY, results};
use crate::sdk::subscriber::Subscriber;
use crate::world::World;

/// What a message may have; about a kilobyte of it is for names and headers. Longer texts go on in further ones.
const MESSAGE_MAX: usize = 2_048;

async fn ably() -> Emulator {
    let faults = Faults {
        reject: 0.1,
        reject_fold: 0.5,
        lose_ack: 0.02,
        skip_ack: 0.01,
        drop: 0.01,
        refuse_resume: 0.5,
        whole_pieces: 0.05,
        repeat_deliveries: 0.1,
        delay: 10,
        seed: 61,
        ..Faults::default()
    };
    let keys = vec![KEY.to_owned()];
    let config = emulator::Config { keys, faults, max_message_size: MESSAGE_MAX, ..emulator::Config::default() };
    emulator::start(config).await.expect("an emulator")
}

/// The text of messages that are pieces of one, and how it ends.
fn joined(messages: &[Value]) -> (String, String) {
    let header =
        |message: &Value, name: &str| message["extras"]["headers"][name].as_str().unwrap_or_default().to_owned();
    let current = messages.iter().filter(|message| header(message, "status") != "superseded");
    let mut current: Vec<&Value> = current.collect();
    current.sort_by_key(|message| header(message, "segment").parse::<u32>().expect("a number"));
    let text = current.iter().map(|message| message["data"].as_str().expect("a text")).collect();
    (text, current.last().map_or_else(String::new, |message| header(message, "status")))
}

/// Fails if a client holds any text otherwise than it was produced.
fn check(said: &Value, from: &str, story: &Story, join: fn(&[Value]) -> (String, String)) {
    for response in story.responses() {
        let messages = said[from][response.channel()].as_array().expect("messages");
        let expected = (response.text(), response.status().to_owned());
        assert_eq!(join(messages), expected, "{from} on {}", response.channel());
    }
}

/// Fails if the reader for front ends shows any response otherwise.
fn check_followed(said: &Value, story: &Story) {
    for response in story.responses() {
        let shown = said["followed"][response.channel()].as_array().expect("responses");
        let [shown] = &shown[..] else { panic!("one response, not {shown:?}") };
        assert_eq!(shown["text"], response.text(), "{shown}");
        assert_eq!((&shown["status"], &shown["complete"]), (&response.status().into(), &true.into()), "{shown}");
    }
}

async fn play(pattern: &str, format: &str, story: &Story, join: fn(&[Value]) -> (String, String)) {
    let (world, ably) = (World::new(2, 2, 1).await, ably().await);
    let channels: Vec<String> = story.responses().iter().map(Response::channel).collect();
    let names: Vec<&str> = channels.iter().map(String::as_str).collect();
    let (at, names) = (ably.local_addr(), &names[..]);
    let javascript = Subscriber::in_javascript(at, KEY, format, names).await;
    let python = Subscriber::in_python(at, KEY, format, names).await;
    let mut relay = Relay::set(&world.settings, at, &[&format!("input.pattern={pattern}")]);
    story.produce(&world).await;
    let summary = results::wait(&world, &mut relay, story.responses().len()).await.check(story.responses());
    assert!(summary.rejected > 0 && summary.reconciled > 0, "the faults did happen: {summary:?}");
    relay.stop().await;
    ably.set_faults(Faults::default());
    let javascript = javascript.last("history").await;
    for said in [&javascript, &python.last("history").await] {
        check(said, "live", story, join);
        check(said, "history", story, join);
    }
    check_followed(&javascript, story);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_has_every_text() {
    play("message-per-response", "msgpack", &Story::new(61, 30), joined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_has_every_long_text() {
    play("message-per-response", "json", &Story::sized(62, 8, 80, 64), joined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_has_every_text_of_tokens() {
    play("message-per-token", "msgpack", &Story::new(63, 30), assembled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_otherwise_is_shown_so() {
    for pattern in ["message-per-response", "message-per-token"] {
        let (world, ably) = (World::new(1, 1, 1).await, ably().await);
        ably.set_faults(Faults::default());
        let page = Subscriber::in_javascript(ably.local_addr(), KEY, "msgpack", &["ai:cancel", "ai:error"]).await;
        let mut relay = Relay::set(&world.settings, ably.local_addr(), &[&format!("input.pattern={pattern}")]);
        for ending in ["cancel", "error"] {
            for event in [
                json!({"type": "token", "text": "Not "}),
                json!({"type": "token", "text": "all"}),
                json!({"type": ending}),
            ] {
                world.produce_raw(Some(ending.as_bytes()), Some(event.to_string().as_bytes()), &[]);
            }
        }
        results::wait(&world, &mut relay, 2).await;
        relay.stop().await;
        let said = page.last("followed").await;
        for (ending, status) in [("cancel", "cancelled"), ("error", "error")] {
            let shown = &said["followed"][format!("ai:{ending}")][0];
            assert_eq!((&shown["text"], &shown["status"]), (&json!("Not all"), &json!(status)), "{pattern}: {shown}");
        }
    }
}
