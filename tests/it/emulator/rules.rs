//! What the protocol says of publishing, rolling up and attaching, and what it leaves open of these.

use super::raw::CONNECTED;
use super::*;

const ATTACHED: u64 = 11;
const HAS_BACKLOG: u64 = 2;
const PUBLISH: u64 = 1 << 17;
const SUBSCRIBE: u64 = 1 << 18;

async fn attach(raw: &mut Raw, frame: Value) -> Value {
    let mut attach = json!({"action": 10, "channel": "ai:x"});
    attach.as_object_mut().expect("an object").extend(frame.as_object().expect("an object").clone());
    raw.send(attach).await;
    raw.frame().await.expect("an answer")
}

async fn subscriber(emulator: &Emulator) -> Raw {
    let (mut reader, _) = Raw::connect(emulator, "").await;
    assert_eq!(attach(&mut reader, json!({})).await["action"], ATTACHED);
    reader
}

/// Sends several messages in one frame and gives the serials that they get.
async fn array(raw: &mut Raw, msg_serial: u64, messages: Value) -> Vec<String> {
    raw.send(json!({"action": MESSAGE, "channel": "ai:x", "msgSerial": msg_serial, "messages": messages})).await;
    let answer = raw.frame().await.expect("an answer");
    let serials = answer["res"][0]["serials"].as_array().expect("serials").iter();
    serials.map(|serial| serial.as_str().expect("a serial").to_owned()).collect()
}

fn path(serial: &str) -> String {
    format!("/channels/ai%3Ax/messages/{}", serial.replace('@', "%40"))
}

/// Changes a message by a request; gives the version that is answered, or the code.
async fn patch(emulator: &Emulator, serial: &str, message: Value) -> Value {
    let _already = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}{}?key=app.key:secret", emulator.local_addr(), path(serial));
    let answer = reqwest::Client::new().patch(url).body(message.to_string()).send().await.expect("an answer");
    let body: Value = answer.json().await.expect("JSON");
    body.get("versionSerial").unwrap_or(&body["error"]["code"]).clone()
}

