//! What the emulator has seen and done.

use std::collections::BTreeMap;

use serde::Serialize;

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Connections that are open now.
    pub connections: u64,
    /// Connections that were open at the same time, at the most.
    pub connections_most: u64,
    /// Connections that were opened.
    pub connected: u64,
    /// Connections that their clients have ended with CLOSE.
    pub closed: u64,
    /// Newer tokens that were shown on connections that were up.
    pub authorised: u64,
    /// Resumes that gave the state back.
    pub resumed: u64,
    /// Resumes that did not.
    pub resumes_refused: u64,
    /// Channels that hold something.
    pub channels: u64,
    /// Messages that were made.
    pub creates: u64,
    /// Appends that were asked for.
    pub appends: u64,
    /// Updates that were asked for.
    pub updates: u64,
    /// Deletes that were asked for.
    pub deletes: u64,
    /// Operations that were taken.
    pub acked: u64,
    /// Operations that were refused, by code.
    pub nacked: BTreeMap<u32, u64>,
    /// Operations that were applied and never answered.
    pub unanswered: u64,
    /// Connections that were dropped on purpose.
    pub dropped: u64,
    /// Creates that were recognised by their id.
    pub recognised: u64,
    /// Frames that were recognised after a resume.
    pub repeated: u64,
    /// Frames sent to subscribers.
    pub delivered: u64,
    /// Subscribers that were too slow.
    pub slow: u64,
    /// What was cut off by a drop and is still to arrive.
    pub under_way: u64,
    /// How often each fault has struck, by its name: one that is on and has nothing to act on does not.
    pub struck: BTreeMap<&'static str, u64>,
}

impl Stats {
    /// A fault has struck.
    pub(super) fn strike(&mut self, fault: &'static str) {
        *self.struck.entry(fault).or_default() += 1;
    }
}
