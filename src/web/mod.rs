//! The status page, its JSON API and the metrics.
//!
//! Read-only: there is no request that changes a lease, and no cookie.
//! Invariant: however many clients ask, the store is read at most once a second, and reading takes at most a
//! tenth of the time. All this is in a thread of its own, so that a long answer never delays a container.

mod api;
mod cache;
mod metrics;
mod serve;
mod snapshot;

pub use serve::{PageOptions, Site, open};
