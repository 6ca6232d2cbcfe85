//! The history of a cluster: each transaction also writes a record of its events.
//!
//! A node's history consists of segments. A segment that is full, or has been open for long, is followed by
//! another one, and the oldest segment is removed completely by the transaction that opens a new one. The
//! local cache remembers the segments. What an event is, `alloc` defines.
//! Invariant: history costs no read, and no comparison depends on it. If the local cache cannot be written,
//! no history is written, because nothing would ever remove it.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::time::Instant;

use super::server::{Operation, Server, Write};
use super::view::ClusterView;
use super::{keys, records};
use crate::error::StoreError;
use crate::model::{Event, History, Timestamp};
use crate::store::codec;

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
    fn new() -> Segments {
        let mut segments =
            Segments { bounds: (0, 0), starts: Vec::new(), has_earlier: false, events: 0 };
        segments.set_bounds(History::OF_A_NODE);
        segments
    }

    fn set_bounds(&mut self, setting: History) {
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
    fn roll(&mut self, now: Timestamp) {
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
    fn expired(&self, now: Timestamp) -> &[Timestamp] {
        let (count, age) = (self.starts.len() as u64, self.bounds.1);
        let is_expired = |(i, pair): (usize, &[Timestamp])| {
            // All events of a segment are older than the start of the next segment.
            count - i as u64 > self.max_segments() || pair[1].saturating_add(age) < now
        };
        let pairs = self.starts.windows(2).enumerate().take(MAX_EXPIRED);
        &self.starts[..pairs.take_while(|pair| is_expired(*pair)).count()]
    }
}

/// The history of one command.
pub struct HistoryState<'a> {
    pub setting: History,
    /// Distinguishes the records that one process writes in one second.
    pub serial: &'a Cell<u64>,
    /// Read from the cache when it is first needed; `None` means that no history is written.
    pub open: OnceCell<Option<Open>>,
}

/// The segment that a command writes to, and the expired segments.
pub type Open = (Timestamp, Vec<Timestamp>);

impl ClusterView<'_> {
    /// The operations that write these events.
    pub fn history_operations(&self, events: &[Event]) -> Vec<Operation> {
        if events.is_empty() {
            return Vec::new();
        }
        let history = &self.history;
        let Some((segment, expired)) = history.open.get_or_init(|| self.open_segment()) else {
            return Vec::new();
        };
        let (node, serial) = (&*self.cx.node.name, history.serial.get());
        history.serial.set(serial + 1);
        let path = keys::history(node, *segment, self.cx.now, self.cx.seed, serial);
        let value = codec::events(path.as_bytes(), events);
        let expired = expired.iter().map(|start| remove_segment(node, *start));
        expired.chain([Operation::write(path, Write::Put(value))]).collect()
    }

    /// Records in the cache that the transaction with so many events was applied.
    pub fn history_applied(&self, events: usize) {
        let Some(Some((_, expired))) = self.history.open.get().filter(|_| events > 0) else {
            return;
        };
        self.cache.add_events(self.cx, events);
        if let Some(mut segments) = self.cache.segments(self.cx).filter(|_| !expired.is_empty()) {
            segments.starts.retain(|start| !expired.contains(start));
            // If this fails, the next transaction removes them again.
            let _ = self.cache.write_segments(self.cx, &segments);
        }
    }

    /// Updates the cache before anything is sent, so that every segment on the server is known.
    fn open_segment(&self) -> Option<Open> {
        let cached = self.cache.segments(self.cx);
        let mut segments = cached.clone().unwrap_or_else(Segments::new);
        segments.set_bounds(self.history.setting);
        let is_on = segments.bounds.0 > 0;
        if is_on {
            segments.roll(self.cx.now);
        }
        let is_cached = cached.as_ref() == Some(&segments)
            || self.cache.write_segments(self.cx, &segments).is_ok();
        let last = *segments.starts.last()?;
        (is_on && is_cached).then(|| (last, segments.expired(self.cx.now).to_vec()))
    }

    /// Adds the segments of this node's earlier boots to the cache, once in a boot.
    pub fn find_earlier_history(&self) -> Result<(), StoreError> {
        let segments = self.cache.segments(self.cx);
        let Some(mut segments) = segments.filter(|segments| !segments.has_earlier) else {
            return Ok(());
        };
        let found = self.server.list(&keys::node_history(&self.cx.node.name), self.until)?;
        segments.starts.extend(found.keys().filter_map(|path| Some(keys::read_history(path)?.1)));
        segments.starts.sort_unstable();
        segments.starts.dedup();
        segments.has_earlier = true;
        // If this fails, the next call looks again.
        let _ = self.cache.write_segments(self.cx, &segments);
        Ok(())
    }
}

/// Removes the expired history of nodes that have no record any more.
pub fn prune(server: &dyn Server, now: Timestamp, until: Instant) -> Result<(), StoreError> {
    let History::Kept { age, .. } = History::OF_A_NODE else { return Ok(()) };
    let nodes = server.list(keys::NODE, until)?;
    let mut newest: BTreeMap<(String, Timestamp), Timestamp> = BTreeMap::new();
    for (path, entry) in server.list(keys::HISTORY, until)? {
        let Some((node, start)) = keys::read_history(&path) else { continue };
        if !nodes.contains_key(&keys::node(&node)) {
            // A record that cannot be decoded counts as old.
            let events = records::events(&path, &entry).unwrap_or_default();
            let time = events.iter().map(|event| event.time).max().unwrap_or_default();
            let last = newest.entry((node, start)).or_default();
            *last = time.max(*last);
        }
    }
    newest.retain(|_, last| last.saturating_add(age) < now);
    let operations: Vec<Operation> =
        newest.keys().map(|(node, start)| remove_segment(node, *start)).collect();
    // If a transaction fails, the next call repeats it.
    let mut chunks = operations.chunks(server.max_operations());
    chunks.try_for_each(|some| server.commit(&[some], until).map(drop))
}

fn remove_segment(node: &str, start: Timestamp) -> Operation {
    Operation::write(keys::history_segment(node, start), Write::DeleteTree)
}

/// All events, in the order in which they were committed. Records that cannot be decoded are skipped; `doctor`
/// reports them.
pub fn events(server: &dyn Server, until: Instant) -> Result<Vec<Event>, StoreError> {
    let mut found: Vec<(u64, Vec<Event>)> = server
        .list(keys::HISTORY, until)?
        .iter()
        .filter_map(|(path, entry)| Some((entry.version, records::events(path, entry).ok()?)))
        .collect();
    found.sort_by_key(|(version, _)| *version);
    Ok(found.into_iter().flat_map(|(_, events)| events).collect())
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
