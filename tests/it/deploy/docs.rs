//! The documents: what they link to is there, and what they show works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokenrelay::config::{self, Config};
use tokenrelay::decode::{Decoder, Include, Raw};
use tokenrelay::engine::{Cause, Fact, OpKind, OperationOutcome, ResponseOutcome};
use tokenrelay::telemetry::Metrics;

use super::{help, path, read};

const DOCUMENTS: [&str; 5] =
    ["README.md", "ARCHITECTURE.md", "deploy/guarantees.md", "deploy/operations.md", "deploy/readers.md"];

/// The contents of the fenced blocks in a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = read(document);
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).filter_map(|rest| Some(rest.split_once("```")?.0.to_owned())).collect()
}

/// What stands in backticks.
fn names(document: &str) -> BTreeSet<String> {
    let text = read(document);
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// One of everything: what has labels is not there before it is counted.
fn metrics_in_use() -> Metrics {
    let metrics = Metrics::new();
    let (latency, outcome) = (Duration::ZERO, OperationOutcome::Acked);
    let (op, cause) = (OpKind::Append, Cause::Stream);
    metrics.facts().count(&Fact::Operation { op, cause, outcome, class: None, latency, tokens: 1 });
    let outcome = ResponseOutcome::Delivered;
    metrics.facts().count(&Fact::Response { outcome, headless: false, gaps: 0, duplicates: 0 });
    metrics.dead_letter("undecodable");
    metrics.lag(0, 0, 0);
    metrics
}

#[test]
fn every_metric_is_explained() {
    let text = metrics_in_use().encode();
    let there_are = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next());
    let there_are: BTreeSet<String> = there_are.map(str::to_owned).collect();
    let metric = |name: &String| name.starts_with("tokenrelay_");
    let explained: BTreeSet<String> = names("deploy/operations.md").into_iter().filter(metric).collect();
    assert!(explained.len() > 20);
    assert_eq!(explained, there_are);
}

#[test]
fn the_keys_that_are_named_are_keys() {
    let reference: toml::Table = read("deploy/config.toml").parse().expect("TOML");
    let mut count = 0;
    for document in ["README.md", "deploy/guarantees.md", "deploy/operations.md", "deploy/readers.md"] {
        for name in names(document) {
            let key = name.split(' ').next().unwrap_or_default();
            let mut parts = key.split('.');
            let Some(section) = parts.next().and_then(|section| reference.get(section)) else { continue };
            // Those without a default are named in the comments of others.
            let found = parts.try_fold(section, |value, part| value.get(part)).is_some();
            let last = key.rsplit('.').next().unwrap_or_default();
            assert!(found || read("deploy/config.toml").contains(last), "{document}: {key}");
            count += 1;
        }
    }
    assert!(count > 30, "only {count} keys were found");
}

#[test]
fn links_lead_somewhere() {
    let mut count = 0;
    for document in DOCUMENTS {
        let text = read(document);
        let folder = document.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.starts_with("http")) {
            count += 1;
            let (file, heading) = link.split_once('#').unwrap_or((link, ""));
            let file = if file.is_empty() { document.to_owned() } else { format!("{folder}{file}") };
            assert!(path(&file).exists(), "{document}: {link} is not there");
            assert!(heading.is_empty() || has_heading(&read(&file), heading), "{document}: no heading {link}");
        }
    }
    assert!(count > 15, "only {count} links were found");
}

fn has_heading(text: &str, heading: &str) -> bool {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| line.trim_start_matches(['#', ' ']).to_lowercase().replace(' ', "-"))
        .any(|name| name == heading)
}

#[test]
fn the_commands_that_are_shown_are_commands() {
    let text = read("README.md");
    let listed = text.lines().filter_map(|line| line.strip_prefix("| `tokenrelay ")?.split_once('`'));
    let listed: Vec<_> = listed.map(|(command, _)| (command.to_owned(), Vec::new())).collect();
    assert!(listed.len() > 4, "{listed:?}");
    let shown = blocks("README.md", "sh").concat();
    let shown = shown.lines().filter_map(|line| {
        let line = line.split('#').next()?;
        let (_, behind) = line.split_once("tokenrelay ").or_else(|| line.split_once("cargo run --release -- "))?;
        let mut words = behind.split_whitespace().map(str::to_owned);
        Some((words.next()?, words.filter(|word| word.starts_with("--")).collect()))
    });
    for (command, options) in listed.into_iter().chain(shown) {
        let help = help(&command);
        for option in options {
            assert!(help.split_whitespace().any(|word| word == option), "README.md: {command} has no {option}");
        }
    }
}

#[test]
fn the_settings_that_are_shown_are_settings() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("ably.key");
    std::fs::write(&key, "app.key:secret").expect("written");
    for block in blocks("README.md", "toml") {
        let file = folder.path().join("relay.toml");
        std::fs::write(&file, block.replace("ably.key", &key.display().to_string())).expect("written");
        let config = config::load(&config::Source { file: Some(file), ..config::Source::default() }).expect("settings");
        assert_ne!(config, Config::default());
        assert!(!config.ably.channels.allow.is_empty(), "nothing would be sent");
    }
}

#[test]
fn the_records_that_are_shown_are_records() {
    let include = Include { text: true, ..Include::default() };
    let decoder = Decoder { format: None, include, template: None, topic: String::new() };
    let shell = blocks("README.md", "sh").concat();
    let records = shell.lines().filter_map(|line| line.trim().strip_prefix('\'')?.split_once('\''));
    let records: Vec<_> = records.filter_map(|(record, _)| record.split_once('\t')).collect();
    assert_eq!(records.len(), 4);
    for (key, value) in records {
        let raw = Raw { key: Some(key.as_bytes()), value: Some(value.as_bytes()), header: |_: &str| None };
        decoder.decode(&raw, &mut Vec::new()).expect("a token event");
    }
}

#[test]
fn the_results_that_are_shown_have_the_fields_of_the_schema() {
    let schema: serde_json::Value = serde_json::from_str(&read("deploy/results.schema.json")).expect("JSON");
    let fields = |of: &str| schema["$defs"][of]["properties"].as_object().expect("fields").clone();
    let kinds = BTreeMap::from([("operation", fields("OperationRecord")), ("response", fields("ResponseRecord"))]);
    let block = &blocks("README.md", "json")[0];
    let records = serde_json::Deserializer::from_str(block).into_iter::<serde_json::Value>();
    let mut count = 0;
    for record in records {
        let record = record.expect("JSON");
        let fields = &kinds[record["kind"].as_str().expect("a kind")];
        for key in record.as_object().expect("an object").keys().filter(|key| *key != "kind" && *key != "…") {
            assert!(fields.contains_key(key), "README.md shows a result with {key}, which the schema does not know");
        }
        count += 1;
    }
    assert_eq!(count, 2);
}
