//! What Ably's documentation leaves open, and what happens rarely: each has a switch.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokenrelay::emulator::{Scenario, Step};
use tokio_tungstenite::tungstenite::Message;

use super::raw::CONNECTED;
use super::*;

const DISCONNECTED: u64 = 6;
const DETACHED: u64 = 13;

/// What a frame says went wrong.
fn code(frame: &Value) -> u64 {
    frame["error"]["code"].as_u64().unwrap_or_default()
}

/// Sends one operation and gives its answer: action, first serial, count, code.
async fn ask(raw: &mut Raw, channel: &str, msg_serial: u64, message: Value) -> (u64, u64, u64, u64) {
    raw.publish(channel, msg_serial, [message]).await;
    raw.answers(1).await[0]
}

fn update(serial: &str, data: &str) -> Value {
    json!({"action": 1, "serial": serial, "data": data})
}

fn message_path(serial: &str) -> String {
    format!("/channels/ai%3Ax/messages/{}", serial.replace('@', "%40"))
}

#[tokio::test]
async fn faults_change_as_a_scenario_says() {
    let emulator = start("").await;
    let faults = |list: &str| Faults::parse_list(list).expect("faults");
    let step = |list| Step { after: Duration::from_millis(5), faults: faults(list) };
    let then = vec![step("drop=0.5"), step("delay=7")];
    emulator.play(Scenario { faults: faults("reject=0.5"), then, ..Scenario::default() });
    while emulator.faults() != faults("delay=7") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let _already = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/emulator/faults", emulator.local_addr());
    let body = r#"{"reject": 0.25, "then": [{"after": "5ms", "delay": 9}]}"#;
    let answer = reqwest::Client::new().put(url).body(body).send().await.expect("an answer");
    assert_eq!(answer.json::<Value>().await.expect("JSON")["reject"], 0.25);
    while emulator.faults() != faults("delay=9") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn all_connections_can_be_ended() {
    for (way, said) in [("socket", None), ("close", None), ("disconnected", Some(80003)), ("expired", Some(40142))] {
        let emulator = start("").await;
        let (mut first, _) = Raw::connect(&emulator, "").await;
        let (mut second, _) = Raw::connect(&emulator, "").await;
        set(&emulator, &format!("hang-up={way}"));
        for raw in [&mut first, &mut second] {
            if let Some(said) = said {
                let frame = raw.frame().await.expect("a last frame");
                assert_eq!((frame["action"].as_u64(), code(&frame)), (Some(DISCONNECTED), said), "{way}");
            }
            assert_eq!(raw.frame().await, None, "{way}");
        }
        Raw::connect(&emulator, "").await;
    }
}

#[tokio::test]
async fn connections_can_be_refused_while_requests_are_served() {
    let emulator = start("").await;
    for (faults, action, expected) in [
        ("refuse-websockets=true", DISCONNECTED, 80003),
        ("refuse-websockets=true,refuse-code=40111", ERROR, 40111),
        ("refuse-connections=true,refuse-code=80021", ERROR, 80021),
    ] {
        set(&emulator, faults);
        let mut raw = Raw::open(&emulator, "key=app.key:secret").await;
        let frame = raw.frame().await.expect("a frame");
        assert_eq!((frame["action"].as_u64(), code(&frame)), (Some(action), expected), "{faults}");
        let served = if faults.contains("websockets") { 200 } else { 503 };
        assert_eq!(get(&emulator, "/channels/x/messages").await.0, served, "{faults}");
    }
    set(&emulator, "");
    let (raw, connected) = Raw::connect(&emulator, "").await;
    drop(raw);
    set(&emulator, "refuse-resume=1,resume-code=80008");
    let key = connected["connectionKey"].as_str().expect("a key");
    let (_, anew) = Raw::connect(&emulator, &format!("resume={key}")).await;
    assert_eq!(code(&anew), 80008);
    assert_ne!(anew["connectionId"], connected["connectionId"]);
}

#[tokio::test]
async fn a_create_that_is_known_is_answered_as_the_faults_say() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let mut given = async |msg_serial: u64| {
        raw.publish("ai:x", msg_serial, [json!({"id": "r:0", "data": "x"})]).await;
        raw.frame().await.expect("an answer")["res"][0]["serials"][0].clone()
    };
    let first = given(0).await;
    assert_eq!(given(1).await, first);
    set(&emulator, "known-creates=nothing");
    assert_eq!(given(2).await, Value::Null);
    set(&emulator, "known-creates=phantom");
    let phantom = given(3).await;
    assert_eq!(get(&emulator, &message_path(phantom.as_str().expect("a serial"))).await.0, 404);
    assert_eq!(emulator.stats().creates, 1);
    set(&emulator, "known-creates=again");
    let second = given(4).await;
    assert_ne!(second, first);
    assert_eq!(get(&emulator, &message_path(second.as_str().expect("a serial"))).await.0, 200);
}

