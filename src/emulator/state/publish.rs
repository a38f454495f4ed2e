//! Operations: what is taken, what is refused, what is answered, and which fault strikes.

use std::time::Duration;

use crate::ably::wire::{Data, Message, MessageVersion, message_action};

use super::{State, unqualified, valid_name};
use crate::emulator::channel::Frame;
use crate::emulator::connection::Answer;
use crate::emulator::errors::{
    Failure, channel_rate, connection_rate, failure, injected, no_such_message, not_mutable, too_large,
};
use crate::emulator::faults::DropAs;
use crate::emulator::limits::TEXT_BYTES;
use crate::emulator::message::{self, Mutation};
use crate::emulator::rollup::Rolled;
use crate::emulator::serial;

/// Who publishes what, where.
#[derive(Debug)]
pub(in crate::emulator) struct Publish<'a> {
    /// The connection; 0 over REST.
    pub(in crate::emulator) connection: u64,
    pub(in crate::emulator) channel: &'a str,
    pub(in crate::emulator) messages: Vec<Message<'static>>,
    /// Ids of messages that have none begin with this.
    pub(in crate::emulator) id: String,
    pub(in crate::emulator) now_ms: u64,
}

/// What has become of a frame.
#[derive(Debug, Default)]
pub(in crate::emulator) struct Handled {
    /// What to answer, if anything.
    pub(in crate::emulator) answer: Option<Answer>,
    /// The connection is to drop, before the answer.
    pub(in crate::emulator) drop: Option<DropAs>,
    /// Appends wait to be joined.
    pub(in crate::emulator) flush: Option<Flush>,
    /// The frame was cut off by the drop and arrives so much later.
    pub(in crate::emulator) late: Option<Duration>,
}

/// Appends that wait to be joined, until when.
#[derive(Debug)]
pub(in crate::emulator) struct Flush {
    pub(in crate::emulator) connection: u64,
    pub(in crate::emulator) channel: String,
    pub(in crate::emulator) serial: String,
    pub(in crate::emulator) after: Duration,
}

type Applied = Result<(Vec<Option<String>>, Option<Flush>), Failure>;

impl State {
    /// A MESSAGE frame of a connection.
    pub(in crate::emulator) fn frame(&mut self, msg_serial: u64, publish: Publish<'_>) -> Handled {
        let number = publish.connection;
        let Some(connection) = self.connections.get_mut(&number) else { return Handled::default() };
        if msg_serial < connection.next_serial {
            self.stats.repeated += 1;
            return Handled { answer: connection.known_answer(msg_serial), ..Handled::default() };
        }
        connection.next_serial = msg_serial + 1;
        if self.strikes(self.faults.drop) {
            return self.cut_off(msg_serial, publish);
        }
        self.answer(msg_serial, publish)
    }

    /// The connection drops at a frame: half of the times before it is applied.
    fn cut_off(&mut self, msg_serial: u64, publish: Publish<'_>) -> Handled {
        let drop = Some(self.next_drop());
        if self.random.bool() {
            return Handled { answer: None, drop, ..self.answer(msg_serial, publish) };
        }
        let late = Duration::from_millis(self.faults.late_apply);
        if late.is_zero()
            && let Some(connection) = self.connections.get_mut(&publish.connection)
        {
            // It never arrived: when it comes again after a resume, it is new.
            connection.next_serial = msg_serial;
        }
        Handled { drop, late: (!late.is_zero()).then_some(late), ..Handled::default() }
    }

    /// A frame that a drop had cut off arrives after all.
    pub(in crate::emulator) fn late_frame(&mut self, publish: Publish<'_>) -> Option<Flush> {
        self.apply(publish).ok()?.1
    }

