//! All waits of a store other than lock waits: waits for other clients of a server, and for an election to
//! end.

use std::thread;
use std::time::{Duration, Instant};

use super::server::Server;

/// Waits, but not beyond `until`.
#[allow(clippy::disallowed_methods, reason = "nothing to wait on but time; always bounded")]
pub fn pause(wait: Duration, until: Instant) {
    thread::sleep(wait.min(until.saturating_duration_since(Instant::now())));
}

/// Waits after `lost` lost races. The wait is random and grows, because clients that retry at once collide
/// again.
pub fn after_lost_races(server: &dyn Server, lost: u32, seed: u64, until: Instant) {
    const LONGEST: u64 = 64;
    // The first lost race is chance. The current records are known now, so the next attempt probably
    // succeeds.
    let Some(doublings) = lost.checked_sub(2) else { return };
    let most = 1_000 * (1 << doublings.min(6)).min(LONGEST);
    let chance = seed.rotate_left(lost).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    server.pause(Duration::from_micros(chance % most), until);
}
