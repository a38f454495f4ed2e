//! The configuration as its users meet it: every key through every layer, mistakes, secrets, and the reference.

use std::io::Write;

use tempfile::NamedTempFile;
use tokenrelay::config::{Config, Error, Secret, Source, load};

const REFERENCE: &str = include_str!("../../deploy/config.toml");

/// Keys whose values are words or have bounds of their own, and another value that they take.
const OTHERS: &[(&str, &str)] = &[
    ("results.delivery", "at-least-once"),
    ("ably.account.bandwidth", "5MiB"),
    ("ably.append_rollup", "100ms"),
    ("ably.encoding", "json"),
    ("ably.auth_url", "https://example.com/token"),
    ("ably.jwt.ttl", "90s"),
    ("ably.per_token", "joined"),
    ("ably.transport", "rest"),
    ("ably.no_mutable", "whole"),
    ("admin.listen", "0.0.0.0:1"),
    ("input.format", "openai-chat"),
    ("input.include", "text,reasoning"),
    ("input.pattern", "message-per-token"),
    ("kafka.security.protocol", "ssl"),
    ("kafka.start", "latest"),
    ("log.format", "text"),
    ("reconcile.verify", "always"),
    ("reconcile.when", "at-end"),
];

/// Keys that have only one value so far, and one that is to come.
const TO_COME: &[(&str, &str)] = &[("input.format", "anthropic")];

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

fn from_file(text: &str) -> Result<Config, Error> {
    load(&Source { file: Some(file(text).path().to_owned()), ..Source::default() })
}

fn from_environment(key: &str, value: &str) -> Result<Config, Error> {
    let name = format!("TOKENRELAY__{}", key.to_uppercase().replace('.', "__"));
    load(&Source { environment: vec![(name, value.to_owned())], ..Source::default() })
}

fn from_flag(key: &str, value: &str) -> Result<Config, Error> {
    load(&Source { flags: vec![format!("{key}={value}")], ..Source::default() })
}

fn table(config: &Config) -> toml::Table {
    toml::Table::try_from(config).expect("it has a TOML form")
}

/// All keys that hold values, with their values.
fn leaves(table: &toml::Table, above: &str) -> Vec<(String, toml::Value)> {
    let mut leaves = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(below) if !below.is_empty() => {
                leaves.extend(self::leaves(below, &format!("{above}{key}.")))
            }
            _ => leaves.push((format!("{above}{key}"), value.clone())),
        }
    }
    leaves
}

fn leaf(config: &Config, key: &str) -> toml::Value {
    let leaves = leaves(&table(config), "");
    leaves.into_iter().find_map(|(name, value)| (name == key).then_some(value)).expect("the key is there")
}

/// A value that is not the default, as the environment and flags would give it.
fn another(key: &str, default: &toml::Value) -> String {
    if let Some((_, other)) = OTHERS.iter().find(|(name, _)| *name == key) {
        return (*other).to_owned();
    }
    match default {
        toml::Value::Boolean(default) => (!default).to_string(),
        toml::Value::Integer(default) => (default + 1).to_string(),
        toml::Value::Array(_) => "one,two".to_owned(),
        toml::Value::String(default) if default.ends_with("iB") => "5MiB".to_owned(),
        toml::Value::String(default) if default.starts_with(|c: char| c.is_ascii_digit()) && !default.contains(':') => {
            "17s".to_owned()
        }
        _ => "another".to_owned(),
    }
}

/// As a file would give it.
fn in_toml(key: &str, value: &str, default: &toml::Value) -> String {
    match default {
        toml::Value::Boolean(_) | toml::Value::Integer(_) => format!("{key} = {value}"),
        toml::Value::Array(_) => format!("{key} = {:?}", value.split(',').collect::<Vec<_>>()),
        _ => format!("{key} = {value:?}"),
    }
}

