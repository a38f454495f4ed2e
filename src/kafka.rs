//! Kafka: what the relay reads, what it writes, and what it commits.
//!
//! - [`client`]: the settings of every client, and which properties a user may not touch;
//! - [`topics`]: what must be so before anything starts;
//! - [`source`]: token records and rebalances, in order, through one door; offsets back;
//! - [`assignment`]: where a partition that was just given to us is to be read from;
//! - `predecessor`: what is known of the owner before us, and what follows;
//! - `restore`: what former owners have left in the results topic;
//! - [`results`]: the thread that makes results and dead letters durable;
//! - [`reader`]: reads a range of records once more;
//! - [`scan`]: reads any topic from outside.
//!
//! librdkafka does the protocol. What it does at the edges was read in its source or seen on a broker, and is said in
//! the comments where code depends on it.

pub mod assignment;
pub mod client;
mod context;
mod error;
mod handover;
mod headers;
pub(crate) mod predecessor;
mod pulse;
pub mod reader;
mod restore;
pub mod results;
pub mod scan;
pub mod source;
pub mod topics;

pub use context::Stranded;
pub use error::{Error, Kind};
pub use handover::{Ending, Handover, METADATA_BYTES_MAX, Places};
pub use headers::{header, headers};
