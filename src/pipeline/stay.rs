//! One stay of a partition with us: its engine, and what is committed of it. Pure, so that the simulator plays it.

use std::sync::Arc;

use crate::engine::{Engine, Inheritance, Settings};
use crate::kafka::predecessor::Assigned;
use crate::kafka::{Ending, Handover, Places};

/// A stay of a partition with us.
#[derive(Debug)]
pub(crate) struct Stay {
    pub(crate) engine: Engine,
    epoch: u64,
    /// Where in the results partition the results of which records begin.
    places: Places,
}

impl Stay {
    /// The partition has come; `life` tells its stays apart. The engine is to be told of the inheritance before anything else.
    pub(crate) fn begin(settings: Arc<Settings>, life: u32, assigned: Assigned) -> (Self, Inheritance) {
        let Assigned { partition, start, places, inheritance, .. } = assigned;
        let engine = Engine::new(settings, partition, start).in_life(life);
        (Self { engine, epoch: inheritance.epoch, places }, inheritance)
    }

    /// What may be committed, and its metadata. `last`: nothing more will be read. `with_all`: together with everything that
    /// the engine has asked for, else alone.
    pub(crate) fn mark(&mut self, last: bool, with_all: bool) -> (i64, String) {
        let engine = &self.engine;
        let (offset, letters) = match with_all {
            true => (engine.watermark_once_durable(), engine.letters().to_vec()),
            false => (engine.watermark(), engine.letters_durable()),
        };
        let (beginnings, missing_until) = engine.missing();
        let handover = Handover {
            epoch: self.epoch,
            read: engine.begun_below(),
            results: self.places.results(offset),
            until: self.places.end(),
            stale: engine.stale(),
            beginnings,
            missing_until,
            ending: match last {
                false => Ending::None,
                // What the next owner does not find in the results it does not know. So nobody vouches for an end together with
                // results: brokers may show this and not those.
                true if engine.is_clear() && engine.is_durable() => Ending::Clean,
                true => Ending::Unanswered,
            },
            letters,
        };
        (offset, handover.to_metadata(offset))
    }

    /// Results are durable, and the results partition ended at `end` then.
    pub(crate) fn written(&mut self, end: i64) {
        self.places.note(self.engine.next_offset(), end);
    }
}
