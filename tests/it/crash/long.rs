//! The long form: many seeds, everything combined, and each of what the short form has no time for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use tokenrelay::kafka::results::{Batch, Lane, Mark, Progress, Writer};
use tokio::time::{sleep, timeout};

use super::RATE;
use super::broker::Broker;
use super::load::Plan;
use super::stage::{Fault, Stage};
use super::way::Way;
use crate::kafka::results::{in_transactions, report};
use crate::world::{PATIENCE, Seen, World};

/// How many seeds, unless TOKENRELAY_CRASH_SEEDS says otherwise.
const SEEDS: u64 = 10;

/// Three relays, everything that can happen twice, in an order and a way of the seed's.
async fn play(broker: &Broker, seed: u64) {
    let way = Way::of(seed);
    let mut stage = Stage::new(Some(broker), Plan { seed, least: 1_000, rate: RATE }, way).await;
    stage.enter(&[&[], &[], &[]]).await;
    let mut rng = Rng::with_seed(seed);
    let mut faults = [Fault::Kill, Fault::Freeze, Fault::Terminate, Fault::Broker].repeat(2);
    rng.shuffle(&mut faults);
    for fault in faults {
        stage.suffer(fault, &mut rng, Some(broker)).await;
    }
    stage.proceed(50).await;
    let counts = stage.judge().await;
    eprintln!("seed {seed}, {way:?}: {counts}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes for each seed: tests/run --long"]
async fn everything_at_once_leaves_nothing_wrong_whatever_the_seed() {
    let seeds = std::env::var("TOKENRELAY_CRASH_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let broker = Broker::start().await;
    let first = std::env::var("TOKENRELAY_CRASH_FROM").map_or(1, |seed| seed.parse().expect("a number"));
    for seed in first..first + seeds {
        play(&broker, seed).await;
    }
}

/// Processes that live for no longer than this, for so long.
const LIFETIME: Duration = Duration::from_secs(3);
const DYING: Duration = Duration::from_secs(120);

/// Kills the first of these relays as often as that, and expects that something comes of it nevertheless.
async fn die_often(seed: u64, settings: &[&[&str]]) {
    let mut stage = Stage::new(None, Plan { seed, least: 1_000, rate: RATE }, Way::USUAL).await;
    stage.enter(settings).await;
    stage.proceed(10).await;
    let (start, over) = (Instant::now(), stage.progress.over());
    while start.elapsed() < DYING {
        sleep(LIFETIME).await;
        stage.kill(0).await;
    }
    let progress = stage.progress.over() - over;
    assert!(progress > 0, "nothing comes of it");
    let counts = stage.judge().await;
    eprintln!("{progress} responses while it died: {counts}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: tests/run --long"]
async fn a_relay_that_is_killed_every_three_seconds_makes_progress() {
    // A member with a name need not wait until the group has given its predecessor up.
    die_often(21, &[&["kafka.group_instance_id=one"]]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: tests/run --long"]
async fn beside_a_relay_that_is_killed_every_three_seconds_another_makes_progress() {
    die_often(22, &[&[], &[]]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute: tests/run --long"]
async fn a_relay_that_wakes_up_after_another_took_over_leaves_nothing_wrong() {
    let mut stage = Stage::new(None, Plan { seed: 23, least: 1_000, rate: RATE }, Way::USUAL).await;
    stage.enter(&[&[], &[]]).await;
    stage.proceed(50).await;
    let lost = stage.relay(0).said("partitions lost").len();
    stage.relay(0).signal("STOP").await;
    let frozen = sleep(Duration::from_secs(30));
    // The other one has everything, and goes on with it.
    stage.relay(1).says("\"partition assigned\"", super::stage::PARTITIONS as usize).await;
    stage.proceed(50).await;
    frozen.await;
    stage.relay(0).signal("CONT").await;
    stage.relay(0).says("partitions lost", lost + 1).await;
    stage.relay(0).says("ransaction", 1).await;
    stage.replace_if_fenced(0).await;
    stage.proceed(50).await;
    let counts = stage.judge().await;
    eprintln!("{counts}");
}

/// What a relay may say of a broker that is away, however long that is and however much waits meanwhile: each of its four
/// clients in its own words, that partitions are lost, that it is not ready and why.
const LINES_MAX: usize = 20;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: tests/run --long"]
async fn a_broker_that_is_away_for_a_minute_is_waited_for() {
    let broker = Broker::start().await;
    let mut stage = Stage::new(Some(&broker), Plan { seed: 24, least: 1_000, rate: RATE }, Way::USUAL).await;
    stage.enter(&[&[], &[]]).await;
    stage.proceed(50).await;
    let said = [0, 1].map(|number| stage.relay(number).said("\"WARN\"").len());
    broker.stop().await;
    sleep(Duration::from_secs(60)).await;
    stage.check_alive();
    for (number, said) in said.into_iter().enumerate() {
        let relay = stage.relay(number);
        let ready = relay.ready().await;
        assert!(ready.contains("kafka does not answer"), "{ready}");
        let warnings = relay.said("\"WARN\"");
        assert!((1..LINES_MAX).contains(&(warnings.len() - said)), "{:#?}", &warnings[said..]);
    }
    broker.again().await;
    stage.proceed(50).await;
    let counts = stage.judge().await;
    eprintln!("{counts}");
}

/// What a broker says when it has left a transaction's mark out: it takes partitions for deleted that have no leader, as all
/// have when it is being shut down and there is no other.
const LEFT_OUT: &str = "Couldn't find leader endpoint";
/// So many writers commit as fast as they can, to be met in that moment.
const WRITERS: i32 = 6;
const RESTARTS_MAX: usize = 15;

/// Writes results until it is told to stop, and gives those that were confirmed, and those that were not. Now and then the
/// partition leaves in the middle of a transaction, which is aborted then, and comes back.
async fn write(mut writer: Writer, partition: i32, stop: Arc<AtomicBool>) -> (Vec<u64>, Vec<u64>) {
    let (mut batch, mut progress, mut lane) = (Batch::default(), Progress::default(), Lane { partition, life: 1 });
    let (mut confirmed, mut dropped) = (Vec::new(), Vec::new());
    for seq in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        report(&mut batch, lane, seq, &seq.to_string());
        let mark = Mark { lane, offset: seq as i64 + 1, metadata: String::new() };
        let number = writer.commit(&mut batch, vec![mark]).expect("taken");
        let stay = lane;
        if seq % 2 == 1 {
            sleep(Duration::from_millis(2)).await;
            writer.forget([lane]);
            lane.life += 1;
        }
        let mut is_durable = false;
        while progress.committed < number {
            writer.progress(&mut progress).await.expect("it goes on");
            is_durable |= progress.durable.contains_key(&stay);
        }
        if is_durable { confirmed.push(seq) } else { dropped.push(seq) }
    }
    writer.finish(PATIENCE).await.expect("all of it");
    (confirmed, dropped)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: tests/run --long"]
async fn results_are_there_once_when_brokers_leave_marks_out() {
    let broker = Broker::start().await;
    let world = World::at(broker.servers.clone(), WRITERS, WRITERS, 1).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|partition| {
            let clients = in_transactions(&world, &partition.to_string());
            let writer = Writer::start(&clients).expect("started");
            writer.member(world.outsider());
            tokio::spawn(write(writer, partition, Arc::clone(&stop)))
        })
        .collect();
    let mut restarts = 0;
    while broker.said(LEFT_OUT) < 3 && restarts < RESTARTS_MAX {
        sleep(Duration::from_secs(5)).await;
        broker.stop().await;
        // For longer than a transaction may be open, now and then: then the next one is aborted.
        sleep(Duration::from_secs(if restarts % 4 == 3 { 12 } else { 0 })).await;
        broker.again().await;
        restarts += 1;
    }
    assert!(broker.said(LEFT_OUT) > 0, "this broker writes all marks; this test is of no use any more");
    stop.store(true, Ordering::Relaxed);
    let (mut confirmed, mut dropped) = (Vec::new(), Vec::new());
    for (partition, writer) in (0..).zip(writers) {
        let results = timeout(PATIENCE, writer).await.expect("in time").expect("it ends");
        confirmed.extend(results.0.into_iter().map(|seq| (partition, seq)));
        dropped.extend(results.1.into_iter().map(|seq| (partition, seq)));
    }
    let mut seen = BTreeMap::new();
    for record in tokio::task::block_in_place(|| world.read_all(&world.settings.results_topic)) {
        *seen.entry((record.partition, number(&record))).or_insert(0) += 1;
    }
    let lost: Vec<_> = confirmed.iter().filter(|result| !seen.contains_key(result)).collect();
    let offsets = tokio::task::block_in_place(|| world.committed());
    let behind: Vec<_> =
        confirmed.iter().filter(|(partition, seq)| offsets[*partition as usize].1 <= *seq as i64).collect();
    assert_eq!(behind, [&(0, 0); 0], "offsets are {offsets:?}, after {restarts} restarts");
    let twice: Vec<_> = seen.iter().filter(|(_, count)| **count > 1).collect();
    let back: Vec<_> = dropped.iter().filter(|result| seen.contains_key(result)).collect();
    assert_eq!(back, [&(0, 0); 0], "aborted and there, after {restarts} restarts");
    assert!(!dropped.is_empty(), "some were aborted");
    assert_eq!((&lost[..], &twice[..]), (&[][..], &[][..]), "lost and twice, after {restarts} restarts");
    eprintln!("{} results, {restarts} restarts, {} marks left out", seen.len(), broker.said(LEFT_OUT));
}

fn number(seen: &Seen) -> u64 {
    let value = seen.value.as_deref().and_then(|value| std::str::from_utf8(value).ok());
    value.and_then(|value| value.parse().ok()).expect("a number")
}
