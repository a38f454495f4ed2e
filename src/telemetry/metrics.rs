//! Metrics: every name, its help and its buckets. Labels are types, and never an id of a response nor a channel's name.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder, text::encode};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::engine::{Cause, Class, Fact, OpKind, OperationOutcome, ResponseOutcome};

/// From a local server's answer to the longest one that is not yet a timeout: is Ably slow, or Kafka?
const LATENCY_SECONDS: [f64; 12] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// The process's metrics. A handle: clones count the same things.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

/// Counts what engines report. Most operations are what the one before was, so its counter is kept at hand.
#[derive(Debug)]
pub struct Facts {
    metrics: Metrics,
    last: Option<(OperationLabels, Counter)>,
}

/// What is so now, as the loop sees it.
#[derive(Debug, Clone, Copy)]
pub struct Gauges {
    /// Open responses with text in memory.
    pub open: usize,
    /// Open responses without.
    pub stubs: usize,
    /// Bytes of text in memory.
    pub text_bytes: usize,
    /// Operations that have no answer yet.
    pub in_flight: u64,
    /// Connections that are up.
    pub connections_up: u32,
    /// Connections that there should be.
    pub connections: u32,
    /// A limit is reached.
    pub intake_paused: bool,
    /// Texts and messages that are looked up again.
    pub look_ups: usize,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    records: Counter,
    operations: Family<OperationLabels, Counter>,
    tokens: Counter,
    latency: Histogram,
    responses: Family<ResponseLabels, Counter>,
    headless: Counter,
    gaps: Counter,
    duplicates: Counter,
    dead_letters: Family<ReasonLabels, Counter>,
    records_lost: Counter,
    rebalances: Counter,
    commit_duration: Histogram,
    commit_failures: Gauge,
    connects: Counter,
    connections_lost: Counter,
    open: Gauge,
    stubs: Gauge,
    text_bytes: Gauge,
    in_flight: Gauge,
    look_ups: Gauge,
    connections_up: Gauge,
    connections: Gauge,
    intake_paused: Gauge,
    intake_lag: Family<PartitionLabels, Gauge>,
    watermark_lag: Family<PartitionLabels, Gauge>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    op: Label<OpKind>,
    cause: Label<Cause>,
    outcome: Label<OperationOutcome>,
    class: Label<Option<Class>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResponseLabels {
    outcome: Label<ResponseOutcome>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    partition: i32,
}

/// A word of the engine's as the value of a label: the word that records use, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Label<T>(T);

impl<T: serde::Serialize + std::fmt::Debug> EncodeLabelValue for Label<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        use std::fmt::Write as _;
        let word = serde_json::to_value(&self.0).unwrap_or_default();
        encoder.write_str(word.as_str().unwrap_or_default())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("tokenrelay");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        let latency = Histogram::new(LATENCY_SECONDS);
        let help = "From handing an operation to its connection to its outcome";
        registry.register_with_unit("operation_latency", help, Unit::Seconds, latency.clone());
        let commit_duration = Histogram::new(LATENCY_SECONDS);
        let help = "From the beginning of a transaction to its commit";
        registry.register_with_unit("commit_duration", help, Unit::Seconds, commit_duration.clone());
        let r = &mut registry;
        let inner = Inner {
            records: counter(r, "records", "Records read from the tokens topic"),
            operations: family(r, "operations", "Operations that have their outcome"),
            tokens: counter(r, "tokens_carried", "Token events that operations carried; more per operation is coarser"),
            responses: family(r, "responses", "Responses that are over"),
            headless: counter(r, "responses_headless", "Responses that began without their beginning"),
            gaps: counter(r, "upstream_gaps", "Events that producers counted and that never came"),
            duplicates: counter(r, "upstream_duplicates", "Events whose number had been seen before"),
            dead_letters: family(r, "dead_letters", "Records that could not be relayed"),
            records_lost: counter(
                r,
                "intake_lost_records",
                "Records that were gone from the topic before they were settled",
            ),
            rebalances: counter(r, "rebalances", "Times that partitions came or went"),
            connects: counter(r, "connects", "Times that a connection came up"),
            connections_lost: counter(r, "connections_lost", "Times that a connection's state was lost"),
            commit_failures: gauge(r, "commit_failures", "Commits that have failed since the start"),
            open: gauge(r, "responses_open", "Open responses with text in memory"),
            stubs: gauge(r, "responses_stubs", "Open responses whose text is not in memory"),
            text_bytes: gauge(r, "text_bytes", "Bytes of text in memory"),
            in_flight: gauge(r, "operations_in_flight", "Operations that have no answer yet"),
            look_ups: gauge(r, "look_ups_pending", "Texts and messages that are being looked up again"),
            connections_up: gauge(r, "connections_up", "Connections that are up"),
            connections: gauge(r, "connections_wanted", "Connections that there should be"),
            intake_paused: gauge(r, "intake_paused", "1 while a limit keeps records from being read"),
            intake_lag: gauges(r, "intake_lag_records", "Records behind what has been read; the lag to scale by"),
            watermark_lag: gauges(
                r,
                "watermark_lag_records",
                "Records behind what may be committed; an open stream holds it",
            ),
            latency,
            commit_duration,
            registry,
        };
        Self(Arc::new(inner))
    }

    /// Counts what engines report.
    #[must_use]
    pub fn facts(&self) -> Facts {
        Facts { metrics: self.clone(), last: None }
    }

    /// A record became a dead letter.
    pub fn dead_letter(&self, reason: &'static str) {
        self.0.dead_letters.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// So many records were read.
    pub fn records(&self, count: u64) {
        self.0.records.inc_by(count);
    }

    /// What is so now.
    pub fn gauges(&self, gauges: &Gauges) {
        let signed = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.0.open.set(signed(gauges.open));
        self.0.stubs.set(signed(gauges.stubs));
        self.0.text_bytes.set(signed(gauges.text_bytes));
        self.0.in_flight.set(i64::try_from(gauges.in_flight).unwrap_or(i64::MAX));
        self.0.connections_up.set(i64::from(gauges.connections_up));
        self.0.connections.set(i64::from(gauges.connections));
        self.0.intake_paused.set(i64::from(gauges.intake_paused));
        self.0.look_ups.set(signed(gauges.look_ups));
    }

    /// How far behind a partition is: in reading, and in what may be committed.
    pub fn lag(&self, partition: i32, intake: i64, watermark: i64) {
        self.0.intake_lag.get_or_create(&PartitionLabels { partition }).set(intake);
        self.0.watermark_lag.get_or_create(&PartitionLabels { partition }).set(watermark);
    }

    /// A partition is not ours any more.
    pub fn forget_partition(&self, partition: i32) {
        self.0.intake_lag.remove(&PartitionLabels { partition });
        self.0.watermark_lag.remove(&PartitionLabels { partition });
    }

    /// So many offsets are gone from the topic.
    pub fn records_lost(&self, count: i64) {
        self.0.records_lost.inc_by(u64::try_from(count).unwrap_or(0));
    }

    /// Partitions came or went.
    pub fn rebalance(&self) {
        self.0.rebalances.inc();
    }

    /// A transaction was committed, this long after it had begun.
    pub fn commit(&self, took: Duration) {
        self.0.commit_duration.observe(took.as_secs_f64());
    }

    /// So many commits have failed since the start.
    pub fn commit_failures(&self, total: u64) {
        self.0.commit_failures.set(i64::try_from(total).unwrap_or(i64::MAX));
    }

    /// A connection came up.
    pub fn connection_up(&self) {
        self.0.connects.inc();
    }

    /// A connection's state was lost.
    pub fn connection_lost(&self) {
        self.0.connections_lost.inc();
    }

    /// All of them, in the text format of OpenMetrics.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.0.registry).is_err() {
            tracing::error!("metrics cannot be written");
        }
        text
    }
}

