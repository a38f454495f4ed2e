//! The relay with its configuration file, and Ably's REST API as any reader uses it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tempfile::TempDir;
use tokenrelay::config::{self, Kafka};
use tokenrelay::pipeline::{self, Stop};
use tokenrelay::telemetry::{Health, Metrics};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::KEY;

/// A relay that runs.
pub(super) struct Relay {
    task: JoinHandle<Result<(), pipeline::Error>>,
    stop: watch::Sender<Stop>,
    health: Health,
    folder: TempDir,
}

impl Relay {
    pub(super) fn with(kafka: &Kafka, ably: SocketAddr, delivery: &str) -> Self {
        Self::set(kafka, ably, &[&format!("results.delivery={delivery}")])
    }

    /// With settings of its own, as flags give them.
    pub(super) fn set(kafka: &Kafka, ably: SocketAddr, flags: &[&str]) -> Self {
        // Only the first of several tests gets to install it.
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let (folder, file) = settings(kafka, ably, KEY);
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let config = config::load(&config::Source { file: Some(file), flags, ..Default::default() }).expect("config");
        let (stop, stopped) = watch::channel(Stop::No);
        let health = Health::new();
        let task = tokio::spawn(pipeline::run(Arc::new(config), Metrics::new(), health.clone(), stopped));
        Self { task, stop, health, folder }
    }

    /// Fails if it has ended.
    pub(super) fn check_alive(&mut self) {
        if self.task.is_finished() {
            panic!("the relay has ended with {:?}", (&mut self.task).now_or_never());
        }
    }

    /// Why it is not ready, if it is not.
    pub(super) fn reasons(&self) -> String {
        format!("{:?}", self.health.reasons())
    }

    /// Ends it in the middle of whatever it is doing.
    pub(super) async fn kill(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it was alive");
    }

    /// Stops it in order.
    pub(super) async fn stop(self) {
        self.stop.send(Stop::Drain).expect("alive");
        let done = tokio::time::timeout(Duration::from_secs(60), self.task).await;
        done.expect("in time").expect("no panic").expect("drained");
        drop(self.folder);
    }
}

/// A folder with a configuration file and the key that it names.
pub(crate) fn settings(kafka: &Kafka, ably: SocketAddr, key: &str) -> (TempDir, PathBuf) {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("key"), key).expect("written");
    std::fs::write(path("config.toml"), config(kafka, ably, &path("key").display().to_string())).expect("written");
    let file = path("config.toml");
    (folder, file)
}

fn config(kafka: &Kafka, ably: SocketAddr, key_file: &str) -> String {
    let Kafka { bootstrap_servers, group_id, tokens_topic, results_topic, dead_letters_topic, librdkafka, .. } = kafka;
    let librdkafka: String = librdkafka.iter().map(|(key, value)| format!("{key:?} = {value:?}\n")).collect();
    let (host, port) = (ably.ip(), ably.port());
    format!(
        r#"
        [kafka]
        bootstrap_servers = "{bootstrap_servers}"
        group_id = "{group_id}"
        tokens_topic = "{tokens_topic}"
        results_topic = "{results_topic}"
        dead_letters_topic = "{dead_letters_topic}"
        start = "earliest"
        session_timeout = "6s"
        [kafka.librdkafka]
        {librdkafka}
        [ably]
        key_file = "{key_file}"
        endpoint = "{host}"
        port = {port}
        tls = false
        append_rollup = "0ms"
        channels.allow = ["ai:*"]
        connections.max = 4
        ack_timeout = "2s"
        [admin]
        listen = "127.0.0.1:0"
        [log]
        format = "text"
        "#
    )
}

/// What a reader finds on a channel with one message.
pub(crate) struct OnChannel {
    pub(crate) text: String,
    pub(crate) status: String,
}

pub(crate) async fn message(ably: SocketAddr, channel: &str) -> OnChannel {
    let messages = messages(ably, channel).await;
    let [message] = &messages[..] else { panic!("one message on {channel}, not {}", messages.len()) };
    OnChannel {
        text: message["data"].as_str().unwrap_or_default().to_owned(),
        status: message["extras"]["headers"]["status"].as_str().unwrap_or_default().to_owned(),
    }
}

pub(crate) async fn messages(ably: SocketAddr, channel: &str) -> Vec<serde_json::Value> {
    get(ably, &format!("{}/messages?limit=1000", utf8_percent_encode(channel, NON_ALPHANUMERIC))).await
}

/// Everything that a message has ever been.
pub(crate) async fn versions(ably: SocketAddr, channel: &str, serial: &str) -> Vec<serde_json::Value> {
    let [channel, serial] = [channel, serial].map(|part| utf8_percent_encode(part, NON_ALPHANUMERIC));
    get(ably, &format!("{channel}/messages/{serial}/versions")).await
}

async fn get(ably: SocketAddr, path: &str) -> Vec<serde_json::Value> {
    let (name, secret) = KEY.split_once(':').expect("a key");
    let request = reqwest::Client::new()
        .get(format!("http://{ably}/channels/{path}"))
        .basic_auth(name, Some(secret))
        .header("accept", "application/json");
    let response = request.send().await.expect("an answer");
    assert!(response.status().is_success(), "{path}: {}", response.status());
    response.json().await.expect("messages")
}
