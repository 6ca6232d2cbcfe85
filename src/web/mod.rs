//! The status page, its JSON API and the metrics.
//!
//! The server is read-only: no request changes a lease, and it sets no cookies.
//!
//! Invariants: For each store, a single thread does all reads, regardless of the number of clients.
//! Refreshing a cached value (the snapshot, the problems or the trends) takes at most a tenth of that
//! thread's time. Memory is bounded: leases are returned in pages, and idle or slow clients are disconnected
//! when others need their place. A long response never delays a container.

mod answer;
mod api;
mod cache;
mod connections;
mod host;
mod leases;
mod metrics;
mod past;
mod query;
mod serve;
mod slot;
mod snapshot;
mod status;

pub use serve::open;
