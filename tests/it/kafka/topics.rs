//! The check at start: each thing that is wrong gives one message that names it and the remedy.

use std::time::Duration;

use tokenrelay::config::Start;
use tokenrelay::kafka::client::Clients;
use tokenrelay::kafka::topics::{self, Layout};
use tokenrelay::kafka::{Error, Kind};

use crate::world::World;

async fn check(world: &World) -> Result<Layout, Error> {
    let clients = world.clients();
    tokio::task::spawn_blocking(move || topics::check(&clients)).await.expect("it returns")
}

/// The words that the message has.
async fn refusal(world: &World, kind: Kind, words: &[&str]) {
    let error = check(world).await.expect_err("something is wrong");
    let text = error.to_string();
    assert_eq!(error.kind(), kind, "{text}");
    for word in words {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_passes() {
    let world = World::new(3, 5, 1).await;
    let layout = check(&world).await.expect("all is well");
    assert_eq!((layout.tokens, layout.results, layout.dead_letters), (3, 5, 1));
    assert!(layout.cluster_id.is_some_and(|id| !id.is_empty()), "a cluster has a name");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_not_there_is_named_with_its_key_and_the_remedy() {
    for (tokens, results, letters, key) in
        [(0, 1, 1, "kafka.tokens_topic"), (4, 0, 1, "kafka.results_topic"), (1, 1, 0, "kafka.dead_letters_topic")]
    {
        let world = World::new(tokens, results, letters).await;
        refusal(&world, Kind::Configuration, &[key, "kafka-topics.sh", "--create", &world.settings.bootstrap_servers])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_results_topic_is_suggested_with_as_many_partitions_as_tokens() {
    let world = World::new(4, 0, 1).await;
    refusal(&world, Kind::Configuration, &["--partitions 4"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_results_partitions_are_named_with_both_numbers() {
    let world = World::new(5, 3, 1).await;
    refusal(&world, Kind::Configuration, &["has 3 partitions", "has 5", "--alter", "--partitions 5"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_is_told_which_key_decides() {
    let mut world = World::new(1, 1, 1).await;
    world.settings.start = Start::Error;
    refusal(&world, Kind::Configuration, &["kafka.start", "latest", "earliest", &world.settings.group_id]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_are_away_are_unavailable() {
    let mut world = World::new(0, 0, 0).await;
    world.settings.bootstrap_servers = "127.0.0.1:9".to_owned();
    let clients: Clients = world.clients();
    let check = move || topics::check_within(&clients, Duration::from_millis(500));
    let error = tokio::task::spawn_blocking(check).await.expect("it returns").expect_err("nobody is there");
    assert_eq!(error.kind(), Kind::Unavailable);
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:9") && text.contains("efused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn doubtful_settings_are_found() {
    let world = World::new(0, 0, 0).await;
    let settings = &world.settings;
    world.create(&settings.tokens_topic, 1, &[("cleanup.policy", "compact"), ("retention.ms", "-1")]).await;
    world.create(&settings.results_topic, 1, &[("retention.ms", "1000000")]).await;
    world.create(&settings.dead_letters_topic, 1, &[("max.message.bytes", "1000")]).await;
    let clients = world.clients();
    let doubts = topics::doubts(&clients, &topics::describe(&clients).await);
    assert!(doubts[2].contains("for ever") && doubts[2].contains("to -1"), "{doubts:#?}");
    assert_eq!(doubts.len(), 3, "{doubts:#?}");
    for (doubt, word) in doubts.iter().zip(["cleanup.policy", "max.message.bytes", "retention.ms"]) {
        assert!(doubt.contains(word), "{word} is not in: {doubt}");
    }
}
