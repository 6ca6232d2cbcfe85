//! Docker's IPAM plugin protocol: `docker network create --ipam-driver sublet`.
//!
//! [`handle`] interprets a request and makes the response, with the texts of Docker's `ipamapi`. It depends
//! only on the store that is passed to it. The other parts are the server, its command line, and `cleanup`.
//! `alloc` decides which subnet or address is allocated.
//! Invariant: a pool or a lease is durable before the response is sent. Every response is a JSON object. The
//! response to a failure has both `Err` and `Error`, because dockerd reads one or the other, depending on the
//! HTTP status.

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

/// The maximum size of a body, in bytes. dockerd sends less than 1 KiB, unless an operator sets long options.
pub const LARGEST_BODY: usize = 1 << 20;
