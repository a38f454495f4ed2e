//! Where an engine keeps its responses: slots that are used again, and two orders over them.
//!
//! `Activity` orders all open responses by their last event, so that idle ones are found at its front. `Quiet` orders those
//! whose text may be dropped from memory. Both are linked lists through the slots: every change is O(1) and allocates
//! nothing.

/// Names a response for as long as it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct SlotId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// The two orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Least recently active first.
    Activity,
    /// Longest quiet first.
    Quiet,
}

const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Link {
    before: u32,
    after: u32,
    linked: bool,
}

const UNLINKED: Link = Link { before: NONE, after: NONE, linked: false };

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
    links: [Link; 2],
}

/// Slots of responses.
#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    ends: [(u32, u32); 2],
    len: usize,
    first_generation: u32,
}

impl<T> Slots<T> {
    /// Generations begin at `first_generation`: two lives of a partition that begin far apart never name the same slot.
    pub(super) const fn new(first_generation: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), ends: [(NONE, NONE); 2], len: 0, first_generation }
    }

    /// Puts a value into a free slot. It is in neither order yet.
    pub(super) fn insert(&mut self, value: T) -> SlotId {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return SlotId { index, generation: slot.generation };
        }
        let index = u32::try_from(self.slots.len()).unwrap_or(NONE);
        assert!(index != NONE, "more open responses than a slot number can name");
        let generation = self.first_generation;
        self.slots.push(Slot { generation, value: Some(value), links: [UNLINKED; 2] });
        SlotId { index, generation }
    }

    /// Takes a value out, and out of both orders.
    pub(super) fn remove(&mut self, id: SlotId) -> Option<T> {
        self.get(id)?;
        self.unlink(Order::Activity, id);
        self.unlink(Order::Quiet, id);
        let slot = &mut self.slots[id.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.len -= 1;
        self.free.push(id.index);
        slot.value.take()
    }

    pub(super) fn get(&self, id: SlotId) -> Option<&T> {
        let slot = self.slots.get(id.index as usize)?;
        slot.value.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        slot.value.as_mut().filter(|_| slot.generation == id.generation)
    }

    /// The value of a slot, whoever is in it.
    pub(super) fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.value.as_ref()
    }

    /// The id of a slot's present tenant.
    pub(super) fn id_at(&self, index: u32) -> SlotId {
        SlotId { index, generation: self.slots[index as usize].generation }
    }

    /// How many values there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// The ids of all values, in order of their slots.
    pub(super) fn ids(&self) -> impl Iterator<Item = SlotId> + '_ {
        (0u32..)
            .zip(&self.slots)
            .filter(|(_, slot)| slot.value.is_some())
            .map(|(index, slot)| SlotId { index, generation: slot.generation })
    }

    /// The first of an order.
    pub(super) fn first(&self, order: Order) -> Option<SlotId> {
        let index = self.ends[order as usize].0;
        (index != NONE).then(|| self.id_at(index))
    }

    /// The ids of all that are in an order.
    pub(super) fn in_order(&self, order: Order) -> impl Iterator<Item = SlotId> + '_ {
        let after = move |id: &SlotId| {
            let index = self.slots[id.index as usize].links[order as usize].after;
            (index != NONE).then(|| self.id_at(index))
        };
        std::iter::successors(self.first(order), after)
    }

    /// Makes a slot the last of an order, whether it was in it or not.
    pub(super) fn move_to_back(&mut self, order: Order, id: SlotId) {
        let o = order as usize;
        if self.ends[o].1 == id.index {
            return;
        }
        self.unlink(order, id);
        let last = self.ends[o].1;
        self.slots[id.index as usize].links[o] = Link { before: last, after: NONE, linked: true };
        match last {
            NONE => self.ends[o].0 = id.index,
            last => self.slots[last as usize].links[o].after = id.index,
        }
        self.ends[o].1 = id.index;
    }

    /// Takes a slot out of an order.
    pub(super) fn unlink(&mut self, order: Order, id: SlotId) {
        let o = order as usize;
        let link = self.slots[id.index as usize].links[o];
        if !link.linked {
            return;
        }
        match link.before {
            NONE => self.ends[o].0 = link.after,
            before => self.slots[before as usize].links[o].after = link.after,
        }
        match link.after {
            NONE => self.ends[o].1 = link.before,
            after => self.slots[after as usize].links[o].before = link.before,
        }
        self.slots[id.index as usize].links[o] = UNLINKED;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_order(slots: &mut Slots<u32>) -> Vec<u32> {
        let mut values = Vec::new();
        while let Some(id) = slots.first(Order::Activity) {
            values.extend(slots.remove(id));
        }
        values
    }

    #[test]
    fn an_order_is_by_last_move() {
        let mut slots = Slots::new(0);
        let ids: Vec<_> = (0..5).map(|value| slots.insert(value)).collect();
        for id in &ids {
            slots.move_to_back(Order::Activity, *id);
        }
        slots.move_to_back(Order::Activity, ids[1]);
        slots.move_to_back(Order::Activity, ids[4]);
        slots.move_to_back(Order::Activity, ids[4]);
        slots.unlink(Order::Activity, ids[2]);
        assert_eq!(in_order(&mut slots), [0, 3, 1, 4]);
        assert_eq!(slots.len(), 1);
    }

    #[test]
    fn a_slot_used_again_is_not_its_former_tenant() {
        let mut slots = Slots::new(0);
        let first = slots.insert(1);
        slots.move_to_back(Order::Activity, first);
        assert_eq!(slots.remove(first), Some(1));
        let second = slots.insert(2);
        assert_eq!(first.index, second.index);
        assert_eq!(slots.get(first), None);
        assert_eq!(slots.get(second), Some(&2));
        assert_eq!(slots.remove(first), None);
    }
}
