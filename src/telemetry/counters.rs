//! The counters of this process since it started: the durations of requests and lock waits, conflicts and
//! failures. Unlike the store's counters, they are only in memory.
//!
//! Invariant: counting waits for nothing except another thread that is also counting.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The upper bounds of a histogram's buckets, in seconds.
pub const BOUNDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// A distribution of durations.
#[derive(Clone, Debug)]
pub struct Histogram {
    /// For each bucket, the number of durations that are above the previous bound and not above the bucket's
    /// own bound. The last bucket counts the durations above all [`BOUNDS`].
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

/// The counters of a process.
#[derive(Clone, Debug)]
pub struct Counters {
    /// The durations of requests, by face, command and outcome.
    pub requests: BTreeMap<(&'static str, &'static str, &'static str), Histogram>,
    /// The waits for the lock of a store, if the lock was not free.
    pub waits: Histogram,
    /// The number of commits in a cluster that failed because another client committed first.
    pub conflicts: u64,
    /// The number of times that a store did not respond or was damaged.
    pub failures: u64,
}

static COUNTERS: Mutex<Counters> = Mutex::new(Counters {
    requests: BTreeMap::new(),
    waits: Histogram::EMPTY,
    conflicts: 0,
    failures: 0,
});

fn counters() -> MutexGuard<'static, Counters> {
    COUNTERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a finished request by face, command and outcome.
pub fn request(request: (&'static str, &'static str, &'static str), took: Duration) {
    counters().requests.entry(request).or_insert(Histogram::EMPTY).add(took);
}

/// Counts a wait for a store's lock.
pub fn waited(took: Duration) {
    counters().waits.add(took);
}

/// Counts a commit in a cluster that failed because another client committed first.
pub fn conflict() {
    counters().conflicts += 1;
}

/// Counts a failure: a store did not respond or was damaged.
pub fn failure() {
    counters().failures += 1;
}

/// Returns a copy of the counters.
pub fn now() -> Counters {
    counters().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_in_one_bucket() {
        let mut histogram = Histogram::EMPTY;
        for micros in [0, 500, 501, 30_000, 60_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        assert_eq!(histogram.buckets, [2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.sum, Duration::from_micros(60_031_001));
    }
}
