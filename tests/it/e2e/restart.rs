//! What an owner has begun, the next one finishes: same message, right text.

use std::net::SocketAddr;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::relay::{self, Relay};
use super::{KEY, results};
use crate::world::World;
use tokenrelay::emulator;

fn event(text: &str) -> String {
    serde_json::json!({"type": "token", "text": text}).to_string()
}

fn say(world: &World, key: &str, value: &str) {
    world.produce_raw(Some(key.as_bytes()), Some(value.as_bytes()), &[]);
    world.flush();
}

const DELIVERIES: [&str; 2] = ["exactly-once", "at-least-once"];
const END: &str = r#"{"type":"end"}"#;

/// Two processes, one after the other, and a response that goes on under the second; gives its record.
async fn hand_over(in_order: bool, delivery: &str) -> serde_json::Value {
    let world = World::new(1, 1, 1).await;
    let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
    let ably = emulator::start(config).await.expect("an emulator");
    let first = Relay::with(&world.settings, ably.local_addr(), delivery);
    for text in ["one ", "two "] {
        say(&world, "r", &event(text));
    }
    say(&world, "over", &event("x"));
    say(&world, "over", END);
    while relay::messages(ably.local_addr(), "ai:r").await.first().is_none_or(|message| message["data"] != "one two ") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    match in_order {
        true => first.stop().await,
        false => first.kill().await,
    }

    say(&world, "r", &event("three"));
    say(&world, "r", END);
    say(&world, "new", &event("y"));
    say(&world, "new", END);
    let mut second = Relay::with(&world.settings, ably.local_addr(), delivery);
    let results = results::wait(&world, &mut second, 3).await;
    for (id, text) in [("r", "one two three"), ("over", "x"), ("new", "y")] {
        assert_eq!(relay::message(ably.local_addr(), &format!("ai:{id}")).await.text, text);
    }
    second.stop().await;
    let of = |id: &str| results.of_responses().filter(|record| record["responseId"] == id).cloned().collect::<Vec<_>>();
    // Of a process that was killed nobody knows how far it had read.
    let expected = if in_order { "delivered" } else { "reconciled" };
    assert_eq!(of("new")[0]["outcome"], expected);
    of("r").pop().expect("its record")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_outlives_a_restart_in_order_without_a_repair() {
    for delivery in DELIVERIES {
        let record = hand_over(true, delivery).await;
        assert_eq!(record["outcome"], "delivered");
        assert_eq!(record["epoch"], 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_outlives_a_process_that_was_killed() {
    for delivery in DELIVERIES {
        let record = hand_over(false, delivery).await;
        assert_eq!(record["outcome"], "reconciled");
        assert_eq!(record["tokens"], 3);
    }
}

/// Somebody who is no relay changes a message.
async fn change(ably: SocketAddr, channel: &str, serial: &str, change: &serde_json::Value) {
    let [channel, serial] = [channel, serial].map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string());
    let (name, secret) = KEY.split_once(':').expect("a key");
    let url = format!("http://{ably}/channels/{channel}/messages/{serial}");
    let request = reqwest::Client::new().patch(url).basic_auth(name, Some(secret)).json(change);
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "{}", answer.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_changes_before_a_takeover_is_left_to_them() {
    let world = World::new(1, 1, 1).await;
    let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
    let emulator = emulator::start(config).await.expect("an emulator");
    let ably = emulator.local_addr();
    let first = Relay::with(&world.settings, ably, DELIVERIES[0]);
    let changes = [
        ("edited", serde_json::json!({"action": 1, "data": "theirs"})),
        ("deleted", serde_json::json!({"action": 2})),
        ("ours", serde_json::Value::Null),
    ];
    for (id, _) in &changes {
        say(&world, id, &event("one "));
        say(&world, id, &event("two "));
        let channel = format!("ai:{id}");
        while relay::messages(ably, &channel).await.first().is_none_or(|message| message["data"] != "one two ") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    first.kill().await;
    let mut left = Vec::new();
    for (id, theirs) in &changes {
        let channel = format!("ai:{id}");
        let serial = relay::messages(ably, &channel).await[0]["serial"].as_str().expect("a serial").to_owned();
        if theirs.is_object() {
            change(ably, &channel, &serial, theirs).await;
        }
        left.push(relay::versions(ably, &channel, &serial).await);
        say(&world, id, &event("three"));
        say(&world, id, END);
    }

    let mut second = Relay::with(&world.settings, ably, DELIVERIES[0]);
    let results = results::wait(&world, &mut second, changes.len()).await;
    second.stop().await;
    for ((id, theirs), left) in changes.iter().zip(left) {
        let mut records = results.of_responses().filter(|record| record["responseId"] == *id);
        let record = records.next().expect("its record");
        let channel = format!("ai:{id}");
        if theirs.is_object() {
            assert_eq!((&record["outcome"], &record["reason"]), (&"failed".into(), &"changed-by-other".into()), "{id}");
            let serial = left[0]["serial"].as_str().expect("a serial");
            assert_eq!(relay::versions(ably, &channel, serial).await, left, "{id}: nothing more is written");
            continue;
        }
        assert_eq!(record["outcome"], "reconciled");
        assert_eq!(relay::message(ably, &channel).await.text, "one two three");
    }
}
