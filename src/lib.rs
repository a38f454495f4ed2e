//! tokenrelay relays LLM token streams from Kafka to Ably channels, tracks the outcome of every operation, and repairs what
//! failed. `ARCHITECTURE.md` is the map.
//!
//! Reading order: [`engine`] (what is decided, without sockets or a clock), its `next` (what a response sends next) and
//! `reconcile` (how a text is mended), [`pipeline`] with its `relay` (the loop between Kafka, engines and Ably), and
//! [`ably`] with its `session` (which answer belongs to which operation).

pub mod ably;
pub mod audit;
pub mod cli;
pub mod config;
pub mod decode;
pub mod demo;
pub mod emulator;
pub mod engine;
pub mod kafka;
pub mod pipeline;
pub mod telemetry;

#[cfg(test)]
#[path = "../tests/it/sim.rs"]
mod sim;

#[cfg(test)]
mod vectors;