#[tokio::test]
async fn only_operations_that_are_named_are_lost() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    set(&emulator, r#"lose-ack=1,drop-as=socket,lose-ops=["update"]"#);
    let serial = raw.create("ai:x", 0, "").await;
    assert_eq!(ask(&mut raw, "ai:x", 1, append(&serial, "x")).await, (ACK, 1, 1, 0));
    raw.publish("ai:x", 2, [update(&serial, "y")]).await;
    assert_eq!(raw.frame().await, None);
}

#[tokio::test]
async fn the_rule_can_be_off_and_come_on() {
    let emulator = start("immutable=true").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    raw.publish("ai:x", 0, [json!({"data": "x"})]).await;
    let answer = raw.frame().await.expect("an answer");
    assert_eq!((answer["action"].as_u64(), &answer["res"][0]["serials"][0]), (Some(ACK), &Value::Null));
    set(&emulator, "");
    let serial = raw.create("ai:x", 1, "x").await;
    set(&emulator, "immutable=true");
    assert_eq!(ask(&mut raw, "ai:x", 2, append(&serial, "y")).await, (NACK, 2, 1, 93002));
    set(&emulator, "");
    assert_eq!(ask(&mut raw, "ai:x", 3, append(&serial, "y")).await, (ACK, 3, 1, 0));
}

#[tokio::test]
async fn reading_lags_and_fails_as_the_faults_say() {
    let emulator = start("read-lag=3600000").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let serial = raw.create("ai:x", 0, "old").await;
    let path = message_path(&serial);
    ask(&mut raw, "ai:x", 1, update(&serial, "new")).await;
    ask(&mut raw, "ai:x", 2, update(&serial, "newer")).await;
    assert_eq!(get(&emulator, &path).await.1["data"], "old");
    assert_eq!(get(&emulator, "/channels/ai%3Ax/messages").await.1[0]["data"], "old");
    set(&emulator, "history-lag=3600000");
    assert_eq!(get(&emulator, "/channels/ai%3Ax/messages").await.1, json!([]));
    for (list, status, expected) in
        [("42918", 429, 42918), ("50003", 503, 50003), ("40400", 404, 40400), ("40160", 401, 40160)]
    {
        set(&emulator, &format!("fail-reads=1,fail-reads-code={list}"));
        for path in [&path, "/channels/ai%3Ax/messages"] {
            let (got, body) = get(&emulator, path).await;
            assert_eq!((got, code(&body)), (status, expected), "{path}");
        }
    }
}

#[tokio::test]
async fn sizes_are_those_of_the_faults() {
    let emulator = start("message-size=100,enforced-size=50").await;
    let (mut raw, connected) = Raw::connect(&emulator, "").await;
    assert_eq!(connected["connectionDetails"]["maxMessageSize"], 100);
    let create = |text: String| json!({"data": text});
    assert_eq!(ask(&mut raw, "ai:x", 0, create("x".repeat(51))).await.3, 40009);
    let serial = raw.create("ai:x", 1, &"x".repeat(50)).await;
    assert_eq!(ask(&mut raw, "ai:x", 2, append(&serial, "y")).await.3, 40009);
    assert_eq!(ask(&mut raw, "ai:x", 3, update(&serial, &"é".repeat(50))).await.3, 40009);
    set(&emulator, "message-size=100,enforced-size=50,size-in=utf16");
    assert_eq!(ask(&mut raw, "ai:x", 4, update(&serial, &"é".repeat(50))).await, (ACK, 4, 1, 0));
    assert_eq!(ask(&mut raw, "ai:x", 5, append(&serial, "é")).await.3, 40009);
}

