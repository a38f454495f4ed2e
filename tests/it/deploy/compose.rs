//! `docker-compose.yml`: Kafka, emulator, relay and a producer that fit each other.

use std::collections::BTreeMap;

use serde::Deserialize;
use tokenrelay::decode::{Decoder, Include, Raw};
use tokenrelay::emulator::{Faults, Scenario};
use tokenrelay::engine::{ChannelRules, EventKind, Template};

use super::{path, read, settings};

// What is not named here is not in our file, or misspelt in it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Compose {
    #[expect(dead_code, reason = "named only so that it may stand there")]
    name: String,
    services: BTreeMap<String, Service>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    build: Option<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    depends_on: BTreeMap<String, Dependency>,
    #[serde(default)]
    networks: BTreeMap<String, Network>,
    #[serde(default)]
    ports: Vec<String>,
    healthcheck: Option<Healthcheck>,
    stop_grace_period: Option<String>,
    #[expect(dead_code, reason = "named only so that it may stand there")]
    restart: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dependency {
    condition: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    aliases: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "named only so that they may stand there")]
struct Healthcheck {
    test: Vec<String>,
    interval: String,
    timeout: String,
    retries: u32,
}

fn compose() -> Compose {
    serde_saphyr::from_str(&read("docker-compose.yml")).expect("a compose file")
}

impl Service {
    /// The file of the repository behind a path inside the container.
    fn mounted(&self, inside: &str) -> Option<String> {
        self.volumes.iter().find_map(|volume| {
            let (outside, mount) = volume.strip_suffix(":ro")?.split_once(':')?;
            Some(format!("{}{}", outside.trim_start_matches("./"), inside.strip_prefix(mount)?))
        })
    }

    fn option(&self, name: &str) -> &str {
        let at = self.command.iter().position(|word| word == name).unwrap_or_else(|| panic!("{name} is not said"));
        &self.command[at + 1]
    }

    fn says(&self, name: &str) -> &str {
        self.environment.get(name).unwrap_or_else(|| panic!("{name} is not said"))
    }
}

#[test]
fn what_is_named_is_there() {
    let compose = compose();
    for (name, service) in &compose.services {
        if service.build.as_deref() == Some(".") {
            assert!(path("Dockerfile").exists());
        } else {
            assert!(service.image.starts_with("apache/kafka:4."), "{name}: {}", service.image);
        }
        for inside in service.command.iter().filter(|word| word.starts_with("/local/")) {
            let file = service.mounted(inside).unwrap_or_else(|| panic!("{name}: {inside} is not mounted"));
            assert!(path(&file).is_file(), "{name}: {file} is not there");
        }
        for (other, dependency) in &service.depends_on {
            let other = compose.services.get(other).unwrap_or_else(|| panic!("{name}: there is no {other}"));
            let healthy = dependency.condition == "service_healthy";
            assert!(!healthy || other.healthcheck.is_some(), "{name} waits for health that nobody looks at");
        }
        for port in &service.ports {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to other machines");
        }
    }
}

#[test]
fn commands_and_options_are_those_of_the_program() {
    for (name, service) in compose().services.iter().filter(|(_, service)| service.build.is_some()) {
        let (command, options) = service.command.split_first().expect("a command");
        let help = super::help(command);
        for option in options.iter().filter(|word| word.starts_with("--")) {
            assert!(help.split_whitespace().any(|word| word == option), "{name}: {command} has no {option}");
        }
    }
}

#[test]
fn the_relay_finds_what_the_others_offer() {
    let compose = compose();
    let (relay, emulator, kafka) =
        (&compose.services["relay"], &compose.services["emulator"], &compose.services["kafka"]);
    let config = settings(relay.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));

    assert!(emulator.networks["default"].aliases.contains(&config.ably.endpoint));
    assert_eq!(emulator.option("--listen"), format!("0.0.0.0:{}", config.ably.port));
    assert_eq!(Some(emulator.option("--key")), config.ably.key.as_ref().map(|key| key.expose()));
    assert!(!config.ably.tls, "the emulator speaks no TLS");
    let faults = emulator.mounted(emulator.option("--faults")).expect("mounted");
    assert_ne!(Scenario::load(&path(&faults)).expect("they are faults").faults, Faults::default());

    let advertised = kafka.says("KAFKA_ADVERTISED_LISTENERS");
    assert!(advertised.contains(&format!("INSIDE://{},", config.kafka.bootstrap_servers)), "{advertised}");
    for other in ["topics", "producer"] {
        assert_eq!(compose.services[other].says("KAFKA"), config.kafka.bootstrap_servers);
    }
    assert_eq!(compose.services["producer"].says("TOPIC"), config.kafka.tokens_topic);
    let topics = read("deploy/local/topics.sh");
    for topic in [&config.kafka.tokens_topic, &config.kafka.results_topic, &config.kafka.dead_letters_topic] {
        assert!(topics.contains(&format!("make {topic} ")), "nobody makes {topic}");
    }
    let grace = relay.stop_grace_period.as_deref().and_then(|period| period.strip_suffix('s')).expect("seconds");
    assert!(grace.parse::<u64>().expect("a number") > config.shutdown.drain.as_secs(), "it would be killed draining");
}

#[test]
fn the_sample_is_tokens_of_responses_that_end() {
    let compose = compose();
    let relay = &compose.services["relay"];
    let config = settings(relay.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let template = Template::parse(&config.input.channel).expect("a template");
    let topic = config.kafka.tokens_topic.as_str();
    let rules = ChannelRules::new(template, topic.into(), &config.ably.channels.allow).expect("rules");
    let include = Include { text: true, ..Include::default() };
    let decoder = Decoder { format: None, include, template: None, topic: topic.to_owned() };

    let mut open = BTreeMap::new();
    let records = read("deploy/local/tokens.tsv").replace("@round@", "1");
    for record in records.lines() {
        let (key, value) = record.split_once('\t').expect("key, tab, value");
        rules.resolve(None, key).expect("its channel is allowed");
        let raw = Raw { key: Some(key.as_bytes()), value: Some(value.as_bytes()), header: |_: &str| None };
        let mut events = Vec::new();
        decoder.decode(&raw, &mut events).expect("it is a token event");
        for event in &events {
            match event.kind {
                EventKind::Start => drop(open.insert(event.response_id.to_string(), true)),
                EventKind::Token(_) => drop(open.entry(event.response_id.to_string()).or_insert(true)),
                EventKind::End { .. } | EventKind::Cancel | EventKind::Error => {
                    assert_eq!(open.insert(event.response_id.to_string(), false), Some(true), "{key} ends once");
                }
            }
        }
    }
    assert!(open.len() >= 4, "only {} responses", open.len());
    assert!(open.values().all(|open| !open), "some never end: {open:?}");
}
