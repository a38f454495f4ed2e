//! The world around many processes: what happens next, and to whom.

use std::rc::Rc;

use super::Deed;
use super::audit::Audit;
use super::broker::Broker;
use super::group::Group;
use super::plan::{Act, Meddling, Plan, What};
use super::process::Process;
use super::tokens::Tokens;
use crate::kafka::Handover;
use crate::sim::link::Net;
use crate::sim::run::Plays;
use crate::sim::scene::{Due, Kept, MS, SECOND, START, Scene, Struck, Trace, hold, note};
use crate::sim::server::Server;

/// Steps that a run may take; more is a livelock.
const STEPS_MAX: u64 = 100_000;

/// The world.
pub(super) struct Fleet {
    pub(super) plan: Plan,
    pub(super) scene: Scene,
    pub(super) net: Net,
    pub(super) broker: Broker,
    pub(super) group: Group,
    pub(super) processes: Vec<Process>,
    pub(super) tokens: Rc<Tokens>,
    pub(super) audit: Audit,
    names: usize,
    steps: u64,
}

impl Fleet {
    pub(super) fn new(plan: &Plan, trace: Option<Trace>) -> Self {
        let tokens = Tokens::write(plan);
        let rng = fastrand::Rng::with_seed(plan.seed ^ plan.salt.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let last = plan.acts.iter().map(|act| START + act.at).max().unwrap_or(START).max(tokens.written());
        let mut broker = Broker::new(plan.partitions, plan.transaction);
        for (partition, offset) in broker.offsets.iter_mut().enumerate() {
            let begins = tokens.begins(partition);
            *offset = Some((begins, Handover::first(begins).to_metadata(begins)));
        }
        Self {
            scene: Scene::new(rng, plan.odds(), last + 60 * SECOND, trace),
            net: Net::new(Server::new(plan.rollup_ms * MS, 50_003, plan.text_max).with_rule(plan.whole), plan.terms()),
            broker,
            group: Group::new(plan.partitions),
            processes: Vec::new(),
            audit: Audit::new(&tokens, plan.attempts),
            tokens: Rc::new(tokens),
            names: plan.processes,
            steps: 0,
            plan: plan.clone(),
        }
    }

    /// Whether a process hears from Kafka now.
    pub(super) fn hears(&self, p: usize) -> bool {
        self.scene.now >= self.processes[p].deaf_until.max(self.broker.away_until)
    }

    /// The name of the process that takes the place of one that is dead.
    pub(super) fn name_after(&mut self, p: usize) -> usize {
        if self.plan.is_static {
            return self.processes[p].name;
        }
        self.names += 1;
        self.names - 1
    }

    /// Lets the next thing happen. Whether there was one.
    fn step(&mut self) -> Kept<bool> {
        let next = self.scene.next_time();
        let deadlines = self.processes.iter().map(Process::next_deadline).enumerate();
        let tick = deadlines.filter_map(|(p, time)| time.map(|time| (time.0, p))).min();
        let frozen = |owner: usize| self.processes[owner].frozen_until;
        let links = self.net.links.iter().enumerate().filter(|(_, link)| !link.over);
        let link = links.filter_map(|(l, link)| Some((link.deadline?.0.max(frozen(link.owner)), l))).min();
        if let Some((time, l)) = link
            && next.is_none_or(|next| time < next)
            && tick.is_none_or(|(tick, _)| time < tick)
        {
            self.scene.now = self.scene.now.max(time);
            self.net.tick_link(&mut self.scene, l)?;
            return Ok(true);
        }
        if let Some((time, p)) = tick.filter(|(time, _)| next.is_none_or(|next| *time < next)) {
            self.scene.now = self.scene.now.max(time);
            self.act(p)?;
            let spins = self.processes[p].next_deadline().is_some_and(|deadline| deadline.0 <= self.scene.now);
            hold!(!spins, "I12: p{p} asks for a tick at a time that has passed");
            return Ok(true);
        }
        let Some(due) = self.scene.pop() else { return Ok(false) };
        self.happen(due)?;
        Ok(true)
    }

    fn happen(&mut self, due: Due) -> Kept {
        if let Some(owner) = self.owner(due) {
            let process = &mut self.processes[owner];
            if self.scene.now < process.frozen_until {
                self.scene.at(process.frozen_until, due);
                return Ok(());
            }
            if process.is_blocked() && waits_for_loop(due) {
                process.deferred.push(due);
                return Ok(());
            }
        }
        match due {
            Due::Arrive(c) => {
                if self.net.server.arrive(&mut self.scene, c) {
                    self.net.break_off(&mut self.scene, c);
                }
                Ok(())
            }
            Due::Flush(m) => {
                self.net.server.flush(&mut self.scene, m);
                Ok(())
            }
            Due::Answers(c) => self.net.answers(&mut self.scene, c),
            Due::Break(l) => {
                self.net.break_link(&mut self.scene, l);
                Ok(())
            }
            Due::Noticed(l, transport) => self.net.noticed(&mut self.scene, l, transport),
            Due::Opened(l, transport) => self.net.opened(&mut self.scene, l, transport),
            Due::Overdue(c) => {
                self.net.overdue(&mut self.scene, c);
                Ok(())
            }
            Due::Told(l) => self.net.told(&mut self.scene, l),
            Due::Heard(l) => self.heard(l),
            Due::Fleet(deed) => self.deed(deed),
            Due::Intake(_) | Due::Durable(_) | Due::DeadLetter(..) | Due::Reply(_) => Ok(()),
        }
    }

    /// The process that has something to do.
    fn owner(&self, due: Due) -> Option<usize> {
        match due {
            Due::Noticed(l, _) | Due::Opened(l, _) | Due::Told(l) | Due::Heard(l) => Some(self.net.links[l].owner),
            Due::Answers(c) | Due::Overdue(c) => self.net.owner(c),
            Due::Fleet(
                Deed::Told(p)
                | Deed::Lease(p)
                | Deed::Read(p, _)
                | Deed::Take(p, _)
                | Deed::Taken(p, _)
                | Deed::Commit(p)
                | Deed::Write(p)
                | Deed::Look(p)
                | Deed::Reply(p, _),
            ) => Some(p),
            _ => None,
        }
    }

    fn deed(&mut self, deed: Deed) -> Kept {
        if let Some(p) = self.owner(Due::Fleet(deed))
            && !self.processes[p].alive
        {
            return Ok(());
        }
        match deed {
            Deed::Act(n) => self.perform(self.plan.acts[n]),
            Deed::Start(name) => {
                let p = self.processes.len();
                note!(self.scene, "p{p} starts under the name {name}");
                self.processes.push(Process::new(&self.plan, name, p));
                self.write_soon(p);
                self.join(p);
                self.act(p)
            }
            Deed::Evict(p) => {
                self.evict(p);
                Ok(())
            }
            Deed::Lease(p) => self.lease(p),
            Deed::Wake(p) => self.lease(p),
            Deed::Told(p) if !self.hears(p) => {
                let time = self.processes[p].deaf_until.max(self.broker.away_until);
                self.scene.at(time, Due::Fleet(deed));
                Ok(())
            }
            Deed::Told(p) if self.processes[p].wait.is_some() => {
                self.scene.at(self.scene.now + 10 * MS, Due::Fleet(deed));
                Ok(())
            }
            Deed::Told(p) => self.told(p),
            Deed::Read(p, partition) => self.read(p, partition),
            Deed::Take(p, partition) => {
                self.take(p, partition);
                Ok(())
            }
            Deed::Taken(p, partition) if self.processes[p].wait.is_some() => {
                self.scene.at(self.scene.now + 10 * MS, Due::Fleet(Deed::Taken(p, partition)));
                Ok(())
            }
            Deed::Taken(p, partition) => self.taken(p, partition),
            Deed::Commit(p) => {
                self.commit(p);
                Ok(())
            }
            Deed::Write(p) => self.write(p),
            Deed::Look(p) => self.look(p),
            Deed::Reply(p, partition) => self.reply(p, partition),
            Deed::Expire => {
                self.broker.expire(self.scene.now);
                Ok(())
            }
        }
    }

    fn perform(&mut self, act: Act) -> Kept {
        if let What::Away(time) = act.what {
            note!(self.scene, "no broker answers");
            self.broker.away_until = self.scene.now + time;
            return Ok(());
        }
        if act.what == What::Join {
            self.names += 1;
            return self.deed(Deed::Start(self.names - 1));
        }
        if let What::Meddle(meddling) = act.what {
            self.meddle(meddling);
            return Ok(());
        }
        let alive: Vec<usize> = (0..self.processes.len()).filter(|p| self.processes[*p].alive).collect();
        if alive.is_empty() {
            return Ok(());
        }
        let p = alive[act.whom % alive.len()];
        note!(self.scene, "p{p}: {:?}", act.what);
        match act.what {
            What::Kill(effects) => self.processes[p].fuse = Some(effects),
            What::Freeze(time) => {
                self.processes[p].frozen_until = self.scene.now + time;
                self.unheard(p, time);
                self.scene.at(self.scene.now + time, Due::Fleet(Deed::Wake(p)));
            }
            What::Isolate(time) => {
                self.processes[p].deaf_until = self.scene.now + time;
                self.unheard(p, time);
            }
            What::Stop => return self.stop(p),
            What::Join | What::Away(_) | What::Meddle(_) => {}
        }
        Ok(())
    }

    /// All processes are killed, and what Kafka holds is changed before they start again.
    fn meddle(&mut self, meddling: Meddling) {
        note!(self.scene, "{meddling:?}");
        for p in 0..self.processes.len() {
            if self.processes[p].alive {
                self.die(p);
            }
            self.leave(p);
        }
        self.broker.abort_all();
        let partition = self.scene.rng.usize(..self.plan.partitions);
        // Nobody knows of a response whose records are read from the middle and whose results are gone.
        if self.audit.is_meddled(partition) {
            return;
        }
        let begins = self.tokens.begins(partition);
        let committed = self.broker.offsets[partition].as_ref().map_or(begins, |(offset, _)| *offset);
        let known = self.broker.offsets[partition].as_ref().and_then(|(at, word)| Handover::parse(word, *at));
        match meddling {
            Meddling::Older => {
                let older = self.scene.rng.i64(begins..=committed);
                self.broker.offsets[partition] = Some((older, String::new()));
            }
            Meddling::Wordless => self.broker.offsets[partition] = Some((committed, String::new())),
            Meddling::Retained => {
                let needed = known.and_then(|handover| handover.results).unwrap_or_default();
                self.broker.retain(partition, needed, &mut self.scene.rng);
            }
            Meddling::Rewound => self.broker.rewind(partition, &mut self.scene.rng),
        }
        let committed = self.broker.offsets[partition].as_ref().map_or(begins, |(offset, _)| *offset);
        let forgets = matches!(meddling, Meddling::Retained | Meddling::Rewound);
        note!(
            self.scene,
            "partition {partition} is at {committed}, results from {} to {}",
            self.broker.low(partition),
            self.broker.high(partition)
        );
        self.audit.meddled(partition, committed, forgets);
    }

    /// A process does not hear from the group for a time; when that is too long for the group, it is not waited for.
    fn unheard(&mut self, p: usize, time: u64) {
        let now = self.scene.now;
        if time < self.plan.session || self.processes[p].unheard_since.is_some() {
            return;
        }
        self.processes[p].unheard_since = Some(now);
        self.scene.at(now + self.plan.session, Due::Fleet(Deed::Evict(p)));
        self.scene.at(now + self.plan.session, Due::Fleet(Deed::Lease(p)));
        self.scene.at(now + time, Due::Fleet(Deed::Told(p)));
    }

    fn evict(&mut self, p: usize) {
        if !self.group.members.contains(&p) {
            return;
        }
        self.leave(p);
    }

    /// A process has not heard from the group for too long, by its own clock.
    fn lease(&mut self, p: usize) -> Kept {
        let over = self.processes[p].unheard_since.is_some_and(|since| since + self.plan.session <= self.scene.now);
        if over && self.processes[p].alive {
            self.processes[p].unheard_since = None;
            self.lose_all(p)?;
            if self.processes[p].stopping {
                self.die(p);
            }
            return self.act(p);
        }
        Ok(())
    }

    fn stop(&mut self, p: usize) -> Kept {
        if self.processes[p].stopping || self.processes[p].wait.is_some() {
            return Ok(());
        }
        self.processes[p].stopping = true;
        let partitions: Vec<usize> = self.processes[p].stays.keys().copied().collect();
        self.let_go(p, partitions)
    }
}

fn waits_for_loop(due: Due) -> bool {
    matches!(due, Due::Heard(_) | Due::Fleet(Deed::Read(..) | Deed::Commit(_) | Deed::Reply(..)))
}

impl Plays for Fleet {
    /// Plays until nothing is due, and looks at what there is.
    fn run(&mut self) -> Kept {
        for name in 0..self.plan.processes {
            self.scene.at(START, Due::Fleet(Deed::Start(name)));
        }
        for (n, act) in self.plan.acts.iter().enumerate() {
            self.scene.at(START + act.at, Due::Fleet(Deed::Act(n)));
        }
        while self.step()? {
            self.steps += 1;
            hold!(self.steps < STEPS_MAX, "I12: it does not come to rest");
        }
        note!(self.scene, "at rest");
        self.at_rest()
    }

    fn steps(&self) -> u64 {
        self.steps
    }

    fn struck(&self) -> Struck {
        self.scene.struck
    }
}