#[tokio::test]
async fn rates_count_what_the_faults_say() {
    let emulator = start("rate-limit=10,count-frames=true").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=500").await;
    let serial = raw.create("ai:x", 0, "").await;
    raw.publish("ai:x", 1, std::iter::repeat_n(append(&serial, "x"), 50)).await;
    assert!(raw.answers(50).await.iter().any(|answer| answer.3 == 42911), "frames that are rolled up count, too");
    set(&emulator, "account-rate-limit=10");
    let (mut other, _) = Raw::connect(&emulator, "").await;
    let creates = || std::iter::repeat_n(json!({"data": "x"}), 5);
    other.publish("ai:y", 0, creates()).await;
    assert!(other.answers(5).await.iter().all(|answer| answer.0 == ACK));
    raw.publish("ai:x", 51, creates()).await;
    assert!(raw.answers(5).await.iter().any(|answer| answer.3 == 42917), "the account is everybody");
}

#[tokio::test]
async fn a_fatal_rate_ends_a_connection_as_the_faults_say() {
    for (faults, last) in [
        ("fatal-rate-limit=10", Some((DISCONNECTED, 42921))),
        ("fatal-rate-limit=10,fatal-as=error,fatal-code=42924", Some((ERROR, 42924))),
        ("fatal-rate-limit=10,fatal-as=socket", None),
    ] {
        let emulator = start(faults).await;
        let (mut raw, _) = Raw::connect(&emulator, "").await;
        let frames = std::iter::repeat_n(json!({"data": "x"}), 50);
        for (msg_serial, message) in (0..).zip(frames) {
            let frame = json!({"action": MESSAGE, "channel": "x", "msgSerial": msg_serial, "messages": [message]});
            if raw.socket.feed(Message::text(frame.to_string())).await.is_err() {
                break;
            }
        }
        let _it_may_have_ended = raw.socket.flush().await;
        let mut end = None;
        while let Some(frame) = raw.frame().await {
            end = Some((frame["action"].as_u64().expect("an action"), code(&frame))).filter(|(_, code)| *code > 0);
        }
        assert_eq!(end, last, "{faults}");
    }
}

#[tokio::test]
async fn a_connection_can_have_few_channels() {
    let emulator = start("channels-per-connection=2").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("a", 0, "").await;
    raw.create("b", 1, "").await;
    assert_eq!(ask(&mut raw, "c", 2, json!({"data": "x"})).await, (NACK, 2, 1, 90010));
    assert_eq!(ask(&mut raw, "a", 3, append(&serial, "x")).await, (ACK, 3, 1, 0));
    let (mut other, _) = Raw::connect(&emulator, "").await;
    other.create("c", 0, "").await;
}

#[tokio::test]
async fn a_server_speaks_of_channels_between_answers() {
    let emulator = start("detach=1").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    raw.publish("ai:x", 0, [json!({"data": "x"})]).await;
    let detached = raw.frame().await.expect("a frame");
    assert_eq!((detached["action"].as_u64(), &detached["channel"]), (Some(DETACHED), &json!("ai:x")));
    assert_eq!(raw.answers(1).await, [(ACK, 0, 1, 0)], "it is taken all the same");
    set(&emulator, "channel-errors=true");
    let namespaces = [("ai".to_owned(), 40160)].into();
    emulator.set_faults(Faults { reject_namespaces: namespaces, ..emulator.faults() });
    raw.publish("ai:x", 1, [json!({"data": "x"})]).await;
    let error = raw.frame().await.expect("a frame");
    assert_eq!((error["action"].as_u64(), code(&error), &error["channel"]), (Some(ERROR), 40160, &json!("ai:x")));
    assert_eq!(raw.answers(1).await, [(NACK, 1, 1, 40160)]);
}

#[tokio::test]
async fn somebody_else_changes_messages() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("ai:x", 0, "ours").await;
    set(&emulator, "foreign-updates=1");
    assert_eq!(ask(&mut raw, "ai:x", 1, update(&serial, "ours, too")).await, (ACK, 1, 1, 0));
    let (_, message) = get(&emulator, &message_path(&serial)).await;
    let by = &message["version"]["clientId"];
    assert_eq!((&message["data"], by), (&json!("written by somebody else"), &json!("somebody-else")));
    set(&emulator, "foreign-deletes=1");
    ask(&mut raw, "ai:x", 2, update(&serial, "ours again")).await;
    assert_eq!(get(&emulator, &message_path(&serial)).await.1["action"], 2);
}

