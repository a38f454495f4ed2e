//! The pipeline: lets engines decide and does what they ask for, between Kafka and Ably.
//!
//! One task owns every engine and all that they share, so nothing is locked; sockets, the results producer and re-reading
//! have tasks and threads of their own and speak to it through bounded channels. `relay` is the loop, `partitions` the
//! synchronous middle, `start` turns settings into parts, `drain` ends in order.

mod again;
mod clock;
mod commit;
mod connections;
mod drain;
mod identity;
mod notices;
mod partitions;
mod quiet;
mod relay;
mod start;
pub(crate) mod stay;

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::Config;
use crate::telemetry::{Health, Metrics};
use crate::{ably, decode, engine, kafka};

pub use clock::Clock;

/// What makes events of records, as the settings say.
///
/// # Errors
/// When the channel template is none.
pub fn decoder(config: &Config) -> Result<decode::Decoder, engine::ChannelRulesError> {
    Ok(start::decoder(config, engine::Template::parse(&config.input.channel)?))
}

/// How the process is asked to stop.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stop {
    /// Not at all.
    #[default]
    No,
    /// In order: what is in flight is answered first.
    Drain,
    /// At once. What is durable is durable, what is not is done again by the next owner.
    Now,
}

/// Why the pipeline has ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something with Kafka.
    #[error(transparent)]
    Kafka(#[from] kafka::Error),
    /// Something with Ably.
    #[error(transparent)]
    Ably(#[from] ably::Error),
    /// The channel rules are none.
    #[error(transparent)]
    Channels(#[from] engine::ChannelRulesError),
    /// No event could ever be sent; as dead letters all of them would have to be produced again.
    #[error("ably.channels.allow is empty: nothing can be sent; list the channels, as in [\"ai:*\"]")]
    NoChannels,
    /// Work in flight was not answered within `shutdown.drain`; the next owner mends it.
    #[error(
        "{operations} operations had no answer within shutdown.drain; the next owner of their partitions takes them over"
    )]
    Undrained {
        /// How many.
        operations: usize,
    },
    /// Results and offsets were not confirmed in time; the next owner repeats what they say.
    #[error(
        "the last results and offsets were not committed in time; the next owner of the partitions repeats some work"
    )]
    Uncommitted,
    /// The tokens topic was deleted and made again under us: what we know of it is of no use.
    #[error(
        "the tokens topic was made anew: partition {partition} begins again below what was read; start the relay again"
    )]
    TopicAnew {
        /// The first partition where that showed.
        partition: i32,
    },
    /// A client of ours is beyond help; another one in its place is not.
    #[error(
        "the kafka client for {client} has lost every broker for good, or does not come back; start the relay again"
    )]
    Stranded {
        /// What it was for.
        client: &'static str,
    },
    /// A thread or task of ours has ended before its time.
    #[error("{0} has ended unexpectedly")]
    Ended(&'static str),
}

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Somebody has to change the configuration.
    Configuration,
    /// Somebody has to mend credentials or rights.
    Refused,
    /// A service is away.
    Unavailable,
    /// Start it again.
    TryAgain,
    /// A bug of ours.
    Bug,
}

impl Error {
    /// What the process ends with.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Kafka(error) => match error.kind() {
                kafka::Kind::Configuration => Exit::Configuration,
                kafka::Kind::Refused => Exit::Refused,
                kafka::Kind::Unavailable => Exit::Unavailable,
            },
            // Newer credentials were asked for, and refused as well.
            Self::Ably(error) if error.is_fatal() || error.asks_for_newer() => Exit::Refused,
            Self::Ably(_) => Exit::Unavailable,
            Self::Channels(_) | Self::NoChannels => Exit::Configuration,
            Self::Undrained { .. } | Self::Uncommitted | Self::TopicAnew { .. } | Self::Stranded { .. } => {
                Exit::TryAgain
            }
            Self::Ended(_) => Exit::Bug,
        }
    }
}

/// Relays until told to stop. When a Kafka client is beyond help everything is begun anew, as by another process.
///
/// # Errors
/// At the start, when something is configured wrongly, missing, or refuses us; later only when going on is impossible, or
/// when work in flight was not answered in time.
pub async fn run(
    config: Arc<Config>,
    metrics: Metrics,
    health: Health,
    stop: watch::Receiver<Stop>,
) -> Result<(), Error> {
    let mut ended = live(&config, &metrics, &health, stop.clone(), start::start(&config, &health).await?).await;
    while let Err(Error::Stranded { client }) = ended {
        tracing::warn!(client, "a kafka client is beyond help: beginning anew, as after a crash");
        let Some(parts) = start_again(&config, &health, stop.clone()).await? else { return Ok(()) };
        ended = live(&config, &metrics, &health, stop.clone(), parts).await;
    }
    ended
}

/// Starts as soon as Kafka lets us. Nothing to be done when we are told to stop meanwhile.
async fn start_again(
    config: &Config,
    health: &Health,
    mut stop: watch::Receiver<Stop>,
) -> Result<Option<start::Parts>, Error> {
    loop {
        let failed = match start::start(config, health).await {
            Ok(parts) => return Ok(Some(parts)),
            Err(error) if error.exit() == Exit::Unavailable => error,
            Err(error) => return Err(error),
        };
        health.set("starting", failed.to_string());
        if tokio::time::timeout(BEFORE_NEXT_START, stop.wait_for(|stop| *stop != Stop::No)).await.is_ok() {
            return Ok(None);
        }
    }
}

/// A life of the pipeline, from the first partition to the end.
async fn live(
    config: &Config,
    metrics: &Metrics,
    health: &Health,
    stop: watch::Receiver<Stop>,
    parts: start::Parts,
) -> Result<(), Error> {
    let source = parts.source;
    let ended = {
        let relay = relay::Relay::new(config, metrics.clone(), health.clone(), parts.rest, source.intake());
        relay.run(stop).await
    };
    match &ended {
        // It cannot say goodbye to anybody; the group misses it soon enough.
        Err(Error::Stranded { .. }) => drop(tokio::time::timeout(BEFORE_NEXT_START, source.close()).await),
        Ok(()) | Err(_) => {
            health.set("stopping", "the process is stopping".to_owned());
            source.close().await;
        }
    }
    ended
}

/// How long to wait for what may be away.
const BEFORE_NEXT_START: std::time::Duration = std::time::Duration::from_secs(2);
