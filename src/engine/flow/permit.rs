//! Permits: what may leave now, and what a refusal teaches.

use std::time::Duration;

use super::{BYTES_LEAST, ChannelKey, Flow, PROBE_EVERY, Pipelining, Refuses};
use crate::engine::bucket::Bucket;
use crate::engine::line::Ticket;
use crate::engine::op::{ConnectionId, OpKind};
use crate::engine::outcome::{Class, Rejection};
use crate::engine::time::Time;

/// When to ask again where those who are before us may go now.
pub(in crate::engine) const TURN: Duration = Duration::from_millis(5);

/// Share of what is allowed below which a refusal cannot mean what we count.
const FAR_BELOW: f64 = 0.9;

/// How soon those who wait for a channel that refuses look whether it has taken a probe meanwhile.
pub(in crate::engine) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The channel has no rule for changing messages.
pub(in crate::engine) const NO_RULE: u32 = 93002;

/// Why an operation may not leave now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::engine) enum Wait {
    /// Its connection allows it at that time; without one, something has to happen first: an answer, or that it comes up.
    Connection(Option<Time>),
    /// It may be asked for again at that time, whatever happens to its connection.
    Until(Time),
}

/// What a permit is wanted for.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Wanted {
    pub(in crate::engine) kind: OpKind,
    pub(in crate::engine) bytes: usize,
    /// It counts against the rates; an append that the server will roll up with the one before does not.
    pub(in crate::engine) charged: bool,
    /// Its place in line, if it has waited before.
    pub(in crate::engine) ticket: Option<Ticket>,
}

/// Where somebody has to wait.
enum Place {
    /// For the connection.
    Connection(Option<Time>),
    /// For the account, and so at the head of the connection's line.
    Account(Time),
    /// For the channel.
    Channel(Time),
    /// For the account's bandwidth, which others on the connection need not.
    Bandwidth(Time),
    /// Until a channel that refuses may be tried again, or somebody has.
    Probe(Time),
}

impl Flow {
    /// Takes a permit for one operation, or gives a ticket to whoever has to wait.
    pub(in crate::engine) fn take(
        &mut self,
        now: Time,
        key: ChannelKey,
        wanted: Wanted,
    ) -> Result<ConnectionId, (Wait, Ticket)> {
        let place = self.place(now, key, wanted);
        if let Some(ticket) = wanted.ticket {
            self.leave(key, ticket);
        }
        let Err(place) = place else { return Ok(self.spend(now, key, wanted)) };
        let ticket = wanted.ticket.unwrap_or_else(|| self.tickets.next());
        let channel = &mut self.channels[key.0 as usize];
        let line = &mut self.connections[channel.connection as usize].line;
        let wait = match place {
            Place::Connection(time) => {
                line.join(ticket);
                Wait::Connection(time)
            }
            Place::Account(time) => {
                line.join(ticket);
                self.account.line.join(ticket);
                Wait::Connection(Some(time))
            }
            Place::Channel(time) => {
                channel.line.join(ticket);
                Wait::Until(time)
            }
            Place::Bandwidth(time) => {
                self.account.bandwidth_line.join(ticket);
                Wait::Until(time)
            }
            Place::Probe(time) => Wait::Until(time),
        };
        Err((wait, ticket))
    }

