//! Several members of a group: partitions move only when their owner lets go.

use rdkafka::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokenrelay::kafka::Handover;
use tokenrelay::kafka::assignment::Before;
use tokenrelay::kafka::source::{Intake, Item, Source, Waiting};

use crate::world::{PATIENCE, World, next, start, take};

/// Polls one member until it has an item that is not a record or an end, while the other one is polled, too.
async fn event<'a>(intake: &mut Intake<'a>, other: &mut Intake<'_>) -> Item<'a> {
    loop {
        tokio::select! {
            item = next(intake) => if !matches!(item, Item::Record(_) | Item::End(_)) { return item },
            item = other.next() => panic!("nothing should happen there: {item:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_is_nobody_elses_until_it_is_released() {
    let world = World::new(2, 2, 1).await;
    let first = Source::open(&world.clients()).expect("open");
    let mut first_intake = first.intake();
    start(&mut first_intake).await;
    world.produce(0, 0, 10);
    world.produce(1, 0, 10);
    take(&mut first_intake, 20).await;

    let second = Source::open(&world.clients()).expect("open");
    let mut second_intake = second.intake();
    let Item::Revoked(revoked) = event(&mut first_intake, &mut second_intake).await else { panic!("a revocation") };
    assert_eq!(revoked.len(), 1);
    let leaving = revoked[0];

    // Before the answer: what is done can be committed, nothing more of the partition comes, and it is still ours alone.
    world.produce(leaving, 10, 10);
    let left = Handover::first(7);
    first_intake.mark(leaving, 7, &left.to_metadata(7)).expect("marked");
    first_intake.commit_now(&[leaving]).await.expect("confirmed");
    for _ in 0..20 {
        tokio::select! {
            item = first_intake.next() => assert!(matches!(item, Item::End(_)), "{item:?}"),
            item = second_intake.next() => panic!("{item:?}"),
            () = tokio::time::sleep(std::time::Duration::from_millis(100)) => {}
        }
    }

    first_intake.release(&revoked).expect("released");
    let assigned = loop {
        tokio::select! {
            item = next(&mut second_intake) => match item {
                Item::Assigned(assigned) => break assigned,
                other => panic!("{other:?}"),
            },
            item = first_intake.next() => assert!(matches!(item, Item::End(_)), "{item:?}"),
        }
    };
    assert_eq!((assigned[0].partition, assigned[0].start, &assigned[0].before), (leaving, 7, &Before::Left(left)));
    second_intake.start(&[(leaving, 7)]).expect("started");
    assert!(take(&mut second_intake, 13).await.into_iter().map(|(_, offset, _)| offset).eq(7..20));

    // What stayed goes on where it was.
    let staying = 1 - leaving;
    world.produce(staying, 10, 5);
    assert!(take(&mut first_intake, 5).await.into_iter().eq((10..15).map(|at| (staying, at, at))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_does_not_outlive_the_stay_of_a_partition() {
    let world = World::new(2, 2, 1).await;
    let first = Source::open(&world.clients()).expect("open");
    let mut first_intake = first.intake();
    start(&mut first_intake).await;
    first_intake.pause().expect("paused");

    let second = Source::open(&world.clients()).expect("open");
    let mut second_intake = second.intake();
    let Item::Revoked(revoked) = event(&mut first_intake, &mut second_intake).await else { panic!("a revocation") };
    first_intake.release(&revoked).expect("released");
    let starting = async {
        start(&mut second_intake).await;
    };
    tokio::select! {
        () = starting => {}
        item = first_intake.next() => panic!("{item:?}"),
    }
    first_intake.resume().expect("resumed");
    drop(second_intake);
    second.close().await;

    let leaving = revoked[0];
    assert_eq!(start(&mut first_intake).await, [(leaving, 0)]);
    world.produce(leaving, 0, 10);
    let taken = take(&mut first_intake, 10).await;
    assert!(taken.into_iter().all(|(partition, ..)| partition == leaving));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_silent_for_too_long_is_told_what_it_lost() {
    let mut world = World::new(1, 1, 1).await;
    world.settings.librdkafka.insert("max.poll.interval.ms".into(), "6000".into());
    world.produce(0, 0, 10);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    take(&mut intake, 10).await;
    intake.mark(0, 5, "").expect("marked");
    // Not polled for longer than the group allows: that is what a frozen process looks like from outside.
    let second = Source::open(&world.clients()).expect("open");
    let mut second_intake = second.intake();
    assert_eq!(start(&mut second_intake).await, [(0, 0)]);
    let mut items = Vec::new();
    let lost = loop {
        match next(&mut intake).await {
            Item::Lost(lost) => break lost,
            Item::Record(record) => items.push(record.offset()),
            Item::End(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((lost, items), (vec![0], vec![]));
    intake.commit_now(&[0]).await.expect("there is nothing left to commit");
}

/// Leaves a transaction open on the results of each partition.
fn leave_all_open(world: &World, partitions: i32) -> BaseProducer {
    let topic = &world.settings.results_topic;
    let left_open = world.leave_open(topic, 0);
    for partition in 1..partitions {
        let record = BaseRecord::<(), [u8]>::to(topic).partition(partition).payload(b"a record");
        left_open.send(record).expect("queued");
    }
    left_open.flush(PATIENCE).expect("delivered");
    left_open
}

/// The partitions that wait for the end of a transaction.
fn unstable(item: Item<'_>) -> Vec<i32> {
    match item {
        Item::Held(Waiting { unstable, .. }) => unstable,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_leaves_while_it_waits_is_not_taken_up_any_more() {
    let world = World::new(2, 2, 1).await;
    let left_open = leave_all_open(&world, 2);
    for partition in 0..2 {
        world.produce(partition, 0, 5);
    }
    let first = Source::open(&world.clients()).expect("open");
    let mut first_intake = first.intake();
    assert_eq!(unstable(next(&mut first_intake).await), [0, 1]);
    let second = Source::open(&world.clients()).expect("open");
    let mut second_intake = second.intake();
    let staying = unstable(event(&mut first_intake, &mut second_intake).await);
    let leaving = unstable(event(&mut second_intake, &mut first_intake).await);
    assert_eq!((staying.len(), &leaving), (1, &vec![1 - staying[0]]));

    left_open.abort_transaction(PATIENCE).expect("aborted");
    let take_up = async |intake: &mut Intake<'_>| {
        assert_eq!(unstable(next(intake).await), [0; 0]);
        let started = start(intake).await;
        let taken = take(intake, 5).await;
        assert!(taken.iter().all(|(partition, ..)| *partition == started[0].0), "{taken:?}");
        started
    };
    let (first_has, second_has) = tokio::join!(take_up(&mut first_intake), take_up(&mut second_intake));
    assert_eq!((first_has, second_has), (vec![(staying[0], 0)], vec![(leaving[0], 0)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_is_lost_while_it_waits_is_not_taken_up_any_more() {
    let mut world = World::new(1, 1, 1).await;
    world.settings.librdkafka.insert("max.poll.interval.ms".into(), "6000".into());
    let left_open = leave_all_open(&world, 1);
    world.produce(0, 0, 5);
    let first = Source::open(&world.clients()).expect("open");
    let mut first_intake = first.intake();
    assert_eq!(unstable(next(&mut first_intake).await), [0]);
    // Not polled for longer than the group allows.
    let second = Source::open(&world.clients()).expect("open");
    let mut second_intake = second.intake();
    assert_eq!(unstable(next(&mut second_intake).await), [0]);
    assert_eq!(unstable(next(&mut first_intake).await), [0; 0]);
    match next(&mut first_intake).await {
        Item::Lost(lost) => assert!(lost.is_empty(), "{lost:?} was never read"),
        other => panic!("{other:?}"),
    }

    left_open.abort_transaction(PATIENCE).expect("aborted");
    assert_eq!(unstable(event(&mut second_intake, &mut first_intake).await), [0; 0]);
    match event(&mut second_intake, &mut first_intake).await {
        Item::Assigned(assigned) => {
            second_intake.start(&[(assigned[0].partition, assigned[0].start)]).expect("started")
        }
        other => panic!("{other:?}"),
    }
    tokio::select! {
        taken = take(&mut second_intake, 5) => assert!(taken.into_iter().all(|(partition, ..)| partition == 0)),
        item = first_intake.next() => panic!("{item:?}"),
    }
}
