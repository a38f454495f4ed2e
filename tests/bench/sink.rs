//! The server: takes operations and acknowledges them, as fast as it can, and counts.
//!
//! It looks at a frame no closer than it is told to: `none` counts frames, `bytes` counts text as well, `stamps` reads the
//! time at which each token was produced.

use std::borrow::Cow;
use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{FutureExt, SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

mod requests;

/// How often a connection at rest hears that it lives [Ably: `maxIdleInterval`].
const IDLE: Duration = Duration::from_secs(15);

/// What the server has seen since it was last asked to begin anew.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) frames: u64,
    pub(crate) text_bytes: u64,
    pub(crate) first_us: u64,
    pub(crate) last_us: u64,
    /// Microseconds from production to here: how many, and the 50th, 99th and 99.9th percentile.
    pub(crate) samples: usize,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    None,
    Bytes,
    Stamps,
    /// None, and connections are told now and then that they live.
    Rest,
}

struct State {
    look: Look,
    seen: Seen,
    latencies: Vec<u64>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    action: u8,
    #[serde(borrow, default)]
    messages: Vec<Text<'a>>,
}

#[derive(Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    data: Cow<'a, str>,
}

pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Serves until the input ends. Prints its ports, for WebSockets and for requests, then answers each line: `look WHAT` begins anew, `seen` says what it saw.
pub(crate) fn run() {
    let state = Arc::new(Mutex::new(State { look: Look::None, seen: Seen::default(), latencies: Vec::new() }));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let requests = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = |listener: &std::net::TcpListener| listener.local_addr().expect("has an address").port();
    let ports = format!("{} {}", port(&listener), port(&requests));
    let serving = state.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.spawn(requests::serve(requests, serving.clone()));
        runtime.block_on(serve(listener, serving));
    });
    let mut out = std::io::stdout();
    writeln!(out, "{ports}").expect("written");
    for line in std::io::stdin().lock().lines() {
        let line = line.expect("a line");
        let mut state = state.lock().expect("not poisoned");
        if let Some(look) = line.strip_prefix("look ") {
            state.look = match look {
                "bytes" => Look::Bytes,
                "stamps" => Look::Stamps,
                "rest" => Look::Rest,
                _ => Look::None,
            };
            state.seen = Seen::default();
            state.latencies.clear();
            writeln!(out, "ok").expect("written");
        } else {
            let seen = state.report();
            writeln!(out, "{}", serde_json::to_string(&seen).expect("serialises")).expect("written");
        }
    }
}

impl State {
    fn report(&mut self) -> Seen {
        self.latencies.sort_unstable();
        let at = |share: f64| {
            let index = (self.latencies.len() as f64 * share) as usize;
            self.latencies.get(index).copied().unwrap_or_default()
        };
        let samples = self.latencies.len();
        Seen { samples, p50_us: at(0.5), p99_us: at(0.99), p999_us: at(0.999), ..self.seen.clone() }
    }

    /// Something has come: so many operations.
    fn arrived(&mut self, count: usize) -> u64 {
        let now = now_us();
        if self.seen.frames == 0 {
            self.seen.first_us = now;
        }
        self.seen.last_us = now;
        self.seen.frames += count as u64;
        now
    }

    fn is_looking(&self) -> bool {
        matches!(self.look, Look::Bytes | Look::Stamps)
    }

    fn look_at(&mut self, frames: &[Message]) {
        let now = self.arrived(frames.len());
        if !self.is_looking() {
            return;
        }
        for frame in frames {
            let Message::Binary(bytes) = frame else { continue };
            let frame: Frame<'_> = rmp_serde::from_slice(bytes).expect("a frame");
            for text in frame.messages.iter().filter(|_| frame.action == 15) {
                self.look_at_text(now, &text.data);
            }
        }
    }

