//! Requests against a small server of our own making, over real sockets: operations and credentials here, hosts in `hosts`.

mod batches;
mod hosts;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::ably::fixtures;
use crate::ably::lease::{Lease, Moment};
use crate::ably::pool::Pool;
use crate::config::{self, Secret, Transport};
use crate::engine::{Class, OpKind, Rejection};

const PATIENCE: Duration = Duration::from_secs(20);

fn operation(seq: u32, kind: OpKind) -> Operation {
    fixtures::operation(0, seq, kind, "ai:x/y")
}

/// A request as the server sees it, to be answered, or dropped together with its connection.
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Value,
    reply: oneshot::Sender<Response>,
}

impl Seen {
    fn reply(self, status: u16, headers: &[(&'static str, &str)], body: impl ToString) {
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        for (name, value) in headers {
            response.headers_mut().insert(*name, value.parse().expect("a value"));
        }
        // Whoever has asked may have gone.
        let _ = self.reply.send(response);
    }

    fn refuse(self, code: u32, status: u16) {
        let error = json!({"error": {"code": code, "statusCode": status, "message": "no"}});
        self.reply(status, &[], error);
    }
}

/// A lane and its server.
struct Stage {
    pool: Pool,
    events: mpsc::Receiver<Event>,
    requests: mpsc::Receiver<Seen>,
}

impl Stage {
    /// A lane that is up.
    async fn up(change: impl FnOnce(&mut Settings)) -> Self {
        let mut stage = Self::open(change).await;
        stage.next_request().await.reply(200, &[], "[]");
        match stage.event().await {
            Event::Up { pipelining: Pipelining::Off, max_message_size: 1_234, .. } => stage,
            other => panic!("{other:?}"),
        }
    }

    async fn open(change: impl FnOnce(&mut Settings)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let requests = serves(listener);
        let mut settings = fixtures::settings(Transport::Rest, port);
        settings.max_message_size = 1_234;
        change(&mut settings);
        let (sender, events) = mpsc::channel(16);
        let mut pool = Pool::new(settings, sender);
        pool.open(0);
        Self { pool, events, requests }
    }

    fn send(&mut self, operation: Operation) {
        self.pool.send(0, &mut vec![operation]);
    }

    async fn event(&mut self) -> Event {
        next(&mut self.events).await
    }

    async fn next_request(&mut self) -> Seen {
        next(&mut self.requests).await
    }

    async fn outcome(&mut self) -> Outcome {
        match self.event().await {
            Event::Answers(mut answers) if answers.len() == 1 => answers.remove(0).outcome,
            other => panic!("{other:?}"),
        }
    }
}

async fn next<T>(receiver: &mut mpsc::Receiver<T>) -> T {
    timeout(PATIENCE, receiver.recv()).await.expect("in time").expect("one more")
}

/// Whatever is asked of a server.
fn serves(listener: TcpListener) -> mpsc::Receiver<Seen> {
    let (sender, requests) = mpsc::channel(16);
    let router = Router::new().fallback(move |request: Request| serve(request, sender.clone()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    requests
}

async fn serve(request: Request, sender: mpsc::Sender<Seen>) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let (reply, replied) = oneshot::channel();
    let seen = Seen {
        method: parts.method,
        path: parts.uri.to_string(),
        headers: parts.headers,
        body: serde_json::from_slice(&body).unwrap_or_default(),
        reply,
    };
    let _ = sender.send(seen).await;
    match replied.await {
        Ok(response) => response,
        Err(_) => {
            let broken = futures_util::stream::iter([Err::<Vec<u8>, _>("cut off")]);
            Response::new(Body::from_stream(broken))
        }
    }
}

#[tokio::test]
async fn operations_become_requests_and_their_answers() {
    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Create));
    let create = stage.next_request().await;
    assert_eq!((&create.method, &*create.path), (&Method::POST, "/channels/ai%3Ax%2Fy/messages"));
    assert_eq!(create.headers["authorization"], "Basic YXBwLmlkOnNlY3JldA==");
    assert_eq!(create.headers["x-ably-version"], "6");
    assert_eq!(create.headers["content-type"], "application/json");
    assert_eq!((&create.body["id"], &create.body["data"]), (&json!("c:0"), &json!("text")));
    create.reply(201, &[], json!({"channel": "ai:x/y", "messageId": "c:0", "serials": ["S@1"]}));
    assert_eq!(stage.outcome().await, Outcome::Acked { serial: Some("S@1".into()) });

    stage.send(operation(1, OpKind::Append));
    let append = stage.next_request().await;
    assert_eq!((&append.method, &*append.path), (&Method::PATCH, "/channels/ai%3Ax%2Fy/messages/S%401"));
    assert_eq!((&append.body["action"], &append.body["serial"]), (&json!(5), &json!("S@1")));
    append.reply(200, &[], json!({"versionSerial": "S@2"}));
    assert_eq!(stage.outcome().await, Outcome::Acked { serial: Some("S@2".into()) });

    stage.send(operation(2, OpKind::Update));
    stage.next_request().await.reply(200, &[], json!({"versionSerial": null}));
    assert_eq!(stage.outcome().await, Outcome::Acked { serial: None });
}

#[tokio::test]
async fn what_does_not_say_what_became_of_an_operation_is_unknown() {
    let mut stage = Stage::up(|settings| settings.ack_timeout = Duration::from_millis(300)).await;
    let unknown = Outcome::Unknown(Doubt::NoAnswer);
    stage.send(operation(0, OpKind::Append));
    drop(stage.next_request().await);
    assert_eq!(stage.outcome().await, unknown, "the connection broke");
    stage.send(operation(1, OpKind::Append));
    stage.next_request().await.refuse(50003, 503);
    assert_eq!(stage.outcome().await, unknown, "the server failed while it had it");
    stage.send(operation(2, OpKind::Append));
    stage.next_request().await.reply(200, &[], json!({"versionSerial": "S@9"}));
    assert_eq!(stage.outcome().await, Outcome::Acked { serial: Some("S@9".into()) }, "failures are in a row or none");
    stage.send(operation(3, OpKind::Append));
    stage.next_request().await.reply(200, &[], "<html>Welcome to this hotel</html>");
    assert_eq!(stage.outcome().await, unknown, "somebody else answered");
    stage.send(operation(4, OpKind::Append));
    stage.next_request().await.reply(200, &[], "{}");
    assert_eq!(stage.outcome().await, unknown, "an answer without an answer");
    stage.send(operation(5, OpKind::Append));
    let never_answered = stage.next_request().await;
    assert_eq!(stage.outcome().await, unknown, "it took too long");
    drop(never_answered);
    // That was once too often: nothing is sent before the host has answered a question.
    assert!(matches!(stage.event().await, Event::Down { .. }));
    stage.send(operation(6, OpKind::Append));
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { class: Class::Connection, .. })));
    let question = stage.next_request().await;
    assert_eq!(question.path, "/stats?limit=1");
    question.refuse(40160, 401);
    assert!(matches!(stage.event().await, Event::Up { .. }), "it need not have an answer to that");
    stage.send(operation(7, OpKind::Create));
    stage.next_request().await.reply(201, &[], json!({"serials": [null]}));
    assert_eq!(stage.outcome().await, Outcome::Unknown(Doubt::NoSerial));
}

