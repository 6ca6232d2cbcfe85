//! Tests of whole programs. They run the binaries as a container runtime or an operator would.
//!
//! A test case that consists of an input and an expected output belongs in a folder in testdata/. The modules
//! here are for tests with many processes, damaged files or other programs. A test that needs more than the
//! built binaries belongs in `peers`.

// Test helpers may panic.
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
