//! What goes out: every operation, and what its answer means for the message (I2, I9, I10, I11 and the rules R1–R9).

use super::checks::{Checks, Instance};
use super::scene::{Kept, Scene, hold};
use crate::engine::{Class, Doubt, OpKind, Operation, Outcome, ReconcileWhen, Status};

impl Checks {
    /// An operation is sent.
    pub(super) fn sent(&mut self, scene: &Scene, operation: &Operation) -> Kept {
        let head = &operation.head;
        let i = self.current.iter().find(|((id, part), _)| **id == *head.response_id && *part == head.part);
        let Some(i) = i.map(|(_, i)| *i) else {
            hold!(false, "an operation names {}, which nobody does", head.response_id);
            return Ok(());
        };
        let name = self.instances[i].name();
        hold!(self.instances[i].settled.is_none(), "I11: {name} is settled, but an operation names it");
        hold!(head.channel.starts_with("ai:"), "I10: {} is not allowed", head.channel);
        let repeats = operation.kind == OpKind::Create && self.instances[i].create.is_some() && !self.instances[i].gone;
        if operation.status == Status::Abandoned && self.instances[i].ended.is_none() && !repeats {
            self.abandoned(scene, &self.instances[i])?;
            self.instances[i].ended = Some(Status::Abandoned);
        }
        self.take_permit(operation)?;
        let when = self.plan.when;
        let instance = &mut self.instances[i];
        instance.sends(scene, operation, when)?;
        instance.connection = Some(operation.connection);
        instance.operations += 1;
        instance.updates += u32::from(operation.kind == OpKind::Update);
        instance.terminal_sent |= instance.ended == Some(operation.status);
        instance.in_flight.push((operation.id.seq, operation.kind, operation.data.len()));
        instance.kinds.push(operation.kind);
        instance.outcomes.push(None);
        Ok(())
    }

    fn take_permit(&mut self, operation: &Operation) -> Kept {
        let c = operation.connection as usize;
        if self.in_flight.len() <= c {
            self.in_flight.resize(c + 1, (0, 0));
        }
        let limits = &self.plan.limits;
        hold!(operation.connection < limits.connections_max, "I9: there is no connection {c}");
        let (operations, bytes) = &mut self.in_flight[c];
        *bytes += operation.data.len();
        hold!(*operations < limits.in_flight_operations, "I9: too many operations in flight on connection {c}");
        hold!(*operations == 0 || *bytes <= limits.in_flight_bytes, "I9: too many bytes in flight on connection {c}");
        *operations += 1;
        Ok(())
    }

    /// An operation has its outcome.
    pub(super) fn answered(&mut self, scene: &Scene, operation: &Operation, outcome: &Outcome, resent: bool) -> Kept {
        let (operations, bytes) = &mut self.in_flight[operation.connection as usize];
        *operations -= 1;
        *bytes -= operation.data.len();
        let (id, part) = (&operation.head.response_id, operation.head.part);
        let i = self.current.iter().find(|((other, n), _)| **other == **id && *n == part).map(|(_, i)| *i);
        let settling = self.plan.settling();
        if let Some(i) = i {
            let instance = &mut self.instances[i];
            instance.in_flight.retain(|(seq, ..)| *seq != operation.id.seq);
            instance.outcome(scene.now, operation, outcome, resent, settling);
        }
        Ok(())
    }

    /// A connection was lost and not resumed.
    pub(super) fn moved(&mut self, now: u64, connection: u32) {
        let quiet_until = now + self.plan.settling();
        for instance in &mut self.instances {
            if instance.connection == Some(connection)
                && instance.serial.is_some()
                && instance.settled.is_none()
                && !instance.gone
            {
                instance.moved = true;
                instance.quiet_until = quiet_until;
            }
        }
    }

    /// The message of a create that was long in doubt has been found.
    pub(super) fn found(&mut self, create_id: &str, serial: &crate::engine::Serial) {
        let is_its = |instance: &&mut Instance| {
            let create = instance.create.as_ref().filter(|_| instance.settled.is_none());
            create.is_some_and(|create| *create.head.create_id == *create_id)
        };
        if let Some(instance) = self.instances.iter_mut().find(is_its) {
            instance.serial = Some(serial.clone());
            instance.version = Some(serial.clone());
            instance.tainted = true;
        }
    }
}

