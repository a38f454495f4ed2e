//! An ordinary subscriber: an unmodified ably-js in a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{ably_js, program};

/// A subscriber that sees nothing for so long will see nothing more.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that subscribes to channels and tells each event as it comes.
pub(crate) struct Subscriber {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

/// What a subscriber holds.
pub(crate) struct Held {
    /// By channel and by serial: `text`, `action`, `name`, `version`, `headers`.
    pub(crate) texts: Value,
    /// By channel, as the reader for front ends puts them together: `responseId`, `part`, `text`, `status`, `complete`, `gap`.
    pub(crate) responses: Value,
}

impl Subscriber {
    /// Subscribes; when it is back, nothing on these channels will be missed.
    pub(crate) async fn start(server: SocketAddr, key: &str, format: &str, channels: &[&str]) -> Self {
        let mut node = Command::new("node");
        node.arg(program("subscriber.mjs")).env("ABLY_JS", ably_js().await);
        node.arg(server.ip().to_string()).arg(server.port().to_string()).args([key, format]).args(channels);
        node.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = node.spawn().expect("node can be run: use tests/run");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut subscriber = Self { child, lines };
        let first = subscriber.next().await;
        assert_eq!(first["attached"], channels.len(), "it is attached: {first}");
        subscriber
    }

    /// The next event: `channel`, `from` (`live` or `history`), `action`, `serial`, `version`, `name`, `data`, `headers`, and
    /// whether it was `news`.
    pub(crate) async fn next(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await.expect("an event in time");
        let line = line.expect("it can be read").expect("the subscriber lives");
        serde_json::from_str(&line).expect("it is JSON")
    }

    /// Ends it. Gives what it holds in the end.
    pub(crate) async fn finish(mut self) -> Held {
        drop(self.child.stdin.take());
        loop {
            let mut event = self.next().await;
            if event.get("texts").is_some() {
                return Held { texts: event["texts"].take(), responses: event["responses"].take() };
            }
        }
    }
}
