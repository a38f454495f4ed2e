//! The audit: finds nothing where everything is right, whatever failed on the way, and finds each defect that is planted.
//!
//! Defects are planted in copies of what a real relay has written: a record left out, doubled or changed.

use std::collections::HashMap;
use std::net::SocketAddr;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use tokenrelay::audit::{self, Kind, Report, Request};
use tokenrelay::config::{self, Config, Delivery};
use tokenrelay::emulator::{self, Emulator, Faults};
use tokenrelay::pipeline;

use super::relay::Relay;
use super::story::Story;
use super::{KEY, relay, results};
use crate::world::{PATIENCE, Seen, World, servers};

pub(super) mod lives;

/// Whatever goes wrong on the way to Ably.
fn faults() -> Faults {
    Faults { reject: 0.1, lose_ack: 0.02, skip_ack: 0.02, drop: 0.01, refuse_resume: 0.5, seed: 9, ..Faults::default() }
}

/// What a relay has left behind.
struct Scene {
    world: World,
    ably: Emulator,
    story: Story,
    results: Vec<Seen>,
    letters: Vec<Seen>,
}

impl Scene {
    /// Plays a story and two records that cannot be relayed, and stops the relay when all of it is settled.
    async fn play(count: usize, delivery: &str) -> Self {
        Self::play_and(count, delivery, async |_, _| {}).await
    }

