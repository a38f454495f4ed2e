//! What ends the program before it has begun: one message, one code.

use std::net::TcpListener;

use serde_json::json;
use tempfile::NamedTempFile;
use tokenrelay::config::Kafka;

use super::checks::world;
use super::program::{Setup, run};
use super::{NOWHERE, ably};
use crate::e2e::KEY;
use crate::e2e::tokens::{Giver, Gives, token};
use crate::world::World;

const USAGE: i32 = 64;
const UNAVAILABLE: i32 = 69;
const REFUSED: i32 = 77;
const CONFIGURATION: i32 = 78;

#[tokio::test]
async fn a_command_line_that_makes_no_sense_is_usage() {
    for (arguments, named) in [
        (&[][..], "Usage:"),
        (&["frobnicate"], "frobnicate"),
        (&["run", "--frobnicate"], "--frobnicate"),
        (&["run", "--config"], "--config"),
        (&["completions", "frobnicate"], "frobnicate"),
    ] {
        let ended = run(arguments).await;
        assert_eq!(ended.code, Some(USAGE), "{ended:?}");
        assert!(ended.out.is_empty() && ended.err.contains(named), "{ended:?}");
    }
    run(&["run", "--set", "frobnicate"]).await.with(USAGE, &["--set frobnicate", "expected key=value"]);
    run(&["emulator", "--key", "frobnicate"]).await.with(USAGE, &["app.id:secret"]);
    run(&["emulator", "--faults", "/nowhere"]).await.with(USAGE, &["/nowhere: No such file"]);
    run(&["demo", "--headless", "--faults", "reject=7"]).await.with(USAGE, &["reject", "between 0 and 1"]);
}

