//! One client's transport: frames in, frames out. Takes all frames that are ready, answers them together, flushes once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{self, WebSocket};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use crate::ably::wire::{Encoding, ErrorInfo, ProtocolMessage, action};

use super::Shared;
use super::auth::Credentials;
use super::clock::now_ms;
use super::codec::encode;
use super::connection::Publisher;
use super::errors::{Failure, failure};
use super::limits::{TOKEN_WARNING, WRITE_PATIENCE};
use super::outbox::{Outbox, Waiting, outbox};
use super::state::{Connect, Connected, Flush, Publish};

use answers::Answers;

mod answers;
mod frames;

/// Frames that are taken before answers go out.
const BATCH: usize = 256;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// One client's transport.
struct Transport {
    shared: Arc<Shared>,
    who: Arc<Publisher>,
    encoding: Encoding,
    sink: SplitSink<WebSocket, ws::Message>,
    answers: Answers,
    token: Token,
}

/// What is left of the client's token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// It has a key.
    Endless,
    /// It will be asked for another.
    Good { ask: Instant, end: Instant },
    /// It has been asked for another.
    Asked { end: Instant },
}

impl Token {
    fn of(who: &Publisher, life_ms: u64, now_ms: u64) -> Self {
        let Some(expires) = who.grant.expires else { return Self::Endless };
        let left = expires.saturating_sub(now_ms).min(if life_ms == 0 { u64::MAX } else { life_ms });
        let left = Duration::from_millis(left);
        let now = Instant::now();
        Self::Good { ask: now + left - TOKEN_WARNING.min(left / 2), end: now + left }
    }

    /// When something is to be done about it.
    fn due(self) -> Option<Instant> {
        match self {
            Self::Endless => None,
            Self::Good { ask: due, .. } | Self::Asked { end: due } => Some(due),
        }
    }
}

/// Why a transport ends.
enum End {
    /// The client said goodbye: nothing is kept.
    Goodbye,
    /// It may come back.
    Dropped,
}

/// Serves a client until its transport ends.
pub(super) async fn serve(
    socket: WebSocket,
    query: HashMap<String, String>,
    shared: Arc<Shared>,
    mut stopped: watch::Receiver<bool>,
) {
    let (mut sink, stream) = socket.split();
    let encoding = match query.get("format").map(String::as_str) {
        Some("msgpack") => Encoding::Msgpack,
        _ => Encoding::Json,
    };
    silence(&shared, &mut stopped).await;
    let (sender, outbox) = outbox();
    let connected = match connect(&query, encoding, sender) {
        Ok(connect) => shared.state().connect(connect, now_ms()),
        Err(failure) => Err(failure),
    };
    let Connected { connection, transport: number, who, frame } = match connected {
        Ok(connected) => connected,
        Err(failure) => {
            let transient = failure.status_code >= 500;
            let action = if transient { action::DISCONNECTED } else { action::ERROR };
            let frame = ProtocolMessage { action, error: Some(failure), ..ProtocolMessage::default() };
            let _gone = sink.send(encode(encoding, &frame)).await;
            let _gone = sink.close().await;
            return;
        }
    };
    let token = Token::of(&who, shared.state().faults().token_life, now_ms());
    let mut transport =
        Transport { shared: shared.clone(), who, encoding, sink, answers: Answers::new(Instant::now()), token };
    let end = match transport.send(encode(encoding, &frame)).await {
        Some(end) => end,
        None => transport.run(stream, outbox, &mut stopped).await,
    };
    let goodbye = matches!(end, End::Goodbye);
    shared.state().transport_ended(connection, number, goodbye, now_ms());
}

fn connect(query: &HashMap<String, String>, encoding: Encoding, outbox: Outbox) -> Result<Connect, Failure> {
    let credentials = match (query.get("key"), query.get("access_token").or_else(|| query.get("accessToken"))) {
        (Some(key), _) => Credentials::Key(key.clone()),
        (None, Some(token)) => Credentials::Token(token.clone()),
        (None, None) => return Err(failure(40101, 401, "No authentication information provided")),
    };
    let window = query.get("appendRollupWindow").map(|window| window.parse().map(Duration::from_millis));
    let rollup = window.transpose().map_err(|_| failure(80015, 400, "appendRollupWindow must be milliseconds"))?;
    if query.get("v").is_some_and(|version| version.parse::<f64>().is_ok_and(|version| version < 2.0)) {
        return Err(failure(40017, 400, "Unsupported protocol version"));
    }
    Ok(Connect {
        credentials,
        client_id: query.get("clientId").cloned(),
        agent: query.get("agent").cloned(),
        encoding,
        rollup,
        echo: query.get("echo").is_none_or(|echo| echo != "false"),
        resume: query.get("resume").or_else(|| query.get("recover")).cloned(),
        outbox,
    })
}