    /// The same, with something more in the end, when nothing fails any longer.
    async fn play_and(count: usize, delivery: &str, more: impl AsyncFnOnce(&World, &mut Relay)) -> Self {
        let world = World::new(2, 2, 1).await;
        let config = emulator::Config { keys: vec![KEY.to_owned()], faults: faults(), ..emulator::Config::default() };
        let ably = emulator::start(config).await.expect("an emulator");
        let mut relay = Relay::with(&world.settings, ably.local_addr(), delivery);
        let story = Story::new(11, count);
        world.send(0, Some(b"x"), Some(b"no event"), &[("own", Some(b"\xff"))]);
        story.produce(&world).await;
        let late = &story.responses()[0];
        world.send(0, Some(late.id.as_bytes()), Some(br#"{"type":"token","text":"late"}"#), &[]);
        world.flush();
        results::wait(&world, &mut relay, story.responses().len()).await;
        let letters = tokio::task::block_in_place(|| world.read(&world.settings.dead_letters_topic, 2));
        ably.set_faults(Faults::default());
        more(&world, &mut relay).await;
        relay.stop().await;
        let results = tokio::task::block_in_place(|| world.read_all(&world.settings.results_topic));
        Self { world, ably, story, results, letters }
    }

    /// Audits with other topics in the place of ours.
    async fn audit(&self, change: impl FnOnce(&mut Config, &mut Request)) -> Report {
        let mut config = config_of(&self.world, self.ably.local_addr());
        let mut request = Request { kept_max: 100, ..Request::default() };
        change(&mut config, &mut request);
        let decoder = pipeline::decoder(&config).expect("a decoder");
        audit::run(request, &config, decoder).await.expect("a verdict")
    }

    /// Audits a copy that is changed on the way.
    async fn audit_copy(&self, name: &str, which: Which, change: impl FnOnce(&mut Vec<Seen>)) -> Vec<Kind> {
        let copy = self.copy(name, which, change).await;
        let report = self.audit(|config, _| match which {
            Which::Results => config.kafka.results_topic = copy,
            Which::Letters => config.kafka.dead_letters_topic = copy,
        });
        kinds(&report.await)
    }

    /// A copy of the results, or of the dead letters.
    async fn copy(&self, name: &str, which: Which, change: impl FnOnce(&mut Vec<Seen>)) -> String {
        let (original, partitions, records) = match which {
            Which::Results => (&self.world.settings.results_topic, 2, &self.results),
            Which::Letters => (&self.world.settings.dead_letters_topic, 1, &self.letters),
        };
        let copy = format!("{original}-{name}");
        self.world.create(&copy, partitions, &[]).await;
        let mut records = records.clone();
        change(&mut records);
        tokio::task::block_in_place(|| write_all(&copy, &records));
        copy
    }

    /// The message of each response.
    async fn messages(&self) -> Vec<Value> {
        let mut messages = Vec::new();
        for response in self.story.responses() {
            messages.extend(relay::messages(self.ably.local_addr(), &response.channel()).await);
        }
        messages
    }

    /// Changes the message of a response as anybody with the key may.
    async fn mutate(&self, response: usize, action: u8, mut change: Value) {
        let serial = self.messages().await[response]["serial"].as_str().expect("a serial").to_owned();
        change["action"] = json!(action);
        let path = format!("messages/{}", utf8_percent_encode(&serial, NON_ALPHANUMERIC));
        self.request(reqwest::Method::PATCH, response, &path, &change).await;
    }

    /// Publishes to the channel of a response.
    async fn publish(&self, response: usize, message: Value) {
        self.request(reqwest::Method::POST, response, "messages", &message).await;
    }

    async fn request(&self, method: reqwest::Method, response: usize, path: &str, body: &Value) {
        let channel = self.story.responses()[response].channel();
        let channel = utf8_percent_encode(&channel, NON_ALPHANUMERIC);
        let (name, secret) = KEY.split_once(':').expect("a key");
        let url = format!("http://{}/channels/{channel}/{path}", self.ably.local_addr());
        let request = reqwest::Client::new().request(method, url).basic_auth(name, Some(secret)).json(body);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{}", answer.text().await.unwrap_or_default());
    }
}

/// A response whose every event is an operation, however slow the machine: each waits for the result of the one before.
async fn one_by_one(world: &World, relay: &mut Relay) {
    let token = |text: &str| json!({"type": "token", "text": text});
    let mut tail = world.tail(&world.settings.results_topic);
    for event in [token("a"), token("b"), token("c"), json!({"type": "end"})] {
        world.send(0, Some(b"one-by-one"), Some(event.to_string().as_bytes()), &[]);
        world.flush();
        tokio::task::block_in_place(|| {
            while tail.next(PATIENCE).expect("a result").key.as_deref() != Some(b"one-by-one") {
                relay.check_alive();
            }
        });
    }
}

#[derive(Clone, Copy)]
enum Which {
    Results,
    Letters,
}

pub(super) fn config_of(world: &World, ably: SocketAddr) -> Config {
    let mut config = Config { kafka: world.settings.clone(), ..Config::default() };
    config.ably.key = Some(config::Secret::new(KEY.to_owned()));
    config.ably.endpoint = ably.ip().to_string();
    config.ably.port = ably.port();
    config.ably.tls = false;
    config.ably.channels.allow = vec!["ai:*".to_owned()];
    config
}

/// The kinds of difference, each once.
fn kinds(report: &Report) -> Vec<Kind> {
    assert_eq!(report.clean, report.differences_by_kind.is_empty());
    report.differences_by_kind.keys().copied().collect()
}

fn write_all(topic: &str, records: &[Seen]) {
    let producer: BaseProducer = ClientConfig::new().set("bootstrap.servers", servers()).create().expect("a producer");
    for seen in records {
        let headers = seen
            .headers
            .iter()
            .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: value.as_deref() }));
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(topic).partition(seen.partition).headers(headers);
        record.key = seen.key.as_deref();
        record.payload = seen.value.as_deref();
        producer.send(record).expect("queued");
    }
    producer.flush(PATIENCE).expect("the broker has it");
}

fn json_of(seen: &Seen) -> Value {
    serde_json::from_slice(seen.value.as_deref().unwrap_or_default()).expect("a result")
}

fn first(_: &[Seen]) -> usize {
    0
}

/// The first result of a response of which nothing failed.
fn response(records: &[Seen]) -> usize {
    records.iter().position(|seen| json_of(seen)["outcome"] == "delivered").expect("there is one")
}

/// A later operation of a response of which nothing failed, which carries text that no other carries and is not the last.
fn append(records: &[Seen]) -> usize {
    let mut operations = HashMap::new();
    for record in records.iter().filter(|seen| seen.header("outcome") == Some("delivered")).map(json_of) {
        // On another connection a message begins with its full text, though nothing failed.
        if record["repairs"] == 0 {
            operations.insert(record["responseId"].to_string(), record["operations"].as_u64());
        }
    }
    let is_it = |record: Value| {
        let of = operations.get(&record["responseId"].to_string()).copied().flatten();
        let seq = record["opSeq"].as_u64().filter(|seq| *seq > 0);
        record["bytes"].as_u64() > Some(0) && seq.zip(of).is_some_and(|(seq, of)| seq + 1 < of)
    };
    records.iter().position(|seen| is_it(json_of(seen))).expect("there is one")
}

