//! The subscriber against a server that plays a script: what it must do when continuity is lost.

use tokio::net::TcpListener;
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use super::*;

type ServerSocket = WebSocketStream<TcpStream>;

/// The next connection, and the key that it wants to resume with.
async fn accept(listener: &TcpListener) -> (ServerSocket, Option<String>) {
    let (stream, _) = listener.accept().await.expect("somebody connects");
    let mut resume = None;
    #[expect(clippy::result_large_err, reason = "the library's signature")]
    let look = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let query = request.uri().query().unwrap_or_default();
        resume = query.split('&').find_map(|pair| pair.strip_prefix("resume=").map(str::to_owned));
        Ok(response)
    };
    let socket = accept_hdr_async(stream, look).await.expect("a WebSocket");
    (socket, resume)
}

async fn say(socket: &mut ServerSocket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.expect("is sent");
}

async fn hear(socket: &mut ServerSocket) -> Value {
    let message = socket.next().await.expect("is open").expect("is a message");
    serde_json::from_str(message.to_text().expect("is text")).expect("is JSON")
}

fn message(action: u8, version: &str, data: &str) -> Value {
    json!({
        "action": action::MESSAGE, "channel": "demo:x", "channelSerial": version, "messages": [{
            "action": action, "serial": "a", "data": data, "version": { "serial": version },
            "extras": { "headers": { "responseId": "r", "status": "streaming" } },
        }],
    })
}

async fn text(reader: &Reader, wanted: &str) {
    while reader.seen("demo:x").first().is_none_or(|seen| seen.text != wanted) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_gap_is_closed_with_a_rewind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/?format=json", listener.local_addr().expect("has one"));
    let mut reader = Reader::start(&url, &["demo:x".to_owned()]);

    let (mut socket, resume) = accept(&listener).await;
    assert_eq!(resume, None);
    say(&mut socket, json!({ "action": action::CONNECTED, "connectionId": "one", "connectionKey": "k!1" })).await;
    assert_eq!(hear(&mut socket).await, json!({ "action": action::ATTACH, "channel": "demo:x" }));
    say(&mut socket, json!({ "action": action::ATTACHED, "channel": "demo:x", "channelSerial": "0", "flags": 0 }))
        .await;
    reader.attached(1).await;
    say(&mut socket, message(0, "a", "Hel")).await;
    say(&mut socket, message(5, "b", "lo")).await;
    text(&reader, "Hello").await;
    drop(socket);

    let (mut socket, resume) = accept(&listener).await;
    assert_eq!(resume.as_deref(), Some("k%211"));
    say(&mut socket, json!({ "action": action::CONNECTED, "connectionId": "two", "connectionKey": "k2" })).await;
    let again = json!({ "action": action::ATTACH, "channel": "demo:x", "channelSerial": "b" });
    assert_eq!(hear(&mut socket).await, again);
    say(&mut socket, json!({ "action": action::ATTACHED, "channel": "demo:x", "flags": 0 })).await;
    assert_eq!(hear(&mut socket).await, json!({ "action": action::DETACH, "channel": "demo:x" }));
    say(&mut socket, json!({ "action": action::DETACHED, "channel": "demo:x" })).await;
    let rewound = json!({ "action": action::ATTACH, "channel": "demo:x", "params": { "rewind": "100" } });
    assert_eq!(hear(&mut socket).await, rewound);
    say(&mut socket, json!({ "action": action::ATTACHED, "channel": "demo:x", "channelSerial": "d", "flags": 2 }))
        .await;
    say(&mut socket, message(1, "d", "Hello, world")).await;
    text(&reader, "Hello, world").await;
}