#[tokio::test]
async fn a_refusal_is_certain_and_a_request_that_never_left_is_one() {
    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Append));
    stage.next_request().await.refuse(93002, 400);
    let Outcome::Rejected(rejection) = stage.outcome().await else { panic!("it was refused") };
    assert_eq!((rejection.code, rejection.class), (93002, Class::Channel));

    let closed = TcpListener::bind("127.0.0.1:0").await.expect("binds").local_addr().expect("an address").port();
    let mut stage = Stage::open(|settings| settings.port = closed).await;
    assert!(matches!(stage.event().await, Event::Down { reason: Error::Unreachable { .. }, .. }));
    stage.send(operation(0, OpKind::Append));
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { code: fault::DISCONNECTED, .. })));
}

#[tokio::test]
async fn credentials_that_are_no_good_stop_it_and_aged_ones_are_renewed() {
    let mut stage = Stage::open(|_| {}).await;
    stage.next_request().await.refuse(40101, 401);
    assert!(matches!(stage.event().await, Event::Down { .. }));
    assert!(matches!(stage.event().await, Event::Fatal { error: Error::Refused { code: 40101, .. }, .. }));

    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Append));
    stage.next_request().await.refuse(40142, 401);
    let again = stage.next_request().await;
    assert_eq!(again.method, Method::PATCH);
    again.reply(200, &[], json!({"versionSerial": "S@2"}));
    assert_eq!(stage.outcome().await, Outcome::Acked { serial: Some("S@2".into()) });
    stage.send(operation(1, OpKind::Append));
    stage.next_request().await.refuse(40131, 401);
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { class: Class::Account, .. })));
    assert!(matches!(stage.event().await, Event::Down { .. }));
    assert!(matches!(stage.event().await, Event::Fatal { error: Error::Refused { code: 40131, .. }, .. }));
}