impl Transport {
    async fn run(
        &mut self,
        mut stream: SplitStream<WebSocket>,
        mut outbox: Waiting,
        stopped: &mut watch::Receiver<bool>,
    ) -> End {
        let mut hang_ups = self.shared.hang_ups.subscribe();
        let mut heartbeat = interval(HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            silence(&self.shared, stopped).await;
            let due = self.answers.due();
            let token = self.token.due();
            let end = tokio::select! {
                biased;
                () = until(stopped) => Some(End::Dropped),
                Ok(()) = hang_ups.changed() => self.hang_up_with_all().await,
                frame = outbox.next() => self.forward(frame, &mut outbox).await,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.give_answers().await,
                () = sleep_until(token.unwrap_or_else(Instant::now)), if token.is_some() => self.token_is_due().await,
                frame = stream.next() => self.receive(frame, &mut stream).await,
                _ = heartbeat.tick() => self.heartbeat().await,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Passes frames of channels on, all that wait. No more outbox: another transport has taken over, or this one was slow.
    async fn forward(&mut self, first: Option<ws::Message>, outbox: &mut Waiting) -> Option<End> {
        let Some(mut frame) = first else { return Some(End::Dropped) };
        for taken in 1.. {
            if let Some(end) = written(self.sink.feed(frame)).await {
                return Some(end);
            }
            // What is taken out of the outbox must be passed on: at the limit nothing more is taken.
            if taken == BATCH {
                break;
            }
            match outbox.ready() {
                Some(next) => frame = next,
                None => break,
            }
        }
        self.flush().await
    }

    async fn receive(
        &mut self,
        first: Option<Result<ws::Message, axum::Error>>,
        stream: &mut SplitStream<WebSocket>,
    ) -> Option<End> {
        let mut next = first;
        for taken in 1.. {
            let Some(Ok(frame)) = next else { return Some(End::Dropped) };
            if let Some(end) = self.frame(frame).await {
                return Some(end);
            }
            // A frame that is read must be handled: at the limit none is read.
            if taken == BATCH {
                break;
            }
            match stream.next().now_or_never() {
                Some(frame) => next = frame,
                None => break,
            }
        }
        self.give_answers().await
    }

    /// Gives the answers whose time has come.
    async fn give_answers(&mut self) -> Option<End> {
        let now = Instant::now();
        while let Some(frame) = self.answers.next(now) {
            if let Some(end) = self.feed(&frame).await {
                return Some(end);
            }
        }
        self.flush().await
    }

    /// The client's token is about to end, or has ended.
    async fn token_is_due(&mut self) -> Option<End> {
        if self.shared.state().faults().token_life > 0 {
            self.shared.state().struck("token-life");
        }
        match self.token {
            Token::Endless => None,
            Token::Good { end, .. } => {
                self.token = Token::Asked { end };
                self.send(encode(
                    self.encoding,
                    &ProtocolMessage { action: action::AUTH, ..ProtocolMessage::default() },
                ))
                .await
            }
            Token::Asked { .. } => {
                let error = Some(failure(40142, 401, "Token expired"));
                let frame = ProtocolMessage { action: action::DISCONNECTED, error, ..ProtocolMessage::default() };
                let _gone = self.send(encode(self.encoding, &frame)).await;
                let _gone = self.sink.close().await;
                Some(End::Dropped)
            }
        }
    }

    async fn heartbeat(&mut self) -> Option<End> {
        if let Some(end) = written(self.sink.feed(ws::Message::Ping(bytes::Bytes::new()))).await {
            return Some(end);
        }
        let heartbeat = ProtocolMessage { action: action::HEARTBEAT, ..ProtocolMessage::default() };
        self.send(encode(self.encoding, &heartbeat)).await
    }

    async fn fail(&mut self, error: ErrorInfo<'static>) -> Option<End> {
        let frame = ProtocolMessage { action: action::ERROR, error: Some(error), ..ProtocolMessage::default() };
        let _gone = self.send(encode(self.encoding, &frame)).await;
        let _gone = self.sink.close().await;
        Some(End::Goodbye)
    }

    async fn feed(&mut self, frame: &ProtocolMessage<'_>) -> Option<End> {
        let frame = encode(self.encoding, frame);
        written(self.sink.feed(frame)).await
    }

    async fn send(&mut self, frame: ws::Message) -> Option<End> {
        written(self.sink.send(frame)).await
    }

    async fn flush(&mut self) -> Option<End> {
        written(self.sink.flush()).await
    }
}

/// Does nothing for as long as the emulator is to be silent.
async fn silence(shared: &Shared, stopped: &mut watch::Receiver<bool>) {
    if *shared.silent.borrow() {
        shared.state().struck("silent");
        let mut silent = shared.silent.subscribe();
        tokio::select! {
            () = until(stopped) => {}
            _ = silent.wait_for(|silent| !silent) => {}
        }
    }
}

/// Waits for a client that reads slowly, but not for ever.
async fn written(write: impl Future<Output = Result<(), axum::Error>>) -> Option<End> {
    match timeout(WRITE_PATIENCE, write).await {
        Ok(Ok(())) => None,
        Ok(Err(_)) | Err(_) => Some(End::Dropped),
    }
}

async fn until(stopped: &mut watch::Receiver<bool>) {
    // The emulator is gone, or says so: both mean the end.
    let _gone = stopped.wait_for(|stopped| *stopped).await;
}

/// Flushes a rollup when its window ends, whatever becomes of the connection.
pub(super) fn flush_later(shared: Arc<Shared>, flush: Flush) {
    tokio::spawn(async move {
        sleep(flush.after).await;
        shared.state().flush(&flush, now_ms());
    });
}

/// Applies what a drop had cut off, when it arrives after all.
pub(super) fn apply_later(shared: Arc<Shared>, after: Duration, publish: Publish) {
    tokio::spawn(async move {
        sleep(after).await;
        let flush = shared.state().late_frame(Publish { now_ms: now_ms(), ..publish });
        if let Some(flush) = flush {
            flush_later(shared, flush);
        }
    });
}
