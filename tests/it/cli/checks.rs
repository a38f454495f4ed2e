//! `tokenrelay check`: a line for each thing; for what is wrong, what to change.

use serde_json::{Value, json};
use tokenrelay::emulator::Faults;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::program::{Ended, Setup};
use super::{NOWHERE, ably};
use crate::e2e::{KEY, relay};
use crate::world::World;

const UNAVAILABLE: i32 = 69;
const REFUSED: i32 = 77;
const CONFIGURATION: i32 = 78;

impl Ended {
    fn findings(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("a finding")).collect()
    }

    /// One thing is wrong, and it is said what, and what to do about it.
    pub(super) fn fails(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        let failed: Vec<&str> = self.out.lines().filter(|line| line.starts_with("FAIL")).collect();
        let [failed] = failed[..] else { panic!("not one failure: {self:?}") };
        for words in says {
            assert!(failed.contains(words), "nothing of {words:?}: {failed}");
        }
        assert!(self.err.is_empty(), "{self:?}");
        self.keeps_secrets();
    }
}

/// Topics of which nothing can be said.
pub(super) async fn world() -> World {
    let world = World::new(2, 2, 1).await;
    world.alter(&world.settings.dead_letters_topic, "max.message.bytes", "1200000").await;
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_is_well_each_thing_has_a_line() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let ended = setup.run("check", &["ably.check_channel=ai:check"], &["--json", "--channel", "ai:x"]).await;
    assert!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let findings = ended.findings();
    assert!(findings.iter().all(|finding| finding["ok"] == true), "{findings:?}");
    let names: Vec<&str> = findings.iter().filter_map(|finding| finding["check"].as_str()).collect();
    assert_eq!(names, ["channels", "channels", "kafka", "ably", "channel rule", "reading back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_is_not_on_the_list_is_named() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let ended = setup.run("check", &[], &["--channel", "ai:x", "--channel", "chat:y"]).await;
    ended.fails(CONFIGURATION, &["channel chat:y", "ably.channels.allow", "add a glob", "ai:*"]);
    let ended = setup.run("check", &["input.channel=tokens:{key}"], &[]).await;
    ended.fails(CONFIGURATION, &["input.channel", "tokens:{key}", "ably.channels.allow", "add a glob"]);
    let ended = setup.run("check", &["ably.channels.allow="], &[]).await;
    ended.fails(CONFIGURATION, &["ably.channels.allow is empty", "list the channels"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_the_rule_is_named() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let ended = setup.run("check", &["ably.check_channel=fixed:check"], &[]).await;
    let rule = "turn on the rule \"message annotations, updates, deletes and appends\"";
    ended.fails(CONFIGURATION, &["channel fixed:check", "93002", rule]);
    let whole = ["ably.check_channel=fixed:check", "ably.no_mutable=whole"];
    let ended = setup.run("check", &whole, &["--json"]).await;
    assert!(ended.code == Some(0) && ended.err.is_empty(), "it is not needed there: {ended:?}");
    let findings = ended.findings();
    let note = findings.last().and_then(|finding| finding["message"].as_str()).unwrap_or_default();
    for words in ["note: ", "fixed:check", "93002", "ably.no_mutable", rule] {
        assert!(note.contains(words), "nothing of {words:?}: {note}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ably_that_cannot_be_reached_is_named() {
    let world = world().await;
    let setup = Setup::new(&world.settings, NOWHERE);
    let says = ["127.0.0.1:1", "refused", "check ably.endpoint and ably.port"];
    setup.run("check", &[], &[]).await.fails(UNAVAILABLE, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_listens_but_is_not_ably_is_told_from_it() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let says = ["that is no TLS", "ably.port", "ably.tls = false"];
    setup.run("check", &["ably.tls=true"], &[]).await.fails(UNAVAILABLE, &says);
    // An alert, as a server gives one who does not speak TLS; and a web server.
    for (answer, says) in [
        (&b"\x15\x03\x01\x00\x02\x02\x46"[..], "ably.tls = true"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "that is not Ably: check ably.endpoint and ably.port"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let setup = Setup::new(&world.settings, listener.local_addr().expect("an address"));
        let answers = async {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let _asked = stream.read(&mut [0; 4_096]).await.expect("a request");
                stream.write_all(answer).await.expect("answered");
            }
        };
        tokio::select! {
            () = answers => {}
            ended = setup.run("check", &[], &[]) => ended.fails(UNAVAILABLE, &[says]),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_setting_mends_it() {
    let (world, ably) = (world().await, ably().await);
    let _already = rustls::crypto::ring::default_provider().install_default();
    let check_channel = "ably.check_channel=ai:check";
    let token = async |capability: &str, client_id: Option<&str>| {
        let (name, secret) = KEY.split_once(':').expect("a key");
        let url = format!("http://{}/keys/{name}/requestToken", ably.local_addr());
        let body = json!({"capability": capability, "clientId": client_id}).to_string();
        let asked = reqwest::Client::new().post(url).basic_auth(name, Some(secret)).body(body).send();
        let given: Value = asked.await.expect("an answer").json().await.expect("JSON");
        format!("ably.token={}", given["token"].as_str().expect("a token"))
    };
    let setup = Setup::new(&world.settings, ably.local_addr());
    let check = async |settings: &[&str]| {
        let settings: Vec<_> = ["ably.key_file=", check_channel].iter().chain(settings).copied().collect();
        setup.run("check", &settings, &[]).await
    };
    let reads = token(r#"{"ai:*":["subscribe","history"]}"#, None).await;
    check(&[&reads]).await.fails(REFUSED, &["ai:check", "40160", "publish and message-update-any"]);
    let own = r#"{"ai:*":["publish","message-update-own"]}"#;
    let (nobody, somebody) = (token(own, None).await, token(own, Some("relay")).await);
    for transport in ["ably.transport=realtime", "ably.transport=rest"] {
        check(&[&nobody, transport]).await.fails(REFUSED, &["ai:check", "40166", "set ably.client_id"]);
        let ended = check(&[&somebody, transport, "ably.client_id=relay"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let note = ended.out.lines().last().unwrap_or_default();
        for words in ["note: ", "ai:check", "40160", "capability history"] {
            assert!(note.contains(words), "nothing of {words:?}: {note}");
        }
    }
    check(&[&somebody, "ably.client_id=other"]).await.fails(REFUSED, &["40102", "ably.client_id"]);
    let expired = check(&["ably.token=no-token-of-this-account"]).await;
    expired.fails(REFUSED, &["40143", "ably.token_file"]);
    ably.set_faults(Faults { require_agent: "server-side/1".to_owned(), ..Faults::default() });
    setup.run("check", &[check_channel], &[]).await.fails(REFUSED, &["40168", "ably.agent"]);
    let agent = "ably.agent=tokenrelay/1 server-side/1";
    let ended = setup.run("check", &[check_channel, agent], &[]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_key_makes_belongs_to_the_client_that_is_configured() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    for transport in ["realtime", "rest"] {
        let channel = format!("ai:{transport}");
        let settings = [
            format!("ably.check_channel={channel}"),
            format!("ably.transport={transport}"),
            "ably.client_id=relay".to_owned(),
        ];
        let ended = setup.run("check", &settings.each_ref().map(String::as_str), &[]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        let messages = relay::messages(ably.local_addr(), &channel).await;
        assert_eq!(messages[0]["clientId"], "relay", "{messages:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_full_is_told_from_one_that_is_down() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    for (refuse_code, exit, says) in [
        (None, UNAVAILABLE, "80003"),
        (Some(40111), UNAVAILABLE, "lower ably.connections.max"),
        (Some(40112), REFUSED, "the account's messages are used up"),
    ] {
        ably.set_faults(Faults { refuse_connections: true, refuse_code, ..Faults::default() });
        setup.run("check", &[], &[]).await.fails(exit, &[says]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_come_says_nothing_of_the_rule() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let check = async || setup.run("check", &["ably.check_channel=ai:check"], &[]).await;
    for operations in ["create", "append"] {
        let lose_ops = vec![operations.to_owned()];
        ably.set_faults(Faults { lose_ack: 1.0, refuse_resume: 1.0, lose_ops, ..Faults::default() });
        check().await.fails(UNAVAILABLE, &["channel rule", "connection"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_without_a_serial_is_looked_up() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let check = async || setup.run("check", &["ably.check_channel=ai:check"], &[]).await;
    ably.set_faults(Faults { null_creates: 1.0, history_lag: 500, ..Faults::default() });
    let ended = check().await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ably.set_faults(Faults { immutable: true, ..Faults::default() });
    check().await.fails(CONFIGURATION, &["93002", "turn on the rule"]);
    ably.set_faults(Faults { null_creates: 1.0, history_lag: 3_600_000, ..Faults::default() });
    check().await.fails(CONFIGURATION, &["93002", "without a serial", "not in history"]);
    let (fail_reads, fail_reads_code) = (1.0, Some(40160));
    ably.set_faults(Faults { null_creates: 1.0, fail_reads, fail_reads_code, ..Faults::default() });
    check().await.fails(REFUSED, &["40160", "without a serial", "may not be looked up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_back_is_said() {
    let (world, ably) = (world().await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let check = async || setup.run("check", &["ably.check_channel=ai:check"], &[]).await;
    ably.set_faults(Faults { read_lag: 3_600_000, ..Faults::default() });
    let ended = check().await;
    let note = ended.out.lines().last().unwrap_or_default();
    assert!(ended.code == Some(0) && note.contains("note: ") && note.contains("does not give back"), "{ended:?}");
    ably.set_faults(Faults { fail_reads: 1.0, ..Faults::default() });
    check().await.fails(UNAVAILABLE, &["reading back"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_would_not_fit_are_foretold() {
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let letters = &world.settings.dead_letters_topic;
    world.alter(letters, "max.message.bytes", "100000").await;
    let says = [letters, "kafka.dead_letters_topic", "max.message.bytes"];
    setup.run("check", &[], &[]).await.fails(CONFIGURATION, &says);
}
