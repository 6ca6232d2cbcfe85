//! Docker's IPAM driver: the acceptance tables as golden folders, run with the pure `handle` and over the
//! socket; the rules R1 to R21 of the protocol, each with a test; random requests compared with a simple
//! model; cleanup with an imitated dockerd.

mod clean;
mod crowd;
mod daemon;
mod models;
mod rules;
mod story;
mod tcp;

pub use clean::dockerd;
pub use daemon::{Daemon, subletd, until};
