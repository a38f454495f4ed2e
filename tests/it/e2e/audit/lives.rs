//! Whatever a response goes through in an orderly relay, and through owners that die, the audit has nothing to say.

use std::net::SocketAddr;

use serde_json::json;
use tokenrelay::audit::{self, Report, Request};
use tokenrelay::config::Delivery;
use tokenrelay::emulator::{self, Emulator, Faults};
use tokenrelay::pipeline;

use super::super::relay::Relay;
use super::super::story::Story;
use super::super::{KEY, results};
use super::{config_of, faults};
use crate::world::World;

async fn ably(faults: Faults) -> Emulator {
    let config = emulator::Config { keys: vec![KEY.to_owned()], faults, ..emulator::Config::default() };
    emulator::start(config).await.expect("an emulator")
}

/// With everything that can be looked at, of a relay that has nothing left to do.
pub(in crate::e2e) async fn audited(world: &World, ably: SocketAddr, delivery: Delivery) -> Report {
    let mut config = config_of(world, ably);
    config.results.delivery = delivery;
    let request = Request { ably: true, at_rest: true, kept_max: 100, ..Request::default() };
    let report = audit::run(request, &config, pipeline::decoder(&config).expect("a decoder")).await;
    let report = report.expect("a verdict");
    assert_eq!(report.differences, []);
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_die_leave_nothing_wrong() {
    for (name, delivery) in [("exactly-once", Delivery::ExactlyOnce), ("at-least-once", Delivery::AtLeastOnce)] {
        let world = World::new(2, 2, 1).await;
        let ably = ably(faults()).await;
        let story = Story::new(21, 60);
        let mut relay = Relay::with(&world.settings, ably.local_addr(), name);
        story.produce_in_turns(&world);
        for settled in [5, 15, 25] {
            results::wait(&world, &mut relay, settled).await;
            let next = Relay::with(&world.settings, ably.local_addr(), name);
            std::mem::replace(&mut relay, next).kill().await;
        }
        results::wait(&world, &mut relay, story.responses().len()).await;
        relay.stop().await;
        ably.set_faults(Faults::default());
        let report = audited(&world, ably.local_addr(), delivery).await;
        assert_eq!((report.counts.settled, report.counts.failed), (60, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_begin_and_to_end_is_understood() {
    let world = World::new(1, 1, 1).await;
    let ably = ably(Faults::default()).await;
    let flags = ["response.idle=1s", "response.remember=3"];
    let mut relay = Relay::set(&world.settings, ably.local_addr(), &flags);
    let say = |key: &str, value: serde_json::Value| {
        let key = Some(key.as_bytes()).filter(|key| !key.is_empty());
        world.send(0, key, Some(value.to_string().as_bytes()), &[]);
        world.flush();
    };
    let token = |text: &str| json!({"type": "token", "text": text});
    let end = || json!({"type": "end"});
    // Each of these is abandoned; the first is opened again, and the second stays.
    say("silent", token("one "));
    say("gone", token("half"));
    results::wait(&world, &mut relay, 2).await;
    say("silent", token("two"));
    say("silent", end());

    say("said otherwise", token("draft"));
    say("said otherwise", json!({"type": "end", "finalText": "the final word"}));
    say("broken", token("so far"));
    say("broken", json!({"type": "error"}));
    say("stopped", json!({"type": "cancel"}));
    say("empty", end());
    say("headless", json!({"type": "token", "text": "…", "seq": 5}));
    say("headless", end());
    say("long", token(&"x".repeat(70_000)));
    say("long", end());
    let choice = |index: u32, text: &str, finish: Option<&str>| json!({"index": index, "delta": {"role": "assistant", "content": text}, "finish_reason": finish});
    say(
        "two",
        json!({"object": "chat.completion.chunk", "choices": [choice(0, "a", None), choice(1, "b", Some("stop"))]}),
    );
    say(
        "two",
        json!({"object": "chat.completion.chunk", "choices": [choice(0, "c", Some("stop")), choice(1, "late", None)]}),
    );
    say("elsewhere", json!({"type": "token", "text": "a", "channel": "not:allowed"}));
    say("", token("whose?"));
    say(&"i".repeat(2_000), token("too long"));
    // Three responses later nobody remembers the first.
    results::wait(&world, &mut relay, 11).await;
    say("stopped", token("late"));
    say("stopped", end());
    results::wait(&world, &mut relay, 12).await;
    say("stopped", token("refused"));
    results::wait(&world, &mut relay, 12).await;
    tokio::task::block_in_place(|| world.read(&world.settings.dead_letters_topic, 5));
    relay.stop().await;

    let counts = audited(&world, ably.local_addr(), Delivery::ExactlyOnce).await.counts;
    assert_eq!((counts.settled, counts.failed, counts.responses, counts.letters), (11, 1, 12, 5));
    // The one that failed is not compared.
    assert_eq!((counts.open, counts.pending, counts.messages), (0, 0, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_at_work_is_not_accused() {
    for (name, delivery) in [("exactly-once", Delivery::ExactlyOnce), ("at-least-once", Delivery::AtLeastOnce)] {
        let world = World::new(2, 2, 1).await;
        let ably = ably(Faults { delay: 1_000, ..Faults::default() }).await;
        let mut relay = Relay::with(&world.settings, ably.local_addr(), name);
        let story = Story::new(31, 60);
        let mut config = config_of(&world, ably.local_addr());
        config.results.delivery = delivery;
        let decoder = pipeline::decoder(&config).expect("a decoder");
        story.produce_in_turns(&world);
        let mut unfinished = 0;
        loop {
            relay.check_alive();
            let request = Request { ably: true, kept_max: 100, ..Request::default() };
            let report = audit::run(request, &config, decoder.clone()).await.expect("a verdict");
            assert_eq!(report.differences, []);
            if report.counts.settled == 60 {
                break;
            }
            unfinished += 1;
        }
        assert!(unfinished > 0, "it was at work");
        relay.stop().await;
    }
}
