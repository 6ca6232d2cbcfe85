//! Tests that need more than the built binaries: root, a namespace, a server, or a program that this project
//! does not build. If something is missing, the tests fail; they are never skipped.
//!
//! `scripts/test.sh --fast` leaves out every test with a module `peers` in its path. These are the tests in
//! this folder, and the tests in a `mod peers` inside another module.

pub mod cluster_commands;
pub mod clusters;
mod differential;
mod disk;
mod docker_cluster;
mod export;
mod flushes;
mod gc;
pub mod host;
mod import_host_local;
mod inject;
mod install;
mod legacy_consul;
mod libcni;
mod node;
mod plugins;
mod power;
pub mod reboot;
mod takeover;
mod terminal;
