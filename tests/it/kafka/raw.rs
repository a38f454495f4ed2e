//! Records that no well-behaved client writes: header names that are not text. The bytes are put together by hand (Kafka's
//! protocol guide: Produce version 7, record batch version 2).

use std::io::{Read, Write};
use std::net::TcpStream;

use rdkafka::Message;
use rdkafka::message::Headers;
use tokenrelay::engine::Refusal;
use tokenrelay::kafka::results::{Batch, Lane, Writer};
use tokenrelay::kafka::source::{Item, Source};

use crate::world::{PATIENCE, World, next, start};

/// Zigzag and base 128, as lengths in records are.
fn varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = (value << 1) ^ (value >> 63);
    while rest & !0x7f != 0 {
        out.push((rest as u8 & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn sized(out: &mut Vec<u8>, bytes: &[u8]) {
    varint(out, bytes.len() as i64);
    out.extend(bytes);
}

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes
        .iter()
        .fold(!0_u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1))))
}

fn record(value: &[u8], headers: &[(&[u8], &[u8])]) -> Vec<u8> {
    // Attributes, timestamp delta, offset delta, no key.
    let mut body = vec![0, 0, 0];
    varint(&mut body, -1);
    sized(&mut body, value);
    varint(&mut body, headers.len() as i64);
    for (name, value) in headers {
        sized(&mut body, name);
        sized(&mut body, value);
    }
    let mut record = Vec::new();
    sized(&mut record, &body);
    record
}

fn batch(record: &[u8]) -> Vec<u8> {
    // From the attributes on: that is what the checksum covers.
    let mut covered = Vec::new();
    covered.extend(0_i16.to_be_bytes());
    covered.extend(0_i32.to_be_bytes());
    covered.extend([1_700_000_000_000_i64; 2].map(i64::to_be_bytes).concat());
    covered.extend((-1_i64).to_be_bytes());
    covered.extend((-1_i16).to_be_bytes());
    covered.extend((-1_i32).to_be_bytes());
    covered.extend(1_i32.to_be_bytes());
    covered.extend(record);
    let mut batch = Vec::new();
    batch.extend(0_i64.to_be_bytes());
    batch.extend((covered.len() as i32 + 4 + 1 + 4).to_be_bytes());
    batch.extend((-1_i32).to_be_bytes());
    batch.push(2);
    batch.extend(crc32c(&covered).to_be_bytes());
    batch.extend(covered);
    batch
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as i16).to_be_bytes());
    out.extend(text.as_bytes());
}

/// Produces to partition 0.
fn produce(servers: &str, topic: &str, record: &[u8]) {
    let records = batch(record);
    let mut request = Vec::new();
    request.extend([0, 0, 0, 7, 0, 0, 0, 1]);
    text(&mut request, "test");
    request.extend((-1_i16).to_be_bytes());
    request.extend((-1_i16).to_be_bytes());
    request.extend(10_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    text(&mut request, topic);
    request.extend(1_i32.to_be_bytes());
    request.extend(0_i32.to_be_bytes());
    request.extend((records.len() as i32).to_be_bytes());
    request.extend(records);
    let mut stream = TcpStream::connect(servers).expect("connected");
    stream.write_all(&(request.len() as i32).to_be_bytes()).expect("written");
    stream.write_all(&request).expect("written");
    let mut length = [0; 4];
    stream.read_exact(&mut length).expect("an answer");
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).expect("an answer");
    // Correlation id, one topic, its name, one partition, its number: then the error.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    assert_eq!(answer[at..at + 2], [0, 0], "refused: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn header_names_that_are_not_text_stop_nothing_and_are_kept() {
    let world = World::new(1, 1, 1).await;
    let headers: [(&[u8], &[u8]); 3] = [(b"channel", b"one"), (b"\xff\xfe", b"\x00"), (b"channel", b"two")];
    produce(&world.settings.bootstrap_servers, &world.settings.tokens_topic, &record(b"value", &headers));
    let source = Source::open(&world.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    let Item::Record(record) = next(&mut intake).await else { panic!("a record was expected") };
    assert_eq!((record.key(), record.payload()), (None, Some(&b"value"[..])));
    assert_eq!(tokenrelay::kafka::header(&record, "channel"), Some(&b"two"[..]));
    assert_eq!(tokenrelay::kafka::headers(&record).count(), 2);

    let mut writer = Writer::start(&world.clients()).expect("started");
    let mut batch = Batch::default();
    batch.dead_letter(Lane { partition: 0, life: 0 }, &record, Refusal::Undecodable, "");
    assert!(writer.offer(&mut batch));
    writer.finish(PATIENCE).await.expect("durable");

    // Read it as if it were a token: the names are all there, the odd one among them.
    let mut letters = World::new(0, 1, 1).await;
    letters.settings.tokens_topic.clone_from(&world.settings.dead_letters_topic);
    let source = Source::open(&letters.clients()).expect("open");
    let mut intake = source.intake();
    start(&mut intake).await;
    let Item::Record(letter) = next(&mut intake).await else { panic!("a record was expected") };
    assert_eq!(letter.payload(), Some(&b"value"[..]));
    let count = letter.headers().map_or(0, Headers::count);
    assert_eq!(tokenrelay::kafka::headers(&letter).count(), count - 1);
    assert_eq!(tokenrelay::kafka::header(&letter, "tokenrelay.reason"), Some(&b"undecodable"[..]));
}
