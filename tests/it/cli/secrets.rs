//! Secrets are used and never said, and neither is a text: the program with every kind of credentials, right and wrong, at the
//! most talkative that it can be, and a look at everything that comes out of it.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokenrelay::config::Kafka;
use tokenrelay::emulator::{self, Emulator, Faults};

use super::NOWHERE;
use super::program::{Ended, Service, Setup, run};
use crate::e2e::tokens::{Giver, token};
use crate::world::{PATIENCE, World};

/// The first part is a key's name, which may be said.
const KEY: &str = "app.key:canary-of-the-key";
const NEXT_KEY: &str = "app.key:canary-of-the-next-key";
const TEXT: &str = "canary of a text";
/// What must not be found anywhere.
const CANARY: &str = "canary";

const REFUSED: i32 = 77;

async fn ably(key: &str, listen: Option<SocketAddr>, faults: Faults) -> Emulator {
    let mut config = emulator::Config { keys: vec![key.to_owned()], faults, ..emulator::Config::default() };
    config.listen = listen.unwrap_or(config.listen);
    emulator::start(config).await.expect("an emulator")
}

/// A response, and a record that is none.
fn say(world: &World) {
    let headers = [("channel", Some(b"ai:x".as_slice()))];
    for event in
        [json!({"type": "token", "text": TEXT}), json!({"type": "token", "text": TEXT}), json!({"type": "end"})]
    {
        world.produce_raw(Some(b"r"), Some(event.to_string().as_bytes()), &headers);
    }
    let torn = format!(r#"{{"type":"token","text":"{TEXT}"#);
    world.produce_raw(Some(b"torn"), Some(torn.as_bytes()), &headers);
}

/// Waits until so many responses are over; gives everything that the results say.
fn results(world: &World, responses: usize) -> String {
    let mut tail = world.tail(&world.settings.results_topic);
    let (mut said, mut over) = (String::new(), 0);
    while over < responses {
        let seen = tokio::task::block_in_place(|| tail.next(PATIENCE)).expect("a result in time");
        over += usize::from(seen.header("kind") == Some("response"));
        said += &format!("{:?} {}\n", seen.headers, String::from_utf8_lossy(seen.value.as_deref().unwrap_or_default()));
    }
    said
}

/// Everything that its admin server says.
async fn pages(service: &Service) -> String {
    let mut said = String::new();
    for page in ["/livez", "/readyz", "/metrics", "/version", "/"] {
        said += &service.get(page).await.1;
    }
    said
}

fn keeps(what: &str, said: &str) {
    assert!(!said.is_empty(), "{what} says nothing at all");
    let lines: Vec<&str> = said.lines().filter(|line| line.contains(CANARY)).collect();
    assert!(lines.is_empty(), "{what}: {lines:#?}");
}

/// Relays, with these credentials, and stops.
async fn relays(what: &str, credentials: &[String]) {
    let faults = Faults { reject: 0.3, lose_ack: 0.1, seed: 3, ..Faults::default() };
    let (world, ably) = (World::new(1, 1, 1).await, ably(KEY, None, faults).await);
    let credentials: Vec<String> = match what {
        "token" => vec![format!("ably.token={}", token(ably.local_addr(), KEY, &json!({})).await)],
        "auth_url" => {
            credentials.iter().map(|setting| setting.replace("ADDRESS", &ably.local_addr().to_string())).collect()
        }
        _ => credentials.to_vec(),
    };
    let mut settings = vec!["log.level=trace", "ably.key_file=", "ably.ack_timeout=1s"];
    settings.extend(credentials.iter().map(String::as_str));
    let service = Setup::with_key(&world.settings, ably.local_addr(), KEY).serve(&settings).await;
    say(&world);
    keeps(what, &results(&world, 1));
    keeps(what, &pages(&service).await);
    service.signal("TERM").await;
    let ended = service.ended().await;
    assert_eq!(ended.code, Some(0), "{what}: {}", ended.err);
    keeps(what, &format!("{}{}", ended.out, ended.err));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_it_is_it_says_neither_secrets_nor_texts() {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, KEY).expect("written");
    let path = path.display();
    let giver = Giver::start(KEY).await;
    let kinds = [
        ("key", vec![format!("ably.key={KEY}")]),
        ("key_file, by request", vec![format!("ably.key_file={path}"), "ably.transport=rest".to_owned()]),
        ("jwt", vec![format!("ably.jwt.key_file={path}"), "ably.encoding=json".to_owned()]),
        ("token", Vec::new()),
        ("auth_url", vec![format!("ably.auth_url={}&secret=canary", giver.url())]),
    ];
    let play = kinds.iter().map(|(what, credentials)| relays(what, credentials));
    futures_util::future::join_all(play).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rolled_is_taken_up_and_neither_is_said() {
    let (world, former) = (World::new(1, 1, 1).await, ably(KEY, None, Faults::default()).await);
    let address = former.local_addr();
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("key");
    std::fs::write(&path, KEY).expect("written");
    let setting = format!("ably.key_file={}", path.display());
    let mut service = Setup::with_key(&world.settings, address, KEY).serve(&["log.level=trace", &setting]).await;
    say(&world);
    let mut said = results(&world, 1);
    // The next key is there before the former one is refused: nobody waits for a person.
    std::fs::write(&path, NEXT_KEY).expect("written");
    former.stop().await;
    let next = ably(NEXT_KEY, Some(address), Faults::default()).await;
    let headers = [("channel", Some(b"ai:y".as_slice()))];
    for event in [json!({"type": "token", "text": TEXT}), json!({"type": "end"})] {
        world.produce_raw(Some(b"s"), Some(event.to_string().as_bytes()), &headers);
    }
    said += &results(&world, 2);
    said += &pages(&service).await;
    assert!(next.stats().creates > 0, "it is relayed with the next key");
    // And one that nobody knows.
    std::fs::write(&path, "app.key:canary-of-none").expect("written");
    next.stop().await;
    let _other = ably(KEY, Some(address), Faults::default()).await;
    service.logged("check ably.key_file").await;
    said += &pages(&service).await;
    assert!(said.contains("40101"), "{said}");
    service.signal("TERM").await;
    let ended = service.ended().await;
    keeps("the service", &format!("{said}{}{}", ended.out, ended.err));
}

/// Everything that these end with.
async fn refused(setup: &Setup, what: &str, settings: &[&str]) {
    for command in ["run", "check", "config"] {
        let mut all = vec!["log.level=trace"];
        all.extend(settings);
        let ended = setup.run(command, &all, &[]).await;
        keeps(&format!("{command}: {what}"), &said(&ended));
        if command == "config" {
            let ended = setup.run(command, &all, &["--json"]).await;
            keeps(&format!("{command} --json: {what}"), &said(&ended));
        } else {
            assert_ne!(ended.code, Some(0), "{command}: {what}");
        }
    }
}

fn said(ended: &Ended) -> String {
    format!("{}{}", ended.out, ended.err)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_and_not_shown() {
    let (world, ably) = (World::new(1, 1, 1).await, ably(KEY, None, Faults::default()).await);
    let setup = Setup::with_key(&world.settings, ably.local_addr(), "app.key:canary-of-a-wrong-key");
    let ended = setup.run("run", &["log.level=trace"], &[]).await;
    assert_eq!(ended.code, Some(REFUSED), "{}", ended.err);
    keeps("a wrong key", &said(&ended));
    let elsewhere = format!("ably.auth_url=http://{NOWHERE}/canary?secret=canary");
    for (what, settings) in [
        ("a wrong key", &[][..]),
        ("no key at all", &["ably.key=canary"]),
        ("a key in its place", &["ably=app.key:canary"]),
        ("two at once", &["ably.token=canary", &elsewhere]),
        ("an address that is none", &["ably.key_file=", "ably.auth_url=http://example.com/canary"]),
        ("a property", &["kafka.librdkafka.sasl.password=canary", "kafka.librdkafka.acks=1"]),
        (
            "a wrong password",
            &[
                "kafka.security.protocol=sasl_plaintext",
                "kafka.security.mechanism=PLAIN",
                "kafka.security.username=u",
                "kafka.security.password=canary",
                "kafka.librdkafka.debug=security,broker,protocol",
            ],
        ),
    ] {
        refused(&setup, what, settings).await;
    }
    let token = setup.run("check", &["log.level=trace", "ably.key_file=", "ably.token=canary.of.a.token"], &[]).await;
    assert!(token.code != Some(0) && token.out.contains("40144"), "{}", token.out);
    keeps("a wrong token", &said(&token));
    for arguments in [&["--help"][..], &["run", "--help"], &["run", "--set", "ably.key:app.key:canary"]] {
        keeps("the command line", &said(&run(arguments).await));
    }
    let shown = setup.run("config", &[&elsewhere, "ably.key_file="], &[]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    keeps("config", &said(&shown));
    assert!(shown.out.contains("auth_url = \"[redacted]\""), "{shown:?}");
    let kafka = Kafka { bootstrap_servers: NOWHERE.to_string(), ..world.settings.clone() };
    let away = Setup::with_key(&kafka, ably.local_addr(), KEY).run("check", &["log.level=trace"], &[]).await;
    let named: Vec<Value> = away.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    keeps("no Kafka", &format!("{}{named:?}", said(&away)));
}
