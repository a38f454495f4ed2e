//! Pins: a channel stays on one connection while any response of it is open. There are as many connections as the open
//! channels need; those that nobody has needed for a while are closed.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Channel, ChannelKey, Connection, Flow, OPERATIONS_LEAST, Pipelining, Use};
use crate::engine::bucket::Bucket;
use crate::engine::line::Line;
use crate::engine::op::ConnectionId;
use crate::engine::time::Time;

/// Channels that a connection may have at most [Ably: 200 a connection].
const CHANNELS_MAX: u32 = 200;

/// Channels without an open response that are remembered at most.
const RESTING_MAX: usize = 100_000;

impl Flow {
    /// Pins a channel to a connection for one more response.
    pub(in crate::engine) fn open(&mut self, now: Time, name: &Arc<str>) -> ChannelKey {
        self.forget_rested(now);
        let known = self.by_name.get(name).copied();
        if let Some(key) = known.filter(|key| self.channels[key.0 as usize].responses > 0) {
            self.channels[key.0 as usize].responses += 1;
            return key;
        }
        let connection = self.choose(now);
        self.connections[connection as usize].channels += 1;
        if let Some(key) = known {
            let channel = &mut self.channels[key.0 as usize];
            (channel.connection, channel.responses, channel.unwelcome) = (connection, 1, false);
            return key;
        }
        let channel = Channel {
            name: name.clone(),
            namespace: self.namespaces.enter(now, name),
            connection,
            responses: 1,
            operations: 0,
            rate: Bucket::new(u64::from(self.limits.channel_rate), OPERATIONS_LEAST, self.limits.refused_rate_hold),
            bandwidth: None,
            line: Line::default(),
            refuses: None,
            unwelcome: false,
            rests_until: Time::default(),
        };
        let key = self.free.pop().unwrap_or(ChannelKey(u32::try_from(self.channels.len()).unwrap_or(u32::MAX)));
        match self.channels.get_mut(key.0 as usize) {
            Some(slot) => *slot = channel,
            None => self.channels.push(channel),
        }
        self.by_name.insert(name.clone(), key);
        key
    }

    /// A response of the channel is over. After the last one the channel may go elsewhere, and is forgotten in a while.
    pub(in crate::engine) fn close(&mut self, now: Time, key: ChannelKey) {
        let channel = &mut self.channels[key.0 as usize];
        channel.responses -= 1;
        if channel.responses == 0 {
            self.connections[channel.connection as usize].channels -= 1;
            let bandwidth = channel.bandwidth.as_ref().map_or(now, |bandwidth| bandwidth.rests_until(now));
            channel.rests_until = channel.rate.rests_until(now).max(bandwidth);
            self.resting.push(Reverse((channel.rests_until, key)));
            self.forget_rested(now);
        }
    }

    fn forget_rested(&mut self, now: Time) {
        while let Some(Reverse((until, key))) = self.resting.peek().copied()
            && (until <= now || self.resting.len() > RESTING_MAX)
        {
            self.resting.pop();
            let channel = &mut self.channels[key.0 as usize];
            if channel.responses == 0 && channel.rests_until == until {
                channel.rests_until = Time::default();
                self.by_name.remove(&channel.name);
                self.namespaces.leave(channel.namespace);
                self.free.push(key);
            }
        }
    }

    /// Moves a channel whose connection has too many to one that has room, as soon as nothing of it is in flight.
    pub(in crate::engine) fn settle_pin(&mut self, now: Time, key: ChannelKey) {
        let channel = &self.channels[key.0 as usize];
        if !channel.unwelcome || channel.operations > 0 {
            return;
        }
        let (from, to) = (channel.connection, self.choose(now));
        if self.connections[to as usize].has_room() {
            self.connections[from as usize].channels -= 1;
            self.connections[to as usize].channels += 1;
            self.channels[key.0 as usize].connection = to;
        }
        self.channels[key.0 as usize].unwelcome = false;
    }

    /// A connection takes no channel more than it has without this one.
    pub(super) fn too_many_channels(&mut self, connection: ConnectionId, key: ChannelKey) {
        let connection = &mut self.connections[connection as usize];
        connection.channels_max = connection.channels_max.min(connection.channels.saturating_sub(1)).max(1);
        self.channels[key.0 as usize].unwelcome = true;
    }

    /// Connections that have carried nothing for so long that they are to be closed. The first one stays.
    pub fn close_idle(&mut self, now: Time) -> Vec<ConnectionId> {
        let mut idle = Vec::new();
        for (number, connection) in (0..).zip(&mut self.connections).skip(1) {
            if connection.usage != Use::Open || connection.channels > 0 || connection.operations > 0 {
                connection.idle_since = None;
                continue;
            }
            let since = *connection.idle_since.get_or_insert(now);
            if now.since(since) >= self.limits.connection_idle {
                (connection.usage, connection.up) = (Use::Closing, false);
                idle.push(number);
            }
        }
        idle
    }

    /// A connection that was to be closed is: its number may be used again.
    pub fn closed(&mut self, connection: ConnectionId) {
        let slot = &mut self.connections[connection as usize];
        if slot.usage == Use::Closing {
            slot.usage = Use::Vacant;
        }
    }

    /// Whether there is to be a connection of that number.
    #[must_use]
    pub fn is_wanted(&self, connection: ConnectionId) -> bool {
        self.connections.get(connection as usize).is_some_and(|connection| connection.usage == Use::Open)
    }

    /// How many connections were ever wanted: when it changes, one more is.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    /// The connection for one channel more: the one with the fewest among those that so many channels need, so that in quieter
    /// times the others have none.
    fn choose(&mut self, now: Time) -> ConnectionId {
        let channels: u32 = self.connections.iter().map(|connection| connection.channels).sum();
        let needed = (channels / self.channels_per_connection + 1).min(self.limits.connections_max) as usize;
        if self.connections_wanted() < self.limits.connections_max
            && self.lacks(needed)
            && self.openings.take_one(now).is_ok()
        {
            self.open_connection();
        }
        let open = || (0..).zip(&self.connections).filter(|(_, connection)| connection.usage == Use::Open);
        let loads =
            |(number, connection): (ConnectionId, &Connection)| (!connection.has_room(), connection.channels, number);
        let few = open().take(needed).map(loads).min().filter(|(full, ..)| !full);
        few.or_else(|| open().map(loads).min()).map_or(0, |(.., number)| number)
    }

    /// Whether there are fewer connections than are needed, or none has room.
    fn lacks(&self, needed: usize) -> bool {
        (self.connections_wanted() as usize) < needed
            || !self.connections.iter().any(|connection| connection.usage == Use::Open && connection.has_room())
    }

    pub(super) fn open_connection(&mut self) {
        let limits = &self.limits;
        let operations = |rate: u32| Bucket::new(u64::from(rate), OPERATIONS_LEAST, limits.refused_rate_hold);
        let connection = Connection {
            usage: Use::Open,
            up: false,
            ably_id: None,
            client_id: None,
            pipelining: Pipelining::On,
            message_bytes_max: limits.message_bytes_max,
            rate: operations(limits.connection_rate),
            frames: operations(limits.frame_rate),
            counts_frames: None,
            line: Line::default(),
            operations: 0,
            bytes: 0,
            channels: 0,
            channels_max: CHANNELS_MAX,
            idle_since: None,
        };
        self.opened += 1;
        match self.connections.iter_mut().find(|connection| connection.usage == Use::Vacant) {
            Some(vacant) => *vacant = connection,
            None => self.connections.push(connection),
        }
    }
}

impl Connection {
    const fn has_room(&self) -> bool {
        self.channels < self.channels_max
    }
}
