//! Connections against small servers of our own making, over real sockets.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

use super::super::fixtures;
use super::super::lease::Moment;
use super::super::pool::Pool;
use super::super::wire::ProtocolMessage;
use super::super::{probe, probe_channel};
use super::*;
use crate::config::Transport;
use crate::engine::{Class, Doubt, OpKind, Operation, Outcome, Pipelining};

const PATIENCE: Duration = Duration::from_secs(20);

fn settings(port: u16) -> Settings {
    Settings {
        client_id: "relay".into(),
        append_rollup: Duration::from_millis(40),
        ..fixtures::settings(Transport::Realtime, port)
    }
}

fn operation(connection: ConnectionId, seq: u32, data: &str) -> Operation {
    let kind = if seq == 0 { OpKind::Create } else { OpKind::Append };
    Operation { data: data.into(), ..fixtures::operation(connection, seq, kind, "ai:x") }
}

/// The server's end of a transport.
struct Peer {
    socket: WebSocketStream<TcpStream>,
    query: HashMap<String, String>,
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("has an address").port();
    (listener, port)
}

#[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
async fn accept(listener: &TcpListener) -> Peer {
    let (stream, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("accepts");
    let mut query = HashMap::new();
    let read = |request: &Request, response: Response| {
        for pair in request.uri().query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
            query.insert(name.to_owned(), value.into_owned());
        }
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, read).await.expect("a handshake");
    Peer { socket, query }
}

impl Peer {
    async fn say(&mut self, frame: &Value) {
        self.socket.send(Message::text(frame.to_string())).await.expect("sent");
    }

    async fn connected(&mut self, id: &str, key: &str) {
        let details = json!({"connectionKey": key, "maxMessageSize": 65536, "maxInboundRate": 50, "maxIdleInterval": 15_000,
            "connectionStateTtl": 120_000, "clientId": "relay"});
        self.say(&json!({"action": 4, "connectionId": id, "connectionDetails": details})).await;
    }

    /// The next frame; `None` at the end of the transport.
    async fn hear(&mut self) -> Option<Value> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("in time")? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }

    async fn ack(&mut self, from: u64, count: u64) {
        let res: Vec<Value> = (from..from + count).map(|serial| json!({"serials": [format!("V{serial}")]})).collect();
        self.say(&json!({"action": 1, "msgSerial": from, "count": count, "res": res})).await;
    }

    /// Answers each frame until the client says goodbye.
    async fn serve(mut self) {
        while let Some(frame) = self.hear().await {
            match frame["action"].as_u64() {
                Some(15) => self.ack(frame["msgSerial"].as_u64().expect("a number"), 1).await,
                Some(7) => return self.say(&json!({"action": 8})).await,
                _ => {}
            }
        }
    }
}

async fn next(events: &mut mpsc::Receiver<Event>) -> Event {
    timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event")
}

async fn answers(events: &mut mpsc::Receiver<Event>, count: usize) -> Vec<Answer> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(events).await {
            Event::Answers(answers) => all.extend(answers),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// Closes it, and with it the way that events come.
async fn close(mut pool: Pool, within: Duration) {
    let closing = pool.close(within);
    drop(pool);
    closing.await;
}

#[tokio::test]
async fn operations_are_sent_and_answered_and_the_end_is_clean() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        let expected = [("v", "6"), ("format", "json"), ("heartbeats", "true"), ("echo", "false")];
        let more = [("agent", "tokenrelay/test"), ("appendRollupWindow", "40"), ("clientId", "relay")];
        for (name, value) in expected.into_iter().chain(more).chain([("key", "app.id:secret")]) {
            assert_eq!(peer.query.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(peer.query.get("resume"), None);
        let first = peer.hear().await.expect("a create");
        assert_eq!(first["messages"][0]["data"], "Hello");
        peer.hear().await.expect("an append");
        peer.ack(0, 2).await;
        assert_eq!(peer.hear().await, Some(json!({"action": 7})));
        peer.say(&json!({"action": 8})).await;
        peer.hear().await
    });
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(settings(port), sender);
    pool.open(2);
    let up = next(&mut events).await;
    let expected = Event::Up {
        connection: 2,
        resumed: false,
        ably_id: "id-1".into(),
        pipelining: Pipelining::On,
        max_message_size: 65_536,
        max_inbound_rate: Some(50),
        client_id: Some("relay".into()),
    };
    assert_eq!(up, expected);
    let mut operations = vec![operation(2, 0, "Hello"), operation(2, 1, " world")];
    pool.send(2, &mut operations);
    assert!(operations.is_empty());
    let answers = answers(&mut events, 2).await;
    let serials = ["V0", "V1"].map(|serial| Outcome::Acked { serial: Some(serial.into()) });
    assert_eq!([&answers[0].outcome, &answers[1].outcome], serials.each_ref());
    close(pool, Duration::from_secs(5)).await;
    assert_eq!(events.recv().await, Some(Event::Closed { connection: 2 }));
    assert_eq!(events.recv().await, None);
    assert_eq!(server.await.expect("the server is content"), None);
}

