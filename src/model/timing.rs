//! How long something took.
//!
//! Owns: the buckets, which are the same wherever times are counted. Does not own: what is timed, or
//! how a number is written (`metrics`).
//! Invariant: a time is in one bucket.

use std::ops::AddAssign;
use std::time::Duration;

/// Upper bounds of a histogram's buckets, in seconds: from a memory's time to a stalled disk's. Stores
/// keep counts by a bound's place, so they stay.
pub const BOUNDS: [f64; 12] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// How often something took how long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many were above the bound before and not above this one; the last: above all [`BOUNDS`].
    pub buckets: [u64; BOUNDS.len() + 1],
    /// All of them together.
    pub sum: Duration,
}

impl Histogram {
    /// Of nothing.
    pub const EMPTY: Histogram = Histogram { buckets: [0; BOUNDS.len() + 1], sum: Duration::ZERO };

    /// The place of a time's bucket.
    pub fn bucket(took: Duration) -> usize {
        BOUNDS.partition_point(|bound| *bound < took.as_secs_f64())
    }

    /// One more.
    pub fn add(&mut self, took: Duration) {
        self.buckets[Histogram::bucket(took)] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// A time of all of them together as one's share, in seconds; `None` without any.
    pub fn mean_of(&self, time: Duration) -> Option<f64> {
        // More than a number of floating point tells exactly, nobody has counted.
        #[allow(clippy::cast_precision_loss, reason = "see above")]
        let count = self.count() as f64;
        (count > 0.0).then(|| time.as_secs_f64() / count)
    }
}

impl AddAssign<&Histogram> for Histogram {
    fn add_assign(&mut self, other: &Histogram) {
        for (mine, more) in self.buckets.iter_mut().zip(other.buckets) {
            *mine = mine.saturating_add(more);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }
}

/// What a request has taken until now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Waiting for the store's locks.
    pub waited: Duration,
    /// Altogether, since the store was asked.
    pub took: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_counts_each_bucket_and_those_above() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.mean_of(histogram.sum), None);
        for micros in [0, 500, 501, 30_000, 60_000_000] {
            histogram.add(Duration::from_micros(micros));
        }
        let mut twice = histogram.clone();
        assert_eq!(histogram.buckets, [2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.count(), 5);
        assert_eq!(histogram.sum, Duration::from_micros(60_031_001));
        assert_eq!(histogram.mean_of(Duration::from_secs(10)), Some(2.0));
        twice += &histogram;
        assert_eq!((twice.count(), twice.sum), (10, histogram.sum * 2));
    }
}
