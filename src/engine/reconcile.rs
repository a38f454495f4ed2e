//! The reconciler: when the full text of a response is put on its channel because what is there may differ.
//!
//! A response is *tainted* from its first rejected or unknown operation until a full text is taken. While it is, nothing is
//! appended. The full text leaves once everything in flight has been answered (an update may only follow what it mends), the
//! debounce has passed, and no append that was taken can wait in the server's rollup any more; a retry always carries the latest
//! text. Only refusals that are about the operation itself count
//! towards giving up: an outage or a rate limit is not a failure, it is waited out, with the watermark held.

use std::time::Duration;

use super::backoff;
use super::outcome::{Class, Rejection};
use super::settings::{ReconcileSettings, ReconcileWhen};
use super::time::Time;

/// Acknowledgements may come before the server's rollup is flushed: frames of a connection that is gone can land this much
/// later than its window.
const ROLLUP_MARGIN: Duration = Duration::from_millis(250);

/// Whether a text on the channel can be trusted, and what is done if not.
#[derive(Debug, Clone, Default)]
pub(super) struct Repair {
    tainted_since: Option<Time>,
    /// The connection changed: the next operation carries the full text, though nothing has failed.
    moved: bool,
    not_before: Time,
    /// Until when something may land that was sent before.
    quiet_from: Time,
    /// Until when an append may wait in the server that it has taken. Whether a full text overtakes it nobody says.
    waits_until: Time,
    /// Unsuccessful creates or updates in a row; sets the pace.
    failures: u32,
    /// Refusals that were about the operation itself; enough of them are final.
    refusals: u32,
    /// Since when the channel has been refusing.
    channel_refused: Option<Time>,
    dirty: Duration,
    ever_tainted: bool,
}

/// When the full text is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Now.
    Now,
    /// Then.
    At(Time),
    /// When something else has happened: more text, or the end.
    Later,
    /// Not at all, by policy.
    Never,
}

impl Repair {
    /// Whether nothing but a full text may be sent.
    pub(super) const fn needs_full_text(&self) -> bool {
        self.tainted_since.is_some() || self.moved
    }

    /// Whether the text on the channel may differ from ours.
    pub(super) const fn is_tainted(&self) -> bool {
        self.tainted_since.is_some()
    }

    /// Whether the connection changed since the last full text.
    pub(super) const fn has_moved(&self) -> bool {
        self.moved
    }

    /// Whether it ever did.
    pub(super) const fn was_tainted(&self) -> bool {
        self.ever_tainted
    }

    /// How many unsuccessful tries lie behind the next create or update.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    /// The earliest moment for the next create or update.
    pub(super) const fn not_before(&self) -> Time {
        self.not_before
    }

    /// When nothing is on its way any more that was sent before: earlier than the next try where that backs off.
    pub(super) const fn quiet_from(&self) -> Time {
        self.quiet_from
    }

