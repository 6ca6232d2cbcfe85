//! sublet leases IP addresses to containers.
pub mod alloc;
pub mod cni;
pub mod config;
pub mod engine;
pub mod error;
pub mod host;
pub mod model;
pub mod net;
pub mod store;
pub mod takeover;
