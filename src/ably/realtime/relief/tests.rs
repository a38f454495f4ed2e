//! A server that takes no WebSockets at first, but requests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{State as With, WebSocketUpgrade, ws};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::ably::auth::Auth;
use crate::ably::fixtures;
use crate::ably::pool::Pool;
use crate::config::{self, Secret, Transport};
use crate::engine::{OpKind, Outcome, Pipelining};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Server {
    /// Whether WebSockets are taken, and served.
    is_open: AtomicBool,
    /// Keys with which nobody may ask anything.
    refused: Mutex<Vec<&'static str>>,
}

impl Server {
    fn open(&self, is_open: bool) {
        self.is_open.store(is_open, Ordering::Release);
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    async fn closes(&self) {
        while self.is_open() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

async fn websocket(With(server): With<Arc<Server>>, upgrade: WebSocketUpgrade) -> impl IntoResponse {
    match server.is_open() {
        true => upgrade.on_upgrade(|socket| serve(socket, server)).into_response(),
        false => StatusCode::FORBIDDEN.into_response(),
    }
}

async fn stats(With(server): With<Arc<Server>>, headers: HeaderMap) -> Response {
    let refused = server.refused.lock().expect("not poisoned");
    let is_shown = |key: &&str| headers["authorization"] == format!("Basic {}", STANDARD.encode(key));
    match refused.iter().any(is_shown) {
        true => {
            let error = json!({"error": {"code": 40101, "statusCode": 401, "message": "no"}});
            (StatusCode::UNAUTHORIZED, error.to_string()).into_response()
        }
        false => "[]".into_response(),
    }
}

/// Answers each frame.
async fn serve(mut socket: ws::WebSocket, server: Arc<Server>) {
    let connected = json!({"action": 4, "connectionId": "id", "connectionDetails": {"connectionKey": "key"}});
    let mut say = Some(connected);
    loop {
        if let Some(frame) = say.take()
            && socket.send(ws::Message::Text(frame.to_string().into())).await.is_err()
        {
            return;
        }
        let heard = tokio::select! {
            heard = socket.recv() => heard,
            () = server.closes() => return,
        };
        let Some(Ok(ws::Message::Text(text))) = heard else { return };
        let frame: Value = serde_json::from_str(&text).expect("JSON");
        say = (frame["action"] == 15).then(
            || json!({"action": 1, "msgSerial": frame["msgSerial"], "count": 1, "res": [{"serials": ["by frame"]}]}),
        );
    }
}

async fn requested() -> String {
    json!({"versionSerial": "by request"}).to_string()
}

struct Stage {
    pool: Pool,
    events: mpsc::Receiver<Event>,
    server: Arc<Server>,
}

impl Stage {
    async fn start() -> Self {
        Self::with(false, Auth::key("app.id:secret").expect("a key")).await
    }

    async fn with(is_open: bool, auth: Auth) -> Self {
        let server = Arc::new(Server::default());
        server.open(is_open);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new()
            .route("/", any(websocket))
            .route("/stats", get(stats))
            .fallback(requested)
            .with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut settings = fixtures::settings(Transport::Realtime, port);
        settings.requests_after = Duration::from_millis(50);
        settings.auth = auth;
        let (sender, events) = mpsc::channel(16);
        let mut pool = Pool::new(settings, sender);
        pool.open(0);
        Self { pool, events, server }
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("an event")
    }

    async fn up(&mut self) -> Pipelining {
        self.up_again().await.0
    }

    /// How operations go, and whether it was said before that they go another way than those that went last.
    async fn up_again(&mut self) -> (Pipelining, bool) {
        let mut is_another = false;
        loop {
            match self.event().await {
                Event::Up { pipelining, .. } => return (pipelining, is_another),
                Event::Lost { .. } | Event::Replaced { .. } => is_another = true,
                Event::Down { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Sends an append; gives the version that it made.
    async fn append(&mut self, seq: u32) -> Option<String> {
        self.pool.send(0, &mut vec![fixtures::operation(0, seq, OpKind::Append, "ai:x")]);
        match self.event().await {
            Event::Answers(answers) => match &answers[0].outcome {
                Outcome::Acked { serial } => serial.as_deref().map(str::to_owned),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn requests_serve_while_no_websocket_is_to_be_had_and_no_longer() {
    let mut stage = Stage::start().await;
    assert_eq!(stage.up().await, Pipelining::Off);
    assert_eq!(stage.append(0).await.as_deref(), Some("by request"));
    stage.server.open(true);
    match stage.event().await {
        Event::Down { reason: Error::TransportLost(_), .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.up().await, Pipelining::On);
    assert_eq!(stage.append(1).await.as_deref(), Some("by frame"));
    stage.pool.close(PATIENCE).await;
}

#[tokio::test]
async fn that_operations_go_another_way_is_said_before_the_first_does() {
    let mut stage = Stage::with(true, Auth::key("app.id:secret").expect("a key")).await;
    assert_eq!(stage.up().await, Pipelining::On);
    assert_eq!(stage.append(0).await.as_deref(), Some("by frame"));
    for turn in 0..2 {
        // Nothing is unanswered, but what was acknowledged may not have been published yet.
        stage.server.open(false);
        assert_eq!(stage.up_again().await, (Pipelining::Off, true), "requests, turn {turn}");
        assert_eq!(stage.append(2 * turn + 1).await.as_deref(), Some("by request"));
        stage.server.open(true);
        assert_eq!(stage.up_again().await, (Pipelining::On, true), "frames, turn {turn}");
        assert_eq!(stage.append(2 * turn + 2).await.as_deref(), Some("by frame"));
    }
    stage.pool.close(PATIENCE).await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_websocket() {
    let mut stage = Stage::start().await;
    assert_eq!(stage.up().await, Pipelining::Off);
    stage.pool.close(PATIENCE).await;
}

#[tokio::test]
async fn requests_show_the_key_that_was_taken_last() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, "app.id:next").expect("written");
    let (key, key_file) = (Some(Secret::new("app.id:first".to_owned())), file.path().to_owned());
    let auth = Auth::from_config(&config::Ably { key, key_file, ..config::Ably::default() }).expect("a key");
    let mut stage = Stage::with(true, auth).await;
    assert_eq!(stage.up().await, Pipelining::On);
    std::fs::write(&file, "app.id:wrong").expect("written");
    *stage.server.refused.lock().expect("not poisoned") = vec!["app.id:first", "app.id:wrong"];
    stage.server.open(false);
    stage.pool.send(0, &mut vec![fixtures::operation(0, 0, OpKind::Append, "ai:x")]);
    let pipelining = loop {
        match stage.event().await {
            Event::Up { pipelining, .. } => break pipelining,
            Event::Down { .. } | Event::Lost { .. } | Event::Replaced { .. } | Event::Answers(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pipelining, Pipelining::Off);
    assert_eq!(stage.append(1).await.as_deref(), Some("by request"));
}
