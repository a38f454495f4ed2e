//! An ordinary subscriber, as an application has one: it attaches, listens, reconnects, and catches up after a gap.
//!
//! It speaks JSON over a WebSocket and shares nothing with the relay's client. A connection that could not be resumed
//! leaves a gap; the channel is then attached again with a rewind, which gives every message in its latest version.

#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

pub(super) use view::{Seen, View, Wire};

/// Ably allows no more channels on a connection.
const CHANNELS_PER_CONNECTION: usize = 200;
/// The server promises a sign of life every 15 s; ten more and it is gone.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// Flag of ATTACHED: nothing was missed.
const RESUMED: u64 = 4;

/// Actions of frames.
mod action {
    pub(super) const CONNECTED: u8 = 4;
    pub(super) const DISCONNECTED: u8 = 6;
    pub(super) const ERROR: u8 = 9;
    pub(super) const ATTACH: u8 = 10;
    pub(super) const ATTACHED: u8 = 11;
    pub(super) const DETACH: u8 = 12;
    pub(super) const DETACHED: u8 = 13;
    pub(super) const MESSAGE: u8 = 15;
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Frame {
    action: u8,
    channel: Option<String>,
    channel_serial: Option<String>,
    connection_id: Option<String>,
    connection_key: Option<String>,
    flags: Option<u64>,
    messages: Option<Vec<Wire>>,
}

type Views = Arc<Mutex<HashMap<String, View>>>;
type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A subscriber to some channels, for as long as this value lives.
pub(super) struct Reader {
    views: Views,
    wanted: mpsc::Sender<Wanted>,
    attached: watch::Receiver<usize>,
    _connections: JoinSet<()>,
}

/// What a connection is asked for while it runs.
#[derive(Debug)]
enum Wanted {
    Attach(String),
    Detach(String),
}

impl Reader {
    /// Subscribes to these channels from where they are now, over as many connections as it takes. More channels can be
    /// added to the last connection.
    pub(super) fn start(url: &str, channels: &[String]) -> Self {
        let views = Views::default();
        let (wanted, mut more) = mpsc::channel(64);
        let (attached, attached_now) = watch::channel(0);
        let mut connections = JoinSet::new();
        let mut groups: Vec<&[String]> = channels.chunks(CHANNELS_PER_CONNECTION).collect();
        if groups.is_empty() {
            groups.push(&[]);
        }
        let last = groups.len() - 1;
        for (index, group) in groups.into_iter().enumerate() {
            let connection = Connection {
                url: url.to_owned(),
                views: views.clone(),
                attached: attached.clone(),
                channels: group.iter().map(|channel| (channel.clone(), Channel::default())).collect(),
                key: None,
                id: None,
            };
            let requests =
                if index == last { std::mem::replace(&mut more, mpsc::channel(1).1) } else { mpsc::channel(1).1 };
            connections.spawn(connection.run(requests));
        }
        Self { views, wanted, attached: attached_now, _connections: connections }
    }

    /// Waits until this many channels have been attached.
    pub(super) async fn attached(&mut self, count: usize) {
        // The sender lives as long as the connections do.
        let _ = self.attached.wait_for(|attached| *attached >= count).await;
    }

    /// Subscribes to one more channel, as one who comes late.
    pub(super) async fn attach(&self, channel: &str) {
        let _ = self.wanted.send(Wanted::Attach(channel.to_owned())).await;
    }

    /// Leaves a channel and forgets what was on it.
    pub(super) async fn detach(&self, channel: &str) {
        let _ = self.wanted.send(Wanted::Detach(channel.to_owned())).await;
    }

    /// What is on a channel now.
    pub(super) fn seen(&self, channel: &str) -> Vec<Seen> {
        let views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        views.get(channel).map(View::seen).unwrap_or_default()
    }

    /// How many appends came as such, on all channels together.
    pub(super) fn appends(&self) -> u64 {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).values().map(|view| view.appends).sum()
    }
}

/// Where a channel stands on its connection.
#[derive(Debug, Default)]
struct Channel {
    attached_before: bool,
    serial: Option<String>,
    rewind: bool,
}

/// One connection and its reconnections.
struct Connection {
    url: String,
    views: Views,
    attached: watch::Sender<usize>,
    channels: HashMap<String, Channel>,
    key: Option<String>,
    id: Option<String>,
}

