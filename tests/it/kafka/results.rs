//! Results and dead letters become durable, and the pipeline is told.

use std::time::Duration;

use tokenrelay::engine::{Fact, Refusal, Report, ReportSeq, ResponseOutcome};
use tokenrelay::kafka::Error;
use tokenrelay::kafka::client::Clients;
use tokenrelay::kafka::results::{BATCHES_WAITING_MAX, Batch, Lane, Progress, Writer};
use tokenrelay::kafka::source::{Item, Source};

use crate::world::{PATIENCE, Seen, World, next, start};

const LANE: Lane = Lane { partition: 0, life: 1 };

pub(crate) fn in_transactions(world: &World, name: &str) -> Clients {
    world.clients().in_transactions(name, Duration::from_secs(10))
}

pub(crate) fn report(batch: &mut Batch, lane: Lane, seq: ReportSeq, value: &str) {
    let start = batch.buffer().len();
    batch.buffer().extend(b"key");
    batch.buffer().extend(value.as_bytes());
    let (middle, end) = (start + 3, batch.buffer().len());
    let fact = Fact::Response { outcome: ResponseOutcome::Reconciled, headless: false, gaps: 0, duplicates: 0 };
    let report = Report { seq, key: start..middle, value: middle..end, fact, traceparent: Some("00-trace".into()) };
    batch.report(lane, report);
}