impl Instance {
    fn sends(&mut self, scene: &Scene, operation: &Operation, when: ReconcileWhen) -> Kept {
        let name = self.name();
        hold!(
            operation.id.seq == self.operations,
            "I4: operation {} of {name} has number {}",
            self.operations,
            operation.id.seq
        );
        if operation.kind == OpKind::Create {
            return self.sends_create(operation);
        }
        hold!(self.serial.is_some() && operation.serial == self.serial, "{name}: an operation on another message");
        let head = self.create.as_ref().map(|create| &create.head);
        hold!(head == Some(&operation.head), "R18: {name}: the headers differ from the create's");
        let expected = self.ended.unwrap_or(Status::Streaming);
        hold!(operation.status == expected, "R18: {name}: status {:?}, not {expected:?}", operation.status);
        let updating = self.in_flight.iter().any(|(_, kind, _)| *kind == OpKind::Update);
        if operation.kind == OpKind::Append {
            hold!(!self.tainted, "I2: an append to {name}, which is tainted");
            hold!(!self.moved, "R8: an append to {name}, which changed connection");
            hold!(!updating, "I2: an append to {name}, whose repair is unanswered");
            hold!(!self.terminal_sent, "I2: an append to {name}, which has ended");
            let piece = &*operation.data;
            let goes_on = self.text[self.sent..].starts_with(piece);
            hold!(goes_on, "P4: {name}: {piece:?} is not what follows after {} bytes", self.sent);
            self.sent += piece.len();
            hold!(!expected.is_terminal() || self.sent == self.text.len(), "{name}: it ends before its text does");
            return Ok(());
        }
        hold!(self.in_flight.is_empty(), "I2: an update of {name} with operations in flight");
        hold!(*operation.data == *self.text, "{name}: an update with another text: {:?}", operation.data);
        hold!(scene.now >= self.quiet_until, "R8: an update of {name} before late frames have landed");
        let allowed =
            !self.tainted || when == ReconcileWhen::Eager || (when == ReconcileWhen::AtEnd && self.ended.is_some());
        hold!(allowed, "{name}: an update against the policy {when:?}");
        self.sent = self.text.len();
        self.outdated = false;
        Ok(())
    }

    fn sends_create(&mut self, operation: &Operation) -> Kept {
        let name = self.name();
        hold!(self.in_flight.is_empty(), "R9: a create of {name} with operations in flight");
        hold!(self.serial.is_none() || self.gone, "R9: {name} is created though it is there");
        match &self.create {
            Some(first) if !self.gone => {
                let same =
                    first.head == operation.head && first.data == operation.data && first.status == operation.status;
                hold!(same, "R9: {name}: the create is repeated with a difference");
            }
            former => {
                let anew = former.as_ref().is_none_or(|former| former.head.create_id != operation.head.create_id);
                hold!(anew, "R3: {name}: an id used again for another message");
                hold!(*operation.data == *self.text, "{name}: a create with another text: {:?}", operation.data);
                let superseded = former.as_ref().and_then(|_| self.serial.clone());
                hold!(operation.head.supersedes == superseded, "R19: {name}: it supersedes {superseded:?}");
                self.sent = self.text.len();
                self.create = Some(operation.clone());
                self.terminal_sent = false;
                self.doubtful = false;
                self.outdated = false;
            }
        }
        if self.gone {
            (self.gone, self.serial, self.version) = (false, None, None);
        }
        Ok(())
    }

    fn outcome(&mut self, now: u64, operation: &Operation, outcome: &Outcome, resent: bool, settling: u64) {
        let word = match outcome {
            Outcome::Acked { serial: None } if operation.kind == OpKind::Create => "unknown",
            Outcome::Acked { .. } => "acked",
            Outcome::Rejected(_) => "rejected",
            Outcome::Unknown(_) => "unknown",
        };
        self.outcomes[operation.id.seq as usize] = Some(word);
        if matches!(outcome, Outcome::Unknown(Doubt::ConnectionLost)) {
            self.quiet_until = now + settling;
        }
        let version = match outcome {
            Outcome::Acked { serial } => serial.clone(),
            Outcome::Rejected(_) | Outcome::Unknown(_) => None,
        };
        let newest = version.is_some() && version > self.version;
        if newest {
            self.version.clone_from(&version);
        }
        match (operation.kind, word) {
            (OpKind::Create, "acked") => {
                self.serial = version;
                let clean = !self.doubtful && !resent && !self.outdated;
                (self.tainted, self.moved) = (!clean, self.moved && !clean);
            }
            (OpKind::Create, _) => self.doubtful = true,
            (OpKind::Append, "acked") => self.tainted |= resent,
            (OpKind::Update, "acked") if newest && !resent => (self.tainted, self.moved) = (self.outdated, false),
            (OpKind::Append | OpKind::Update, _) => self.tainted = true,
        }
        if let Outcome::Rejected(rejection) = outcome {
            match rejection.class {
                Class::Operation | Class::MessageGone if operation.kind != OpKind::Append => self.refusals += 1,
                Class::Channel => self.channel_refused = self.channel_refused.or(Some(now)),
                _ => {}
            }
            self.gone |= rejection.class == Class::MessageGone && self.serial.is_some();
        } else if word == "acked" && !self.tainted && operation.kind != OpKind::Append {
            self.refusals = 0;
            self.channel_refused = None;
        }
    }
}
