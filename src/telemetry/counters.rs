//! What this process has seen since it began: how long requests took, how long locks were waited for,
//! how often others were faster.
//!
//! Owns: the numbers; they are the whole process's, as what they measure is. Does not own: what is kept
//! over processes (the store's counters), or how a number is written ([`super::metrics`]).
//! Invariant: counting never blocks on anything but another count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Upper bounds of a histogram's buckets, in seconds.
pub const BOUNDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// The distribution of some durations.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    /// The number of durations above the previous bound and not above this one. The last bucket is
    /// for those above all [`BOUNDS`].
    pub buckets: [u64; BOUNDS.len() + 1],
    /// The sum of all durations.
    pub sum: Duration,
}

impl Histogram {
    const EMPTY: Histogram = Histogram { buckets: [0; BOUNDS.len() + 1], sum: Duration::ZERO };

    fn add(&mut self, took: Duration) {
        self.buckets[BOUNDS.partition_point(|bound| *bound < took.as_secs_f64())] += 1;
        self.sum += took;
    }
}

/// A kind of request: face, command, outcome.
pub type Request = (&'static str, &'static str, &'static str);

static REQUESTS: Mutex<BTreeMap<Request, Histogram>> = Mutex::new(BTreeMap::new());
static WAITS: Mutex<Histogram> = Mutex::new(Histogram::EMPTY);
static CONFLICTS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request was answered.
pub fn request(request: Request, took: Duration) {
    lock(&REQUESTS).entry(request).or_default().add(took);
}

/// A store's lock was not free, and was waited for.
pub fn waited(took: Duration) {
    lock(&WAITS).add(took);
}

/// A cluster's commit found that another was faster.
pub fn conflict() {
    CONFLICTS.fetch_add(1, Ordering::Relaxed);
}

/// A store did not answer, or is damaged.
pub fn failure() {
    FAILURES.fetch_add(1, Ordering::Relaxed);
}

/// The numbers, as they are now.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests.
    pub requests: BTreeMap<Request, Histogram>,
    /// Waits for locks.
    pub waits: Histogram,
    /// Commits that others were faster than.
    pub conflicts: u64,
    /// Times that a store failed.
    pub failures: u64,
}

/// All of it.
pub fn now() -> Tally {
    Tally {
        requests: lock(&REQUESTS).clone(),
        waits: lock(&WAITS).clone(),
        conflicts: CONFLICTS.load(Ordering::Relaxed),
        failures: FAILURES.load(Ordering::Relaxed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_one_bucket() {
        let mut histogram = Histogram::default();
        for micros in [0, 500, 501, 30_000, 60_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        assert_eq!(histogram.buckets, [2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.sum, Duration::from_micros(60_031_001));
    }
}
