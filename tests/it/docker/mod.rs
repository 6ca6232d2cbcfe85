//! Tests Docker's IPAM driver. The golden folders in testdata/docker are run twice: once by calling the
//! function `handle`, and once through the socket. Each of the protocol's rules R1 to R21 has a test. Random
//! requests are compared with a simple model. Cleanup is tested with a fake dockerd.

mod clean;
mod crowd;
mod daemon;
mod models;
mod rules;
mod story;
mod tcp;

pub use clean::dockerd;
pub use daemon::{Daemon, subletd, until};
