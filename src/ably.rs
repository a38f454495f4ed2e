//! Ably: its wire, and the client that the relay is.

pub mod encode;
pub mod fault;
pub mod session;
pub mod wire;

pub use fault::Error;
