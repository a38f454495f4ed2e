//! Flow: which connection carries which channel, and whether an operation may leave now.
//!
//! A permit is taken before an operation is made, so what has been asked for always fits: into the connection's queue, into
//! its in-flight limits and into the budgets. What has no permit waits as text, and is joined: that is how a stream becomes
//! coarser under a limit instead of wrong.
//!
//! `permit.rs` says what may leave, `pin.rs` which connections there are and what they carry, `namespace.rs` where messages can
//! be changed.

mod namespace;
mod permit;
mod pin;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;

use super::bucket::Bucket;
use super::line::{Line, Ticket, Tickets};
use super::op::{ConnectionId, OpKind};
use super::settings::Limits;
use super::time::Time;
use namespace::Namespaces;
pub use namespace::namespace_of;
pub(super) use namespace::{Claim, NamespaceKey, Takes, Trial};
pub(super) use permit::{LOOK_AGAIN, NO_RULE, TURN, Wait, Wanted};

/// How often what refuses everything is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(30);

/// Operations a second that a refusal leaves in any case, and bytes.
const OPERATIONS_LEAST: u32 = 1;
const BYTES_LEAST: u32 = 64 * 1_024;

/// Names a channel while any response of it is open, and a little longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChannelKey(u32);

/// Whether operations on a connection may follow each other without waiting for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipelining {
    /// They arrive in the order in which they were sent.
    On,
    /// They are requests of their own, in no order: a response has one under way at a time.
    Off,
}

/// Whether there is to be a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// It carries channels, or may.
    Open,
    /// It carries none any more and is being closed.
    Closing,
    /// It is closed; its number is free.
    Vacant,
}

#[derive(Debug)]
struct Connection {
    usage: Use,
    up: bool,
    ably_id: Option<Arc<str>>,
    client_id: Option<Arc<str>>,
    pipelining: Pipelining,
    message_bytes_max: usize,
    /// Operations, counted after the server's rollup.
    rate: Bucket,
    /// Frames, whatever the server makes of them.
    frames: Bucket,
    /// Since then we know that the server counts frames: an append that it rolls up is not free.
    counts_frames: Option<Time>,
    line: Line,
    operations: u32,
    bytes: usize,
    channels: u32,
    /// It takes no more channels than this.
    channels_max: u32,
    /// Since when it carries nothing.
    idle_since: Option<Time>,
}

#[derive(Debug)]
struct Channel {
    name: Arc<str>,
    namespace: NamespaceKey,
    connection: ConnectionId,
    responses: u32,
    operations: u32,
    rate: Bucket,
    /// Bytes of full texts, from the first one on.
    bandwidth: Option<Box<Bucket>>,
    line: Line,
    /// It refuses everything until somebody changes a rule.
    refuses: Option<Refuses>,
    /// Its connection has too many channels: it goes to another as soon as nothing of it is in flight.
    unwelcome: bool,
    /// When it is forgotten, if no response of it is open then.
    rests_until: Time,
}

/// What a channel refuses, or a whole namespace.
#[derive(Debug, Clone, Copy)]
struct Refuses {
    /// One probe may leave at that time.
    until: Time,
    /// It has refused to change messages, or to take any for good, not only to make them.
    changes: bool,
}

impl Refuses {
    /// It has refused one more, to change a message or not.
    fn again(before: Option<Self>, now: Time, changes: bool) -> Self {
        Self { until: now + PROBE_EVERY, changes: changes || before.is_some_and(|before| before.changes) }
    }

    /// When one of that kind may be the probe. A message that is made shows nothing where changing one is what was refused: whoever
    /// waits to change one goes first.
    fn until_for(&self, kind: OpKind) -> Time {
        if kind == OpKind::Create && self.changes { self.until + LOOK_AGAIN } else { self.until }
    }

    /// An operation of that kind was taken: whatever was refused, it is not now. Only that a message could be made says nothing
    /// of changing one.
    fn unless_taken(self, kind: OpKind) -> Option<Self> {
        (kind == OpKind::Create && self.changes).then_some(self)
    }
}

/// What all connections share.
#[derive(Debug)]
struct Account {
    /// Operations, counted after the server's rollup.
    rate: Bucket,
    line: Line,
    /// Requests, where operations are requests.
    requests: Bucket,
    /// Bytes of full texts.
    bandwidth: Bucket,
    bandwidth_line: Line,
    /// Which share of the account's budgets is ours.
    share: f64,
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
    /// Channels without an open response: their budgets are used up all the same.
    resting: BinaryHeap<Reverse<(Time, ChannelKey)>>,
    by_name: HashMap<Arc<str>, ChannelKey, RandomState>,
    namespaces: Namespaces,
    account: Account,
    read_backs: Bucket,
    tickets: Tickets,
    /// How fast connections are opened.
    openings: Bucket,
    /// How many there have been.
    opened: u64,
}

