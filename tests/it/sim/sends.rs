//! What goes out: every operation, and what its answer means for the message (I2, I9, I10, I11 and the rules R1–R9).

use std::sync::Arc;

use super::checks::{Checks, Instance, Other};
use super::scene::{Kept, Scene, hold};
use crate::engine::{
    Class, Doubt, Head, Latest, LookUp, OpKind, Operation, Outcome, Pipelining, PublishName, ReadBack, ReconcileWhen,
    Rejection, Serial, Status,
};

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
        let before = self.instances[i].create.as_ref().filter(|_| operation.kind == OpKind::Create);
        let repeats = before.is_some_and(|create| create.head == operation.head) && !self.instances[i].gone;
        // A text that is mended only at its end shows by that that it has ended, in whichever of its messages.
        let is_last_word = operation.keeps_text || operation.status == Status::Failed;
        let mends = operation.kind == OpKind::Update
            && self.instances[i].tainted
            && !self.instances[i].is_whole
            && !is_last_word;
        let ends = operation.status == Status::Abandoned || (mends && self.plan.when == ReconcileWhen::AtEnd);
        if ends && self.instances[i].ended.is_none() && !repeats {
            self.abandoned(scene, &self.instances[i])?;
            self.instances[i].ended = Some(Status::Abandoned);
        }
        self.take_permit(operation)?;
        let alone = self.plan.pipelining == Pipelining::On || self.instances[i].in_flight.is_empty();
        hold!(alone, "R1: two operations of {name} are under way, which arrive in no order");
        let written = operation.serial.iter().chain(&head.supersedes).find(|serial| self.others.contains(*serial));
        hold!(written.is_none(), "R17: {name} writes to {written:?}, which somebody else was seen to have changed");
        let (when, rollup) = (self.plan.when, self.plan.rollup());
        let instance = &mut self.instances[i];
        let counted = instance.is_counted(scene.now, operation.kind, rollup);
        self.budgets.sent(scene.now, &self.plan, operation, counted)?;
        let changed = instance.connection.is_some_and(|connection| connection != operation.connection);
        instance.moved |= changed && instance.serial.is_some();
        let room = self.plan.text_max();
        hold!(instance.last_word.is_none(), "R15: {name} goes on after its last word");
        match operation.kind {
            _ if is_last_word => instance.says_last_word(scene, operation)?,
            OpKind::Publish => instance.publishes(scene, operation, when, room)?,
            OpKind::Create | OpKind::Append | OpKind::Update if instance.is_whole => {
                instance.sends_whole(scene.now, operation)?;
            }
            OpKind::Create | OpKind::Append | OpKind::Update => instance.sends(scene, operation, when)?,
        }
        instance.connection = Some(operation.connection);
        instance.operations += 1;
        instance.updates += u32::from(operation.kind == OpKind::Update && !is_last_word);
        let (ended, status) = (instance.ended, operation.status);
        if ended == Some(status) || matches!(status, Status::Continued | Status::Superseded) {
            (instance.terminal_sent, instance.closed) = (true, Some(status));
        }
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
        self.budgets.answered(scene.now, &self.plan, operation, outcome);
        self.reach.answered(outcome);
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

    /// A message has been read.
    pub(super) fn read(&mut self, read_back: &ReadBack, latest: &Latest) {
        if !matches!(latest, Latest::Deleted | Latest::Message { ours: false, .. }) {
            return;
        }
        self.others.insert(read_back.serial.clone());
        self.is_others(&read_back.head);
    }

    /// A message of a response was seen to be changed by somebody else.
    pub(super) fn is_others(&mut self, head: &Head) {
        let i = self.current.iter().find(|((id, part), _)| **id == *head.response_id && *part == head.part);
        let Some(instance) = i.map(|(_, i)| &mut self.instances[*i]) else { return };
        // It may have been one of that name before.
        let first = |create_id: &str| create_id.split('~').next().map(str::to_owned);
        let is_its = |create: &&Operation| first(&create.head.create_id) == first(&head.create_id);
        instance.is_others |= instance.settled.is_none() && instance.creates().iter().any(is_its);
    }

    /// Records of a response are gone that are to be read again.
    pub(super) fn input_lost(&mut self, now: u64, response_id: &str, part: u32) {
        let i = self.current.iter().find(|((id, n), _)| **id == *response_id && *n == part);
        i.into_iter().for_each(|(_, i)| self.instances[*i].refused_at = now);
    }

    /// The message of a create that was long in doubt has been found, or one that should not be there.
    pub(super) fn found(&mut self, look_up: &LookUp, serial: &Serial, version: Option<&Serial>) {
        let is_its = |instance: &&mut Instance| {
            let create = instance.create.as_ref().filter(|_| instance.settled.is_none());
            create.is_some_and(|create| create.head.create_id == look_up.head.create_id)
        };
        let Some(instance) = self.instances.iter_mut().find(is_its) else { return };
        if look_up.known.is_empty() {
            (instance.serial, instance.version) = (Some(serial.clone()), version.cloned());
            instance.tainted = true;
            return;
        }
        let Some(mut create) = instance.create.clone() else { return };
        instance.found = true;
        let (base, _) = look_up.head.create_id.rsplit_once('.').unwrap_or_default();
        let segment = look_up.head.segment + 1;
        let create_id = format!("{base}.{segment}").into();
        create.head = Arc::new(Head {
            segment,
            create_id,
            supersedes: None,
            prev: instance.serial.clone(),
            ..(*create.head).clone()
        });
        instance.others.push(Other { create, serial: Some(serial.clone()), version: version.cloned() });
    }
}

