//! The segments of a node's history: which one is written to, and which ones are removed. [`super::cache`]
//! stores them.

use crate::model::{History, Timestamp};

/// Segments of a node, unless fewer events are kept.
const SEGMENTS: u64 = 8;

/// Segments that one transaction removes at most.
const MAX_EXPIRED: usize = 2;

/// Operations that history adds to one transaction at most.
pub const OPERATIONS: usize = MAX_EXPIRED + 1;

/// The segments of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// How many events are kept, and for how many seconds. With 0 events none is written.
    pub bounds: (u64, u64),
    /// When each segment was started, the oldest first.
    pub starts: Vec<Timestamp>,
    /// Whether `starts` includes the segments of earlier boots.
    pub has_earlier: bool,
    /// The number of events in the newest segment.
    pub events: u64,
}

impl Segments {
    /// No segments, with the default bounds.
    pub fn new() -> Segments {
        let mut segments =
            Segments { bounds: (0, 0), starts: Vec::new(), has_earlier: false, events: 0 };
        segments.set_bounds(History::OF_A_NODE);
        segments
    }

    /// Applies a configured setting.
    pub fn set_bounds(&mut self, setting: History) {
        match setting {
            History::Standing => {}
            History::Off => self.bounds.0 = 0,
            History::Kept { count, age } => self.bounds = (count, age),
        }
    }

    fn max_segments(&self) -> u64 {
        SEGMENTS.min(self.bounds.0).max(1)
    }

    /// Starts another segment if the newest one is full or old.
    pub fn roll(&mut self, now: Timestamp) {
        let (count, age) = self.bounds;
        let most = self.max_segments();
        let last = self.starts.last().copied();
        let is_full = self.events >= (count / most).max(1);
        if last.is_none_or(|last| is_full || last.saturating_add(age / most) < now) {
            self.starts.push(last.map_or(now, |last| now.max(last + 1)));
            self.events = 0;
        }
    }

    /// The segments that the next transaction removes.
    pub fn expired(&self, now: Timestamp) -> &[Timestamp] {
        let (count, age) = (self.starts.len() as u64, self.bounds.1);
        let is_expired = |(i, pair): (usize, &[Timestamp])| {
            // All events of a segment are older than the start of the next segment.
            count - i as u64 > self.max_segments() || pair[1].saturating_add(age) < now
        };
        let pairs = self.starts.windows(2).enumerate().take(MAX_EXPIRED);
        &self.starts[..pairs.take_while(|pair| is_expired(*pair)).count()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of events in each segment after so many events, one a second.
    fn kept(bounds: (u64, u64), events: u64) -> Vec<u64> {
        let mut segments = Segments { bounds, ..Segments::new() };
        let mut held = Vec::new();
        for now in 0..events {
            segments.roll(now);
            if segments.events == 0 {
                held.push(0);
            }
            let expired = segments.expired(now).len();
            held.drain(..expired);
            segments.starts.drain(..expired);
            segments.events += 1;
            *held.last_mut().unwrap() += 1;
            assert_eq!(held.len(), segments.starts.len());
        }
        held
    }

    #[test]
    fn history_is_bounded_by_count_and_by_age() {
        let long = 1 << 40;
        for (count, least) in [(1, 1), (5, 5), (8, 8), (9, 8), (100, 84), (1000, 876)] {
            for events in [1, count, 3 * count, 3 * count + 1, 10 * count + 7] {
                let held: u64 = kept((count, long), events).iter().sum();
                assert!(held <= count && held >= least.min(events), "{held} of {count}, {events}");
            }
        }
        // One event a second: what is too old is at most one segment.
        let held: u64 = kept((1 << 40, 80), 1000).iter().sum();
        assert!((70..=92).contains(&held), "{held}");
    }

    #[test]
    fn segments_have_different_starts_when_the_clock_is_set_back() {
        let mut segments = Segments { bounds: (8, 100), ..Segments::new() };
        for now in [50, 50, 10, 0, u64::MAX - 200, 3] {
            segments.roll(now);
            segments.events = 1;
            assert!(segments.starts.is_sorted_by(|a, b| a < b), "{segments:?}");
        }
    }
}
