//! The emulator as a client without good manners sees it: faults, limits, codes.
//!
//! What well-behaved clients see is in `sdk`.

use raw::{ACK, ERROR, MESSAGE, NACK, Raw, append, get, text_becomes};
use serde_json::{Value, json};
use tokenrelay::emulator::{self, Config, Emulator, Faults};

mod limits;
mod open;
mod raw;
mod rules;

async fn start(faults: &str) -> Emulator {
    let faults = Faults::parse_list(faults).expect("faults");
    emulator::start(Config { faults, ..Config::default() }).await.expect("starts")
}

fn set(emulator: &Emulator, faults: &str) {
    emulator.set_faults(Faults::parse_list(faults).expect("faults"));
}

#[tokio::test]
async fn answers_are_in_order_and_cover_every_frame() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("ai:x", 0, "").await;
    let good = || append(&serial, "x");
    raw.publish("ai:x", 1, [good(), append("none", "x"), good(), good()]).await;
    let answers = raw.answers(4).await;
    assert!(answers.contains(&(NACK, 2, 1, 40400)), "{answers:?}");
    let covered: Vec<u64> = answers.iter().flat_map(|(_, first, count, _)| *first..first + count).collect();
    assert_eq!(covered, [1, 2, 3, 4]);
}

#[tokio::test]
async fn refused_operations_change_nothing_unless_they_are_to_appear_later() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let serial = raw.create("ai:x", 0, "").await;
    let steps = [
        ("reject=1,reject-ops=[\"append\"],reject-code=42911", "lost "),
        ("", "kept "),
        ("reject=1,reject-fold=1", "folded "),
        ("", "with "),
        ("reject=1,reject-applied=1", "applied"),
    ];
    for (at, (faults, piece)) in (1..).zip(steps) {
        set(&emulator, faults);
        raw.publish("ai:x", at, [append(&serial, piece)]).await;
        let expected =
            if faults.is_empty() { (ACK, at, 1, 0) } else { (NACK, at, 1, if at == 1 { 42911 } else { 50003 }) };
        assert_eq!(raw.answers(1).await, [expected]);
    }
    set(&emulator, "");
    text_becomes(&emulator, "ai:x", &serial, "kept folded with applied").await;
}

#[tokio::test]
async fn frames_that_come_again_are_met_as_the_faults_say() {
    for (resent, expected, text) in [
        ("known", Some((ACK, 1, 1, 0)), "once"),
        ("again", Some((ACK, 1, 1, 0)), "onceonce"),
        ("refused", Some((NACK, 1, 1, 40000)), "once"),
        ("silent", None, "once"),
    ] {
        let emulator = start("drop-as=socket").await;
        let (mut raw, connected) = Raw::connect(&emulator, "appendRollupWindow=0").await;
        let serial = raw.create("ai:x", 0, "").await;
        set(&emulator, "lose-ack=1,drop-as=socket");
        raw.publish("ai:x", 1, [append(&serial, "once")]).await;
        assert_eq!(raw.frame().await, None, "{resent}: dropped without an answer");
        set(&emulator, &format!("resent={resent}"));
        let key = connected["connectionKey"].as_str().expect("a key");
        let (mut raw, resumed) = Raw::connect(&emulator, &format!("appendRollupWindow=0&resume={key}")).await;
        assert_eq!(resumed["connectionId"], connected["connectionId"]);
        assert_ne!(resumed["connectionKey"], connected["connectionKey"], "each transport has its own key");
        raw.publish("ai:x", 1, [append(&serial, "once"), append("none", "")]).await;
        let answers = raw.answers(1 + u64::from(expected.is_some())).await;
        assert_eq!(answers.iter().find(|answer| answer.1 == 1).copied(), expected, "{resent}: {answers:?}");
        text_becomes(&emulator, "ai:x", &serial, text).await;
    }
}

