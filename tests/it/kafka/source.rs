//! One member of a group: where it begins, what it reads, what it commits.

use rdkafka::Message;
use rdkafka::producer::Producer;
use tokenrelay::config::Start;
use tokenrelay::kafka::Error;
use tokenrelay::kafka::assignment::Before;
use tokenrelay::kafka::source::{Item, Lag, Source, Waiting};
use tokenrelay::kafka::{Handover, METADATA_BYTES_MAX};
use tokio::time::timeout;

use crate::world::{PATIENCE, World, next, start, take, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_begins_where_it_is_told_to_and_stays_there() {
    for (policy, begin) in [(Start::Earliest, 0), (Start::Latest, 10)] {
        let mut world = World::new(2, 2, 1).await;
        world.settings.start = policy;
        world.produce(0, 0, 10);
        world.produce(1, 0, 10);
        let source = Source::open(&world.clients()).expect("open");
        let mut intake = source.intake();
        assert_eq!(start(&mut intake).await, [(0, begin), (1, begin)]);
        drop(intake);
        source.close().await;

        // Nothing was committed by hand, more came, and yet it is not a new group.
        world.settings.start = Start::Error;
        world.produce(0, 10, 10);
        let source = Source::open(&world.clients()).expect("open");
        assert_eq!(start(&mut source.intake()).await, [(0, begin), (1, begin)]);
        source.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_that_is_not_told_does_not_begin() {
    let mut world = World::new(1, 1, 1).await;
    world.settings.start = Start::Error;
    let source = Source::open(&world.clients()).expect("open");
    let item = next(&mut source.intake()).await;
    assert!(matches!(item, Item::Failed(Error::NoStart { .. })), "{item:?}");
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_come_back_with_their_metadata() {
    let world = World::new(1, 1, 1).await;
    world.produce(0, 0, 20);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    take(&mut intake, 20).await;
    // Words of a later version, as many as fit.
    let mut metadata = Handover::first(17).to_metadata(12) + " ";
    let left = METADATA_BYTES_MAX - metadata.len();
    metadata.push_str(&"é".repeat(left / 2));
    metadata.push_str(&"e".repeat(left % 2));
    intake.mark(0, 5, "early").expect("short enough");
    intake.commit();
    intake.mark(0, 12, &metadata).expect("just short enough");
    assert!(matches!(intake.mark(0, 13, &format!("{metadata}x")), Err(Error::MetadataTooLong { .. })));
    intake.commit_now(&[0]).await.expect("confirmed");
    drop(intake);
    source.close().await;

    let source = Source::open(&world.clients()).expect("open");
    match next(&mut source.intake()).await {
        Item::Assigned(assigned) => {
            assert_eq!((assigned[0].start, assigned[0].end, assigned[0].gap), (12, 20, None));
            assert_eq!(assigned[0].before, Before::Left(Handover::first(17)));
        }
        other => panic!("{other:?}"),
    }
    // Closing with an assignment that nobody answered must not hang.
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_are_confirmed_without_waiting() {
    let world = World::new(1, 1, 1).await;
    world.produce(0, 0, 1);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    take(&mut intake, 1).await;
    intake.mark(0, 1, "").expect("marked");
    intake.commit();
    intake.commit_now(&[0]).await.expect("confirmed, by one or the other");
    assert_eq!(intake.commits_failed(), 0);
    assert_eq!(world.committed(), [(0, 1, 1)]);
    drop(intake);
    drop(source);
    let source = Source::open(&world.clients()).expect("open");
    assert_eq!(start(&mut source.intake()).await, [(0, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_follow_each_other_without_waiting() {
    let world = World::new(1, 1, 1).await;
    world.produce(0, 0, 3);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    take(&mut intake, 3).await;
    for offset in 1..=3 {
        intake.mark(0, offset, "").expect("marked");
        // The next commit begins when the one before is confirmed.
        let confirmed = async {
            while world.committed() != [(0, offset, 3)] {
                intake.commit();
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, confirmed).await.expect("committed in time");
    }
    assert_eq!(intake.commits_failed(), 0);
    drop(intake);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_in_order_and_then_the_end() {
    let world = World::new(2, 2, 1).await;
    world.produce(0, 0, 3_000);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    let taken = take(&mut intake, 3_000).await;
    assert!(taken.iter().map(|(_, offset, value)| (*offset, *value)).eq((0..3_000).map(|at| (at, at))));
    assert!(matches!(next(&mut intake).await, Item::End(_)));
    assert!(intake.try_next().is_none() || matches!(next(&mut intake).await, Item::End(_)));
    world.produce(1, 0, 1);
    assert_eq!(take(&mut intake, 1).await, [(1, 0, 0)]);
    let mut lags = intake.lag().await.expect("known");
    lags.sort_by_key(|lag| lag.partition);
    let even = |partition, position| Lag { partition, position, end: position };
    assert_eq!(lags, [even(0, 3_000), even(1, 1)]);
    world.produce(1, 1, 7);
    assert_eq!(intake.lag().await.expect("known")[1], Lag { partition: 1, position: 1, end: 8 });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_loses_nothing_and_repeats_nothing() {
    let world = World::new(2, 2, 1).await;
    world.produce(0, 0, 5_000);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    // Partitions that come while intake is paused are paused.
    intake.pause().expect("paused");
    start(&mut intake).await;
    assert!(intake.try_next().is_none());
    let mut seen = Vec::new();
    while seen.len() < 5_000 {
        intake.resume().expect("resumed");
        seen.extend(take(&mut intake, 250).await.into_iter().map(|(_, offset, _)| offset));
        intake.pause().expect("paused");
        while let Some(item) = intake.try_next() {
            if let Item::Record(record) = item {
                seen.push(record.offset());
            }
        }
    }
    assert!(seen.into_iter().eq(0..5_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_offset_that_retention_took_is_a_gap() {
    let world = World::new(1, 1, 1).await;
    world.produce(0, 0, 50);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    intake.mark(0, 10, "").expect("marked");
    intake.commit_now(&[0]).await.expect("confirmed");
    drop(intake);
    source.close().await;
    world.forget(&world.settings.tokens_topic, 0, 30).await;
    let source = Source::open(&world.clients()).expect("open");
    match next(&mut source.intake()).await {
        Item::Assigned(assigned) => {
            let gap = assigned[0].gap.expect("a gap");
            assert_eq!((assigned[0].start, gap.committed, gap.begins), (30, 10, 30));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_that_overtakes_us_is_a_gap_and_reading_goes_on() {
    let world = World::new(1, 1, 1).await;
    world.produce(0, 0, 50);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    take(&mut intake, 10).await;
    intake.pause().expect("paused");
    while intake.try_next().is_some() {}
    world.forget(&world.settings.tokens_topic, 0, 40).await;
    intake.resume().expect("resumed");
    match next(&mut intake).await {
        Item::Gap { partition: 0, expected: 10, begins: 40 } => {}
        other => panic!("{other:?}"),
    }
    assert!(take(&mut intake, 10).await.into_iter().map(|(_, offset, _)| offset).eq(40..50));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_added_later_is_read_from_its_beginning() {
    let mut world = World::new(1, 2, 1).await;
    world.settings.start = Start::Latest;
    world.settings.librdkafka.insert("topic.metadata.refresh.interval.ms".into(), "200".into());
    world.produce(0, 0, 5);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    assert_eq!(start(&mut intake).await, [(0, 5)]);
    world.grow(&world.settings.tokens_topic.clone(), 2).await;
    world.produce(1, 0, 5);
    assert_eq!(start(&mut intake).await, [(1, 0)]);
    assert!(
        take(&mut intake, 5)
            .await
            .into_iter()
            .map(|(partition, offset, _)| (partition, offset))
            .eq((0..5).map(|at| (1, at)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_waits_until_the_results_topic_has_it_too() {
    let mut world = World::new(3, 1, 1).await;
    for partition in 0..3 {
        world.produce(partition, 0, 5);
    }
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    let Item::Held(Waiting { mut lacking, unstable }) = next(&mut intake).await else { panic!("some are held") };
    lacking.sort_unstable();
    assert_eq!((lacking, unstable), (vec![1, 2], vec![]));
    assert_eq!(start(&mut intake).await, [(0, 0)]);
    assert!(take(&mut intake, 5).await.into_iter().all(|(partition, ..)| partition == 0));
    world.grow(&world.settings.results_topic.clone(), 3).await;
    let none_left = loop {
        match next(&mut intake).await {
            Item::Held(held) => break held,
            Item::End(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(none_left.is_empty(), "{none_left:?}");
    assert_eq!(start(&mut intake).await, [(1, 0), (2, 0)]);
    let mut taken = take(&mut intake, 10).await;
    taken.sort_unstable();
    assert!(taken.into_iter().eq((0..10).map(|at| (1 + i32::from(at >= 5), at % 5, at % 5))));
    drop(intake);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_waits_for_the_end_of_a_transaction_on_its_results_and_no_other_does() {
    let world = World::new(2, 2, 1).await;
    for partition in 0..2 {
        world.produce(partition, 0, 5);
    }
    let left_open = world.leave_open(&world.settings.results_topic, 1);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    let Item::Held(waiting) = next(&mut intake).await else { panic!("one is held") };
    assert_eq!(waiting, Waiting { lacking: vec![], unstable: vec![1] });
    assert!(waiting.to_string().contains("[1]"), "{waiting}");
    assert_eq!(start(&mut intake).await, [(0, 0)]);
    assert!(take(&mut intake, 5).await.into_iter().all(|(partition, ..)| partition == 0));

    left_open.abort_transaction(PATIENCE).expect("aborted");
    let none_left = loop {
        match next(&mut intake).await {
            Item::Held(waiting) => break waiting,
            Item::End(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(none_left.is_empty(), "{none_left:?}");
    assert_eq!(start(&mut intake).await, [(1, 0)]);
    assert!(take(&mut intake, 5).await.into_iter().all(|(partition, ..)| partition == 1));
    drop(intake);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_4s_own_group_protocol_will_do_too() {
    let mut world = World::new(2, 2, 1).await;
    world.settings.librdkafka.insert("group.protocol".into(), "consumer".into());
    world.produce(1, 0, 5);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    assert_eq!(start(&mut intake).await, [(0, 0), (1, 0)]);
    let taken = take(&mut intake, 5).await;
    assert_eq!(taken.last(), Some(&(1, 4, 4)));
    intake.mark(1, 5, "").expect("marked");
    intake.commit_now(&[1]).await.expect("confirmed");
    drop(intake);
    source.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_read_by_name() {
    let world = World::new(1, 1, 1).await;
    world.produce_raw(None, Some(b"7"), &[("a", Some(b"1")), ("b", None), ("a", Some(b"2"))]);
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    let Item::Record(record) = next(&mut intake).await else { panic!("a record was expected") };
    assert_eq!((record.key(), value(&record)), (None, 7));
    assert_eq!(tokenrelay::kafka::header(&record, "a"), Some(&b"2"[..]));
    assert_eq!(tokenrelay::kafka::header(&record, "b"), None);
    assert_eq!(tokenrelay::kafka::header(&record, "c"), None);
}