#[tokio::test]
async fn what_becomes_of_an_append_to_a_deleted_message_is_open() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let serial = raw.create("ai:x", 0, "a").await;
    let by = json!({"metadata": {"phase": "streaming", "instance": "one", "epoch": "3"}});
    let ours = |data: &str| json!({"serial": serial, "action": 5, "data": data, "version": by});
    for (nth, (answer, action)) in [("comes-back", 1), ("stays", 2), ("refuses", 2)].into_iter().enumerate() {
        let number = 2 * nth as u64 + 1;
        set(&emulator, "");
        ask(&mut raw, "ai:x", number, json!({"serial": serial, "action": 2})).await;
        set(&emulator, &format!("deleted={answer}"));
        let taken = ask(&mut raw, "ai:x", number + 1, ours("b")).await;
        let expected = if answer == "refuses" { (NACK, number + 1, 1, 40400) } else { (ACK, number + 1, 1, 0) };
        assert_eq!(taken, expected, "{answer}");
        let (_, message) = get(&emulator, &message_path(&serial)).await;
        assert_eq!(message["action"], action, "{answer}");
        if answer != "refuses" {
            assert_eq!(message["version"]["metadata"], by["metadata"], "{answer}");
        }
        let (_, versions) = get(&emulator, &format!("{}/versions", message_path(&serial))).await;
        let deletes = versions.as_array().expect("a list").iter().filter(|version| version["action"] == 2).count();
        assert!(deletes > nth, "{answer}: a deletion stays among the versions: {versions}");
    }
}

#[tokio::test]
async fn what_an_operation_leaves_out_is_open() {
    let emulator = start("clear-omitted=true").await;
    let (mut reader, _) = Raw::connect(&emulator, "").await;
    reader.send(json!({"action": 10, "channel": "ai:x"})).await;
    reader.frame().await.expect("attached");
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let named = json!({"name": "n", "data": "a", "extras": {"headers": {"status": "streaming"}}});
    raw.publish("ai:x", 0, [named]).await;
    let answer = raw.frame().await.expect("an answer");
    let serial = answer["res"][0]["serials"][0].as_str().expect("a serial").to_owned();
    let mut piece = async || reader.frame().await.expect("a message")["messages"][0].clone();
    assert!(piece().await["extras"].is_object());
    ask(&mut raw, "ai:x", 1, append(&serial, "b")).await;
    let cleared = piece().await;
    assert_eq!((&cleared["name"], &cleared["extras"]), (&json!("n"), &Value::Null));
    set(&emulator, "bare-pieces=true");
    ask(&mut raw, "ai:x", 2, append(&serial, "c")).await;
    let bare = piece().await;
    assert_eq!((&bare["name"], &bare["data"]), (&Value::Null, &json!("c")));
    set(&emulator, "refuse-empty=true");
    assert_eq!(ask(&mut raw, "ai:x", 3, append(&serial, "")).await, (NACK, 3, 1, 40013));
}

#[tokio::test]
async fn messages_age() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("ai:x", 0, "").await;
    for (at, (faults, expected)) in (1..).zip([("gone-after=1", 40400), ("gone-after=1,gone-code=40142", 40142)]) {
        set(&emulator, faults);
        tokio::time::sleep(Duration::from_millis(5)).await;
        raw.publish("ai:x", at, [append(&serial, "x")]).await;
        let answer = raw.frame().await.expect("an answer");
        assert_eq!((code(&answer), &answer["error"]["statusCode"]), (expected, &json!(404)));
    }
}

#[tokio::test]
async fn whoever_is_not_the_agent_that_is_wanted_is_refused() {
    let emulator = start("require-agent=mine").await;
    let mut raw = Raw::open(&emulator, "key=app.key:secret").await;
    let frame = raw.frame().await.expect("a frame");
    assert_eq!((frame["action"].as_u64(), code(&frame)), (Some(ERROR), 40168));
    assert_eq!(code(&Raw::open(&emulator, "key=app.key:secret&agent=x").await.frame().await.expect("a frame")), 40168);
    Raw::connect(&emulator, "agent=mine%2F1").await;
    assert_eq!(code(&get(&emulator, "/channels/x/messages").await.1), 40168);
}

