//! A frame of operations: what is answered, and which fault strikes. What the operations do is in `apply`.

use std::time::Duration;

use crate::ably::wire::{ProtocolMessage, action, message_action};

use super::apply::{Applied, Flush, Publish};
use super::{State, unqualified};
use crate::emulator::connection::Answer;
use crate::emulator::errors::{Failure, failure, fatal_rate, injected};
use crate::emulator::faults::{DropAs, Odd, Resent};
use crate::emulator::message::{Mutation, Stored};

/// What has become of a frame.
#[derive(Debug, Default)]
pub(in crate::emulator) struct Handled {
    /// What to say before that.
    pub(in crate::emulator) said: Vec<ProtocolMessage<'static>>,
    /// What to answer, if anything.
    pub(in crate::emulator) answer: Option<Answer>,
    /// How to put it, if oddly.
    pub(in crate::emulator) odd: Option<Odd>,
    /// The connection is to drop, before the answer.
    pub(in crate::emulator) drop: Option<DropAs>,
    /// Appends wait to be joined.
    pub(in crate::emulator) flush: Option<Flush>,
    /// The connection is to end with this.
    pub(in crate::emulator) fatal: Option<Failure>,
    /// The frame was cut off by the drop and arrives so much later.
    pub(in crate::emulator) late: Option<(Duration, Publish)>,
}

/// What has become of a request.
#[derive(Debug)]
pub(in crate::emulator) struct Requested {
    pub(in crate::emulator) reply: Reply,
    /// Appends wait to be joined.
    pub(in crate::emulator) flush: Option<Flush>,
}

/// What whoever asked gets.
#[derive(Debug)]
pub(in crate::emulator) enum Reply {
    /// It is answered.
    Answer(Result<Vec<Option<String>>, Failure>),
    /// Its connection breaks before the answer. What it asks for may be done so much later.
    CutOff(Option<(Duration, Publish)>),
    /// It is not answered.
    Silence,
}

impl State {
    /// Operations that came as a request.
    pub(in crate::emulator) fn request(&mut self, publish: Publish) -> Requested {
        let can_be_lost = self.faults.loses(operation(action_of(&publish)));
        if can_be_lost && self.strikes("drop", self.faults.drop) {
            self.stats.dropped += 1;
            if self.random.bool() {
                let flush = self.settle(publish).ok().and_then(|(_, flush)| flush);
                return Requested { reply: Reply::CutOff(None), flush };
            }
            return Requested { reply: Reply::CutOff(self.late(publish)), flush: None };
        }
        let (answer, flush) = match self.settle(publish) {
            Ok((serials, flush)) => (Ok(serials), flush),
            Err(failure) => (Err(failure), None),
        };
        let reply = self.reply(answer, can_be_lost);
        Requested { reply, flush }
    }

    fn reply(&mut self, answer: Result<Vec<Option<String>>, Failure>, can_be_lost: bool) -> Reply {
        if can_be_lost && self.strikes("lose-ack", self.faults.lose_ack) {
            self.stats.unanswered += 1;
            return Reply::CutOff(None);
        }
        if can_be_lost && self.strikes("skip-ack", self.faults.skip_ack) {
            self.stats.unanswered += 1;
            return Reply::Silence;
        }
        Reply::Answer(answer)
    }

    /// A MESSAGE frame of a connection.
    pub(in crate::emulator) fn frame(&mut self, msg_serial: u64, publish: Publish) -> Handled {
        let fatal_limit = self.faults.fatal_rate_limit;
        let Some(connection) = self.connections.get_mut(&publish.by.connection) else { return Handled::default() };
        if !connection.raw_rate.take(fatal_limit, publish.now_ms) {
            self.stats.strike("fatal-rate-limit");
            self.stats.dropped += 1;
            let fatal = Some(fatal_rate(self.faults.fatal_code.unwrap_or(42921)));
            return Handled { fatal, ..Handled::default() };
        }
        if msg_serial < connection.next_serial {
            let known = connection.known_answer(msg_serial);
            return self.frame_again(msg_serial, publish, known);
        }
        if msg_serial > connection.next_serial {
            let (expected, id) = (connection.next_serial, &connection.who.connection_id);
            tracing::warn!(connection = %id, expected, msg_serial, "emulator: a client leaves a gap in its serials");
        }
        connection.next_serial = msg_serial + 1;
        if self.faults.loses(operation(action_of(&publish))) && self.strikes("drop", self.faults.drop) {
            return self.cut_off(msg_serial, publish);
        }
        self.answer(msg_serial, publish)
    }

