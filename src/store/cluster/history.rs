//! The history of a cluster: each transaction also writes a record of its events.
//!
//! A node's history consists of segments. A segment that is full, or has been open for long, is followed by
//! another one, and the oldest segment is removed completely by the transaction that opens a new one. The
//! local cache remembers the segments. What an event is, `alloc` defines.
//! Invariant: history costs no read, and no comparison depends on it. If the local cache cannot be written,
//! no history is written, because nothing would ever remove it.

use std::collections::BTreeMap;
use std::time::Instant;

use super::segments::Segments;
use super::server::{Operation, Server, Write};
use super::view::{ClusterView, OpenSegment};
use super::{keys, records};
use crate::error::StoreError;
use crate::model::{Event, History, Timestamp};
use crate::store::codec;

impl ClusterView<'_> {
    /// The operations that write these events.
    pub fn history_operations(&self, events: &[Event]) -> Vec<Operation> {
        if events.is_empty() {
            return Vec::new();
        }
        let Some((segment, expired)) = self.segment.get_or_init(|| self.open_segment()) else {
            return Vec::new();
        };
        let (node, serial) = (&*self.cx.node.name, self.serial.get());
        self.serial.set(serial + 1);
        let path = keys::history(node, *segment, self.cx.now, self.cx.seed, serial);
        let value = codec::events(path.as_bytes(), events);
        let expired = expired.iter().map(|start| remove_segment(node, *start));
        expired.chain([Operation::write(path, Write::Put(value))]).collect()
    }

    /// Records in the cache that the transaction with so many events was applied.
    pub fn history_applied(&self, events: usize) {
        let Some(Some((_, expired))) = self.segment.get().filter(|_| events > 0) else {
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
    fn open_segment(&self) -> Option<OpenSegment> {
        let cached = self.cache.segments(self.cx);
        let mut segments = cached.clone().unwrap_or_else(Segments::new);
        segments.set_bounds(self.history);
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
