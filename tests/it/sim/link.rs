//! The net: sessions, their transports, the server behind them, and the way between them and the engines, which may take a
//! while. It carries for any number of processes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::fault::Fault;
use super::frames;
use super::requests::Asked;
use super::scene::{Broken, Due, Kept, MS, SECOND, Scene, hold, note};
use super::server::Server;
use crate::ably::fault::Error;
use crate::ably::session::{Action, Details, Session, Settings};
use crate::ably::wire::Encoding;
use crate::engine::{Answer, ConnectionId, OpId, Operation, Outcome, Pipelining, Time};

/// The net.
pub(super) struct Net {
    pub(super) links: Vec<Link>,
    pub(super) server: Server,
    pub(super) outage_until: u64,
    /// Operations that have no answer yet, by process.
    pub(super) operations: HashMap<(usize, OpId), Operation>,
    /// Requests without an answer, by the server's connection that stands for each.
    pub(super) requests: HashMap<usize, Asked>,
    pub(super) terms: Terms,
}

/// What a run has decided for the net.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) encoding: Encoding,
    pub(super) pipelining: Pipelining,
    pub(super) seed: u64,
    /// Bytes of the largest message.
    pub(super) size: usize,
    /// How long an outage lasts.
    pub(super) outage: u64,
    /// How long bytes of a transport that is gone live.
    pub(super) late: u64,
}

/// One of a process's connections.
pub(super) struct Link {
    /// The process.
    pub(super) owner: usize,
    pub(super) number: ConnectionId,
    /// Its process is dead.
    pub(super) over: bool,
    session: Session,
    actions: Vec<Action>,
    transport: Transport,
    /// How many transports there have been.
    transports: u32,
    /// The server's connection at the other end.
    connection: Option<usize>,
    key: Option<Arc<str>>,
    commands: VecDeque<Operation>,
    events: VecDeque<Event>,
    hearing: bool,
    pub(super) deadline: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    None,
    Opening,
    Open,
}

/// What the engines hear of a link.
pub(super) enum Event {
    Answer(Answer),
    Up(Details),
    Down,
    Lost,
}

impl Link {
    /// Whether it is the client's end of a connection, and a transport joins them.
    pub(super) fn carries(&self, connection: usize) -> bool {
        self.connection == Some(connection) && self.transport == Transport::Open
    }
}

impl Net {
    pub(super) fn new(server: Server, terms: Terms) -> Self {
        Self { links: Vec::new(), server, outage_until: 0, operations: HashMap::new(), requests: HashMap::new(), terms }
    }

    /// A process wants one connection more; gives the link's number.
    pub(super) fn open_link(&mut self, scene: &mut Scene, owner: usize, number: ConnectionId) -> Kept<usize> {
        let l = self.links.len();
        let settings = Settings {
            connection: number,
            encoding: self.terms.encoding,
            ack_timeout: std::time::Duration::from_secs(30),
            trust_resume: false,
            seed: self.terms.seed,
        };
        self.links.push(Link {
            owner,
            number,
            over: false,
            session: Session::new(settings, Time(scene.now)),
            actions: Vec::new(),
            transport: Transport::None,
            transports: 0,
            connection: None,
            key: None,
            commands: VecDeque::new(),
            events: VecDeque::new(),
            hearing: false,
            deadline: None,
        });
        match self.terms.pipelining {
            Pipelining::On => self.with_session(scene, l, Session::tick)?,
            Pipelining::Off => self.open_lane(scene, l),
        }
        Ok(l)
    }

    /// Messages may have so many bytes of text from now on, and `more` besides.
    pub(super) fn allow(&mut self, more: usize, text: usize) {
        self.terms.size = more + text;
        self.server.text_max = text;
    }

    /// An operation is on its way to its connection.
    pub(super) fn transmit(&mut self, scene: &mut Scene, l: usize, operation: Operation) -> Kept {
        let slow = scene.strikes(Fault::Lag);
        let link = &mut self.links[l];
        if slow && link.commands.is_empty() {
            let time = scene.within(0..20 * MS);
            scene.at(time, Due::Told(l));
        }
        let now = slow || !link.commands.is_empty();
        link.commands.push_back(operation);
        if now { Ok(()) } else { self.told(scene, l) }
    }

    /// Operations have reached their connection.
    pub(super) fn told(&mut self, scene: &mut Scene, l: usize) -> Kept {
        while let Some(operation) = self.links[l].commands.pop_front() {
            match self.terms.pipelining {
                Pipelining::On => {
                    self.with_session(scene, l, |session, now, actions| session.send(now, &operation, actions))?;
                }
                Pipelining::Off => self.request(scene, l, &operation)?,
            }
            let owner = self.links[l].owner;
            let double = self.operations.insert((owner, operation.id), operation);
            hold!(double.is_none(), "I4: an operation is sent twice");
        }
        Ok(())
    }