    /// A frame that is not even looked at.
    pub(in crate::emulator) fn refuse(&mut self, connection: u64, msg_serial: u64, failure: Failure) -> Handled {
        let Some(connection) = self.connections.get_mut(&connection) else { return Handled::default() };
        connection.next_serial = connection.next_serial.max(msg_serial + 1);
        let answer = Answer::Nack(failure);
        connection.keep(msg_serial, answer.clone());
        Handled { answer: Some(answer), ..Handled::default() }
    }

    /// A frame that was there before the connection was resumed.
    fn frame_again(&mut self, msg_serial: u64, publish: Publish, known: Option<Answer>) -> Handled {
        self.stats.repeated += 1;
        self.struck("resent");
        let answer = match self.faults.resent {
            Resent::Known => known,
            Resent::Again => return self.answer(msg_serial, publish),
            Resent::Silent => None,
            Resent::Refused => Some(Answer::Nack(failure(40000, 400, "This frame was there before"))),
        };
        Handled { answer, ..Handled::default() }
    }

    /// The connection drops at a frame: half of the times before it is applied.
    fn cut_off(&mut self, msg_serial: u64, publish: Publish) -> Handled {
        let drop = Some(self.next_drop());
        if self.random.bool() {
            return Handled { answer: None, drop, ..self.answer(msg_serial, publish) };
        }
        let number = publish.by.connection;
        let late = self.late(publish);
        if late.is_none()
            && let Some(connection) = self.connections.get_mut(&number)
        {
            // It never arrived: when it comes again after a resume, it is new.
            connection.next_serial = msg_serial;
        }
        Handled { drop, late, ..Handled::default() }
    }

    /// What was cut off, if it is to arrive after all, and after how long.
    fn late(&mut self, publish: Publish) -> Option<(Duration, Publish)> {
        let after = Duration::from_millis(self.faults.late_apply);
        let late = (!after.is_zero()).then_some((after, publish))?;
        self.stats.under_way += 1;
        Some(late)
    }

    /// A frame that a drop had cut off arrives after all.
    pub(in crate::emulator) fn late_frame(&mut self, publish: Publish) -> Option<Flush> {
        self.stats.under_way = self.stats.under_way.saturating_sub(1);
        self.struck("late-apply");
        self.apply(publish).ok()?.1
    }

