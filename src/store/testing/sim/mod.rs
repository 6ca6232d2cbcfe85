//! Simulations of hosts: the embedded store's own code on an in-memory disk, the cluster store's on an
//! in-memory server.
//!
//! A seed determines the whole run: time is virtual and there are no threads. At any file system operation or
//! server call (a step) a process may be killed, get an error or be suspended; other processes run while it
//! is suspended. After each turn (one event from outside, such as an ADD or a power cut), the store must
//! agree with the results that commands have returned.

mod cluster;
pub mod disk;
mod docker;
mod hosts;
mod pools;
pub mod process;
pub mod random;
mod run_folder;
mod runs;
mod server;
mod settings;

use self::cluster::Cluster;
use self::hosts::Hosts;

/// `SUBLET_SEED` sets the first seed, `SUBLET_SECONDS` the duration.
#[test]
fn simulated_hosts_never_lease_an_address_twice() {
    runs::seeds::<Hosts>("hosts", 20);
}

/// Runs with all events that the code can survive; `SUBLET_EVENTS` selects others (`cluster/events.rs`).
#[test]
fn simulated_clusters_never_lease_an_address_twice() {
    runs::seeds::<Cluster>("clusters", 20);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    runs::same_seed_same_run::<Hosts>();
    runs::same_seed_same_run::<Cluster>();
}
