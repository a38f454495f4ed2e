//! Channels whose namespace has no rule for updates and appends: each response is one message there, made at its end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokenrelay::audit::{self, Request};
use tokenrelay::emulator::{self, Emulator, Faults};
use tokenrelay::pipeline;

use super::audit::config_of;
use super::relay::{self, Relay};
use super::story::{Response, Story};
use super::{KEY, results};
use crate::world::World;

/// The messages on a channel as readers show them: those that another one takes the place of are left out.
async fn shown(ably: SocketAddr, response: &Response) -> Vec<Value> {
    let mut messages = relay::messages(ably, &response.channel()).await;
    let header = |message: &Value, name: &str| message["extras"]["headers"][name].as_str().map(str::to_owned);
    let replaced: HashSet<_> = messages.iter().filter_map(|message| header(message, "supersedes")).collect();
    messages.retain(|message| !replaced.contains(message["serial"].as_str().unwrap_or_default()));
    messages
}

/// Checks what was promised, by our own eyes and by the audit's; gives how many messages are not shown.
async fn judge(world: &World, ably: &Emulator, story: &Story) -> usize {
    let mut left_behind = 0;
    for response in story.responses() {
        let messages = shown(ably.local_addr(), response).await;
        let [message] = &messages[..] else { panic!("{} messages on {}", messages.len(), response.channel()) };
        assert_eq!(message["data"], response.text(), "the text on {}", response.channel());
        assert_eq!(message["extras"]["headers"]["status"], response.status());
        left_behind += relay::messages(ably.local_addr(), &response.channel()).await.len() - 1;
    }
    let config = config_of(world, ably.local_addr());
    let request = Request { ably: true, at_rest: true, kept_max: 100, ..Request::default() };
    let decoder = pipeline::decoder(&config).expect("a decoder");
    let report = audit::run(request, &config, decoder).await.expect("a verdict");
    assert!(report.clean, "{:?}", report.differences);
    left_behind
}

async fn start(faults: Faults, transport: &str) -> (World, Emulator, Relay) {
    let world = World::new(2, 2, 1).await;
    let config = emulator::Config { keys: vec![KEY.to_owned()], faults, ..emulator::Config::default() };
    let ably = emulator::start(config).await.expect("an emulator");
    let flags = ["ably.no_mutable=whole", &format!("ably.transport={transport}")];
    let relay = Relay::set(&world.settings, ably.local_addr(), &flags);
    (world, ably, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_can_be_changed_each_response_is_published_whole() {
    for transport in ["realtime", "rest"] {
        let faults = Faults { immutable: true, reject: 0.05, lose_ack: 0.02, seed: 3, ..Faults::default() };
        let (world, ably, mut relay) = start(faults, transport).await;
        let story = Story::new(21, 40);
        story.produce(&world).await;
        results::wait(&world, &mut relay, story.responses().len()).await.check(story.responses());
        assert!(!relay.reasons().contains("channel"), "{}", relay.reasons());
        ably.set_faults(Faults { immutable: true, ..Faults::default() });
        relay.stop().await;
        let left_behind = judge(&world, &ably, &story).await;
        assert!(left_behind <= 2, "{left_behind} messages were begun where one trial would do");
    }
}

/// Story 22, with a rule that is off at first.
#[tokio::test(flavor = "multi_thread")]
async fn when_the_rule_is_turned_on_responses_are_streamed() {
    tokio::join!(is_turned_on("realtime"), is_turned_on("rest"));
}

async fn is_turned_on(transport: &str) {
    let (world, ably, mut relay) = start(Faults { immutable: true, ..Faults::default() }, transport).await;
    let before = Story::new(22, 10);
    before.produce(&world).await;
    results::wait(&world, &mut relay, before.responses().len()).await.check(before.responses());
    ably.set_faults(Faults::default());
    // The next trial.
    tokio::time::sleep(Duration::from_secs(31)).await;
    let shows = Story::numbered(23, 10..11);
    shows.produce(&world).await;
    results::wait(&world, &mut relay, before.responses().len() + 1).await;
    let after = Story::numbered(24, 20..40);
    after.produce(&world).await;
    let results = results::wait(&world, &mut relay, before.responses().len() + 21).await;
    let appends = results.of_operations().filter(|operation| operation["op"] == "append").count();
    assert!(appends > 20, "{appends} appends by {transport}");
    relay.stop().await;
    let mut left_behind = 0;
    for story in [&before, &shows, &after] {
        left_behind += judge(&world, &ably, story).await;
    }
    assert!(left_behind <= 1, "{left_behind} messages were begun where one trial would do");
}
