//! Ably: its wire, and the client that the relay is.

pub mod wire;
