//! `tokenrelay run`, from its start to its end, as a supervisor sees it.

use serde_json::{Value, json};
use tokenrelay::emulator::Faults;

use super::program::{Service, Setup};
use super::{NOWHERE, ably};
use crate::e2e::relay;
use crate::world::{PATIENCE, World};

const TRY_AGAIN: i32 = 75;

fn say(world: &World, id: &str, event: &Value) {
    let headers = [("channel", Some(id.as_bytes()))];
    world.produce_raw(Some(id.as_bytes()), Some(event.to_string().as_bytes()), &headers);
}

fn token(text: &str) -> Value {
    json!({"type": "token", "text": text})
}

/// Waits until it is ready.
async fn ready(service: &mut Service) {
    while service.get("/readyz").await.0 != 200 {
        service.logged("not a reason to be unready any more").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_becomes_ready_relays_drains_and_leaves_nothing_behind() {
    let (world, ably) = (World::new(2, 2, 1).await, ably().await);
    let mut service = Setup::new(&world.settings, ably.local_addr()).serve(&[]).await;
    ready(&mut service).await;
    assert_eq!(service.get("/livez").await.0, 200);
    assert!(service.get("/version").await.1.contains(env!("CARGO_PKG_VERSION")));

    let ids = ["ai:one", "ai:two", "ai:three"];
    for event in [token("Hello, "), token("world"), json!({"type": "end"})] {
        ids.iter().for_each(|id| say(&world, id, &event));
    }
    let mut results = world.tail(&world.settings.results_topic);
    let mut over = 0;
    while over < ids.len() {
        let result = tokio::task::block_in_place(|| results.next(PATIENCE)).expect("a result in time");
        if result.header("kind") == Some("response") {
            assert_eq!(result.header("outcome"), Some("delivered"), "{result:?}");
            over += 1;
        }
    }
    for id in ids {
        let message = relay::message(ably.local_addr(), id).await;
        assert_eq!((&*message.text, &*message.status), ("Hello, world", "complete"), "{id}");
    }
    let metrics = service.get("/metrics").await.1;
    assert!(metrics.contains("tokenrelay_operations_total"), "{metrics}");

    service.signal("TERM").await;
    let ended = service.ended().await;
    assert!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    assert!(!ended.out.contains("Hello"), "no text in the log: {ended:?}");
    let (_, committed, end) = world.committed()[0];
    assert_eq!((committed, end), (9, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_is_open_does_not_keep_it() {
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let service = Setup::new(&world.settings, ably.local_addr()).serve(&[]).await;
    say(&world, "ai:open", &token("So far"));
    while ably.stats().creates == 0 {
        tokio::task::yield_now().await;
    }
    service.signal("TERM").await;
    let ended = service.ended().await;
    assert!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let message = relay::message(ably.local_addr(), "ai:open").await;
    assert_eq!((&*message.text, &*message.status), ("So far", "streaming"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let mut service =
        Setup::new(&world.settings, ably.local_addr()).serve(&["shutdown.drain=1h", "ably.ack_timeout=1h"]).await;
    ready(&mut service).await;
    ably.set_faults(Faults { delay: 3_600_000, ..Faults::default() });
    say(&world, "ai:unanswered", &token("So far"));
    while ably.stats().creates == 0 {
        tokio::task::yield_now().await;
    }
    service.signal("TERM").await;
    service.logged("a second signal ends at once").await;
    service.signal("INT").await;
    service.ended().await.with(TRY_AGAIN, &["1 operations", "shutdown.drain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_answered_while_it_drains_is_left_to_the_next() {
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let mut service = Setup::new(&world.settings, ably.local_addr()).serve(&["shutdown.drain=4s"]).await;
    ready(&mut service).await;
    ably.set_faults(Faults { delay: 3_600_000, ..Faults::default() });
    say(&world, "ai:unanswered", &token("So far"));
    while ably.stats().creates == 0 {
        tokio::task::yield_now().await;
    }
    service.signal("TERM").await;
    service.ended().await.with(TRY_AGAIN, &["1 operations", "shutdown.drain"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ably_that_is_away_is_waited_for() {
    let world = World::new(1, 1, 1).await;
    let mut service = Setup::new(&world.settings, NOWHERE).serve(&[]).await;
    service.logged("127.0.0.1:1").await;
    let (status, body) = service.get("/readyz").await;
    assert!(status == 503 && body.contains("127.0.0.1:1"), "{status} {body}");
    assert_eq!(service.get("/livez").await.0, 200);
    service.signal("TERM").await;
    let ended = service.ended().await;
    assert!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_not_on_the_list_is_a_dead_letter_and_no_end() {
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let mut service = Setup::new(&world.settings, ably.local_addr()).serve(&[]).await;
    say(&world, "chat:elsewhere", &token("a"));
    let letters = tokio::task::block_in_place(|| world.read(&world.settings.dead_letters_topic, 1));
    assert_eq!(letters[0].header("tokenrelay.reason"), Some("channel-not-allowed"));
    ready(&mut service).await;
    assert!(relay::messages(ably.local_addr(), "chat:elsewhere").await.is_empty());
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_the_rule_is_named_while_it_runs() {
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let mut service = Setup::new(&world.settings, ably.local_addr()).serve(&["ably.channels.allow=fixed:*"]).await;
    ready(&mut service).await;
    say(&world, "fixed:x", &token("a"));
    say(&world, "fixed:x", &token("b"));
    let line = service.logged("93002").await.to_string();
    for words in ["turn on the rule", "message annotations, updates, deletes and appends"] {
        assert!(line.contains(words), "{line}");
    }
    let (status, body) = service.get("/readyz").await;
    assert!(status == 503 && body.contains("93002") && body.contains("turn on the rule"), "{status} {body}");
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code, Some(0));
}
