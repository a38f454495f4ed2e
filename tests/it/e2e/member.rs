//! Members of one group, each a process of its own as in production: what they share is the broker and the channels.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokenrelay::config::Kafka;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::{KEY, relay};
use crate::world::PATIENCE;

/// A process that relays. What it has written stays where a test has failed.
pub(crate) struct Member {
    child: Child,
    log: PathBuf,
    folder: TempDir,
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("a relay's log: {}", self.log.display());
        }
    }
}

impl Member {
    /// Starts one with these settings.
    pub(crate) fn start(kafka: &Kafka, ably: SocketAddr, settings: &[&str]) -> Self {
        let (folder, file) = relay::settings(kafka, ably, KEY);
        let log = folder.path().join("log");
        let open = || File::options().create(true).append(true).open(&log).expect("a file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
        command.env_remove("RUST_LOG").kill_on_drop(true).arg("run").arg("--config").arg(file);
        for setting in ["log.format=json"].iter().chain(settings) {
            command.args(["--set", setting]);
        }
        let child = command.stdin(Stdio::null()).stdout(open()).stderr(open()).spawn().expect("it runs");
        Self { child, log, folder }
    }

    /// Lines of the log that say this.
    pub(crate) fn said(&self, words: &str) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(words));
        lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits until the log has so many lines that say this.
    pub(crate) async fn says(&mut self, words: &str, times: usize) {
        let said = async {
            while self.said(words).len() < times {
                let ended = self.child.try_wait().expect("it is ours");
                assert!(ended.is_none(), "it has ended:\n{}", self.log());
                sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = timeout(PATIENCE, said).await.is_ok();
        assert!(in_time, "not {times} times {words:?}:\n{}", self.log());
    }

    /// What it measures.
    pub(crate) async fn metrics(&mut self) -> String {
        self.page("metrics").await
    }

    /// Whether it is ready, and why not.
    pub(crate) async fn ready(&mut self) -> String {
        self.page("readyz").await
    }

    /// Waits until it is ready.
    pub(crate) async fn becomes_ready(&mut self) {
        self.shows("readyz", |page| page.contains("\"ready\":true")).await;
    }

    /// Waits until a page of its admin port shows this.
    pub(crate) async fn shows(&mut self, page: &str, what: impl Fn(&str) -> bool) {
        let shows = async {
            while !what(&self.page(page).await) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let in_time = timeout(PATIENCE, shows).await.is_ok();
        assert!(in_time, "{page} does not show it:\n{}", self.log());
    }

    async fn page(&mut self, name: &str) -> String {
        self.says("starting", 1).await;
        let address = self.said("starting")[0]["admin"].as_str().expect("an address").to_owned();
        let answer = reqwest::get(format!("http://{address}/{name}")).await.expect("an answer");
        answer.text().await.expect("a body")
    }

    /// Waits until it has had operations taken.
    pub(crate) async fn carries(&mut self) {
        self.shows("metrics", |page| !page.lines().any(|line| line == "tokenrelay_tokens_carried_total 0")).await;
    }

    /// Waits until it has a partition.
    pub(crate) async fn joins(&mut self) {
        self.says("partition assigned", 1).await;
    }

    /// Stops it in order.
    pub(crate) async fn stop(mut self) {
        let ended = self.end("TERM").await;
        assert!(ended.success(), "{ended}:\n{}", self.log());
    }

    /// Ends it in the middle of whatever it is doing.
    pub(crate) async fn kill(mut self) {
        let ended = self.end("KILL").await;
        assert_eq!(ended.code(), None, "it was alive:\n{}", self.log());
    }

    /// Sends a signal that ends it, and waits for that.
    pub(crate) async fn end(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal).await;
        self.ends().await
    }

    /// Waits until it has ended.
    pub(crate) async fn ends(&mut self) -> ExitStatus {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end:\n{}", self.log())).expect("it was ours")
    }

    /// Sends a signal.
    pub(crate) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it lives").to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await.expect("kill runs");
        assert!(sent.success(), "{sent}");
    }

    /// Fails if it has ended by itself.
    pub(crate) fn check_alive(&mut self) {
        let ended = self.child.try_wait().expect("it is ours");
        assert!(ended.is_none(), "it has ended with {ended:?}:\n{}", self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }
}
