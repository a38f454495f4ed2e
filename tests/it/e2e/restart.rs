//! What an owner has begun, the next one finishes: same message, right text.

use std::time::Duration;

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
