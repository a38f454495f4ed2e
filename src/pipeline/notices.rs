//! What engines notice, for the log and for readiness: one line per cause, not one per operation.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::quiet::Quiet;
use crate::ably;
use crate::engine::{Class, Notice, Rejection, namespace_of};
use crate::telemetry::Health;

/// What has not refused anything for so long is not a reason to be unready any more.
const FORGIVEN_AFTER: Duration = Duration::from_secs(90);
/// What stands for the namespace of channels that have none in their names.
const NO_NAMESPACE: &str = "(none)";
/// Texts that were not read back are noted for so long.
const NOTED_FOR: Duration = Duration::from_secs(600);

/// Says what engines notice.
#[derive(Debug)]
pub(super) struct Notices {
    health: Health,
    quiet: Quiet,
    /// Why it is not ready, or has a note, and until when if nothing more is noticed.
    until: HashMap<&'static str, Instant>,
}

impl Notices {
    pub(super) fn new(health: Health) -> Self {
        Self { health, quiet: Quiet::default(), until: HashMap::new() }
    }

    pub(super) fn say(&mut self, notice: Notice) {
        match notice {
            Notice::Rejected { channel, rejection } => self.rejected(&channel, &rejection),
            Notice::Whole { channel } => {
                let namespace = namespace_of(&channel).unwrap_or(NO_NAMESPACE);
                if let Some(suppressed) = self.quiet.due(&format!("whole {namespace}")) {
                    tracing::warn!(
                        namespace,
                        suppressed,
                        "messages cannot be changed here: responses are published whole, at their end (ably.no_mutable)"
                    );
                }
            }
            Notice::Unverified { channel, rejection } => self.unverified(&channel, rejection.as_ref()),
            Notice::TooOld { partition, below, before } => {
                let before =
                    i64::try_from(before.millis()).ok().and_then(|millis| Timestamp::from_millisecond(millis).ok());
                let before = before.unwrap_or(Timestamp::MAX);
                tracing::warn!(partition, below, %before, "responses that began earlier are skipped as too-old (input.max_age)");
            }
            Notice::Failed { channel, response_id, reason } => {
                if let Some(suppressed) = self.quiet.due(&format!("failed {reason}")) {
                    tracing::error!(%channel, %response_id, %reason, suppressed, "response given up on");
                }
            }
        }
    }

    /// Forgives what refuses no more.
    pub(super) fn tick(&mut self) {
        self.forgive(Instant::now());
    }

    fn forgive(&mut self, now: Instant) {
        let Self { health, until, .. } = self;
        until.retain(|cause, until| {
            let lasts = now < *until;
            if !lasts {
                health.clear(cause);
            }
            lasts
        });
    }

    fn rejected(&mut self, channel: &str, rejection: &Rejection) {
        let Rejection { code, class, message, .. } = rejection;
        let cause = unready(rejection);
        if let Some((cause, _)) = cause {
            self.until.insert(cause, Instant::now() + FORGIVEN_AFTER);
        }
        let namespace = namespace_of(channel).unwrap_or(NO_NAMESPACE);
        let Some(suppressed) = self.quiet.due(&format!("rejected {code} {namespace}")) else { return };
        if let Some((cause, otherwise)) = cause {
            // One channel stands for all on which it is refused for the same cause.
            let remedy = ably::fault::remedy(*code).unwrap_or(otherwise);
            self.health.set(cause, format!("channel {channel} refuses with {code} ({message}): {remedy}"));
        }
        tracing::warn!(channel, code, ?class, message, suppressed, "operations are refused");
    }

    /// Texts are right for all that we know; only that nobody looked.
    fn unverified(&mut self, channel: &str, rejection: Option<&Rejection>) {
        self.until.insert("unverified", Instant::now() + NOTED_FOR);
        let Some(suppressed) = self.quiet.due("unverified") else { return };
        let (code, message) = rejection.map(|rejection| (rejection.code, &*rejection.message)).unzip();
        let note = match code {
            Some(_) => {
                "texts are not read back: give the key the capability `history`, or set reconcile.verify = \"never\""
            }
            None => "texts could not be read back in time (reconcile.verify_timeout)",
        };
        tracing::warn!(channel, code, message, suppressed, "{note}");
        self.health.note("unverified", note.to_owned());
    }
}

