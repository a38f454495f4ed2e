//! A process: its engines, what they ask for, and the loop that does it, in the pipeline's order.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::Deed;
use super::intake::Taking;
use super::plan::{Plan, settings_of};
use super::wait::Wait;
use super::world::Fleet;
use super::writer::Writer;
use crate::engine::{
    Effect, Effects, EventKind, Found, Input, LookUp, Offset, Operation, ReadBack, Reload, ReportSeq, Serial, Settings,
    Shared, Time, Verify,
};
use crate::pipeline::stay::Stay;
use crate::sim::link::Event;
use crate::sim::plan::overhead;
use crate::sim::scene::{Due, Kept, MS, Scene, hold, note};

/// One stay of a partition with a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Lane {
    pub(super) partition: usize,
    pub(super) life: u32,
}

/// A result that is to be written.
#[derive(Debug, Clone)]
pub(super) struct Reported {
    pub(super) lane: Lane,
    pub(super) seq: ReportSeq,
    pub(super) value: Rc<[u8]>,
}

/// Results and dead letters that are handed over at once.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) reports: Vec<Reported>,
    pub(super) letters: Vec<(Lane, Offset)>,
}

/// A partition that is a process's.
pub(super) struct Owned {
    pub(super) stay: Stay,
    pub(super) lane: Lane,
    /// How many records of the log have been passed.
    pub(super) read: usize,
    pub(super) scheduled: bool,
    pub(super) caught_up: bool,
    /// When it was taken, whether the one before had left in order, and which messages were looked at since.
    since: u64,
    clean: bool,
    looked_at: HashSet<Serial>,
    questions: VecDeque<Question>,
}

#[derive(Debug)]
enum Question {
    Reload(Box<Reload>),
    LookUp(Box<LookUp>),
    ReadBack(Box<ReadBack>),
}

/// A process.
pub(super) struct Process {
    pub(super) name: usize,
    pub(super) alive: bool,
    /// It stands still until then.
    pub(super) frozen_until: u64,
    /// It does not hear from Kafka until then.
    pub(super) deaf_until: u64,
    /// Since when it has not heard from the group.
    pub(super) unheard_since: Option<u64>,
    pub(super) generation: u32,
    pub(super) shared: Shared,
    pub(super) settings: Arc<Settings>,
    /// Its links, by connection.
    pub(super) links: Vec<usize>,
    pub(super) stays: BTreeMap<usize, Owned>,
    pub(super) taking: BTreeMap<usize, Taking>,
    pub(super) lives: u32,
    pub(super) batch: Batch,
    /// What was last offered to be committed.
    pub(super) marks: HashMap<usize, (Offset, String)>,
    /// Stays that were first offered to be committed with the job of that number.
    pub(super) first: Vec<(Lane, u64)>,
    pub(super) offered: u64,
    pub(super) committed: u64,
    pub(super) writer: Writer,
    pub(super) wait: Option<Wait>,
    /// What came while the loop was waiting.
    pub(super) deferred: Vec<Due>,
    pub(super) committing: bool,
    pub(super) stopping: bool,
    /// It is killed after so many more effects.
    pub(super) fuse: Option<u32>,
    pub(super) operations: Vec<Operation>,
    asked: Vec<(usize, Question)>,
    effects: Effects,
}

impl Owned {
    pub(super) fn new(stay: Stay, lane: Lane, read: usize, since: u64, clean: bool) -> Self {
        let (looked_at, questions) = (HashSet::new(), VecDeque::new());
        Self { stay, lane, read, scheduled: false, caught_up: false, since, clean, looked_at, questions }
    }
}

impl Process {
    pub(super) fn new(plan: &Plan, name: usize, number: usize) -> Self {
        let settings = settings_of(plan, name, number);
        Self {
            name,
            alive: true,
            frozen_until: 0,
            deaf_until: 0,
            unheard_since: None,
            generation: 0,
            shared: Shared::new(plan.limits(), settings.append_rollup),
            settings,
            links: Vec::new(),
            stays: BTreeMap::new(),
            taking: BTreeMap::new(),
            lives: 0,
            batch: Batch::default(),
            marks: HashMap::new(),
            first: Vec::new(),
            offered: 0,
            committed: 0,
            writer: Writer::default(),
            wait: None,
            deferred: Vec::new(),
            committing: false,
            stopping: false,
            fuse: None,
            operations: Vec::new(),
            asked: Vec::new(),
            effects: Effects::default(),
        }
    }

    /// The loop waits for a commit, and for nothing else.
    pub(super) fn is_blocked(&self) -> bool {
        matches!(self.wait, Some(Wait::Commit { .. }))
    }

    /// When one of its engines wants to be told the time.
    pub(super) fn next_deadline(&self) -> Option<Time> {
        if !self.alive || self.is_blocked() {
            return None;
        }
        let deadline = self.stays.values().filter_map(|owned| owned.stay.engine.next_deadline()).min()?;
        Some(deadline.max(Time(self.frozen_until)))
    }

