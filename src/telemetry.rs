//! What the process says of itself: metrics, readiness, and the log.

pub mod admin;
mod health;
pub mod log;
mod metrics;

pub use health::Health;
pub use metrics::{Facts, Gauges, Metrics};
