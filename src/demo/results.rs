//! Reads the results topic from its start, as a dashboard would, and keeps the books: was every operation of every
//! response reported once, and every response once?
//!
//! The records are read by their names alone, without the relay's types: a renamed field shows here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use serde::Deserialize;
use tokio::sync::broadcast;

use super::Error;
use super::broker::{PARTITIONS, Progress, RESULTS, client_settings};

/// What is used of a result record.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ResultRecord {
    kind: Kind,
    response_id: String,
    part: u32,
    outcome: String,
    covered: Covered,
    #[serde(default)]
    op: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    op_seq: u32,
    #[serde(default)]
    cause: String,
    #[serde(default)]
    operations: u32,
    #[serde(default)]
    text_sha256: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Operation,
    Response,
}

#[derive(Debug, Clone, Deserialize)]
struct Covered {
    partition: i32,
    first: i64,
    last: i64,
}

impl ResultRecord {
    /// Whether it is of a full text among tokens, or of the last of its parts.
    fn completes(&self) -> bool {
        self.name == "response-complete" && self.covered.first <= self.covered.last
    }
}

/// What a result means for somebody who watches a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// An operation failed: the text on the channel may be wrong.
    Broken,
    /// A full text was taken: it is right again.
    Healed,
    /// The response is over.
    Settled {
        /// How.
        outcome: String,
    },
}

/// A mark and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marked {
    /// The response.
    pub(super) response_id: String,
    /// Which part of it.
    pub(super) part: u32,
    /// What happened.
    pub(super) mark: Mark,
}

/// The books.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Results of operations.
    pub(super) operations: u64,
    /// Those that were refused.
    pub(super) rejected: u64,
    /// Those whose outcome nobody knows.
    pub(super) unknown: u64,
    /// Full texts that were sent to mend something.
    pub(super) repairs: u64,
    /// Responses (and parts) that have their result.
    pub(super) settled: u64,
    /// Of these, those that were given up on.
    pub(super) failed: u64,
    /// Records that are not what the contract says.
    pub(super) unreadable: u64,
    accounts: HashMap<(String, u32), Account>,
}

/// The books of one part of a response.
#[derive(Debug, Default)]
struct Account {
    operations: Vec<u32>,
    results: u32,
    operations_said: u32,
    text_sha256: String,
    failed: bool,
}

impl Tally {
    /// Enters a record.
    pub(super) fn enter(&mut self, record: &ResultRecord) -> Option<Mark> {
        let account = self.accounts.entry((record.response_id.clone(), record.part)).or_default();
        match record.kind {
            Kind::Operation => {
                account.operations.push(record.op_seq);
                self.operations += 1;
                let is_whole = record.op == "update" || record.completes();
                self.repairs += u64::from(is_whole && record.cause == "repair");
                self.rejected += u64::from(record.outcome == "rejected");
                self.unknown += u64::from(record.outcome == "unknown");
                match record.outcome.as_str() {
                    // A last word leaves the text as it is.
                    "acked" => (is_whole && record.cause != "final").then_some(Mark::Healed),
                    _ => Some(Mark::Broken),
                }
            }
            Kind::Response => {
                account.results += 1;
                account.operations_said = record.operations;
                account.text_sha256.clone_from(&record.text_sha256);
                self.settled += u64::from(account.results == 1);
                account.failed |= record.outcome == "failed";
                self.failed += u64::from(record.outcome == "failed");
                Some(Mark::Settled { outcome: record.outcome.clone() })
            }
        }
    }

    /// Whether this part of a response was given up on.
    pub(super) fn has_failed(&self, response_id: &str, part: u32) -> bool {
        self.accounts.get(&(response_id.to_owned(), part)).is_some_and(|account| account.failed)
    }

    /// How many results of this part of a response are missing, given too often, or at odds with each other.
    pub(super) fn missing(&self, response_id: &str, part: u32, text_sha256: &str) -> Missing {
        let Some(account) = self.accounts.get(&(response_id.to_owned(), part)) else {
            return Missing { missing: 1, surplus: 0, wrong_hash: false };
        };
        let mut seqs = account.operations.clone();
        seqs.sort_unstable();
        seqs.dedup();
        let expected = seqs.last().map_or(0, |last| last + 1).max(account.operations_said);
        let holes = expected as usize - seqs.len();
        Missing {
            missing: holes as u64 + u64::from(account.results == 0),
            surplus: (account.operations.len() - seqs.len()) as u64 + u64::from(account.results.saturating_sub(1)),
            wrong_hash: account.results > 0 && account.text_sha256 != text_sha256,
        }
    }
}

/// What is wrong with the results of one part of a response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Results that should be there.
    pub(super) missing: u64,
    /// Results that are there more than once.
    pub(super) surplus: u64,
    /// The result's hash is of another text.
    pub(super) wrong_hash: bool,
}