/// Whom a request says that it is from.
fn shown(seen: &Seen) -> String {
    let shown = seen.headers["authorization"].to_str().expect("text").strip_prefix("Basic ").expect("a key");
    String::from_utf8(STANDARD.decode(shown).expect("base64")).expect("a key")
}

/// A lane whose first key has been rolled: `app.id:next` serves. And the file that held both.
async fn rolled() -> (Stage, NamedTempFile) {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(&file, "app.id:first").expect("written");
    let config = config::Ably {
        key: Some(Secret::new("app.id:first".to_owned())),
        key_file: file.path().to_owned(),
        ..config::Ably::default()
    };
    let auth = Auth::from_config(&config).expect("a key");
    let mut stage = Stage::up(|settings| settings.auth = auth).await;
    std::fs::write(&file, "app.id:next").expect("written");
    stage.send(operation(0, OpKind::Append));
    let first = stage.next_request().await;
    assert_eq!(shown(&first), "app.id:first");
    first.refuse(40131, 401);
    let next = stage.next_request().await;
    assert_eq!(shown(&next), "app.id:next");
    next.reply(200, &[], json!({"versionSerial": "S@2"}));
    assert!(matches!(stage.outcome().await, Outcome::Acked { .. }));
    (stage, file)
}

#[tokio::test]
async fn a_lane_that_begins_late_goes_on_with_the_key_that_serves() {
    let (mut stage, file) = rolled().await;
    std::fs::write(&file, "app.id:wrong").expect("written");
    stage.pool.open(1);
    let wrong = stage.next_request().await;
    assert_eq!(shown(&wrong), "app.id:wrong");
    wrong.refuse(40101, 401);
    let serving = stage.next_request().await;
    assert_eq!(shown(&serving), "app.id:next", "not the first, which may have been revoked");
    serving.reply(200, &[], "[]");
    assert!(matches!(stage.event().await, Event::Up { connection: 1, .. }));
}

#[tokio::test]
async fn a_key_that_is_refused_does_not_take_the_place_of_the_one_that_serves() {
    let (mut stage, file) = rolled().await;
    for content in ["app.id:wrong", "half writt"] {
        std::fs::write(&file, content).expect("written");
        stage.send(operation(1, OpKind::Append));
        // Nothing gets through for a while, and then the host does not know yet who may come in.
        stage.next_request().await.reply(503, &[("retry-after", "0")], "away");
        assert_eq!(stage.outcome().await, Outcome::Unknown(Doubt::NoAnswer));
        assert!(matches!(stage.event().await, Event::Down { .. }));
        for is_away in [true, false] {
            if content == "app.id:wrong" {
                let wrong = stage.next_request().await;
                assert_eq!(shown(&wrong), content);
                wrong.refuse(40101, 401);
            }
            let serving = stage.next_request().await;
            assert_eq!(shown(&serving), "app.id:next");
            match is_away {
                true => serving.reply(503, &[], "away"),
                false => serving.reply(200, &[], "[]"),
            }
            let event = stage.event().await;
            assert!(matches!((is_away, &event), (true, Event::Down { .. }) | (false, Event::Up { .. })), "{event:?}");
        }
    }
}

#[tokio::test]
async fn an_operation_that_a_new_key_is_refused_for_leaves_the_one_that_serves() {
    let (mut stage, file) = rolled().await;
    std::fs::write(&file, "app.id:wrong").expect("written");
    stage.send(operation(1, OpKind::Append));
    for (key, code) in [("app.id:next", 40131), ("app.id:wrong", 40101)] {
        let seen = stage.next_request().await;
        assert_eq!(shown(&seen), key);
        seen.refuse(code, 401);
    }
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { class: Class::Account, .. })));
    assert!(matches!(stage.event().await, Event::Down { .. }));
    assert!(matches!(stage.event().await, Event::Fatal { .. }));
    stage.pool.open(1);
    stage.next_request().await.refuse(40101, 401);
    let serving = stage.next_request().await;
    assert_eq!(shown(&serving), "app.id:next");
    serving.reply(200, &[], "[]");
    assert!(matches!(stage.event().await, Event::Up { connection: 1, .. }));
}

