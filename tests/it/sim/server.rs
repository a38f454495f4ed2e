//! The other side: connections, channels and messages, as nasty as Ably's documentation allows.
//!
//! Frames of one connection are taken in order. Appends to one message within the rollup window are published together.
//! What a rejected append leaves behind, whether an answer is true, and what becomes of a frame that is written twice, is
//! left to chance.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::fault::Fault;
use super::scene::{Due, MS, SECOND, Scene, note};
use crate::engine::{Head, OpKind, Operation, Serial, Status};

/// How long the server recognises the id of a create.
const IDEMPOTENCY: u64 = 120 * SECOND;

/// Bytes under way when a connection ends live no longer than this (rollup not counted).
const LATE: u64 = 250 * MS;

/// What the server says of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Pending,
    Ack(Option<Serial>),
    Nack(u32),
}

/// A frame under way.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) number: usize,
    pub(super) operation: Operation,
    pub(super) resent: bool,
}

/// A message on a channel.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) head: Arc<Head>,
    pub(super) serial: Serial,
    /// What readers see.
    pub(super) text: String,
    pub(super) status: Status,
    pub(super) gone: bool,
    made: u64,
    /// What the next append adds to; not always what readers see.
    base: String,
    /// Texts of rejected appends that will appear, and whether they stay.
    ghosts: Vec<(String, bool)>,
    version: u64,
    /// The newest version that the client has been told of.
    told: u64,
    rolling: Vec<Rolling>,
}

/// Appends of one connection to one message that wait to be published together.
#[derive(Debug)]
struct Rolling {
    connection: usize,
    published: u64,
    due: Option<u64>,
    text: String,
    status: Status,
    frames: Vec<usize>,
}

/// A connection, with or without a transport.
#[derive(Debug, Default)]
pub(super) struct Connection {
    pub(super) attached: bool,
    inbound: VecDeque<(u64, Frame)>,
    verdicts: Vec<Verdict>,
    /// Frames to be answered, in order; some never are.
    answers: VecDeque<(usize, bool)>,
    answering: bool,
    burst_until: u64,
}

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) messages: Vec<Message>,
    pub(super) connections: Vec<Connection>,
    by_create: HashMap<Box<str>, usize>,
    by_serial: HashMap<Serial, usize>,
    refusing: HashMap<Arc<str>, u64>,
    clock: u64,
    rollup: u64,
    update_code: u32,
    turns: u32,
}

fn serial(clock: u64) -> Serial {
    format!("{clock:06}").into()
}

impl Server {
    pub(super) fn new(rollup: u64, update_code: u32) -> Self {
        Self {
            messages: Vec::new(),
            connections: Vec::new(),
            by_create: HashMap::new(),
            by_serial: HashMap::new(),
            refusing: HashMap::new(),
            clock: 0,
            rollup,
            update_code,
            turns: 0,
        }
    }

    /// A new connection, with a transport.
    pub(super) fn connect(&mut self) -> usize {
        self.connections.push(Connection { attached: true, ..Connection::default() });
        self.connections.len() - 1
    }

    /// A transport takes the place of a broken one. What the broken one still held is lost.
    pub(super) fn resume(&mut self, connection: usize) {
        let connection = &mut self.connections[connection];
        connection.attached = true;
        connection.inbound.clear();
        connection.answers.clear();
    }

    /// A transport breaks. Some of what is under way arrives all the same.
    pub(super) fn cut(&mut self, scene: &mut Scene, c: usize) {
        let connection = &mut self.connections[c];
        connection.attached = false;
        let late = scene.strikes(Fault::Late);
        let kept = if late { connection.inbound.len() } else { scene.rng.usize(..=connection.inbound.len()) };
        connection.inbound.truncate(kept);
        let mut earliest = if late { scene.now + LATE / 2 } else { scene.now };
        for (time, _) in &mut connection.inbound {
            earliest = scene.rng.u64(earliest..(scene.now + LATE).max(earliest + 1));
            *time = if late { earliest } else { (*time).min(scene.now + LATE - 1) };
        }
        if let Some((time, _)) = connection.inbound.front() {
            scene.at(*time, Due::Arrive(c));
        }
    }

    /// A frame is on its way.
    pub(super) fn write(&mut self, scene: &mut Scene, c: usize, frame: Frame) {
        let delay = scene.pick([MS, MS, 5 * MS, 30 * MS]);
        let connection = &mut self.connections[c];
        if !connection.attached {
            return;
        }
        let earliest = connection.inbound.back().map_or(scene.now, |(time, _)| *time);
        let time = earliest.max(scene.now + scene.rng.u64(..delay));
        if connection.inbound.is_empty() {
            scene.at(time, Due::Arrive(c));
        }
        connection.inbound.push_back((time, frame));
    }

