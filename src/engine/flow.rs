//! Flow: which connection carries which channel, and whether an operation may leave now.
//!
//! A permit is taken before an operation is made, so what has been asked for always fits: into the connection's queue, into
//! its in-flight limits and into the rates. What has no permit waits as text, and is joined: that is how a stream becomes
//! coarser under a limit instead of wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::bucket::Bucket;
use super::op::ConnectionId;
use super::outcome::{Class, Rejection};
use super::settings::Limits;
use super::time::Time;

/// How often a channel that refused is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// Names a channel while any response of it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChannelKey(u32);

/// Why an operation may not leave now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Something on its connection has to happen first: an answer, or that it comes up.
    Connection,
    /// The connection's rate allows it at that time.
    ConnectionRate(Time),
    /// The channel allows it at that time.
    Channel(Time),
}

/// Whether operations on a connection may follow each other without waiting for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipelining {
    /// They arrive in the order in which they were sent.
    On,
    /// They are requests of their own, in no order: a response has one under way at a time.
    Off,
}

#[derive(Debug)]
struct Connection {
    up: bool,
    ably_id: Option<Arc<str>>,
    pipelining: Pipelining,
    message_bytes_max: usize,
    rate: Bucket,
    operations: u32,
    bytes: usize,
    channels: u32,
}

#[derive(Debug)]
struct Channel {
    name: Arc<str>,
    connection: ConnectionId,
    responses: u32,
    rate: Bucket,
    /// It refuses everything until somebody changes a rule; one probe may leave at that time.
    refused_until: Option<Time>,
}

/// The connections of the process and what may be sent on them.
#[derive(Debug)]
pub struct Flow {
    limits: Limits,
    /// Channels that one connection carries at its rate before another is opened.
    channels_per_connection: u32,
    connections: Vec<Connection>,
    channels: Vec<Channel>,
    free: Vec<ChannelKey>,
    by_name: HashMap<Arc<str>, ChannelKey, RandomState>,
    account: Bucket,
    read_backs: Bucket,
}

impl Flow {
    /// One connection, not up yet; more as channels come.
    pub(super) fn new(limits: Limits, append_rollup: Duration) -> Self {
        // A stream at full speed uses one operation per rollup window.
        let streams = f64::from(limits.connection_rate) * append_rollup.as_secs_f64();
        let mut flow = Self {
            limits,
            channels_per_connection: (streams as u32).max(1),
            connections: Vec::new(),
            channels: Vec::new(),
            free: Vec::new(),
            by_name: HashMap::default(),
            account: Bucket::new(limits.account_rate),
            read_backs: Bucket::new(limits.read_back_rate),
        };
        flow.add_connection();
        flow
    }

    /// How many connections there should be: those numbered below.
    #[must_use]
    pub fn connections(&self) -> ConnectionId {
        u32::try_from(self.connections.len()).unwrap_or(ConnectionId::MAX)
    }

    /// A connection is up, under Ably's name for it and with what the server allows on it.
    pub fn up(
        &mut self,
        connection: ConnectionId,
        ably_id: Arc<str>,
        pipelining: Pipelining,
        message_bytes_max: usize,
        rate_max: Option<u32>,
    ) {
        let connection = &mut self.connections[connection as usize];
        connection.up = true;
        connection.ably_id = Some(ably_id);
        connection.pipelining = pipelining;
        connection.message_bytes_max = message_bytes_max;
        if let Some(rate) = rate_max {
            connection.rate.cap(rate);
        }
    }

    /// A connection is down: nothing is sent on it until it is up again. What is in flight stays so.
    pub fn down(&mut self, connection: ConnectionId) {
        self.connections[connection as usize].up = false;
    }

    /// Whether any connection is up.
    #[must_use]
    pub fn any_up(&self) -> bool {
        self.connections.iter().any(|connection| connection.up)
    }

    /// How many connections are up.
    #[must_use]
    pub fn connections_up(&self) -> u32 {
        u32::try_from(self.connections.iter().filter(|connection| connection.up).count()).unwrap_or(u32::MAX)
    }

