//! Simulations of hosts. The embedded store's code runs on an in-memory disk, and the cluster store's code
//! uses an in-memory server.
//!
//! A seed determines the whole run: time is virtual, and there are no threads. Each file system operation and
//! each call to the server is a step. At any step, a process may be killed, get an error or be suspended.
//! While it is suspended, other processes run. A turn is one event from outside, such as an ADD or a power
//! cut. After each turn, the store must agree with the results that commands have returned.

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

/// Simulates hosts with one seed after another. The environment variable `SUBLET_SEED` sets the first seed,
/// and `SUBLET_SECONDS` sets the duration in seconds.
#[test]
fn simulated_hosts_never_lease_an_address_twice() {
    runs::seeds::<Hosts>("hosts", 20);
}

/// Simulates clusters, with every kind of event that the code can survive. The environment variable
/// `SUBLET_EVENTS` selects other kinds (see `cluster/events.rs`).
#[test]
fn simulated_clusters_never_lease_an_address_twice() {
    runs::seeds::<Cluster>("clusters", 20);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    runs::same_seed_same_run::<Hosts>();
    runs::same_seed_same_run::<Cluster>();
}
