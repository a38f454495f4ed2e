//! The client's side: sessions, their transports, and the way between them and the engines, which may take a while.

use std::collections::VecDeque;
use std::sync::Arc;

use super::fault::Fault;
use super::frames;
use super::scene::{Due, Kept, MS, SECOND, hold, note};
use super::world::World;
use crate::ably::fault::Error;
use crate::ably::session::{Action, Details, Session, Settings};
use crate::engine::{Answer, Input, Operation, Outcome, Time};

/// One of the pool's connections.
pub(super) struct Link {
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
enum Event {
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

impl World {
    /// There are as many links as the engines want connections.
    pub(super) fn open_links(&mut self) -> Kept {
        while self.links.len() < self.shared.flow.connections() as usize {
            let l = self.links.len();
            let settings = Settings {
                connection: l as u32,
                encoding: self.plan.encoding,
                ack_timeout: std::time::Duration::from_secs(30),
                trust_resume: false,
                seed: self.plan.seed,
            };
            self.links.push(Link {
                session: Session::new(settings, Time(self.scene.now)),
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
            self.with_session(l, Session::tick)?;
        }
        Ok(())
    }

    /// An operation is on its way to its connection.
    pub(super) fn transmit(&mut self, operation: Operation) -> Kept {
        let l = operation.connection as usize;
        let slow = self.scene.strikes(Fault::Lag);
        let link = &mut self.links[l];
        if slow && link.commands.is_empty() {
            let time = self.scene.within(0..20 * MS);
            self.scene.at(time, Due::Told(l));
        }
        let now = slow || !link.commands.is_empty();
        link.commands.push_back(operation);
        if now { Ok(()) } else { self.told(l) }
    }

    /// Operations have reached their connection.
    pub(super) fn told(&mut self, l: usize) -> Kept {
        while let Some(operation) = self.links[l].commands.pop_front() {
            self.with_session(l, |session, now, actions| session.send(now, &operation, actions))?;
            let double = self.operations.insert(operation.id, operation);
            hold!(double.is_none(), "I4: an operation is sent twice");
        }
        Ok(())
    }

    /// Time has passed for a session.
    pub(super) fn tick_link(&mut self, l: usize) -> Kept {
        // What has ended is begun anew at once, so it may ask twice.
        let is_due = |link: &Link, now| link.deadline.is_some_and(|deadline| deadline.0 <= now);
        for _ in 0..4 {
            self.with_session(l, Session::tick)?;
            if !is_due(&self.links[l], self.scene.now) {
                return Ok(());
            }
        }
        hold!(false, "I12: session {l} asks for a tick at a time that has passed");
        Ok(())
    }

    /// Lets a session decide, and does what it asks for.
    fn with_session(&mut self, l: usize, decide: impl FnOnce(&mut Session, Time, &mut Vec<Action>)) -> Kept {
        let link = &mut self.links[l];
        let mut actions = std::mem::take(&mut link.actions);
        decide(&mut link.session, Time(self.scene.now), &mut actions);
        for action in actions.drain(..) {
            match action {
                Action::Connect { resume, .. } => self.open(l, resume),
                Action::Write(bytes) => {
                    let frame = frames::read(self.plan.encoding, &bytes)?;
                    if let (Transport::Open, Some(c)) = (self.links[l].transport, self.links[l].connection) {
                        self.server.write(&mut self.scene, c, frame);
                    }
                }
                Action::Hangup => self.hang_up(l),
                Action::Answer(answer) => self.hear(l, Event::Answer(answer)),
                Action::Up(details) => self.hear(l, Event::Up(details)),
                Action::Down(_) => self.hear(l, Event::Down),
                Action::Lost => self.hear(l, Event::Lost),
                Action::Notice(_) | Action::Fatal(_) | Action::Closed => {}
            }
        }
        let link = &mut self.links[l];
        link.actions = actions;
        link.deadline = link.session.next_deadline();
        Ok(())
    }

    fn open(&mut self, l: usize, resume: Option<Arc<str>>) {
        self.hang_up(l);
        let link = &mut self.links[l];
        link.transport = Transport::Opening;
        link.transports += 1;
        link.key = resume;
        let transport = link.transports;
        let delay = self.scene.pick([MS, 50 * MS]);
        let time = self.scene.within(0..delay);
        self.scene.at(time, Due::Opened(l, transport));
    }

    /// An attempt to open a transport is over.
    pub(super) fn opened(&mut self, l: usize, transport: u32) -> Kept {
        let link = &mut self.links[l];
        if link.transports != transport || link.transport != Transport::Opening {
            return Ok(());
        }
        if self.scene.now < self.outage_until {
            link.transport = Transport::None;
            let reason = Error::Unreachable { host: String::new(), port: 0, reason: String::new() };
            return self.with_session(l, |session, now, actions| session.disconnected(now, reason, actions));
        }
        let key = link.key.as_deref().and_then(frames::of_key);
        let (c, times, refused) = self.server.connect(&mut self.scene, key);
        note!(self.scene, "link {l}: connection {c}, transport {times}{}", if refused { ", not resumed" } else { "" });
        let link = &mut self.links[l];
        link.transport = Transport::Open;
        link.connection = Some(c);
        if self.scene.plays(Fault::Drop) {
            let delay = self.scene.pick([50 * MS, SECOND, 10 * SECOND]);
            let time = self.scene.within(0..delay);
            self.scene.at(time, Due::Break(l));
        }
        let size = self.plan.limits.message_bytes_max;
        let frame = frames::connected(self.plan.encoding, c, times, refused, size);
        self.with_session(l, |session, now, actions| session.receive(now, &frame, actions))
    }

    /// The client ends a transport.
    fn hang_up(&mut self, l: usize) {
        let link = &mut self.links[l];
        if let (Transport::Open, Some(c)) = (link.transport, link.connection)
            && self.server.connections[c].attached
        {
            self.server.cut(&mut self.scene, c);
        }
        self.links[l].transport = Transport::None;
    }

    /// The transport of a link breaks; the client does not know yet.
    pub(super) fn break_link(&mut self, l: usize) {
        let link = &self.links[l];
        let Some(c) = link.connection.filter(|c| link.carries(*c) && self.server.connections[*c].attached) else {
            return;
        };
        if self.scene.now >= self.scene.calm_from {
            return;
        }
        note!(self.scene, "link {l}: its transport breaks");
        self.server.cut(&mut self.scene, c);
        if self.scene.strikes(Fault::Outage) {
            self.outage_until = (self.scene.now + self.plan.outage_s * SECOND).min(self.scene.calm_from);
        }
        let delay = self.scene.pick([1, 50 * MS, 2 * SECOND]);
        let time = self.scene.within(0..delay);
        self.scene.at(time, Due::Noticed(l, self.links[l].transports));
    }

    /// The client finds that a transport is broken.
    pub(super) fn noticed(&mut self, l: usize, transport: u32) -> Kept {
        let link = &mut self.links[l];
        if link.transport != Transport::Open || link.transports != transport {
            return Ok(());
        }
        let last_words = match self.scene.rng.u8(..6) {
            0 => Some(frames::disconnected(self.plan.encoding, self.scene.pick([80_003, 40_142, 50_003]))),
            _ => None,
        };
        self.with_session(l, |session, now, actions| {
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
    pub(super) fn answers(&mut self, c: usize) -> Kept {
        let Some(l) = self.links.iter().position(|link| link.carries(c)) else { return Ok(()) };
        let given = self.server.answers(&mut self.scene, c);
        for frame in frames::answers(&mut self.scene, self.plan.encoding, &given) {
            self.with_session(l, |session, now, actions| session.receive(now, &frame, actions))?;
        }
        Ok(())
    }

    /// Something on a link is on its way to the engines.
    fn hear(&mut self, l: usize, event: Event) {
        self.links[l].events.push_back(event);
        if !self.links[l].hearing {
            self.links[l].hearing = true;
            let slow = self.scene.strikes(Fault::Lag);
            let time = if slow { self.scene.within(0..20 * MS) } else { self.scene.now };
            self.scene.at(time, Due::Heard(l));
        }
    }

    /// The engines hear what happened on a link.
    pub(super) fn heard(&mut self, l: usize) -> Kept {
        self.links[l].hearing = false;
        while let Some(event) = self.links[l].events.pop_front() {
            match event {
                Event::Answer(answer) => self.answer(answer)?,
                Event::Up(details) => {
                    note!(self.scene, "link {l}: up as {}", details.ably_id);
                    let bytes = usize::try_from(details.max_message_size).unwrap_or(usize::MAX);
                    self.shared.flow.up(l as u32, details.ably_id, bytes, None);
                }
                Event::Down => {
                    note!(self.scene, "link {l}: down");
                    self.shared.flow.down(l as u32);
                }
                Event::Lost => {
                    note!(self.scene, "link {l}: lost");
                    self.checks.moved(self.scene.now, l as u32);
                    for p in 0..self.engines.len() {
                        self.apply(p, Input::Moved(l as u32))?;
                    }
                }
            }
        }
        self.tick_blocked()
    }

    fn answer(&mut self, answer: Answer) -> Kept {
        let operation = self.operations.remove(&answer.op);
        hold!(operation.is_some(), "an operation is answered that was not sent, or that was answered before");
        let Some(operation) = operation else { return Ok(()) };
        if let Outcome::Acked { serial: Some(version) } = &answer.outcome {
            self.server.told(operation.serial.as_ref().unwrap_or(version), version);
        }
        let again = if answer.resent { " (written twice)" } else { "" };
        let name = (&operation.head.response_id, operation.head.part, operation.id.seq);
        note!(self.scene, "answer {}/{}#{}: {:?}{again}", name.0, name.1, name.2, answer.outcome);
        self.checks.answered(&self.scene, &operation, &answer.outcome, answer.resent)?;
        self.apply(operation.id.partition as usize, Input::Answer(answer))
    }
}
