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

/// Lets the others go first, for a while that differs from client to client and grows: those that
/// retry at once meet again.
pub fn step_aside(lost: u32, seed: u64, until: Instant) {
    const LONGEST: u64 = 64;
    // The first loss is chance: the truth is known now, and another try will do.
    let Some(doublings) = lost.checked_sub(2) else { return };
    let most = 1_000 * (1 << doublings.min(6)).min(LONGEST);
    let chance = seed.rotate_left(lost).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    pause(Duration::from_micros(chance % most), until);
}