#[tokio::test]
async fn one_connection_is_closed_and_its_number_used_again() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        assert_eq!(peer.hear().await, Some(json!({"action": 7})), "it says goodbye");
        peer.say(&json!({"action": 8})).await;
        assert_eq!(peer.hear().await, None);
        let mut peer = accept(&listener).await;
        assert_eq!(peer.query.get("resume"), None, "it is another one");
        peer.connected("id-2", "key-2").await;
        peer.serve().await;
    });
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(settings(port), sender);
    pool.open(1);
    assert!(matches!(next(&mut events).await, Event::Up { connection: 1, .. }));
    pool.close_one(1);
    pool.close_one(0);
    assert_eq!(next(&mut events).await, Event::Closed { connection: 1 });
    pool.open(1);
    assert!(matches!(next(&mut events).await, Event::Up { connection: 1, resumed: false, .. }));
    pool.send(1, &mut vec![operation(1, 0, "a")]);
    assert_eq!(answers(&mut events, 1).await.len(), 1);
    close(pool, Duration::from_secs(5)).await;
    server.await.expect("the server is content");
}

#[tokio::test]
async fn a_dropped_transport_is_resumed_with_the_same_frames() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        let sent = [peer.hear().await, peer.hear().await];
        drop(peer);
        let mut peer = accept(&listener).await;
        assert_eq!(peer.query.get("resume").map(String::as_str), Some("key-1"));
        peer.connected("id-1", "key-2").await;
        assert_eq!([peer.hear().await, peer.hear().await], sent);
        peer.ack(0, 2).await;
        drop(peer);
        let mut peer = accept(&listener).await;
        assert_eq!(peer.query.get("resume").map(String::as_str), Some("key-2"));
        peer.connected("id-2", "key-3").await;
        peer.serve().await;
    });
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(settings(port), sender);
    pool.open(0);
    assert!(matches!(next(&mut events).await, Event::Up { resumed: false, .. }));
    pool.send(0, &mut vec![operation(0, 0, "a"), operation(0, 1, "b")]);
    assert!(matches!(next(&mut events).await, Event::Down { connection: 0, .. }));
    assert!(matches!(next(&mut events).await, Event::Up { resumed: true, .. }));
    let answers = answers(&mut events, 2).await;
    assert!(answers.iter().all(|answer| answer.resent && matches!(answer.outcome, Outcome::Acked { .. })));
    assert!(matches!(next(&mut events).await, Event::Down { .. }));
    assert_eq!(next(&mut events).await, Event::Lost { connection: 0 });
    assert!(matches!(next(&mut events).await, Event::Up { resumed: false, ably_id, .. } if &*ably_id == "id-2"));
    close(pool, Duration::from_secs(5)).await;
    server.await.expect("the server is content");
}

#[tokio::test]
async fn without_a_lease_nothing_is_written_and_with_one_all_of_it() {
    let (listener, port) = listen().await;
    let (told, renew) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        assert_eq!(peer.hear().await, None, "the transport ends without a frame");
        told.send(()).expect("somebody listens");
        loop {
            let mut peer = accept(&listener).await;
            assert_eq!(peer.query.get("resume").map(String::as_str), Some("key-1"));
            peer.connected("id-1", "key-1").await;
            let Some(first) = peer.hear().await else { continue };
            assert_eq!(first["messages"][0]["data"], "a");
            assert_eq!(peer.hear().await.expect("the second frame")["messages"][0]["data"], "b");
            peer.ack(0, 2).await;
            return peer.serve().await;
        }
    });
    let (sender, mut events) = mpsc::channel(16);
    let lease = Lease::new(Duration::from_secs(3_600));
    let mut pool = Pool::new(Settings { lease: lease.clone(), ..settings(port) }, sender);
    pool.open(0);
    assert!(matches!(next(&mut events).await, Event::Up { resumed: false, .. }));
    pool.send(0, &mut vec![operation(0, 0, "a"), operation(0, 1, "b")]);
    assert_eq!(next(&mut events).await, Event::Down { connection: 0, reason: Error::NoLease });
    renew.await.expect("the transport has ended");
    lease.renew(Moment::now());
    let mut answered = Vec::new();
    while answered.len() < 2 {
        match next(&mut events).await {
            Event::Answers(answers) => answered.extend(answers),
            Event::Up { resumed, .. } => assert!(resumed),
            Event::Down { reason, .. } => assert_eq!(reason, Error::NoLease),
            other => panic!("{other:?}"),
        }
    }
    assert!(answered.iter().all(|answer| matches!(answer.outcome, Outcome::Acked { .. })));
    close(pool, Duration::from_secs(5)).await;
    server.await.expect("the server is content");
}

