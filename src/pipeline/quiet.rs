//! One line in the log for each cause and not for each time that it strikes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one cause is not repeated.
const QUIET: Duration = Duration::from_secs(30);
/// Causes that are told apart; those that were said longer ago make room.
const CAUSES_MAX: usize = 1_000;

/// What was said lately. A handle: clones keep quiet together.
#[derive(Debug, Clone, Default)]
pub(super) struct Quiet(Arc<Mutex<HashMap<String, Said>>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    suppressed: u64,
}

impl Quiet {
    /// How often a cause was held back since it was said; none if it was said just now.
    pub(super) fn due(&self, cause: &str) -> Option<u64> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= CAUSES_MAX {
            all.retain(|_, said| said.at.elapsed() < QUIET);
        }
        match all.get_mut(cause) {
            Some(said) if said.at.elapsed() < QUIET => {
                said.suppressed += 1;
                None
            }
            Some(said) => {
                said.at = Instant::now();
                Some(std::mem::take(&mut said.suppressed))
            }
            None => {
                all.insert(cause.to_owned(), Said { at: Instant::now(), suppressed: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    /// What was logged.
    #[derive(Clone, Default)]
    pub(in crate::pipeline) struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        pub(in crate::pipeline) fn of(play: impl FnOnce()) -> Vec<String> {
            let log = Self::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
            tracing::subscriber::with_default(subscriber, play);
            let bytes = log.0.lock().expect("not poisoned").clone();
            String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
        }
    }

    #[test]
    fn causes_that_were_said_make_room_for_others_only_when_they_may_be_said_again() {
        let quiet = Quiet::default();
        let causes = || (0..2 * CAUSES_MAX).map(|cause| cause.to_string());
        assert!(causes().all(|cause| quiet.due(&cause) == Some(0)));
        assert!(causes().all(|cause| quiet.clone().due(&cause).is_none()));
    }
}
