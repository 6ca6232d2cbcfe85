//! One integration binary: one module for each part that is tested from outside.

// A test's helpers may fail as a test does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cni;
mod config;
mod ecs;
mod kill;
mod reader;
mod util;