impl Flow {
    /// One connection, not up yet; more as channels come.
    pub(super) fn new(limits: Limits, append_rollup: Duration) -> Self {
        // A stream at full speed uses one operation per rollup window.
        let streams = f64::from(limits.connection_rate) * append_rollup.as_secs_f64();
        let operations = |rate: u32| Bucket::new(u64::from(rate), OPERATIONS_LEAST, limits.refused_rate_hold);
        let mut flow = Self {
            limits,
            channels_per_connection: (streams as u32).max(1),
            connections: Vec::new(),
            channels: Vec::new(),
            free: Vec::new(),
            resting: BinaryHeap::new(),
            by_name: HashMap::default(),
            namespaces: Namespaces::default(),
            account: Account {
                rate: operations(limits.account_rate),
                line: Line::default(),
                requests: operations(limits.request_rate),
                bandwidth: Bucket::new(limits.account_bandwidth, BYTES_LEAST, limits.refused_rate_hold),
                bandwidth_line: Line::default(),
                share: 1.0,
            },
            read_backs: operations(limits.read_back_rate),
            tickets: Tickets::default(),
            openings: operations(limits.openings).in_bursts(),
            opened: 0,
        };
        flow.open_connection();
        flow
    }

    /// How many connections there are or were: those numbered below.
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
        connection.up = connection.usage == Use::Open;
        // Another connection may be to another server.
        connection.counts_frames =
            connection.counts_frames.filter(|_| connection.ably_id.as_deref() == Some(&*ably_id));
        connection.ably_id = Some(ably_id);
        connection.pipelining = pipelining;
        connection.message_bytes_max = message_bytes_max;
        connection.rate.allow(rate_max.unwrap_or_default());
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

    /// How many there should be.
    #[must_use]
    pub fn connections_wanted(&self) -> u32 {
        let wanted = self.connections.iter().filter(|connection| connection.usage == Use::Open);
        u32::try_from(wanted.count()).unwrap_or(u32::MAX)
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

    /// The connection that carries a channel.
    pub(super) fn connection(&self, key: ChannelKey) -> ConnectionId {
        self.channels[key.0 as usize].connection
    }

    /// Ably's name for a connection.
    pub(super) fn ably_id(&self, connection: ConnectionId) -> Option<&str> {
        self.connections[connection as usize].ably_id.as_deref()
    }

    /// Who we are on a connection, if anybody in particular.
    pub fn identify(&mut self, connection: ConnectionId, client_id: Option<Arc<str>>) {
        self.connections[connection as usize].client_id = client_id;
    }

    /// Who we are on a connection, if anybody in particular.
    pub(super) fn client_id(&self, connection: ConnectionId) -> Option<&str> {
        self.connections[connection as usize].client_id.as_deref()
    }

    /// Whether the connection that carries a channel is up.
    pub(super) fn is_up(&self, key: ChannelKey) -> bool {
        self.connections[self.connection(key) as usize].up
    }

    /// Whether a response on a channel may have several operations under way.
    pub(super) fn pipelining(&self, key: ChannelKey) -> Pipelining {
        self.connections[self.connection(key) as usize].pipelining
    }

    /// Whether every frame on a channel's connection counts.
    pub(super) fn counts_frames(&self, key: ChannelKey) -> bool {
        self.connections[self.connection(key) as usize].counts_frames.is_some()
    }

    /// Bytes of the largest message that a channel takes; none until its connection has said so.
    pub(super) fn message_bytes_max(&self, key: ChannelKey) -> Option<usize> {
        let connection = &self.connections[self.connection(key) as usize];
        connection.up.then_some(connection.message_bytes_max)
    }

    /// Takes a permit to read one message back, or tells when there will be one.
    pub(super) fn take_read_back(&mut self, now: Time) -> Result<(), Time> {
        self.read_backs.take_one(now)
    }

    /// The account is used by all who consume the topic, each by as much as it has of its partitions.
    pub fn share(&mut self, now: Time, owned: usize, all: usize) {
        let share = owned.clamp(1, all.max(1)) as f64 / all.max(1) as f64;
        let Account { rate, requests, bandwidth, share: former, .. } = &mut self.account;
        *former = share;
        for bucket in [rate, requests, bandwidth] {
            bucket.share(now, share);
        }
    }

    /// Somebody does not wait any more for a channel, or for what all share.
    pub(super) fn leave(&mut self, key: ChannelKey, ticket: Ticket) {
        self.channels[key.0 as usize].line.leave(ticket);
        self.account.bandwidth_line.leave(ticket);
    }

    /// Somebody does not wait any more for a connection.
    pub(super) fn leave_connection(&mut self, connection: ConnectionId, ticket: Ticket) {
        self.connections[connection as usize].line.leave(ticket);
        self.account.line.leave(ticket);
    }
}
