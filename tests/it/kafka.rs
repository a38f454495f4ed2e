//! What we rely on of Kafka, on a real one. `tests/run` provides it.

mod group;
mod mock;
mod raw;
mod reader;
pub(crate) mod results;
mod security;
mod source;
mod topics;
mod transactions;