#[tokio::test]
async fn what_was_asked_for_is_no_error() {
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["completions", "bash"]] {
        let ended = run(arguments).await;
        assert!(ended.code == Some(0) && ended.err.is_empty() && !ended.out.is_empty(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_be_is_named_by_every_command() {
    let setup = Setup::new(&Kafka::default(), NOWHERE);
    for command in ["run", "check", "config"] {
        for (setting, says) in [
            ("kafka.grup_id=x", &["grup_id", "expected one of", "group_id"][..]),
            ("response.idle=soon", &["idle", "soon"]),
            ("ably.connections.rate=0", &["ably.connections.rate = 0", "Ably allows 50"]),
            ("ably.key_file=/nowhere/key", &["ably.key_file", "/nowhere/key"]),
        ] {
            setup.run(command, &[setting], &[]).await.with(CONFIGURATION, says);
        }
        run(&[command, "--config", "/nowhere.toml"]).await.with(CONFIGURATION, &["/nowhere.toml: No such file"]);
    }
}

#[tokio::test]
async fn a_file_that_is_wrong_is_named_with_the_place_and_keeps_its_secrets() {
    let file = NamedTempFile::new().expect("a file");
    let path = file.path().display().to_string();
    for (text, says) in [
        ("[ably]\nport = 1\nkey = \"hunter2\n", &[&*path, "line 3: ", "invalid basic string"][..]),
        ("[ably]\nkey = \"a\"\nkey = \"hunter2\"", &[&path, "line 3: ", "duplicate key"]),
        ("[ably]\nkeys = \"hunter2\"", &["unknown field `keys`", "`key`", "for key `ably`"]),
    ] {
        std::fs::write(&file, text).expect("written");
        run(&["config", "--config", &path]).await.with(CONFIGURATION, says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_channel_that_may_be_reached_it_does_not_begin() {
    let (ably, world) = (ably().await, World::new(1, 1, 1).await);
    let setup = Setup::new(&world.settings, ably.local_addr());
    let says = ["ably.channels.allow is empty", "list the channels"];
    setup.run("run", &["ably.channels.allow="], &[]).await.with(CONFIGURATION, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_missing_is_named_with_the_command_that_makes_it() {
    let ably = ably().await;
    for (counts, key) in
        [((0, 3, 1), "kafka.tokens_topic"), ((3, 0, 1), "kafka.results_topic"), ((3, 3, 0), "kafka.dead_letters_topic")]
    {
        let world = World::new(counts.0, counts.1, counts.2).await;
        let settings = &world.settings;
        let topic = match key {
            "kafka.tokens_topic" => &settings.tokens_topic,
            "kafka.results_topic" => &settings.results_topic,
            _ => &settings.dead_letters_topic,
        };
        let remedy =
            format!("kafka-topics.sh --bootstrap-server {} --create --topic {topic}", settings.bootstrap_servers);
        let says = [topic, key, "does not exist", &remedy];
        let setup = Setup::new(settings, ably.local_addr());
        setup.run("run", &[], &[]).await.with(CONFIGURATION, &says);
        setup.run("check", &[], &[]).await.fails(CONFIGURATION, &says);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_partitions_of_results_are_named_with_the_command_that_adds_them() {
    let ably = ably().await;
    let world = World::new(3, 2, 1).await;
    let results = &world.settings.results_topic;
    let remedy = format!("--alter --topic {results} --partitions 3");
    let says = [results, "kafka.results_topic", "2 partitions", &remedy];
    let setup = Setup::new(&world.settings, ably.local_addr());
    setup.run("run", &[], &[]).await.with(CONFIGURATION, &says);
    setup.run("check", &[], &[]).await.fails(CONFIGURATION, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_that_was_not_told_where_to_begin_is_told_the_key() {
    let ably = ably().await;
    let world = World::new(1, 1, 1).await;
    let says = [&*world.settings.group_id, "kafka.start", "latest", "earliest"];
    let setup = Setup::new(&world.settings, ably.local_addr());
    setup.run("run", &["kafka.start=error"], &[]).await.with(CONFIGURATION, &says);
    setup.run("check", &["kafka.start=error"], &[]).await.fails(CONFIGURATION, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_ably_does_not_know_is_refused() {
    let (ably, world) = (ably().await, world().await);
    for (key, says) in [
        ("app.key:hunter2", &["401", "ably.key_file"][..]),
        ("other.key:hunter2", &["40", "ably.key_file"]),
        ("hunter2", &["credentials for ably", "app.id:secret"]),
    ] {
        let setup = Setup::with_key(&world.settings, ably.local_addr(), key);
        setup.run("run", &[], &[]).await.with(REFUSED, says);
        setup.run("check", &[], &[]).await.fails(REFUSED, says);
    }
    let setup = Setup::new(&world.settings, ably.local_addr());
    setup.run("run", &["ably.key_file="], &[]).await.with(REFUSED, &["none given", "ably.key_file"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_ably_does_not_take_is_refused() {
    let (ably, world, giver) = (ably().await, world().await, Giver::start(KEY).await);
    let expired = token(ably.local_addr(), KEY, &json!({ "ttl": 0 })).await;
    let files = ["hunter2.token", &*expired, "app.key:hunter2"].map(|secret| {
        let file = NamedTempFile::new().expect("a file");
        std::fs::write(&file, secret).expect("written");
        file
    });
    let [other, old, key] = files.each_ref().map(|file| file.path().display().to_string());
    let url = giver.url().replace("ADDRESS", &ably.local_addr().to_string());
    let remedy = "ably.token_file";
    for (setting, gives, says) in [
        ("ably.token=hunter2.token".to_owned(), None, &["40143", remedy][..]),
        (format!("ably.token={expired}"), None, &["40142", remedy]),
        (format!("ably.token_file={other}"), None, &["40143", remedy]),
        (format!("ably.token_file={old}"), None, &["40142", remedy]),
        (format!("ably.jwt.key_file={key}"), None, &["40144", "ably.jwt.key_file"]),
        (format!("ably.auth_url={url}"), Some(Gives::Forbidden), &["ably.auth_url", "403"]),
        (format!("ably.auth_url={url}"), Some(Gives::Another), &["40143", "ably.auth_url"]),
    ] {
        for transport in ["ably.transport=realtime", "ably.transport=rest"] {
            let setup = Setup::new(&world.settings, ably.local_addr());
            let settings = ["ably.key_file=", &setting, transport];
            giver.always(gives.clone());
            setup.run("run", &settings, &[]).await.with(REFUSED, says);
            setup.run("check", &settings, &[]).await.fails(REFUSED, says);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_gives_out_tokens_and_is_away_is_waited_for() {
    let (ably, world, giver) = (ably().await, world().await, Giver::start(KEY).await);
    let url = giver.url().replace("ADDRESS", &ably.local_addr().to_string());
    for transport in ["ably.transport=realtime", "ably.transport=rest"] {
        giver.always(Some(Gives::Busy));
        let setup = Setup::new(&world.settings, ably.local_addr());
        let settings = ["ably.key_file=", &format!("ably.auth_url={url}"), transport];
        let mut service = setup.serve(&settings).await;
        service.logged("fetch a token for ably from ably.auth_url").await;
        assert!(service.get("/readyz").await.1.contains("ably.auth_url"));
        giver.always(None);
        while service.get("/readyz").await.0 != 200 {
            service.logged("not a reason to be unready any more").await;
        }
        service.signal("TERM").await;
        assert_eq!(service.ended().await.code, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_kafka_does_not_know_is_refused() {
    let (Ok(servers), Ok(ca)) =
        (std::env::var("TOKENRELAY_TEST_KAFKA_SASL"), std::env::var("TOKENRELAY_TEST_KAFKA_SASL_CA"))
    else {
        eprintln!("not run: TOKENRELAY_TEST_KAFKA names a Kafka that is not ours");
        return;
    };
    let setup = Setup::new(&Kafka { bootstrap_servers: servers.clone(), ..Kafka::default() }, NOWHERE);
    let ca = format!("kafka.security.ca_file={ca}");
    let security = [
        "kafka.security.protocol=sasl_ssl",
        &ca,
        "kafka.security.mechanism=PLAIN",
        "kafka.security.username=relay",
        "kafka.security.password=hunter2",
    ];
    setup.run("run", &security, &[]).await.with(REFUSED, &[&servers, "kafka.security"]);
}

#[tokio::test]
async fn a_kafka_that_cannot_be_reached_is_named() {
    let setup = Setup::new(&Kafka { bootstrap_servers: NOWHERE.to_string(), ..Kafka::default() }, NOWHERE);
    let says = ["kafka.bootstrap_servers", "127.0.0.1:1"];
    let (run, check) = tokio::join!(setup.run("run", &[], &[]), setup.run("check", &[], &[]));
    run.with(UNAVAILABLE, &says);
    assert_eq!(check.code, Some(UNAVAILABLE), "{check:?}");
}

#[tokio::test]
async fn an_admin_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let setup = Setup::new(&Kafka::default(), NOWHERE);
    let ended = setup.run("run", &[&format!("admin.listen={address}")], &[]).await;
    ended.with(UNAVAILABLE, &[&address, "admin.listen"]);
}
