//! What somebody else has done to a message is left to them as soon as it is seen, however operations travel.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokenrelay::emulator::{Faults, Stats};

use super::auth::until;
use super::relay::{self, Relay};
use super::{KEY, Stage, results};
use crate::world::{PATIENCE, World};

const TRANSPORTS: [&str; 2] = ["realtime", "rest"];

/// What somebody else does, by the id of the response that it is done to. Nothing is done to the last.
fn changes() -> [(&'static str, Value); 3] {
    [("edited", json!({"action": 1, "data": "theirs"})), ("deleted", json!({"action": 2})), ("ours", Value::Null)]
}

fn say(world: &World, id: &str, event: &Value) {
    world.produce_raw(Some(id.as_bytes()), Some(event.to_string().as_bytes()), &[]);
    world.flush();
}

fn token(world: &World, id: &str, text: &str) {
    say(world, id, &json!({"type": "token", "text": text}));
}

/// Waits until a channel reads so.
async fn reads(ably: SocketAddr, channel: &str, text: &str) {
    let reads = async {
        while relay::messages(ably, channel).await.first().is_none_or(|message| message["data"] != text) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reads).await.expect("in time");
}

/// Somebody who is no relay changes the message on a channel. Gives its serial.
async fn change(ably: SocketAddr, channel: &str, theirs: &Value) -> String {
    let serial = relay::messages(ably, channel).await[0]["serial"].as_str().expect("a serial").to_owned();
    if theirs.is_object() {
        let [channel, serial] = [channel, &*serial].map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC).to_string());
        let (name, secret) = KEY.split_once(':').expect("a key");
        let url = format!("http://{ably}/channels/{channel}/messages/{serial}");
        let request = reqwest::Client::new().patch(url).basic_auth(name, Some(secret)).json(theirs);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.status());
    }
    serial
}

fn check(record: &Value, theirs: &Value, expected: &str) {
    match theirs.is_object() {
        true => assert_eq!((&record["outcome"], &record["reason"]), (&"failed".into(), &"changed-by-other".into())),
        false => assert_eq!(record["outcome"], expected, "{record}"),
    }
}

/// A response whose message somebody else changes in its middle; with `is_doubted` just when nobody knows what became of an
/// operation. Gives its record.
async fn changed_in_its_middle(transport: &str, id: &str, theirs: &Value, is_doubted: bool) -> Value {
    let verify = if is_doubted { "after-unknown" } else { "always" };
    let settings = [format!("ably.transport={transport}"), format!("reconcile.verify={verify}")];
    let settings = settings.each_ref().map(String::as_str);
    let Stage { world, ably, mut relay } = Stage::set(World::new(1, 1, 1).await, Faults::default(), &settings).await;
    let channel = format!("ai:{id}");
    token(&world, id, "one ");
    reads(ably.local_addr(), &channel, "one ").await;
    if is_doubted {
        ably.set_faults(Faults { lose_ack: 1.0, refuse_resume: 1.0, ..Faults::default() });
    }
    token(&world, id, "two ");
    if is_doubted {
        // The answer is lost, and the connection that could still bring it.
        let is_lost = |stats: Stats| stats.unanswered > 0 && (transport == "rest" || stats.resumes_refused > 0);
        until(|| is_lost(ably.stats())).await;
        ably.set_faults(Faults::default());
    }
    reads(ably.local_addr(), &channel, "one two ").await;
    change(ably.local_addr(), &channel, theirs).await;
    token(&world, id, "three");
    say(&world, id, &json!({"type": "end"}));
    let results = results::wait(&world, &mut relay, 1).await;
    relay.stop().await;
    let record = results.of_responses().next().expect("its record").clone();
    if !theirs.is_object() {
        assert_eq!(relay::message(ably.local_addr(), &channel).await.text, "one two three");
        assert_eq!(record["verified"], true, "{record}");
    }
    assert_eq!(record["unknown"].as_u64() > Some(0), is_doubted, "{record}");
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_changes_in_the_middle_is_left_to_them() {
    for is_doubted in [false, true] {
        for transport in TRANSPORTS {
            let changes = changes();
            let played = changes.iter().map(|(id, theirs)| changed_in_its_middle(transport, id, theirs, is_doubted));
            let expected = if is_doubted { "reconciled" } else { "delivered" };
            for (record, (_, theirs)) in join_all(played).await.iter().zip(&changes) {
                check(record, theirs, expected);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_changes_before_a_takeover_is_left_to_them() {
    for transport in TRANSPORTS {
        let transport = format!("ably.transport={transport}");
        let stage = Stage::set(World::new(1, 1, 1).await, Faults::default(), &[&transport]).await;
        let Stage { world, ably: emulator, relay: first } = stage;
        let ably = emulator.local_addr();
        let changes = changes();
        for (id, _) in &changes {
            token(&world, id, "one ");
            token(&world, id, "two ");
            reads(ably, &format!("ai:{id}"), "one two ").await;
        }
        first.kill().await;
        let mut left = Vec::new();
        for (id, theirs) in &changes {
            let channel = format!("ai:{id}");
            let serial = change(ably, &channel, theirs).await;
            left.push((relay::versions(ably, &channel, &serial).await, serial));
            token(&world, id, "three");
            say(&world, id, &json!({"type": "end"}));
        }

        let mut second = Relay::set(&world.settings, ably, &[&transport]);
        let results = results::wait(&world, &mut second, changes.len()).await;
        second.stop().await;
        for ((id, theirs), (versions, serial)) in changes.iter().zip(left) {
            let channel = format!("ai:{id}");
            let mut records = results.of_responses().filter(|record| record["responseId"] == *id);
            check(records.next().expect("its record"), theirs, "reconciled");
            match theirs.is_object() {
                true => assert_eq!(relay::versions(ably, &channel, &serial).await, versions, "nothing more is written"),
                false => assert_eq!(relay::message(ably, &channel).await.text, "one two three"),
            }
        }
    }
}