#[tokio::test]
async fn an_array_reaches_subscribers_in_one_frame() {
    let emulator = start("").await;
    let mut reader = subscriber(&emulator).await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serials = array(&mut raw, 0, json!([{"data": "a"}, {"data": "b"}, {"data": "c"}])).await;
    let frame = reader.frame().await.expect("the array");
    let got: Vec<(&str, &str)> = frame["messages"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| (message["serial"].as_str().expect("a serial"), message["data"].as_str().expect("a text")))
        .collect();
    let expected: Vec<(&str, &str)> = serials.iter().map(String::as_str).zip(["a", "b", "c"]).collect();
    assert_eq!(got, expected);
    // Whoever has that frame and comes back has missed nothing; all of it is known as pieces of.
    raw.publish("ai:x", 1, [append(&serials[1], "+")]).await;
    let next = reader.frame().await.expect("the append");
    assert_eq!((&next["messages"][0]["action"], &next["messages"][0]["data"]), (&json!(5), &json!("+")));
    assert_eq!(next["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!(emulator.stats().delivered, 2);
}

#[tokio::test]
async fn an_array_that_comes_again_after_a_resume_has_its_serials() {
    let emulator = start("").await;
    let (mut raw, connected) = Raw::connect(&emulator, "").await;
    let serials = array(&mut raw, 0, json!([{"data": "a"}, {"data": "b"}])).await;
    drop(raw);
    let key = connected["connectionKey"].as_str().expect("a key");
    let (mut raw, _) = Raw::connect(&emulator, &format!("resume={key}")).await;
    assert_eq!(array(&mut raw, 0, json!([{"data": "a"}, {"data": "b"}])).await, serials);
    assert_eq!(emulator.stats().creates, 2);
}

#[tokio::test]
async fn an_array_counts_as_one_or_as_what_is_in_it() {
    let emulator = start("channel-rate-limit=10").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let five = || json!(vec![json!({"data": "x"}); 5]);
    let mut ask = async |msg_serial: u64| {
        raw.send(json!({"action": MESSAGE, "channel": "ai:x", "msgSerial": msg_serial, "messages": five()})).await;
        raw.answers(1).await[0].3
    };
    assert_eq!([ask(0).await, ask(1).await], [0, 0]);
    set(&emulator, "channel-rate-limit=10,count-each=true");
    assert_eq!(ask(2).await, 42913);
    assert_eq!(emulator.stats().struck["count-each"], 1);
}

#[tokio::test]
async fn requests_are_rolled_up_if_so_wanted() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("ai:x", 0, "").await;
    let ask = async |data: &str| patch(&emulator, &serial, append(&serial, data)).await;
    let apart = [ask("a").await, ask("b").await];
    assert_ne!(apart[0], apart[1]);
    set(&emulator, "rest-rollup=3600000");
    let together = [ask("c").await, ask("d").await, ask("e").await];
    assert!(together[1] == together[2] && together[0] != together[1], "{together:?}");
    assert_eq!(get(&emulator, &path(&serial)).await.1["data"], "abc", "two wait");
    assert_eq!(emulator.stats().struck["rest-rollup"], 2);
    patch(&emulator, &serial, json!({"action": 1, "data": "all"})).await;
    set(&emulator, "rest-rollup=50");
    ask("f").await;
    ask("g").await;
    text_becomes(&emulator, "ai:x", &serial, "allfg").await;
}

#[tokio::test]
async fn what_is_rolled_up_can_have_versions_of_its_own() {
    let emulator = start("own-serials=true").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=500").await;
    let serial = raw.create("ai:x", 0, "").await;
    let mut versions = Vec::new();
    for (msg_serial, data) in (1..).zip(["a", "b", "c"]) {
        raw.publish("ai:x", msg_serial, [append(&serial, data)]).await;
        let answer = raw.frame().await.expect("an answer");
        versions.push(answer["res"][0]["serials"][0].as_str().expect("a version").to_owned());
    }
    assert!(versions.is_sorted_by(|one, next| one < next), "{versions:?}");
    text_becomes(&emulator, "ai:x", &serial, "abc").await;
    assert_eq!(get(&emulator, &path(&serial)).await.1["version"]["serial"], versions[2]);
}

#[tokio::test]
async fn an_update_can_overtake_what_waits() {
    for (faults, text) in [("", "new"), ("update-overtakes=true", "newb")] {
        let emulator = start(faults).await;
        let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=200").await;
        let serial = raw.create("ai:x", 0, "").await;
        let update = json!({"action": 1, "serial": serial, "data": "new"});
        raw.publish("ai:x", 1, [append(&serial, "a"), append(&serial, "b"), update, append(&serial, "")]).await;
        raw.answers(4).await;
        text_becomes(&emulator, "ai:x", &serial, text).await;
    }
}

#[tokio::test]
async fn what_was_too_large_can_be_too_large_for_all_that_comes() {
    let emulator = start("message-size=10").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let serial = raw.create("ai:x", 0, "12345").await;
    let mut code = async |msg_serial: u64, message: Value| {
        raw.publish("ai:x", msg_serial, [message]).await;
        raw.answers(1).await[0].3
    };
    assert_eq!(code(1, append(&serial, "678901")).await, 40009);
    assert_eq!(code(2, append(&serial, "6")).await, 0, "what is shorter is taken");
    set(&emulator, "message-size=10,reject-fold=1");
    assert_eq!(code(3, append(&serial, "78901")).await, 40009);
    assert_eq!(code(4, append(&serial, "7")).await, 40009, "it would come with what was refused");
    assert_eq!(code(5, json!({"action": 1, "serial": serial, "data": "1234567"})).await, 0);
    assert_eq!(code(6, append(&serial, "8")).await, 0, "a full text ends that");
    text_becomes(&emulator, "ai:x", &serial, "12345678").await;
}

#[tokio::test]
async fn modes_that_are_parameters_beat_those_that_are_flags() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let modes = |frame: &Value| frame["flags"].as_u64().expect("flags") & (PUBLISH | SUBSCRIBE);
    let attached = attach(&mut raw, json!({"flags": SUBSCRIBE, "params": {"modes": "publish"}})).await;
    assert_eq!((modes(&attached), &attached["params"]["modes"]), (PUBLISH, &json!("publish")));
    raw.create("ai:x", 0, "it may publish").await;
    let attached = attach(&mut raw, json!({"flags": PUBLISH, "params": {"modes": "subscribe,presence"}})).await;
    assert_eq!(modes(&attached), SUBSCRIBE);
    raw.publish("ai:x", 1, [json!({"data": "it may not"})]).await;
    assert_eq!(raw.answers(1).await, [(NACK, 1, 1, 40165)]);
    raw.create("ai:y", 2, "it is not attached there").await;
    raw.send(json!({"action": 12, "channel": "ai:x"})).await;
    assert_eq!(raw.frame().await.expect("detached")["action"], 13);
    raw.create("ai:x", 3, "nor there any more").await;
    let refused = attach(&mut raw, json!({"params": {"modes": "nonsense"}})).await;
    assert_eq!((&refused["action"], &refused["error"]["code"]), (&json!(ERROR), &json!(40003)));
}

