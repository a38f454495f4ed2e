//! How much may be sent: on a channel, on a connection, and by the account.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Channels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Channels {
    /// Globs. An event can reach only channels that match one; with none, no channel at all.
    pub allow: Vec<String>,
    /// Operations a second on one channel, counted after the server's rollup.
    pub rate: u32,
    /// Bytes of full texts a second on one channel.
    #[serde(serialize_with = "super::size::exactly")]
    pub bandwidth: ByteSize,
}

/// Connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// How many at most. There are as many as the open channels need, and no more than 200 channels on one if it can be helped.
    pub max: u32,
    /// New connections a second.
    pub openings: u32,
    /// One that has carried nothing for so long is closed. One is always kept.
    #[serde(with = "humantime_serde")]
    pub idle: Duration,
    /// Operations a second on one connection, counted after the server's rollup. If the server allows fewer, that is kept.
    pub rate: u32,
    /// Frames a second on one connection, whatever the server makes of them; beyond, tokens are joined before they are sent.
    pub frames: u32,
}

/// The account. Relays of one consumer group share these, each as much as it has of the partitions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Account {
    /// Operations a second altogether; 0 for no ceiling of ours.
    pub rate: u32,
    /// Requests a second altogether, where operations go by request; 0 for no ceiling of ours.
    pub requests: u32,
    /// Bytes of full texts a second altogether; 0 for no ceiling of ours.
    #[serde(serialize_with = "super::size::exactly")]
    pub bandwidth: ByteSize,
}

/// What may be unanswered on one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct InFlight {
    /// Operations.
    pub operations: u32,
    /// Bytes.
    #[serde(serialize_with = "super::size::exactly")]
    pub bytes: ByteSize,
}

impl Default for Channels {
    fn default() -> Self {
        Self { allow: Vec::new(), rate: 50, bandwidth: ByteSize::mib(1) }
    }
}

impl Default for Connections {
    fn default() -> Self {
        Self { max: 20, openings: 20, idle: Duration::from_secs(60), rate: 50, frames: 400 }
    }
}

impl Default for InFlight {
    fn default() -> Self {
        Self { operations: 200, bytes: ByteSize::mib(4) }
    }
}
