//! What is given up on says so on its channel, and keeps the text that readers have seen.

use std::time::Duration;

use serde_json::{Value, json};
use tokenrelay::emulator::Faults;

use super::auth::until;
use super::{Stage, relay, results};
use crate::world::World;

/// Ably's code for a request that is wrong: refusals that are about the operation.
const WRONG: u32 = 40013;

fn say(world: &World, event: &Value) {
    world.produce_raw(Some(b"r"), Some(event.to_string().as_bytes()), &[]);
    world.flush();
}

/// A response of which nothing more is taken after its first token, until it is given up on. Gives its messages and its record.
async fn given_up(pattern: &str, transport: &str) -> (Vec<Value>, Value) {
    let settings = [
        format!("input.pattern={pattern}"),
        format!("ably.transport={transport}"),
        "reconcile.attempts=1".to_owned(),
        // The last word waits for at least as long: time to take it.
        "reconcile.debounce=3s".to_owned(),
    ];
    let settings = settings.each_ref().map(String::as_str);
    let Stage { world, ably, mut relay } = Stage::set(World::new(1, 1, 1).await, Faults::default(), &settings).await;
    say(&world, &json!({"type": "token", "text": "one"}));
    let is_there = async {
        while !relay::messages(ably.local_addr(), "ai:r").await.iter().any(|message| message["data"] == "one") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(crate::world::PATIENCE, is_there).await.expect("in time");
    ably.set_faults(Faults { reject: 1.0, reject_code: Some(WRONG), ..Faults::default() });
    say(&world, &json!({"type": "token", "text": " two"}));
    say(&world, &json!({"type": "end"}));
    until(|| ably.stats().nacked.get(&WRONG).is_some_and(|refused| *refused >= 2)).await;
    ably.set_faults(Faults::default());
    let results = results::wait(&world, &mut relay, 1).await;
    relay.stop().await;
    let record = results.of_responses().next().expect("its record").clone();
    (relay::messages(ably.local_addr(), "ai:r").await, record)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_told_when_a_text_cannot_be_made_right() {
    for transport in ["realtime", "rest"] {
        let (messages, record) = given_up("message-per-response", transport).await;
        let [message] = &messages[..] else { panic!("one message, not {messages:?}") };
        assert_eq!((&message["data"], &message["extras"]["headers"]["status"]), (&"one".into(), &"failed".into()));
        assert_eq!(message["version"]["metadata"]["phase"], "done");
        assert_eq!((&record["outcome"], &record["reason"]), (&"failed".into(), &"refused-40013".into()));
        assert_eq!((&record["operations"], &record["rejected"]), (&4.into(), &2.into()), "{record}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_of_tokens_are_told_when_a_text_cannot_be_made_right() {
    let (messages, record) = given_up("message-per-token", "realtime").await;
    let stop = messages.iter().find(|message| message["name"] == "stop").expect("it stops");
    let headers = &stop["extras"]["headers"];
    assert_eq!(
        (&headers["status"], &headers["tokens"], &headers["repair"]),
        (&"failed".into(), &"2".into(), &"false".into())
    );
    assert_eq!((&record["outcome"], &record["reason"]), (&"failed".into(), &"refused-40013".into()));
}
