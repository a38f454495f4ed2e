//! The connections to Ably against the emulator: whatever it does, each operation has one answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokenrelay::ably::auth::Auth;
use tokenrelay::ably::pool::{Event, Pool, Settings};
use tokenrelay::ably::wire::Encoding;
use tokenrelay::ably::{Error, Lease, probe, probe_channel};
use tokenrelay::config::Transport;
use tokenrelay::config::{self, Secret};
use tokenrelay::emulator::{self, Config, Emulator, Faults};
use tokenrelay::engine::{ConnectionId, Head, OpId, OpKind, Operation, Outcome, Serial, Status};
use tokio::sync::mpsc;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);
const CONNECTIONS: u32 = 4;
const MESSAGES: u32 = 12;
const APPENDS: u32 = 40;

async fn start(faults: &str) -> Emulator {
    let faults = Faults::parse_list(faults).expect("faults");
    let config = Config { faults, immutable_namespaces: vec!["fixed".to_owned()], ..Config::default() };
    emulator::start(config).await.expect("starts")
}

fn settings(emulator: &Emulator, key: &str, encoding: Encoding) -> Settings {
    Settings {
        endpoint: "127.0.0.1".into(),
        port: emulator.local_addr().port(),
        tls: false,
        transport: Transport::Realtime,
        max_message_size: 65_536,
        encoding,
        client_id: String::new(),
        agent: "tokenrelay/test".into(),
        append_rollup: Duration::ZERO,
        ack_timeout: Duration::from_secs(2),
        trust_resume: false,
        requests_after: Duration::from_secs(3_600),
        in_flight_operations: MESSAGES * (APPENDS + 1),
        openings: 0,
        auth: Auth::key(key).expect("a key"),
        lease: Lease::forever(),
    }
}

/// Messages that each get a create and then all their appends at once.
struct Messages {
    heads: HashMap<(ConnectionId, u32), Arc<Head>>,
    ready: Vec<Operation>,
    answered: HashSet<OpId>,
    acked: u64,
}

impl Messages {
    fn new() -> Self {
        let mut messages = Self { heads: HashMap::new(), ready: Vec::new(), answered: HashSet::new(), acked: 0 };
        for connection in 0..CONNECTIONS {
            for message in 0..MESSAGES {
                let id = format!("test.{connection}.{message}");
                let head = Arc::new(Head {
                    channel: format!("ai:{connection}").into(),
                    response_id: id.as_str().into(),
                    part: 0,
                    segment: 0,
                    create_id: id.into(),
                    supersedes: None,
                    prev: None,
                });
                messages.heads.insert((connection, message), head);
                messages.add(connection, message, 0, None);
            }
        }
        messages
    }

    fn add(&mut self, connection: ConnectionId, message: u32, seq: u32, serial: Option<Serial>) {
        let id = OpId { partition: 0, slot: connection, generation: message, seq };
        let kind = if seq == 0 { OpKind::Create } else { OpKind::Append };
        let head = self.heads[&(connection, message)].clone();
        let data = format!(" {seq} \u{1f600}\"").into();
        self.ready.push(Operation {
            id,
            connection,
            kind,
            sender: Arc::default(),
            head,
            serial,
            data,
            keeps_text: false,
            status: Status::Streaming,
            segments: None,
            publish: None,
        });
    }

    fn answer(&mut self, id: OpId, outcome: &Outcome) {
        assert!(self.answered.insert(id), "{id:?} is answered twice");
        if let Outcome::Acked { serial } = outcome {
            self.acked += 1;
            if id.seq == 0 {
                assert!(serial.is_some(), "a create that is acked has a serial");
                (1..=APPENDS).for_each(|seq| self.add(id.slot, id.generation, seq, serial.clone()));
            }
        }
    }

    /// Sends what is ready on connections that are up.
    fn send(&mut self, pool: &mut Pool, up: &HashSet<ConnectionId>) -> usize {
        let (now, later): (Vec<_>, Vec<_>) =
            self.ready.drain(..).partition(|operation| up.contains(&operation.connection));
        self.ready = later;
        let count = now.len();
        let mut by_connection: HashMap<ConnectionId, Vec<Operation>> = HashMap::new();
        now.into_iter().for_each(|operation| by_connection.entry(operation.connection).or_default().push(operation));
        by_connection.into_iter().for_each(|(connection, mut operations)| pool.send(connection, &mut operations));
        count
    }
}

