//! Docker's IPAM plugin protocol: `docker network create --ipam-driver sublet`.
//!
//! [`handle`] interprets a request and writes the answer with the texts of `ipamapi`; it is pure over a
//! store. Around it are the server, its command line, and `cleanup`. `alloc` decides which subnet or
//! address is allocated.
//! Invariant: a pool or a lease is durable before it is answered. Every answer is a JSON object. A failure
//! has both `Err` and `Error`, because dockerd reads one or the other depending on the status.

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

/// The largest accepted body, in bytes. dockerd's bodies are below 1 KiB, except for options that an operator
/// sets.
pub const LARGEST_BODY: usize = 1 << 20;
