//! The verdict, tested with something that is no relay: it publishes each text whole, and wrongly on request.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{BaseRecord, ThreadedProducer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde_json::{Value, json};

use super::super::broker::{PARTITIONS, RESULTS, TOKENS, client_settings};
use super::super::history;
use super::*;

/// What it does wrong, to the parts whose count of results is divisible by ten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sin {
    None,
    DropsAToken,
    ForgetsTheEnd,
    PublishesTwice,
    OmitsTheResult,
    ReportsTwice,
    SkipsASequence,
    LiesInTheHash,
}

/// What it knows of one part.
#[derive(Default)]
struct Part {
    text: String,
    channel: String,
}

struct Pretender {
    site: Site,
    sin: Sin,
    client: reqwest::Client,
    results: ThreadedProducer<rdkafka::producer::DefaultProducerContext>,
    parts: HashMap<(String, u64), Part>,
    settled: u64,
}

async fn pretend(site: Site, sin: Sin, mut stopped: watch::Receiver<Stop>) -> Result<(), Error> {
    let mut config: ClientConfig = client_settings().into_iter().collect();
    config.set("bootstrap.servers", &site.bootstrap_servers).set("group.id", "pretender");
    let consumer: StreamConsumer = config.create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(TOKENS, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    let results = ClientConfig::new().set("bootstrap.servers", &site.bootstrap_servers).create()?;
    let client = history::client()?;
    let mut pretender = Pretender { site, sin, client, results, parts: HashMap::new(), settled: 0 };
    loop {
        tokio::select! {
            _ = stopped.changed() => return Ok(()),
            message = consumer.recv() => pretender.take(&message?.detach()).await,
        }
    }
}

impl Pretender {
    async fn take(&mut self, message: &rdkafka::message::OwnedMessage) {
        let id = String::from_utf8_lossy(message.key().expect("has a key")).into_owned();
        let Ok(value) = serde_json::from_slice::<Value>(message.payload().expect("has a value")) else { return };
        let (part, piece, status) = read(&value);
        let known = self.parts.entry((id.clone(), part)).or_default();
        known.text.push_str(piece);
        known.channel = channel(message).unwrap_or_else(|| format!("demo:{id}"));
        let Some(status) = status else { return };
        let known = self.parts.remove(&(id.clone(), part)).expect("was just there");
        let sins = self.settled.is_multiple_of(10);
        self.settled += 1;
        self.publish(&id, part, known, status, sins, message).await;
    }

    async fn publish(
        &self,
        id: &str,
        part: u64,
        known: Part,
        status: &str,
        sins: bool,
        at: &rdkafka::message::OwnedMessage,
    ) {
        let sin = if sins { self.sin } else { Sin::None };
        let hash = hex(&Sha256::digest(known.text.as_bytes()));
        let text: String = known.text.chars().skip(usize::from(sin == Sin::DropsAToken)).collect();
        let status = if sin == Sin::ForgetsTheEnd { "streaming" } else { status };
        let message = json!({ "name": "response", "data": text, "extras": { "headers": {
            "responseId": id, "part": part, "segment": 0, "status": status,
        } } });
        for _ in 0..=usize::from(sin == Sin::PublishesTwice) {
            let name = percent_encoding::utf8_percent_encode(&known.channel, percent_encoding::NON_ALPHANUMERIC);
            let url = format!("http://{}/channels/{name}/messages", self.site.ably);
            let (key, secret) = self.site.ably_key.split_once(':').expect("is a key");
            let sent = self.client.post(url).basic_auth(key, Some(secret)).json(&message).send().await;
            assert_eq!(sent.expect("is answered").status(), 201);
        }
        if sin == Sin::OmitsTheResult {
            return;
        }
        let hash = if sin == Sin::LiesInTheHash { "00" } else { &hash };
        for _ in 0..=usize::from(sin == Sin::ReportsTwice) {
            let operations = if sin == Sin::SkipsASequence { 2 } else { 0 };
            let record = json!({
                "v": 1, "kind": "response", "responseId": id, "part": part, "outcome": "delivered",
                "covered": { "partition": at.partition(), "first": at.offset(), "last": at.offset() },
                "operations": operations, "textSha256": hash,
            });
            let payload = record.to_string();
            let record = BaseRecord::to(RESULTS).partition(at.partition()).key(id).payload(&payload);
            self.results.send(record).map_err(|(error, _)| error).expect("there is room");
        }
    }
}

/// Part, text and end of a record in either format.
fn read(value: &Value) -> (u64, &str, Option<&'static str>) {
    let choice = &value["choices"][0];
    if choice.is_object() {
        let end = choice["finish_reason"].is_string().then_some("complete");
        return (choice["index"].as_u64().unwrap_or(0), choice["delta"]["content"].as_str().unwrap_or(""), end);
    }
    let end = match value["type"].as_str() {
        Some("end") => Some("complete"),
        Some("cancel") => Some("cancelled"),
        Some("error") => Some("error"),
        _ => None,
    };
    (0, value["text"].as_str().unwrap_or(""), end)
}

fn channel(message: &rdkafka::message::OwnedMessage) -> Option<String> {
    use rdkafka::message::Headers;
    let headers = message.headers()?;
    let channel = headers.iter().find(|header| header.key == "channel")?;
    Some(String::from_utf8_lossy(channel.value?).into_owned())
}

async fn verdict(sin: Sin) -> Summary {
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).expect("is after 1970").as_nanos() as u64;
    let options = Options {
        listen: ([127, 0, 0, 1], 0).into(),
        headless: true,
        responses: 30,
        seed,
        faults: String::new(),
        pattern: None,
        transport: None,
        speed: Some(1_000.0),
        open: None,
    };
    let patience =
        Patience { results: Duration::from_secs(2), readers: Duration::from_secs(1), late: Duration::from_secs(1) };
    let summary =
        run(&options, Scenario::default(), patience, |site, stopped| pretend(site, sin, stopped)).await.expect("runs");
    assert_eq!(summary.responses, 30, "{summary:?}");
    summary
}

#[tokio::test]
async fn the_right_texts_are_right() {
    let summary = verdict(Sin::None).await;
    assert!(summary.is_right(), "{summary:?}");
}

#[tokio::test]
async fn wrong_texts_are_counted() {
    for sin in [Sin::DropsAToken, Sin::ForgetsTheEnd, Sin::PublishesTwice] {
        let summary = verdict(sin).await;
        assert!(summary.wrong_texts >= 3 && !summary.is_right(), "{sin:?}: {summary:?}");
        assert_eq!((summary.wrong_live, summary.wrong_history), (summary.wrong_texts, summary.wrong_texts), "{sin:?}");
        assert_eq!(summary.missing_results, 0, "{sin:?}: {summary:?}");
    }
}

#[tokio::test]
async fn wrong_books_are_counted() {
    for sin in [Sin::OmitsTheResult, Sin::ReportsTwice, Sin::SkipsASequence, Sin::LiesInTheHash] {
        let summary = verdict(sin).await;
        assert_eq!(summary.wrong_texts, 0, "{sin:?}: {summary:?}");
        let count = match sin {
            Sin::ReportsTwice => summary.surplus_results,
            Sin::LiesInTheHash => summary.wrong_hashes,
            _ => summary.missing_results,
        };
        assert!(count >= 3 && !summary.is_right(), "{sin:?}: {summary:?}");
    }
}
