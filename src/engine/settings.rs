//! What the engine is told once: limits, policies and the names that records carry.

use std::sync::Arc;
use std::time::Duration;

use super::channel::ChannelRules;
use super::op::{Batch, Pattern};

/// Response ids longer than this go to the dead-letter topic; they would stand in every frame and every result.
pub const RESPONSE_ID_BYTES_MAX: usize = 1_024;

/// What the engines of one process are told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The tokens topic, for records and create ids.
    pub topic: Arc<str>,
    /// First part of every create id; tells one Kafka cluster from another.
    pub id_namespace: Arc<str>,
    /// This process, for records.
    pub instance: Arc<str>,
    /// This program's version, for records.
    pub relay_version: &'static str,
    /// Which channels there are.
    pub channels: ChannelRules,
    /// After this long without an event a response ends as abandoned.
    pub idle: Duration,
    /// How many settled responses a partition remembers, to refuse late events.
    pub remember: usize,
    /// How a text is mended.
    pub reconcile: ReconcileSettings,
    /// How long responses wait on a channel that refuses them before they fail.
    pub refused_hold: Duration,
    /// Where messages cannot be changed each response is published once, as a whole, when it ends.
    pub whole: bool,
    /// The server's rollup window: appends to one message within it count as one.
    pub append_rollup: Duration,
    /// How responses are put on channels whose records do not say.
    pub pattern: Pattern,
    /// How tokens leave that wait together.
    pub batch: Batch,
}

/// How a text on a channel that may differ from ours is mended.
#[derive(Debug, Clone, Copy)]
pub struct ReconcileSettings {
    /// When the full text is sent.
    pub when: ReconcileWhen,
    /// How long to wait for more failures first.
    pub debounce: Duration,
    /// How many refusals of the full text (or of the create) make the response fail.
    pub attempts: u32,
    /// When the text on the channel is read back.
    pub verify: Verify,
    /// How long bytes of a connection that is gone may be under way: so long after its end the text is read back once more.
    pub late_check: Duration,
    /// How long reads may say nothing of use before a response settles without.
    pub verify_timeout: Duration,
}

/// When the text on the channel is read back before a response settles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Never.
    Never,
    /// When nobody knows what became of an operation, and after a takeover.
    AfterUnknown,
    /// Always.
    Always,
}

/// When the full text of a tainted response is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReconcileWhen {
    /// While it streams.
    Eager,
    /// Once, when it has ended. Until then nothing is appended: the reader's text stands still.
    AtEnd,
    /// Not at all: it fails as `not-reconciled`. For tests.
    Never,
}

/// What the engines of one process may use together.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Responses whose text is in memory.
    pub open_max: usize,
    /// Responses whose text was dropped from memory.
    pub stub_max: usize,
    /// Bytes of all texts in memory.
    pub text_bytes_max: usize,
    /// Connections.
    pub connections_max: u32,
    /// New connections a second.
    pub openings: u32,
    /// How long a connection may carry nothing before it is closed.
    pub connection_idle: Duration,
    /// Operations a second on one connection, counted after the server's rollup.
    pub connection_rate: u32,
    /// Frames a second on one connection, whatever the server makes of them.
    pub frame_rate: u32,
    /// Operations a second on one channel, counted after the server's rollup.
    pub channel_rate: u32,
    /// Bytes of full texts a second on one channel.
    pub channel_bandwidth: u64,
    /// Operations a second altogether; 0 for no ceiling of ours.
    pub account_rate: u32,
    /// Requests a second altogether, where operations are requests; 0 for no ceiling of ours.
    pub request_rate: u32,
    /// Bytes of full texts a second altogether; 0 for no ceiling of ours.
    pub account_bandwidth: u64,
    /// How long a rate that was refused is not tried again.
    pub refused_rate_hold: Duration,
    /// Messages read back in a second.
    pub read_back_rate: u32,
    /// Operations in flight on one connection.
    pub in_flight_operations: u32,
    /// Bytes in flight on one connection.
    pub in_flight_bytes: usize,
    /// Bytes of the largest message, until a connection says otherwise.
    pub message_bytes_max: usize,
}