fn set(seen: &mut Seen, pointer: &str, value: Value) {
    let mut record = json_of(seen);
    *record.pointer_mut(pointer).expect("a field") = value;
    seen.value = Some(record.to_string().into_bytes());
}

fn add(seen: &mut Seen, pointer: &str, more: i64) {
    let is = json_of(seen).pointer(pointer).and_then(Value::as_i64).expect("a number");
    set(seen, pointer, json!(is + more));
}

fn rename(seen: &mut Seen) {
    set(seen, "/responseId", json!("nobody"));
    seen.key = Some(b"nobody".to_vec());
}

fn garble(seen: &mut Seen) {
    seen.value.as_mut().expect("a value")[0] ^= 1;
}

fn header(seen: &mut Seen, name: &str, value: &str) {
    let (_, is) = seen.headers.iter_mut().find(|(key, _)| key == name).expect("a header");
    *is = Some(value.as_bytes().to_vec());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_relay_leaves_behind_is_clean_whatever_failed() {
    for (delivery, mode) in [("exactly-once", Delivery::ExactlyOnce), ("at-least-once", Delivery::AtLeastOnce)] {
        let scene = Scene::play(40, delivery).await;
        let report = scene
            .audit(|config, request| {
                config.results.delivery = mode;
                (request.ably, request.at_rest) = (true, true);
            })
            .await;
        assert_eq!(report.differences, []);
        let counts = report.counts;
        assert_eq!((counts.settled, counts.open, counts.pending, counts.unverifiable), (40, 0, 0, 0));
        assert_eq!((counts.letters, counts.responses, counts.messages, counts.failed), (2, 40, 40, 0));
        assert!(counts.operations > counts.responses && counts.events > counts.operations, "{counts:?}");
    }
}

/// A name, which record, what is done to it in a copy, and what must be found.
type Defect = (&'static str, fn(&[Seen]) -> usize, Plant, &'static [Kind]);

#[derive(Clone, Copy)]
enum Plant {
    Nothing,
    Remove,
    Double,
    Change(fn(&mut Seen)),
}

impl Plant {
    fn put(self, records: &mut Vec<Seen>, at: usize) {
        match self {
            Self::Nothing => {}
            Self::Remove => drop(records.remove(at)),
            Self::Double => records.push(records[at].clone()),
            Self::Change(change) => change(&mut records[at]),
        }
    }
}

const IN_RESULTS: &[Defect] = &[
    ("as-it-is", first, Plant::Nothing, &[]),
    ("response-removed", response, Plant::Remove, &[Kind::ResponseMissing]),
    // An operation that is not there covers nothing.
    ("operation-removed", append, Plant::Remove, &[Kind::OperationMissing, Kind::OffsetUncovered]),
    ("response-doubled", response, Plant::Double, &[Kind::ResponseTwice]),
    ("operation-doubled", append, Plant::Double, &[Kind::OperationTwice]),
    ("offset-skipped", append, Plant::Change(|seen| add(seen, "/covered/first", 1)), &[Kind::OffsetUncovered]),
    ("offset-again", append, Plant::Change(|seen| set(seen, "/covered/first", json!(0))), &[Kind::CoveredOverlaps]),
    ("token-more", response, Plant::Change(|seen| add(seen, "/tokens", 1)), &[Kind::TokensWrong]),
    ("hash", response, Plant::Change(|seen| set(seen, "/textSha256", json!("0".repeat(64)))), &[Kind::TextWrong]),
    ("rejected", response, Plant::Change(|seen| add(seen, "/rejected", 1)), &[Kind::CountsWrong]),
    ("outcome", response, Plant::Change(|seen| set(seen, "/outcome", json!("cancelled"))), &[Kind::OutcomeWrong]),
    ("failed", response, Plant::Change(|seen| set(seen, "/outcome", json!("failed"))), &[Kind::ReasonMissing]),
    ("channel", append, Plant::Change(|seen| set(seen, "/channel", json!("ai:other"))), &[Kind::ChannelWrong]),
    ("begins", response, Plant::Change(|seen| add(seen, "/covered/first", 1)), &[Kind::CoveredWrong]),
    ("id", response, Plant::Change(rename), &[Kind::ResponseMissing, Kind::ResultUnexplained]),
    ("unreadable", response, Plant::Change(garble), &[Kind::ResponseMissing, Kind::ResultUnreadable]),
    ("epoch", first, Plant::Change(|seen| add(seen, "/epoch", 1)), &[Kind::EpochFalls]),
];

const IN_LETTERS: &[Defect] = &[
    ("as-it-is", first, Plant::Nothing, &[]),
    ("removed", first, Plant::Remove, &[Kind::LetterMissing]),
    ("doubled", first, Plant::Double, &[Kind::LetterTwice]),
    ("changed", first, Plant::Change(garble), &[Kind::LetterChanged]),
    ("other-header", first, Plant::Change(|seen| seen.headers[0].1 = None), &[Kind::LetterChanged]),
    (
        "other-reason",
        first,
        Plant::Change(|seen| header(seen, "tokenrelay.reason", "after-end")),
        &[Kind::LetterUnexplained],
    ),
    ("bare", first, Plant::Change(|seen| seen.headers.truncate(1)), &[]),
    (
        "of-another",
        first,
        Plant::Change(|seen| header(seen, "__connect.errors.offset", "5")),
        &[Kind::LetterMissing, Kind::LetterChanged, Kind::LetterUnexplained],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_defect_in_the_results_is_found() {
    let scene = Scene::play_and(30, "exactly-once", one_by_one).await;
    for (name, which, plant, expected) in IN_RESULTS {
        let planted = |records: &mut Vec<Seen>| plant.put(records, which(records));
        assert_eq!(scene.audit_copy(name, Which::Results, planted).await, *expected, "{name}");
    }
    // Who is content with results at least once is content with some of them twice.
    let doubled = |records: &mut Vec<Seen>| records.extend(records.clone());
    let topic = scene.copy("all-doubled", Which::Results, doubled).await;
    let report = scene
        .audit(|config, request| {
            config.kafka.results_topic = topic;
            request.at_least_once = true;
        })
        .await;
    assert_eq!(report.differences, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_defect_in_the_dead_letters_is_found() {
    let scene = Scene::play(5, "exactly-once").await;
    for (name, which, plant, expected) in IN_LETTERS {
        let planted = |records: &mut Vec<Seen>| plant.put(records, which(records));
        assert_eq!(scene.audit_copy(name, Which::Letters, planted).await, *expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_defect_on_a_channel_is_found() {
    let scene = Scene::play(6, "exactly-once").await;
    let messages = scene.messages().await;
    let text = |n: usize| messages[n]["data"].as_str().expect("a text").to_owned();
    let extras = |n: usize| messages[n]["extras"].clone();
    let with = |n: usize, name: &str, value: &str| {
        let mut extras = extras(n);
        extras["headers"][name] = json!(value);
        extras
    };
    scene.mutate(0, 1, json!({"data": text(0) + "!", "extras": extras(0)})).await;
    scene.mutate(1, 1, json!({"data": text(1), "extras": with(1, "status", "streaming")})).await;
    scene.mutate(2, 2, json!({})).await;
    let twin =
        with(3, "createId", &format!("{}~0", messages[3]["extras"]["headers"]["createId"].as_str().expect("a name")));
    scene.publish(3, json!({"name": "response", "data": text(3), "extras": twin})).await;
    let report = scene.audit(|_, request| request.ably = true).await;
    let found: Vec<_> =
        report.differences.iter().map(|difference| (difference.kind, difference.channel.clone())).collect();
    let channel = |n: usize| Some(scene.story.responses()[n].channel());
    let expected = [
        (Kind::MessageText, channel(0)),
        (Kind::MessageStatus, channel(1)),
        (Kind::MessageMissing, channel(2)),
        (Kind::MessageTwice, channel(3)),
    ];
    assert_eq!(found, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_audited_for_itself() {
    let scene = Scene::play(20, "exactly-once").await;
    for (from, to) in [(None, Some("60")), (Some("60"), None), (Some("40"), Some("0:90,1:70"))] {
        let bound = |text: Option<&str>| text.map(|text| text.parse().expect("a bound"));
        let report = scene
            .audit(|_, request| {
                (request.from, request.to, request.ably, request.at_rest) = (bound(from), bound(to), true, true);
            })
            .await;
        assert_eq!(report.differences, [], "{from:?} to {to:?}");
        assert!(report.counts.partial + report.counts.open > 0, "some are cut in two: {:?}", report.counts);
    }
    for (from, settled) in [("1h", 20), ("0s", 0)] {
        let from = from.parse().expect("a bound");
        let report = scene.audit(|_, request| (request.from, request.at_rest) = (Some(from), true)).await;
        assert_eq!((report.differences, report.counts.settled), (vec![], settled));
    }
    let report = scene.audit(|_, request| request.partitions = vec![1]).await;
    assert_eq!((report.ranges.len(), report.ranges[0].partition, report.clean), (1, 1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missing_before_it_is_due() {
    let world = World::new(1, 1, 1).await;
    let ably = SocketAddr::from(([127, 0, 0, 1], 1));
    for value in [r#"{"type":"token","text":"a"}"#, r#"{"type":"end"}"#, "no event"] {
        world.produce_raw(Some(b"r"), Some(value.as_bytes()), &[]);
    }
    let config = config_of(&world, ably);
    let audited = async |at_rest| {
        let request = Request { at_rest, kept_max: 9, ..Request::default() };
        audit::run(request, &config, pipeline::decoder(&config).expect("a decoder")).await.expect("a verdict")
    };
    let before = audited(false).await;
    assert_eq!((before.clean, before.counts.pending), (true, 2));
    assert_eq!(kinds(&audited(true).await), [Kind::ResponseMissing, Kind::LetterMissing]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_it_found_and_ends_accordingly() {
    let scene = Scene::play(3, "exactly-once").await;
    let run = |topic: &str, extra: &[&str]| {
        let config = config_of(&scene.world, scene.ably.local_addr());
        let kafka = &config.kafka;
        let settings = [
            format!("kafka.bootstrap_servers={}", kafka.bootstrap_servers),
            format!("kafka.group_id={}", kafka.group_id),
            format!("kafka.tokens_topic={}", kafka.tokens_topic),
            format!("kafka.results_topic={topic}"),
            format!("kafka.dead_letters_topic={}", kafka.dead_letters_topic),
            format!("ably.endpoint={}", config.ably.endpoint),
            format!("ably.port={}", config.ably.port),
            "ably.tls=false".to_owned(),
            "ably.channels.allow=ai:*".to_owned(),
        ];
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
        command.arg("audit").args(settings.iter().flat_map(|setting| ["--set", setting])).args(extra);
        let output =
            tokio::task::block_in_place(|| command.env("TOKENRELAY__ABLY__KEY", KEY).output()).expect("it runs");
        (
            output.status.code(),
            String::from_utf8(output.stdout).expect("text"),
            String::from_utf8(output.stderr).expect("text"),
        )
    };
    let results = scene.world.settings.results_topic.clone();
    let (code, out, errors) = run(&results, &["--ably", "--at-rest"]);
    assert_eq!((code, &*errors), (Some(0), ""), "{out}");
    assert!(out.ends_with("3 channels: 3 responses compared\nno differences\n"), "{out}");

    let empty = format!("{results}-empty");
    scene.world.create(&empty, 2, &[]).await;
    let (code, out, _) = run(&empty, &["--limit", "1"]);
    assert_eq!(code, Some(1), "{out}");
    assert!(out.starts_with("response-missing ") && out.ends_with("\n3 differences\n"), "{out}");
    let (code, out, _) = run(&empty, &["--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(
        (code, &report["clean"], &report["differencesByKind"]["response-missing"]),
        (Some(1), &json!(false), &json!(3))
    );
    let (code, _, errors) = run("not-there", &[]);
    assert_eq!(code, Some(78), "{errors}");
    assert!(errors.contains("not-there (kafka.results_topic) does not exist"), "{errors}");
    assert_eq!(run(&results, &["--from", "yesterday"]).0, Some(64));
}
