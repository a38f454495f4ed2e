//! What a stranger can send, and what it gets for it.

use tokio_tungstenite::tungstenite::Message;

use super::*;
use futures_util::SinkExt;

/// The last frame of a connection that goes wrong: its code, and whether it is about a channel.
async fn end(raw: &mut Raw) -> (u64, bool) {
    let frame = raw.frame().await.expect("a last frame");
    assert_eq!(frame["action"], ERROR, "{frame}");
    assert_eq!(raw.frame().await, None, "then it is over");
    (frame["error"]["code"].as_u64().expect("a code"), frame.get("channel").is_some())
}

#[tokio::test]
async fn nobody_comes_in_without_a_key() {
    let emulator = start("").await;
    for (query, code) in [
        ("", 40101),
        ("key=nonsense", 40005),
        ("key=app.key:wrong", 40101),
        ("access_token=nonsense", 40143),
        ("access_token=a.b.c", 40144),
        ("key=app.key:secret&v=1", 40017),
        ("key=app.key:secret&appendRollupWindow=soon", 80015),
    ] {
        let mut raw = Raw::open(&emulator, query).await;
        assert_eq!(end(&mut raw).await, (code, false), "{query}");
    }
    assert_eq!(emulator.stats().connected, 0);
}

#[tokio::test]
async fn frames_that_are_none_end_the_connection() {
    let emulator = start("").await;
    for (frame, code) in [
        (Message::text("nonsense"), 40000),
        (Message::text(r#"{"action":"create"}"#), 40000),
        (Message::text(r#"{"action":15,"channel":"x","messages":[{}]}"#), 40000),
        (Message::text("x".repeat(600_000)), 40009),
    ] {
        let (mut raw, _) = Raw::connect(&emulator, "").await;
        raw.socket.send(frame).await.expect("sent");
        assert_eq!(end(&mut raw).await, (code, false));
    }
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    raw.send(json!({"action": 99, "later": {"a": [1]}, "channel": null})).await;
    raw.create("ai:x", 0, "still there").await;
}

#[tokio::test]
async fn operations_that_are_none_are_refused_one_by_one() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("ai:x", 0, "").await;
    let many: Vec<Value> = (0..1_001).map(|_| json!({"data": ""})).collect();
    let frames = [
        (json!([]), 40000),
        (json!(many), 40034),
        (json!([append(&serial, "a"), append(&serial, "b")]), 40000),
        (json!([{"action": 3, "serial": serial}]), 40000),
        (json!([{"action": 5, "data": "x"}]), 40400),
        (json!([{"data": "x".repeat(66_000)}]), 40009),
        (json!([{"data": "", "clientId": "*"}]), 40012),
        (json!([{"data": "", "extras": 5}]), 40032),
    ];
    for (msg_serial, (messages, code)) in (1..).zip(frames) {
        let frame = json!({"action": MESSAGE, "channel": "ai:x", "msgSerial": msg_serial, "messages": messages});
        raw.send(frame).await;
        assert_eq!(raw.answers(1).await, [(NACK, msg_serial, 1, code)]);
    }
    for (msg_serial, name) in (9..).zip(["", ":x", "[x", "a\nb"]) {
        raw.publish(name, msg_serial, [json!({"data": ""})]).await;
        assert_eq!(raw.answers(1).await, [(NACK, msg_serial, 1, 40010)], "{name:?}");
    }
    let presence = json!({"action": 14, "channel": "ai:x", "msgSerial": 13, "presence": []});
    raw.send(presence).await;
    assert_eq!(raw.answers(1).await, [(NACK, 13, 1, 40000)]);
}

#[tokio::test]
async fn rates_refuse_and_then_end() {
    let emulator = start("rate-limit=10").await;
    let (mut raw, connected) = Raw::connect(&emulator, "").await;
    assert_eq!(connected["connectionDetails"]["maxInboundRate"], 10);
    let creates = || std::iter::repeat_with(|| json!({"data": "x"}));
    raw.publish("ai:x", 0, creates().take(50)).await;
    let answers = raw.answers(50).await;
    assert!(answers.iter().any(|answer| answer.3 == 42911), "{answers:?}");
    set(&emulator, "channel-bytes-limit=1000");
    raw.publish("ai:y", 50, std::iter::repeat_with(|| json!({"data": "x".repeat(400)})).take(5)).await;
    assert!(raw.answers(5).await.iter().any(|answer| answer.3 == 42914));
    set(&emulator, "fatal-rate-limit=20");
    raw.publish("ai:z", 55, creates().take(50)).await;
    let last = loop {
        let frame = raw.frame().await.expect("a last frame");
        if frame["action"] == 6 {
            break frame;
        }
    };
    assert_eq!(last["error"]["code"], 42921);
}

#[tokio::test]
async fn appends_that_are_rolled_up_count_once() {
    let emulator = start("rate-limit=10").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=500").await;
    let serial = raw.create("ai:x", 0, "").await;
    raw.publish("ai:x", 1, std::iter::repeat_n(append(&serial, "x"), 200)).await;
    let answers = raw.answers(200).await;
    assert!(answers.iter().all(|(action, ..)| *action == ACK), "{answers:?}");
    text_becomes(&emulator, "ai:x", &serial, &"x".repeat(200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_let_go() {
    let emulator = start("").await;
    let (mut slow, _) = Raw::connect(&emulator, "").await;
    slow.send(json!({"action": 10, "channel": "ai:x"})).await;
    assert!(slow.frame().await.is_some());
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let large = "x".repeat(60_000);
    for batch in 0..20 {
        raw.publish("ai:x", batch * 50, std::iter::repeat_n(json!({"data": large}), 50)).await;
        assert!(raw.answers(50).await.iter().all(|(action, ..)| *action == ACK), "nobody else waits for it");
    }
    assert_eq!(emulator.stats().slow, 1);
    // It can read what was under way; then it is over.
    while slow.frame().await.is_some() {}
}

#[tokio::test]
async fn requests_that_are_none_get_an_error_in_full() {
    let emulator = start("").await;
    for (path, status, code) in [
        ("/nonsense", 404, 40400),
        ("/channels/x/messages?limit=0", 400, 40003),
        ("/channels/x/messages?limit=1001", 400, 40003),
        ("/channels/x/messages?start=soon", 400, 40003),
        ("/channels/x/messages?direction=up", 400, 40003),
        ("/channels/x/messages/none", 404, 40400),
    ] {
        let (got, body) = get(&emulator, path).await;
        assert_eq!((got, &body["error"]["code"], &body["error"]["statusCode"]), (status, &json!(code), &json!(status)));
        assert!(body["error"]["message"].is_string(), "{path}: {body}");
    }
    let url = |path: &str| format!("http://{}{path}", emulator.local_addr());
    let client = reqwest::Client::new();
    let anonymous = client.get(url("/channels/x/messages")).send().await.expect("an answer");
    assert_eq!(anonymous.status().as_u16(), 401);
    assert_eq!(anonymous.headers()["x-ably-errorcode"], "40101");
    assert_eq!(anonymous.headers()["access-control-allow-origin"], "*");
    let body = format!(r#"{{"data":"{}"}}"#, "x".repeat(600_000));
    let large = client.post(url("/channels/x/messages?key=app.key:secret")).body(body).send().await.expect("an answer");
    assert_eq!(large.status().as_u16(), 413);
    let preflight =
        client.request(reqwest::Method::OPTIONS, url("/channels/x/messages")).send().await.expect("an answer");
    assert!(preflight.headers()["access-control-allow-headers"].to_str().expect("text").contains("authorization"));
}
