//! The group: who has which partition. Partitions that move are let go by those that have them before anybody else is given
//! them, unless these are not heard from any more.

use super::Deed;
use super::world::Fleet;
use crate::sim::scene::{Due, MS, note};

/// The group, as its coordinator sees it.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) generation: u32,
    /// Processes that belong to it.
    pub(super) members: Vec<usize>,
    /// Who was last given each partition and has not let go of it.
    pub(super) owners: Vec<Option<usize>>,
    targets: Vec<Option<usize>>,
    moving: bool,
}

impl Group {
    pub(super) fn new(partitions: usize) -> Self {
        Self { owners: vec![None; partitions], targets: vec![None; partitions], ..Self::default() }
    }

    /// Whether it knows a member that names this generation.
    pub(super) fn knows(&self, process: usize, generation: u32) -> bool {
        self.members.contains(&process) && self.generation == generation
    }

    /// What a member is told: its partitions that it keeps.
    pub(super) fn of(&self, process: usize) -> Vec<usize> {
        let both = self.owners.iter().zip(&self.targets).enumerate();
        both.filter(|(_, (owner, target))| **owner == Some(process) && owner == target).map(|(p, _)| p).collect()
    }
}

impl Fleet {
    /// A process joins. One of its name that is there already gives way to it.
    pub(super) fn join(&mut self, p: usize) {
        let name = self.processes[p].name;
        let former = self.group.members.iter().position(|m| self.plan.is_static && self.processes[*m].name == name);
        if let Some(position) = former {
            let former = std::mem::replace(&mut self.group.members[position], p);
            let places = self.group.owners.iter_mut().chain(&mut self.group.targets);
            places.filter(|owner| **owner == Some(former)).for_each(|owner| *owner = Some(p));
            note!(self.scene, "process {p} takes the place of process {former}");
            self.tell(p);
            // It learns with its next heartbeat that it is not a member any more.
            self.tell(former);
            return;
        }
        self.group.members.push(p);
        self.rebalance();
    }

    /// A process is not a member any more: its partitions are free.
    pub(super) fn leave(&mut self, p: usize) {
        if let Some(position) = self.group.members.iter().position(|member| *member == p) {
            note!(self.scene, "process {p} is not a member any more");
            self.group.members.remove(position);
            self.group.owners.iter_mut().filter(|owner| **owner == Some(p)).for_each(|owner| *owner = None);
            self.rebalance();
        }
    }

    /// A process has let go of partitions.
    pub(super) fn released(&mut self, p: usize, partitions: &[usize]) {
        for partition in partitions {
            if self.group.owners[*partition] == Some(p) && self.group.targets[*partition] != Some(p) {
                self.group.owners[*partition] = None;
            }
        }
        self.settle();
    }

    fn rebalance(&mut self) {
        let members = &self.group.members;
        for (owner, target) in self.group.owners.iter().zip(&mut self.group.targets) {
            let stays = owner.filter(|owner| members.contains(owner) && self.scene.rng.u8(..3) > 0);
            let other = (!members.is_empty()).then(|| members[self.scene.rng.usize(..members.len())]);
            *target = stays.or(other);
        }
        self.group.moving = true;
        self.group.generation += 1;
        self.tell_all();
        self.settle();
    }

    /// Once nobody has what is to move, it is given away.
    fn settle(&mut self) {
        let waits = |(owner, target): (&Option<usize>, &Option<usize>)| owner.is_some() && owner != target;
        if !self.group.moving || self.group.owners.iter().zip(&self.group.targets).any(waits) {
            return;
        }
        self.group.moving = false;
        self.group.owners.clone_from(&self.group.targets);
        self.group.generation += 1;
        note!(self.scene, "group: generation {}, {:?}", self.group.generation, self.group.owners);
        self.tell_all();
    }

    fn tell_all(&mut self) {
        for p in self.group.members.clone() {
            self.tell(p);
        }
    }

    /// A process hears from the group a little later.
    pub(super) fn tell(&mut self, p: usize) {
        let delay = self.scene.pick([MS, 30 * MS, 3_000 * MS]);
        let time = self.scene.within(0..delay);
        self.scene.at(time, Due::Fleet(Deed::Told(p)));
    }
}
