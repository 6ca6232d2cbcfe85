//! What happened, on a cluster: a record for each transaction, in that transaction.
//!
//! Owns: where a node's records lie, and which of them go. A node's history is in segments: a full one,
//! or one that has been open for long, is followed by another, and the oldest goes as a whole, with the
//! transaction that opens one. What is open is noted on the node. Does not own: what an event is
//! (`alloc`).
//! Invariant: history costs no look and is compared with nothing. What cannot be noted is not kept:
//! nobody would let it go.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::time::Instant;

use super::cache::LocalCache;
use super::keys;
use super::server::{Entry, Expect, Operation, Server, Write};
use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::{Event, History, Timestamp};
use crate::store::codec;
use crate::store::codec::Bad;

/// Segments of a node, unless fewer events are kept.
const SEGMENTS: u64 = 8;

/// Segments that go with one transaction.
const MAX_EXPIRED: usize = 2;

/// Most steps that one transaction has for this.
pub const OPERATIONS: usize = MAX_EXPIRED + 1;

/// The segments of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segments {
    /// How many events are kept, and for how many seconds; 0 events: none is written.
    pub bounds: (u64, u64),
    /// When each was begun, the oldest first.
    pub starts: Vec<Timestamp>,
    /// Whether what earlier boots left is among them.
    pub has_earlier: bool,
    /// Events in the newest.
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

    fn most(&self) -> u64 {
        SEGMENTS.min(self.bounds.0).max(1)
    }

    /// Opens another one if it is time to.
    fn roll(&mut self, now: Timestamp) {
        let (count, age) = self.bounds;
        let most = self.most();
        let last = self.starts.last().copied();
        let is_full = self.events >= (count / most).max(1);
        if last.is_none_or(|last| is_full || last.saturating_add(age / most) < now) {
            self.starts.push(last.map_or(now, |last| now.max(last + 1)));
            self.events = 0;
        }
    }

    /// Those that go with the next transaction.
    fn expired(&self, now: Timestamp) -> &[Timestamp] {
        let (count, age) = (self.starts.len() as u64, self.bounds.1);
        let goes = |(i, pair): (usize, &[Timestamp])| {
            // Whatever is in one was written before the next was begun.
            count - i as u64 > self.most() || pair[1].saturating_add(age) < now
        };
        let expired =
            self.starts.windows(2).enumerate().take(MAX_EXPIRED).take_while(|one| goes(*one));
        &self.starts[..expired.count()]
    }
}

/// What one command writes down.
pub struct HistoryWriter<'a> {
    notes: &'a LocalCache,
    cx: &'a Context,
    /// Tells apart what one process writes in one second.
    serial: &'a Cell<u64>,
    setting: History,
    /// Read when first needed; `None`: nothing is kept.
    open: OnceCell<Option<Open>>,
}

/// The segment that a command writes in, and those that go.
type Open = (Timestamp, Vec<Timestamp>);

impl<'a> HistoryWriter<'a> {
    /// What `cx` does is written down, as much of it as `setting`.
    pub fn new(
        notes: &'a LocalCache,
        cx: &'a Context,
        setting: History,
        serial: &'a Cell<u64>,
    ) -> HistoryWriter<'a> {
        HistoryWriter { notes, cx, serial, setting, open: OnceCell::new() }
    }

    /// What a transaction does to have this written down.
    pub fn operations(&self, events: &[Event]) -> Vec<Operation> {
        if events.is_empty() {
            return Vec::new();
        }
        let Some((segment, expired)) = self.open.get_or_init(|| self.roll()) else {
            return Vec::new();
        };
        let (node, serial) = (&*self.cx.node.name, self.serial.get());
        self.serial.set(serial + 1);
        let path = keys::history(node, *segment, self.cx.now, self.cx.seed, serial);
        let value = codec::events(path.as_bytes(), events);
        let expired = expired.iter().map(|starts| keys::history_segment(node, *starts));
        let expired = expired.map(|path| operation(path, Write::DeleteTree));
        expired.chain([operation(path, Write::Put(value))]).collect()
    }

    /// That was done.
    pub fn done(&self, events: usize) {
        let Some(Some((_, gone))) = self.open.get().filter(|_| events > 0) else { return };
        self.notes.add_events(self.cx, events);
        if let Some(mut segments) = self.notes.segments(self.cx).filter(|_| !gone.is_empty()) {
            segments.starts.retain(|starts| !gone.contains(starts));
            // As long as they are noted they go once more.
            let _ = self.notes.write_segments(self.cx, &segments);
        }
    }

    /// Noted before anything is sent, so that what is written is in a segment that is known of.
    fn roll(&self) -> Option<Open> {
        let noted = self.notes.segments(self.cx);
        let mut segments = noted.clone().unwrap_or_else(Segments::new);
        segments.set_bounds(self.setting);
        let keeps = segments.bounds.0 > 0;
        if keeps {
            segments.roll(self.cx.now);
        }
        let is_noted = noted.as_ref() == Some(&segments);
        let known = is_noted || self.notes.write_segments(self.cx, &segments).is_ok();
        let last = *segments.starts.last()?;
        (keeps && known).then(|| (last, segments.expired(self.cx.now).to_vec()))
    }
}