    /// Operations in flight on all connections.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.connections.iter().map(|connection| u64::from(connection.operations)).sum()
    }

    /// Operations and bytes in flight on one connection.
    #[must_use]
    pub fn in_flight_on(&self, connection: ConnectionId) -> (u32, usize) {
        let connection = &self.connections[connection as usize];
        (connection.operations, connection.bytes)
    }

    /// Pins a channel to a connection for one more response.
    pub(super) fn open(&mut self, name: &Arc<str>) -> ChannelKey {
        if let Some(key) = self.by_name.get(name) {
            self.channels[key.0 as usize].responses += 1;
            return *key;
        }
        let connection = self.least_loaded();
        self.connections[connection as usize].channels += 1;
        let rate = Bucket::new(self.limits.channel_rate);
        let channel = Channel { name: name.clone(), connection, responses: 1, rate, refused_until: None };
        let key = self.free.pop().unwrap_or(ChannelKey(u32::try_from(self.channels.len()).unwrap_or(u32::MAX)));
        match self.channels.get_mut(key.0 as usize) {
            Some(slot) => *slot = channel,
            None => self.channels.push(channel),
        }
        self.by_name.insert(name.clone(), key);
        key
    }

    /// A response of the channel is over. With the last one the channel is forgotten, and may go elsewhere later.
    pub(super) fn close(&mut self, key: ChannelKey) {
        let channel = &mut self.channels[key.0 as usize];
        channel.responses -= 1;
        if channel.responses == 0 {
            self.connections[channel.connection as usize].channels -= 1;
            self.by_name.remove(&channel.name);
            self.free.push(key);
        }
    }

    /// The connection that carries a channel.
    pub(super) fn connection(&self, key: ChannelKey) -> ConnectionId {
        self.channels[key.0 as usize].connection
    }

    /// Ably's name for a connection.
    pub(super) fn ably_id(&self, connection: ConnectionId) -> Option<&str> {
        self.connections[connection as usize].ably_id.as_deref()
    }

    /// Whether a response on a channel may have several operations under way.
    pub(super) fn pipelining(&self, key: ChannelKey) -> Pipelining {
        self.connections[self.connection(key) as usize].pipelining
    }

    /// Bytes of the largest message that a channel takes; none until its connection has said so.
    pub(super) fn message_bytes_max(&self, key: ChannelKey) -> Option<usize> {
        let connection = &self.connections[self.connection(key) as usize];
        connection.up.then_some(connection.message_bytes_max)
    }

    /// Takes a permit for one operation of `bytes`. `charged` operations count against the rates; an append that the
    /// server will roll up with the one before does not.
    pub(super) fn take(
        &mut self,
        now: Time,
        key: ChannelKey,
        bytes: usize,
        charged: bool,
    ) -> Result<ConnectionId, Wait> {
        let channel = &mut self.channels[key.0 as usize];
        let connection = &mut self.connections[channel.connection as usize];
        let room = connection.operations < self.limits.in_flight_operations
            && (connection.operations == 0 || connection.bytes + bytes <= self.limits.in_flight_bytes);
        if !connection.up || !room {
            return Err(Wait::Connection);
        }
        if let Some(until) = channel.refused_until.filter(|until| now < *until) {
            return Err(Wait::Channel(until));
        }
        if charged {
            connection.rate.take(now).map_err(Wait::ConnectionRate)?;
            if let Err(at) = channel.rate.take(now) {
                connection.rate.give_back();
                return Err(Wait::Channel(at));
            }
            if let Err(at) = self.account.take(now) {
                connection.rate.give_back();
                channel.rate.give_back();
                return Err(Wait::ConnectionRate(at));
            }
        }
        if channel.refused_until.is_some() {
            channel.refused_until = Some(now + PROBE_EVERY);
        }
        connection.operations += 1;
        connection.bytes += bytes;
        Ok(channel.connection)
    }

    /// Takes a permit to read one message back, or tells when there will be one.
    pub(super) fn take_read_back(&mut self, now: Time) -> Result<(), Time> {
        self.read_backs.take(now)
    }

    /// An operation has its answer; what it took in flight is free.
    pub(super) fn answered(&mut self, connection: ConnectionId, bytes: usize) {
        let connection = &mut self.connections[connection as usize];
        assert!(connection.operations > 0 && connection.bytes >= bytes, "answered more than was sent");
        connection.operations -= 1;
        connection.bytes -= bytes;
    }

    /// A mutation was taken on the channel: whatever it refused, it does not now.
    pub(super) fn accepted(&mut self, key: ChannelKey) {
        self.channels[key.0 as usize].refused_until = None;
    }

    /// An operation was refused; whoever is to blame goes slower.
    pub(super) fn refused(&mut self, now: Time, connection: ConnectionId, key: ChannelKey, rejection: &Rejection) {
        let channel = &mut self.channels[key.0 as usize];
        match (rejection.class, rejection.code) {
            (Class::Channel, _) => channel.refused_until = Some(now + PROBE_EVERY),
            (Class::RateLimited, 42913 | 42914) => channel.rate.back_off(now, f64::from(self.limits.connection_rate)),
            (Class::RateLimited, _) => {
                let observed = f64::from(self.limits.connection_rate.max(1));
                self.connections[connection as usize].rate.back_off(now, observed);
            }
            (Class::Transient | Class::Token | Class::Connection | Class::Operation, _)
            | (Class::Account | Class::MessageGone, _) => {}
        }
    }

    fn least_loaded(&mut self) -> ConnectionId {
        let full = self.connections.iter().all(|connection| connection.channels >= self.channels_per_connection);
        if full && self.connections() < self.limits.connections_max {
            self.add_connection();
        }
        let loads = (0..).zip(&self.connections).map(|(id, connection)| (connection.channels, id));
        loads.min().map_or(0, |(_, id)| id)
    }

    fn add_connection(&mut self) {
        self.connections.push(Connection {
            up: false,
            ably_id: None,
            pipelining: Pipelining::On,
            message_bytes_max: self.limits.message_bytes_max,
            rate: Bucket::new(self.limits.connection_rate),
            operations: 0,
            bytes: 0,
            channels: 0,
        });
    }
}
