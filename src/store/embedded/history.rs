//! Stores the history events and the counters of requests. They are in the same table as the leases, and are
//! written in the same transaction as the changes that they record.
//!
//! This module decides which events are kept, and for how long. The allocator creates the events. Invariant:
//! storing an event costs one insertion and the removal of at most a few old events, without a search. Even
//! if the history cannot be read, addresses can be allocated.

use super::view::{Kv, KvMut, Tables};
use super::{Result, keys};
use crate::alloc::Context;
use crate::model::{Counter, Ending, Event, Face, History, Kind, SetName, Timestamp, Verb, What};
use crate::store::codec;

/// The number of old events that a write may remove beyond one for each new event. Because of these extra
/// removals, the history gradually shrinks after its limit is lowered.
const MORE: usize = 4;

/// Returns the limits of a set's history: the limits in this call's configuration if it has any, otherwise
/// the limits that were stored last.
fn bounds<K: Kv>(tables: &Tables<'_, K>, set: &SetName, said: History) -> Result<History> {
    if said != History::Standing {
        return Ok(said);
    }
    let key = keys::history_bounds(set);
    let kept = tables.kv.get(&key)?;
    Ok(kept.and_then(|bytes| codec::read_bounds(&key, &bytes).ok()).unwrap_or_default())
}

/// Appends each event to the history of its set of leases. Also removes some of the events that exceed the
/// limits on number and age.
pub fn append<K: KvMut>(
    tables: &mut Tables<'_, K>,
    events: &[Event],
    said: History,
    now: Timestamp,
) -> Result<()> {
    for of_set in events.chunk_by(|one, other| one.set == other.set) {
        append_to(tables, &of_set[0].set, of_set, said, now)?;
    }
    Ok(())
}

fn append_to<K: KvMut>(
    tables: &mut Tables<'_, K>,
    set: &SetName,
    events: &[Event],
    said: History,
    now: Timestamp,
) -> Result<()> {
    let key = keys::history_bounds(set);
    if let Some(bounds) = codec::bounds(&key, said)
        && tables.kv.get(&key)?.as_ref() != Some(&bounds)
    {
        tables.kv.put(&key, &bounds)?;
    }
    let History::Kept { count, age } = bounds(tables, set, said)? else { return Ok(()) };
    let from = keys::of_set(keys::EVENT, set);
    let to = keys::behind(&from);
    let last = tables.kv.last(&from, &to)?.and_then(|key| keys::read_event(&key));
    let mut number = last.map_or(0, |(_, number, _)| number);
    for event in events {
        number += 1;
        let key = keys::event(set, number, event.time);
        tables.kv.put(&key, &codec::event(&key, event))?;
    }
    // Event numbers have no gaps, so the number of events follows from the first and the last number.
    let most = events.len() + MORE;
    remove_while(tables, &from, &to, most, |n, time| {
        number - n.min(number) >= count || time.saturating_add(age) < now
    })?;
    // A set of leases without new events never removes its own old events. So each write also removes old
    // events of one other set.
    let all = [keys::EVENT];
    let Some(next) = next_set(tables, &to, &keys::behind(&all))?.or(next_set(tables, &all, &from)?)
    else {
        return Ok(());
    };
    let from = keys::of_set(keys::EVENT, &next);
    let age = bounds(tables, &next, History::Standing)?.age().max(age);
    remove_while(tables, &from, &keys::behind(&from), MORE, |_, time| {
        time.saturating_add(age) < now
    })
}

/// Returns the first set of leases that has an event with a key in `from..to` (without `to`).
fn next_set<K: Kv>(tables: &Tables<'_, K>, from: &[u8], to: &[u8]) -> Result<Option<SetName>> {
    let first = tables.kv.first(from, to)?;
    Ok(first.and_then(|(key, _)| keys::read_event(&key)).map(|(set, ..)| set))
}

/// Removes the oldest events, at most `most` of them, until `old` returns false for an event's number and
/// time.
fn remove_while<K: KvMut>(
    tables: &mut Tables<'_, K>,
    from: &[u8],
    to: &[u8],
    most: usize,
    old: impl Fn(u64, Timestamp) -> bool,
) -> Result<()> {
    let mut found = Vec::new();
    tables.kv.scan(from, to, &mut |key, _| {
        let goes = keys::read_event(key).is_none_or(|(_, number, time)| old(number, time));
        if goes {
            found.push(key.to_vec());
        }
        Ok(goes && found.len() < most)
    })?;
    found.iter().try_for_each(|key| tables.kv.remove(key))
}

/// Records in their stored form: keys and values.
pub type Stored = Vec<(Vec<u8>, Vec<u8>)>;

/// Returns up to `most` stored events whose keys come after `after`, and whether there are more.
pub fn page<K: Kv>(
    tables: &Tables<'_, K>,
    after: Option<&[u8]>,
    most: usize,
) -> Result<(Stored, bool)> {
    let (mut found, mut more) = (Vec::new(), false);
    let from = after.map_or_else(|| vec![keys::EVENT], |after| [after, &[0]].concat());
    tables.kv.scan(&from, &keys::behind(&[keys::EVENT]), &mut |key, value| {
        more = found.len() == most;
        if !more {
            found.push((key.to_vec(), value.to_vec()));
        }
        Ok(!more)
    })?;
    Ok((found, more))
}

/// Returns the selected events, oldest first. Unreadable events are skipped; `doctor` reports them.
pub fn events<K: Kv>(
    tables: &Tables<'_, K>,
    wanted: &mut dyn FnMut(&Event) -> bool,
) -> Result<Vec<Event>> {
    let mut found = Vec::new();
    tables.kv.each(&[keys::EVENT], &mut |key, value| {
        if let Ok(Some(event)) = codec::read_event(key, value) {
            found.extend(wanted(&event).then_some(event));
        }
        Ok(())
    })?;
    Ok(found)
}

/// Adds one request to the counters.
pub fn count<K: KvMut>(
    tables: &mut Tables<'_, K>,
    request: &(SetName, Face, Verb, Ending),
) -> Result<()> {
    let key = keys::of_set(keys::COUNT, &request.0);
    let before = tables.kv.get(&key)?;
    tables.kv.put(&key, &codec::count(&key, before.as_deref(), request))
}

/// Returns all counters.
pub fn counters<K: Kv>(tables: &Tables<'_, K>) -> Result<Vec<Counter>> {
    let mut found = Vec::new();
    tables.kv.each(&[keys::COUNT], &mut |key, value| {
        found.extend(codec::read_counts(key, value).unwrap_or_default());
        Ok(())
    })?;
    Ok(found)
}

/// Returns when a boot file was created, in seconds since 1970; `None` if the time is not recorded.
pub fn begun<K: Kv>(tables: &Tables<'_, K>) -> Result<Option<Timestamp>> {
    let bytes = tables.kv.get(keys::BEGUN)?;
    Ok(bytes.and_then(|bytes| codec::unseal::<u64>(keys::BEGUN, &bytes).ok()))
}

/// Returns the selected events of an earlier boot. For each lease that ended with that boot, adds an event at
/// the time `end`. Reservations and other machines' leases do not end when this machine reboots.
pub fn of_ended_boot<K: Kv>(
    tables: &Tables<'_, K>,
    end: Timestamp,
    cx: &Context,
    wanted: &mut dyn FnMut(&Event) -> bool,
) -> Result<Vec<Event>> {
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
