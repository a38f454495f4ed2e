//! From settings to parts: checks what must be so, then makes everything that the loop needs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Error;
use super::again::Again;
use super::commit::Committing;
use crate::ably::{self, Lease, Pool};
use crate::config::{self, Config, Delivery};
use crate::decode::{self, Decoder};
use crate::engine::{
    Batch, ChannelRules, Limits, Pattern, ReconcileSettings, ReconcileWhen, Settings, Template, Verify,
};
use crate::kafka::reader::Reader;
use crate::kafka::results::Writer;
use crate::kafka::source::Source;
use crate::kafka::topics::{self, Layout};
use crate::kafka::{self, client::Clients};
use crate::telemetry::Health;

/// Events of connections that may wait for the loop.
const EVENTS_WAITING_MAX: usize = 1_024;

/// How long brokers wait for a member of a group that they assign themselves, unless they are told otherwise.
const BROKERS_SESSION: Duration = Duration::from_secs(45);
/// How long reading what a former owner has left takes at the most, for a million records.
const RESTORE_MAX: Duration = Duration::from_secs(3);

/// Everything that the loop needs.
pub(super) struct Parts {
    pub(super) source: Source,
    pub(super) rest: Rest,
}

/// Everything but the consumer, from which the loop borrows.
pub(super) struct Rest {
    pub(super) settings: Arc<Settings>,
    pub(super) limits: Limits,
    /// Of the tokens topic.
    pub(super) all_partitions: usize,
    pub(super) decoder: Decoder,
    pub(super) writer: Writer,
    pub(super) again: Again,
    pub(super) pool: Pool,
    pub(super) lease: Lease,
    pub(super) stranded: kafka::Stranded,
    pub(super) events: mpsc::Receiver<ably::Event>,
}

/// Checks Kafka and Ably, and makes the parts.
pub(super) async fn start(config: &Config, health: &Health) -> Result<Parts, Error> {
    let template = Template::parse(&config.input.channel)?;
    let topic: Arc<str> = config.kafka.tokens_topic.as_str().into();
    let channels = ChannelRules::new(template.clone(), topic.clone(), &config.ably.channels.allow)?;
    if config.ably.channels.allow.is_empty() {
        return Err(Error::NoChannels);
    }

    let clients = clients(config)?;
    let layout = check_topics(clients.clone()).await?;
    say_worst_freeze(config);
    let settings = engine_settings(config, topic, channels, &layout);
    let lease = Lease::new(Committing::term(config.kafka.session_timeout));
    let mut ably = ably::Settings::from_config(&config.ably)?;
    check_credentials(&ably, health).await?;

    let decoder = decoder(config, template);
    ably.lease = lease.clone();
    let (sender, events) = mpsc::channel(EVENTS_WAITING_MAX);
    let again = Again::new(Reader::start(&clients)?, decoder.clone(), ably.clone())?;
    let rest = Rest {
        settings: Arc::new(settings),
        limits: limits(config),
        all_partitions: usize::try_from(layout.tokens).unwrap_or_default(),
        decoder,
        writer: Writer::start(&clients)?,
        again,
        pool: Pool::new(ably, sender),
        lease,
        stranded: clients.stranded().clone(),
        events,
    };
    Ok(Parts { source: Source::open(&clients)?, rest })
}

fn clients(config: &Config) -> Result<Clients, Error> {
    let clients = Clients::new(&config.kafka)?.with_max_age(config.input.max_age);
    Ok(match config.results.delivery {
        Delivery::ExactlyOnce => clients.in_transactions(&instance(config), config.results.transaction_timeout),
        Delivery::AtLeastOnce => clients.with_transaction_timeout(config.results.transaction_timeout),
    })
}

async fn check_topics(clients: Clients) -> Result<Layout, Error> {
    let checked = tokio::task::spawn_blocking(move || topics::check(&clients)).await;
    Ok(checked.map_err(|_| Error::Ended("the check of the topics"))??)
}

/// Says once how long streams may stand still when a node is lost: until the group gives its partitions to others, until the
/// brokers have ended what it had open, and until what it has left is read.
fn say_worst_freeze(config: &Config) {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let exactly_once = config.results.delivery == Delivery::ExactlyOnce;
    let transaction = if exactly_once { config.results.transaction_timeout } else { Duration::ZERO };
    // Kafka 4's own group protocol leaves this one to the brokers.
    let is_brokers = config.kafka.librdkafka.get("group.protocol").is_some_and(|protocol| protocol == "consumer");
    let session = if is_brokers { BROKERS_SESSION } else { config.kafka.session_timeout };
    tracing::info!(
        session_ms = millis(session),
        transaction_ms = millis(transaction),
        restore_ms = millis(RESTORE_MAX),
        worst_ms = millis(session + transaction + RESTORE_MAX),
        "after the loss of a node its streams stand still for so long at the worst: kafka.session_timeout, \
         results.transaction_timeout, reading what it left"
    );
}

