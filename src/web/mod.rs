//! The status page, its JSON API and the metrics: what an operator looks at.
//!
//! Owns: HTTP for a browser and for Prometheus. Read-only: there is no request that changes a lease,
//! and no cookie. Does not own: what is told (the store's own questions).
//! Invariant: the store is looked at seldom, whoever asks how often: a look serves all who ask within
//! a second, and no more than a tenth of the time is spent looking. All this is in a thread of its own, so
//! that a long answer never holds up a container.

mod api;
mod metrics;
mod serve;
mod shelf;
mod survey;

pub use serve::{Plan, Site, open};
