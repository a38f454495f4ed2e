//! The client's side of a connection: what is unanswered, what is written again, what is given up.

use std::collections::VecDeque;

use super::fault::Fault;
use super::scene::{Due, Kept, MS, SECOND, note};
use super::server::{Frame, Verdict};
use super::world::World;
use crate::engine::{Answer, Class, Doubt, Input, OpKind, Operation, Outcome, Rejection};

/// How long the server keeps the state of a connection without a transport.
const STATE_TTL: u64 = 120 * SECOND;
/// A connection with an unanswered create older than this is not resumed: the server may have forgotten the id of an earlier
/// try by the time the frame is written again.
const CREATE_RESENT_WITHIN: u64 = 15 * SECOND;
/// How long an answer may take while the connection is up.
const ACK_TIMEOUT: u64 = 30 * SECOND;

/// One of the pool's connections.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) up: bool,
    /// The server's connection.
    connection: Option<usize>,
    /// How many transports there have been.
    transport: u32,
    broken_at: u64,
    next: usize,
    unanswered: VecDeque<Waiting>,
    watched: bool,
}

#[derive(Debug)]
struct Waiting {
    frame: Frame,
    first_written: u64,
    written: u64,
}

impl Link {
    /// Whether it is the client's end of a connection.
    pub(super) fn carries(&self, connection: usize) -> bool {
        self.connection == Some(connection)
    }
}

impl World {
    /// There are as many links as the engines want connections.
    pub(super) fn open_links(&mut self) {
        while self.links.len() < self.shared.flow.connections() as usize {
            let l = self.links.len();
            self.links.push(Link::default());
            let time = self.scene.within(0..50 * MS);
            self.scene.at(time, Due::Connect(l, 0));
        }
    }

    /// An operation is written to its connection.
    pub(super) fn transmit(&mut self, operation: Operation) -> Kept {
        let l = operation.connection as usize;
        let link = &mut self.links[l];
        let frame = Frame { number: link.next, operation, resent: false };
        link.next += 1;
        let now = self.scene.now;
        link.unanswered.push_back(Waiting { frame: frame.clone(), first_written: now, written: now });
        if let Some(c) = link.connection {
            self.server.write(&mut self.scene, c, frame);
        }
        self.watch(l);
        Ok(())
    }

    /// The transport of a link breaks; the client does not know yet.
    pub(super) fn break_link(&mut self, l: usize) {
        let link = &mut self.links[l];
        let Some(c) = link.connection.filter(|c| link.up && self.server.connections[*c].attached) else { return };
        if self.scene.now >= self.scene.calm_from {
            return;
        }
        note!(self.scene, "link {l}: its transport breaks");
        self.server.cut(&mut self.scene, c);
        link.broken_at = self.scene.now;
        if self.scene.strikes(Fault::Outage) {
            self.outage_until = (self.scene.now + self.plan.outage_s * SECOND).min(self.scene.calm_from);
        }
        let delay = self.scene.pick([1, 50 * MS, 2 * SECOND]);
        let time = self.scene.within(0..delay);
        self.scene.at(time, Due::Noticed(l, self.links[l].transport));
    }

    /// The client finds that a transport is broken.
    pub(super) fn noticed(&mut self, l: usize, transport: u32) {
        let link = &mut self.links[l];
        if !link.up || link.transport != transport {
            return;
        }
        note!(self.scene, "link {l}: down");
        link.up = false;
        self.shared.flow.down(l as u32);
        let forgotten = link.broken_at + STATE_TTL;
        let delay = self.scene.pick([1, SECOND]);
        let time = self.scene.within(0..delay);
        self.scene.at(time, Due::Connect(l, transport));
        if self.scene.rng.bool() {
            self.scene.at(forgotten, Due::Forgotten(l, transport));
        }
    }

    /// The client tries to connect, with or without the state of the former transport.
    pub(super) fn connect(&mut self, l: usize, transport: u32) -> Kept {
        let link = &mut self.links[l];
        if link.up || link.transport != transport {
            return Ok(());
        }
        if self.scene.now < self.outage_until {
            let time = self.scene.within(SECOND..15 * SECOND);
            self.scene.at(time, Due::Connect(l, transport));
            return Ok(());
        }
        let now = self.scene.now;
        let old = |waiting: &Waiting| {
            waiting.frame.operation.kind == OpKind::Create && now >= waiting.first_written + CREATE_RESENT_WITHIN
        };
        let kept = now < link.broken_at + STATE_TTL && !link.unanswered.iter().any(old);
        let resumable = link.connection.filter(|_| kept && !self.scene.strikes(Fault::RefuseResume));
        self.links[l].transport += 1;
        match resumable {
            Some(c) => self.resume(l, c),
            None => {
                self.lose(l)?;
                let c = self.server.connect();
                self.links[l].connection = Some(c);
                self.links[l].next = 0;
                note!(self.scene, "link {l}: up as connection {c}");
            }
        }
        self.links[l].up = true;
        let name = format!("c{}", self.links[l].connection.unwrap_or_default());
        self.shared.flow.up(l as u32, name.into(), self.plan.limits.message_bytes_max, None);
        if self.scene.plays(Fault::Drop) {
            let delay = self.scene.pick([50 * MS, SECOND, 10 * SECOND]);
            let time = self.scene.within(0..delay);
            self.scene.at(time, Due::Break(l));
        }
        self.watch(l);
        self.tick_all()
    }

