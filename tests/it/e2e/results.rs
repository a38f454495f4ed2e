//! The results topic, as a dashboard or an auditor reads it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::relay::Relay;
use super::story::Response;
use crate::world::{Seen, World};

/// How long the relay may take for everything.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) struct Results {
    records: Vec<(Seen, Value)>,
}

/// Sums over all responses.
#[derive(Debug, Default)]
pub(super) struct Summary {
    pub(super) reconciled: usize,
    pub(super) rejected: usize,
    pub(super) unknown: usize,
}

/// Reads until so many responses are over.
pub(super) async fn wait(world: &World, relay: &mut Relay, responses: usize) -> Results {
    let mut tail = world.tail(&world.settings.results_topic);
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    let mut over = 0;
    while over < responses {
        relay.check_alive();
        assert!(Instant::now() < deadline, "{over} of {responses} responses are over:\n{}", relay.reasons());
        // Blocking, but short, and this test has nothing else to do.
        let Some(seen) = tokio::task::block_in_place(|| tail.next(Duration::from_millis(100))) else { continue };
        over += usize::from(seen.header("kind") == Some("response"));
        let value = serde_json::from_slice(seen.value.as_deref().unwrap_or_default()).expect("a result is JSON");
        records.push((seen, value));
    }
    Results { records }
}

impl Results {
    /// The `response` records.
    pub(super) fn of_responses(&self) -> impl Iterator<Item = &Value> {
        self.of("response").map(|(_, value)| value)
    }

    /// The `operation` records.
    pub(super) fn of_operations(&self) -> impl Iterator<Item = &Value> {
        self.of("operation").map(|(_, value)| value)
    }

    fn of(&self, kind: &str) -> impl Iterator<Item = &(Seen, Value)> {
        self.records.iter().filter(move |(_, value)| value["kind"] == kind)
    }

    /// One `response` result for each response, saying what is true; each operation once.
    pub(super) fn check(&self, responses: &[Response]) -> Summary {
        let mut summary = Summary::default();
        for (seen, value) in &self.records {
            assert_eq!(value["v"], 1, "{value}");
            assert_eq!(seen.key.as_deref(), value["responseId"].as_str().map(str::as_bytes), "{value}");
            assert_eq!(seen.header("kind"), value["kind"].as_str(), "{value}");
            assert_eq!(seen.header("outcome"), value["outcome"].as_str(), "{value}");
            assert_eq!(value["covered"]["partition"], seen.partition, "{value}");
        }
        let operations = self.check_operations(&mut summary);
        let mut over = HashMap::new();
        for value in self.of_responses() {
            let former = over.insert(value["responseId"].as_str().unwrap_or_default(), value);
            assert!(former.is_none(), "over twice: {value}");
        }
        assert_eq!(over.len(), responses.len());
        for response in responses {
            let value = over.get(&*response.id).expect("it is over");
            let outcome = value["outcome"].as_str().unwrap_or_default();
            assert!(response.outcomes().contains(&outcome), "{value}");
            summary.reconciled += usize::from(outcome == "reconciled");
            let text = response.text();
            assert_eq!((&value["tokens"], &value["bytes"]), (&response.tokens().into(), &text.len().into()), "{value}");
            let hash: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(value["textSha256"], hash, "{value}");
            let counted = operations.get(&*response.id).copied().unwrap_or_default();
            assert_eq!(value["operations"], counted, "{value}");
        }
        summary
    }

    fn check_operations(&self, summary: &mut Summary) -> HashMap<String, usize> {
        let mut seen = HashSet::new();
        let mut counts: HashMap<String, usize> = HashMap::new();
        for (_, value) in self.of("operation") {
            let id = value["responseId"].as_str().unwrap_or_default().to_owned();
            let name = (id.clone(), value["part"].as_u64(), value["opSeq"].as_u64());
            assert!(name.1.is_some() && name.2.is_some(), "{value}");
            assert!(seen.insert(name), "an operation twice: {value}");
            *counts.entry(id).or_default() += 1;
            match value["outcome"].as_str() {
                Some("acked") => {}
                Some("rejected") => summary.rejected += 1,
                Some("unknown") => summary.unknown += 1,
                _ => panic!("{value}"),
            }
        }
        counts
    }
}