    fn answer(&mut self, msg_serial: u64, publish: Publish) -> Handled {
        let number = publish.by.connection;
        let can_be_lost = self.faults.loses(operation(action_of(&publish)));
        let channel = publish.channel.clone();
        let (answer, flush) = match self.settle(publish) {
            Ok((serials, flush)) => (Answer::Ack(serials), flush),
            Err(failure) => (Answer::Nack(failure), None),
        };
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.keep(msg_serial, answer.clone());
        }
        let said = self.said_of_channel(channel, &answer);
        let lost = can_be_lost && self.strikes("lose-ack", self.faults.lose_ack);
        if lost || (can_be_lost && self.strikes("skip-ack", self.faults.skip_ack)) {
            self.stats.unanswered += 1;
            let drop = lost.then(|| self.next_drop());
            return Handled { said, drop, flush, ..Handled::default() };
        }
        let odd = self.strikes("odd-answers", self.faults.odd_answers).then_some(self.faults.odd);
        Handled { said, answer: Some(answer), odd, flush, ..Handled::default() }
    }

    /// What the server says of a channel because of an operation on it.
    fn said_of_channel(&mut self, channel: String, answer: &Answer) -> Vec<ProtocolMessage<'static>> {
        let mut said = Vec::new();
        if self.strikes("detach", self.faults.detach) {
            let error = Some(failure(90000, 503, "The channel is moving, as the faults say"));
            let channel = Some(channel.clone().into());
            said.push(ProtocolMessage { action: action::DETACHED, channel, error, ..ProtocolMessage::default() });
        }
        if let Answer::Nack(error) = answer
            && self.faults.channel_errors
            && self.faults.reject_namespaces.values().any(|code| *code == error.code)
        {
            let (channel, error) = (Some(channel.into()), Some(error.clone()));
            self.struck("channel-errors");
            said.push(ProtocolMessage { action: action::ERROR, channel, error, ..ProtocolMessage::default() });
        }
        said
    }

    fn next_drop(&mut self) -> DropAs {
        self.stats.dropped += 1;
        self.drops += 1;
        let in_turn = [DropAs::Socket, DropAs::Close, DropAs::Disconnected];
        self.faults.drop_as.unwrap_or(in_turn[self.drops % in_turn.len()])
    }

    /// Refuses by chance, or applies; and counts.
    fn settle(&mut self, publish: Publish) -> Applied {
        let count = publish.messages.len() as u64;
        let settled = self.apply_or_refuse(publish);
        match &settled {
            Ok(_) => self.stats.acked += count,
            Err(failure) => *self.stats.nacked.entry(failure.code).or_default() += 1,
        }
        settled
    }

    /// Refuses by chance, or applies.
    fn apply_or_refuse(&mut self, publish: Publish) -> Applied {
        let what = action_of(&publish);
        let (_, name) = unqualified(&publish.channel);
        let namespace = name.split_once(':').map_or("", |(namespace, _)| namespace);
        if let Some(code) = self.faults.reject_namespaces.get(namespace).copied() {
            self.struck("reject-namespaces");
            return Err(injected(code));
        }
        if !self.faults.rejects(operation(what)) || !self.is_refused(name, &publish) {
            return self.apply(publish);
        }
        let refusal = injected(self.faults.reject_code.unwrap_or(50003));
        if self.strikes("reject-applied", self.faults.reject_applied) {
            return self.apply(publish).and(Err(refusal));
        }
        if what == message_action::APPEND
            && self.strikes("reject-fold", self.faults.reject_fold)
            && let Some(message) = publish.messages.into_iter().next()
        {
            let serial = message.serial.clone().unwrap_or_default();
            self.fold(unqualified(&publish.channel).1, &serial, &Mutation::of(message));
        }
        Err(refusal)
    }

    /// Whether chance picks it, or has just picked another one of its message.
    fn is_refused(&mut self, name: &str, publish: &Publish) -> bool {
        let struck = self.strikes("reject", self.faults.reject);
        let run = self.faults.reject_run;
        let serial = publish.messages.first().and_then(|message| message.serial.as_deref());
        let Some(stored) = serial.filter(|_| run > 0).and_then(|serial| self.store.message_mut(name, serial).ok())
        else {
            return struck;
        };
        if struck {
            stored.refused_until = publish.now_ms + run;
        }
        let is_refused = publish.now_ms < stored.refused_until;
        if is_refused && !struck {
            self.struck("reject-run");
        }
        is_refused
    }

    /// The text of a refused append will appear with the next one.
    pub(super) fn fold(&mut self, name: &str, serial: &str, refused: &Mutation) {
        let fold = |stored: &mut Stored, _| {
            stored.fold(refused);
            None
        };
        if self.store.change(name, serial, fold).is_err() {
            tracing::debug!("emulator: the message that a refused append is to appear in is gone");
        }
    }
}

fn action_of(publish: &Publish) -> u8 {
    publish.messages.first().and_then(|message| message.action).unwrap_or(message_action::CREATE)
}

const fn operation(action: u8) -> &'static str {
    match action {
        message_action::CREATE => "create",
        message_action::APPEND => "append",
        message_action::UPDATE => "update",
        _ => "delete",
    }
}
