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

const END: &str = r#"{"type":"end"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_responses_leaves_one_message_with_the_right_text() {
    let world = World::new(1, 1, 1).await;
    let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
    let ably = emulator::start(config).await.expect("an emulator");
    let first = Relay::start(&world.settings, ably.local_addr());
    for text in ["one ", "two "] {
        say(&world, "r", &event(text));
    }
    while relay::messages(ably.local_addr(), "ai:r").await.first().is_none_or(|message| message["data"] != "one two ") {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    first.stop().await;

    say(&world, "r", &event("three"));
    say(&world, "r", END);
    say(&world, "new", &event("x"));
    say(&world, "new", END);
    let mut second = Relay::start(&world.settings, ably.local_addr());
    let results = results::wait(&world, &mut second, 2).await;
    let outcomes: Vec<_> = results.of_responses().map(|r| (r["responseId"].clone(), r["outcome"].clone())).collect();
    assert!(outcomes.contains(&("r".into(), "reconciled".into())), "{outcomes:?}");
    assert!(outcomes.contains(&("new".into(), "delivered".into())), "nobody had begun it: {outcomes:?}");
    assert_eq!(relay::message(ably.local_addr(), "ai:r").await.text, "one two three");
    assert_eq!(relay::message(ably.local_addr(), "ai:new").await.text, "x");
    second.stop().await;
}
