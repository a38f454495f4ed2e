//! Reading back: whether the text on the channel is ours, asked before a response settles.
//!
//! An acknowledged full text is not the last word after an outcome that nobody knows, or after a takeover: bytes of a
//! connection that is gone may still land behind it. So the message is read once all is said and nothing is in flight, and
//! once more when nothing can land any more. What differs is mended, and read again.

use std::time::Duration;

use super::backoff;
use super::effect::Latest;
use super::next::Next;
use super::response::Response;
use super::settings::{ReconcileSettings, Settings, Verify};
use super::time::Time;

/// Reads are eventually consistent: how soon one that says nothing of use is repeated at first.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// How often a text may be another than ours before it is somebody's who will not give way.
const DIFFERED_MAX: u32 = 16;

/// What is to be read back before a response settles.
#[derive(Debug, Clone, Default)]
pub(super) struct Check {
    /// Bytes of a connection that is gone may land until then.
    late_until: Time,
    not_before: Time,
    /// When the read-back that is under way was asked for, and its number.
    asked: Option<(Time, u32)>,
    /// Since when reads have said nothing of use, and how many.
    in_vain: Option<(Time, u32)>,
    /// How often the text on the channel was another than ours.
    differed: u32,
}

impl Check {
    /// Another message is in its place: no answer is waited for.
    pub(super) fn left(mut self: Box<Self>) -> Box<Self> {
        self.asked = None;
        self
    }
}

impl Response {
    /// Nobody knows what became of an operation. `late`: the connection that carried it is gone, and its bytes may be under
    /// way.
    pub(super) fn doubt(&mut self, now: Time, late: bool, policy: &ReconcileSettings) {
        // Tokens that land late come twice at worst, and readers drop those.
        if policy.verify == Verify::Never || self.per_token.is_some() {
            return;
        }
        let check = self.check.get_or_insert_default();
        if late {
            check.late_until = check.late_until.max(now + policy.late_check);
        }
    }

    /// Whether it is to be read back before it is over.
    pub(super) fn is_unverified(&self) -> bool {
        self.check.is_some()
    }

    /// All is said and answered: it is over, or it is read back first.
    pub(super) fn next_check(&self, now: Time, policy: &ReconcileSettings) -> Next {
        match &self.check {
            None if policy.verify != Verify::Always || self.verified.is_some() => self.next_message(now),
            _ if !self.segments.is_one() && self.lacks_text() => self.next_reload(),
            _ => self.check_pause(now).unwrap_or(Next::ReadBack),
        }
    }

    /// What is waited for before it can be read back, if anything.
    pub(super) fn check_pause(&self, now: Time) -> Option<Next> {
        let check = self.check.as_ref()?;
        match check.asked {
            Some(_) => Some(Next::Nothing),
            None => (now < check.not_before).then_some(Next::At(check.not_before)),
        }
    }

    /// Its message is being read back.
    pub(super) fn asked_back(&mut self, now: Time, number: u32) {
        self.check.get_or_insert_default().asked = Some((now, number));
    }

    /// Takes in what its message was when it was read back.
    pub(super) fn read_back(&mut self, now: Time, number: u32, latest: Latest, settings: &Settings) {
        // Whichever of its messages that was, and whatever was to be known of it.
        if latest.is_others() {
            return self.leave_to_others();
        }
        if self.looked(now, number, &latest) {
            return;
        }
        if self.create.unread {
            let asked = self.check.as_mut().and_then(|check| check.asked.take_if(|(_, asked)| *asked == number));
            let asked = asked.filter(|_| self.in_flight.is_empty() && !self.lacks_text());
            return asked.map_or((), |(asked, _)| self.read_whole(now, latest, asked, &settings.reconcile));
        }
        let said = self.is_said();
        let (is_one, closing) = (self.segments.is_one(), self.closing());
        let shown = (said && !is_one && !self.lacks_text()).then(|| self.message_text().to_owned());
        let Some(check) = &mut self.check else { return };
        let Some((asked, _)) = check.asked.take_if(|(_, asked)| *asked == number).filter(|_| said) else { return };
        let policy = &settings.reconcile;
        match latest {
            Latest::Message { version, .. } if version.as_deref().unwrap_or_default() < &*self.version => {
                self.read_or_settle(now, policy);
            }
            Latest::Message { version, text, status: said_status, .. } => {
                let is_text = if is_one { self.text.equals(&text) } else { shown == Some(text) };
                let same = is_text && closing.is_some_and(|status| status.as_str() == said_status);
                let newer = version.as_deref().unwrap_or_default() > &*self.version;
                let patient = check.in_vain.is_none_or(|(since, _)| now.since(since) < policy.verify_timeout);
                if same {
                    self.seen_right(asked);
                } else if !newer && patient {
                    // What was taken without a version of its own may not be in it yet.
                    self.read_in_vain(now);
                } else {
                    self.raise_version(version.as_ref());
                    self.repair.failed(now, policy.debounce);
                    self.differs();
                }
            }
            Latest::Unreadable | Latest::Deleted => self.read_or_settle(now, policy),
            Latest::Refused(_) => self.verified_as(false),
        }
    }

    /// What was asked for then was right: that is it, or it is read once more when nothing can land any more.
    pub(super) fn seen_right(&mut self, asked: Time) {
        let Some(check) = &mut self.check else { return };
        if asked >= check.late_until {
            self.verified_as(true);
        } else {
            check.in_vain = None;
            check.not_before = check.late_until;
        }
    }

    /// It was another text than ours, or could not be seen to be ours.
    pub(super) fn differs(&mut self) {
        let Some(check) = &mut self.check else { return };
        check.differed += 1;
        check.in_vain = None;
        if check.differed >= DIFFERED_MAX {
            self.leave_to_others();
        }
    }

    /// A read has said nothing of use. Whether the next one may.
    pub(super) fn reads_in_vain(&mut self, now: Time, policy: &ReconcileSettings) -> bool {
        self.read_in_vain(now);
        let since = self.check.as_ref().and_then(|check| check.in_vain);
        since.is_some_and(|(since, _)| now.since(since) < policy.verify_timeout)
    }

    /// The next read may say more, or it takes too long, and then it is over without.
    fn read_or_settle(&mut self, now: Time, policy: &ReconcileSettings) {
        if !self.reads_in_vain(now, policy) {
            self.verified_as(false);
        }
    }

    fn read_in_vain(&mut self, now: Time) {
        let Some(check) = &mut self.check else { return };
        let (since, times) = check.in_vain.unwrap_or((now, 0));
        check.in_vain = Some((since, times + 1));
        check.not_before = now + backoff::delay(READ_AGAIN, times + 1);
    }

    pub(super) fn verified_as(&mut self, verified: bool) {
        self.check = None;
        self.verified = Some(verified);
    }

    /// Whether all is said, answered and believed to be right.
    pub(super) fn is_said(&self) -> bool {
        let pending = self.gone || self.given_up.is_some() || self.repair.is_tainted() || self.has_more_to_send();
        self.closing().is_some() && self.terminal_sent && self.in_flight.is_empty() && !pending
    }
}
