//! What is known of the owner of a partition before us, and what follows from it: where reading begins, which results are read
//! again, what the engine is told. Pure, so that the simulator plays it.

use super::handover::{Ending, Handover, Places};
use crate::engine::{Beginnings, History, Inheritance, Stale};

/// Results that are read even if none of them belongs to what is open, so that late events of what has just settled are
/// recognised.
const LOOK_BACK: i64 = 10_000;

/// A committed offset and its metadata.
pub(crate) type Committed = (i64, String);

/// One partition's facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) partition: i32,
    pub(crate) committed: Option<Committed>,
    /// The first offset that the topic holds.
    pub(crate) begins: i64,
    pub(crate) end: i64,
}

impl Facts {
    /// The committed offset and its metadata, if these say nothing that we understand.
    pub(crate) fn foreign(&self) -> Option<(i64, &str)> {
        let is_foreign = Before::of(self.committed.as_ref()) == Before::Somebody;
        self.committed.as_ref().filter(|_| is_foreign).map(|(offset, metadata)| (*offset, metadata.as_str()))
    }

    /// Where the partition is read from, and what is known of its owners. Where there is no committed offset, it is read from
    /// `first`; `stale` is what is too old now, if it is read anew.
    pub(crate) fn place(self, first: i64, new_group: bool, stale: Option<Stale>) -> Assigned {
        let Self { partition, committed, begins, end } = self;
        let before = Before::of(committed.as_ref());
        let committed = committed.map_or(first, |(offset, _)| offset);
        let lost = committed < begins || committed > end;
        let gap = lost.then_some(Gap { committed, begins });
        let start = if lost { begins } else { committed };
        let before_is_nobody = before == Before::Nobody;
        let anew = new_group || lost || before == Before::Somebody;
        let mut assigned = Assigned::new(partition, start, end, before, gap);
        if before_is_nobody && !new_group {
            assigned.inheritance.beginnings = Beginnings::Elsewhere;
        }
        if anew {
            assigned.inheritance.stale = stale;
        }
        assigned
    }
}

/// A partition that was given to us.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// The partition of the tokens topic.
    pub partition: i32,
    /// The offset to begin at.
    pub start: i64,
    /// What the owner before us committed with the offset.
    pub before: Before,
    /// The end of the partition at the time of asking: what is below is old.
    pub end: i64,
    /// What was lost, if the committed offset is not in the topic.
    pub gap: Option<Gap>,
    /// What the owner before us has left.
    pub inheritance: Inheritance,
    /// Where the results of what is read begin.
    pub places: Places,
}

/// What is known of the owner before us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Before {
    /// There was none.
    Nobody,
    /// It has committed an offset without a word that we understand: a tool may have set it, or another version.
    Somebody,
    /// It has left this.
    Left(Handover),
}

impl Before {
    pub(crate) fn of(committed: Option<&Committed>) -> Self {
        let Some((offset, metadata)) = committed else { return Self::Nobody };
        Handover::parse(metadata, *offset).map_or(Self::Somebody, Self::Left)
    }

    /// From where on results are needed, and up to where there were some at least; none if nobody knows.
    pub(crate) fn results(&self, end: i64) -> Option<(i64, i64)> {
        match self {
            Self::Nobody => Some((end, end)),
            Self::Somebody => None,
            Self::Left(handover) => Some((handover.results.unwrap_or(end), handover.until)),
        }
    }
}

impl Assigned {
    /// A partition of which the results say nothing.
    pub(crate) fn new(partition: i32, start: i64, end: i64, before: Before, gap: Option<Gap>) -> Self {
        // Behind the end there once was another topic.
        let is_another = gap.is_some_and(|gap| gap.committed > end);
        let begun_below = match &before {
            _ if is_another => end,
            Before::Nobody => start,
            Before::Somebody => end,
            Before::Left(handover) => handover.begun_below(end),
        };
        let (epoch, letters, clean) = match &before {
            Before::Left(handover) if is_another => (handover.epoch, Vec::new(), false),
            Before::Left(handover) => (handover.epoch, handover.letters.clone(), handover.ending == Ending::Clean),
            Before::Nobody | Before::Somebody => (0, Vec::new(), false),
        };
        let history = History::default();
        let stale = match &before {
            Before::Left(handover) if gap.is_none() => handover.stale,
            _ => None,
        };
        let (beginnings, missing_until) = match &before {
            _ if gap.is_some() => (Beginnings::Lost, None),
            Before::Left(handover) => (handover.beginnings, handover.missing_until),
            Before::Nobody | Before::Somebody => (Beginnings::Here, None),
        };
        let inheritance =
            Inheritance { epoch: epoch + 1, begun_below, clean, letters, beginnings, missing_until, stale, history };
        // A results partition that is not there yet begins at 0.
        Self { partition, start, before, end, gap, inheritance, places: Places::new(start, 0) }
    }

    /// The results say this, in that stretch of theirs.
    pub(crate) fn inherit(&mut self, history: History, stretch: Stretch) {
        let Stretch { from, end, whole } = stretch;
        let left = &mut self.inheritance;
        left.epoch = left.epoch.max(history.epoch() + 1);
        left.clean &= whole;
        left.history = history;
        let place = match &self.before {
            Before::Left(Handover { results: Some(place), .. }) if whole => *place,
            Before::Nobody => end,
            Before::Left(_) | Before::Somebody => from,
        };
        self.places = Places::new(self.start, place);
        self.places.note(self.inheritance.begun_below.max(self.start), end);
    }
}

/// Records between the committed offset and the place where reading goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The offset at which reading should have gone on.
    pub committed: i64,
    /// The first offset that the topic holds.
    pub begins: i64,
}

/// What is read of one results partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stretch {
    pub(crate) from: i64,
    /// Read up to here, which may be behind what is stable yet.
    pub(crate) end: i64,
    /// Nothing of what was to be read is missing.
    pub(crate) whole: bool,
}

impl Stretch {
    /// What is read of a results partition that goes from `low` to `end`, including what is not committed.
    pub(crate) fn of(before: &Before, low: i64, end: i64) -> Self {
        let (place, whole) = match before.results(end) {
            Some((place, until)) => (place, (low..=end).contains(&place) && until <= end),
            None => (low, false),
        };
        let place = if whole { place } else { low };
        Self { from: (place - LOOK_BACK).max(low).min(end), end, whole }
    }
}
