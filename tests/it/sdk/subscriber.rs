//! An ordinary subscriber: an unmodified official client in a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{ably_js, ably_python, compiled_reader, front_end, program};

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
        Self::launch(node, server, [key, format], channels).await
    }

    /// The same with ably-js and the reader for front ends, who read the history in the end.
    pub(crate) async fn in_javascript(server: SocketAddr, key: &str, format: &str, channels: &[&str]) -> Self {
        let mut node = Command::new("node");
        node.arg(program("official.mjs")).env("ABLY_JS", front_end().await).env("READER", compiled_reader().await);
        node.env("SCHEMA", concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/reader/headers.schema.json"));
        Self::launch(node, server, [key, format], channels).await
    }

    /// The same with ably-python.
    pub(crate) async fn in_python(server: SocketAddr, key: &str, format: &str, channels: &[&str]) -> Self {
        let mut python = Command::new(ably_python().await.join("bin/python"));
        python.arg(program("official.py"));
        Self::launch(python, server, [key, format], channels).await
    }

    async fn launch(mut program: Command, server: SocketAddr, who: [&str; 2], channels: &[&str]) -> Self {
        program.arg(server.ip().to_string()).arg(server.port().to_string()).args(who).args(channels);
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = program.spawn().expect("it can be run: use tests/run");
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
    pub(crate) async fn finish(self) -> Held {
        let mut last = self.last("texts").await;
        Held { texts: last["texts"].take(), responses: last["responses"].take() }
    }

    /// Ends it. Gives the last that it says, which has this field.
    pub(crate) async fn last(mut self, field: &str) -> Value {
        drop(self.child.stdin.take());
        loop {
            let event = self.next().await;
            if event.get(field).is_some() {
                return event;
            }
        }
    }
}