#[tokio::test]
async fn whoever_asks_to_be_left_alone_is() {
    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Append));
    let started = Instant::now();
    let error = json!({"error": {"code": 42910, "statusCode": 429, "message": "slow down"}});
    stage.next_request().await.reply(429, &[("retry-after", "2")], error);
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { class: Class::RateLimited, .. })));
    assert!(matches!(stage.event().await, Event::Down { .. }));
    stage.next_request().await.reply(200, &[], "[]");
    assert!(started.elapsed() >= Duration::from_secs(2));
    assert!(matches!(stage.event().await, Event::Up { .. }));

    // Also where nobody knows what became of it.
    stage.send(operation(1, OpKind::Append));
    let started = Instant::now();
    stage.next_request().await.reply(503, &[("retry-after", "1")], "overloaded");
    assert_eq!(stage.outcome().await, Outcome::Unknown(Doubt::NoAnswer));
    assert!(matches!(stage.event().await, Event::Down { .. }));
    stage.next_request().await.reply(200, &[], "[]");
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert!(matches!(stage.event().await, Event::Up { .. }));
}

#[tokio::test]
async fn nothing_leaves_without_the_lease() {
    let lease = Lease::new(Duration::from_secs(3_600));
    lease.renew(Moment::now());
    let short = Lease::new(Duration::ZERO);
    let held = lease.clone();
    let mut stage = Stage::up(|settings| settings.lease = held).await;
    stage.send(operation(0, OpKind::Append));
    stage.next_request().await.reply(200, &[], json!({"versionSerial": "S@2"}));
    assert!(matches!(stage.outcome().await, Outcome::Acked { .. }));

    let mut stage = Stage::up(|settings| settings.lease = short).await;
    stage.send(operation(0, OpKind::Append));
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { code: fault::DISCONNECTED, .. })));
}

#[tokio::test]
async fn what_is_given_up_is_unknown_and_its_answer_is_nobodys() {
    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Append));
    let first = stage.next_request().await;
    stage.pool.abandon(0);
    assert_eq!(stage.outcome().await, Outcome::Unknown(Doubt::NoAnswer));
    first.reply(200, &[], json!({"versionSerial": "S@2"}));
    stage.send(operation(1, OpKind::Update));
    stage.next_request().await.reply(200, &[], json!({"versionSerial": "S@3"}));
    assert_eq!(stage.outcome().await, Outcome::Acked { serial: Some("S@3".into()) });
}

#[tokio::test]
async fn the_end_waits_for_answers_but_not_for_ever() {
    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Append));
    let request = stage.next_request().await;
    let closing = tokio::spawn(stage.pool.close(PATIENCE));
    request.reply(200, &[], json!({"versionSerial": "S@2"}));
    assert!(matches!(stage.outcome().await, Outcome::Acked { .. }));
    closing.await.expect("closed");

    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Append));
    let _never_answered = stage.next_request().await;
    let closing = tokio::spawn(stage.pool.close(Duration::from_millis(50)));
    assert_eq!(stage.outcome().await, Outcome::Unknown(Doubt::Stopped));
    closing.await.expect("closed");
}

#[tokio::test]
async fn a_token_that_lacks_a_right_is_read_again_and_a_key_is_not() {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(&file, "a-token").expect("written");
    let config = config::Ably {
        token: Some(Secret::new("a-token".to_owned())),
        token_file: Some(file.path().to_owned()),
        ..config::Ably::default()
    };
    let auth = Auth::from_config(&config).expect("a token");
    let mut stage = Stage::up(|settings| settings.auth = auth).await;
    stage.send(operation(0, OpKind::Append));
    let refused = stage.next_request().await;
    std::fs::write(&file, "another").expect("written");
    refused.refuse(40160, 401);
    let again = stage.next_request().await;
    assert_eq!(again.headers["authorization"], format!("Bearer {}", STANDARD.encode("another")));
    again.refuse(40160, 401);
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { code: 40160, class: Class::Channel, .. })));
    let mut stage = Stage::up(|_| {}).await;
    stage.send(operation(0, OpKind::Append));
    stage.next_request().await.refuse(40160, 401);
    assert!(matches!(stage.outcome().await, Outcome::Rejected(Rejection { code: 40160, .. })));
}
