//! The whole on a real Kafka: the relay as it is configured, the emulator in Ably's place, and a look from outside at what
//! every reader of a channel and of the results topic would see.

use std::time::Duration;

use relay::Relay;
use story::Story;
use tokenrelay::emulator::{self, Emulator, Faults};

use crate::world::World;

mod audit;
mod auth;
mod given_up;
mod growth;
mod hostile;
mod lease;
mod limits;
pub(crate) mod member;
mod official;
mod offsets;
mod others;
mod outage;
mod per_token;
mod reader;
mod rebalance;
pub(crate) mod relay;
mod restart;
mod results;
mod rolled;
mod segments;
pub(crate) mod story;
pub(crate) mod tokens;
mod vllm;
mod whole;

/// The emulator's only key.
pub(crate) const KEY: &str = "app.key:secret";

/// Topics, an Ably, and a relay between them.
struct Stage {
    world: World,
    ably: Emulator,
    relay: Relay,
}

impl Stage {
    async fn new(world: World, faults: Faults) -> Self {
        Self::set(world, faults, &[]).await
    }

    /// With settings of its own for the relay.
    async fn set(world: World, faults: Faults, flags: &[&str]) -> Self {
        let config = emulator::Config { keys: vec![KEY.to_owned()], faults, ..emulator::Config::default() };
        let ably = emulator::start(config).await.expect("an emulator");
        let relay = Relay::set(&world.settings, ably.local_addr(), flags);
        Self { world, ably, relay }
    }

    /// Plays the story and checks everything that was promised of it.
    async fn play(self, story: &Story) -> results::Summary {
        story.produce(&self.world).await;
        self.judge(story).await
    }

    /// Waits until all that was produced is over, and checks everything that was promised of it.
    async fn judge(mut self, story: &Story) -> results::Summary {
        let results = results::wait(&self.world, &mut self.relay, story.responses().len()).await;
        let summary = results.check(story.responses());
        // The faults were for the relay. Whoever looks at the end is to see it.
        self.ably.set_faults(Faults::default());
        for response in story.responses() {
            let message = relay::message(self.ably.local_addr(), &response.channel()).await;
            assert_eq!(message.text, response.text(), "the text on {}", response.channel());
            assert_eq!(message.status, response.status(), "the status on {}", response.channel());
        }
        // All is settled, so all is committed when it stops.
        self.relay.stop().await;
        for (partition, committed, end) in self.world.committed() {
            assert_eq!(committed, end, "partition {partition}");
        }
        summary
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_reaches_its_channel_and_has_its_results() {
    let world = World::new(4, 4, 1).await;
    let stage = Stage::new(world, Faults::default()).await;
    let summary = stage.play(&Story::new(1, 60)).await;
    assert_eq!((summary.rejected, summary.unknown), (0, 0));
    assert_eq!(summary.reconciled, 0, "nothing failed, so nothing was mended");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_the_texts_are_right_in_the_end() {
    let faults = Faults {
        reject: 0.15,
        reject_fold: 0.5,
        lose_ack: 0.03,
        skip_ack: 0.03,
        drop: 0.01,
        refuse_resume: 0.5,
        delay: 20,
        seed: 7,
        ..Faults::default()
    };
    let world = World::new(4, 6, 1).await;
    let stage = Stage::new(world, faults).await;
    let summary = stage.play(&Story::new(2, 60)).await;
    assert!(summary.rejected > 0 && summary.unknown > 0, "the faults did happen: {summary:?}");
    assert!(summary.reconciled > 0, "and were mended: {summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn by_request_the_texts_are_right_too_whatever_fails() {
    let faults = Faults {
        reject: 0.05,
        reject_applied: 0.5,
        reject_code: Some(42_910),
        fail_requests: 0.03,
        lose_ack: 0.03,
        skip_ack: 0.01,
        drop: 0.03,
        late_apply: 1_000,
        delay: 20,
        seed: 7,
        ..Faults::default()
    };
    let stage = Stage::set(World::new(4, 4, 1).await, faults, &["ably.transport=rest"]).await;
    let summary = stage.play(&Story::new(5, 60)).await;
    assert!(summary.rejected > 0 && summary.unknown > 0, "the faults did happen: {summary:?}");
    assert!(summary.reconciled > 0, "and were mended: {summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ably_that_is_away_for_a_while_costs_nothing() {
    let world = World::new(2, 2, 1).await;
    let stage = Stage::new(world, Faults { refuse_connections: true, ..Faults::default() }).await;
    let story = Story::new(3, 20);
    story.produce(&stage.world).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    stage.ably.set_faults(Faults::default());
    let Stage { world, ably, mut relay } = stage;
    results::wait(&world, &mut relay, story.responses().len()).await.check(story.responses());
    for response in story.responses() {
        assert_eq!(relay::message(ably.local_addr(), &response.channel()).await.text, response.text());
    }
    relay.stop().await;
}