    /// Frames have arrived. Whether the transport is to break now.
    pub(super) fn arrive(&mut self, scene: &mut Scene, c: usize) -> bool {
        let mut breaks = false;
        while let Some((time, _)) = self.connections[c].inbound.front() {
            if *time > scene.now {
                scene.at(*time, Due::Arrive(c));
                break;
            }
            let Some((_, frame)) = self.connections[c].inbound.pop_front() else { break };
            self.take(scene, c, &frame);
            breaks |= self.connections[c].attached && scene.strikes(Fault::LoseAck);
        }
        self.answer_later(scene, c);
        breaks
    }

    fn take(&mut self, scene: &mut Scene, c: usize, frame: &Frame) {
        let operation = &frame.operation;
        let again = frame.number < self.connections[c].verdicts.len();
        let mut silent = scene.strikes(Fault::Skip);
        let verdict = if frame.resent && scene.strikes(Fault::ResentRefused) {
            Some(Verdict::Nack(50_003))
        } else if frame.resent && scene.strikes(Fault::ResentSilent) {
            silent = true;
            (!again).then_some(Verdict::Nack(50_003))
        } else if frame.resent && !again && operation.kind != OpKind::Create && scene.strikes(Fault::ResentNotApplied) {
            self.clock += 1;
            Some(Verdict::Ack(Some(serial(self.clock))))
        } else if again && (operation.kind == OpKind::Create || !scene.strikes(Fault::ResentTwice)) {
            None
        } else {
            Some(self.operate(scene, c, frame))
        };
        note!(
            scene,
            "server: connection {c} frame {} {:?} {:?}{}{}: {verdict:?}",
            frame.number,
            operation.kind,
            operation.data,
            if again { ", seen before" } else { "" },
            if silent { ", never answered" } else { "" }
        );
        let connection = &mut self.connections[c];
        if !again {
            // Frames before it never came: the transport that carried them broke and nothing was resumed.
            connection.verdicts.resize(frame.number, Verdict::Nack(0));
            connection.verdicts.push(verdict.unwrap_or(Verdict::Pending));
        } else if let Some(verdict) = verdict {
            connection.verdicts[frame.number] = verdict;
        }
        connection.answers.push_back((frame.number, silent));
    }

    fn operate(&mut self, scene: &mut Scene, c: usize, frame: &Frame) -> Verdict {
        let operation = &frame.operation;
        if let Some(code) = self.refusal(scene, c, operation) {
            let applied = match code {
                50_000..=59_999 if scene.plays(Fault::UpdatesRefused) => {
                    self.turns += 1;
                    self.turns.is_multiple_of(2)
                }
                50_000..=59_999 => scene.rng.bool(),
                _ => false,
            };
            if applied {
                self.apply(scene, c, frame);
            } else if operation.kind == OpKind::Append {
                self.haunt(scene, operation);
            }
            return Verdict::Nack(code);
        }
        self.apply(scene, c, frame)
    }

    /// Whether an operation is refused, and with which code.
    fn refusal(&mut self, scene: &mut Scene, c: usize, operation: &Operation) -> Option<u32> {
        const RATES: [u32; 5] = [42_910, 42_911, 42_913, 42_914, 42_917];
        const PASSING: [u32; 6] = [50_003, 50_003, 50_001, 40_142, 80_009, 40_111];
        if scene.strikes(Fault::Rate) {
            self.connections[c].burst_until = scene.within(0..2 * SECOND);
        }
        if scene.now < self.connections[c].burst_until.min(scene.calm_from) && scene.rng.u8(..10) < 8 {
            return Some(scene.pick(RATES));
        }
        if operation.kind == OpKind::Update && scene.strikes(Fault::UpdatesRefused) {
            return Some(self.update_code);
        }
        if scene.strikes(Fault::Transient) {
            return Some(scene.pick(PASSING));
        }
        if operation.kind != OpKind::Append && scene.strikes(Fault::Permanent) {
            return Some(40_013);
        }
        if operation.kind != OpKind::Create && scene.plays(Fault::ChannelRefuses) {
            let channel = operation.head.channel.clone();
            let until = *self.refusing.entry(channel).or_insert_with(|| scene.now + scene.rng.u64(..100 * SECOND));
            if scene.now < until {
                return Some(93_002);
            }
        }
        None
    }

