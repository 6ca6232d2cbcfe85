//! What happened, on a cluster: a record for each transaction, in that transaction.
//!
//! Owns: where a node's records lie, and which of them go. A node's history is in volumes: a full one,
//! or one that has been open for long, is followed by another, and the oldest goes as a whole, with the
//! transaction that opens one. What is open is noted on the node. Does not own: what an event is
//! (`alloc`).
//! Invariant: history costs no look and is compared with nothing. What cannot be noted is not kept:
//! nobody would let it go.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::time::Instant;

use super::cache::Notes;
use super::keys;
use super::server::{Engine, Entry, Expect, Step, Write};
use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::{Event, History, Timestamp};
use crate::store::codec;
use crate::store::codec::Bad;

/// Volumes of a node, unless fewer events are kept.
const VOLUMES: u64 = 8;

/// Volumes that go with one transaction.
const GOING: usize = 2;

/// Most steps that one transaction has for this.
pub const STEPS: usize = GOING + 1;

/// The volumes of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volumes {
    /// How many events are kept, and for how many seconds; 0 events: none is written.
    pub bounds: (u64, u64),
    /// When each was begun, the oldest first.
    pub begun: Vec<Timestamp>,
    /// Whether what earlier boots left is among them.
    pub gathered: bool,
    /// Events in the newest.
    pub events: u64,
}

impl Volumes {
    fn new() -> Volumes {
        let mut volumes = Volumes { bounds: (0, 0), begun: Vec::new(), gathered: false, events: 0 };
        volumes.bound(History::OF_A_NODE);
        volumes
    }

    fn bound(&mut self, said: History) {
        match said {
            History::Standing => {}
            History::Off => self.bounds.0 = 0,
            History::Kept { count, age } => self.bounds = (count, age),
        }
    }

    fn most(&self) -> u64 {
        VOLUMES.min(self.bounds.0).max(1)
    }

    /// Opens another one if it is time to.
    fn turn(&mut self, now: Timestamp) {
        let (count, age) = self.bounds;
        let most = self.most();
        let last = self.begun.last().copied();
        let is_full = self.events >= (count / most).max(1);
        if last.is_none_or(|last| is_full || last.saturating_add(age / most) < now) {
            self.begun.push(last.map_or(now, |last| now.max(last + 1)));
            self.events = 0;
        }
    }

    /// Those that go with the next transaction.
    fn going(&self, now: Timestamp) -> &[Timestamp] {
        let (count, age) = (self.begun.len() as u64, self.bounds.1);
        let goes = |(i, pair): (usize, &[Timestamp])| {
            // Whatever is in one was written before the next was begun.
            count - i as u64 > self.most() || pair[1].saturating_add(age) < now
        };
        let going = self.begun.windows(2).enumerate().take(GOING).take_while(|one| goes(*one));
        &self.begun[..going.count()]
    }
}

/// What one command writes down.
pub struct Chronicle<'a> {
    notes: &'a Notes,
    cx: &'a Context,
    /// Tells apart what one process writes in one second.
    serial: &'a Cell<u64>,
    said: History,
    /// Read when first needed; `None`: nothing is kept.
    open: OnceCell<Option<Open>>,
}

/// The volume that a command writes in, and those that go.
type Open = (Timestamp, Vec<Timestamp>);

impl<'a> Chronicle<'a> {
    /// What `cx` does is written down, as much of it as `said`.
    pub fn new(
        notes: &'a Notes,
        cx: &'a Context,
        said: History,
        serial: &'a Cell<u64>,
    ) -> Chronicle<'a> {
        Chronicle { notes, cx, serial, said, open: OnceCell::new() }
    }

    /// What a transaction does to have this written down.
    pub fn steps(&self, events: &[Event]) -> Vec<Step> {
        if events.is_empty() {
            return Vec::new();
        }
        let Some((volume, going)) = self.open.get_or_init(|| self.turn()) else {
            return Vec::new();
        };
        let (node, serial) = (&*self.cx.node.name, self.serial.get());
        self.serial.set(serial + 1);
        let path = keys::past(node, *volume, self.cx.now, self.cx.seed, serial);
        let value = codec::events(path.as_bytes(), events);
        let going = going.iter().map(|begun| keys::volume(node, *begun));
        let going = going.map(|path| step(path, Write::DeleteTree));
        going.chain([step(path, Write::Put(value))]).collect()
    }

    /// That was done.
    pub fn done(&self, events: usize) {
        let Some(Some((_, gone))) = self.open.get().filter(|_| events > 0) else { return };
        self.notes.add_events(self.cx, events);
        if let Some(mut volumes) = self.notes.volumes(self.cx).filter(|_| !gone.is_empty()) {
            volumes.begun.retain(|begun| !gone.contains(begun));
            // As long as they are noted they go once more.
            let _ = self.notes.write_volumes(self.cx, &volumes);
        }
    }

    /// Noted before anything is sent, so that what is written is in a volume that is known of.
    fn turn(&self) -> Option<Open> {
        let noted = self.notes.volumes(self.cx);
        let mut volumes = noted.clone().unwrap_or_else(Volumes::new);
        volumes.bound(self.said);
        let keeps = volumes.bounds.0 > 0;
        if keeps {
            volumes.turn(self.cx.now);
        }
        let is_noted = noted.as_ref() == Some(&volumes);
        let known = is_noted || self.notes.write_volumes(self.cx, &volumes).is_ok();
        let last = *volumes.begun.last()?;
        (keeps && known).then(|| (last, volumes.going(self.cx.now).to_vec()))
    }
}