#[tokio::test]
async fn tokens_can_be_short_lived_and_their_renewal_refused() {
    let emulator = start("token-life=100").await;
    let _already = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/keys/app.key/requestToken", emulator.local_addr());
    let asked = reqwest::Client::new().post(url).basic_auth("app.key", Some("secret")).body("{}");
    let token = asked.send().await.expect("an answer").json::<Value>().await.expect("JSON");
    let token = token["token"].as_str().expect("a token");
    let mut raw = Raw::open(&emulator, &format!("access_token={token}")).await;
    assert_eq!(raw.frame().await.expect("a frame")["action"], CONNECTED);
    assert_eq!(raw.frame().await.expect("asked for another")["action"], 17);
    let auth = json!({"action": 17, "auth": {"accessToken": token}});
    raw.send(auth.clone()).await;
    assert_eq!(raw.frame().await.expect("a frame")["action"], CONNECTED);
    set(&emulator, "refuse-tokens=40143");
    raw.send(auth).await;
    let refused = loop {
        let frame = raw.frame().await.expect("a frame");
        if frame["action"] == ERROR {
            break frame;
        }
    };
    assert_eq!(code(&refused), 40143);
    assert!(raw.socket.next().await.is_none_or(|frame| frame.is_err() || frame.is_ok_and(|frame| frame.is_close())));
}

#[tokio::test]
async fn refusals_come_in_runs_and_their_texts_again_and_again() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let serial = raw.create("ai:x", 0, "").await;
    set(&emulator, "reject=1,reject-fold=1");
    ask(&mut raw, "ai:x", 1, append(&serial, "a")).await;
    set(&emulator, "fold-again=true");
    ask(&mut raw, "ai:x", 2, append(&serial, "1")).await;
    ask(&mut raw, "ai:x", 3, append(&serial, "2")).await;
    text_becomes(&emulator, "ai:x", &serial, "a1a2").await;
    ask(&mut raw, "ai:x", 4, update(&serial, "clean ")).await;
    ask(&mut raw, "ai:x", 5, append(&serial, "3")).await;
    text_becomes(&emulator, "ai:x", &serial, "clean 3").await;
    set(&emulator, "reject=1,reject-run=3600000");
    ask(&mut raw, "ai:x", 6, append(&serial, "x")).await;
    set(&emulator, "reject-run=3600000");
    assert_eq!(ask(&mut raw, "ai:x", 7, append(&serial, "x")).await.3, 50003);
    let other = raw.create("ai:y", 8, "").await;
    assert_eq!(ask(&mut raw, "ai:y", 9, append(&other, "x")).await, (ACK, 9, 1, 0), "another message is not concerned");
}

#[tokio::test]
async fn subscribers_get_what_the_faults_make_of_it() {
    let emulator = start("").await;
    let (mut reader, _) = Raw::connect(&emulator, "").await;
    reader.send(json!({"action": 10, "channel": "ai:x"})).await;
    reader.frame().await.expect("attached");
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let serial = raw.create("ai:x", 0, "a").await;
    let mut heard = async || {
        let frame = reader.frame().await.expect("a frame");
        let message = &frame["messages"][0];
        (message["action"].as_u64(), message["data"].as_str().map(str::to_owned), frame["error"]["code"].as_u64())
    };
    let piece = |action, data: &str| (Some(action), Some(data.to_owned()), None);
    assert_eq!(heard().await, piece(0, "a"));
    for (number, (faults, data)) in
        (1..).zip([("whole-pieces=1", "b"), ("lose-deliveries=1", "c"), ("repeat-deliveries=1", "d"), ("", "e")])
    {
        set(&emulator, faults);
        ask(&mut raw, "ai:x", number, append(&serial, data)).await;
    }
    assert_eq!(heard().await, piece(1, "ab"));
    assert_eq!(heard().await, (None, None, Some(80020)));
    for data in ["d", "e", "d"] {
        assert_eq!(heard().await, piece(5, data));
    }
    set(&emulator, "refuse-until-attach=true");
    let (status, refused) = get(&emulator, "/channels/ai%3Ax/messages?from_serial=1").await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!(40024)));
    assert_eq!(get(&emulator, "/channels/ai%3Ax/messages").await.1[0]["data"], "abcde");
}