#[tokio::test]
async fn a_key_resumes_once_and_only_while_it_is_the_latest() {
    let emulator = start("").await;
    let (first, connected) = Raw::connect(&emulator, "").await;
    let key = connected["connectionKey"].as_str().expect("a key").to_owned();
    let (_second, resumed) = Raw::connect(&emulator, &format!("resume={key}")).await;
    assert_eq!((&resumed["connectionId"], &resumed["error"]), (&connected["connectionId"], &Value::Null));
    drop(first);
    for stale in [key.as_str(), "nonsense", "a!b"] {
        let (_, other) = Raw::connect(&emulator, &format!("resume={stale}")).await;
        assert_eq!(other["error"]["code"], 80018, "{stale}");
        assert_ne!(other["connectionId"], connected["connectionId"]);
    }
}

#[tokio::test]
async fn an_answer_can_be_missing_while_others_are_given() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("ai:x", 0, "").await;
    set(&emulator, "skip-ack=1");
    raw.publish("ai:x", 1, [append(&serial, "a")]).await;
    while emulator.stats().unanswered == 0 {
        tokio::task::yield_now().await;
    }
    set(&emulator, "");
    raw.publish("ai:x", 2, [append(&serial, "b")]).await;
    assert_eq!(raw.answers(1).await, [(ACK, 2, 1, 0)]);
    text_becomes(&emulator, "ai:x", &serial, "ab").await;
}

#[tokio::test]
async fn what_was_under_way_at_a_drop_can_arrive_later() {
    // Half of the drops come before the frame is applied; either way it is there once in the end.
    for seed in 0..4 {
        let emulator = start(&format!("seed={seed}")).await;
        let (mut raw, _) = Raw::connect(&emulator, "").await;
        let serial = raw.create("ai:x", 0, "").await;
        set(&emulator, &format!("drop=1,late-apply=50,seed={seed}"));
        raw.publish("ai:x", 1, [append(&serial, "late")]).await;
        while raw.frame().await.is_some() {}
        text_becomes(&emulator, "ai:x", &serial, "late").await;
    }
}

#[tokio::test]
async fn answers_can_come_without_serials_or_with_old_ones() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let serial = raw.create("ai:x", 0, "").await;
    let given = async |raw: &mut Raw| raw.frame().await.expect("an answer")["res"][0]["serials"][0].clone();
    let update = || json!({"action": 1, "serial": serial, "data": "new"});
    set(&emulator, "null-updates=1");
    raw.publish("ai:x", 1, [update()]).await;
    assert_eq!(given(&mut raw).await, Value::Null);
    set(&emulator, "null-creates=1");
    raw.publish("ai:x", 2, [json!({"data": "x"})]).await;
    assert_eq!(given(&mut raw).await, Value::Null);
    set(&emulator, "stale-updates=1");
    raw.publish("ai:x", 3, [update()]).await;
    assert!(given(&mut raw).await.as_str().expect("a serial") < serial.as_str(), "below all that came before");
    set(&emulator, "null-serials=true");
    raw.publish("ai:x", 4, [append(&serial, "a"), append(&serial, "b"), append(&serial, "c")]).await;
    let mut serials = Vec::new();
    while serials.len() < 3 {
        let frame = raw.frame().await.expect("an answer");
        let results = frame["res"].as_array().expect("results").iter();
        serials.extend(results.map(|result| result["serials"][0].is_null()));
    }
    assert_eq!(serials, [false, true, true], "those that wait");
}

#[tokio::test]
async fn a_silent_server_says_nothing_until_it_speaks_again() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    set(&emulator, "silent=true");
    raw.publish("ai:x", 0, [json!({"data": "x"}), json!({"data": "y"})]).await;
    let mut waiting = Raw::open(&emulator, "key=app.key:secret").await;
    let said = tokio::time::timeout(std::time::Duration::from_millis(300), waiting.frame()).await;
    assert!(said.is_err(), "{said:?}");
    set(&emulator, "");
    assert!(waiting.frame().await.is_some());
    let answers = raw.answers(2).await;
    assert!(answers.iter().all(|(action, ..)| *action == ACK));
}

