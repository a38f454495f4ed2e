//! The same server for operations that come as requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::{Method, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{State, Text};

/// A version that is later than any other.
const LATEST: &str = "99999999999999-000@sinksinksi:000";

#[derive(Clone)]
struct Server {
    state: Arc<Mutex<State>>,
    serials: Arc<AtomicU64>,
}

pub(super) async fn serve(listener: std::net::TcpListener, state: Arc<Mutex<State>>) {
    listener.set_nonblocking(true).expect("is not blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let server = Server { state, serials: Arc::default() };
    let router = Router::new().fallback(answer).with_state(server);
    axum::serve(listener, router).await.expect("serves");
}

/// Shows a message to whoever takes it over and looks at it first: as a relay has left it, and nobody else.
pub(super) async fn show(mut stream: TcpStream, head: &str) {
    let path = head.split(' ').nth(1).unwrap_or_default();
    let serial = path.rsplit('/').next().map(|serial| percent_decode_str(serial).decode_utf8_lossy());
    let version =
        serde_json::json!({"serial": LATEST, "metadata": {"phase": "streaming", "instance": "one", "epoch": "1"}});
    let body = match path.contains("/versions") {
        true => "[]".to_owned(),
        false => serde_json::json!({"action": 1, "serial": serial, "data": "", "version": version}).to_string(),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _asked = stream.read(&mut [0; 8_192]).await;
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// A create is posted, anything else patches; what asks for something else gets nothing.
async fn answer(Shared(server): Shared<Server>, method: Method, body: Bytes) -> Response {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase", untagged)]
    enum Taken {
        #[serde(rename_all = "camelCase")]
        Created { serials: [String; 1] },
        #[serde(rename_all = "camelCase")]
        Changed { version_serial: String },
    }
    let number = server.serials.fetch_add(1, Ordering::Relaxed);
    let serial = format!("{number:014}-000@sinksinksi:000");
    let taken = match method {
        Method::POST => Taken::Created { serials: [serial] },
        Method::PATCH => Taken::Changed { version_serial: serial },
        _ => return media(vec![0x90]),
    };
    server.state.lock().expect("not poisoned").look_at_body(&body);
    media(rmp_serde::to_vec_named(&taken).expect("encodes"))
}

fn media(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/x-msgpack")], body).into_response()
}

impl State {
    fn look_at_body(&mut self, body: &[u8]) {
        let now = self.arrived(1);
        if self.is_looking() {
            let text: Text<'_> = rmp_serde::from_slice(body).expect("a message");
            self.look_at_text(now, &text.data);
        }
    }
}
