//! sublet leases IP addresses to containers.
pub mod alloc;
pub mod config;
pub mod engine;
pub mod error;
pub mod model;
pub mod net;
pub mod store;
pub mod takeover;
