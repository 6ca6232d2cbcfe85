//! Whole-program tests: they run the binaries as a container runtime or an operator does.
//!
//! A case that is a configuration and an answer belongs in a folder under testdata/. A module is for
//! tests of many processes, damaged files or other programs. Tests that need more than the built
//! binaries are in `peers`.

// A test's helpers may panic.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agent;
mod check;
mod cluster_model;
mod cni;
mod cni_cache;
mod commands;
mod config;
mod copy;
mod damage;
mod delegate;
mod docker;
mod ecs;
mod faults;
mod history;
mod import;
mod install;
mod kubernetes;
mod lab;
mod limits;
mod networks;
mod operator;
mod peers;
mod queue;
mod reader;
mod readme;
mod sabotage;
mod schema;
mod stale;
mod store_check;
mod supply;
mod swarm;
mod tidy;
mod troubleshooting;
mod watch;
mod web;
