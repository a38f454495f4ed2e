//! What operations do: creates, appends with their rollup, updates and deletes; and what subscribers get of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::ably::wire::{Data, Message, MessageVersion, message_action};

use super::{State, unqualified, valid_name};
use crate::emulator::auth::Grant;
use crate::emulator::channel::{Frame, Oddity};
use crate::emulator::connection::Publisher;
use crate::emulator::errors::{
    Failure, account_rate, channel_bandwidth, channel_rate, connection_rate, failure, not_attached_to_publish,
    not_mutable, too_large, too_many_channels,
};
use crate::emulator::faults::{Deleted, Faults, Known, SizeIn};
use crate::emulator::limits::MESSAGES_PER_FRAME;
use crate::emulator::message::{self, Manner, Mutation};
use crate::emulator::outbox::Outbox;
use crate::emulator::rollup::Rolled;
use crate::emulator::{serial, validate};

/// Who publishes what, where.
#[derive(Debug, Clone)]
pub(in crate::emulator) struct Publish {
    pub(in crate::emulator) by: Arc<Publisher>,
    pub(in crate::emulator) channel: String,
    pub(in crate::emulator) messages: Vec<Message<'static>>,
    /// Ids of messages that have none begin with this.
    pub(in crate::emulator) id: String,
    pub(in crate::emulator) now_ms: u64,
}

/// Appends that wait to be joined, until when.
#[derive(Debug)]
pub(in crate::emulator) struct Flush {
    by: Arc<Publisher>,
    channel: String,
    serial: String,
    pub(in crate::emulator) after: Duration,
}

/// The serials given, and appends that wait.
pub(super) type Applied = Result<(Vec<Option<String>>, Option<Flush>), Failure>;

/// What happened to a channel, where in it, when, and by whom.
struct Happened<'a> {
    by: &'a Publisher,
    channel: &'a str,
    id: &'a str,
    position: &'a str,
    now_ms: u64,
}

impl State {
    /// Applies a create, an array of creates, or one mutation.
    pub(in crate::emulator) fn apply(&mut self, mut publish: Publish) -> Applied {
        let is_create = |message: &Message<'_>| message.action.unwrap_or(0) == message_action::CREATE;
        match publish.messages.as_slice() {
            [] => Err(failure(40000, 400, "No messages")),
            messages if messages.len() > MESSAGES_PER_FRAME => Err(failure(40034, 400, "Too many messages")),
            messages if messages.iter().all(is_create) => self.create(publish).map(|serials| (serials, None)),
            [_] => {
                let message = publish.messages.pop().unwrap_or_default();
                self.mutate(publish, message)
            }
            _ => Err(failure(40000, 400, "A mutation must be alone in its frame")),
        }
    }

    fn create(&mut self, publish: Publish) -> Result<Vec<Option<String>>, Failure> {
        let Publish { by, channel, messages, id, now_ms } = publish;
        let (_, name) = unqualified(&channel);
        valid_name(name)?;
        by.grant.capability.allows("publish", name)?;
        self.attached_to_publish(&by, &channel)?;
        for message in &messages {
            validate::extras(message)?;
            validate::client_id(message, by.grant.client_id.as_deref())?;
        }
        let of_all = |unit| messages.iter().map(|message| message::size(message, unit)).sum();
        let size @ [units, _] = [self.faults.size_in, SizeIn::Bytes].map(of_all);
        self.fits(size)?;
        self.enters(&by, name, now_ms)?;
        let explicit = validate::ids(&messages)?;
        let serials = &mut self.serials;
        let channel = self.store.channel(name, || serials.next(now_ms))?;
        let first = messages.first().filter(|_| explicit).and_then(|message| message.id.as_deref());
        if let Some(known) = first.and_then(|first| channel.recognise(first, now_ms))
            && let Some(serials) = self.known_create(&known, messages.len(), now_ms)
        {
            return Ok(serials);
        }
        let count = if self.faults.count_each { messages.len() } else { 1 };
        if count > 1 {
            self.struck("count-each");
        }
        self.charge(&by, name, units, count, now_ms)?;
        if self.faults.immutable {
            self.struck("immutable");
        }
        let silent = self.strikes("null-creates", self.faults.null_creates) || self.faults.immutable;
        let position = self.serials.next(now_ms);
        let happened = Happened { by: &by, channel: name, id: &id, position: &position, now_ms };
        let (mut serials, mut watched) = (Vec::with_capacity(messages.len()), Vec::new());
        for (index, message) in messages.into_iter().enumerate() {
            let serial = serial::of_message(&position, index);
            watched.extend(self.create_one(&happened, index, &serial, message, explicit));
            serials.push((!silent).then_some(serial));
        }
        // All of it at once: who comes back behind a part of a position would never get the rest.
        if !watched.is_empty() {
            self.deliver(&happened, &watched);
        }
        Ok(serials)
    }