    fn apply(&mut self, scene: &mut Scene, c: usize, frame: &Frame) -> Verdict {
        let operation = &frame.operation;
        if operation.kind == OpKind::Create {
            return self.create(scene, operation);
        }
        let known = operation.serial.as_ref().and_then(|serial| self.by_serial.get(serial).copied());
        let Some(m) = known.filter(|m| !self.messages[*m].gone) else { return Verdict::Nack(40_400) };
        if scene.strikes(Fault::Gone) {
            let message = &mut self.messages[m];
            message.gone = true;
            for rolling in std::mem::take(&mut message.rolling) {
                self.say(&rolling, |_| Verdict::Nack(40_400));
            }
            return Verdict::Nack(40_400);
        }
        match operation.kind {
            OpKind::Append => self.append(scene, c, m, frame),
            OpKind::Update | OpKind::Create => self.update(scene, c, m, operation),
        }
    }

    fn create(&mut self, scene: &mut Scene, operation: &Operation) -> Verdict {
        let head = &operation.head;
        let known = self.by_create.get(&head.create_id).copied();
        if let Some(m) = known.filter(|m| scene.now < self.messages[*m].made + IDEMPOTENCY) {
            return Verdict::Ack(Some(self.messages[m].serial.clone()));
        }
        self.clock += 1;
        let m = self.messages.len();
        let serial = serial(self.clock);
        self.messages.push(Message {
            head: head.clone(),
            serial: serial.clone(),
            text: operation.data.to_string(),
            status: operation.status,
            gone: false,
            made: scene.now,
            base: operation.data.to_string(),
            ghosts: Vec::new(),
            version: self.clock,
            told: 0,
            rolling: Vec::new(),
        });
        self.by_create.insert(head.create_id.clone(), m);
        self.by_serial.insert(serial.clone(), m);
        let unnamed = scene.strikes(Fault::CreateNull);
        Verdict::Ack((!unnamed).then_some(serial))
    }

    fn append(&mut self, scene: &mut Scene, c: usize, m: usize, frame: &Frame) -> Verdict {
        let operation = &frame.operation;
        let rollup = self.rollup;
        let message = &mut self.messages[m];
        let at = message.rolling.iter().position(|rolling| rolling.connection == c);
        let at = at.filter(|at| {
            let rolling = &message.rolling[*at];
            rolling.due.is_some() || scene.now < rolling.published + rollup
        });
        let Some(at) = at else {
            message.rolling.retain(|rolling| rolling.connection != c);
            let rolling = Rolling {
                connection: c,
                published: scene.now,
                due: None,
                text: String::new(),
                status: operation.status,
                frames: Vec::new(),
            };
            message.rolling.push(rolling);
            return Verdict::Ack(Some(self.publish(m, &operation.data, operation.status)));
        };
        let rolling = &mut message.rolling[at];
        rolling.text.push_str(&operation.data);
        rolling.status = operation.status;
        if rolling.due.is_none() {
            rolling.due = Some(rolling.published + rollup);
            scene.at(rolling.published + rollup, Due::Flush(m));
        }
        if scene.strikes(Fault::AckEarly) {
            self.clock += 1;
            return Verdict::Ack((!scene.strikes(Fault::NullSerials)).then(|| serial(self.clock)));
        }
        rolling.frames.push(frame.number);
        Verdict::Pending
    }

    /// Publishes what was rolled up for a message.
    pub(super) fn flush(&mut self, scene: &mut Scene, m: usize) {
        for at in 0..self.messages[m].rolling.len() {
            let rolling = &mut self.messages[m].rolling[at];
            if rolling.due.is_none_or(|due| due > scene.now) {
                continue;
            }
            rolling.due = None;
            rolling.published = scene.now;
            let group = Rolling {
                text: std::mem::take(&mut rolling.text),
                frames: std::mem::take(&mut rolling.frames),
                ..*rolling
            };
            let refused = !group.frames.is_empty() && scene.strikes(Fault::NackGroup);
            note!(scene, "server: message {m} flushes {:?}{}", group.text, if refused { ", refused" } else { "" });
            if refused {
                if scene.rng.bool() {
                    self.haunt_with(scene, m, &group.text);
                }
                self.say(&group, |_| Verdict::Nack(42_913));
            } else {
                let version = self.publish(m, &group.text, group.status);
                let nulls = scene.strikes(Fault::NullSerials);
                let last = group.frames.last().copied();
                self.say(&group, |frame| Verdict::Ack((!nulls || Some(frame) == last).then(|| version.clone())));
            }
            self.answer_later(scene, group.connection);
        }
    }

