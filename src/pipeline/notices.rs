//! What engines notice, for the log and for readiness: one line per cause, not one per operation.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::ably;
use crate::engine::{Class, Notice, Rejection};
use crate::telemetry::Health;

/// How long one cause is not repeated.
const QUIET: Duration = Duration::from_secs(30);
/// A channel that has not refused anything for so long is not a reason to be unready any more.
const FORGIVEN_AFTER: Duration = Duration::from_secs(90);
/// Causes that are told apart; beyond, all are one.
const CAUSES_MAX: usize = 1_000;

/// Says what engines notice.
#[derive(Debug)]
pub(super) struct Notices {
    health: Health,
    said: HashMap<String, Said>,
    channel_refused: Option<Instant>,
}

#[derive(Debug)]
struct Said {
    at: Instant,
    suppressed: u64,
}

impl Notices {
    pub(super) fn new(health: Health) -> Self {
        Self { health, said: HashMap::new(), channel_refused: None }
    }

    pub(super) fn say(&mut self, notice: Notice) {
        match notice {
            Notice::Rejected { channel, rejection } => self.rejected(&channel, &rejection),
            Notice::Unverified { channel, rejection } => self.unverified(&channel, rejection.as_ref()),
            Notice::TooOld { partition, below, before } => {
                let before =
                    i64::try_from(before.millis()).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
                let before = before.unwrap_or(Timestamp::MAX);
                tracing::warn!(partition, below, %before, "responses that began earlier are skipped as too-old (input.max_age)");
            }
            Notice::Failed { channel, response_id, reason } => {
                if let Some(suppressed) = self.due(&format!("failed {reason}")) {
                    tracing::error!(%channel, %response_id, %reason, suppressed, "response given up on");
                }
            }
        }
    }

    /// Forgives channels that refuse no more.
    pub(super) fn tick(&mut self) {
        if self.channel_refused.is_some_and(|at| at.elapsed() >= FORGIVEN_AFTER) {
            self.channel_refused = None;
            self.health.clear("channel");
        }
    }

    fn rejected(&mut self, channel: &str, rejection: &Rejection) {
        let Rejection { code, class, message, .. } = rejection;
        if *class == Class::Channel {
            self.channel_refused = Some(Instant::now());
            let remedy = ably::fault::remedy(*code).unwrap_or("see the channel's rules and the key's capabilities");
            self.health.set("channel", format!("channel {channel} refuses with {code} ({message}): {remedy}"));
        }
        let namespace = channel.split_once(':').map_or(channel, |(namespace, _)| namespace);
        if let Some(suppressed) = self.due(&format!("rejected {code} {namespace}")) {
            tracing::warn!(channel, code, ?class, message, suppressed, "operations are refused");
        }
    }

    /// Texts are right for all that we know; only that nobody looked.
    fn unverified(&mut self, channel: &str, rejection: Option<&Rejection>) {
        let Some(suppressed) = self.due("unverified") else { return };
        match rejection {
            Some(Rejection { code, message, .. }) => tracing::warn!(
                channel,
                code,
                message,
                suppressed,
                "texts are not read back: give the key the capability `history`, or set reconcile.verify = \"never\""
            ),
            None => {
                tracing::warn!(channel, suppressed, "texts could not be read back in time (reconcile.verify_timeout)")
            }
        }
    }

    /// How often a cause was held back since it was said; none if it was said just now.
    fn due(&mut self, cause: &str) -> Option<u64> {
        if self.said.len() >= CAUSES_MAX {
            self.said.retain(|_, said| said.at.elapsed() < QUIET);
        }
        match self.said.get_mut(cause) {
            Some(said) if said.at.elapsed() < QUIET => {
                said.suppressed += 1;
                None
            }
            Some(said) => {
                said.at = Instant::now();
                Some(std::mem::take(&mut said.suppressed))
            }
            None => {
                self.said.insert(cause.to_owned(), Said { at: Instant::now(), suppressed: 0 });
                Some(0)
            }
        }
    }
}
