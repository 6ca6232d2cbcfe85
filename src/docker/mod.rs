//! Docker's IPAM plugin protocol: `docker network create --ipam-driver sublet`.
//!
//! [`handle`] interprets a request and makes the answer, with the texts of Docker's `ipamapi`. It depends
//! only on the store that is passed to it. The other parts are the server, its command line, and `cleanup`.
//! `alloc` decides which subnet or address is allocated.
//! Invariant: a pool or a lease is durable before it is answered. Every answer is a JSON object. A failure
//! has both `Err` and `Error`: which of them dockerd reads depends on the status.

mod api;
pub mod args;
mod cleanup;
mod dockerd;
mod names;
mod pool;
mod routes;
pub mod server;
mod settings;
mod wire;

pub use api::{Driver, Undo, handle};
pub use settings::{Settings, block, supernet};

/// The largest accepted body, in bytes. Bodies from dockerd are smaller than 1 KiB, unless an operator sets
/// long options.
pub const LARGEST_BODY: usize = 1 << 20;
