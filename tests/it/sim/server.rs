//! The other side: connections, channels and messages, as nasty as Ably's documentation allows.
//!
//! Frames of one connection are taken in order. Appends to one message within the rollup window are published together.
//! What a rejected append leaves behind, whether an answer is true, and what becomes of a frame that is written twice, is
//! left to chance.

mod messages;

use std::collections::{HashMap, VecDeque};

use super::fault::Fault;
use super::frames::{Frame, Token};
use super::scene::{Due, MS, SECOND, Scene, note};
use super::whole::NoRule;
use crate::engine::{Found, Latest, LookUp, OpKind, Serial, Status};
pub(super) use messages::Message;
use messages::serial;

/// How long the server keeps a connection without a transport.
const STATE_TTL: u64 = 120 * SECOND;

/// Bytes under way when a process ends a connection live no longer than this (rollup not counted).
pub(super) const LATE: u64 = 250 * MS;

/// How long before somebody looks for the last time what a connection has left behind has landed, rollup not counted.
pub(crate) const LANDED: u64 = LATE + messages::STALE;

/// What the server says of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing yet.
    Pending,
    Ack(Option<Serial>),
    Nack(u32),
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
    /// How many frames were written to it.
    written: usize,
    /// Frames that were written before its last transport.
    resent: usize,
    /// How many transports it has had.
    times: u32,
    /// Since when it has none.
    since: u64,
    /// It may not be resumed any more.
    over: bool,
}

/// The server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) messages: Vec<Message>,
    /// Messages that nothing is added to.
    pub(super) published: Vec<Token>,
    /// When an id was first used for them.
    published_at: HashMap<Box<str>, u64>,
    pub(super) connections: Vec<Connection>,
    by_create: HashMap<Box<str>, usize>,
    by_serial: HashMap<Serial, usize>,
    refusing: HashMap<Box<str>, u64>,
    clock: u64,
    rollup: u64,
    update_code: u32,
    turns: u32,
    /// Bytes of text that a message may have.
    pub(super) text_max: usize,
    pub(super) no_rule: Option<NoRule>,
}

impl Server {
    pub(super) fn new(rollup: u64, update_code: u32, text_max: usize) -> Self {
        Self {
            messages: Vec::new(),
            published: Vec::new(),
            published_at: HashMap::new(),
            connections: Vec::new(),
            by_create: HashMap::new(),
            by_serial: HashMap::new(),
            refusing: HashMap::new(),
            clock: 0,
            rollup,
            update_code,
            turns: 0,
            text_max,
            no_rule: None,
        }
    }

    /// A transport, for a new connection or for one that has lost its own: which connection it is, how many transports that
    /// has had, and whether it is not the one that was asked for.
    pub(super) fn connect(&mut self, scene: &mut Scene, key: Option<usize>) -> (usize, u32, bool) {
        let known = key.and_then(|c| self.connections.get(c).filter(|other| !other.over).map(|_| c));
        let kept = known.filter(|c| {
            let connection = &self.connections[*c];
            (connection.attached || scene.now < connection.since + STATE_TTL) && !scene.strikes(Fault::RefuseResume)
        });
        if let Some(former) = key.filter(|_| kept.is_none()) {
            self.connections[former].over = true;
        }
        let c = kept.unwrap_or(self.connections.len());
        if kept.is_none() {
            self.connections.push(Connection::default());
        }
        let connection = &mut self.connections[c];
        connection.attached = true;
        connection.times += 1;
        connection.resent = connection.written;
        // What the broken transport still held is lost.
        connection.inbound.clear();
        connection.answers.clear();
        (c, connection.times, kept.is_none() && key.is_some())
    }

    /// A transport breaks. Some of what is under way arrives all the same, within `bound`.
    pub(super) fn cut(&mut self, scene: &mut Scene, c: usize, bound: u64) {
        let connection = &mut self.connections[c];
        connection.attached = false;
        connection.since = scene.now;
        let late = scene.strikes(Fault::Late);
        let kept = if late { connection.inbound.len() } else { scene.rng.usize(..=connection.inbound.len()) };
        connection.inbound.truncate(kept);
        let mut earliest = if late { scene.now + bound / 2 } else { scene.now };
        for (time, _) in &mut connection.inbound {
            earliest = scene.rng.u64(earliest..(scene.now + bound).max(earliest + 1));
            *time = if late { earliest } else { (*time).min(scene.now + bound - 1) };
        }
        if let Some((time, _)) = connection.inbound.front() {
            scene.at(*time, Due::Arrive(c));
        }
    }

