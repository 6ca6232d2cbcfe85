//! The status page, its JSON API and the metrics.
//!
//! Read-only: there is no request that changes a lease, and no cookie.
//! Invariant: however many clients ask, one thread reads the store, and each kind of facts for at most a tenth
//! of the time. Memory is bounded, whatever clients do: leases are answered in pages, and
//! idle clients and slow readers make room for others. A long answer never delays a container.

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