/// Sends everything; gives what became of it.
async fn play(emulator: &Emulator, encoding: Encoding) -> Messages {
    let (sender, mut events) = mpsc::channel(64);
    let mut pool = Pool::new(settings(emulator, "app.key:secret", encoding), sender);
    (0..CONNECTIONS).for_each(|connection| pool.open(connection));
    let (mut messages, mut up, mut in_flight) = (Messages::new(), HashSet::new(), 0);
    while in_flight > 0 || !messages.ready.is_empty() {
        match tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("an event") {
            Event::Up { connection, .. } => drop(up.insert(connection)),
            Event::Down { connection, .. } => drop(up.remove(&connection)),
            Event::Answers(answers) => {
                in_flight -= answers.len();
                answers.iter().for_each(|answer| messages.answer(answer.op, &answer.outcome));
            }
            Event::Lost { connection } => assert!(!up.contains(&connection), "down before it is lost"),
            Event::Closed { connection } | Event::Leaving { connection } | Event::Replaced { connection } => {
                panic!("connection {connection} was to stay")
            }
            Event::Fatal { error, .. } => panic!("{error}"),
        }
        in_flight += messages.send(&mut pool, &up);
    }
    pool.close(Duration::from_secs(5)).await;
    messages
}

#[tokio::test]
async fn without_faults_everything_is_acknowledged() {
    for encoding in [Encoding::Json, Encoding::Msgpack] {
        let emulator = start("").await;
        let messages = play(&emulator, encoding).await;
        let all = u64::from(CONNECTIONS * MESSAGES * (APPENDS + 1));
        assert_eq!((messages.acked, messages.answered.len() as u64), (all, all));
        let stats = emulator.stats();
        assert_eq!((stats.acked, stats.dropped, stats.connections), (all, 0, 0), "and all connections are closed");
        emulator.stop().await;
    }
}

#[tokio::test]
async fn with_faults_everything_is_answered_once() {
    let all = [
        "reject=0.2,seed=1",
        "lose-ack=0.01,seed=2",
        "drop=0.01,seed=3",
        "drop=0.01,refuse-resume=1,seed=4",
        "skip-ack=0.05,seed=5",
        "reject=0.1,lose-ack=0.005,drop=0.005,refuse-resume=0.5,skip-ack=0.02,delay=20,null-serials=true,seed=6",
    ];
    // Most of the time is spent waiting to connect again.
    let plays = all.map(|faults| {
        tokio::spawn(async move {
            let emulator = start(faults).await;
            let messages = play(&emulator, Encoding::Msgpack).await;
            let stats = emulator.stats();
            assert!(messages.acked <= stats.acked + stats.repeated, "{faults}: more is acknowledged than was done");
            assert!(messages.acked > 0, "{faults}: something works");
            emulator.stop().await;
        })
    });
    for play in plays {
        play.await.expect("plays to the end");
    }
}

#[tokio::test]
async fn a_check_finds_what_is_wrong() {
    let emulator = start("").await;
    let good = || settings(&emulator, "app.key:secret", Encoding::Msgpack);
    assert!(probe(good()).await.is_ok());
    assert!(probe_channel(good(), "ai:check").await.is_ok());
    let refused = probe_channel(good(), "fixed:check").await.expect_err("cannot be appended to");
    assert!(matches!(refused, Error::Channel { code: 93002, .. }), "{refused}");
    let refused = probe(settings(&emulator, "app.key:wrong", Encoding::Json)).await.expect_err("a wrong key");
    assert!(refused.is_fatal() && refused.to_string().contains("ably.key_file"), "{refused}");
    emulator.stop().await;
}

#[tokio::test]
async fn a_connection_outlives_its_tokens() {
    let emulator = start("").await;
    let file = tempfile::NamedTempFile::new().expect("a file");
    let jwt = config::Jwt {
        key: Some(Secret::new("app.key:secret".to_owned())),
        ttl: Duration::from_secs(2),
        client_id: "relay".to_owned(),
        key_file: file.path().to_owned(),
    };
    std::fs::write(file.path(), "app.key:secret").expect("written");
    let config = config::Ably { jwt, ..config::Ably::default() };
    let auth = Auth::from_config(&config).expect("a key that signs");
    let (sender, mut events) = mpsc::channel(16);
    let mut pool = Pool::new(Settings { auth, ..settings(&emulator, "app.key:secret", Encoding::Msgpack) }, sender);
    pool.open(0);
    let mut first = None;
    for _ in 0..4 {
        let event = timeout(PATIENCE, events.recv()).await.expect("in time").expect("it lives");
        let Event::Up { resumed, ably_id, client_id, .. } = event else { panic!("{event:?}") };
        assert_eq!(client_id.as_deref(), Some("relay"));
        assert_eq!(resumed, first.is_some(), "it is told that its credentials are newer, and stays");
        assert_eq!(*first.get_or_insert_with(|| ably_id.clone()), ably_id);
    }
    emulator.stop().await;
}
