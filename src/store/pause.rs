//! The one place where a store sleeps.
//!
//! Everywhere else a wait is a bounded wait on a lock. On a server there is no lock to wait on: only
//! other clients to get out of step with, and elections to sit out.

use std::thread;
use std::time::{Duration, Instant};

/// Waits, but not beyond `until`.
#[allow(clippy::disallowed_methods, reason = "nothing to wait on but time; always bounded")]
pub fn pause(wait: Duration, until: Instant) {
    thread::sleep(wait.min(until.saturating_duration_since(Instant::now())));
}
