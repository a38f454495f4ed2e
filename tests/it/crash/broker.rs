//! A Kafka of one test's own, which may be stopped and started again.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::process::Command;

/// For the first start on a machine, which may fetch the broker.
const PATIENCE: Duration = Duration::from_secs(600);

/// A broker.
pub(super) struct Broker {
    folder: TempDir,
    pub(super) servers: String,
}

impl Broker {
    pub(super) async fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let said = server("start", folder.path()).await;
        let line = said.lines().find_map(|line| line.strip_prefix("export TOKENRELAY_TEST_KAFKA="));
        Self { servers: line.expect("its address").to_owned(), folder }
    }

    pub(super) async fn stop(&self) {
        server("stop", self.folder.path()).await;
    }

    /// How often it has said that in its log.
    pub(super) fn said(&self, words: &str) -> usize {
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).expect("a log");
        log.lines().filter(|line| line.contains(words)).count()
    }

    /// Starts it where it was.
    pub(super) async fn again(&self) {
        server("again", self.folder.path()).await;
    }
}

impl Drop for Broker {
    /// Its log goes with its folder; when a test fails its last lines may say why.
    fn drop(&mut self) {
        const LAST: usize = 40;
        if std::thread::panicking()
            && let Ok(log) = std::fs::read_to_string(self.folder.path().join("server.log"))
        {
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the broker's last words:\n{}", lines[lines.len().saturating_sub(LAST)..].join("\n"));
        }
        let mut command = std::process::Command::new(script());
        let _ended = command.arg("stop").arg(self.folder.path()).stdin(Stdio::null()).status();
    }
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/server")
}

async fn server(verb: &str, folder: &Path) -> String {
    let mut command = Command::new(script());
    command.arg(verb).arg(folder).stdin(Stdio::null()).stdout(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    let ended = ended.unwrap_or_else(|_| panic!("tests/kafka/server {verb} hangs")).expect("it runs");
    assert!(ended.status.success(), "tests/kafka/server {verb}: {}", ended.status);
    String::from_utf8(ended.stdout).expect("text")
}