#[tokio::test]
async fn a_partition_that_leaves_takes_its_connection_along_if_it_must() {
    let (listener, port) = listen().await;
    let (told, written) = tokio::sync::oneshot::channel();
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        peer.hear().await.expect("a frame");
        told.send(()).expect("somebody listens");
        assert_eq!(peer.hear().await, None);
        let mut peer = accept(&listener).await;
        assert_eq!(peer.query.get("resume"), None);
        peer.connected("id-2", "key-2").await;
        peer.serve().await;
    });
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(settings(port), sender);
    pool.open(0);
    assert!(matches!(next(&mut events).await, Event::Up { .. }));
    pool.send(0, &mut vec![operation(0, 0, "a")]);
    written.await.expect("the frame was written");
    pool.abandon(0);
    assert_eq!(next(&mut events).await, Event::Down { connection: 0, reason: Error::Abandoned });
    assert!(matches!(answers(&mut events, 1).await[0].outcome, Outcome::Unknown(Doubt::ConnectionLost)));
    assert_eq!(next(&mut events).await, Event::Lost { connection: 0 });
    assert!(matches!(next(&mut events).await, Event::Up { resumed: false, .. }));
    close(pool, Duration::from_secs(5)).await;
    server.await.expect("the server is content");
}

#[tokio::test]
async fn twenty_connections_with_two_hundred_in_flight() {
    const CONNECTIONS: u32 = 20;
    const EACH: u32 = 1_000;
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        for id in 0..CONNECTIONS {
            let mut peer = accept(&listener).await;
            peer.connected(&format!("id-{id}"), "key").await;
            tokio::spawn(peer.serve());
        }
    });
    let (sender, mut events) = mpsc::channel(64);
    let mut pool = Pool::new(settings(port), sender);
    let mut next_seq = [0; CONNECTIONS as usize];
    let mut answered = HashSet::new();
    (0..CONNECTIONS).for_each(|connection| pool.open(connection));
    while answered.len() < (CONNECTIONS * EACH) as usize {
        let send = |pool: &mut Pool, connection: u32, count: u32, next_seq: &mut [u32]| {
            let first = next_seq[connection as usize];
            let end = (first + count).min(EACH);
            next_seq[connection as usize] = end;
            pool.send(connection, &mut (first..end).map(|seq| operation(connection, seq, " token")).collect());
        };
        match next(&mut events).await {
            Event::Up { connection, .. } => send(&mut pool, connection, 200, &mut next_seq),
            Event::Answers(answers) => {
                let mut freed: HashMap<u32, u32> = HashMap::new();
                for answer in answers {
                    assert!(matches!(answer.outcome, Outcome::Acked { .. }), "{answer:?}");
                    assert!(answered.insert(answer.op));
                    *freed.entry(answer.connection).or_default() += 1;
                }
                freed.into_iter().for_each(|(connection, count)| send(&mut pool, connection, count, &mut next_seq));
            }
            other => panic!("{other:?}"),
        }
    }
    close(pool, Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_server_that_does_not_read_is_still_heard() {
    const FRAMES: u32 = 150;
    let (listener, port) = listen().await;
    let (resume, resumed) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        peer.hear().await.expect("the first frame");
        // More than the buffers of two sockets hold is on its way now, and is not read.
        peer.ack(0, 1).await;
        resumed.await.expect("the client has the answer");
        for serial in 1..u64::from(FRAMES) {
            assert_eq!(peer.hear().await.expect("a frame")["msgSerial"], serial);
            peer.ack(serial, 1).await;
        }
        peer.serve().await;
    });
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(settings(port), sender);
    pool.open(0);
    assert!(matches!(next(&mut events).await, Event::Up { .. }));
    let text = "x".repeat(100_000);
    pool.send(0, &mut (0..FRAMES).map(|seq| operation(0, seq, &text)).collect());
    assert_eq!(answers(&mut events, 1).await.len(), 1);
    resume.send(()).expect("the server waits");
    answers(&mut events, FRAMES as usize - 1).await;
    close(pool, Duration::from_secs(5)).await;
    server.await.expect("the server is content");
}

