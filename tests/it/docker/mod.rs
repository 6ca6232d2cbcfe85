//! Docker's IPAM driver: the acceptance tables as golden folders, told to the pure `handle` and over
//! the socket; the rules R1 to R21 of the protocol, each with a test of its name; random requests
//! against a plain model; cleanup against a dockerd that is played.

mod clean;
mod crowd;
mod daemon;
mod models;
mod rules;
mod story;
mod tcp;

pub use clean::dockerd;
pub use daemon::{Daemon, subletd, until};
