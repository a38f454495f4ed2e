//! A server that takes no WebSockets at first, but requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{State as With, WebSocketUpgrade, ws};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{any, get};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use crate::ably::fault::Error;
use crate::ably::fixtures;
use crate::ably::pool::Pool;
use crate::config::Transport;
use crate::engine::{OpKind, Outcome, Pipelining};

const PATIENCE: Duration = Duration::from_secs(20);

/// Whether WebSockets are taken by now.
type Open = Arc<AtomicBool>;

async fn websocket(With(open): With<Open>, upgrade: WebSocketUpgrade) -> impl IntoResponse {
    match open.load(Ordering::Acquire) {
        true => upgrade.on_upgrade(serve).into_response(),
        false => StatusCode::FORBIDDEN.into_response(),
    }
}

/// Answers each frame.
async fn serve(mut socket: ws::WebSocket) {
    let connected = json!({"action": 4, "connectionId": "id", "connectionDetails": {"connectionKey": "key"}});
    let mut say = Some(connected);
    loop {
        if let Some(frame) = say.take()
            && socket.send(ws::Message::Text(frame.to_string().into())).await.is_err()
        {
            return;
        }
        let Some(Ok(ws::Message::Text(text))) = socket.recv().await else { return };
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
    open: Open,
}

impl Stage {
    async fn start() -> Self {
        let open = Open::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("an address").port();
        let router = Router::new()
            .route("/", any(websocket))
            .route("/stats", get(async || "[]"))
            .fallback(requested)
            .with_state(open.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let mut settings = fixtures::settings(Transport::Realtime, port);
        settings.requests_after = Duration::from_millis(50);
        let (sender, events) = mpsc::channel(16);
        let mut pool = Pool::new(settings, sender);
        pool.open(0);
        Self { pool, events, open }
    }

    async fn event(&mut self) -> Event {
        timeout(PATIENCE, self.events.recv()).await.expect("in time").expect("an event")
    }

    async fn up(&mut self) -> Pipelining {
        loop {
            match self.event().await {
                Event::Up { pipelining, .. } => return pipelining,
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
    stage.open.store(true, Ordering::Release);
    match stage.event().await {
        Event::Down { reason: Error::TransportLost(_), .. } => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.up().await, Pipelining::On);
    assert_eq!(stage.append(1).await.as_deref(), Some("by frame"));
    stage.pool.close(PATIENCE).await;
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_websocket() {
    let mut stage = Stage::start().await;
    assert_eq!(stage.up().await, Pipelining::Off);
    stage.pool.close(PATIENCE).await;
}
