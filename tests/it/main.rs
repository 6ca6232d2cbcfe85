//! Whole-program tests: the binary as a runtime and a person run it, in one binary of their own.
//!
//! A behaviour that can be seen as a configuration and an answer belongs into a folder under
//! testdata/; a module is for what needs other programs, many processes or a broken machine.

// A test's helpers may fail as a test does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod check;
mod cluster_commands;
mod clusters;
mod cni;
mod commands;
mod config;
mod damage;
mod delegate;
mod differential;
mod disk;
mod docker;
mod ecs;
mod export;
mod faults;
mod flushes;
mod gc;
mod host;
mod import;
mod inject;
mod install;
mod lab;
mod libcni;
mod limits;
mod lost;
mod moving;
mod networks;
mod node;
mod old;
mod operator;
mod plugins;
mod power;
mod queue;
mod reader;
mod readme;
mod reboot;
mod supply;
mod swarm;
mod takeover;
mod terminal;
mod tidy;
mod told;
mod troubleshooting;
mod web;
