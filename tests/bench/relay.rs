//! The relay itself, as `tokenrelay run` would run it, with limits that let it show what it can do.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use tokenrelay::config::{Ably, Config, Delivery, Secret, Start, Transport};
use tokenrelay::pipeline::{self, Stop};
use tokenrelay::telemetry::{Health, Metrics};
use tokio::sync::watch;

use super::process;

/// A rate that is none.
pub(crate) const UNLIMITED: u32 = 10_000_000;

/// The two kinds of delivery.
pub(crate) const EXACTLY_ONCE: &str = "exactly-once";
pub(crate) const AT_LEAST_ONCE: &str = "at-least-once";

/// What one run of it is told.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Options {
    pub(crate) bootstrap: String,
    /// First part of the topics' names, and the group.
    pub(crate) prefix: String,
    pub(crate) port: u16,
    /// Operations a second on one channel; beyond, tokens are joined.
    pub(crate) channel_rate: u32,
    /// Connections at most, and operations a second on one of them.
    pub(crate) connections: u32,
    pub(crate) connection_rate: u32,
    /// `results.delivery`, as the settings call it.
    pub(crate) delivery: String,
    /// Operations go by request.
    pub(crate) by_request: bool,
}

impl Options {
    pub(crate) fn arguments(&self) -> Vec<String> {
        vec!["as-relay".to_owned(), serde_json::to_string(self).expect("serialises")]
    }

    pub(crate) fn parse(words: &[&str]) -> Self {
        serde_json::from_str(words.first().expect("options")).expect("options")
    }
}

/// Where Ably is.
pub(crate) fn ably(port: u16) -> Ably {
    Ably {
        key: Some(Secret::new("app.key:secret".to_owned())),
        endpoint: "127.0.0.1".to_owned(),
        port,
        tls: false,
        ..Ably::default()
    }
}

/// Relays until it is ended.
pub(crate) fn run(options: &Options) {
    let mut config = Config::default();
    config.kafka.bootstrap_servers.clone_from(&options.bootstrap);
    config.kafka.group_id.clone_from(&options.prefix);
    config.kafka.tokens_topic = format!("{}.tokens", options.prefix);
    config.kafka.results_topic = format!("{}.results", options.prefix);
    config.kafka.dead_letters_topic = format!("{}.dead-letters", options.prefix);
    config.kafka.start = Start::Earliest;
    config.kafka.group_instance_id = "bench".to_owned();
    config.results.delivery = match options.delivery.as_str() {
        EXACTLY_ONCE => Delivery::ExactlyOnce,
        _ => Delivery::AtLeastOnce,
    };
    config.ably = ably(options.port);
    if options.by_request {
        config.ably.transport = Transport::Rest;
    }
    config.ably.channels.allow = vec!["ai:*".to_owned()];
    config.ably.channels.rate = options.channel_rate;
    if options.channel_rate < UNLIMITED {
        // Else most appends would be free, because the server rolls them up.
        config.ably.append_rollup = Duration::ZERO;
    }
    config.ably.connections.max = options.connections;
    config.ably.connections.rate = options.connection_rate;
    config.ably.connections.frames = UNLIMITED;
    config.ably.in_flight.operations = 100_000;
    config.ably.in_flight.bytes = ByteSize::gib(1);
    let metrics = Metrics::new();
    let asked = metrics.clone();
    process::end_with_parent(move || commits(&asked.encode()));
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    // Whatever else was installed first does as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    writeln!(std::io::stdout(), "started").expect("written");
    let (_stop, stopped) = watch::channel(Stop::No);
    let ended = runtime.block_on(pipeline::run(Arc::new(config), metrics, Health::new(), stopped));
    writeln!(std::io::stderr(), "the relay has ended: {ended:?}").expect("written");
}

/// How many transactions there were, and how many seconds they took together.
fn commits(metrics: &str) -> String {
    let number = |name: &str| {
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("tokenrelay_commit_duration_seconds")?.strip_prefix(name));
        line.unwrap_or_default().trim().to_owned()
    };
    format!("{} {}", number("_count"), number("_sum"))
}
