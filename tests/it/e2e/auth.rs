//! Tokens that somebody gives out (`ably.auth_url`): they age, are renewed in time or too late, and may allow too little.

use std::time::Duration;

use serde_json::json;
use tokenrelay::emulator;

use super::relay::{self, Relay};
use super::story::Story;
use super::tokens::{Giver, Gives};
use super::{KEY, Stage, results};
use crate::world::{PATIENCE, World};

/// A relay whose tokens come from a giver, with what it is to give first.
async fn stage(gives: impl IntoIterator<Item = Gives>) -> (Stage, Giver) {
    let giver = Giver::start(KEY).await;
    giver.then(gives);
    let config = emulator::Config { keys: vec![KEY.to_owned()], ..emulator::Config::default() };
    let ably = emulator::start(config).await.expect("an emulator");
    let world = World::new(2, 2, 1).await;
    let url = giver.url().replace("ADDRESS", &ably.local_addr().to_string());
    let flags = ["ably.key_file=", &format!("ably.auth_url={url}"), "ably.connections.max=1"];
    let relay = Relay::set(&world.settings, ably.local_addr(), &flags);
    (Stage { world, ably, relay }, giver)
}

/// A token that is good for a few seconds: the server asks for another when half of them have passed.
fn short() -> Gives {
    Gives::Token(json!({ "ttl": 6_000 }))
}

/// Waits until it is so.
pub(super) async fn until(is_so: impl Fn() -> bool) {
    let so = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, so).await.expect("in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_renewed_before_they_expire() {
    let (stage, giver) = stage([short(), short()]).await;
    let story = Story::new(11, 20);
    story.produce(&stage.world).await;
    until(|| giver.asked() >= 3).await;
    let stats = stage.ably.stats();
    // One connection was only to see whether they let us in.
    assert_eq!((stats.connected, stats.resumed, stats.dropped), (2, 0, 0), "nothing was interrupted: {stats:?}");
    let summary = stage.judge(&story).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_have_expired_are_renewed_and_the_connection_goes_on() {
    // Asked in time, it gives none; the server then ends the transport with 40142.
    let (stage, giver) = stage([short(), Gives::Busy]).await;
    let story = Story::new(12, 20);
    story.produce(&stage.world).await;
    until(|| giver.asked() >= 3 && stage.ably.stats().resumed > 0).await;
    stage.judge(&story).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_does_not_allow_is_named_with_the_channel() {
    let allowed = json!({"ai:open:*": ["*"], "ai:closed:*": ["publish", "history"]});
    let (stage, _giver) = stage([Gives::Token(json!({ "capability": allowed.to_string() }))]).await;
    let Stage { world, ably, mut relay } = stage;
    let headers = |channel: &'static str| [("channel", Some(channel.as_bytes()))];
    for channel in ["ai:closed:1", "ai:open:1"] {
        for event in
            [json!({"type": "token", "text": "a"}), json!({"type": "token", "text": "b"}), json!({"type": "end"})]
        {
            let event = event.to_string();
            world.send(0, Some(channel.as_bytes()), Some(event.as_bytes()), &headers(channel));
        }
    }
    world.flush();
    // The other channel goes on, whatever this one refuses.
    let results = results::wait(&world, &mut relay, 1).await;
    assert!(results.of_responses().all(|result| result["channel"] == "ai:open:1" && result["outcome"] == "delivered"));
    until(|| relay.reasons().contains("40160")).await;
    let reasons = relay.reasons();
    for words in ["channel ai:closed:1", "message-update", "give the key the capabilities"] {
        assert!(reasons.contains(words), "nothing of {words}: {reasons}");
    }
    assert_eq!(relay::message(ably.local_addr(), "ai:open:1").await.text, "ab");
    relay.stop().await;
}