    fn resume(&mut self, l: usize, c: usize) {
        note!(self.scene, "link {l}: resumed, {} frames are written again", self.links[l].unanswered.len());
        self.server.resume(c);
        for waiting in &mut self.links[l].unanswered {
            waiting.frame.resent = true;
            waiting.written = self.scene.now;
            self.server.write(&mut self.scene, c, waiting.frame.clone());
        }
    }

    /// The state of a connection is gone: what was unanswered on it never will be, and what it carried has moved.
    fn lose(&mut self, l: usize) -> Kept {
        let had = self.links[l].connection.take().is_some();
        while let Some(waiting) = self.links[l].unanswered.pop_front() {
            self.answer(waiting.frame, Outcome::Unknown(Doubt::ConnectionLost))?;
        }
        if had {
            note!(self.scene, "link {l}: not resumed");
            self.checks.moved(self.scene.now, l as u32);
            for p in 0..self.engines.len() {
                self.apply(p, Input::Moved(l as u32))?;
            }
        }
        Ok(())
    }

    /// The server has forgotten the state of a link that is down.
    pub(super) fn forgotten(&mut self, l: usize, transport: u32) -> Kept {
        if self.links[l].up || self.links[l].transport != transport {
            return Ok(());
        }
        self.lose(l)
    }

    /// Answers have reached the client.
    pub(super) fn answers(&mut self, c: usize) -> Kept {
        let Some(l) = self.links.iter().position(|link| link.connection == Some(c)) else { return Ok(()) };
        for (number, verdict) in self.server.answers(&mut self.scene, c) {
            while let Some(front) = self.links[l].unanswered.front() {
                if front.frame.number > number {
                    break;
                }
                let Some(waiting) = self.links[l].unanswered.pop_front() else { break };
                let outcome = match &verdict {
                    _ if waiting.frame.number < number => Outcome::Unknown(Doubt::Skipped),
                    Verdict::Ack(serial) => Outcome::Acked { serial: serial.clone() },
                    Verdict::Nack(code) => Outcome::Rejected(rejection(*code)),
                    Verdict::Pending => continue,
                };
                self.answer(waiting.frame, outcome)?;
            }
        }
        self.watch(l);
        self.tick_blocked()
    }

    fn answer(&mut self, frame: Frame, outcome: Outcome) -> Kept {
        let operation = &frame.operation;
        if let Outcome::Acked { serial: Some(version) } = &outcome {
            self.server.told(operation.serial.as_ref().unwrap_or(version), version);
        }
        let again = if frame.resent { " (written twice)" } else { "" };
        note!(self.scene, "answer {}#{}: {outcome:?}{again}", operation.head.response_id, operation.id.seq);
        self.checks.answered(&self.scene, operation, &outcome, frame.resent)?;
        let answer = Answer { op: operation.id, connection: operation.connection, outcome, resent: frame.resent };
        self.apply(operation.id.partition as usize, Input::Answer(answer))
    }

    fn watch(&mut self, l: usize) {
        let link = &mut self.links[l];
        if let Some(front) = link.unanswered.front().filter(|_| link.up && !link.watched) {
            link.watched = true;
            self.scene.at(front.written + ACK_TIMEOUT, Due::Overdue(l));
        }
    }

    /// A frame may be overdue: drop and resume; if it was written again and is not answered either, give the connection up.
    pub(super) fn overdue(&mut self, l: usize) -> Kept {
        let link = &mut self.links[l];
        link.watched = false;
        let Some(front) = link.unanswered.front().filter(|_| link.up) else { return Ok(()) };
        if front.written + ACK_TIMEOUT > self.scene.now {
            self.watch(l);
            return Ok(());
        }
        let resent = front.frame.resent;
        note!(self.scene, "link {l}: an answer is overdue");
        if let Some(c) = link.connection.filter(|c| self.server.connections[*c].attached) {
            self.server.cut(&mut self.scene, c);
        }
        link.broken_at = self.scene.now;
        let transport = link.transport;
        self.noticed(l, transport);
        if resent { self.lose(l) } else { Ok(()) }
    }
}

fn rejection(code: u32) -> Rejection {
    let class = match code {
        40_111 => Class::Account,
        40_142 => Class::Token,
        40_400 => Class::MessageGone,
        42_910..=42_919 => Class::RateLimited,
        50_000..=59_999 => Class::Transient,
        80_000..=89_999 => Class::Connection,
        93_002 => Class::Channel,
        _ => Class::Operation,
    };
    let status_code = if code == 40_400 { 404 } else { u16::try_from(code / 100).unwrap_or(400) };
    Rejection { code, status_code, class, message: String::new() }
}