    /// Where it would have to wait, if it has to.
    fn place(&mut self, now: Time, key: ChannelKey, wanted: Wanted) -> Result<(), Place> {
        let Wanted { kind, bytes, charged, ticket } = wanted;
        let (channel, account) = (&mut self.channels[key.0 as usize], &mut self.account);
        let connection = &mut self.connections[channel.connection as usize];
        let room = connection.operations < self.limits.in_flight_operations
            && (connection.operations == 0 || connection.bytes + bytes <= self.limits.in_flight_bytes);
        if !connection.up || !room {
            return Err(Place::Connection(None));
        }
        let namespace = self.namespaces.refuses(channel.namespace).map(|refuses| refuses.until_for(kind));
        let refuses = channel.refuses.map(|refuses| refuses.until).max(namespace);
        if let Some(until) = refuses.filter(|until| now < *until) {
            return Err(Place::Probe(until.min(now + LOOK_AGAIN)));
        }
        let pipelined = connection.pipelining == Pipelining::On;
        if pipelined && let Some(time) = connection.frames.wait(now, 1.0, 0) {
            return Err(Place::Connection(Some(time)));
        }
        if !charged {
            return Ok(());
        }
        let ahead = channel.line.ahead_of(ticket);
        let is_full_text = kind == OpKind::Update;
        if is_full_text {
            let new = || Bucket::new(self.limits.channel_bandwidth, BYTES_LEAST, self.limits.refused_rate_hold);
            channel.bandwidth.get_or_insert_with(|| Box::new(new()));
        }
        let bandwidth = channel.bandwidth.as_mut().filter(|_| is_full_text);
        let bandwidth = bandwidth.and_then(|bandwidth| bandwidth.wait(now, bytes as f64, ahead));
        match channel.rate.wait(now, 1.0, ahead).max(bandwidth) {
            Some(time) => return Err(Place::Channel(time)),
            None if ahead > 0 => return Err(Place::Channel(now + TURN)),
            None => {}
        }
        let ahead = account.bandwidth_line.ahead_of(ticket);
        match account.bandwidth.wait(now, bytes as f64, ahead).filter(|_| is_full_text) {
            Some(time) => return Err(Place::Bandwidth(time)),
            None if ahead > 0 && is_full_text => return Err(Place::Bandwidth(now + TURN)),
            None => {}
        }
        let (ahead, before) = (connection.line.ahead_of(ticket), account.line.ahead_of(ticket));
        let own = if pipelined { connection.rate.wait(now, 1.0, ahead) } else { None };
        let requests = if pipelined { None } else { account.requests.wait(now, 1.0, before) };
        match account.rate.wait(now, 1.0, before).into_iter().chain(requests).max() {
            Some(time) if ahead == 0 && own.is_none() => Err(Place::Account(time)),
            all => match all.max(own) {
                Some(time) => Err(Place::Connection(Some(time))),
                None if ahead > 0 || before > 0 => Err(Place::Connection(Some(now + TURN))),
                None => Ok(()),
            },
        }
    }

    /// It leaves.
    fn spend(&mut self, now: Time, key: ChannelKey, wanted: Wanted) -> ConnectionId {
        let Wanted { kind, bytes, charged, .. } = wanted;
        let channel = &mut self.channels[key.0 as usize];
        let connection = &mut self.connections[channel.connection as usize];
        // What nobody waits for is not used up either: requests would be owed for what has gone over connections.
        let pipelined = connection.pipelining == Pipelining::On;
        let own = if pipelined { &mut connection.rate } else { &mut self.account.requests };
        for bucket in [own, &mut channel.rate, &mut self.account.rate].into_iter().filter(|_| charged) {
            bucket.take(now, 1.0);
        }
        if pipelined {
            connection.frames.take(now, 1.0);
        }
        if kind == OpKind::Update {
            channel.bandwidth.iter_mut().for_each(|bandwidth| bandwidth.take(now, bytes as f64));
            self.account.bandwidth.take(now, bytes as f64);
        }
        for refuses in [&mut channel.refuses, self.namespaces.refuses(channel.namespace)].into_iter().flatten() {
            refuses.until = now + PROBE_EVERY;
        }
        channel.operations += 1;
        connection.operations += 1;
        connection.bytes += bytes;
        channel.connection
    }

    /// An operation has its answer; what it took in flight is free.
    pub(in crate::engine) fn answered(&mut self, connection: ConnectionId, key: ChannelKey, bytes: usize) {
        self.channels[key.0 as usize].operations -= 1;
        let connection = &mut self.connections[connection as usize];
        assert!(connection.operations > 0 && connection.bytes >= bytes, "answered more than was sent");
        connection.operations -= 1;
        connection.bytes -= bytes;
    }

