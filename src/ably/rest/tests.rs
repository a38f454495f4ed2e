//! Requests against a small server of our own making, over real sockets.

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;
use crate::ably::fixtures;
use crate::ably::lease::{Lease, Moment};
use crate::ably::pool::Pool;
use crate::config::Transport;
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
        let (sender, requests) = mpsc::channel(16);
        let router = Router::new().fallback(move |request: Request| serve(request, sender.clone()));
        tokio::spawn(async move { axum::serve(listener, router).await });
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
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("an event")
    }

    async fn next_request(&mut self) -> Seen {
        timeout(PATIENCE, self.requests.recv()).await.expect("in time").expect("a request")
    }

    async fn outcome(&mut self) -> Outcome {
        match self.event().await {
            Event::Answers(mut answers) if answers.len() == 1 => answers.remove(0).outcome,
            other => panic!("{other:?}"),
        }
    }
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