    /// A frame is on its way.
    pub(super) fn write(&mut self, scene: &mut Scene, c: usize, mut frame: Frame) {
        let delay = scene.pick([MS, MS, 5 * MS, 30 * MS]);
        let connection = &mut self.connections[c];
        frame.resent = frame.number < connection.resent;
        connection.written = connection.written.max(frame.number + 1);
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
        let again = frame.number < self.connections[c].verdicts.len();
        let mut silent = scene.strikes(Fault::Skip);
        let lost = (silent && !again && scene.rng.bool()) || (frame.resent && scene.strikes(Fault::ResentRefused));
        let verdict = if lost {
            Some(Verdict::Nack(50_003))
        } else if frame.resent && scene.strikes(Fault::ResentSilent) {
            silent = true;
            (!again).then_some(Verdict::Nack(50_003))
        } else if frame.resent && !again && frame.kind != OpKind::Create && scene.strikes(Fault::ResentNotApplied) {
            self.clock += 1;
            Some(Verdict::Ack(Some(serial(self.clock))))
        } else if again && (frame.kind == OpKind::Create || !scene.strikes(Fault::ResentTwice)) {
            None
        } else {
            Some(self.operate(scene, c, frame))
        };
        note!(
            scene,
            "server: connection {c} frame {} {:?} {:?}{}{}: {verdict:?}",
            frame.number,
            frame.kind,
            frame.text,
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
        if let Some(code) = self.refusal(scene, c, frame) {
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
            } else if frame.kind == OpKind::Append {
                self.haunt(scene, frame);
            }
            return Verdict::Nack(code);
        }
        self.apply(scene, c, frame)
    }

    /// Whether an operation is refused, and with which code.
    fn refusal(&mut self, scene: &mut Scene, c: usize, frame: &Frame) -> Option<u32> {
        const RATES: [u32; 7] = [42_910, 42_911, 42_913, 42_914, 42_917, 42_918, 90_010];
        const PASSING: [u32; 6] = [50_003, 50_003, 50_001, 40_142, 80_003, 40_112];
        if scene.strikes(Fault::Rate) {
            self.connections[c].burst_until = scene.within(0..2 * SECOND);
        }
        if scene.now < self.connections[c].burst_until.min(scene.calm_from) && scene.rng.u8(..10) < 8 {
            return Some(scene.pick(RATES));
        }
        if frame.kind == OpKind::Update && scene.strikes(Fault::UpdatesRefused) {
            return Some(self.update_code);
        }
        if scene.strikes(Fault::Transient) {
            return Some(scene.pick(PASSING));
        }
        if frame.kind != OpKind::Append && scene.strikes(Fault::Permanent) {
            return Some(40_013);
        }
        let changes = matches!(frame.kind, OpKind::Append | OpKind::Update);
        if changes && self.changes_nothing(scene) {
            return Some(93_002);
        }
        if frame.kind != OpKind::Create && scene.plays(Fault::ChannelRefuses) {
            let channel = frame.channel.clone();
            let until = *self.refusing.entry(channel).or_insert_with(|| scene.now + scene.rng.u64(..100 * SECOND));
            if scene.now < until {
                return Some(93_002);
            }
        }
        None
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

    /// What a message is when it is read.
    pub(crate) fn read(&self, scene: &mut Scene, message: &Serial) -> Latest {
        let message = self.by_serial.get(message).map(|m| &self.messages[*m]).filter(|message| !message.gone);
        match message {
            _ if scene.strikes(Fault::Unreadable) => Latest::Unreadable,
            None => Latest::Unreadable,
            Some(message) => message.read(scene),
        }
    }

    /// Looks for a message in the history of its channel, where new ones appear late.
    pub(crate) fn look_up(&self, scene: &mut Scene, look_up: &LookUp) -> Found {
        if scene.strikes(Fault::Unreadable) {
            return Found::Unreadable;
        }
        let lags = scene.strikes(Fault::StaleRead);
        let appears = |message: &Message| message.made + if lags { messages::STALE } else { 0 };
        let is_there = |message: &&Message| !message.gone && scene.now >= appears(message);
        let mut messages = self.messages.iter().filter(is_there);
        let sought = messages.find(|m| look_up.seeks(&m.serial, &m.create_id, m.status.as_str()));
        sought.map_or(Found::Nothing, |message| {
            if message.others.is_some() {
                return Found::Others;
            }
            let version = if look_up.known.is_empty() { message.serial.clone() } else { message.latest() };
            Found::of(look_up, &message.create_id, message.serial.clone(), Some(version), message.supersedes.as_deref())
        })
    }

    /// The message of a serial.
    pub(super) fn named(&self, serial: Option<&Serial>) -> Option<&Message> {
        self.by_serial.get(serial?).map(|m| &self.messages[*m])
    }

    /// The message that a create made: of several the one that readers are to look at.
    pub(super) fn made(&self, create_id: &str) -> Option<&Message> {
        let mut all = self.messages.iter().filter(|message| *message.create_id == *create_id && !message.gone);
        let shown = all.clone().find(|message| message.status != Status::Superseded);
        shown.or_else(|| all.next()).or_else(|| self.messages.iter().rfind(|message| *message.create_id == *create_id))
    }
}
