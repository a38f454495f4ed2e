//! Partitions of the tokens topic that are ours and not read yet, because nobody can tell what was done of them, or write down
//! what will be.
//!
//! Some have no counterpart in the results topic: both topics can grow while the relay runs, but not in the same moment. Of
//! some the results end in a transaction that is still open, such as a process leaves behind that was killed. The group does
//! not wait for either: it has its answer, the other partitions go on, and these are looked at again from time to time.

use std::collections::BTreeMap;
use std::fmt;
use std::task::{Context as Waking, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often is looked whether they can be read now.
const LOOK: Duration = Duration::from_secs(1);
/// How much longer than `results.transaction_timeout` a transaction may be open that its owner has left: brokers look for such
/// every ten seconds, and the one that is to look may be restarted.
const MARGIN: Duration = Duration::from_secs(80);

/// Partitions of ours that are not read yet, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// The results topic does not have so many partitions.
    pub lacking: Vec<i32>,
    /// The results of a former owner end in a transaction that is open.
    pub unstable: Vec<i32>,
}

impl Waiting {
    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lacking.is_empty() && self.unstable.is_empty()
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lacking, unstable } = self;
        let causes = [
            (lacking, "the results topic lacks them"),
            (unstable, "a former owner's transaction on their results is still open"),
        ];
        let mut between = "";
        for (partitions, cause) in causes.into_iter().filter(|(partitions, _)| !partitions.is_empty()) {
            write!(f, "{between}partitions {partitions:?} of the tokens topic are not consumed: {cause}")?;
            between = "; ";
        }
        Ok(())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    lacking: Vec<i32>,
    /// Since when, until it was said that this is too long.
    unstable: BTreeMap<i32, Option<Instant>>,
    look: Option<Interval>,
}

impl Held {
    /// These wait, too.
    pub(super) fn hold(&mut self, waiting: Waiting) {
        self.lacking.extend(waiting.lacking);
        for partition in waiting.unstable {
            self.unstable.entry(partition).or_insert_with(|| Some(Instant::now()));
        }
    }

    /// Of all that wait these still do; whether that is news.
    pub(super) fn keep(&mut self, waiting: Waiting) -> bool {
        let news = self.waiting() != waiting;
        self.lacking.clear();
        self.unstable.retain(|partition, _| waiting.unstable.contains(partition));
        self.hold(waiting);
        news
    }

    /// These are not ours any more; whether any of them waited.
    pub(super) fn forget(&mut self, partitions: &[i32]) -> bool {
        let Waiting { mut lacking, mut unstable } = self.waiting();
        lacking.retain(|held| !partitions.contains(held));
        unstable.retain(|held| !partitions.contains(held));
        self.keep(Waiting { lacking, unstable })
    }

    pub(super) fn waiting(&self) -> Waiting {
        Waiting { lacking: self.lacking.clone(), unstable: self.unstable.keys().copied().collect() }
    }

    /// Those for whose transaction brokers have had time enough to end it, which they do after `timeout`; each once.
    pub(super) fn overdue(&mut self, timeout: Duration) -> Vec<i32> {
        let hanging = timeout.saturating_add(MARGIN);
        let is_overdue = |since: &mut Option<Instant>| since.take_if(|since| since.elapsed() >= hanging).is_some();
        self.unstable.iter_mut().filter_map(|(partition, since)| is_overdue(since).then_some(*partition)).collect()
    }

    /// Whether it is time to look.
    pub(super) fn is_due(&mut self, waking: &mut Waking<'_>) -> bool {
        if self.lacking.is_empty() && self.unstable.is_empty() {
            self.look = None;
            return false;
        }
        let look = self.look.get_or_insert_with(|| {
            let mut look = interval(LOOK);
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            look.reset();
            look
        });
        matches!(look.poll_tick(waking), Poll::Ready(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(lacking: &[i32], unstable: &[i32]) -> Waiting {
        Waiting { lacking: lacking.to_vec(), unstable: unstable.to_vec() }
    }

    #[test]
    fn partitions_wait_until_they_can_be_read_or_leave() {
        let mut held = Held::default();
        held.hold(waiting(&[4, 3], &[1]));
        held.hold(waiting(&[], &[0]));
        assert_eq!(held.waiting(), waiting(&[4, 3], &[0, 1]));
        assert!(!held.keep(waiting(&[4, 3], &[0, 1])));
        assert!(held.keep(waiting(&[4], &[1])));
        assert!(held.forget(&[1]));
        assert!(!held.forget(&[1]));
        assert!(held.keep(Waiting::default()));
        assert!(held.waiting().is_empty());
    }

    /// These wait since so long ago.
    fn waiting_for(time: Duration, partitions: &[i32]) -> Held {
        let since = Instant::now().checked_sub(time).expect("the machine has run for longer");
        let unstable = partitions.iter().map(|partition| (*partition, Some(since))).collect();
        Held { unstable, ..Held::default() }
    }

    #[test]
    fn a_transaction_that_nobody_ends_is_told_of_once() {
        let mut held = waiting_for(MARGIN, &[1, 2]);
        held.hold(waiting(&[], &[0, 1, 2]));
        held.forget(&[2]);
        assert_eq!(held.overdue(Duration::ZERO), [1], "2 is not ours any more");
        held.keep(waiting(&[], &[0, 1]));
        assert!(held.overdue(Duration::ZERO).is_empty());
    }

    #[test]
    fn brokers_have_the_time_that_was_set_and_more() {
        let timeout = Duration::from_secs(20);
        assert_eq!(waiting_for(timeout + MARGIN, &[1]).overdue(timeout), [1]);
        for (waited, timeout) in [(MARGIN, timeout), (timeout * 2, timeout), (MARGIN, Duration::MAX)] {
            assert_eq!(waiting_for(waited, &[1]).overdue(timeout), [0; 0], "{waited:?} of {timeout:?}");
        }
    }
}