/// Notes the segments that earlier boots of this node left, unless that was done.
pub fn find_earlier(
    server: &dyn Server,
    notes: &LocalCache,
    cx: &Context,
    until: Instant,
) -> Result<(), StoreError> {
    let Some(mut segments) = notes.segments(cx).filter(|segments| !segments.has_earlier) else {
        return Ok(());
    };
    let left = server.list(&keys::node_history(&cx.node.name), until)?;
    segments.starts.extend(left.keys().filter_map(|path| Some(keys::read_history(path)?.1)));
    segments.starts.sort_unstable();
    segments.starts.dedup();
    segments.has_earlier = true;
    // Without a note the next call looks again.
    let _ = notes.write_segments(cx, &segments);
    Ok(())
}

/// Lets go what is too old of nodes that are forgotten: nobody else would.
pub fn prune(server: &dyn Server, now: Timestamp, until: Instant) -> Result<(), StoreError> {
    let History::Kept { age, .. } = History::OF_A_NODE else { return Ok(()) };
    let nodes = server.list(keys::NODES, until)?;
    let mut ages: BTreeMap<String, Timestamp> = BTreeMap::new();
    for (path, entry) in server.list(keys::HISTORY, until)? {
        let Some((node, segment)) = keys::read_history(&path) else { continue };
        if nodes.contains_key(&keys::node(&node)) {
            continue;
        }
        // What cannot be read is as old as can be.
        let time = read(&path, &entry).iter().flatten().map(|event| event.time).max();
        let last = ages.entry(keys::history_segment(&node, segment)).or_default();
        *last = time.unwrap_or_default().max(*last);
    }
    let old = ages.into_iter().filter(|(_, last)| last.saturating_add(age) < now);
    let operations: Vec<Operation> =
        old.map(|(path, _)| operation(path, Write::DeleteTree)).collect();
    // One that is lost is done by the next that is forgotten.
    operations
        .chunks(server.max_operations())
        .try_for_each(|some| server.commit(&[some], until).map(drop))
}

fn operation(path: String, write: Write) -> Operation {
    Operation { path, expect: Expect::Anything, write }
}

/// A record's events.
pub fn read(path: &str, entry: &Entry) -> Result<Vec<Event>, Bad> {
    codec::read_events(path.as_bytes(), &entry.value)
}

/// All that is written down, in the order in which it was done. What cannot be read is passed over:
/// `doctor` tells of it.
pub fn events(server: &dyn Server, until: Instant) -> Result<Vec<Event>, StoreError> {
    let records = server.list(keys::HISTORY, until)?;
    let mut found: Vec<(u64, Vec<Event>)> = records
        .iter()
        .filter_map(|(path, entry)| Some((entry.version, read(path, entry).ok()?)))
        .collect();
    found.sort_by_key(|(version, _)| *version);
    Ok(found.into_iter().flat_map(|(_, events)| events).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is kept after so many events, one a second: by segment, how many.
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
    fn both_bounds_hold_and_most_is_kept() {
        let long = 1 << 40;
        for (count, least) in [(1, 1), (5, 5), (8, 8), (9, 8), (100, 84), (1000, 876)] {
            for events in [1, count, 3 * count, 3 * count + 1, 10 * count + 7] {
                let held: u64 = kept((count, long), events).iter().sum();
                assert!(held <= count && held >= least.min(events), "{held} of {count}, {events}");
            }
        }
        // One a second, none older than the segment before the oldest that counts.
        let held: u64 = kept((1 << 40, 80), 1000).iter().sum();
        assert!((70..=92).contains(&held), "{held}");
    }

    #[test]
    fn a_clock_that_is_set_back_begins_nothing_twice() {
        let mut segments = Segments { bounds: (8, 100), ..Segments::new() };
        for now in [50, 50, 10, 0, u64::MAX - 200, 3] {
            segments.roll(now);
            segments.events = 1;
            assert!(segments.starts.is_sorted_by(|a, b| a < b), "{segments:?}");
        }
    }
}