#[tokio::test]
async fn a_rewind_that_does_not_reach_as_far_as_was_asked_says_so() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    for (msg_serial, count) in (0..).zip([100, 1]) {
        array(&mut raw, msg_serial, json!(vec![json!({"data": "x"}); count])).await;
    }
    for (rewind, limit, code) in [("100", None, 0), ("101", None, 90004), ("2m", None, 90004), ("2m", Some("50"), 0)] {
        let (mut reader, _) = Raw::connect(&emulator, "").await;
        let mut params = json!({"rewind": rewind});
        if let Some(limit) = limit {
            params["rewindLimit"] = json!(limit);
        }
        let attached = attach(&mut reader, json!({"params": params})).await;
        assert_eq!(attached["error"]["code"].as_u64().unwrap_or_default(), code, "{rewind} {limit:?}");
        assert_eq!(attached["flags"].as_u64().map(|flags| flags & HAS_BACKLOG), Some(HAS_BACKLOG), "it is attached");
    }
}

#[tokio::test]
async fn who_may_not_change_messages_is_not_told_whether_they_are_there() {
    let emulator = start("").await;
    let (mut owner, _) = Raw::connect(&emulator, "").await;
    let serial = owner.create("ai:x", 0, "x").await;
    let _already = rustls::crypto::ring::default_provider().install_default();
    let url = format!("http://{}/keys/app.key/requestToken", emulator.local_addr());
    let body = json!({"capability": r#"{"*":["publish"]}"#}).to_string();
    let asked = reqwest::Client::new().post(url).basic_auth("app.key", Some("secret")).body(body).send();
    let token: Value = asked.await.expect("an answer").json().await.expect("JSON");
    let token = token["token"].as_str().expect("a token");
    let mut raw = Raw::open(&emulator, &format!("access_token={token}")).await;
    assert_eq!(raw.frame().await.expect("a frame")["action"], CONNECTED);
    for (msg_serial, faults, serial) in [(0, "", serial.as_str()), (1, "", "none"), (2, "immutable=true", &serial)] {
        set(&emulator, faults);
        raw.publish("ai:x", msg_serial, [append(serial, "y")]).await;
        assert_eq!(raw.answers(1).await, [(NACK, msg_serial, 1, 40160)], "{faults} {serial}");
    }
}

#[tokio::test]
async fn ids_have_a_length() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    for (msg_serial, length, expected) in [(0, 1_000, (ACK, 0, 1, 0)), (1, 500_000, (NACK, 1, 1, 40031))] {
        raw.publish("ai:x", msg_serial, [json!({"id": "i".repeat(length), "data": "x"})]).await;
        assert_eq!(raw.answers(1).await, [expected]);
    }
}