    /// What a create is answered whose id is known; nothing if it is to make another message.
    fn known_create(&mut self, known: &str, messages: usize, now_ms: u64) -> Option<Vec<Option<String>>> {
        self.struck("known-creates");
        let position = match self.faults.known_creates {
            Known::Serial => Some(serial::position(known).to_owned()),
            Known::Nothing => None,
            Known::Phantom => Some(self.serials.next(now_ms)),
            Known::Again => return None,
        };
        self.stats.recognised += 1;
        Some(serial::of_messages(position.as_deref(), messages))
    }

    /// Makes a message. Gives it, if somebody is attached.
    fn create_one(
        &mut self,
        at: &Happened<'_>,
        index: usize,
        serial: &str,
        mut message: Message<'static>,
        explicit: bool,
    ) -> Option<Message<'static>> {
        self.stats.creates += 1;
        let id = message.id.take().unwrap_or_else(|| format!("{}:{index}", at.id).into());
        message.id = Some(id.clone());
        message.client_id = message.client_id.take().or_else(|| identity(at.by));
        message.connection_id = Some(at.by.connection_id.clone().into()).filter(|_| at.by.connection != 0);
        message.timestamp = Some(at.now_ms);
        message.action = Some(message_action::CREATE);
        message.serial = Some(serial.to_owned().into());
        message.version = Some(MessageVersion {
            serial: Some(serial.to_owned().into()),
            timestamp: Some(at.now_ms),
            ..MessageVersion::default()
        });
        let channel = self.store.get_mut(at.channel);
        let watched = channel.is_some_and(|channel| {
            channel.note(at.position, serial);
            if explicit {
                channel.remember(id.into_owned(), serial, at.now_ms);
            }
            !channel.attachments.is_empty()
        });
        let copy = watched.then(|| message.clone());
        self.store.insert(at.channel, message);
        copy
    }

    fn mutate(&mut self, publish: Publish, message: Message<'static>) -> Applied {
        let Publish { by, channel, id, now_ms, .. } = publish;
        let (_, name) = unqualified(&channel);
        let action = message.action.unwrap_or_default();
        let (count, operation) = match action {
            message_action::APPEND => (&mut self.stats.appends, "message-update"),
            message_action::UPDATE => (&mut self.stats.updates, "message-update"),
            message_action::DELETE => (&mut self.stats.deletes, "message-delete"),
            _ => return Err(failure(40000, 400, "Unknown message action")),
        };
        *count += 1;
        // Who may not is told so, and not whether the message is there.
        by.grant.capability.allows_some(operation, name, by.grant.identity())?;
        self.attached_to_publish(&by, &channel)?;
        let namespace = name.split_once(':').map_or("", |(namespace, _)| namespace);
        if self.faults.immutable {
            self.struck("immutable");
            return Err(not_mutable());
        }
        if self.config.immutable_namespaces.iter().any(|immutable| immutable == namespace) {
            return Err(not_mutable());
        }
        validate::extras(&message)?;
        let serial = message.serial.as_deref().unwrap_or_default().to_owned();
        let mutation = Mutation::of(message);
        self.enters(&by, name, now_ms)?;
        self.may_change(&by, name, &serial, &mutation, operation, now_ms)?;
        let append = action == message_action::APPEND;
        let joins = append && self.store.message_mut(name, &serial)?.rollup(by.connection).is_waiting();
        if joins && self.faults.count_frames {
            self.struck("count-frames");
        }
        let joins = joins && !self.faults.count_frames;
        self.fits_with(name, &serial, &mutation)?;
        self.charge(&by, name, mutation.data_len(), usize::from(!joins), now_ms)?;
        let position = self.serials.next(now_ms);
        let happened = Happened { by: &by, channel: name, id: &id, position: &position, now_ms };
        // Nobody has said whether requests are rolled up.
        let rolls_up = by.connection != 0 || self.faults.rest_rollup > 0;
        let applied = match append && rolls_up {
            true => self.append(&happened, &serial, mutation, by.clone())?,
            false => (vec![self.publish_version(&happened, &serial, mutation, None)?], None),
        };
        self.meddle(name, &serial, now_ms);
        Ok(applied)
    }

    /// Whether somebody may change a message in that way now.
    fn may_change(
        &mut self,
        by: &Publisher,
        name: &str,
        serial: &str,
        mutation: &Mutation,
        operation: &str,
        now_ms: u64,
    ) -> Result<(), Failure> {
        let append = mutation.action == message_action::APPEND;
        let stored = self.store.message_mut(name, serial)?;
        let age = now_ms.saturating_sub(stored.latest().timestamp.unwrap_or(now_ms));
        if self.faults.gone_after > 0 && age > self.faults.gone_after {
            self.stats.strike("gone-after");
            let code = self.faults.gone_code.unwrap_or(40400);
            return Err(failure(code, 404, "The message is too old to be changed"));
        }
        if append && stored.latest().action == Some(message_action::DELETE) {
            self.stats.strike("deleted");
            if self.faults.deleted == Deleted::Refuses {
                return Err(failure(40400, 404, "The message was deleted"));
            }
        }
        let publisher = stored.latest().client_id.as_deref();
        by.grant.capability.allows_on(operation, name, publisher, by.grant.identity())?;
        stored.accepts(mutation)?;
        if self.faults.refuse_empty && append && mutation.data_len() == 0 {
            self.stats.strike("refuse-empty");
            return Err(failure(40013, 400, "An append must have data"));
        }
        Ok(())
    }

    /// Refuses what would make a message too large. If that is an append, its text may appear later all the same.
    fn fits_with(&mut self, name: &str, serial: &str, mutation: &Mutation) -> Result<(), Failure> {
        let stored = self.store.message_mut(name, serial)?;
        let size = [self.faults.size_in, SizeIn::Bytes].map(|unit| stored.size_with(mutation, unit));
        let fits = self.fits(size);
        let append = mutation.action == message_action::APPEND;
        if fits.is_err() && append && self.strikes("reject-fold", self.faults.reject_fold) {
            self.fold(name, serial, mutation);
        }
        fits
    }

    /// Somebody else changes a message, as the faults say: not by chance, or a short run might go without.
    fn meddle(&mut self, name: &str, serial: &str, now_ms: u64) {
        let Faults { foreign_updates, foreign_deletes, .. } = self.faults;
        self.meddling += foreign_updates + foreign_deletes;
        if self.meddling < 1.0 {
            return;
        }
        self.meddling -= 1.0;
        let updates = self.random.f64() * (foreign_updates + foreign_deletes) < foreign_updates;
        self.struck(if updates { "foreign-updates" } else { "foreign-deletes" });
        let action = if updates { message_action::UPDATE } else { message_action::DELETE };
        let by = Publisher { connection: 0, connection_id: String::new(), grant: Grant::everything("somebody-else") };
        let data = (action == message_action::UPDATE).then(|| Data::Text("written by somebody else".into()));
        let message = Message { action: Some(action), data, ..Message::default() };
        let position = self.serials.next(now_ms);
        let happened =
            Happened { by: &by, channel: name, id: &format!("foreign:{position}"), position: &position, now_ms };
        if let Err(failure) = self.publish_version(&happened, serial, Mutation::of(message), None) {
            tracing::debug!(code = failure.code, "emulator: the message that somebody else was to change is gone");
        }
    }

    /// Appends of a connection go through its rollup.
    fn append(&mut self, at: &Happened<'_>, serial: &str, mutation: Mutation, by: Arc<Publisher>) -> Applied {
        let of_requests = Duration::from_millis(self.faults.rest_rollup);
        let window = self.connections.get(&by.connection).map_or(of_requests, |connection| connection.rollup);
        let (given, own) = (!self.faults.null_serials, self.faults.own_serials);
        let rollup = self.store.message_mut(at.channel, serial)?.rollup(by.connection);
        let rolled = rollup.append(mutation, at.now_ms, window, at.position, own);
        if !matches!(rolled, Rolled::Now(_)) {
            let struck = [(!given, "null-serials"), (own, "own-serials"), (by.connection == 0, "rest-rollup")];
            struck.iter().filter(|(is_on, _)| *is_on).for_each(|(_, fault)| self.struck(fault));
        }
        match rolled {
            Rolled::Now(mutation) => Ok((vec![self.publish_version(at, serial, *mutation, None)?], None)),
            Rolled::Joined(version) => Ok((vec![given.then_some(version)], None)),
            Rolled::Waits(after) => {
                let flush = Flush { by, channel: at.channel.to_owned(), serial: serial.to_owned(), after };
                Ok((vec![given.then(|| at.position.to_owned())], Some(flush)))
            }
        }
    }

    /// The window of a rollup has ended.
    pub(in crate::emulator) fn flush(&mut self, flush: &Flush, now_ms: u64) {
        let Flush { by, channel, serial, .. } = flush;
        let Ok(stored) = self.store.message_mut(channel, serial) else { return };
        let Some((mutation, version)) = stored.rollup(by.connection).flush(now_ms) else { return };
        let id = format!("rollup:{version}");
        let position = self.serials.next(now_ms);
        let happened = Happened { by, channel, id: &id, position: &position, now_ms };
        if let Err(failure) = self.publish_version(&happened, serial, mutation, Some(version)) {
            tracing::debug!(code = failure.code, "emulator: a joined append was lost with its message");
        }
    }

    /// Makes a new version of a message and tells those attached. Its serial is its position, but for a rollup, which was
    /// promised one when its first append came.
    fn publish_version(
        &mut self,
        at: &Happened<'_>,
        serial: &str,
        mut mutation: Mutation,
        promised: Option<String>,
    ) -> Result<Option<String>, Failure> {
        let update = mutation.action == message_action::UPDATE;
        let stale = update && self.strikes("stale-updates", self.faults.stale_updates);
        let silent = update && self.strikes("null-updates", self.faults.null_updates);
        mutation.version.client_id = mutation.version.client_id.take().or_else(|| identity(at.by));
        let mut version = at.position.to_owned();
        let manner = self.faults.manner();
        let append = mutation.action == message_action::APPEND;
        let (stats, overtakes) = (&mut self.stats, self.faults.update_overtakes);
        let piece = self.store.change(at.channel, serial, |stored, watched| {
            if !append && overtakes && stored.rollup(at.by.connection).is_waiting() {
                stats.strike("update-overtakes");
            } else if !append {
                stored.supersede(at.by.connection, &mutation, at.now_ms);
            }
            if let Some(promised) = promised {
                version = stored.version_of_rollup(promised, at.position);
            }
            if stale {
                version.replace_range(..1, " ");
            }
            if append && manner.folds_again && stored.folds() {
                stats.strike("fold-again");
            }
            stored.apply(mutation, version.clone(), at.now_ms, Manner { watched, ..manner })
        })?;
        if manner.clears {
            self.struck("clear-omitted");
        }
        if manner.bare && append && piece.is_some() {
            self.struck("bare-pieces");
        }
        if let Some(channel) = self.store.get_mut(at.channel) {
            channel.note(at.position, serial);
        }
        if let Some(piece) = piece {
            self.deliver(at, std::slice::from_ref(&piece));
        }
        Ok((!silent).then_some(version))
    }

    fn deliver(&mut self, at: &Happened<'_>, pieces: &[Message<'static>]) {
        let is_append = pieces.iter().any(|piece| piece.action == Some(message_action::APPEND));
        let odd = Oddity {
            whole: is_append && self.strikes("whole-pieces", self.faults.whole_pieces),
            lost: self.strikes("lose-deliveries", self.faults.lose_deliveries),
            again: self.strikes("repeat-deliveries", self.faults.repeat_deliveries),
        };
        let Some(channel) = self.store.get_mut(at.channel) else { return };
        let frame = Frame {
            channel: at.channel,
            publisher: at.by.connection,
            publisher_id: &at.by.connection_id,
            id: at.id,
            position: at.position,
            now_ms: at.now_ms,
        };
        let (delivered, slow) = channel.deliver(&frame, pieces, odd);
        self.stats.delivered += delivered;
        for number in slow {
            self.stats.slow += 1;
            self.leave_all(number);
            // Its outbox is gone or full: without it the transport ends, and the client finds out what it missed.
            if let Some(connection) = self.connections.get_mut(&number) {
                connection.outbox = Outbox::closed();
            }
        }
    }

    /// The largest message, as connections are told.
    pub(super) fn told_size(&self) -> usize {
        or(self.faults.message_size, self.config.max_message_size)
    }

    /// Refuses what is too large, by its size in the unit of the faults and in bytes.
    fn fits(&mut self, [size, bytes]: [usize; 2]) -> Result<(), Failure> {
        if size != bytes {
            self.struck("size-in");
        }
        let limit = or(self.faults.enforced_size, self.told_size());
        // Who keeps to a limit shows by coming near it that there is one.
        if self.faults.message_size > 0 && size > limit / 2 {
            self.struck("message-size");
        }
        if size <= limit {
            return Ok(());
        }
        if self.faults.enforced_size > 0 {
            self.struck("enforced-size");
        }
        Err(too_large(size, limit))
    }

    fn attached_to_publish(&self, by: &Publisher, channel: &str) -> Result<(), Failure> {
        let connection = self.connections.get(&by.connection);
        match connection.is_none_or(|connection| connection.is_attached_to_publish(channel)) {
            true => Ok(()),
            false => Err(not_attached_to_publish()),
        }
    }

    /// A connection may publish to so many channels.
    fn enters(&mut self, by: &Publisher, name: &str, now_ms: u64) -> Result<(), Failure> {
        let limit = self.faults.channels_per_connection;
        let connection = self.connections.get_mut(&by.connection);
        let enters = connection.is_none_or(|connection| connection.enters(name, limit, now_ms));
        if enters {
            return Ok(());
        }
        self.struck("channels-per-connection");
        Err(too_many_channels())
    }

    /// Counts a publish against the rates: its bytes, and as how many operations it counts; as none if it joins another one.
    fn charge(&mut self, by: &Publisher, name: &str, bytes: usize, counts: usize, now_ms: u64) -> Result<(), Failure> {
        let counts = counts as f64;
        let limit = self.faults.rate_limit;
        if let Some(connection) = self.connections.get_mut(&by.connection)
            && !connection.rate.take_some(counts, limit, now_ms)
        {
            self.struck("rate-limit");
            return Err(connection_rate(limit));
        }
        if !self.account_rate.take_some(counts, self.faults.account_rate_limit, now_ms) {
            self.struck("account-rate-limit");
            return Err(account_rate());
        }
        let (operations, bandwidth) = (self.faults.channel_rate_limit, self.faults.channel_bytes_limit);
        let Some(channel) = self.store.get_mut(name) else { return Ok(()) };
        if !channel.rate.take_some(counts, operations, now_ms) {
            self.struck("channel-rate-limit");
            return Err(channel_rate(operations));
        }
        if channel.bandwidth.take_some(bytes as f64, bandwidth, now_ms) {
            return Ok(());
        }
        self.struck("channel-bytes-limit");
        Err(channel_bandwidth(bandwidth))
    }
}

/// That number, or the other one if it is 0.
const fn or(number: usize, other: usize) -> usize {
    if number == 0 { other } else { number }
}

/// The client id that goes into what it publishes.
fn identity(by: &Publisher) -> Option<Cow<'static, str>> {
    by.grant.identity().map(|id| id.to_owned().into())
}
