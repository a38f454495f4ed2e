//! The relay itself, as `tokenrelay run` would run it, with limits that let it show what it can do.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use tokenrelay::config::{Config, Delivery, Secret, Start};
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
pub(crate) struct Options {
    pub(crate) bootstrap: String,
    /// First part of the topics' names, and the group.
    pub(crate) prefix: String,
    pub(crate) port: u16,
    /// Operations a second on one channel; beyond, tokens are joined.
    pub(crate) channel_rate: u32,
    /// `results.delivery`, as the settings call it.
    pub(crate) delivery: &'static str,
}

impl Options {
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { bootstrap, prefix, port, channel_rate, delivery } = self;
        let words = ["as-relay", bootstrap, prefix, &port.to_string(), &channel_rate.to_string(), delivery];
        words.map(str::to_owned).to_vec()
    }

    pub(crate) fn parse(words: &[&str]) -> Self {
        let words: [&str; 5] = words.try_into().expect("five arguments");
        let [bootstrap, prefix, port, channel_rate, delivery] = words;
        Self {
            bootstrap: bootstrap.to_owned(),
            prefix: prefix.to_owned(),
            port: port.parse().expect("a port"),
            channel_rate: channel_rate.parse().expect("a rate"),
            delivery: if delivery == EXACTLY_ONCE { EXACTLY_ONCE } else { AT_LEAST_ONCE },
        }
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
    config.results.delivery = match options.delivery {
        EXACTLY_ONCE => Delivery::ExactlyOnce,
        _ => Delivery::AtLeastOnce,
    };
    config.ably.key = Some(Secret::new("app.key:secret".to_owned()));
    config.ably.endpoint = "127.0.0.1".to_owned();
    config.ably.port = options.port;
    config.ably.tls = false;
    config.ably.channels.allow = vec!["ai:*".to_owned()];
    config.ably.channels.rate = options.channel_rate;
    if options.channel_rate < UNLIMITED {
        // Else most appends would be free, because the server rolls them up.
        config.ably.append_rollup = Duration::ZERO;
    }
    config.ably.connections.rate = UNLIMITED;
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