/// Waits until all reports of a lane up to this one are durable; gives back the last progress.
async fn durable(writer: &Writer, lane: Lane, last: ReportSeq) -> Progress {
    let mut progress = Progress::default();
    loop {
        tokio::time::timeout(PATIENCE, writer.progress(&mut progress)).await.expect("in time").expect("alive");
        if progress.durable.get(&lane) == Some(&last) {
            return progress;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_become_durable_in_order_in_the_partition_of_their_tokens() {
    const COUNT: u64 = 2_000;
    let world = World::new(2, 3, 1).await;
    let mut writer = Writer::start(&world.clients()).expect("started");
    let mut batch = Batch::default();
    let lanes = [Lane { partition: 0, life: 7 }, Lane { partition: 1, life: 8 }];
    for seq in 0..COUNT {
        for lane in lanes {
            report(&mut batch, lane, seq, &seq.to_string());
        }
        writer.offer(&mut batch);
    }
    while !writer.offer(&mut batch) {
        tokio::task::yield_now().await;
    }
    writer.finish(PATIENCE).await.expect("all durable");
    let mut progress = Progress::default();
    assert!(writer.take(&mut progress));
    assert_eq!(progress.counts.results, 2 * COUNT);
    for lane in lanes {
        assert_eq!(progress.durable.get(&lane), Some(&(COUNT - 1)));
    }
    let seen = world.read(&world.settings.results_topic, 2 * usize::try_from(COUNT).expect("small"));
    for partition in 0..2 {
        let values = seen.iter().filter(|seen| seen.partition == partition).map(|seen| seen.value.clone());
        assert!(values.eq((0..COUNT).map(|seq| Some(seq.to_string().into_bytes()))), "partition {partition}");
    }
    let header = |name| seen[0].header(name);
    assert_eq!(seen[0].key.as_deref(), Some(&b"key"[..]));
    assert_eq!((header("kind"), header("outcome")), (Some("response"), Some("reconciled")));
    assert_eq!((header("content-type"), header("schema-version")), (Some("application/json"), Some("1")));
    assert_eq!(header("traceparent"), Some("00-trace"));
}

/// Takes each record of the tokens topic to the dead-letter topic, and waits until that is durable.
async fn bury(world: &World, clients: &Clients, count: usize) -> Progress {
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    let writer = Writer::start(clients).expect("started");
    let mut batch = Batch::default();
    for _ in 0..count {
        let Item::Record(record) = next(&mut intake).await else { panic!("a record was expected") };
        batch.dead_letter(LANE, &record, Refusal::Undecodable, "no format knows it");
    }
    assert!(writer.offer(&mut batch));
    let mut all = Progress::default();
    while all.letters.len() < count {
        let mut progress = Progress::default();
        tokio::time::timeout(PATIENCE, writer.progress(&mut progress)).await.expect("in time").expect("alive");
        all.letters.append(&mut progress.letters);
        all.counts.letters += progress.counts.letters;
        all.counts.bare += progress.counts.bare;
        all.counts.pointers += progress.counts.pointers;
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_is_the_record_byte_for_byte_and_says_why() {
    let world = World::new(1, 1, 1).await;
    type Raw<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, &'a [(&'a str, Option<&'a [u8]>)]);
    let records: [Raw<'_>; 5] = [
        (None, None, &[]),
        (Some(b""), Some(b""), &[("empty", Some(b"")), ("null", None)]),
        (Some(b"k\0\xff"), Some(b"\xc3\x28 not text"), &[("x", Some(b"\xff\0")), ("x", Some(b"again"))]),
        (Some(b"k"), Some(b"{\"type\":"), &[("__connect.errors.topic", Some(b"from an earlier life"))]),
        (Some(&[7; 10_000]), Some(&[0; 700_000]), &[]),
    ];
    for (key, value, headers) in &records {
        world.produce_raw(*key, *value, headers);
    }
    let progress = bury(&world, &world.clients(), records.len()).await;
    assert_eq!((progress.counts.letters, progress.counts.bare, progress.counts.pointers), (5, 0, 0));
    let mut offsets: Vec<_> = progress.letters.iter().map(|(lane, offset)| (*lane, *offset)).collect();
    offsets.sort_by_key(|(_, offset)| *offset);
    assert!(offsets.into_iter().eq((0..5).map(|offset| (LANE, offset))));

    let letters = world.read(&world.settings.dead_letters_topic, records.len());
    for (offset, ((key, value, headers), letter)) in records.iter().zip(&letters).enumerate() {
        assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (*key, *value), "record {offset}");
        let own = headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec)));
        assert!(letter.headers.iter().take(headers.len()).cloned().eq(own), "headers of record {offset}");
        let explained = Seen { headers: letter.headers[headers.len()..].to_vec(), ..letter.clone() };
        assert_eq!(explained.header("__connect.errors.topic"), Some(&*world.settings.tokens_topic));
        assert_eq!(explained.header("__connect.errors.partition"), Some("0"));
        assert_eq!(explained.header("__connect.errors.offset"), Some(&*offset.to_string()));
        assert_eq!(explained.header("__connect.errors.exception.message"), Some("no format knows it"));
        assert_eq!(explained.header("tokenrelay.reason"), Some("undecodable"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_that_is_too_long_gets_shorter_and_takes_no_other_with_it() {
    for transactional in [false, true] {
        let world = World::new(1, 1, 0).await;
        let clients = if transactional { in_transactions(&world, "one") } else { world.clients() };
        bury_long_ones(&world, &clients).await;
    }
}

async fn bury_long_ones(world: &World, clients: &Clients) {
    let topic = world.settings.dead_letters_topic.clone();
    world.create(&topic, 1, &[("max.message.bytes", "20000")]).await;
    for length in [100, 19_700, 50_000, 200, 15_000] {
        world.produce_raw(Some(b"k"), Some(&vec![b'x'; length]), &[("own", Some(b"header"))]);
    }
    let progress = bury(world, clients, 5).await;
    assert_eq!((progress.counts.letters, progress.counts.bare, progress.counts.pointers), (5, 1, 1));
    let letters = world.read(&topic, 5);
    let with_length = |length| letters.iter().find(|seen| seen.value.as_ref().map(Vec::len) == Some(length));
    for length in [100, 200, 15_000] {
        let whole = with_length(length).expect("there");
        assert_eq!((whole.header("tokenrelay.form"), whole.header("own")), (Some("whole"), Some("header")));
    }
    let bare = with_length(19_700).expect("there");
    assert_eq!(bare.headers, [("own".to_owned(), Some(b"header".to_vec()))]);
    let pointer = letters.iter().find(|seen| seen.header("tokenrelay.form") == Some("pointer")).expect("there");
    let value: serde_json::Value = serde_json::from_slice(pointer.value.as_ref().expect("a value")).expect("JSON");
    assert_eq!((&value["offset"], &value["valueBytes"]), (&2.into(), &50_000.into()));
    assert_eq!(value["valueSha256"].as_str().map(str::len), Some(64));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_topic_refuses_is_tried_until_somebody_mends_the_topic() {
    for transactional in [false, true] {
        let world = World::new(1, 0, 1).await;
        let clients = if transactional { in_transactions(&world, "one") } else { world.clients() };
        mend(&world, &clients).await;
    }
}

async fn mend(world: &World, clients: &Clients) {
    let topic = &world.settings.results_topic;
    world.create(topic, 1, &[("max.message.bytes", "500")]).await;
    let writer = Writer::start(clients).expect("started");
    let mut batch = Batch::default();
    for (seq, length) in [10, 1_000, 20].into_iter().enumerate() {
        report(&mut batch, LANE, seq as ReportSeq, &"v".repeat(length));
    }
    assert!(writer.offer(&mut batch));
    let mut progress = Progress::default();
    while progress.trouble.is_none() {
        tokio::time::timeout(PATIENCE, writer.progress(&mut progress)).await.expect("in time").expect("alive");
        assert_ne!(progress.durable.get(&LANE), Some(&2), "the second is not durable");
    }
    let trouble = progress.trouble.expect("trouble");
    assert!(trouble.contains(topic) && trouble.contains("kafka.results_topic"), "{trouble}");
    world.alter(topic, "max.message.bytes", "100000").await;
    durable(&writer, LANE, 2).await;
    assert_eq!(world.read(topic, 3).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_broker_batches_pile_up_to_a_limit_and_the_end_is_told() {
    let mut world = World::new(0, 0, 0).await;
    world.settings.bootstrap_servers = "127.0.0.1:9".to_owned();
    let mut writer = Writer::start(&world.clients()).expect("started");
    let mut batch = Batch::default();
    let (mut seq, mut refused, mut offered) = (0, 0, 0);
    // The thread takes what may be on its way, then what may wait piles up.
    while refused < 1_000 {
        if batch.is_empty() {
            for _ in 0..1_000 {
                report(&mut batch, LANE, seq, "value");
                seq += 1;
            }
        }
        if writer.offer(&mut batch) {
            (refused, offered) = (0, offered + 1);
        } else {
            refused += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    assert!(offered <= 50 + 1 + BATCHES_WAITING_MAX, "{offered} batches");
    match writer.finish(Duration::from_millis(10)).await {
        Err(Error::NotDurable { records }) => assert!(records > 0),
        other => panic!("{other:?}"),
    }
}