    fn answer(&mut self, msg_serial: u64, publish: Publish<'_>) -> Handled {
        let number = publish.connection;
        let answers = publish.messages.len() as u64;
        let (answer, flush) = match self.apply_or_refuse(publish) {
            Ok((serials, flush)) => {
                self.stats.acked += answers;
                (Answer::Ack(serials), flush)
            }
            Err(failure) => {
                *self.stats.nacked.entry(failure.code).or_default() += 1;
                (Answer::Nack(failure), None)
            }
        };
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.keep(msg_serial, answer.clone());
        }
        let lost = self.strikes(self.faults.lose_ack);
        if lost || self.strikes(self.faults.skip_ack) {
            self.stats.unanswered += 1;
            let drop = lost.then(|| self.next_drop());
            return Handled { answer: None, drop, flush, late: None };
        }
        Handled { answer: Some(answer), drop: None, flush, late: None }
    }

    fn next_drop(&mut self) -> DropAs {
        self.stats.dropped += 1;
        self.drops += 1;
        let in_turn = [DropAs::Socket, DropAs::Close, DropAs::Disconnected];
        self.faults.drop_as.unwrap_or(in_turn[self.drops % in_turn.len()])
    }

    /// Refuses by chance, or applies.
    fn apply_or_refuse(&mut self, publish: Publish<'_>) -> Applied {
        let action = publish.messages.first().and_then(|message| message.action).unwrap_or(message_action::CREATE);
        let namespace = publish.channel.split_once(':').map_or("", |(namespace, _)| namespace);
        if let Some(code) = self.faults.reject_namespaces.get(namespace) {
            return Err(injected(*code));
        }
        if !self.faults.rejects(operation(action)) || !self.strikes(self.faults.reject) {
            return self.apply(publish);
        }
        let refusal = injected(self.faults.reject_code.unwrap_or(50003));
        if self.strikes(self.faults.reject_applied) {
            return self.apply(publish).and(Err(refusal));
        }
        if action == message_action::APPEND && self.strikes(self.faults.reject_fold) {
            let (_, name) = unqualified(publish.channel);
            let serial = publish.messages.first().and_then(|message| message.serial.as_deref()).unwrap_or_default();
            let stored = self.channels.get_mut(name).and_then(|channel| channel.messages.get_mut(serial));
            if let (Some(stored), Some(message)) = (stored, publish.messages.first()) {
                stored.fold(&mutation(message.clone()));
            }
        }
        Err(refusal)
    }

    /// Applies a create, an array of creates, or one mutation.
    pub(in crate::emulator) fn apply(&mut self, publish: Publish<'_>) -> Applied {
        let is_create = |message: &Message<'_>| message.action.unwrap_or(0) == message_action::CREATE;
        match publish.messages.as_slice() {
            [] => Err(failure(40000, 400, "No messages")),
            [one] if !is_create(one) => self.mutate(publish),
            messages if messages.iter().all(is_create) => self.create(publish).map(|serials| (serials, None)),
            _ => Err(failure(40000, 400, "A mutation must be alone in its frame")),
        }
    }

    fn create(&mut self, publish: Publish<'_>) -> Result<Vec<Option<String>>, Failure> {
        let (_, name) = unqualified(publish.channel);
        let now_ms = publish.now_ms;
        valid_name(name)?;
        self.may(publish.connection, "publish", name)?;
        let size: usize = publish.messages.iter().map(message::size).sum();
        self.fits(size)?;
        let explicit = valid_ids(&publish.messages)?;
        if explicit
            && let Some(first) = publish.messages.first().and_then(|message| message.id.as_deref())
            && let Some(known) = self.channel(name)?.recognise(first, now_ms)
        {
            self.stats.recognised += 1;
            let position = known.rsplit_once(':').map_or(known.as_str(), |(position, _)| position).to_owned();
            return Ok((0..publish.messages.len()).map(|index| Some(serial::of_message(&position, index))).collect());
        }
        self.charge(publish.connection, name, now_ms)?;
        self.text_bytes += size;
        let position = self.serials.next(now_ms);
        let (connection_id, client_id) = self.identity(publish.connection);
        let mut serials = Vec::with_capacity(publish.messages.len());
        for (index, mut message) in publish.messages.into_iter().enumerate() {
            self.stats.creates += 1;
            let serial = serial::of_message(&position, index);
            let id = message.id.take().map_or_else(|| format!("{}:{index}", publish.id), std::borrow::Cow::into_owned);
            message.id = Some(id.clone().into());
            message.client_id = message.client_id.take().or_else(|| client_id.clone().map(Into::into));
            message.connection_id = (!connection_id.is_empty()).then(|| connection_id.clone().into());
            message.timestamp = Some(now_ms);
            message.action = Some(message_action::CREATE);
            message.serial = Some(serial.clone().into());
            let version = MessageVersion {
                serial: Some(serial.clone().into()),
                timestamp: Some(now_ms),
                ..MessageVersion::default()
            };
            message.version = Some(version);
            let channel = self.channel(name)?;
            let stored = channel.insert(message, explicit.then_some(id), now_ms).latest().clone();
            channel.note(&position, &serial);
            self.deliver(name, publish.connection, &connection_id, &publish.id, &position, &stored, now_ms);
            serials.push(Some(serial));
        }
        Ok(serials)
    }

    fn mutate(&mut self, mut publish: Publish<'_>) -> Applied {
        let (_, name) = unqualified(publish.channel);
        let now_ms = publish.now_ms;
        let message = publish.messages.pop().unwrap_or_default();
        let action = message.action.unwrap_or_default();
        *match action {
            message_action::APPEND => &mut self.stats.appends,
            message_action::DELETE => &mut self.stats.deletes,
            message_action::UPDATE => &mut self.stats.updates,
            _ => return Err(failure(40000, 400, "Unknown message action")),
        } += 1;
        self.may(publish.connection, "message-update", name)?;
        let namespace = name.split_once(':').map_or("", |(namespace, _)| namespace);
        if self.config.immutable_namespaces.iter().any(|immutable| immutable == namespace) {
            return Err(not_mutable());
        }
        let serial = message.serial.as_deref().unwrap_or_default().to_owned();
        let mutation = mutation(message);
        let stored = self
            .channels
            .get_mut(name)
            .and_then(|channel| channel.messages.get_mut(&serial))
            .ok_or_else(no_such_message)?;
        stored.accepts(&mutation)?;
        let joins = action == message_action::APPEND && stored.rollup(publish.connection).is_waiting();
        let size =
            if action == message_action::APPEND { stored.size() + mutation.data_len() } else { mutation.data_len() };
        self.fits(size)?;
        if !joins {
            self.charge(publish.connection, name, now_ms)?;
        }
        self.text_bytes += mutation.data_len();
        match action {
            message_action::APPEND if publish.connection != 0 => self.append(name, &serial, mutation, &publish),
            _ => Ok((vec![self.publish_version(name, &serial, mutation, None, &publish)?], None)),
        }
    }

    /// Appends of a connection go through its rollup.
    fn append(&mut self, name: &str, serial: &str, mutation: Mutation, publish: &Publish<'_>) -> Applied {
        let window = self.connections.get(&publish.connection).map_or(Duration::ZERO, |connection| connection.rollup);
        let null_serials = self.faults.null_serials;
        let stored = self
            .channels
            .get_mut(name)
            .and_then(|channel| channel.messages.get_mut(serial))
            .ok_or_else(no_such_message)?;
        let rollup = stored.rollup(publish.connection);
        let serials = &mut self.serials;
        match rollup.append(mutation, publish.now_ms, window, || serials.next(publish.now_ms)) {
            Rolled::Now(mutation) => Ok((vec![self.publish_version(name, serial, *mutation, None, publish)?], None)),
            Rolled::Joined(version) => Ok((vec![(!null_serials).then_some(version)], None)),
            Rolled::Waits(after) => {
                let version = rollup.version().filter(|_| !null_serials).map(str::to_owned);
                let flush = Flush {
                    connection: publish.connection,
                    channel: name.to_owned(),
                    serial: serial.to_owned(),
                    after,
                };
                Ok((vec![version], Some(flush)))
            }
        }
    }

    /// The window of a rollup has ended.
    pub(in crate::emulator) fn flush(&mut self, flush: &Flush, now_ms: u64) {
        let stored = self.channels.get_mut(&flush.channel).and_then(|channel| channel.messages.get_mut(&flush.serial));
        let Some((mutation, version)) = stored.and_then(|stored| stored.rollup(flush.connection).flush(now_ms)) else {
            return;
        };
        let id = format!("rollup:{version}");
        let publish =
            Publish { connection: flush.connection, channel: &flush.channel, messages: Vec::new(), id, now_ms };
        if let Err(failure) = self.publish_version(&flush.channel, &flush.serial, mutation, Some(version), &publish) {
            tracing::debug!(code = failure.code, "emulator: a joined append was lost with its message");
        }
    }

    /// Makes a new version of a message and tells those attached.
    fn publish_version(
        &mut self,
        name: &str,
        serial: &str,
        mut mutation: Mutation,
        version: Option<String>,
        publish: &Publish<'_>,
    ) -> Result<Option<String>, Failure> {
        let update = mutation.action == message_action::UPDATE;
        let stale = update && self.strikes(self.faults.stale_updates);
        let silent = update && self.strikes(self.faults.null_updates);
        let mut version = version.unwrap_or_else(|| self.serials.next(publish.now_ms));
        if stale {
            version.replace_range(..1, " ");
        }
        let (connection_id, client_id) = self.identity(publish.connection);
        mutation.version.client_id = mutation.version.client_id.take().or_else(|| client_id.map(Into::into));
        let channel = self.channels.get_mut(name).ok_or_else(no_such_message)?;
        let stored = channel.messages.get_mut(serial).ok_or_else(no_such_message)?;
        if mutation.action != message_action::APPEND {
            stored.rollups.iter_mut().for_each(|(_, rollup)| rollup.discard());
        }
        let piece = stored.apply(mutation, version.clone(), publish.now_ms);
        channel.note(&version, serial);
        self.deliver(name, publish.connection, &connection_id, &publish.id, &version, &piece, publish.now_ms);
        Ok((!silent).then_some(version))
    }

    #[expect(clippy::too_many_arguments, reason = "it only builds the frame that they make up")]
    fn deliver(
        &mut self,
        channel: &str,
        publisher: u64,
        publisher_id: &str,
        id: &str,
        position: &str,
        piece: &Message<'static>,
        now_ms: u64,
    ) {
        let Some(found) = self.channels.get_mut(channel).filter(|found| !found.attachments.is_empty()) else { return };
        let frame = Frame { channel, publisher, publisher_id, id, position, now_ms };
        let (delivered, slow) = found.deliver(&frame, piece);
        self.stats.delivered += delivered;
        for number in slow {
            self.stats.slow += 1;
            // Its outbox is gone or full: without it the transport ends, and the client finds out what it missed.
            for channel in self.channels.values_mut() {
                channel.attachments.retain(|attachment| attachment.connection != number);
            }
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.outbox = tokio::sync::mpsc::channel(1).0;
            }
        }
    }

    fn may(&self, connection: u64, operation: &str, channel: &str) -> Result<(), Failure> {
        self.connections.get(&connection).map_or(Ok(()), |connection| connection.grant.allows(operation, channel))
    }

    fn identity(&self, connection: u64) -> (String, Option<String>) {
        let found = self.connections.get(&connection);
        let client_id = found.and_then(|connection| connection.grant.client_id.clone()).filter(|id| id != "*");
        (found.map(|connection| connection.id.clone()).unwrap_or_default(), client_id)
    }

    fn fits(&self, size: usize) -> Result<(), Failure> {
        let limit = self.config.max_message_size;
        if size > limit {
            return Err(too_large(size, limit));
        }
        if self.text_bytes + size > TEXT_BYTES {
            return Err(failure(40112, 401, "The emulator's memory is used up: start it anew"));
        }
        Ok(())
    }

    /// Counts one publish against the rates.
    fn charge(&mut self, connection: u64, channel: &str, now_ms: u64) -> Result<(), Failure> {
        let limit = self.faults.rate_limit;
        if let Some(connection) = self.connections.get_mut(&connection)
            && !connection.rate.take(limit, now_ms)
        {
            return Err(connection_rate());
        }
        let limit = self.faults.channel_rate_limit;
        if limit > 0 && !self.channel(channel)?.rate.take(limit, now_ms) {
            return Err(channel_rate());
        }
        Ok(())
    }
}

