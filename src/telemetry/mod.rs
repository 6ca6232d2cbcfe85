//! Writes log lines, counters and metrics.

pub mod counters;
pub mod log;
pub mod metrics;
pub mod usage;
