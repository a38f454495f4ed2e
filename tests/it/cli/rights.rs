//! Kafka's access rules: a right that is missing is named with what to grant, at the start and while it runs.

use serde_json::json;
use tokenrelay::config::Kafka;
use tokio::process::Command;

use super::ably;
use super::program::{Service, Setup};
use crate::e2e::relay;
use crate::world::{PATIENCE, World, servers};

const REFUSED: i32 = 77;

/// What a user needs who may do nothing until it is granted something.
struct Guest {
    servers: String,
    security: Vec<String>,
    tools: String,
}

impl Guest {
    /// None when the Kafka is somebody else's: then there may be no such user.
    fn new() -> Option<Self> {
        let Ok(servers) = std::env::var("TOKENRELAY_TEST_KAFKA_SASL") else {
            eprintln!("not run: TOKENRELAY_TEST_KAFKA names a Kafka that is not ours");
            return None;
        };
        let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use tests/run"));
        let security = vec![
            "kafka.security.protocol=sasl_ssl".to_owned(),
            format!("kafka.security.ca_file={}", variable("TOKENRELAY_TEST_KAFKA_SASL_CA")),
            "kafka.security.mechanism=PLAIN".to_owned(),
            "kafka.security.username=guest".to_owned(),
            format!("kafka.security.password={}", variable("TOKENRELAY_TEST_KAFKA_SASL_PASSWORD")),
        ];
        Some(Self { servers, security, tools: variable("TOKENRELAY_TEST_KAFKA_TOOLS") })
    }

    fn setup(&self, world: &World, ably: std::net::SocketAddr) -> Setup {
        Setup::new(&Kafka { bootstrap_servers: self.servers.clone(), ..world.settings.clone() }, ably)
    }

    fn security(&self) -> Vec<&str> {
        self.security.iter().map(String::as_str).collect()
    }

    /// Grants operations on resources, with Kafka's own tool and in its words.
    async fn grant(&self, operations: &[&str], resources: &[&str]) {
        let mut tool = Command::new("java");
        tool.args(["-XX:TieredStopAtLevel=1", "-cp", &self.tools, "org.apache.kafka.tools.AclCommand"]);
        tool.args(["--bootstrap-server", &servers(), "--add", "--force", "--allow-principal", "User:guest"]);
        operations.iter().for_each(|operation| _ = tool.args(["--operation", operation]));
        let output = tool.args(resources).output().await.expect("java runs");
        assert!(output.status.success(), "{output:?}");
    }
}

/// Waits until it is not ready for a reason that says all of this.
async fn unready(service: &mut Service, says: &[&str]) {
    loop {
        let line = service.logged("not ready").await;
        let reason = line["reason"].as_str().unwrap_or_default();
        if says.iter().all(|words| reason.contains(words)) {
            break;
        }
    }
    assert_eq!(service.get("/readyz").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_one_after_the_other() {
    let Some(guest) = Guest::new() else { return };
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    world.alter(&world.settings.dead_letters_topic, "max.message.bytes", "1200000").await;
    let Kafka { tokens_topic, results_topic, dead_letters_topic, group_id, .. } = &world.settings;
    let (setup, security) = (guest.setup(&world, ably.local_addr()), guest.security());
    let refused = async |says: &[&str]| {
        setup.run("check", &security, &[]).await.fails(REFUSED, says);
        setup.run("run", &security, &[]).await.with(REFUSED, says);
    };
    refused(&[tokens_topic, "kafka.tokens_topic", "grant Read and Describe"]).await;
    guest.grant(&["Read", "Describe"], &["--topic", tokens_topic]).await;
    refused(&[results_topic, "kafka.results_topic", "grant Read, Write and Describe"]).await;
    let topics = ["--topic", results_topic, "--topic", dead_letters_topic];
    guest.grant(&["Read", "Write", "Describe"], &topics).await;
    refused(&[group_id, "kafka.group_id", "grant Read"]).await;
    guest.grant(&["Read"], &["--group", group_id]).await;
    refused(&["transactional id", group_id, "grant Write and Describe", "at-least-once"]).await;
    let prefixed = ["--transactional-id", group_id, "--resource-pattern-type", "prefixed"];
    guest.grant(&["Write", "Describe"], &prefixed).await;
    let ended = setup.run("check", &security, &[]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_may_not_be_written_are_waited_for() {
    let Some(guest) = Guest::new() else { return };
    let (world, ably) = (World::new(1, 1, 1).await, ably().await);
    let Kafka { tokens_topic, results_topic, dead_letters_topic, group_id, .. } = &world.settings;
    let topics = ["--topic", tokens_topic, "--topic", results_topic, "--topic", dead_letters_topic];
    guest.grant(&["Read", "Describe"], &[&topics[..], &["--group", group_id]].concat()).await;
    let prefixed = ["--transactional-id", group_id, "--resource-pattern-type", "prefixed"];
    guest.grant(&["Write", "Describe"], &prefixed).await;
    let mut service = guest.setup(&world, ably.local_addr()).serve(&guest.security()).await;
    for event in [json!({"type": "token", "text": "Hello"}), json!({"type": "end"})] {
        world.produce_raw(Some(b"ai:one"), Some(event.to_string().as_bytes()), &[("channel", Some(b"ai:one"))]);
    }
    unready(&mut service, &[results_topic, "kafka.results_topic", "uthorization failed"]).await;
    guest.grant(&["Write"], &["--topic", results_topic]).await;
    let mut results = world.tail(results_topic);
    loop {
        let result = tokio::task::block_in_place(|| results.next(PATIENCE)).expect("a result in time");
        if result.header("kind") == Some("response") {
            assert_eq!(result.header("outcome"), Some("delivered"), "{result:?}");
            break;
        }
    }
    let message = relay::message(ably.local_addr(), "ai:one").await;
    assert_eq!((&*message.text, &*message.status), ("Hello", "complete"));
    service.signal("TERM").await;
    assert_eq!(service.ended().await.code, Some(0));
}
