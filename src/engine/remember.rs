//! Responses that are over, remembered for a while so that late events are refused and not taken for new responses.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};

use super::event::Offset;
use super::history::Past;
use super::response::Response;

/// What names a part of a response without keeping its id: half of a SHA-256, so that nobody can make two collide.
pub(super) type Key = u128;

/// The key of a part of a response.
pub(super) fn key(response_id: &str, part: u32) -> Key {
    let digest = Sha256::new().chain_update(part.to_le_bytes()).chain_update(response_id.as_bytes()).finalize();
    let mut half = [0; 16];
    half.copy_from_slice(&digest[..16]);
    Key::from_le_bytes(half)
}

/// What it takes to open a response again.
#[derive(Debug)]
pub(super) enum Memory {
    /// It was ours.
    Ours(Box<Response>),
    /// It was a former owner's.
    Past(Box<Past>),
}

#[derive(Debug)]
struct Entry<T> {
    /// Its last record.
    through: Offset,
    revival: Option<T>,
}

/// The responses that settled last.
#[derive(Debug)]
pub(super) struct Remembered<T> {
    capacity: usize,
    order: VecDeque<Key>,
    entries: HashMap<Key, Entry<T>, RandomState>,
}

impl<T> Remembered<T> {
    /// Remembers up to `capacity` responses, the newest.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, order: VecDeque::new(), entries: HashMap::default() }
    }

    /// Remembers a response that has settled with its record `through`, and what it takes to open it again if it may be.
    /// Those of which records from `next` on are still to be read (again) stay beyond the capacity: forgotten, they would be
    /// taken for new.
    pub(super) fn insert(&mut self, key: Key, through: Offset, revival: Option<T>, next: Offset) {
        if self.entries.insert(key, Entry { through, revival }).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.capacity {
            let Some(oldest) = self.order.front() else { return };
            if self.through(*oldest).is_some_and(|through| through >= next) {
                return;
            }
            self.entries.remove(oldest);
            self.order.pop_front();
        }
    }

    /// The last record of a response that is over.
    pub(super) fn through(&self, key: Key) -> Option<Offset> {
        self.entries.get(&key).map(|entry| entry.through)
    }

    /// Takes what it takes to open the response again, if it may be; it is not over then.
    pub(super) fn revive(&mut self, key: Key) -> Option<T> {
        let revival = self.entries.get_mut(&key)?.revival.take()?;
        self.entries.remove(&key);
        self.order.retain(|other| *other != key);
        Some(revival)
    }

    /// Whether nothing is remembered, which spares the hash.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut remembered = Remembered::new(2);
        for id in ["a", "b", "b", "c"] {
            remembered.insert(key(id, 0), 7, None::<()>, 8);
        }
        assert_eq!(remembered.through(key("a", 0)), None);
        assert_eq!(remembered.through(key("b", 0)), Some(7));
        assert_eq!(remembered.through(key("c", 0)), Some(7));
        assert_eq!(remembered.through(key("c", 1)), None);
    }

    #[test]
    fn what_is_still_to_be_read_is_not_forgotten() {
        let mut remembered = Remembered::new(1);
        for (id, through) in [("a", 5), ("b", 6), ("c", 7)] {
            remembered.insert(key(id, 0), through, None::<()>, 5);
        }
        assert_eq!(remembered.through(key("a", 0)), Some(5));
        remembered.insert(key("d", 0), 6, None, 7);
        assert_eq!(remembered.through(key("a", 0)), None);
        assert_eq!(remembered.through(key("b", 0)), None);
        assert_eq!(remembered.through(key("c", 0)), Some(7));
    }

    #[test]
    fn what_is_revived_is_not_over() {
        let mut remembered = Remembered::new(2);
        remembered.insert(key("a", 0), 7, Some("its stub"), 8);
        assert_eq!(remembered.revive(key("a", 0)), Some("its stub"));
        assert_eq!(remembered.through(key("a", 0)), None);
        assert_eq!(remembered.revive(key("a", 0)), None);
    }
}