#[tokio::test]
async fn messagepack_is_spoken_too() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        let say = |frame: ProtocolMessage<'static>| {
            let mut bytes = Vec::new();
            Encoding::Msgpack.encode(&frame, &mut bytes).expect("encodes");
            Message::Binary(bytes.into())
        };
        let connected = ProtocolMessage { action: 4, connection_id: Some("id".into()), ..ProtocolMessage::default() };
        peer.socket.send(say(connected)).await.expect("sent");
        let frame: Bytes = loop {
            if let Message::Binary(bytes) = peer.socket.next().await.expect("a frame").expect("read") {
                break bytes;
            }
        };
        let frame: ProtocolMessage<'_> = Encoding::Msgpack.decode(&frame).expect("decodes");
        assert_eq!((frame.action, frame.msg_serial, peer.query["format"].as_str()), (15, Some(0), "msgpack"));
        let nack = ProtocolMessage { action: 2, msg_serial: Some(0), count: Some(1), ..ProtocolMessage::default() };
        peer.socket.send(say(nack)).await.expect("sent");
        peer.socket.next().await
    });
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(Settings { encoding: Encoding::Msgpack, ..settings(port) }, sender);
    pool.open(0);
    assert!(matches!(next(&mut events).await, Event::Up { .. }));
    pool.send(0, &mut vec![operation(0, 0, "a")]);
    let answers = answers(&mut events, 1).await;
    assert!(matches!(&answers[0].outcome, Outcome::Rejected(refused) if refused.class == Class::Transient));
    // Nobody closes it: it ends hard, with whatever was still to be sent.
    drop(pool);
    let end = server.await.expect("the server is content");
    assert!(matches!(end, Some(Err(tungstenite::Error::Io(_)))), "{end:?}");
}

#[tokio::test]
async fn what_is_unanswered_at_the_end_is_unknown() {
    let (listener, port) = listen().await;
    let server = tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        while peer.hear().await.is_some() {}
    });
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(settings(port), sender);
    pool.open(0);
    assert!(matches!(next(&mut events).await, Event::Up { .. }));
    pool.send(0, &mut vec![operation(0, 0, "a")]);
    close(pool, Duration::from_millis(100)).await;
    assert_eq!(answers(&mut events, 1).await[0].outcome, Outcome::Unknown(Doubt::Stopped));
    assert!(matches!(events.recv().await, Some(Event::Closed { .. })));
    assert_eq!(events.recv().await, None);
    server.await.expect("the server is content");
}

#[tokio::test]
async fn a_key_is_not_renewed_on_the_connection_that_shows_it() {
    let (settings, (events, _), (_, commands)) = (settings(1), mpsc::channel(1), mpsc::channel(1));
    let mut connection = Connection::new(0, &settings, Arc::new(Target::new(&settings)), commands, events);
    connection.renew();
    assert!(connection.renewing.is_none());
}

#[tokio::test]
async fn a_wrong_key_is_told_from_an_unreachable_server() {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.say(&json!({"action": 9, "error": {"code": 40101, "statusCode": 401, "message": "invalid key"}})).await;
        peer.hear().await
    });
    let error = probe(settings(port)).await.expect_err("refused");
    assert!(error.is_fatal() && error.code() == Some(40101) && error.to_string().contains("ably.key_file"), "{error}");

    let (listener, port) = listen().await;
    drop(listener);
    let error = probe(settings(port)).await.expect_err("nobody listens");
    assert!(matches!(&error, Error::Unreachable { .. }) && !error.is_fatal());
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn a_channel_that_cannot_be_appended_to_is_found_out() {
    for (refuses, remedy) in [(93002, "turn on the rule"), (40160, "capabilities")] {
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            let mut peer = accept(&listener).await;
            peer.connected("id-1", "key-1").await;
            peer.hear().await.expect("a create");
            peer.ack(0, 1).await;
            let append = peer.hear().await.expect("an append");
            assert_eq!(append["messages"][0]["serial"], "V0");
            let error = json!({"code": refuses, "statusCode": 400, "message": "no"});
            peer.say(&json!({"action": 2, "msgSerial": 1, "count": 1, "error": error})).await;
            peer.serve().await;
        });
        let error = probe_channel(settings(port), "ai:check").await.expect_err("refused");
        assert!(matches!(&error, Error::Channel { code, .. } if *code == refuses));
        assert!(error.to_string().contains(remedy) && error.to_string().contains("ai:check"), "{error}");
    }
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        let mut peer = accept(&listener).await;
        peer.connected("id-1", "key-1").await;
        peer.serve().await;
    });
    let details = probe_channel(settings(port), "ai:check").await.expect("all is well");
    assert_eq!(&*details.ably_id, "id-1");
}