/// Notes the volumes that earlier boots of this node left, unless that was done.
pub fn gather(
    engine: &dyn Engine,
    notes: &Notes,
    cx: &Context,
    until: Instant,
) -> Result<(), StoreError> {
    let Some(mut volumes) = notes.volumes(cx).filter(|volumes| !volumes.gathered) else {
        return Ok(());
    };
    let left = engine.list(&keys::pasts(&cx.node.name), until)?;
    volumes.begun.extend(left.keys().filter_map(|path| Some(keys::read_past(path)?.1)));
    volumes.begun.sort_unstable();
    volumes.begun.dedup();
    volumes.gathered = true;
    // Without a note the next call looks again.
    let _ = notes.write_volumes(cx, &volumes);
    Ok(())
}

/// Lets go what is too old of nodes that are forgotten: nobody else would.
pub fn prune(engine: &dyn Engine, now: Timestamp, until: Instant) -> Result<(), StoreError> {
    let History::Kept { age, .. } = History::OF_A_NODE else { return Ok(()) };
    let nodes = engine.list(keys::NODES, until)?;
    let mut ages: BTreeMap<String, Timestamp> = BTreeMap::new();
    for (path, entry) in engine.list(keys::PASTS, until)? {
        let Some((node, volume)) = keys::read_past(&path) else { continue };
        if nodes.contains_key(&keys::node(&node)) {
            continue;
        }
        // What cannot be read is as old as can be.
        let time = read(&path, &entry).iter().flatten().map(|event| event.time).max();
        let last = ages.entry(keys::volume(&node, volume)).or_default();
        *last = time.unwrap_or_default().max(*last);
    }
    let old = ages.into_iter().filter(|(_, last)| last.saturating_add(age) < now);
    let steps: Vec<Step> = old.map(|(path, _)| step(path, Write::DeleteTree)).collect();
    // One that is lost is done by the next that is forgotten.
    steps.chunks(engine.room()).try_for_each(|some| engine.commit(&[some], until).map(drop))
}

fn step(path: String, write: Write) -> Step {
    Step { path, expect: Expect::Anything, write }
}

/// A record's events.
pub fn read(path: &str, entry: &Entry) -> Result<Vec<Event>, Bad> {
    codec::read_events(path.as_bytes(), &entry.value)
}

/// All that is written down, in the order in which it was done. What cannot be read is passed over:
/// `doctor` tells of it.
pub fn all(engine: &dyn Engine, until: Instant) -> Result<Vec<Event>, StoreError> {
    let records = engine.list(keys::PASTS, until)?;
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

    /// What is kept after so many events, one a second: by volume, how many.
    fn kept(bounds: (u64, u64), events: u64) -> Vec<u64> {
        let mut volumes = Volumes { bounds, ..Volumes::new() };
        let mut held = Vec::new();
        for now in 0..events {
            volumes.turn(now);
            if volumes.events == 0 {
                held.push(0);
            }
            let going = volumes.going(now).len();
            held.drain(..going);
            volumes.begun.drain(..going);
            volumes.events += 1;
            *held.last_mut().unwrap() += 1;
            assert_eq!(held.len(), volumes.begun.len());
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
        // One a second, none older than the volume before the oldest that counts.
        let held: u64 = kept((1 << 40, 80), 1000).iter().sum();
        assert!((70..=92).contains(&held), "{held}");
    }

    #[test]
    fn a_clock_that_is_set_back_begins_nothing_twice() {
        let mut volumes = Volumes { bounds: (8, 100), ..Volumes::new() };
        for now in [50, 50, 10, 0, u64::MAX - 200, 3] {
            volumes.turn(now);
            volumes.events = 1;
            assert!(volumes.begun.is_sorted_by(|a, b| a < b), "{volumes:?}");
        }
    }
}
