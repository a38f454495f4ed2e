//! Whether the process lives and is ready, and if not, why: in words for whoever is woken by it. And what is not as it should be
//! though it is ready: for whoever looks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The loop beats once a second; silent for longer, it hangs.
const LIVE_WITHIN: Duration = Duration::from_secs(30);

/// Reasons for not being ready, by cause. A handle: clones speak of the same process.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    reasons: BTreeMap<&'static str, String>,
    notes: BTreeMap<&'static str, String>,
    beat: Instant,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// A process that is starting: alive, not ready.
    #[must_use]
    pub fn new() -> Self {
        let reasons = BTreeMap::from([("starting", "the process is starting".to_owned())]);
        Self(Arc::new(Mutex::new(State { reasons, notes: BTreeMap::new(), beat: Instant::now() })))
    }

    /// There is a reason for not being ready. Logged when it is new.
    pub fn set(&self, cause: &'static str, reason: String) {
        let mut state = self.state();
        if state.reasons.get(cause) != Some(&reason) {
            tracing::warn!(cause, reason, "not ready");
            state.reasons.insert(cause, reason);
        }
    }

    /// Something is not as it should be, and no reason for not being ready.
    pub fn note(&self, cause: &'static str, note: String) {
        self.state().notes.insert(cause, note);
    }

    /// The reason is gone, or the note.
    pub fn clear(&self, cause: &'static str) {
        let mut state = self.state();
        state.notes.remove(cause);
        if state.reasons.remove(cause).is_some() {
            tracing::info!(cause, "not a reason to be unready any more");
        }
    }

    /// The reasons for not being ready; none when it is.
    #[must_use]
    pub fn reasons(&self) -> BTreeMap<&'static str, String> {
        self.state().reasons.clone()
    }

    /// What is not as it should be besides.
    #[must_use]
    pub fn notes(&self) -> BTreeMap<&'static str, String> {
        self.state().notes.clone()
    }

    /// The loop turns.
    pub fn beat(&self) {
        self.state().beat = Instant::now();
    }

    /// Whether the loop has turned lately.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state().beat.elapsed() < LIVE_WITHIN
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_the_absence_of_reasons() {
        let health = Health::new();
        assert!(health.is_live());
        health.set("ably", "no connection".to_owned());
        health.clear("starting");
        assert_eq!(health.reasons(), BTreeMap::from([("ably", "no connection".to_owned())]));
        health.clone().clear("ably");
        health.note("unverified", "not read back".to_owned());
        assert!(health.reasons().is_empty(), "a note is none");
        health.clear("unverified");
        assert!(health.notes().is_empty());
    }
}
