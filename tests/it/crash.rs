//! Processes die, freeze and are replaced, brokers go away and connections drop, under load; nothing of it may show in the
//! end. Everything is as in production: a real Kafka, relays in processes of their own, the emulator in another, and an
//! ordinary reader that is there all the time.
//!
//! Faults come from a seeded schedule that goes in step with what comes of the load, not by the clock; only what has to last
//! for longer than a session is timed. So does the way in which texts are put on channels. The audit judges, from outside,
//! and the reader. The short form is here; the long one is [`long`], for `tests/run --long`.

use fastrand::Rng;
use load::Plan;
use stage::{Fault, Stage};
use way::Way;

mod ably;
mod broker;
mod explain;
mod load;
mod long;
mod progress;
mod stage;
mod way;

/// Tokens a second.
const RATE: u64 = 2_000;

/// Two relays, each of what can happen to a process once.
async fn play(seed: u64, way: Way) {
    let mut stage = Stage::new(None, Plan { seed, least: 300, rate: RATE }, way).await;
    stage.enter(&[&[], &[]]).await;
    let mut rng = Rng::with_seed(seed);
    let mut faults = [Fault::Kill, Fault::Freeze, Fault::Terminate];
    rng.shuffle(&mut faults);
    for fault in faults {
        stage.suffer(fault, &mut rng, None).await;
    }
    stage.proceed(20).await;
    let stats = stage.ably.stats().await;
    assert!(stats["dropped"].as_u64() > Some(0), "connections did drop: {stats}");
    let counts = stage.judge().await;
    eprintln!("{counts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_that_die_freeze_and_end_leave_nothing_wrong() {
    play(1, Way::USUAL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_do_they_with_tokens_that_are_messages_by_request() {
    play(4, Way::of(4)).await;
}