/// The cause for which a refusal makes us unready, if it does, and what to do where its code does not say.
const fn unready(rejection: &Rejection) -> Option<(&'static str, &'static str)> {
    match rejection.class {
        Class::Channel => Some(("channel", "see the channel's rules and the key's capabilities")),
        Class::Account => Some(("account", "see the account and the credentials in the ably dashboard")),
        Class::RateLimited if rejection.is_limit_of_account() => {
            Some(("account", "see the account's limits in the ably dashboard"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::quiet::tests::Log;
    use super::*;

    fn refused(notices: &mut Notices, channel: String, code: u32, class: Class) {
        let message = format!("not on {channel}");
        let rejection = Rejection { code, status_code: 400, class, message };
        notices.say(Notice::Rejected { channel: channel.as_str().into(), rejection });
    }

    #[test]
    fn a_thousand_refusals_for_one_cause_are_one_line() {
        let health = Health::new();
        for (code, class) in [(42_911, Class::RateLimited), (50_003, Class::Transient), (40_009, Class::Operation)] {
            let mut notices = Notices::new(health.clone());
            let play = || (0..1_000).for_each(|turn| refused(&mut notices, format!("ai:{turn}"), code, class));
            let log = Log::of(play);
            assert_eq!(log.len(), 1, "{log:?}");
            assert!(log[0].contains("operations are refused") && log[0].contains(&code.to_string()), "{log:?}");
        }
    }

    #[test]
    fn texts_that_are_not_read_back_are_a_note_and_no_reason() {
        let health = Health::new();
        health.clear("starting");
        let mut notices = Notices::new(health.clone());
        let rejection = Rejection { code: 40_160, status_code: 401, class: Class::Channel, message: "no".to_owned() };
        for (rejection, words) in [(Some(rejection), "capability `history`"), (None, "verify_timeout")] {
            notices.quiet = Quiet::default();
            let play = || {
                (0..1_000).for_each(|_| {
                    notices.say(Notice::Unverified { channel: "ai:x".into(), rejection: rejection.clone() })
                })
            };
            let log = Log::of(play);
            assert!(log.len() == 1 && log[0].contains(words), "{log:?}");
            assert!(health.reasons().is_empty() && health.notes()["unverified"].contains(words));
        }
        notices.forgive(Instant::now() + NOTED_FOR);
        assert!(health.notes().is_empty());
    }

    #[test]
    fn a_namespace_in_which_nothing_can_be_changed_is_said_once_by_its_name() {
        let mut notices = Notices::new(Health::new());
        let log = Log::of(|| {
            for channel in ["[?rewind=1]ai:x", "ai:y", "one", "two"] {
                notices.say(Notice::Whole { channel: channel.into() });
            }
        });
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(log[0].contains("namespace=\"ai\"") && log[1].contains("namespace=\"(none)\""), "{log:?}");
    }

    #[test]
    fn what_only_the_account_can_mend_is_a_reason_with_a_remedy_until_it_is_mended() {
        for (code, class, remedy) in [
            (40_166, Class::Account, "ably.client_id"),
            (40_199, Class::Account, "the credentials"),
            (40_114, Class::RateLimited, "limit of channels"),
            (90_021, Class::RateLimited, "the account's limits"),
        ] {
            let health = Health::new();
            let mut notices = Notices::new(health.clone());
            let play = || (0..1_000).for_each(|turn| refused(&mut notices, format!("ai:{turn}"), code, class));
            let log = Log::of(play);
            assert_eq!(log.len(), 2, "why it is not ready, and what is refused: {log:?}");
            let reasons = health.reasons();
            assert!(
                reasons["account"].contains(&code.to_string()) && reasons["account"].contains(remedy),
                "{reasons:?}"
            );
            notices.forgive(Instant::now() + FORGIVEN_AFTER - Duration::from_secs(1));
            assert!(health.reasons().contains_key("account"));
            notices.forgive(Instant::now() + FORGIVEN_AFTER);
            assert!(!health.reasons().contains_key("account"));
        }
        let health = Health::new();
        refused(&mut Notices::new(health.clone()), "ai:x".to_owned(), 42_911, Class::RateLimited);
        assert!(!health.reasons().contains_key("account"), "a rate is gone slower for");
    }

    #[test]
    fn channels_that_refuse_for_one_cause_are_one_reason() {
        for code in [93_002, 40_160] {
            let health = Health::new();
            let mut notices = Notices::new(health.clone());
            let play = || (0..1_000).for_each(|turn| refused(&mut notices, format!("ai:{turn}"), code, Class::Channel));
            let log = Log::of(play);
            assert_eq!(log.len(), 2, "why it is not ready, and what is refused: {log:?}");
            assert!(health.reasons()["channel"].contains("ai:0"));
            let other = Log::of(|| refused(&mut notices, "chat:x".to_owned(), code, Class::Channel));
            assert_eq!(other.len(), 2, "another namespace is another cause: {other:?}");
        }
    }
}