    fn look_at_text(&mut self, now: u64, text: &str) {
        self.seen.text_bytes += text.len() as u64;
        if self.look == Look::Stamps {
            let stamps = text.split(' ').filter_map(|stamp| u64::from_str_radix(stamp, 16).ok());
            self.latencies.extend(stamps.map(|stamp| now.saturating_sub(stamp)));
        }
    }
}

async fn serve(listener: std::net::TcpListener, state: Arc<Mutex<State>>) {
    listener.set_nonblocking(true).expect("is not blocking");
    let listener = TcpListener::from_std(listener).expect("a listener");
    let serials = Arc::new(AtomicU64::new(0));
    loop {
        let (stream, _) = listener.accept().await.expect("accepts");
        stream.set_nodelay(true).expect("is set");
        tokio::spawn(answer(stream, state.clone(), serials.clone()));
    }
}

async fn answer(stream: TcpStream, state: Arc<Mutex<State>>, serials: Arc<AtomicU64>) {
    let mut head = [0; 2_048];
    let read = stream.peek(&mut head).await.unwrap_or_default();
    let head = String::from_utf8_lossy(&head[..read]).into_owned();
    if !head.to_ascii_lowercase().contains("upgrade: websocket") {
        return requests::show(stream, &head).await;
    }
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let id = serials.fetch_add(1, Ordering::Relaxed).to_string();
    let rests = state.lock().expect("not poisoned").look == Look::Rest;
    let idle = if rests { IDLE } else { Duration::ZERO };
    let details =
        serde_json::json!({"connectionKey": id, "maxMessageSize": 65_536, "maxIdleInterval": idle.as_millis() as u64});
    let connected = serde_json::json!({"action": 4, "connectionId": id, "connectionDetails": details});
    let connected = rmp_serde::to_vec_named(&connected).expect("encodes");
    if socket.send(Message::Binary(connected.into())).await.is_err() {
        return;
    }
    let (mut next, mut frames) = (0, Vec::new());
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + IDLE, IDLE);
    loop {
        tokio::select! {
            frame = socket.next() => match frame {
                Some(Ok(first)) => frames.push(first),
                Some(Err(_)) | None => return,
            },
            _ = beat.tick(), if rests => {
                let heartbeat = vec![0x81, 0xa6, b'a', b'c', b't', b'i', b'o', b'n', 0];
                if socket.send(Message::Binary(heartbeat.into())).await.is_err() {
                    return;
                }
                continue;
            }
        }
        while frames.len() < 512
            && let Some(Some(Ok(frame))) = socket.next().now_or_never()
        {
            frames.push(frame);
        }
        frames.retain(|frame| matches!(frame, Message::Binary(_)));
        if matches!(frames.last(), Some(Message::Binary(bytes)) if bytes.len() < 16) {
            // Goodbye.
            let _ = socket.send(Message::Binary(vec![0x81, 0xa6, b'a', b'c', b't', b'i', b'o', b'n', 8].into())).await;
            return;
        }
        if frames.is_empty() {
            continue;
        }
        let count = frames.len() as u64;
        let ack = acknowledgement(next, count, &serials);
        next += count;
        state.lock().expect("not poisoned").look_at(&frames);
        frames.clear();
        if socket.send(Message::Binary(ack.into())).await.is_err() {
            return;
        }
    }
}

fn acknowledgement(from: u64, count: u64, serials: &AtomicU64) -> Vec<u8> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Ack {
        action: u8,
        msg_serial: u64,
        count: u64,
        res: Vec<Given>,
    }
    #[derive(Serialize)]
    struct Given {
        serials: [String; 1],
    }
    let first = serials.fetch_add(count, Ordering::Relaxed);
    let given = |serial: u64| Given { serials: [format!("{serial:014}-000@sinksinksi:000")] };
    let ack = Ack { action: 1, msg_serial: from, count, res: (first..first + count).map(given).collect() };
    rmp_serde::to_vec_named(&ack).expect("encodes")
}
