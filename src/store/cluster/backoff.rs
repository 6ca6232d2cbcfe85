//! The waits of the cluster store: after another client has changed the same records first, and while the
//! servers elect a leader. Apart from these waits, the store waits only for locks and responses.

use std::thread;
use std::time::{Duration, Instant};

use super::server::Server;

/// Waits for the duration `wait`, but not longer than until `until`.
#[allow(clippy::disallowed_methods, reason = "no event to wait for; the wait is limited")]
pub fn pause(wait: Duration, until: Instant) {
    thread::sleep(wait.min(until.saturating_duration_since(Instant::now())));
}

/// Waits after this client has lost `lost` races against other clients. The wait is random and grows with
/// `lost`, because clients that retry at once collide again.
pub fn after_lost_races(server: &dyn Server, lost: u32, seed: u64, until: Instant) {
    const LONGEST: u64 = 64;
    // A single lost race is probably chance. The current records are now known, so the next attempt will
    // probably succeed without a wait.
    let Some(doublings) = lost.checked_sub(2) else { return };
    let most = 1_000 * (1 << doublings.min(6)).min(LONGEST);
    let chance = seed.rotate_left(lost).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    server.pause(Duration::from_micros(chance % most), until);
}