    /// An operation was taken on the channel.
    pub(in crate::engine) fn accepted(&mut self, key: ChannelKey, kind: OpKind) {
        let channel = &mut self.channels[key.0 as usize];
        for refuses in [&mut channel.refuses, self.namespaces.refuses(channel.namespace)] {
            *refuses = refuses.and_then(|refuses| refuses.unless_taken(kind));
        }
    }

    /// An operation that was sent at `sent_at` was refused; whoever is to blame goes slower.
    pub(in crate::engine) fn refused(
        &mut self,
        now: Time,
        connection: ConnectionId,
        key: ChannelKey,
        (kind, sent_at): (OpKind, Time),
        rejection: &Rejection,
    ) {
        let channel = &mut self.channels[key.0 as usize];
        let account = &mut self.account;
        let named = rejection.permitted_rate();
        let ours = named.map(|named| named * account.share);
        match (rejection.class, rejection.code) {
            (Class::Channel, code) => {
                let changes = kind != OpKind::Create || code == NO_RULE;
                channel.refuses = Some(Refuses::again(channel.refuses, now, changes));
            }
            // Each channel is refused alike, and each message that is made meanwhile is left unfinished. Credentials may do
            // more in one namespace than in another, though.
            (Class::Account, _) => {
                let refuses = self.namespaces.refuses(channel.namespace);
                *refuses = Some(Refuses::again(*refuses, now, kind != OpKind::Create));
            }
            (Class::RateLimited, _) if rejection.is_limit_of_account() => {
                channel.refuses = Some(Refuses::again(channel.refuses, now, false));
            }
            (Class::RateLimited, 42913) => channel.rate.refused(now, sent_at, named),
            (Class::RateLimited, 42914) => match &mut channel.bandwidth {
                Some(bandwidth) => bandwidth.refused(now, sent_at, named),
                None => channel.rate.refused(now, sent_at, None),
            },
            (Class::RateLimited, 42918 | 42922 | 40115) => account.requests.refused(now, sent_at, ours),
            (Class::RateLimited, 42910 | 42917) => account.rate.refused(now, sent_at, ours),
            (Class::RateLimited, 90010) => self.too_many_channels(connection, key),
            (Class::RateLimited, _) => self.too_fast(now, connection, sent_at, named),
            (Class::Transient | Class::Token | Class::Connection | Class::Operation | Class::MessageGone, _) => {}
        }
    }

    /// A connection was refused what it sent. If that was far less than it may send, the server counts something else: frames.
    fn too_fast(&mut self, now: Time, connection: ConnectionId, sent_at: Time, named: Option<f64>) {
        let connection = &mut self.connections[connection as usize];
        if connection.pipelining == Pipelining::Off {
            return self.account.requests.refused(now, sent_at, named.map(|named| named * self.account.share));
        }
        let (operations, frames) = (connection.rate.used(now), connection.frames.used(now));
        let allowed = connection.rate.budget().min(named.unwrap_or(f64::INFINITY));
        if connection.counts_frames.is_some_and(|since| sent_at <= since) {
            return;
        }
        if connection.counts_frames.is_none() && operations < allowed * FAR_BELOW && frames > allowed {
            connection.counts_frames = Some(now);
            return connection.rate.forget_refusal(now);
        }
        connection.rate.refused(now, sent_at, named);
    }

    /// The server ended a connection because of what was sent on it.
    pub fn broken_off(&mut self, now: Time, connection: ConnectionId, code: u32) {
        let connection = &mut self.connections[connection as usize];
        match code {
            42920 | 42921 => connection.rate.refused(now, now, None),
            42924 => connection.frames.refused(now, now, None),
            _ => {}
        }
    }
}
