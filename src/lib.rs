//! tokenrelay relays LLM token streams from Kafka to Ably channels.

pub mod ably;
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
