//! TLS and credentials, on the listener that tests/kafka/server has for it.

use std::io::Write;

use tokenrelay::config::{Security, SecurityProtocol};
use tokenrelay::kafka::{Error, Kind, topics};

use crate::world::World;

/// None when the Kafka is somebody else's: then there may be no such listener.
async fn world(password: impl FnOnce(String) -> String) -> Option<(World, tempfile::NamedTempFile)> {
    let Ok(servers) = std::env::var("TOKENRELAY_TEST_KAFKA_SASL") else {
        eprintln!("not run: TOKENRELAY_TEST_KAFKA names a Kafka that is not ours");
        return None;
    };
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use tests/run"));
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    writeln!(file, "{}", password(variable("TOKENRELAY_TEST_KAFKA_SASL_PASSWORD"))).expect("written");
    let mut world = World::new(1, 1, 1).await;
    world.settings.bootstrap_servers = servers;
    world.settings.security = Security {
        protocol: SecurityProtocol::SaslSsl,
        ca_file: Some(variable("TOKENRELAY_TEST_KAFKA_SASL_CA").into()),
        mechanism: Some("PLAIN".to_owned()),
        username: Some("relay".to_owned()),
        password_file: Some(file.path().to_owned()),
        ..Security::default()
    };
    Some((world, file))
}

async fn check(world: &World) -> Result<topics::Layout, Error> {
    let clients = world.clients();
    tokio::task::spawn_blocking(move || topics::check(&clients)).await.expect("it returns")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_lets_us_in() {
    let Some((world, _file)) = world(|password| password).await else { return };
    check(&world).await.expect("all is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_not_shown() {
    let Some((world, _file)) = world(|_| "open-sesame".to_owned()).await else { return };
    let error = check(&world).await.expect_err("refused");
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Refused, "{text}");
    assert!(text.contains("kafka.security") && !text.contains("sesame"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_prove_itself_is_refused() {
    let Some((mut world, _file)) = world(|password| password).await else { return };
    world.settings.security.ca_file = None;
    let error = check(&world).await.expect_err("refused");
    assert_eq!(error.kind(), Kind::Refused, "{error}");
}
