//! What is given up on: its readers are told, if somebody can tell them (R15).
//!
//! What is demanded is what `deploy/guarantees.md` promises. A last word may be missing only if it had to wait for as long as
//! is promised; and not even then if a connection was there, with nothing that made anybody wait. What becomes of it once it
//! was sent is nobody's fault, but if it was taken, the message that readers go by says so at rest.

use super::checks::{Checks, Instance};
use super::plan::Plan;
use super::scene::{Kept, SECOND, Scene, hold};
use super::server::Server;
use super::tokens;
use crate::engine::{Class, Limits, Outcome, ReconcileWhen, Rejection, Serial, Status};

/// How long a last word waits after the end.
const WAITS: u64 = 5 * SECOND;

/// How long it may take where a connection is there: nothing may land after it, and its message may be looked at before.
const TAKES: u64 = 4 * SECOND;

/// Whether somebody could tell readers anything.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Since when each link has been up, if it is.
    up_since: Vec<Option<u64>>,
    /// A rate or a channel has refused something: whoever wants to send may have to wait.
    is_braked: bool,
}

impl Reach {
    /// A link has come up, or is down.
    pub(super) fn link(&mut self, now: u64, link: usize, is_up: bool) {
        if self.up_since.len() <= link {
            self.up_since.resize(link + 1, None);
        }
        let since = &mut self.up_since[link];
        *since = is_up.then(|| since.unwrap_or(now));
    }

    pub(super) fn answered(&mut self, outcome: &Outcome) {
        let brakes = |rejection: &Rejection| matches!(rejection.class, Class::Channel | Class::RateLimited);
        self.is_braked |= matches!(outcome, Outcome::Rejected(rejection) if brakes(rejection));
    }

    /// Whether nothing has been in the way for a while, whichever connection was to carry it.
    fn is_free(&self, now: u64, plan: &Plan) -> bool {
        let is_up = |since: &Option<u64>| since.is_some_and(|since| since + TAKES <= now);
        !self.is_braked && is_wide(&plan.limits) && self.up_since.iter().all(is_up)
    }
}

/// Whether nobody ever waits for a budget.
const fn is_wide(limits: &Limits) -> bool {
    let rates = limits.connection_rate >= 1_000_000 && limits.channel_rate >= 1_000_000 && limits.frame_rate == 0;
    let shared = limits.account_rate == 0 && limits.request_rate == 0;
    let bytes = limits.channel_bandwidth == 0 && limits.account_bandwidth == 0;
    let reads = limits.read_back_rate == 0;
    rates && shared && bytes && reads && limits.in_flight_operations >= 200 && limits.in_flight_bytes >= 1 << 22
}

impl Checks {
    /// A response is settled as failed: its readers were told, or nobody could.
    pub(super) fn are_told(&self, scene: &Scene, instance: &Instance, reason: &str) -> Kept {
        if instance.last_word.is_some() || !self.owes_last_word(instance, reason) {
            return Ok(());
        }
        // An event that came too late is not its end.
        let ended = if instance.suspect { 0 } else { instance.arrived };
        let (name, waited) = (instance.name(), scene.now - instance.refused_at.max(ended));
        hold!(waited >= WAITS, "R15: {name} is given up on without a word after {waited} us");
        hold!(
            !self.reach.is_free(scene.now, &self.plan),
            "R15: {name} is given up on without a word, and all were free"
        );
        Ok(())
    }

    /// Whether readers are to be told: not of what is somebody else's by now, not when too many are open, not where messages
    /// are not changed, and not where nothing is mended either.
    fn owes_last_word(&self, instance: &Instance, reason: &str) -> bool {
        let is_given_up = reason.starts_with("refused-") || reason.starts_with("input-");
        let is_spoken_of = self.plan.when != ReconcileWhen::Never && !instance.is_whole;
        let is_ours = !self.crowded && !instance.is_others;
        is_given_up && is_spoken_of && is_ours && instance.may_be_told()
    }
}

impl Instance {
    /// Whether there is something that readers would see a last word of: a start without a stop, or a message that is known.
    fn may_be_told(&self) -> bool {
        match &self.tokens {
            Some(tokens) => tokens.awaits_stop(),
            None => (self.serial.is_some() && !self.gone) || self.others.iter().any(|other| other.serial.is_some()),
        }
    }

    /// A last word that was taken is what readers see of it.
    pub(super) fn shows_its_end(&self, server: &Server) -> Kept {
        let Some((word, true)) = &self.last_word else { return Ok(()) };
        let (name, said) = (self.name(), word.status);
        if self.tokens.is_some() {
            let stop = tokens::last_stop(self.published(server));
            hold!(stop == Some(said), "R15: the last word of {name} was {said:?}, and its last stop says {stop:?}");
            return Ok(());
        }
        let message = server.named(word.serial.as_ref()).filter(|message| !message.gone && message.others.is_none());
        let status = message.map_or(said, |message| message.status);
        hold!(status == said, "R15: the last word of {name} was {said:?}, and its message says {status:?}");
        // Who is told of one that is left over reads those before it, which have ended.
        let known = self.serial.iter().chain(self.others.iter().filter_map(|other| other.serial.as_ref()));
        let shown = known.filter_map(|serial: &Serial| server.named(Some(serial)));
        let shown = shown.filter(|message| !message.gone && message.status != Status::Superseded);
        let last = shown.max_by_key(|message| message.segment).filter(|message| message.others.is_none());
        let status = last.filter(|_| said == Status::Failed).map_or(said, |message| message.status);
        hold!(status == said, "R15: the last word of {name} was {said:?}, and its readers go by {status:?}");
        Ok(())
    }
}