    fn publish(&mut self, m: usize, text: &str, status: Status) -> Serial {
        self.clock += 1;
        let message = &mut self.messages[m];
        message.text.clone_from(&message.base);
        for (ghost, stays) in message.ghosts.drain(..) {
            message.text.push_str(&ghost);
            if stays {
                message.base.push_str(&ghost);
            }
        }
        message.text.push_str(text);
        message.base.push_str(text);
        message.status = status;
        message.version = self.clock;
        serial(self.clock)
    }

    fn update(&mut self, scene: &mut Scene, c: usize, m: usize, operation: &Operation) -> Verdict {
        let told = self.messages[m].told;
        if told > 0 && scene.strikes(Fault::UpdateLost) {
            return Verdict::Ack(Some(serial(told - scene.rng.u64(..2).min(told))));
        }
        // It supersedes what waits of its own connection.
        let message = &mut self.messages[m];
        let superseded: Vec<_> = message.rolling.extract_if(.., |rolling| rolling.connection == c).collect();
        message.ghosts.clear();
        self.clock += 1;
        message.text = operation.data.to_string();
        message.status = operation.status;
        message.version = self.clock;
        let foreign = scene.strikes(Fault::UpdateSuperseded);
        if foreign {
            message.text.push('\u{2620}');
        }
        message.base.clone_from(&message.text);
        for rolling in superseded {
            self.say(&rolling, |_| Verdict::Ack(None));
        }
        Verdict::Ack((!foreign).then(|| serial(self.clock)))
    }

    /// What becomes of the text of a rejected append.
    fn haunt(&mut self, scene: &mut Scene, operation: &Operation) {
        let known = operation.serial.as_ref().and_then(|serial| self.by_serial.get(serial).copied());
        if let Some(m) = known {
            self.haunt_with(scene, m, &operation.data);
        }
    }

    fn haunt_with(&mut self, scene: &mut Scene, m: usize, text: &str) {
        let next = scene.strikes(Fault::FoldNext);
        if next || scene.strikes(Fault::FoldLater) {
            self.messages[m].ghosts.push((text.to_owned(), !next));
        }
    }

    fn say(&mut self, rolling: &Rolling, verdict: impl Fn(usize) -> Verdict) {
        for frame in &rolling.frames {
            // A frame that was taken when it comes first has no entry before it is given one.
            if let Some(entry) = self.connections[rolling.connection].verdicts.get_mut(*frame) {
                *entry = verdict(*frame);
            }
        }
    }

    fn answer_later(&mut self, scene: &mut Scene, c: usize) {
        let connection = &mut self.connections[c];
        let ready =
            connection.answers.front().is_some_and(|(frame, _)| connection.verdicts[*frame] != Verdict::Pending);
        if !connection.attached || connection.answering || !ready {
            return;
        }
        connection.answering = true;
        let slow = scene.strikes(Fault::SlowAnswers);
        let delay = if slow { 5 * SECOND } else { scene.pick([MS, 20 * MS, 100 * MS]) };
        let time = scene.within(0..delay);
        scene.at(time, Due::Answers(c));
    }

    /// Answers reach the client: all that are ready, in order, or some of them.
    pub(super) fn answers(&mut self, scene: &mut Scene, c: usize) -> Vec<(usize, Verdict)> {
        let connection = &mut self.connections[c];
        connection.answering = false;
        let mut given = Vec::new();
        if !connection.attached {
            return given;
        }
        let most = if scene.rng.u8(..4) == 0 { 1 } else { usize::MAX };
        while let Some((frame, silent)) = connection.answers.front().copied() {
            let verdict = &connection.verdicts[frame];
            if *verdict == Verdict::Pending || given.len() == most {
                break;
            }
            connection.answers.pop_front();
            if !silent {
                given.push((frame, verdict.clone()));
            }
        }
        self.answer_later(scene, c);
        given
    }

    /// The client has learnt a version of a message.
    pub(super) fn told(&mut self, message: &Serial, version: &Serial) {
        if let (Some(m), Ok(version)) = (self.by_serial.get(message), version.parse::<u64>()) {
            let message = &mut self.messages[*m];
            message.told = message.told.max(version);
        }
    }

    /// The message that a create made.
    pub(super) fn made(&self, create_id: &str) -> Option<&Message> {
        Some(&self.messages[*self.by_create.get(create_id)?])
    }
}
