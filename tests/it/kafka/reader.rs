//! Reading a range of records once more.

use rdkafka::Message;
use tokenrelay::kafka::Error;
use tokenrelay::kafka::reader::Reader;

use crate::world::{World, value};

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_read_with_both_ends_and_ranges_do_not_mix() {
    let world = World::new(2, 2, 1).await;
    world.produce(0, 0, 100);
    world.produce(1, 1000, 100);
    let reader = Reader::start(&world.clients()).expect("started");
    let collect = |partition, offsets| {
        reader
            .read(partition, offsets, Vec::new(), move |seen, record| {
                assert_eq!(record.partition(), partition);
                seen.push(value(record));
            })
            .expect("room")
    };
    let asked = [(0, 10..=20), (1, 0..=0), (0, 15..=16), (1, 90..=99), (0, 0..=99)];
    let answers: Vec<_> = asked.iter().cloned().map(|(partition, offsets)| collect(partition, offsets)).collect();
    for ((partition, offsets), answer) in asked.into_iter().zip(answers) {
        let base = i64::from(partition) * 1000;
        let expected: Vec<i64> = offsets.map(|offset| base + offset).collect();
        assert_eq!(answer.await.expect("read"), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_gone_are_reported_as_such() {
    let world = World::new(1, 1, 1).await;
    world.produce(0, 0, 50);
    world.forget(&world.settings.tokens_topic, 0, 30).await;
    let reader = Reader::start(&world.clients()).expect("started");
    let read = |offsets| reader.read(0, offsets, 0, |count, _| *count += 1).expect("room");
    match read(20..=40).await {
        Err(Error::Gone { first: 20, last: 40, begins: 30, partition: 0, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(read(30..=40).await.expect("still there"), 11);
}
