//! One client's transport: frames in, frames out. Takes all frames that are ready, answers them together, flushes once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{self, WebSocket};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use crate::ably::wire::{Data, Encoding, ErrorInfo, Message, ProtocolMessage, PublishResult, action};

use super::Shared;
use super::auth::Credentials;
use super::clock::now_ms;
use super::connection::Answer;
use super::errors::{Failure, failure};
use super::faults::DropAs;
use super::limits::{FRAME_BYTES, OUTBOX_FRAMES};
use super::message::owned;
use super::state::{Attach, Connect, Flush, Publish};

/// Frames that are taken before answers go out.
const BATCH: usize = 256;
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);

/// One client's transport.
struct Transport {
    shared: Arc<Shared>,
    connection: u64,
    connection_id: String,
    encoding: Encoding,
    sink: SplitSink<WebSocket, ws::Message>,
    /// Answers that wait for their time.
    answers: VecDeque<(Instant, u64, Answer)>,
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
    let (sender, outbox) = mpsc::channel(OUTBOX_FRAMES);
    let connected = match connect(&query, encoding, sender) {
        Ok(connect) => shared.state().connect(connect, now_ms()),
        Err(failure) => Err(failure),
    };
    let connected = match connected {
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
    let mut transport = Transport {
        connection: connected.connection,
        connection_id: connected.frame.connection_id.clone().unwrap_or_default().into_owned(),
        shared: shared.clone(),
        encoding,
        sink,
        answers: VecDeque::new(),
    };
    let end = match transport.send(encode(encoding, &connected.frame)).await {
        Some(end) => end,
        None => transport.run(stream, outbox, &mut stopped).await,
    };
    let goodbye = matches!(end, End::Goodbye);
    shared.state().transport_ended(connected.connection, connected.transport, goodbye, now_ms());
}

fn connect(
    query: &HashMap<String, String>,
    encoding: Encoding,
    outbox: mpsc::Sender<ws::Message>,
) -> Result<Connect, Failure> {
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
        mut outbox: mpsc::Receiver<ws::Message>,
        stopped: &mut watch::Receiver<bool>,
    ) -> End {
        let mut heartbeat = interval(HEARTBEAT_EVERY);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.answers.front().map(|(due, ..)| *due);
            let end = tokio::select! {
                biased;
                () = until(stopped) => Some(End::Dropped),
                frame = outbox.recv() => self.forward(frame, &mut outbox).await,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.give_answers().await,
                frame = stream.next() => self.receive(frame, &mut stream).await,
                _ = heartbeat.tick() => self.heartbeat().await,
            };
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Passes frames of channels on, all that wait. No more outbox: another transport has taken over, or this one was slow.
    async fn forward(&mut self, first: Option<ws::Message>, outbox: &mut mpsc::Receiver<ws::Message>) -> Option<End> {
        let Some(mut frame) = first else { return Some(End::Dropped) };
        for taken in 1.. {
            if self.sink.feed(frame).await.is_err() {
                return Some(End::Dropped);
            }
            // What is taken out of the outbox must be passed on: at the limit nothing more is taken.
            if taken == BATCH {
                break;
            }
            match outbox.try_recv() {
                Ok(next) => frame = next,
                Err(_) => break,
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

    async fn frame(&mut self, frame: ws::Message) -> Option<End> {
        let bytes = match &frame {
            ws::Message::Text(text) => text.as_bytes(),
            ws::Message::Binary(bytes) => bytes.as_ref(),
            ws::Message::Ping(_) | ws::Message::Pong(_) => return None,
            ws::Message::Close(_) => return Some(End::Dropped),
        };
        if bytes.len() > FRAME_BYTES {
            return self.fail(failure(40009, 413, "Frame too large")).await;
        }
        let message: ProtocolMessage<'_> = match self.encoding.decode(bytes) {
            Ok(message) => message,
            Err(error) => return self.fail(failure(40000, 400, format!("Malformed frame: {error}"))).await,
        };
        match message.action {
            action::HEARTBEAT => {
                let id = message.id.clone();
                self.feed(&ProtocolMessage { action: action::HEARTBEAT, id, ..ProtocolMessage::default() }).await
            }
            action::MESSAGE => self.publish(message).await,
            action::ATTACH => self.attach(&message).await,
            action::DETACH => {
                let channel = message.channel.unwrap_or_default();
                self.shared.state().detach(self.connection, &channel);
                let channel = Some(channel);
                self.feed(&ProtocolMessage { action: action::DETACHED, channel, ..ProtocolMessage::default() }).await
            }
            action::AUTH => self.authorise(&message).await,
            action::CLOSE => {
                let closed = ProtocolMessage { action: action::CLOSED, ..ProtocolMessage::default() };
                let _gone = self.send(encode(self.encoding, &closed)).await;
                let _gone = self.sink.close().await;
                Some(End::Goodbye)
            }
            action::DISCONNECT => Some(End::Dropped),
            _ => None,
        }
    }

    async fn publish(&mut self, frame: ProtocolMessage<'_>) -> Option<End> {
        let Some(msg_serial) = frame.msg_serial else {
            return self.fail(failure(40000, 400, "MESSAGE without msgSerial")).await;
        };
        let channel = frame.channel.unwrap_or_default();
        let messages: Vec<_> =
            frame.messages.unwrap_or_default().into_iter().map(|message| received(message, self.encoding)).collect();
        let id = format!("{}:{msg_serial}", self.connection_id);
        let publish =
            |messages| Publish { connection: self.connection, channel: &channel, messages, id, now_ms: now_ms() };
        let late_copy = if self.shared.state().faults().late_apply > 0 { messages.clone() } else { Vec::new() };
        let (handled, delay) = {
            let mut state = self.shared.state();
            let handled = state.frame(msg_serial, publish(messages));
            (handled, state.faults().delay)
        };
        if let Some(flush) = handled.flush {
            flush_later(self.shared.clone(), flush);
        }
        if let Some(after) = handled.late {
            self.apply_later(after, channel.into_owned(), late_copy, msg_serial);
        }
        if let Some(answer) = handled.answer {
            self.answers.push_back((Instant::now() + Duration::from_millis(delay), msg_serial, answer));
        }
        match handled.drop {
            Some(way) => self.hang_up(way).await,
            None => None,
        }
    }

    fn apply_later(&self, after: Duration, channel: String, messages: Vec<Message<'static>>, msg_serial: u64) {
        let (shared, connection) = (self.shared.clone(), self.connection);
        let id = format!("{}:{msg_serial}", self.connection_id);
        tokio::spawn(async move {
            sleep(after).await;
            let publish = Publish { connection, channel: &channel, messages, id, now_ms: now_ms() };
            let flush = shared.state().late_frame(publish);
            if let Some(flush) = flush {
                flush_later(shared, flush);
            }
        });
    }

    async fn attach(&mut self, frame: &ProtocolMessage<'_>) -> Option<End> {
        let channel = frame.channel.as_deref().unwrap_or_default();
        let params = frame.params.iter().flatten().map(|(name, value)| (name.to_string(), value.to_string()));
        let attach = Attach {
            channel,
            params: params.collect::<BTreeMap<_, _>>(),
            flags: frame.flags.unwrap_or(0),
            position: frame.channel_serial.as_deref(),
        };
        // Frames of the channel go through the outbox, which is read after this: ATTACHED comes first.
        let attached = self.shared.state().attach(self.connection, &attach, now_ms());
        match attached {
            Ok((answer, frames)) => {
                let end = self.feed(&answer).await;
                for frame in frames {
                    if self.sink.feed(frame).await.is_err() {
                        return Some(End::Dropped);
                    }
                }
                end
            }
            Err(error) => {
                let channel = Some(channel.into());
                self.feed(&ProtocolMessage {
                    action: action::ERROR,
                    channel,
                    error: Some(error),
                    ..ProtocolMessage::default()
                })
                .await
            }
        }
    }

    async fn authorise(&mut self, frame: &ProtocolMessage<'_>) -> Option<End> {
        let token = frame.auth.as_ref().and_then(|auth| auth.access_token.as_deref()).unwrap_or_default();
        let authorised = self.shared.state().authorise(self.connection, token, now_ms());
        match authorised {
            Ok(connected) => self.feed(&connected.frame).await,
            Err(error) => self.fail(error).await,
        }
    }

    /// Gives the answers whose time has come, those of successive frames together.
    async fn give_answers(&mut self) -> Option<End> {
        let now = Instant::now();
        while self.answers.front().is_some_and(|(due, ..)| *due <= now) {
            let Some((_, first, answer)) = self.answers.pop_front() else { break };
            let frame = match answer {
                Answer::Nack(error) => ProtocolMessage {
                    action: action::NACK,
                    msg_serial: Some(first),
                    count: Some(1),
                    error: Some(error),
                    ..ProtocolMessage::default()
                },
                Answer::Ack(serials) => {
                    let mut res = vec![given(serials)];
                    while let Some((due, serial, Answer::Ack(_))) = self.answers.front()
                        && *due <= now
                        && *serial == first + res.len() as u64
                        && let Some((_, _, Answer::Ack(serials))) = self.answers.pop_front()
                    {
                        res.push(given(serials));
                    }
                    ProtocolMessage {
                        action: action::ACK,
                        msg_serial: Some(first),
                        count: u32::try_from(res.len()).ok(),
                        res: Some(res),
                        ..ProtocolMessage::default()
                    }
                }
            };
            if let Some(end) = self.feed(&frame).await {
                return Some(end);
            }
        }
        self.flush().await
    }

    async fn heartbeat(&mut self) -> Option<End> {
        let ping = self.sink.feed(ws::Message::Ping(bytes::Bytes::new())).await;
        if ping.is_err() {
            return Some(End::Dropped);
        }
        let heartbeat = ProtocolMessage { action: action::HEARTBEAT, ..ProtocolMessage::default() };
        self.send(encode(self.encoding, &heartbeat)).await
    }

    /// Drops the connection as a fault wants it.
    async fn hang_up(&mut self, way: DropAs) -> Option<End> {
        match way {
            DropAs::Socket => {}
            DropAs::Close => {
                let _gone = self.sink.close().await;
            }
            DropAs::Disconnected => {
                let error = Some(failure(80003, 503, "Disconnected by the emulator's faults"));
                let frame = ProtocolMessage { action: action::DISCONNECTED, error, ..ProtocolMessage::default() };
                let _gone = self.send(encode(self.encoding, &frame)).await;
            }
        }
        Some(End::Dropped)
    }

    async fn fail(&mut self, error: ErrorInfo<'static>) -> Option<End> {
        let frame = ProtocolMessage { action: action::ERROR, error: Some(error), ..ProtocolMessage::default() };
        let _gone = self.send(encode(self.encoding, &frame)).await;
        let _gone = self.sink.close().await;
        Some(End::Goodbye)
    }

    async fn feed(&mut self, frame: &ProtocolMessage<'_>) -> Option<End> {
        self.sink.feed(encode(self.encoding, frame)).await.err().map(|_| End::Dropped)
    }

    async fn send(&mut self, frame: ws::Message) -> Option<End> {
        self.sink.send(frame).await.err().map(|_| End::Dropped)
    }

    async fn flush(&mut self) -> Option<End> {
        self.sink.flush().await.err().map(|_| End::Dropped)
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

fn given(serials: Vec<Option<String>>) -> PublishResult<'static> {
    PublishResult { serials: serials.into_iter().map(|serial| serial.map(Into::into)).collect() }
}

/// A frame in the client's encoding. JSON has no bytes: there they travel as base64.
pub(super) fn encode(encoding: Encoding, frame: &ProtocolMessage<'_>) -> ws::Message {
    let mut out = Vec::with_capacity(256);
    let for_json = frame
        .messages
        .as_ref()
        .filter(|_| encoding == Encoding::Json)
        .filter(|messages| messages.iter().any(is_binary));
    let written = match for_json {
        None => encoding.encode(frame, &mut out),
        Some(messages) => {
            let messages = messages.iter().cloned().map(|message| sent(message, encoding)).collect();
            encoding.encode(&ProtocolMessage { messages: Some(messages), ..frame.clone() }, &mut out)
        }
    };
    if let Err(error) = written {
        tracing::error!(%error, "emulator: a frame could not be written");
    }
    match encoding {
        Encoding::Msgpack => ws::Message::Binary(out.into()),
        Encoding::Json => ws::Message::Text(String::from_utf8(out).unwrap_or_default().into()),
    }
}

fn is_binary(message: &Message<'_>) -> bool {
    matches!(message.data, Some(Data::Binary(_)))
}

/// A message as the encoding can carry it.
pub(super) fn sent(mut message: Message<'_>, encoding: Encoding) -> Message<'_> {
    if encoding == Encoding::Json
        && let Some(Data::Binary(bytes)) = &message.data
    {
        message.data = Some(Data::Text(STANDARD.encode(bytes).into()));
        let encoding =
            message.encoding.take().map_or_else(|| "base64".to_owned(), |encoding| format!("{encoding}/base64"));
        message.encoding = Some(encoding.into());
    }
    message
}

/// A message as a client sent it, with bytes as bytes.
pub(super) fn received(message: Message<'_>, encoding: Encoding) -> Message<'static> {
    let mut message = owned(message);
    let steps = message.encoding.as_deref().unwrap_or_default();
    if encoding == Encoding::Json
        && let (true, Some(Data::Text(text))) = (steps.ends_with("base64"), &message.data)
        && let Ok(bytes) = STANDARD.decode(text.as_bytes())
    {
        let rest = steps.strip_suffix("base64").map(|rest| rest.trim_end_matches('/').to_owned());
        message.data = Some(Data::Binary(bytes.into()));
        message.encoding = rest.filter(|rest| !rest.is_empty()).map(Into::into);
    }
    message
}
