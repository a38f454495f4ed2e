//! Ably: its wire, and the client that the relay is.
//!
//! Reading order: `wire` (what frames look like), `session` (what a connection owes its operations, without sockets),
//! `realtime` (a session with a socket), `rest` (requests in its place), `pool` (all of them), `lease` (until when they may
//! write). `encode` and `fault` are the session's way out and its dictionary.

pub mod auth;
pub mod encode;
pub mod endpoint;
pub mod fault;
#[cfg(test)]
mod fixtures;
mod gate;
mod history;
mod http;
pub mod lease;
pub mod pool;
mod probe;
mod realtime;
mod rest;
pub mod session;
mod transport;
pub mod wire;

pub use fault::Error;
pub use history::History;
pub use lease::{Lease, Moment};
pub use pool::{Event, Pool, Settings};
pub use probe::{Tried, probe, probe_channel};
