//! The messages that a subscriber has the whole of, by their numbers: runs of them, since mostly it has all that came.

use std::collections::BTreeMap;

/// Numbers, kept as runs: the first and the last of each.
#[derive(Debug, Default)]
pub(super) struct Seen(BTreeMap<u64, u64>);

impl Seen {
    /// Adds a number. Says whether it is new.
    pub(super) fn insert(&mut self, number: u64) -> bool {
        let before = self.0.range(..=number).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| number <= last) {
            return false;
        }
        let first = before.filter(|(_, last)| last + 1 == number).map_or(number, |(first, _)| first);
        let last = self.0.remove(&(number + 1)).unwrap_or(number);
        self.0.insert(first, last);
        true
    }

    /// Adds a number, new or not.
    pub(super) fn add(&mut self, number: u64) {
        let _new_or_not = self.insert(number);
    }

    /// Forgets all numbers below this one: their messages are gone.
    pub(super) fn forget_below(&mut self, number: u64) {
        while let Some(run) = self.0.first_entry().filter(|run| *run.key() < number) {
            let last = run.remove();
            if last >= number {
                self.0.insert(number, last);
            }
        }
    }

    /// How many runs there are.
    #[cfg(test)]
    fn runs(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_are_new_once() {
        let (mut seen, mut all) = (Seen::default(), HashSet::new());
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let number = random.u64(..300);
            assert_eq!(seen.insert(number), all.insert(number), "{number}");
        }
        seen.forget_below(100);
        assert!((100..300).all(|number| seen.insert(number) != all.contains(&number)));
        assert!(seen.insert(99), "forgotten");
    }

    #[test]
    fn whoever_has_all_takes_no_more_than_whoever_has_one() {
        let mut seen = Seen::default();
        for number in 0..100_000 {
            assert!(seen.insert(number));
        }
        assert_eq!(seen.runs(), 1);
        seen.forget_below(99_999);
        assert!(!seen.insert(99_999) && seen.runs() == 1);
        seen.forget_below(200_000);
        assert_eq!(seen.runs(), 0);
    }
}