#[tokio::test]
async fn a_reader_gets_what_it_missed_or_is_told_that_it_cannot() {
    const ATTACHED: u64 = 11;
    const RESUMED: u64 = 4;
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "appendRollupWindow=0").await;
    let serial = raw.create("ai:x", 0, "one").await;
    let (mut reader, _) = Raw::connect(&emulator, "").await;
    reader.send(json!({"action": 10, "channel": "ai:x"})).await;
    let attached = reader.frame().await.expect("attached");
    assert_eq!(
        (&attached["action"], &attached["flags"].as_u64().map(|flags| flags & RESUMED)),
        (&json!(ATTACHED), &Some(0))
    );
    let position = attached["channelSerial"].as_str().expect("a position").to_owned();
    drop(reader);
    raw.publish("ai:x", 1, [append(&serial, " two"), append(&serial, " three")]).await;
    raw.answers(2).await;
    let (mut reader, _) = Raw::connect(&emulator, "").await;
    let attach = |position: &str| json!({"action": 10, "channel": "ai:x", "channelSerial": position});
    reader.send(attach(&position)).await;
    let attached = reader.frame().await.expect("attached");
    assert_eq!(attached["flags"].as_u64().map(|flags| flags & RESUMED), Some(RESUMED));
    let missed = reader.frame().await.expect("what it missed");
    assert_eq!(
        (&missed["messages"][0]["data"], &missed["messages"][0]["action"]),
        (&json!("one two three"), &json!(1))
    );
    reader.send(attach("00000000000001-000@old")).await;
    let lost = reader.frame().await.expect("attached");
    assert_eq!(
        (&lost["error"]["code"], &lost["flags"].as_u64().map(|flags| flags & RESUMED)),
        (&json!(90003), &Some(0))
    );
    reader.send(json!({"action": 10, "channel": "ai:y", "params": {"rewind": "soon"}})).await;
    let refused = reader.frame().await.expect("an error");
    assert_eq!(
        (&refused["action"], &refused["error"]["code"], &refused["channel"]),
        (&json!(ERROR), &json!(40003), &json!("ai:y"))
    );
}

#[tokio::test]
async fn faults_are_switched_over_http() {
    let emulator = start("reject=0.5").await;
    let (status, faults) = get(&emulator, "/emulator/faults").await;
    assert_eq!((status, &faults["reject"]), (200, &json!(0.5)));
    let put = async |body: &str| {
        let url = format!("http://{}/emulator/faults", emulator.local_addr());
        let answer = reqwest::Client::new().put(url).body(body.to_owned()).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a text"))
    };
    assert_eq!(put(r#"{"lose-ack": 0.1}"#).await.0, 200);
    assert_eq!(emulator.faults(), Faults { lose_ack: 0.1, ..Faults::default() }, "what is not said is off");
    let (status, problem) = put(r#"{"explode": 1}"#).await;
    assert!(status == 400 && problem.contains("explode") && problem.contains("lose-ack"), "{problem}");
    assert_eq!(put(r#"{"drop": 3}"#).await.0, 400);
    assert_eq!(emulator.faults().lose_ack.to_string(), "0.1", "what is wrong changes nothing");
    set(&emulator, "fail-requests=1");
    assert_eq!(get(&emulator, "/channels/x/messages").await.0, 503);
    set(&emulator, "");
    assert_eq!(get(&emulator, "/channels/x/messages").await, (200, json!([])));
    let (_, stats) = get(&emulator, "/emulator/stats").await;
    assert_eq!(stats["connections"], 0);
}

#[tokio::test]
async fn it_ends_and_says_why_it_cannot_begin() {
    let emulator = start("").await;
    let (mut raw, _) = Raw::connect(&emulator, "").await;
    let taken = Config { listen: emulator.local_addr(), ..Config::default() };
    let error = emulator::start(taken).await.expect_err("the address is taken").to_string();
    assert!(error.contains("--listen"), "{error}");
    let bad = Config { keys: vec!["nonsense".to_owned()], ..Config::default() };
    assert!(emulator::start(bad).await.is_err());
    emulator.stop().await;
    assert_eq!(raw.frame().await, None);
}
