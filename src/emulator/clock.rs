//! The emulator's time: milliseconds since the Unix epoch, as Ably's timestamps are.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