/// Wrong credentials end the process before it takes partitions; an Ably that is away does not: it is waited for.
async fn check_credentials(settings: &ably::Settings, health: &Health) -> Result<(), Error> {
    match ably::probe(settings.clone()).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_fatal() || error.asks_for_newer() => Err(error.into()),
        Err(error) => {
            health.set("ably", error.to_string());
            Ok(())
        }
    }
}

fn engine_settings(config: &Config, topic: Arc<str>, channels: ChannelRules, layout: &Layout) -> Settings {
    let namespace = match config.ably.id_namespace.as_str() {
        "" => layout.cluster_id.clone().unwrap_or_else(|| "kafka".to_owned()),
        namespace => namespace.to_owned(),
    };
    let reconcile = &config.reconcile;
    Settings {
        topic,
        id_namespace: namespace.into(),
        instance: instance(config).into(),
        relay_version: env!("CARGO_PKG_VERSION"),
        channels,
        idle: config.response.idle,
        remember: config.response.remember,
        pattern: match config.input.pattern {
            config::Pattern::MessagePerResponse => Pattern::MessagePerResponse,
            config::Pattern::MessagePerToken => Pattern::MessagePerToken,
        },
        batch: match config.ably.per_token {
            config::PerToken::Array => Batch::Array,
            config::PerToken::Joined => Batch::Joined,
        },
        reconcile: ReconcileSettings {
            when: match reconcile.when {
                config::ReconcileWhen::Eager => ReconcileWhen::Eager,
                config::ReconcileWhen::AtEnd => ReconcileWhen::AtEnd,
                config::ReconcileWhen::Never => ReconcileWhen::Never,
            },
            debounce: reconcile.debounce,
            attempts: reconcile.attempts,
            verify: match reconcile.verify {
                config::Verify::Never => Verify::Never,
                config::Verify::AfterUnknown => Verify::AfterUnknown,
                config::Verify::Always => Verify::Always,
            },
            late_check: reconcile.late_check,
            verify_timeout: reconcile.verify_timeout,
        },
        refused_hold: config.ably.refused_hold,
        whole: config.ably.no_mutable == config::NoMutable::Whole,
        append_rollup: config.ably.append_rollup,
    }
}

/// What this process is called in records: its static membership, else its host and process id.
fn instance(config: &Config) -> String {
    if !config.kafka.group_instance_id.is_empty() {
        return config.kafka.group_instance_id.clone();
    }
    let host = std::env::var("HOSTNAME").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    format!("{}-{}", host.as_deref().map_or("relay", str::trim), std::process::id())
}

fn limits(config: &Config) -> Limits {
    let ably = &config.ably;
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    Limits {
        open_max: config.response.open_max,
        stub_max: config.response.stub_max,
        text_bytes_max: bytes(config.response.text_bytes_max),
        connections_max: ably.connections.max,
        openings: ably.connections.openings,
        connection_idle: ably.connections.idle,
        connection_rate: ably.connections.rate,
        frame_rate: ably.connections.frames,
        channel_rate: ably.channels.rate,
        channel_bandwidth: ably.channels.bandwidth.as_u64(),
        account_rate: ably.account.rate,
        request_rate: ably.account.requests,
        account_bandwidth: ably.account.bandwidth.as_u64(),
        refused_rate_hold: ably.refused_rate_hold,
        read_back_rate: config.reconcile.verify_rate,
        in_flight_operations: ably.in_flight.operations,
        in_flight_bytes: bytes(ably.in_flight.bytes),
        message_bytes_max: bytes(ably.max_message_size),
    }
}

pub(super) fn decoder(config: &Config, template: Template) -> Decoder {
    let include = |what| config.input.include.contains(&what);
    Decoder {
        format: match config.input.format {
            config::Format::Tokenrelay => Some(decode::Format::Tokenrelay),
            config::Format::OpenaiChat => Some(decode::Format::OpenaiChat),
            config::Format::Auto
            | config::Format::OpenaiResponses
            | config::Format::Anthropic
            | config::Format::Sglang
            | config::Format::Tgi => None,
        },
        include: decode::Include {
            text: include(config::Include::Text),
            reasoning: include(config::Include::Reasoning),
            tool: include(config::Include::Tool),
            refusal: include(config::Include::Refusal),
        },
        template: template.needs_headers().then_some(template),
        topic: config.kafka.tokens_topic.clone(),
    }
}

/// How often the loop looks at everything, whatever wakes it.
pub(super) const TICK: Duration = Duration::from_secs(1);
