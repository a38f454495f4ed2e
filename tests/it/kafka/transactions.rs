//! Results and offsets in one transaction: all of it or nothing, and nothing of partitions that have left.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseProducer, Producer};
use tokenrelay::kafka::Error;
use tokenrelay::kafka::results::{Batch, Lane, Mark, Progress, Writer};
use tokenrelay::kafka::source::Source;

use super::results::{in_transactions, report};
use crate::world::{PATIENCE, World, start};

async fn committed(writer: &Writer, number: u64) -> Result<Progress, Error> {
    let mut progress = Progress::default();
    while progress.committed < number {
        tokio::time::timeout(PATIENCE, writer.progress(&mut progress)).await.expect("in time")?;
    }
    Ok(progress)
}

fn mark(lane: Lane, offset: i64) -> Mark {
    Mark { lane, offset, metadata: format!("at {offset}") }
}

/// Waits until a topic holds so many records, marks of transactions among them; how many it holds then.
async fn grown(world: &World, topic: &str, records: i64) -> i64 {
    let growing = async {
        loop {
            let count = tokio::task::block_in_place(|| world.count(topic));
            if count >= records {
                return count;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, growing).await.expect("it grows")
}

/// A batch with one report of each lane.
fn batch(lanes: &[Lane], value: &str) -> Batch {
    let mut batch = Batch::default();
    for lane in lanes {
        report(&mut batch, *lane, 0, value);
    }
    batch
}

#[tokio::test(flavor = "multi_thread")]
async fn results_and_offsets_are_committed_together() {
    let world = World::new(2, 2, 1).await;
    world.produce(0, 0, 20);
    world.produce(1, 0, 20);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    let writer = Writer::start(&in_transactions(&world, "one")).expect("started");
    let lanes = [Lane { partition: 0, life: 1 }, Lane { partition: 1, life: 2 }];
    writer.member(intake.group_metadata());
    let marks = vec![mark(lanes[0], 7), mark(lanes[1], 9)];
    let number = writer.commit(&mut batch(&lanes, "first"), marks).expect("taken");
    let progress = committed(&writer, number).await.expect("committed");
    assert_eq!(progress.durable.len(), 2);
    assert!(progress.ends.values().all(|end| *end == 1), "{progress:?}");
    assert_eq!(world.committed(), [(0, 7, 20), (1, 9, 20)]);

    // What has left is left out: its next owner goes on from what was committed before.
    writer.forget([lanes[0]]);
    let marks = vec![mark(lanes[0], 15), mark(lanes[1], 16)];
    let number = writer.commit(&mut batch(&lanes, "second"), marks).expect("taken");
    let progress = committed(&writer, number).await.expect("committed");
    assert!(progress.durable.keys().eq([&lanes[1]]), "{progress:?}");
    assert_eq!(world.committed(), [(0, 7, 20), (1, 16, 20)]);
    let seen = world.read(&world.settings.results_topic, 3);
    let mut seen: Vec<_> =
        seen.iter().map(|seen| (seen.partition, String::from_utf8_lossy(seen.value.as_ref().expect("it")))).collect();
    seen.sort();
    assert_eq!(seen, [(0, "first".into()), (1, "first".into()), (1, "second".into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_may_hold_more_than_is_on_its_way_at_once() {
    const REPORTS: u64 = 120_000;
    let world = World::new(1, 1, 1).await;
    let writer = Writer::start(&in_transactions(&world, "one")).expect("started");
    let lane = Lane { partition: 0, life: 1 };
    let mut batch = Batch::default();
    (0..REPORTS).for_each(|seq| report(&mut batch, lane, seq, "x"));
    let number = writer.commit(&mut batch, Vec::new()).expect("taken");
    let progress = committed(&writer, number).await.expect("committed");
    assert_eq!((progress.durable[&lane], progress.counts.results), (REPORTS - 1, REPORTS));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_cannot_be_committed_hold_no_results_up() {
    let world = World::new(1, 1, 1).await;
    let writer = Writer::start(&in_transactions(&world, "no-member")).expect("started");
    let lane = Lane { partition: 0, life: 1 };
    let number = writer.commit(&mut batch(&[lane], "once"), vec![mark(lane, 5)]).expect("taken");
    committed(&writer, number).await.expect("committed");
    assert_eq!(world.read(&world.settings.results_topic, 1).len(), 1);
    assert_eq!(world.committed(), [(0, -1001, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_can_see_is_not_done_and_is_there_once_in_the_end() {
    let world = World::new(2, 2, 1).await;
    let results = &world.settings.results_topic;
    let left_open = world.leave_open(results, 0);
    let writer = Writer::start(&in_transactions(&world, "one")).expect("started");
    writer.member(world.outsider());
    let lanes = [Lane { partition: 0, life: 1 }, Lane { partition: 1, life: 2 }];
    let marks = vec![mark(lanes[0], 7), mark(lanes[1], 9)];
    let number = writer.commit(&mut batch(&lanes, "once"), marks).expect("taken");
    // What was left open, both results and their marks; then the closing of what cannot be seen, with its mark.
    grown(&world, results, 7).await;
    let mut progress = Progress::default();
    assert!(!writer.take(&mut progress), "{progress:?}");

    left_open.abort_transaction(PATIENCE).expect("aborted");
    let progress = committed(&writer, number).await.expect("committed");
    assert!(progress.ends.len() == 2 && progress.counts.results == 2, "{progress:?}");
    let seen = tokio::task::block_in_place(|| world.read_all(results));
    let mut seen: Vec<_> = seen.iter().map(|seen| (seen.partition, seen.value.as_deref())).collect();
    seen.sort_unstable();
    assert_eq!(seen, [(0, Some(&b"once"[..])), (1, Some(b"once"))]);
    assert_eq!(world.committed().iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>(), [7, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_deleted_before_anybody_has_seen_it_is_done() {
    let world = World::new(1, 1, 1).await;
    let results = &world.settings.results_topic;
    let _left_open = world.leave_open(results, 0);
    let writer = Writer::start(&in_transactions(&world, "one")).expect("started");
    let lane = Lane { partition: 0, life: 1 };
    let number = writer.commit(&mut batch(&[lane], "once"), Vec::new()).expect("taken");
    let end = grown(&world, results, 5).await;
    world.forget(results, 0, end).await;
    committed(&writer, number).await.expect("committed");
    assert!(world.read_all(results).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_abort_nothing_is_committed_before_all_results_are_closed() {
    let world = World::new(1, 1, 1).await;
    let results = &world.settings.results_topic;
    let left_open = world.leave_open(results, 0);
    let lane = Lane { partition: 0, life: 1 };
    // The first transaction is aborted, because it speaks for a member that has left.
    let join = || tokio::task::block_in_place(|| world.member());
    let writer = Writer::start(&in_transactions(&world, "one")).expect("started");
    writer.member(join().group_metadata());
    let member = join();
    let number = writer.commit(&mut batch(&[lane], "once"), vec![mark(lane, 7)]).expect("taken");
    grown(&world, results, 3).await;
    writer.member(member.group_metadata());
    // The same once more, in a transaction that is aborted, too: that closes what is ours.
    let closed = grown(&world, results, 5).await;
    left_open.abort_transaction(PATIENCE).expect("aborted");
    let progress = committed(&writer, number).await.expect("committed");
    assert!(progress.ends[&lane] > closed, "{progress:?} was written below {closed}");
    assert_eq!(world.read_all(results).len(), 1);
    assert_eq!(world.committed(), [(0, 7, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_abort_nobody_waits_for_what_is_open_in_a_partition_that_has_left() {
    let world = World::new(2, 2, 1).await;
    let results = &world.settings.results_topic;
    let left_open = world.leave_open(results, 0);
    let lanes = [Lane { partition: 0, life: 1 }, Lane { partition: 1, life: 2 }];
    // The first transaction is aborted, because it speaks for a member that has left.
    let join = || tokio::task::block_in_place(|| world.member());
    let writer = Writer::start(&in_transactions(&world, "one")).expect("started");
    writer.member(join().group_metadata());
    let member = join();
    let marks = vec![mark(lanes[0], 7), mark(lanes[1], 9)];
    let number = writer.commit(&mut batch(&lanes, "once"), marks).expect("taken");
    grown(&world, results, 5).await;
    writer.forget([lanes[0]]);
    writer.member(member.group_metadata());
    let progress = committed(&writer, number).await.expect("committed");
    assert!(progress.durable.keys().eq([&lanes[1]]), "{progress:?}");
    assert_eq!(world.committed().iter().map(|(_, offset, _)| *offset).collect::<Vec<_>>(), [-1001, 9]);
    left_open.abort_transaction(PATIENCE).expect("no broker has ended it meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_of_one_name_find_out() {
    let world = World::new(1, 1, 1).await;
    // However long a round takes here, no broker ends a transaction meanwhile.
    let clients = world.clients().in_transactions("same", PATIENCE);
    let start = || Writer::start(&clients).expect("started");
    let lane = Lane { partition: 0, life: 1 };
    let (mut writers, mut results) = (Vec::new(), Vec::new());
    for round in 0..6 {
        // One after the other: who is fenced while it commits cannot tell why.
        if round < 2 {
            writers.push(start());
        }
        let writer = &writers[round % 2];
        let Some(number) = writer.commit(&mut batch(&[lane], &round.to_string()), Vec::new()) else { break };
        results.push(committed(writer, number).await);
    }
    let error = results.into_iter().find_map(Result::err).expect("one of them gives up");
    assert!(matches!(error, Error::Fenced { .. }), "{error}");
    assert!(error.to_string().contains("kafka.group_instance_id"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_fenced_now_and_then_goes_on() {
    const LIFETIME: Duration = Duration::from_secs(1);
    let world = World::new(1, 1, 1).await;
    let writer = Writer::start(&world.clients().in_transactions("one", LIFETIME)).expect("started");
    let lane = Lane { partition: 0, life: 1 };
    for round in 0..3 {
        let number = writer.commit(&mut batch(&[lane], &round.to_string()), Vec::new()).expect("taken");
        committed(&writer, number).await.expect("it is not at its end");
        // What a broker does with a transaction that is open for too long, which takes as long as that.
        tokio::time::sleep(LIFETIME).await;
        fence(&world, "one");
    }
    assert_eq!(world.read(&world.settings.results_topic, 3).len(), 3);
}

/// Nobody who has this name by now can commit.
fn fence(world: &World, name: &str) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &world.settings.bootstrap_servers)
        .set("transactional.id", format!("{}-{name}", world.settings.group_id))
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("introduced");
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_a_stale_generation_take_nothing_with_them() {
    let world = World::new(1, 1, 1).await;
    world.produce(0, 0, 20);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    let stale = intake.group_metadata();
    drop(intake);
    source.close().await;
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;

    let writer = Writer::start(&in_transactions(&world, "one")).expect("started");
    let lane = Lane { partition: 0, life: 1 };
    writer.member(stale);
    let number = writer.commit(&mut batch(&[lane], "once"), vec![mark(lane, 5)]).expect("taken");
    let mut progress = Progress::default();
    while progress.trouble.is_none() {
        tokio::time::timeout(PATIENCE, writer.progress(&mut progress)).await.expect("in time").expect("alive");
        assert_eq!(progress.committed, 0);
    }
    writer.member(intake.group_metadata());
    committed(&writer, number).await.expect("committed");
    assert_eq!(world.read(&world.settings.results_topic, 1).len(), 1);
    assert_eq!(world.committed(), [(0, 5, 20)]);
}
