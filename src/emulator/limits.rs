//! Bounds on what a stranger can make the emulator keep. Those that Ably documents are Ably's.

use std::time::Duration;

/// Channels that one connection may be attached to (Ably: 90010).
pub(super) const CHANNELS_PER_CONNECTION: usize = 200;
/// Connections, live and resumable.
pub(super) const CONNECTIONS: usize = 10_000;
/// Channels.
pub(super) const CHANNELS: usize = 200_000;
/// Messages altogether; the oldest go first.
pub(super) const MESSAGES: usize = 1_000_000;
/// Versions that a message keeps; the oldest go first.
pub(super) const VERSIONS_PER_MESSAGE: usize = 100;
/// Bytes of messages altogether, versions included; the oldest messages go first.
pub(super) const STORED_BYTES: usize = 1 << 30;
/// Frames that wait for a slow reader, and their bytes; one more and it is disconnected.
pub(super) const OUTBOX_FRAMES: usize = 50_000;
pub(super) const OUTBOX_BYTES: usize = 32 << 20;
/// Messages of one frame.
pub(super) const MESSAGES_PER_FRAME: usize = 1_000;
/// Channels, and messages, of one batch (Ably: 100 and 1,000).
pub(super) const BATCH_CHANNELS: usize = 100;
pub(super) const BATCH_MESSAGES: usize = 1_000;
/// Bytes of a message's id: Ably names no limit, and does not count it as part of the message.
pub(super) const ID_BYTES: usize = 4 * 1_024;
/// Bytes that something takes besides its texts: a guess.
pub(super) const OVERHEAD: usize = 256;
/// Text of refused appends that a message keeps, to let it appear later.
pub(super) const FOLDED_BYTES: usize = 64 * 1_024;
/// Serials that wait to be given; one more and the oldest are given before their time.
pub(super) const ANSWERS_WAITING: usize = 50_000;
/// Answers that a connection keeps, to give them again after a resume.
pub(super) const ANSWERS_KEPT: usize = 4_096;
/// Bytes of a frame or body (Ably: `maxFrameSize`).
pub(super) const FRAME_BYTES: usize = 512 * 1_024;
/// Bytes of a batch (Ably: 2 MiB).
pub(super) const BATCH_BYTES: usize = 2 << 20;
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
/// How far the clock of a client that signs token requests may be off.
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(120);
/// How long before the end of its token a client is asked for another, at most.
pub(super) const TOKEN_WARNING: Duration = Duration::from_secs(30);
/// The longest rollup window that a client gets (Ably: 500 ms).
pub(super) const ROLLUP_MAX: Duration = Duration::from_millis(500);
/// How long a client may take to read what waits for it.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// Steps of a scenario.
pub(super) const STEPS: usize = 100;
