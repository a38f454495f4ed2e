//! The program with its configuration file, to its end or as a service.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokenrelay::config::Kafka;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::e2e::{KEY, relay};
use crate::world::PATIENCE;

/// How the program has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl Ended {
    /// It ended so, with this one message, which says all of that.
    pub(super) fn with(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let [message] = &self.err.lines().collect::<Vec<_>>()[..] else { panic!("not one message: {self:?}") };
        let said = message.strip_prefix("tokenrelay: ").unwrap_or_else(|| panic!("not ours: {self:?}"));
        for words in says {
            assert!(said.contains(words), "nothing of {words:?}: {said}");
        }
        // Not twice, neither in itself nor in the log.
        for (at, _) in said.match_indices(": ") {
            assert!(!said[..at].contains(&said[at + 2..]), "{said}");
        }
        for line in self.out.lines() {
            let logged: Value = serde_json::from_str(line).unwrap_or_default();
            assert!(logged["level"] != "ERROR", "{line}");
        }
        self.keeps_secrets();
    }

    /// It says nothing of what it was given to prove who it is.
    pub(super) fn keeps_secrets(&self) {
        let all = format!("{self:?}");
        assert!(!all.contains(KEY) && !all.contains("hunter"), "{all}");
    }
}

/// Runs the program to its end.
pub(super) async fn run(arguments: &[&str]) -> Ended {
    let mut command = command();
    command.args(arguments).stdin(Stdio::null());
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments:?} does not end")).expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    Ended { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Nothing of this machine's settings.
fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tokenrelay"));
    command.env_remove("RUST_LOG").kill_on_drop(true);
    command
}

/// A configuration file.
pub(super) struct Setup {
    _folder: TempDir,
    file: PathBuf,
}

impl Setup {
    pub(super) fn new(kafka: &Kafka, ably: SocketAddr) -> Self {
        Self::with_key(kafka, ably, KEY)
    }

    pub(super) fn with_key(kafka: &Kafka, ably: SocketAddr, key: &str) -> Self {
        let (folder, file) = relay::settings(kafka, ably, key);
        Self { _folder: folder, file }
    }

    /// Runs a command with this file and these settings.
    pub(super) async fn run(&self, command: &str, settings: &[&str], more: &[&str]) -> Ended {
        let arguments = self.arguments(command, settings);
        run(&arguments.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>()).await
    }

    fn arguments(&self, command: &str, settings: &[&str]) -> Vec<String> {
        let mut arguments = vec![command.to_owned(), "--config".to_owned(), self.file.display().to_string()];
        for setting in ["log.format=json"].iter().chain(settings) {
            arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        arguments
    }

    /// Starts the service.
    pub(super) async fn serve(self, settings: &[&str]) -> Service {
        let mut command = command();
        command.args(self.arguments("run", settings)).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let log = read(child.stdout.take().expect("it is piped"));
        let mut service = Service { child, log, admin: String::new(), said: String::new(), _setup: self };
        let starting = service.logged("starting").await;
        service.admin = starting["admin"].as_str().expect("an address").to_owned();
        service
    }
}

/// Lines as they are printed, whoever waits for them when: a pipe that nobody reads would stop the program.
fn read(out: ChildStdout) -> mpsc::UnboundedReceiver<String> {
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut lines = BufReader::new(out).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The service as its supervisor sees it.
pub(super) struct Service {
    child: Child,
    log: mpsc::UnboundedReceiver<String>,
    admin: String,
    said: String,
    _setup: Setup,
}

impl Service {
    /// Waits until the log says this, and gives that line.
    pub(super) async fn logged(&mut self, words: &str) -> Value {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.log.recv()).await;
            let line = line.unwrap_or_else(|_| panic!("nothing of {words:?}:\n{}", self.said));
            let line = line.unwrap_or_else(|| panic!("it ended without {words:?}:\n{}", self.said));
            self.said += &format!("{line}\n");
            if line.contains(words) {
                return serde_json::from_str(&line).expect("a line of the log is JSON");
            }
        }
    }

    /// Status and body of a page of the admin server.
    pub(super) async fn get(&self, path: &str) -> (u16, String) {
        let _already = rustls::crypto::ring::default_provider().install_default();
        let answer = reqwest::get(format!("http://{}{path}", self.admin)).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    /// Sends it a signal.
    pub(super) async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it lives").to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await.expect("kill runs");
        assert!(sent.success(), "{sent}");
    }

    /// Waits for its end.
    pub(super) async fn ended(mut self) -> Ended {
        while let Ok(Some(line)) = tokio::time::timeout(PATIENCE, self.log.recv()).await {
            self.said += &format!("{line}\n");
        }
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("it does not end:\n{}", self.said)).expect("it was ours");
        let mut err = String::new();
        self.child.stderr.take().expect("it is piped").read_to_string(&mut err).await.expect("text");
        Ended { code: status.code(), out: self.said, err }
    }
}
