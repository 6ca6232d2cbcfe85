//! Docker's IPAM plugin protocol: `docker network create --ipam-driver sublet`.
//!
//! Owns: what a request means, the texts of `ipamapi`, which answer is written ([`handle`], pure over a
//! store), and around it the server, its command line, and `cleanup`. Does not own: which subnet or
//! address is given (`alloc`).
//! Invariant: a pool or a lease is durable before it is answered, and every answer is a JSON object: a
//! failure has both `Err` and `Error`, for dockerd reads the one or the other depending on the status.

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

/// The largest body that is read, in bytes. dockerd's are below 1 KiB; options are an operator's.
pub const LARGEST_BODY: usize = 1 << 20;
