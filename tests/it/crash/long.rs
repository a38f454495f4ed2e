//! The long form: many seeds, everything combined, and each of what the short form has no time for.

use fastrand::Rng;

use super::RATE;
use super::broker::Broker;
use super::load::Plan;
use super::stage::{Fault, Stage};

/// How many seeds, unless TOKENRELAY_CRASH_SEEDS says otherwise.
const SEEDS: u64 = 10;

/// Three relays, everything that can happen twice, in an order of the seed's.
async fn play(broker: &Broker, seed: u64) {
    let mut stage = Stage::new(Some(broker), Plan { seed, least: 1_000, rate: RATE }).await;
    stage.enter(&[&[], &[], &[]]).await;
    let mut rng = Rng::with_seed(seed);
    let mut faults = [Fault::Kill, Fault::Freeze, Fault::Terminate, Fault::Broker].repeat(2);
    rng.shuffle(&mut faults);
    for fault in faults {
        stage.suffer(fault, &mut rng, Some(broker)).await;
    }
    stage.proceed(50).await;
    let counts = stage.judge().await;
    eprintln!("seed {seed}: {counts}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes for each seed: tests/run --long"]
async fn everything_at_once_leaves_nothing_wrong_whatever_the_seed() {
    let seeds = std::env::var("TOKENRELAY_CRASH_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let broker = Broker::start().await;
    for seed in 1..=seeds {
        play(&broker, seed).await;
    }
}