/// The results topic, as far as it has been read.
#[derive(Debug, Clone)]
pub(super) struct Results {
    tally: Arc<Mutex<Tally>>,
    marks: broadcast::Sender<Marked>,
}

impl Results {
    /// Books without an entry.
    pub(super) fn new() -> Self {
        Self { tally: Arc::default(), marks: broadcast::Sender::new(4_096) }
    }

    /// Looks into the books.
    pub(super) fn tally<T>(&self, look: impl FnOnce(&Tally) -> T) -> T {
        look(&self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What happens from now on.
    pub(super) fn marks(&self) -> broadcast::Receiver<Marked> {
        self.marks.subscribe()
    }

    /// Reads for ever.
    pub(super) async fn read(&self, bootstrap_servers: &str, progress: &Progress) -> Result<(), Error> {
        let consumer = consumer(bootstrap_servers)?;
        loop {
            let message = consumer.recv().await?;
            match serde_json::from_slice::<ResultRecord>(message.payload().unwrap_or_default()) {
                Ok(record) => self.enter(record, progress),
                Err(_) => self.tally.lock().unwrap_or_else(PoisonError::into_inner).unreadable += 1,
            }
        }
    }

    fn enter(&self, record: ResultRecord, progress: &Progress) {
        let mark = self.tally.lock().unwrap_or_else(PoisonError::into_inner).enter(&record);
        progress.reached(record.covered.partition, record.covered.last);
        if let Some(mark) = mark {
            // Nobody listens in a headless run.
            let _ = self.marks.send(Marked { response_id: record.response_id, part: record.part, mark });
        }
    }
}

/// Every partition from its beginning, outside of any group.
fn consumer(bootstrap_servers: &str) -> Result<StreamConsumer, Error> {
    let mut config: ClientConfig = client_settings().into_iter().collect();
    config
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", "tokenrelay-demo-results")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "error");
    let consumer: StreamConsumer = config.create()?;
    let mut partitions = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        partitions.add_partition_offset(RESULTS, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&partitions)?;
    Ok(consumer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(records: &[serde_json::Value]) -> (Tally, Vec<Option<Mark>>) {
        let mut tally = Tally::default();
        let marks = records
            .iter()
            .map(|record| tally.enter(&serde_json::from_value(record.clone()).expect("is a record")))
            .collect();
        (tally, marks)
    }

    fn operation(seq: u32, op: &str, outcome: &str) -> serde_json::Value {
        serde_json::json!({
            "v": 1, "kind": "operation", "responseId": "r", "part": 0, "outcome": outcome, "op": op, "opSeq": seq,
            "cause": if op == "update" { "repair" } else { "stream" },
            "covered": { "topic": "t", "partition": 3, "first": 0, "last": 9 },
        })
    }

    fn response(operations: u32) -> serde_json::Value {
        serde_json::json!({
            "v": 1, "kind": "response", "responseId": "r", "part": 0, "outcome": "reconciled", "operations": operations,
            "textSha256": "abc", "covered": { "topic": "t", "partition": 3, "first": 0, "last": 9 },
        })
    }

    #[test]
    fn complete_books_miss_nothing() {
        let (tally, marks) = entered(&[
            operation(0, "create", "acked"),
            operation(1, "append", "rejected"),
            operation(2, "update", "acked"),
            response(3),
        ]);
        assert_eq!(tally.missing("r", 0, "abc"), Missing::default());
        assert_eq!((tally.operations, tally.rejected, tally.repairs, tally.settled), (3, 1, 1, 1));
        let settled = Mark::Settled { outcome: "reconciled".to_owned() };
        assert_eq!(marks, [None, Some(Mark::Broken), Some(Mark::Healed), Some(settled)]);
    }

    #[test]
    fn holes_repeats_and_absence_are_seen() {
        let (tally, _) = entered(&[operation(0, "create", "acked"), operation(2, "append", "acked"), response(4)]);
        assert_eq!(tally.missing("r", 0, "abc"), Missing { missing: 2, surplus: 0, wrong_hash: false });
        let (tally, _) = entered(&[operation(0, "create", "acked"), operation(0, "create", "acked"), response(1)]);
        assert_eq!(tally.missing("r", 0, "xyz"), Missing { missing: 0, surplus: 1, wrong_hash: true });
        assert_eq!(tally.missing("r", 1, "abc"), Missing { missing: 1, surplus: 0, wrong_hash: false });
    }

    #[test]
    fn what_was_given_up_on_is_known_by_name() {
        let mut failed = response(1);
        failed["outcome"] = "failed".into();
        let (tally, _) = entered(&[operation(0, "create", "acked"), failed]);
        assert_eq!((tally.has_failed("r", 0), tally.has_failed("r", 1), tally.failed), (true, false, 1));
    }
}