#[test]
fn every_key_can_be_set_in_every_layer() {
    let mut tried = 0;
    for (key, default) in leaves(&table(&Config::default()), "") {
        let alone = TO_COME.iter().any(|(name, _)| *name == key) && !OTHERS.iter().any(|(name, _)| *name == key);
        // Files whose contents are read at once, and the one table without fixed keys, have tests of their own.
        if alone || key == "ably.key_file" || key == "ably.jwt.key_file" || key == "kafka.librdkafka" {
            continue;
        }
        let value = another(&key, &default);
        let layers = [
            ("file", from_file(&in_toml(&key, &value, &default))),
            ("environment", from_environment(&key, &value)),
            ("flag", from_flag(&key, &value)),
        ];
        let layers = layers.map(|(layer, config)| {
            let config = config.unwrap_or_else(|error| panic!("{key} = {value} by {layer}: {error}"));
            leaf(&config, &key)
        });
        assert_ne!(layers[0], default, "{key} = {value}");
        assert!(layers[1] == layers[0] && layers[2] == layers[0], "{key} = {value}: {layers:?}");
        tried += 1;
    }
    assert!(tried > 40, "only {tried}");
}

#[test]
fn what_is_to_come_is_refused_by_name() {
    for (key, value) in TO_COME {
        let error = from_flag(key, value).expect_err("it is to come").to_string();
        assert!(error.contains(key) && error.contains("not available yet; use "), "{error}");
    }
}

#[test]
fn a_misspelt_key_is_an_error_that_names_it_wherever_it_stands() {
    let all = leaves(&table(&Config::default()), "");
    let mut tables: Vec<&str> = all.iter().filter_map(|(key, _)| Some(key.rsplit_once('.')?.0)).collect();
    tables.dedup();
    for table in tables {
        let key = format!("{table}.mispelt");
        for (layer, config) in [
            ("file", from_file(&format!("{key} = 1"))),
            ("environment", from_environment(&key, "1")),
            ("flag", from_flag(&key, "1")),
        ] {
            let error = config.expect_err(&format!("{key} by {layer} is an error")).to_string();
            assert!(error.contains("mispelt"), "{key} by {layer}: {error}");
        }
    }
}

#[test]
fn a_property_of_librdkafka_may_have_dots_and_any_type() {
    let config = from_file("[kafka.librdkafka]\n\"socket.timeout.ms\" = 5000\n\"client.rack\" = 'a'").expect("loads");
    let properties: Vec<_> =
        config.kafka.librdkafka.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(properties, [("client.rack", "a"), ("socket.timeout.ms", "5000")]);
}

#[test]
fn a_secret_comes_from_its_file_and_is_shown_nowhere() {
    let secret = file("hunter:two\n");
    let path = secret.path().display();
    let text = format!(
        "[ably]\nkey_file = '{path}'\ntoken_file = '{path}'\n\
         [kafka.security]\nprotocol = 'sasl_ssl'\nusername = 'relay'\npassword_file = '{path}'"
    );
    let config = from_file(&text).expect("loads");
    let password = &config.kafka.security.password;
    for read in [&config.ably.key, &config.ably.token, password] {
        assert_eq!(read.as_ref().map(Secret::expose), Some("hunter:two"));
    }
    for shown in [format!("{config:?}"), toml::to_string(&config).expect("TOML"), serde_json::json!(config).to_string()]
    {
        assert!(!shown.contains("hunter") && shown.contains("redacted"), "{shown}");
    }
}

#[test]
fn a_secret_that_is_given_outranks_its_file() {
    let secret = file("from file");
    let text = format!("[ably]\nkey = 'said'\nkey_file = '{}'", secret.path().display());
    assert_eq!(from_file(&text).expect("loads").ably.key.as_ref().map(Secret::expose), Some("said"));
}

#[test]
fn the_reference_says_something_about_every_key() {
    let mut said = false;
    let mut table = String::new();
    let mut silent = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !said && !line.starts_with('#')) {
            silent.push(format!("{table}.{key}"));
        }
        said = line.starts_with("# ");
    }
    assert_eq!(silent, <[String; 0]>::default(), "keys of deploy/config.toml without a comment");
}

#[test]
fn the_reference_names_the_keys_that_have_no_default() {
    let secret = || Some(Secret::new(String::new()));
    let mut config = Config::default();
    (config.ably.key, config.ably.token, config.ably.token_file) = (secret(), secret(), Some("t".into()));
    let security = &mut config.kafka.security;
    (security.ca_file, security.cert_file, security.key_file) = (Some("a".into()), Some("c".into()), Some("k".into()));
    (security.mechanism, security.username) = (Some("m".into()), Some("u".into()));
    (security.password, security.password_file) = (secret(), Some("p".into()));
    for (key, _) in leaves(&table(&config), "") {
        let last = key.rsplit('.').next().expect("a name");
        let mut words = REFERENCE.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        assert!(words.any(|word| word == last), "deploy/config.toml does not speak of {key}");
    }
}
