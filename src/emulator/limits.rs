//! Bounds on what a stranger can make the emulator keep. Those that Ably documents are Ably's.

use std::time::Duration;

/// Channels that one connection may be attached to (Ably: 90010).
pub(super) const CHANNELS_PER_CONNECTION: usize = 200;
/// Connections, live and resumable.
pub(super) const CONNECTIONS: usize = 10_000;
/// Channels.
pub(super) const CHANNELS: usize = 200_000;
/// Messages that a channel keeps; the oldest go first.
pub(super) const MESSAGES_PER_CHANNEL: usize = 10_000;
/// Versions that a message keeps; the oldest go first.
pub(super) const VERSIONS_PER_MESSAGE: usize = 100;
/// Bytes of text altogether.
pub(super) const TEXT_BYTES: usize = 1 << 30;
/// Frames that wait for a slow reader; one more and it is disconnected.
pub(super) const OUTBOX_FRAMES: usize = 50_000;
/// Answers that a connection keeps, to give them again after a resume.
pub(super) const ANSWERS_KEPT: usize = 4_096;
/// Bytes of a frame or body (Ably: `maxFrameSize`).
pub(super) const FRAME_BYTES: usize = 512 * 1_024;
/// How long a connection's state survives without a transport.
pub(super) const STATE_TTL: Duration = Duration::from_secs(120);
/// How long a create is recognised by its id.
pub(super) const IDEMPOTENCY: Duration = Duration::from_secs(120);
/// The longest silence of the server.
pub(super) const IDLE: Duration = Duration::from_secs(15);
/// Events that a channel keeps for clients that attach again.
pub(super) const BACKLOG: usize = 1_000;
/// Tokens that are valid at a time.
pub(super) const TOKENS: usize = 10_000;