    /// Operations of these partitions that have no answer.
    pub(super) fn in_flight_of(&self, partitions: &[usize]) -> usize {
        partitions.iter().filter_map(|n| self.stays.get(n)).map(|owned| owned.stay.engine.in_flight()).sum()
    }

    /// Tells the engine of a partition, and sorts what it asks for.
    pub(super) fn tell(&mut self, now: u64, partition: usize, input: Input<'_>, scene: &Scene) {
        let Some(owned) = self.stays.get_mut(&partition) else { return };
        owned.stay.engine.apply(Time(now), input, &mut self.shared, &mut self.effects);
        for effect in self.effects.list.drain(..) {
            match effect {
                Effect::Send(operation) => self.operations.push(operation),
                Effect::Report(report) => {
                    let value: Rc<[u8]> = self.effects.bytes[report.value].into();
                    if scene.trace.is_some() && report.fact.kind() == "response" {
                        let name = self.name;
                        note_settled(scene, name, &value);
                    }
                    self.batch.reports.push(Reported { lane: owned.lane, seq: report.seq, value });
                }
                Effect::DeadLetter { offset, .. } => self.batch.letters.push((owned.lane, offset)),
                Effect::Reload(reload) => self.asked.push((partition, Question::Reload(reload))),
                Effect::LookUp(look_up) => self.asked.push((partition, Question::LookUp(look_up))),
                Effect::ReadBack(read_back) => self.asked.push((partition, Question::ReadBack(read_back))),
                Effect::Notice(_) => {}
            }
        }
        self.effects.clear();
    }
}

fn note_settled(scene: &Scene, name: usize, value: &[u8]) {
    if let Some(trace) = &scene.trace {
        trace.borrow_mut().push(format!("              p{name} settles {}", String::from_utf8_lossy(value)));
    }
}

impl Fleet {
    /// Tells one engine.
    pub(super) fn apply(&mut self, p: usize, partition: usize, input: Input<'_>) {
        self.processes[p].tell(self.scene.now, partition, input, &self.scene);
        self.commit_later(p);
    }

    /// Tells the engines whose time has come, and those that wait.
    fn tick_due(&mut self, p: usize, after_answers: bool) {
        let process = &mut self.processes[p];
        let full = !process.shared.intake_open();
        let partitions: Vec<usize> = process.stays.keys().copied().collect();
        for partition in partitions {
            let process = &mut self.processes[p];
            let Some(owned) = process.stays.get(&partition) else { continue };
            let engine = &owned.stay.engine;
            let due = engine.next_deadline().is_some_and(|deadline| deadline.0 <= self.scene.now);
            if due || full || (after_answers && engine.is_blocked(&process.shared)) {
                process.tell(self.scene.now, partition, Input::Tick, &self.scene);
                self.commit_later(p);
            }
        }
    }

    /// Does what the engines have asked for. It may be the last that the process does.
    pub(super) fn act(&mut self, p: usize) -> Kept {
        if !self.processes[p].alive || self.processes[p].is_blocked() {
            return Ok(());
        }
        self.tick_due(p, false);
        let wanted = self.processes[p].shared.flow.connections();
        for number in self.processes[p].links.len() as u32..wanted {
            let l = self.net.open_link(&mut self.scene, p, number)?;
            self.processes[p].links.push(l);
        }
        for operation in std::mem::take(&mut self.processes[p].operations) {
            if self.burns(p) {
                return Ok(());
            }
            self.send(p, operation)?;
        }
        for (partition, question) in std::mem::take(&mut self.processes[p].asked) {
            note!(self.scene, "p{p} asks {question:?}");
            if let Some(owned) = self.processes[p].stays.get_mut(&partition) {
                if let Question::ReadBack(read_back) = &question {
                    owned.looked_at.insert(read_back.serial.clone());
                }
                owned.questions.push_back(question);
                let time = self.scene.within(0..200 * MS);
                self.scene.at(time, Due::Fleet(Deed::Reply(p, partition)));
            }
        }
        self.look(p)
    }

    fn send(&mut self, p: usize, operation: Operation) -> Kept {
        let l = self.processes[p].links[operation.connection as usize];
        note!(
            self.scene,
            "p{p} sends {}/{}#{} {:?} {:?} {:?} on link {l}",
            operation.head.response_id,
            operation.head.part,
            operation.id.seq,
            operation.kind,
            operation.data,
            operation.status
        );
        let unheard = self.processes[p].unheard_since;
        let is_over = unheard.is_some_and(|since| since + self.plan.session < self.scene.now);
        hold!(!is_over, "I14: p{p} sends after its lease");
        let is_known = !self.audit.is_meddled(operation.id.partition as usize);
        let goes_on = is_known && self.audit.has_failed(&operation.head);
        hold!(!goes_on, "R15: p{p} goes on with {}, which has failed", operation.head.response_id);
        self.leaves_to_others(p, &operation)?;
        if operation.keeps_text {
            self.audit.last_words.extend(operation.serial.clone());
        }
        self.net.transmit(&mut self.scene, l, operation)
    }