impl Facts {
    /// An engine has reported something.
    pub fn count(&mut self, fact: &Fact) {
        match *fact {
            Fact::Operation { op, cause, outcome, class, latency, tokens } => {
                let (op, cause, outcome, class) = (Label(op), Label(cause), Label(outcome), Label(class));
                self.operation(OperationLabels { op, cause, outcome, class });
                let metrics = &self.metrics.0;
                metrics.tokens.inc_by(u64::from(tokens));
                metrics.latency.observe(latency.as_secs_f64());
            }
            Fact::Response { outcome, headless, gaps, duplicates } => {
                let metrics = &self.metrics.0;
                metrics.responses.get_or_create(&ResponseLabels { outcome: Label(outcome) }).inc();
                metrics.headless.inc_by(u64::from(headless));
                metrics.gaps.inc_by(gaps);
                metrics.duplicates.inc_by(duplicates);
            }
        }
    }

    fn operation(&mut self, labels: OperationLabels) {
        let known = self.last.take().filter(|(last, _)| *last == labels);
        let known = known.unwrap_or_else(|| (labels, self.metrics.0.operations.get_or_create_owned(&labels)));
        known.1.inc();
        self.last = Some(known);
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::<u64, AtomicU64>::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::<i64, AtomicI64>::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn family<L>(registry: &mut Registry, name: &str, help: &str) -> Family<L, Counter>
where
    L: Clone + std::hash::Hash + Eq + EncodeLabelSet + std::fmt::Debug + Send + Sync + 'static,
{
    let family = Family::<L, Counter>::default();
    registry.register(name, help, family.clone());
    family
}

fn gauges(registry: &mut Registry, name: &str, help: &str) -> Family<PartitionLabels, Gauge> {
    let family = Family::<PartitionLabels, Gauge>::default();
    registry.register(name, help, family.clone());
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_counted_under_the_words_of_the_records() {
        let metrics = Metrics::new();
        metrics.facts().count(&Fact::Operation {
            op: OpKind::Append,
            cause: Cause::Stream,
            outcome: OperationOutcome::Rejected,
            class: Some(Class::RateLimited),
            latency: Duration::from_millis(30),
            tokens: 3,
        });
        metrics.lag(4, 7, 9);
        metrics.forget_partition(4);
        metrics.lag(5, 7, 9);
        let text = metrics.encode();
        let operations =
            r#"tokenrelay_operations_total{op="append",cause="stream",outcome="rejected",class="rate-limited"} 1"#;
        for line in [
            operations,
            "tokenrelay_tokens_carried_total 3",
            r#"tokenrelay_operation_latency_seconds_bucket{le="0.05"} 1"#,
            r#"tokenrelay_intake_lag_records{partition="5"} 7"#,
            "tokenrelay_build_info{version=",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(!text.contains(r#"partition="4""#));
    }
}
