//! The net without connections: each operation is a request of its own. Requests arrive in no order, and some are never
//! answered: then nobody knows what became of them, and they may still arrive.

use super::fault::Fault;
use super::frames;
use super::link::{Event, Net};
use super::scene::{Due, Kept, MS, SECOND, Scene, note};
use super::server::Verdict;
use crate::ably::encode::Encoder;
use crate::ably::fault;
use crate::ably::session::Details;
use crate::engine::{Answer, Doubt, OpId, OpKind, Operation, Outcome};

/// How long a request is waited for.
const ANSWER_WITHIN: u64 = 30 * SECOND;

/// A request without an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) link: usize,
    op: OpId,
    kind: OpKind,
}

impl Net {
    /// A lane for requests is up at once.
    pub(super) fn open_lane(&mut self, scene: &mut Scene, l: usize) {
        let details = Details {
            resumed: false,
            ably_id: "rest".into(),
            max_message_size: self.terms.size as u64,
            max_inbound_rate: None,
            client_id: None,
        };
        self.hear(scene, l, Event::Up(details));
    }

    /// An operation leaves.
    pub(super) fn request(&mut self, scene: &mut Scene, link: usize, operation: &Operation) -> Kept {
        let asked = Asked { link, op: operation.id, kind: operation.kind };
        if scene.now < self.outage_until {
            self.reply(scene, asked, Outcome::Rejected(fault::never_sent()));
            return Ok(());
        }
        let bytes = Encoder::new(self.terms.encoding).encode(operation, 0);
        let frame = frames::read(self.terms.encoding, &bytes)?;
        let (c, ..) = self.server.connect(scene, None);
        self.requests.insert(c, asked);
        self.server.write(scene, c, frame);
        let time = match scene.strikes(Fault::Drop) {
            true => scene.within(0..50 * MS),
            false => scene.now + ANSWER_WITHIN,
        };
        scene.at(time, Due::Overdue(c));
        Ok(())
    }

    /// A request is not waited for any longer.
    pub(super) fn overdue(&mut self, scene: &mut Scene, c: usize) {
        let Some(asked) = self.requests.remove(&c) else { return };
        note!(scene, "request {c}: no answer");
        self.server.cut(scene, c, self.terms.late);
        if scene.strikes(Fault::Outage) {
            self.outage_until = (scene.now + self.terms.outage).min(scene.calm_from);
        }
        self.reply(scene, asked, Outcome::Unknown(Doubt::NoAnswer));
    }

    /// The server answers a request. What it says of a failure of its own says nothing of what became of the operation.
    pub(super) fn answered(&mut self, scene: &mut Scene, c: usize) {
        let Some((_, verdict)) = self.server.answers(scene, c).pop() else { return };
        let Some(asked) = self.requests.remove(&c) else { return };
        let outcome = match verdict {
            Verdict::Pending => return,
            Verdict::Ack(None) if asked.kind == OpKind::Create => Outcome::Unknown(Doubt::NoSerial),
            Verdict::Ack(serial) => Outcome::Acked { serial },
            Verdict::Nack(code) => match frames::info(code) {
                info if info.status_code >= 500 => Outcome::Unknown(Doubt::NoAnswer),
                info => Outcome::Rejected(fault::rejection(Some(&info))),
            },
        };
        self.reply(scene, asked, outcome);
    }

    /// The requests of a process that have no answer yet.
    pub(super) fn asked_by(&self, owner: usize) -> Vec<usize> {
        let is_its = |asked: &Asked| self.links[asked.link].owner == owner;
        let mut its: Vec<_> = self.requests.iter().filter(|(_, asked)| is_its(asked)).map(|(c, _)| *c).collect();
        its.sort_unstable();
        its
    }

    fn reply(&mut self, scene: &mut Scene, asked: Asked, outcome: Outcome) {
        let connection = self.links[asked.link].number;
        let answer = Answer { op: asked.op, connection, outcome, resent: false };
        self.hear(scene, asked.link, Event::Answer(answer));
    }
}
