//! Records that no producer should write. Each goes to the dead-letter topic as it is; nothing else is lost or stopped.

use std::time::{Duration, Instant};

use serde_json::json;
use tokenrelay::emulator::Faults;

use super::story::Story;
use super::{Stage, relay, results};
use crate::world::{Seen, World};

/// Key, value, and the reason for which it is a dead letter.
type Record = (Option<Vec<u8>>, Option<Vec<u8>>, &'static str);

fn records() -> Vec<Record> {
    let key = || Some(b"resp".to_vec());
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let mut long = json!({"type": "token", "text": ""}).to_string().into_bytes();
    long.resize(10 << 20, b' ');
    long.push(b'x');
    vec![
        (key(), None, "undecodable"),
        (key(), text(""), "undecodable"),
        (key(), Some(vec![0xff, 0xfe, 0x00]), "undecodable"),
        (key(), Some(b"{\"type\":\"token\",\"text\":\"\xc3\x28\"}".to_vec()), "undecodable"),
        (key(), text("not JSON"), "undecodable"),
        (key(), text("{\"type\":\"token\",\"text\":"), "undecodable"),
        (key(), text(&"[".repeat(100_000)), "undecodable"),
        (key(), text(&format!("{{\"type\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000))), "undecodable"),
        (key(), Some(long), "undecodable"),
        (key(), text("[1,2,3]"), "undecodable"),
        (key(), text("{}"), "undecodable"),
        (key(), text(r#"{"type":7}"#), "undecodable"),
        (key(), text(r#"{"type":"token","text":7}"#), "undecodable"),
        (key(), text(r#"{"type":"token","text":"\ud800"}"#), "undecodable"),
        (key(), text("{\"type\":\"token\",\"text\":\"\u{1}\"}"), "undecodable"),
        (Some(vec![0xff]), text(r#"{"type":"token","text":"a"}"#), "undecodable"),
        (None, text(r#"{"type":"token","text":"a"}"#), "no-response-id"),
        (Some(vec![]), text(r#"{"type":"token","text":"a"}"#), "no-response-id"),
        (Some(vec![b'i'; 10_000]), text(r#"{"type":"token","text":"a"}"#), "response-id-too-long"),
        (key(), text(r#"{"type":"token","text":"a","responseId":"o","channel":"elsewhere:x"}"#), "channel-not-allowed"),
    ]
}

async fn world() -> World {
    let world = World::new(0, 1, 0).await;
    let settings = &world.settings;
    world.create(&settings.tokens_topic, 1, &[("max.message.bytes", "12000000")]).await;
    world.create(&settings.dead_letters_topic, 1, &[("max.message.bytes", "12100000")]).await;
    world
}

/// Waits for the dead letters without holding up the relay's check.
fn letters(world: &World, count: usize) -> Vec<Seen> {
    let mut tail = world.tail(&world.settings.dead_letters_topic);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut letters = Vec::new();
    while letters.len() < count {
        assert!(Instant::now() < deadline, "{} of {count} dead letters came", letters.len());
        letters.extend(tail.next(Duration::from_millis(100)));
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_records_lose_nothing_and_stop_nothing() {
    let Stage { world, ably, mut relay } = Stage::new(world().await, Faults::default()).await;
    let before = Story::new(4, 5);
    before.produce(&world).await;
    let records = records();
    for (key, value, _) in &records {
        world.send(0, key.as_deref(), value.as_deref(), &[("own", Some(b"\xff\x00"))]);
    }
    world.flush();
    results::wait(&world, &mut relay, before.responses().len()).await.check(before.responses());

    let letters = tokio::task::block_in_place(|| letters(&world, records.len()));
    for (key, value, reason) in &records {
        let same = |letter: &&Seen| letter.key == *key && letter.value == *value;
        let shown: String = String::from_utf8_lossy(value.as_deref().unwrap_or_default()).chars().take(80).collect();
        let letter = letters.iter().find(same).unwrap_or_else(|| panic!("no dead letter for {shown}"));
        assert_eq!(letter.headers[0], ("own".to_owned(), Some(vec![0xff, 0])), "{shown}");
        assert_eq!(letter.header("tokenrelay.reason"), Some(*reason), "{shown}");
    }

    // It goes on as if nothing had been.
    let key = Some(&b"last"[..]);
    world.send(0, key, Some(br#"{"type":"token","text":"still \u0000 here"}"#), &[]);
    world.send(0, key, Some(br#"{"type":"end"}"#), &[]);
    world.flush();
    results::wait(&world, &mut relay, before.responses().len() + 1).await;
    assert_eq!(relay::message(ably.local_addr(), "ai:last").await.text, "still \0 here");
    relay.stop().await;
    for (partition, committed, end) in world.committed() {
        assert_eq!(committed, end, "partition {partition}");
    }
}
