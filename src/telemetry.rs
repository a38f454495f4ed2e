//! What the process says of itself: metrics, readiness, and the log.

mod health;
mod metrics;

pub use health::Health;
pub use metrics::{Gauges, Metrics};