    /// For how long, all together, the text on the channel may have differed.
    pub(super) fn dirty(&self, now: Time) -> Duration {
        self.dirty + self.tainted_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// The text on the channel may differ from ours.
    pub(super) fn taint(&mut self, now: Time, wait: Duration) {
        self.ever_tainted = true;
        self.tainted_since.get_or_insert(now);
        self.quiet(now + wait);
    }

    fn quiet(&mut self, until: Time) {
        self.quiet_from = self.quiet_from.max(until).max(self.waits_until);
        self.not_before = self.not_before.max(self.quiet_from);
    }

    /// An append was taken, and the server may hold it back for so long to join it with others.
    pub(super) fn appended(&mut self, now: Time, append_rollup: Duration) {
        self.waits_until = now + append_rollup + ROLLUP_MARGIN;
        if self.needs_full_text() {
            self.quiet(self.waits_until);
        }
    }

    /// Something has failed that does not matter to the text.
    pub(super) const fn noted(&mut self) {
        self.ever_tainted = true;
    }

    /// The connection that carried the message is gone for good.
    pub(super) fn moved(&mut self, now: Time, wait: Duration) {
        self.moved = true;
        self.quiet(now + wait);
    }

    /// A create or update was not taken, or was taken without effect; the next one waits longer.
    pub(super) fn failed(&mut self, now: Time, wait: Duration) {
        self.failures = self.failures.saturating_add(1);
        self.taint(now, wait);
        self.not_before = self.not_before.max(now + backoff::delay(wait, self.failures));
    }

    /// A create or update was refused. Gives the reason when that was once too often.
    pub(super) fn refused(
        &mut self,
        now: Time,
        rejection: &Rejection,
        policy: &ReconcileSettings,
        hold: Duration,
    ) -> Option<String> {
        self.failed(now, policy.debounce);
        match rejection.class {
            Class::Operation | Class::MessageGone => {
                self.refusals += 1;
                (self.refusals >= policy.attempts).then(|| format!("refused-{}", rejection.code))
            }
            Class::Channel => {
                let since = *self.channel_refused.get_or_insert(now);
                (now.since(since) >= hold).then(|| format!("channel-refused-{}", rejection.code))
            }
            Class::Transient | Class::Token | Class::Connection | Class::RateLimited | Class::Account => None,
        }
    }

    /// Something was taken: whatever the channel refused, it does not now.
    pub(super) fn taken(&mut self) {
        self.channel_refused = None;
    }

    /// A full text was taken: what is on the channel is ours.
    pub(super) fn cleaned(&mut self, now: Time) {
        self.dirty = self.dirty(now);
        self.tainted_since = None;
        self.moved = false;
        self.failures = 0;
        self.refusals = 0;
        self.channel_refused = None;
    }

    /// When the full text is due, for a response of which nothing is in flight.
    pub(super) fn due(&self, now: Time, when: ReconcileWhen, ended: bool, more_to_send: bool) -> Due {
        let wanted = match when {
            _ if !self.is_tainted() => more_to_send,
            ReconcileWhen::Eager => true,
            ReconcileWhen::AtEnd => ended,
            ReconcileWhen::Never => return Due::Never,
        };
        match wanted {
            false => Due::Later,
            true if now < self.not_before => Due::At(self.not_before),
            true => Due::Now,
        }
    }
}

/// How long to wait after a connection ended before anything else is sent to its messages: long enough for frames that it
/// left behind to land first.
pub(super) fn settling_time(debounce: Duration, append_rollup: Duration) -> Duration {
    debounce.max(append_rollup + ROLLUP_MARGIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::settings::Verify;

    const POLICY: ReconcileSettings = ReconcileSettings {
        when: ReconcileWhen::Eager,
        debounce: Duration::from_millis(250),
        attempts: 3,
        verify: Verify::Never,
        late_check: Duration::ZERO,
        verify_timeout: Duration::ZERO,
    };
    const HOLD: Duration = Duration::from_secs(600);

    fn rejection(class: Class) -> Rejection {
        Rejection { code: 40013, status_code: 400, class, message: String::new() }
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(1_000_000 + millis)
    }

    #[test]
    fn a_taint_waits_for_more_failures_and_then_is_due() {
        let mut repair = Repair::default();
        repair.taint(at(0), POLICY.debounce);
        repair.taint(at(100), POLICY.debounce);
        assert_eq!(repair.due(at(100), ReconcileWhen::Eager, false, false), Due::At(at(350)));
        assert_eq!(repair.due(at(350), ReconcileWhen::Eager, false, false), Due::Now);
        assert_eq!(repair.due(at(350), ReconcileWhen::AtEnd, false, true), Due::Later);
        assert_eq!(repair.due(at(350), ReconcileWhen::AtEnd, true, true), Due::Now);
        assert_eq!(repair.due(at(350), ReconcileWhen::Never, true, true), Due::Never);
    }

    #[test]
    fn a_move_alone_waits_until_there_is_something_to_send_under_any_policy() {
        let mut repair = Repair::default();
        repair.moved(at(0), Duration::from_millis(290));
        assert!(repair.needs_full_text() && !repair.is_tainted());
        assert_eq!(repair.due(at(400), ReconcileWhen::Never, false, false), Due::Later);
        assert_eq!(repair.due(at(400), ReconcileWhen::Never, false, true), Due::Now);
    }

    #[test]
    fn only_refusals_of_the_operation_itself_are_final() {
        let mut repair = Repair::default();
        for round in 0..1_000 {
            for class in [Class::Transient, Class::RateLimited, Class::Token, Class::Connection, Class::Account] {
                assert_eq!(repair.refused(at(round * 60_000), &rejection(class), &POLICY, HOLD), None);
            }
        }
        assert_eq!(repair.refused(at(0), &rejection(Class::Operation), &POLICY, HOLD), None);
        assert_eq!(repair.refused(at(0), &rejection(Class::Operation), &POLICY, HOLD), None);
        let reason = repair.refused(at(0), &rejection(Class::Operation), &POLICY, HOLD);
        assert_eq!(reason.as_deref(), Some("refused-40013"));
    }

    #[test]
    fn a_channel_that_refuses_is_waited_for_and_then_given_up() {
        let mut repair = Repair::default();
        assert_eq!(repair.refused(at(0), &rejection(Class::Channel), &POLICY, HOLD), None);
        assert_eq!(repair.refused(at(599_000), &rejection(Class::Channel), &POLICY, HOLD), None);
        let reason = repair.refused(at(600_000), &rejection(Class::Channel), &POLICY, HOLD);
        assert_eq!(reason.as_deref(), Some("channel-refused-40013"));
    }

    #[test]
    fn dirty_time_adds_up() {
        let mut repair = Repair::default();
        repair.taint(at(0), POLICY.debounce);
        repair.cleaned(at(300));
        repair.taint(at(1_000), POLICY.debounce);
        assert_eq!(repair.dirty(at(1_100)), Duration::from_millis(400));
        assert!(repair.was_tainted());
    }
}