impl Connection {
    async fn run(mut self, mut requests: mpsc::Receiver<Wanted>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).clamp(Duration::from_millis(50), Duration::from_secs(2));
            let url = match &self.key {
                Some(key) => format!("{}&resume={}", self.url, percent_encoding::utf8_percent_encode(key, ESCAPED)),
                None => self.url.clone(),
            };
            let Ok(Ok((mut socket, _))) = tokio::time::timeout(SILENCE_MAX, connect_async(url)).await else { continue };
            if self.listen(&mut socket, &mut requests).await.is_ok() {
                return;
            }
            if self.id.is_some() {
                pause = Duration::from_millis(50);
            }
        }
    }

    /// Listens until the connection breaks; comes back well only when nobody can want anything any more.
    async fn listen(
        &mut self,
        socket: &mut Socket,
        requests: &mut mpsc::Receiver<Wanted>,
    ) -> Result<(), tungstenite::Error> {
        let mut open = true;
        loop {
            tokio::select! {
                wanted = requests.recv(), if open => match wanted {
                    Some(wanted) => self.want(wanted, socket).await?,
                    None => open = false,
                },
                message = tokio::time::timeout(SILENCE_MAX, socket.next()) => {
                    let Ok(Some(message)) = message else { return Err(tungstenite::Error::ConnectionClosed) };
                    if let Message::Text(text) = message? {
                        self.take(serde_json::from_str(&text).unwrap_or_default(), socket).await?;
                    }
                }
            }
        }
    }

    async fn want(&mut self, wanted: Wanted, socket: &mut Socket) -> Result<(), tungstenite::Error> {
        match wanted {
            Wanted::Attach(name) => {
                let channel = self.channels.entry(name.clone()).or_default();
                channel.rewind = true;
                send(socket, &attach(&name, channel)).await
            }
            Wanted::Detach(name) => {
                self.channels.remove(&name);
                self.views.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
                send(socket, &json!({ "action": action::DETACH, "channel": name })).await
            }
        }
    }

    async fn take(&mut self, frame: Frame, socket: &mut Socket) -> Result<(), tungstenite::Error> {
        match (frame.action, frame.channel.as_deref()) {
            (action::CONNECTED, _) => self.connected(frame, socket).await,
            (action::ATTACHED, Some(_)) => self.attached(frame, socket).await,
            (action::MESSAGE, Some(_)) => {
                self.messages(frame);
                Ok(())
            }
            (action::DETACHED, Some(name)) => match self.channels.get(name) {
                Some(channel) => send(socket, &attach(name, channel)).await,
                None => Ok(()),
            },
            (action::ERROR, channel) => {
                if channel.is_none() {
                    self.key = None;
                }
                Err(tungstenite::Error::ConnectionClosed)
            }
            (action::DISCONNECTED, _) => Err(tungstenite::Error::ConnectionClosed),
            _ => Ok(()),
        }
    }

    async fn connected(&mut self, frame: Frame, socket: &mut Socket) -> Result<(), tungstenite::Error> {
        self.key = frame.connection_key;
        self.id = frame.connection_id;
        for (name, channel) in &self.channels {
            socket.feed(Message::text(attach(name, channel).to_string())).await?;
        }
        socket.flush().await
    }

    async fn attached(&mut self, frame: Frame, socket: &mut Socket) -> Result<(), tungstenite::Error> {
        let name = frame.channel.unwrap_or_default();
        let Some(channel) = self.channels.get_mut(&name) else { return Ok(()) };
        let missed = channel.attached_before && !channel.rewind && frame.flags.unwrap_or_default() & RESUMED == 0;
        if !channel.attached_before {
            channel.attached_before = true;
            self.attached.send_modify(|attached| *attached += 1);
        }
        channel.rewind = missed;
        channel.serial = frame.channel_serial;
        if missed {
            channel.serial = None;
            let views = &self.views;
            views.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().missed();
            send(socket, &json!({ "action": action::DETACH, "channel": name })).await?;
        }
        Ok(())
    }

    fn messages(&mut self, frame: Frame) {
        let name = frame.channel.unwrap_or_default();
        let Some(channel) = self.channels.get_mut(&name) else { return };
        if frame.channel_serial.is_some() {
            channel.serial = frame.channel_serial;
        }
        let mut views = self.views.lock().unwrap_or_else(PoisonError::into_inner);
        let view = views.entry(name).or_default();
        frame.messages.iter().flatten().for_each(|message| view.apply(message));
    }
}

const ESCAPED: &percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC;

fn attach(name: &str, channel: &Channel) -> Value {
    let mut frame = json!({ "action": action::ATTACH, "channel": name });
    if channel.rewind {
        frame["params"] = json!({ "rewind": "100" });
    } else if let Some(serial) = &channel.serial {
        frame["channelSerial"] = json!(serial);
    }
    frame
}

async fn send(socket: &mut Socket, frame: &Value) -> Result<(), tungstenite::Error> {
    socket.send(Message::text(frame.to_string())).await
}