    /// What somebody else has changed is not written any more once that was seen, and by a new owner not before it has looked.
    fn leaves_to_others(&self, p: usize, operation: &Operation) -> Kept {
        let Some(serial) = &operation.serial else { return Ok(()) };
        let name = &operation.head.response_id;
        let was_seen = self.audit.others.contains(serial);
        hold!(!was_seen, "R17: p{p} writes to {name}, which somebody else was seen to have changed");
        let message = self.net.server.messages.iter().find(|message| message.serial == *serial);
        let since = message.and_then(|message| message.others).map(|(since, _)| since);
        let owned = self.processes[p].stays.get(&(operation.id.partition as usize));
        let is_blind = |owned: &Owned| {
            let is_before = !owned.clean && since.is_some_and(|since| since < owned.since);
            is_before && !owned.looked_at.contains(serial)
        };
        let looks = self.plan.verify != Verify::Never;
        hold!(!looks || !owned.is_some_and(is_blind), "R17: p{p} takes {name} over and does not look");
        Ok(())
    }

    /// An effect is about to happen; whether the process dies before.
    pub(super) fn burns(&mut self, p: usize) -> bool {
        match &mut self.processes[p].fuse {
            Some(0) => {
                self.die(p);
                true
            }
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// The loop hears what happened on a link.
    pub(super) fn heard(&mut self, l: usize) -> Kept {
        let (p, number) = (self.net.links[l].owner, self.net.links[l].number);
        for event in self.net.heard(l) {
            match event {
                Event::Answer(answer) => {
                    let operation = self.net.asked(&mut self.scene, p, &answer)?;
                    self.apply(p, operation.id.partition as usize, Input::Answer(answer));
                }
                Event::Up(details) => {
                    let bytes = usize::try_from(details.max_message_size).unwrap_or(usize::MAX);
                    self.processes[p].shared.flow.up(number, details.ably_id, self.plan.pipelining, bytes, None);
                }
                Event::Down => self.processes[p].shared.flow.down(number),
                Event::Lost => {
                    note!(self.scene, "p{p}: link {l} is lost");
                    let partitions: Vec<usize> = self.processes[p].stays.keys().copied().collect();
                    for partition in partitions {
                        self.apply(p, partition, Input::Moved(number));
                    }
                }
            }
        }
        self.tick_due(p, true);
        self.act(p)
    }

    /// A question is answered.
    pub(super) fn reply(&mut self, p: usize, partition: usize) -> Kept {
        let Some(owned) = self.processes[p].stays.get_mut(&partition) else { return Ok(()) };
        let Some(question) = owned.questions.pop_front() else { return Ok(()) };
        match question {
            Question::Reload(reload) => {
                let text = self.reread(partition, &reload);
                self.apply(p, partition, Input::Reloaded { id: reload.id, text: Some(&text) });
            }
            Question::LookUp(look_up) => {
                let found = self.net.server.look_up(&mut self.scene, &look_up);
                if found == Found::Others {
                    self.audit.is_others(&look_up.head);
                }
                note!(self.scene, "p{p} looked up {}: {found:?}", look_up.head.response_id);
                self.apply(p, partition, Input::LookedUp { id: look_up.id, found });
            }
            Question::ReadBack(read_back) => {
                let latest = self.net.server.read(&mut self.scene, &read_back.serial);
                self.audit.read(&read_back, &latest);
                note!(self.scene, "p{p} read back {}: {latest:?}", read_back.head.response_id);
                self.apply(p, partition, Input::ReadBack { id: read_back.id, latest });
            }
        }
        self.act(p)
    }

    fn reread(&self, partition: usize, reload: &Reload) -> String {
        let (first, last) = reload.offsets;
        let records = self.tokens.logs[partition].iter().filter(|record| (first..=last).contains(&record.offset));
        let events = records.flat_map(|record| &record.events);
        let mine = events.filter(|event| *event.response_id == *reload.response_id && event.part == reload.part);
        mine.filter_map(|event| match &event.kind {
            EventKind::Token(text) => Some(&**text),
            _ => None,
        })
        .collect()
    }

    /// A process is killed.
    pub(super) fn die(&mut self, p: usize) {
        note!(self.scene, "p{p} dies");
        self.net.kill(&mut self.scene, p, self.plan.late());
        self.net.allow(overhead(), self.plan.text_max_then);
        let process = &mut self.processes[p];
        process.alive = false;
        process.stays.clear();
        process.taking.clear();
        let since = process.unheard_since.unwrap_or(self.scene.now);
        self.scene.at(since + self.plan.session, Due::Fleet(Deed::Evict(p)));
        let name = self.name_after(p);
        let time = self.scene.now + self.plan.restart;
        self.scene.at(time, Due::Fleet(Deed::Start(name)));
    }
}
