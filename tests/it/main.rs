//! Whole-program tests: the binary as a runtime and a person run it.

// A test's helpers may fail as a test does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod delegate;
mod differential;
mod faults;
mod lab;
mod readme;
mod supply;
mod swarm;
mod takeover;
mod tidy;
