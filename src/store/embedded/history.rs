//! What happened, in the same table and transaction as what it happened to.
//!
//! Owns: which events are kept, and for how long; the counters. Does not own: what an event is
//! (`alloc`), where else something is remembered (`embedded`).
//! Invariant: an event costs one insertion, and no more of the old ones go than a few per event that
//! comes; nothing here is looked through. What cannot be read here keeps no address from being leased.

use super::keys;
use super::view::{Kv, KvMut, Tables};
use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::{Counter, Ending, Event, Face, History, Kind, SetName, Timestamp, Verb, What};
use crate::store::codec;

/// How many more old events may go than new ones come: so that a smaller bound is reached some time.
const MORE: usize = 4;

/// How much is kept here, after what was said last; `said` by this call, unless it says nothing.
pub fn bounds<K: Kv>(tables: &Tables<'_, K>, said: History) -> Result<History, StoreError> {
    if said != History::Standing {
        return Ok(said);
    }
    let kept = tables.kv.get(keys::BOUNDS)?;
    Ok(kept.and_then(|bytes| codec::read_bounds(keys::BOUNDS, &bytes).ok()).unwrap_or_default())
}

/// Writes events behind those that are there, and lets the oldest go.
pub fn append<K: KvMut>(
    tables: &mut Tables<'_, K>,
    events: &[Event],
    said: History,
    now: Timestamp,
) -> Result<(), StoreError> {
    if events.is_empty() {
        return Ok(());
    }
    if let Some(bounds) = codec::bounds(keys::BOUNDS, said)
        && tables.kv.get(keys::BOUNDS)?.as_ref() != Some(&bounds)
    {
        tables.kv.put(keys::BOUNDS, &bounds)?;
    }
    let History::Kept { count, age } = bounds(tables, said)? else { return Ok(()) };
    let (from, to) = (keys::events(), keys::behind(&keys::events()));
    let last = tables.kv.last(&from, &to)?.and_then(|key| keys::read_event(&key));
    let mut number = last.map_or(0, |(number, _)| number);
    for event in events {
        number += 1;
        let key = keys::event(number, event.time);
        tables.kv.put(&key, &codec::event(&key, event))?;
    }
    // Numbers have no gaps: how many there are is told by the first and the last.
    let mut old = Vec::new();
    tables.kv.scan(&from, &to, &mut |key, _| {
        let goes = keys::read_event(key).is_none_or(|(n, time)| {
            number - n.min(number) >= count || time.saturating_add(age) < now
        });
        if goes {
            old.push(key.to_vec());
        }
        Ok(goes && old.len() < events.len() + MORE)
    })?;
    old.iter().try_for_each(|key| tables.kv.remove(key))
}

/// Every event that is wanted, the oldest first. One that cannot be read is passed over: `doctor`
/// tells of it.
pub fn events<K: Kv>(
    tables: &Tables<'_, K>,
    wanted: &mut dyn FnMut(&Event) -> bool,
) -> Result<Vec<Event>, StoreError> {
    let from = keys::events();
    let mut found = Vec::new();
    tables.kv.scan(&from, &keys::behind(&from), &mut |key, value| {
        if let Ok(Some(event)) = codec::read_event(key, value) {
            found.extend(wanted(&event).then_some(event));
        }
        Ok(true)
    })?;
    Ok(found)
}

/// Counts a request.
pub fn count<K: KvMut>(
    tables: &mut Tables<'_, K>,
    request: &(SetName, Face, Verb, Ending),
) -> Result<(), StoreError> {
    let key = keys::count(&request.0);
    let before = tables.kv.get(&key)?;
    tables.kv.put(&key, &codec::count(&key, before.as_deref(), request))
}

/// All counters.
pub fn counters<K: Kv>(tables: &Tables<'_, K>) -> Result<Vec<Counter>, StoreError> {
    let from = keys::counts();
    let mut found = Vec::new();
    tables.kv.scan(&from, &keys::behind(&from), &mut |key, value| {
        found.extend(codec::read_counts(key, value).unwrap_or_default());
        Ok(true)
    })?;
    Ok(found)
}

/// When this boot's store was begun, if it says so.
pub fn begun<K: Kv>(tables: &Tables<'_, K>) -> Result<Option<Timestamp>, StoreError> {
    let bytes = tables.kv.get(keys::BEGUN)?;
    Ok(bytes.and_then(|bytes| codec::unseal::<u64>(keys::BEGUN, &bytes).ok()))
}

/// What is wanted of a boot that has ended: its events, and the end at `end` of the leases that were
/// left. What was carried over, other machines' leases and reservations, has not ended.
pub fn of_ended_boot<K: Kv>(
    tables: &Tables<'_, K>,
    end: Timestamp,
    cx: &Context,
    wanted: &mut dyn FnMut(&Event) -> bool,
) -> Result<Vec<Event>, StoreError> {
    let mut found = events(tables, wanted)?;
    tables.leases(None, &mut |lease| {
        if lease.kind != Kind::Reserved && lease.node.machine == cx.node.machine {
            let event = Event::of(&lease, What::BootEnded, Face::Cni, end);
            found.extend(wanted(&event).then_some(event));
        }
        true
    })?;
    Ok(found)
}