    /// Time has passed for a session.
    pub(super) fn tick_link(&mut self, scene: &mut Scene, l: usize) -> Kept {
        // What has ended is begun anew at once, so it may ask twice.
        let is_due = |link: &Link, now| link.deadline.is_some_and(|deadline| deadline.0 <= now);
        for _ in 0..4 {
            self.with_session(scene, l, Session::tick)?;
            if !is_due(&self.links[l], scene.now) {
                return Ok(());
            }
        }
        hold!(false, "I12: session {l} asks for a tick at a time that has passed");
        Ok(())
    }

    /// Lets a session decide, and does what it asks for.
    fn with_session(
        &mut self,
        scene: &mut Scene,
        l: usize,
        decide: impl FnOnce(&mut Session, Time, &mut Vec<Action>),
    ) -> Kept {
        let link = &mut self.links[l];
        let mut actions = std::mem::take(&mut link.actions);
        decide(&mut link.session, Time(scene.now), &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Connect { resume, .. } => self.open(scene, l, resume),
                Action::Write(bytes) => {
                    let frame = frames::read(self.terms.encoding, &bytes)?;
                    if let (Transport::Open, Some(c)) = (self.links[l].transport, self.links[l].connection) {
                        self.server.write(scene, c, frame);
                    }
                }
                Action::Hangup => self.hang_up(scene, l),
                Action::Answer(answer) => self.hear(scene, l, Event::Answer(answer)),
                Action::Up(details) => self.hear(scene, l, Event::Up(details)),
                Action::Down(_) => self.hear(scene, l, Event::Down),
                Action::Lost => self.hear(scene, l, Event::Lost),
                Action::Notice(_) | Action::Fatal(_) | Action::Closed | Action::Renew => {}
            }
        }
        let link = &mut self.links[l];
        link.actions = actions;
        link.deadline = link.session.next_deadline();
        Ok(())
    }

    fn open(&mut self, scene: &mut Scene, l: usize, resume: Option<Arc<str>>) {
        self.hang_up(scene, l);
        let link = &mut self.links[l];
        link.transport = Transport::Opening;
        link.transports += 1;
        link.key = resume;
        let transport = link.transports;
        let delay = scene.pick([MS, 50 * MS]);
        let time = scene.within(0..delay);
        scene.at(time, Due::Opened(l, transport));
    }

    /// An attempt to open a transport is over.
    pub(super) fn opened(&mut self, scene: &mut Scene, l: usize, transport: u32) -> Kept {
        let link = &mut self.links[l];
        if link.over || link.transports != transport || link.transport != Transport::Opening {
            return Ok(());
        }
        if scene.now < self.outage_until {
            link.transport = Transport::None;
            let reason = Error::Unreachable { host: String::new(), port: 0, reason: String::new() };
            return self.with_session(scene, l, |session, now, actions| session.disconnected(now, reason, actions));
        }
        let key = link.key.as_deref().and_then(frames::of_key);
        let (c, times, refused) = self.server.connect(scene, key);
        note!(scene, "link {l}: connection {c}, transport {times}{}", if refused { ", not resumed" } else { "" });
        let link = &mut self.links[l];
        link.transport = Transport::Open;
        link.connection = Some(c);
        if scene.plays(Fault::Drop) {
            let delay = scene.pick([50 * MS, SECOND, 10 * SECOND]);
            let time = scene.within(0..delay);
            scene.at(time, Due::Break(l));
        }
        let size = self.terms.size;
        let frame = frames::connected(self.terms.encoding, c, times, refused, size);
        self.with_session(scene, l, |session, now, actions| session.receive(now, &frame, actions))
    }

    /// The client ends a transport.
    fn hang_up(&mut self, scene: &mut Scene, l: usize) {
        let link = &mut self.links[l];
        if let (Transport::Open, Some(c)) = (link.transport, link.connection)
            && self.server.connections[c].attached
        {
            self.server.cut(scene, c, self.terms.late);
        }
        self.links[l].transport = Transport::None;
    }

    /// The way to one of the server's connections breaks.
    pub(super) fn break_off(&mut self, scene: &mut Scene, c: usize) {
        match self.links.iter().position(|link| link.carries(c)) {
            Some(l) => self.break_link(scene, l),
            None => self.overdue(scene, c),
        }
    }

    /// The transport of a link breaks; the client does not know yet.
    pub(super) fn break_link(&mut self, scene: &mut Scene, l: usize) {
        let link = &self.links[l];
        let Some(c) = link.connection.filter(|c| link.carries(*c) && self.server.connections[*c].attached) else {
            return;
        };
        if scene.now >= scene.calm_from {
            return;
        }
        note!(scene, "link {l}: its transport breaks");
        self.server.cut(scene, c, self.terms.late);
        if scene.strikes(Fault::Outage) {
            self.outage_until = (scene.now + self.terms.outage).min(scene.calm_from);
        }
        let delay = scene.pick([1, 50 * MS, 2 * SECOND]);
        let time = scene.within(0..delay);
        scene.at(time, Due::Noticed(l, self.links[l].transports));
    }

    /// The client finds that a transport is broken.
    pub(super) fn noticed(&mut self, scene: &mut Scene, l: usize, transport: u32) -> Kept {
        let link = &mut self.links[l];
        if link.over || link.transport != Transport::Open || link.transports != transport {
            return Ok(());
        }
        let last_words = match scene.rng.u8(..6) {
            0 => Some(frames::disconnected(self.terms.encoding, scene.pick([80_003, 40_142, 50_003]))),
            _ => None,
        };
        self.with_session(scene, l, |session, now, actions| {
            if let Some(frame) = last_words {
                session.receive(now, &frame, actions);
            }
            session.disconnected(now, Error::TransportLost(String::new()), actions);
        })?;
        if self.links[l].transports == transport {
            self.links[l].transport = Transport::None;
        }
        Ok(())
    }

    /// Answers have reached the client.
    pub(super) fn answers(&mut self, scene: &mut Scene, c: usize) -> Kept {
        if self.terms.pipelining == Pipelining::Off {
            self.answered(scene, c);
            return Ok(());
        }
        let Some(l) = self.links.iter().position(|link| link.carries(c)) else { return Ok(()) };
        let given = self.server.answers(scene, c);
        for frame in frames::answers(scene, self.terms.encoding, &given) {
            self.with_session(scene, l, |session, now, actions| session.receive(now, &frame, actions))?;
        }
        Ok(())
    }

    /// Something on a link is on its way to the engines.
    pub(super) fn hear(&mut self, scene: &mut Scene, l: usize, event: Event) {
        self.links[l].events.push_back(event);
        if !self.links[l].hearing {
            self.links[l].hearing = true;
            let slow = scene.strikes(Fault::Lag);
            let time = if slow { scene.within(0..20 * MS) } else { scene.now };
            scene.at(time, Due::Heard(l));
        }
    }

    /// A process is dead. What its connections had under way arrives within `late`, or not at all.
    pub(super) fn kill(&mut self, scene: &mut Scene, owner: usize, late: u64) {
        for c in self.asked_by(owner) {
            self.requests.remove(&c);
            self.server.cut(scene, c, late);
        }
        for l in 0..self.links.len() {
            let link = &mut self.links[l];
            if link.owner != owner || link.over {
                continue;
            }
            if let (Transport::Open, Some(c)) = (link.transport, link.connection)
                && self.server.connections[c].attached
            {
                self.server.cut(scene, c, late);
            }
            let link = &mut self.links[l];
            link.over = true;
            link.transport = Transport::None;
            link.deadline = None;
            link.commands.clear();
            link.events.clear();
        }
        self.operations.retain(|(other, _), _| *other != owner);
    }

    /// A process gives a link's connection up.
    pub(super) fn abandon(&mut self, scene: &mut Scene, l: usize) -> Kept {
        if self.terms.pipelining == Pipelining::Off {
            let mut asked = self.asked_by(self.links[l].owner);
            asked.retain(|c| self.requests[c].link == l);
            asked.into_iter().for_each(|c| self.overdue(scene, c));
            return Ok(());
        }
        self.with_session(scene, l, Session::abandon)
    }

    /// What has happened on a link, for its process to hear.
    pub(super) fn heard(&mut self, l: usize) -> VecDeque<Event> {
        self.links[l].hearing = false;
        std::mem::take(&mut self.links[l].events)
    }

    /// The process that waits for what comes on one of the server's connections.
    pub(super) fn owner(&self, c: usize) -> Option<usize> {
        let of_request = self.requests.get(&c).map(|asked| asked.link);
        let link = of_request.or_else(|| self.links.iter().position(|link| link.carries(c)))?;
        Some(self.links[link].owner)
    }

    /// The operation that an answer is about.
    pub(super) fn asked(&mut self, scene: &mut Scene, owner: usize, answer: &Answer) -> Kept<Operation> {
        let operation = self.operations.remove(&(owner, answer.op));
        let Some(operation) = operation else {
            return Err(Broken("an operation is answered that was not sent, or that was answered before".to_owned()));
        };
        if let Outcome::Acked { serial: Some(version) } = &answer.outcome {
            self.server.told(operation.serial.as_ref().unwrap_or(version), version);
        }
        let again = if answer.resent { " (written twice)" } else { "" };
        let name = (&operation.head.response_id, operation.head.part, operation.id.seq);
        note!(scene, "answer {}/{}#{}: {:?}{again}", name.0, name.1, name.2, answer.outcome);
        Ok(operation)
    }
}
