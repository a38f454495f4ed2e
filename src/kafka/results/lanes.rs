//! Up to where the reports of each partition are durable.
//!
//! Records of one partition become durable in order, as a rule; one that a broker refused is late.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

use super::batch::Lane;
use crate::engine::ReportSeq;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    by_partition: HashMap<i32, Window, RandomState>,
}

#[derive(Debug)]
struct Window {
    life: u32,
    first: ReportSeq,
    durable: VecDeque<bool>,
}

impl Lanes {
    /// A report has been taken. Those of one lane come in order and without a hole.
    pub(super) fn sent(&mut self, lane: Lane, seq: ReportSeq) {
        let fresh = || Window { life: lane.life, first: seq, durable: VecDeque::new() };
        let window = self.by_partition.entry(lane.partition).or_insert_with(fresh);
        if window.life != lane.life {
            *window = fresh();
        }
        window.durable.push_back(false);
    }

    /// A report is durable. The last one up to which all are, if that has moved.
    pub(super) fn durable(&mut self, lane: Lane, seq: ReportSeq) -> Option<ReportSeq> {
        let window = self.by_partition.get_mut(&lane.partition)?;
        if window.life != lane.life {
            return None;
        }
        let index = usize::try_from(seq.checked_sub(window.first)?).ok()?;
        *window.durable.get_mut(index)? = true;
        let before = window.first;
        while window.durable.front() == Some(&true) {
            window.durable.pop_front();
            window.first += 1;
        }
        (window.first > before).then(|| window.first - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANE: Lane = Lane { partition: 3, life: 1 };

    #[test]
    fn a_late_one_holds_back_those_behind_it() {
        let mut lanes = Lanes::default();
        for seq in 5..9 {
            lanes.sent(LANE, seq);
        }
        assert_eq!(lanes.durable(LANE, 6), None);
        assert_eq!(lanes.durable(LANE, 5), Some(6));
        assert_eq!(lanes.durable(LANE, 8), None);
        assert_eq!(lanes.durable(LANE, 7), Some(8));
        assert_eq!(lanes.durable(LANE, 7), None, "known");
    }

    #[test]
    fn a_new_life_starts_anew() {
        let mut lanes = Lanes::default();
        lanes.sent(LANE, 0);
        let next = Lane { life: 2, ..LANE };
        lanes.sent(next, 0);
        assert_eq!(lanes.durable(LANE, 0), None);
        assert_eq!(lanes.durable(next, 0), Some(0));
    }
}
