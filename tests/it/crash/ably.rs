//! Ably's place: the emulator in a process of its own, and an ordinary ably-js that is connected all the time.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokenrelay::emulator::Faults;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::load::{self, Response};
use super::way::Way;
use crate::e2e::KEY;
use crate::sdk::subscriber::{self, Subscriber};
use crate::world::PATIENCE;

/// Where the reader is told that nothing more will come.
const LAST_WORD: &str = "ai:last-word";
/// What is left of it for text is less than the longer responses have.
const MESSAGE_MAX: &str = "1800B";
/// The reader has less patience than a broker that is away needs.
const SILENCE: Duration = Duration::from_secs(20);

/// The emulator.
pub(super) struct Ably {
    _child: Child,
    pub(super) address: SocketAddr,
    client: reqwest::Client,
}

impl Ably {
    pub(super) async fn start() -> Self {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
        command.args(["emulator", "--listen", "127.0.0.1:0", "--key", KEY, "--max-message-size", MESSAGE_MAX]);
        command.kill_on_drop(true);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it runs");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("ready in time").expect("text").expect("a line");
        let address = line.rsplit(' ').next().and_then(|address| address.parse().ok()).expect("its address");
        Self { _child: child, address, client: reqwest::Client::new() }
    }

    /// Fails so from now on.
    pub(super) async fn fail(&self, faults: &Faults) {
        let request = self.client.put(format!("http://{}/emulator/faults", self.address)).json(faults);
        request.send().await.expect("asked").error_for_status().expect("taken");
    }

    pub(super) async fn stats(&self) -> Value {
        let request = self.client.get(format!("http://{}/emulator/stats", self.address));
        request.send().await.expect("asked").json().await.expect("counters")
    }

    async fn say_last_word(&self) {
        let channel = utf8_percent_encode(LAST_WORD, NON_ALPHANUMERIC);
        let (name, secret) = KEY.split_once(':').expect("a key");
        let request = self.client.post(format!("http://{}/channels/{channel}/messages", self.address));
        let request = request.basic_auth(name, Some(secret)).json(&serde_json::json!({"data": "That is all."}));
        request.send().await.expect("asked").error_for_status().expect("published");
    }
}

/// What a reader holds of a response, in one message.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    channel: String,
    segment: u32,
    text: String,
    status: String,
}

/// Whether messages say what a response should.
fn says(messages: &[Held], response: &Response) -> bool {
    let text: String = messages.iter().map(|held| held.text.as_str()).collect();
    let Some((last, before)) = messages.split_last() else { return false };
    let follow = messages.iter().zip(0..).all(|(held, n)| held.segment == n && held.channel == response.channel);
    let go_on = before.iter().all(|held| held.status == "continued");
    follow && go_on && last.status == response.status() && text == response.text()
}

/// A response as the reader for front ends shows it.
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    response_id: String,
    text: String,
    status: String,
    complete: bool,
    gap: bool,
}

/// Fails for responses that are not shown as they should be.
fn check_shown(responses: Value, expected: &[Response]) {
    let channels: HashMap<String, Vec<Shown>> = serde_json::from_value(responses).expect("responses");
    let on = |channel: &str| channels.get(channel).into_iter().flatten();
    let shows = |response: &Response, shown: &Shown| {
        let is_over = shown.complete && !shown.gap && shown.status == response.status();
        is_over && shown.text == response.text()
    };
    let mut wrong = Vec::new();
    for response in expected {
        let shown: Vec<&Shown> = on(&response.channel).filter(|shown| shown.response_id == response.id).collect();
        if !matches!(&shown[..], [shown] if shows(response, shown)) {
            wrong.push((response, shown));
        }
    }
    assert!(wrong.is_empty(), "{} are shown otherwise: {:#?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    let shown: usize = channels.values().map(Vec::len).sum();
    assert_eq!(shown, expected.len(), "what nobody has produced is shown");
}

/// Fails for responses whose messages are not as they should be.
fn check_messages(messages: &[(&str, &Value)], responses: &[Response]) {
    let mut held: HashMap<String, Vec<Held>> = HashMap::new();
    for (channel, message) in messages.iter().filter(|(_, message)| header(message, "status") != "superseded") {
        held.entry(header(message, "responseId").to_owned()).or_default().push(Held {
            channel: (*channel).to_owned(),
            segment: header(message, "segment").parse().unwrap_or(u32::MAX),
            text: message["text"].as_str().unwrap_or_default().to_owned(),
            status: header(message, "status").to_owned(),
        });
    }
    let mut wrong = Vec::new();
    for response in responses {
        let mut holds = held.remove(&response.id).unwrap_or_default();
        holds.sort_by_key(|held| held.segment);
        if !says(&holds, response) {
            wrong.push((response, holds));
        }
    }
    assert!(wrong.is_empty(), "the reader holds {} otherwise: {:#?}", wrong.len(), &wrong[..wrong.len().min(3)]);
}

fn header<'a>(message: &'a Value, name: &str) -> &'a str {
    message["headers"][name].as_str().unwrap_or_default()
}

/// The reader.
pub(super) struct Reader(JoinHandle<subscriber::Held>);

impl Reader {
    pub(super) async fn start(ably: &Ably) -> Self {
        let channels: Vec<String> = load::channels().chain([LAST_WORD.to_owned()]).collect();
        let names: Vec<&str> = channels.iter().map(String::as_str).collect();
        let mut subscriber = Subscriber::start(ably.address, KEY, "msgpack", &names).await;
        Self(tokio::spawn(async move {
            loop {
                match timeout(SILENCE, subscriber.next()).await {
                    Ok(event) if event["channel"] == LAST_WORD => return subscriber.finish().await,
                    Ok(_) | Err(_) => {}
                }
            }
        }))
    }

    /// Compares what it holds with what was said. Everything must have been settled.
    pub(super) async fn check(self, ably: &Ably, way: Way, responses: &[Response]) {
        ably.say_last_word().await;
        let held = timeout(PATIENCE, self.0).await.expect("it reads in time").expect("it lives");
        let channels = held.texts.as_object().expect("channels").iter();
        let messages: Vec<(&str, &Value)> = channels
            .flat_map(|(channel, messages)| {
                messages.as_object().expect("messages").values().map(move |message| (&**channel, message))
            })
            .filter(|(channel, _)| *channel != LAST_WORD)
            .collect();
        let is_further = |(_, message): &&(&str, &Value)| !["", "0"].contains(&header(message, "segment"));
        assert!(messages.iter().any(|message| is_further(&message)), "no text was longer than a message");
        check_shown(held.responses, responses);
        if !way.per_token {
            check_messages(&messages, responses);
        }
    }
}