/// Whether the messages of a frame have ids of their own: all of one shape, or none.
fn valid_ids(messages: &[Message<'_>]) -> Result<bool, Failure> {
    let ids: Vec<&str> = messages.iter().filter_map(|message| message.id.as_deref()).collect();
    if ids.is_empty() {
        return Ok(false);
    }
    let base = ids[0].rsplit_once(':').map_or(ids[0], |(base, _)| base);
    let shaped = ids.iter().enumerate().all(|(index, id)| *id == format!("{base}:{index}"));
    if ids.len() == messages.len() && (shaped || ids.len() == 1) {
        return Ok(true);
    }
    Err(failure(40031, 400, "Invalid message id: all must be <base>:<index>"))
}

const fn operation(action: u8) -> &'static str {
    match action {
        message_action::CREATE => "create",
        message_action::APPEND => "append",
        message_action::UPDATE => "update",
        _ => "delete",
    }
}

fn mutation(message: Message<'static>) -> Mutation {
    let version = message.version.unwrap_or_default();
    Mutation {
        action: message.action.unwrap_or_default(),
        name: message.name,
        data: message
            .data
            .filter(|data| !matches!(data, Data::Text(text) if text.is_empty() && message.action == Some(2))),
        encoding: message.encoding,
        extras: message.extras,
        version: MessageVersion { serial: None, timestamp: None, ..version },
    }
}
