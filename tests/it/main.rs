//! Tests of whole programs: they run the binaries in the same way as a container runtime or an operator.
//!
//! A case that consists of a configuration and an answer belongs in a folder in testdata/. The modules here
//! are for tests of many processes, damaged files or other programs. A test that needs more than the built
//! binaries belongs in `peers`.

// Helper functions of tests may panic.
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
