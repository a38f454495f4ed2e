//! More responses are open than memory is for. The records that would end them stand behind all the others, so nobody may
//! wait for them: texts are dropped from memory, and every response is delivered all the same.

use tokenrelay::emulator::Faults;

use super::story::Story;
use super::{Stage, results};
use crate::world::World;

const RESPONSES: usize = 1_000;
/// The emulator allows more than an account does, and the test has no patience.
const FAST: [&str; 3] = ["ably.connections.rate=5000", "ably.channels.rate=5000", "ably.in_flight.operations=2000"];

/// One partition: of several a relay that is behind may read one to its end before the next.
async fn world() -> World {
    World::new(1, 1, 1).await
}

/// Plays it with these limits; nothing fails, so nothing may be anything but delivered.
async fn play(limits: &[&str], story: &Story) {
    let stage = Stage::set(world().await, Faults::default(), &[&FAST, limits].concat()).await;
    story.produce_in_turns(&stage.world);
    let summary = stage.judge(story).await;
    assert_eq!((summary.rejected, summary.unknown, summary.reconciled), (0, 0, 0), "{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_more_open_responses_than_may_be_in_memory_are_all_delivered() {
    play(&["response.open_max=100"], &Story::sized(5, RESPONSES, 8, 20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_more_text_than_may_be_in_memory_is_all_delivered() {
    // 1000 responses of 10 KiB: about ten times the limit.
    play(&["response.text_bytes_max=1MiB"], &Story::sized(6, RESPONSES, 10, 1_024)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_beyond_every_limit_ends_loudly_and_nothing_hangs() {
    let limits = ["response.open_max=100", "response.stub_max=300"];
    let stage = Stage::set(world().await, Faults::default(), &[&FAST[..], &limits].concat()).await;
    let Stage { world, ably: _ably, mut relay } = stage;
    Story::sized(7, RESPONSES, 4, 20).produce_in_turns(&world);
    let results = results::wait(&world, &mut relay, RESPONSES).await;
    let mut failed = 0;
    for result in results.of_responses() {
        match (result["outcome"].as_str(), result["reason"].as_str()) {
            (Some("delivered"), _) => {}
            (Some("failed"), Some("limit")) => failed += 1,
            _ => panic!("{result}"),
        }
    }
    assert!((500..=700).contains(&failed), "{failed}");
    relay.stop().await;
    for (partition, committed, end) in world.committed() {
        assert_eq!(committed, end, "partition {partition}");
    }
}
