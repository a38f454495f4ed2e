//! A client without a mind of its own: it sends what it is told and shows what it gets.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokenrelay::emulator::Emulator;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

/// A server that says nothing for so long will say nothing more.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) const CONNECTED: u64 = 4;
pub(super) const ACK: u64 = 1;
pub(super) const NACK: u64 = 2;
pub(super) const ERROR: u64 = 9;
pub(super) const MESSAGE: u64 = 15;

/// A connection in JSON.
pub(super) struct Raw {
    pub(super) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Raw {
    /// Connects with that query, whatever comes of it.
    pub(super) async fn open(emulator: &Emulator, query: &str) -> Self {
        let (socket, _) = connect_async(format!("ws://{}/?{query}", emulator.local_addr())).await.expect("upgraded");
        Self { socket }
    }

    /// Connects with the key and that query; gives the CONNECTED frame, too.
    pub(super) async fn connect(emulator: &Emulator, query: &str) -> (Self, Value) {
        let mut raw = Self::open(emulator, &format!("key=app.key:secret&{query}")).await;
        let connected = raw.frame().await.expect("a frame");
        assert_eq!(connected["action"], CONNECTED, "{connected}");
        (raw, connected)
    }

    pub(super) async fn send(&mut self, frame: Value) {
        self.socket.send(Message::text(frame.to_string())).await.expect("sent");
    }

    /// Sends operations as frames with successive serials.
    pub(super) async fn publish(&mut self, channel: &str, first: u64, messages: impl IntoIterator<Item = Value>) {
        for (serial, message) in (first..).zip(messages) {
            let frame = json!({"action": MESSAGE, "channel": channel, "msgSerial": serial, "messages": [message]});
            self.socket.feed(Message::text(frame.to_string())).await.expect("fed");
        }
        self.socket.flush().await.expect("flushed");
    }

    /// The next frame but heartbeats; none when the connection has ended.
    pub(super) async fn frame(&mut self) -> Option<Value> {
        tokio::time::timeout(PATIENCE, self.next()).await.expect("something in time")
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => {
                    let frame: Value = serde_json::from_str(&text).expect("it is JSON");
                    if frame["action"] != 0 {
                        return Some(frame);
                    }
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(other) => assert!(other.is_close(), "{other:?}"),
                Err(_) => return None,
            }
        }
    }

    /// The answers to so many frames: action, first serial, count, code.
    pub(super) async fn answers(&mut self, frames: u64) -> Vec<(u64, u64, u64, u64)> {
        let (mut answers, mut seen) = (Vec::new(), 0);
        while seen < frames {
            let frame = self.frame().await.expect("an answer");
            let number = |value: &Value| value.as_u64().unwrap_or_default();
            if [ACK, NACK].contains(&number(&frame["action"])) {
                seen += number(&frame["count"]);
                let code = number(&frame["error"]["code"]);
                answers.push((number(&frame["action"]), number(&frame["msgSerial"]), number(&frame["count"]), code));
            }
        }
        answers
    }

    /// Makes a message; gives its serial.
    pub(super) async fn create(&mut self, channel: &str, msg_serial: u64, data: &str) -> String {
        self.publish(channel, msg_serial, [json!({"data": data})]).await;
        loop {
            let frame = self.frame().await.expect("an answer");
            if frame["action"] == ACK {
                return frame["res"][0]["serials"][0].as_str().expect("a serial").to_owned();
            }
        }
    }
}

/// An append.
pub(super) fn append(serial: &str, data: &str) -> Value {
    json!({"action": 5, "serial": serial, "data": data})
}

/// Asks over REST.
pub(super) async fn get(emulator: &Emulator, path: &str) -> (u16, Value) {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let separator = if path.contains('?') { '&' } else { '?' };
    let url = format!("http://{}{path}{separator}key=app.key:secret", emulator.local_addr());
    let answer = reqwest::Client::new().get(url).header("accept", "application/json").send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

/// The text of a message, once it is the expected one.
pub(super) async fn text_becomes(emulator: &Emulator, channel: &str, serial: &str, expected: &str) {
    let path = format!("/channels/{}/messages/{}", channel.replace(':', "%3A"), serial.replace('@', "%40"));
    let reads = async {
        while get(emulator, &path).await.1["data"] != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reads).await.unwrap_or_else(|_| panic!("{channel}: not {expected:?}"));
}
