//! Partitions of the tokens topic that the results topic has no counterpart for yet.
//!
//! Both topics can grow while the relay runs, but not in the same moment. A tokens partition whose results have nowhere
//! to go is not read, and the results topic is looked at again from time to time.

use std::task::{Context as Waking, Poll};
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::kafka::assignment::Assigned;

/// How often the results topic is looked at.
const LOOK: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Held {
    partitions: Vec<Assigned>,
    look: Option<Interval>,
}

impl Held {
    /// Keeps the partitions that results has no counterpart for, and gives back the others.
    pub(super) fn hold(&mut self, assigned: Vec<Assigned>, results: i32) -> Vec<Assigned> {
        let (held, ready) = assigned.into_iter().partition(|assigned| assigned.partition >= results);
        self.partitions.extend::<Vec<Assigned>>(held);
        ready
    }

    /// Gives back those that results has a counterpart for by now.
    pub(super) fn free(&mut self, results: i32) -> Vec<Assigned> {
        let held = std::mem::take(&mut self.partitions);
        self.hold(held, results)
    }

    /// These are not ours any more; whether any of them was held.
    pub(super) fn forget(&mut self, partitions: &[i32]) -> bool {
        let before = self.partitions.len();
        self.partitions.retain(|held| !partitions.contains(&held.partition));
        self.partitions.len() < before
    }

    pub(super) fn partitions(&self) -> Vec<i32> {
        self.partitions.iter().map(|held| held.partition).collect()
    }

    /// Whether it is time to look at the results topic.
    pub(super) fn is_due(&mut self, waking: &mut Waking<'_>) -> bool {
        if self.partitions.is_empty() {
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
    use crate::kafka::assignment::Before;

    fn assigned(partition: i32) -> Assigned {
        Assigned::new(partition, 0, 0, Before::Nobody, None)
    }

    fn numbers(assigned: &[Assigned]) -> Vec<i32> {
        assigned.iter().map(|assigned| assigned.partition).collect()
    }

    #[test]
    fn partitions_wait_for_their_counterparts() {
        let mut held = Held::default();
        let ready = held.hold(vec![assigned(4), assigned(1), assigned(3)], 3);
        assert_eq!((numbers(&ready), held.partitions()), (vec![1], vec![4, 3]));
        assert_eq!(numbers(&held.free(4)), [3]);
        assert!(held.forget(&[4]));
        assert!(!held.forget(&[4]));
        assert!(held.free(9).is_empty());
    }
}