impl Instance {
    /// Whether an operation is published by itself: the first append is at once, those that come within the window after it
    /// together at its end.
    fn is_counted(&mut self, now: u64, kind: OpKind, rollup: u64) -> bool {
        if kind == OpKind::Append && self.published.is_some_and(|published| now < published) {
            return false;
        }
        self.published = match self.published.filter(|published| now < *published + rollup) {
            _ if kind != OpKind::Append => None,
            Some(published) => Some(published + rollup),
            None => Some(now),
        };
        true
    }

    fn sends(&mut self, scene: &Scene, operation: &Operation, when: ReconcileWhen) -> Kept {
        let name = self.name();
        hold!(self.tokens.is_none(), "{name}: {:?} among tokens", operation.kind);
        hold!(
            operation.id.seq == self.operations,
            "I4: operation {} of {name} has number {}",
            self.operations,
            operation.id.seq
        );
        let segment = self.create.as_ref().map_or(0, |create| create.head.segment);
        if operation.head.segment != segment {
            self.enters(operation, segment)?;
        }
        if operation.kind == OpKind::Create {
            return self.sends_create(operation);
        }
        hold!(self.serial.is_some() && operation.serial == self.serial, "{name}: an operation on another message");
        let prev = operation.head.prev.clone();
        let head = self.create.as_ref().map(|create| Head { prev, ..(*create.head).clone() });
        hold!(head.as_ref() == Some(&*operation.head), "R18: {name}: the headers differ from the create's");
        self.follows(operation)?;
        let expected = match operation.status {
            status @ (Status::Continued | Status::Superseded) => status,
            _ => self.ended.unwrap_or(Status::Streaming),
        };
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
            return self.goes_on(operation);
        }
        hold!(self.in_flight.is_empty(), "I2: an update of {name} with operations in flight");
        self.carries(operation)?;
        hold!(scene.now >= self.quiet_until, "R8: an update of {name} before late frames have landed");
        let allowed =
            !self.tainted || when == ReconcileWhen::Eager || (when == ReconcileWhen::AtEnd && self.ended.is_some());
        hold!(allowed, "{name}: an update against the policy {when:?}");
        self.outdated = false;
        Ok(())
    }

    /// It is given up on, which its readers are told; what they read stays as it is.
    fn says_last_word(&mut self, scene: &Scene, operation: &Operation) -> Kept {
        let name = self.name();
        hold!(operation.id.seq == self.operations, "I4: {name}: operation {} has another number", self.operations);
        hold!(self.in_flight.is_empty(), "R15: a last word of {name} with operations in flight");
        hold!(scene.now >= self.quiet_until, "R8: a last word of {name} before late frames have landed");
        hold!(operation.data.is_empty(), "R15: a last word of {name} with text");
        hold!(operation.keeps_text == self.tokens.is_none(), "R15: a last word of {name} without text replaces it");
        hold!(operation.serial.is_some() == self.tokens.is_none(), "R15: a last word of {name} on no message");
        let sum = operation.publish.as_ref().map(|publish| (publish.name, publish.seq, publish.pieces.len()));
        let stop = self.tokens.is_some().then_some((PublishName::Stop, self.token_offsets.len() as u64, 1));
        hold!(self.suspect || sum == stop, "R16: a last word of {name} is {sum:?}, not {stop:?}");
        self.last_word = Some((operation.clone(), false));
        Ok(())
    }

    /// The operation is about another message: the next one, or the first one again.
    fn enters(&mut self, operation: &Operation, left: u32) -> Kept {
        let (name, segment) = (self.name(), operation.head.segment);
        hold!(self.in_flight.is_empty(), "R13: {name} turns to message {segment} with operations in flight");
        let sent = self.sent;
        if let Some(create) = self.create.take() {
            let (serial, version) = (self.serial.take(), self.version.take());
            let is_there = serial.is_some() || !std::mem::take(&mut self.too_large);
            self.others.extend(is_there.then_some(Other { create, serial, version }));
        }
        let there = self.others.iter().position(|other| other.create.head.segment == segment);
        if segment == 0 {
            // It may have turned to one that was found before it went on, and have sent nothing there.
            hold!(self.recut || self.found, "R13: {name} goes back though its text is the same");
            (self.from, self.recut) = (0, false);
        } else {
            hold!(segment == left + 1, "R13: {name} turns from message {left} to {segment}");
            let is_over = self.terminal_sent && !self.tainted && !self.recut;
            hold!(is_over, "R13: {name} turns to message {segment} before the one before is right");
            let is_surplus = operation.status == Status::Superseded;
            hold!((self.closed == Some(Status::Continued)) != is_surplus, "R13: {name}: {:?}", operation.status);
            if is_surplus && self.closed != Some(Status::Superseded) {
                self.count = segment;
            }
            self.from = if is_surplus { self.text.len() } else { sent };
        }
        (self.sent, self.terminal_sent, self.closed, self.moved) = (self.from, false, None, false);
        (self.doubtful, self.tainted, self.outdated) = (false, there.is_some(), false);
        hold!(there.is_some() != (operation.kind == OpKind::Create), "R13: {name}: message {segment} is there or not");
        if let Some(at) = there {
            let Other { create, serial, version } = self.others.swap_remove(at);
            (self.create, self.serial, self.version) = (Some(create), serial, version);
        }
        Ok(())
    }

    /// A message names the one before.
    fn follows(&self, operation: &Operation) -> Kept {
        let name = self.name();
        let before = |other: &&Other| other.create.head.segment + 1 == operation.head.segment;
        let before = self.others.iter().find(before).and_then(|other| other.serial.clone());
        hold!(operation.head.prev == before, "R13: {name}: prev is {:?}, not {before:?}", operation.head.prev);
        Ok(())
    }

    /// A text is the one that the message should show.
    fn carries(&mut self, operation: &Operation) -> Kept {
        let (name, data) = (self.name(), &*operation.data);
        let right = self.text.get(self.from..).is_some_and(|text| text.starts_with(data));
        hold!(right, "{name}: {:?} with another text: {data:?}", operation.kind);
        self.sent = self.from + data.len();
        self.goes_on(operation)
    }

    /// A message ends where the text does, or else says that it goes on.
    fn goes_on(&self, operation: &Operation) -> Kept {
        let (name, left) = (self.name(), self.text.len() - self.sent);
        match operation.status {
            Status::Streaming => hold!(left <= 64, "{name}: {left} bytes are held back"),
            Status::Continued => hold!(left > 0 && self.sent > self.from, "{name}: it goes on with nothing"),
            _ => hold!(left == 0, "{name}: it ends before its text does"),
        }
        Ok(())
    }

    /// How many messages its text has.
    pub(super) fn shows(&self) -> u32 {
        let present = self.create.as_ref().map_or(0, |create| create.head.segment) + 1;
        if self.closed != Some(Status::Superseded) {
            return present;
        }
        self.count
    }

    fn sends_create(&mut self, operation: &Operation) -> Kept {
        let name = self.name();
        hold!(self.in_flight.is_empty(), "R9: a create of {name} with operations in flight");
        hold!(self.serial.is_none() || self.gone, "R9: {name} is created though it is there");
        match &self.create.clone() {
            Some(first) if !self.gone && std::mem::take(&mut self.too_large) => {
                hold!(first.head == operation.head, "R9: {name}: the create is repeated under another name");
                hold!(first.data.len() > operation.data.len(), "R13: {name}: too large again");
                self.carries(operation)?;
                (self.create, self.outdated) = (Some(operation.clone()), false);
            }
            Some(first) if !self.gone => {
                let same =
                    first.head == operation.head && first.data == operation.data && first.status == operation.status;
                hold!(same, "R9: {name}: the create is repeated with a difference");
            }
            former => {
                let anew = former.as_ref().is_none_or(|former| former.head.create_id != operation.head.create_id);
                hold!(anew, "R3: {name}: an id used again for another message");
                self.follows(operation)?;
                self.carries(operation)?;
                let superseded = former.as_ref().and_then(|_| self.serial.clone());
                hold!(operation.head.supersedes == superseded, "R19: {name}: it supersedes {superseded:?}");
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

    /// What the record of an operation is to say of it.
    fn word(&self, operation: &Operation, outcome: &Outcome) -> &'static str {
        let is_create = operation.kind == OpKind::Create;
        match outcome {
            Outcome::Acked { serial: None } | Outcome::Unknown(Doubt::NoSerial) if is_create && self.is_whole => {
                "unnamed"
            }
            Outcome::Acked { serial: None } if is_create => "unknown",
            Outcome::Acked { .. } => "acked",
            Outcome::Rejected(_) => "rejected",
            Outcome::Unknown(_) => "unknown",
        }
    }

    fn outcome(&mut self, now: u64, operation: &Operation, outcome: &Outcome, resent: bool, settling: u64) {
        let word = self.word(operation, outcome);
        self.outcomes[operation.id.seq as usize] = Some(word);
        if matches!(outcome, Outcome::Unknown(Doubt::ConnectionLost | Doubt::NoAnswer)) {
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
        if let Some((_, is_taken)) = &mut self.last_word {
            return *is_taken = newest && !resent;
        }
        match (operation.kind, word) {
            (OpKind::Create, "acked") => {
                self.serial = version;
                let clean = !self.doubtful && !resent && !self.outdated;
                (self.tainted, self.moved) = (!clean, self.moved && !clean);
            }
            (OpKind::Create, _) => {
                // One that was too large made nothing.
                self.too_large = matches!(outcome, Outcome::Rejected(Rejection { code: 40_009, .. }));
                self.doubtful |= !self.too_large;
                let is_it = |first: &Operation| first.head.create_id == operation.head.create_id;
                let firsts = self.wholes.iter_mut().filter(|(_, first, _)| is_it(first));
                firsts.for_each(|(.., too_large)| *too_large |= self.too_large);
            }
            (OpKind::Append, "acked") => self.tainted |= resent,
            (OpKind::Update, "acked") if newest && !resent => (self.tainted, self.moved) = (self.outdated, false),
            (OpKind::Append | OpKind::Update, _) => self.tainted = true,
            (OpKind::Publish, _) => return self.publish_outcome(now, operation, outcome, resent),
        }
        if let Outcome::Rejected(rejection) = outcome {
            match rejection.class {
                Class::Operation | Class::MessageGone if operation.kind != OpKind::Append => {
                    (self.refusals, self.refused_at) = (self.refusals + 1, now);
                }
                Class::Channel => self.channel_refused = self.channel_refused.or(Some(now)),
                _ => {}
            }
            if rejection.class == Class::MessageGone && self.closed == Some(Status::Superseded) {
                // That one was left over.
                self.tainted = false;
            } else {
                self.gone |= rejection.class == Class::MessageGone && self.serial.is_some();
            }
        } else if word == "acked" && !self.tainted && operation.kind != OpKind::Append {
            self.refusals = 0;
            self.channel_refused = None;
        }
    }
}
