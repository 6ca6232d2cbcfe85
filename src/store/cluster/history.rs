//! The history of a cluster. Each transaction also writes one record with its events. The path of the record
//! contains the set of leases and the time, so the records of a set sort by time.
//!
//! A random fraction of the commands that free addresses (one in thirty with the default limit) also lists
//! the history of its set, and removes the events that exceed the limits on number and age. Therefore an ADD
//! only writes its own record, and the history of each network is bounded, regardless of the number of nodes.
//! `alloc` defines what an event is. Invariant: no comparison depends on history, and no command fails
//! because of history. If the server has no room for a history record, the transaction is committed without
//! the record, and the command returns a warning.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Instant;

use super::cache::LocalCache;
use super::server::{Entry, Nonce, Operation, Server, Write};
use super::transaction::{new_nonce, stamped};
use super::{keys, records};
use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::{Event, History, SetName, Timestamp};
use crate::store::codec;

/// Returns the history setting for a command. If the command's configuration does not set it, the last
/// setting that was used on this node applies.
pub fn setting(
    history: History,
    set: Option<&SetName>,
    cache: &LocalCache,
    cx: &Context,
) -> History {
    let last = set.and_then(|set| cache.history(set, cx));
    if history == History::Standing {
        return last.unwrap_or(History::OF_A_NETWORK);
    }
    if let Some(set) = set.filter(|_| last != Some(history)) {
        cache.set_history(set, history, cx);
    }
    history
}

/// Returns the operation that writes these events.
pub fn write(history: History, events: &[Event], cx: &Context, nonce: &Nonce) -> Option<Operation> {
    let set = &events.first().filter(|_| history != History::Off)?.set;
    let path = keys::timed(keys::HISTORY, &set.0, cx.now, nonce);
    let value = codec::events(path.as_bytes(), events);
    Some(Operation::write(path, Write::Put(stamped(nonce, value))))
}

/// Removes the events that exceed the limits on number and age. Does so only in a random fraction of calls,
/// because it has to list the whole history of the set.
pub fn prune(
    history: History,
    server: &dyn Server,
    set: &SetName,
    cx: &Context,
    until: Instant,
) -> Result<(), StoreError> {
    let History::Kept { count, age } = history else { return Ok(()) };
    // Each call gets a new random number, because an import has thousands of transactions with the same seed.
    let chance = BuildHasherDefault::<DefaultHasher>::default().hash_one(new_nonce(cx.seed));
    if !chance.is_multiple_of((count / 32).max(1)) {
        return Ok(());
    }
    let mut found = Vec::new();
    for page in server.pages(&keys::of_set(keys::HISTORY, set), until) {
        found.extend(page?.into_iter().map(|(path, _)| path));
    }
    let too_many = found.len().saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
    let (begin, first) = (cx.now.saturating_sub(age), Nonce::default());
    let oldest = keys::timed(keys::HISTORY, &set.0, begin, &first);
    let expired = found.partition_point(|path| *path < oldest);
    for some in found[..too_many.max(expired)].chunks(server.max_operations()) {
        let removed = some.iter().map(|path| Operation::write(path.clone(), Write::Delete));
        server.commit(&removed.collect::<Vec<_>>(), until)?;
    }
    Ok(())
}

/// Returns the events that are not too old, in the order in which they were committed. Records that cannot be
/// decoded are skipped; `doctor` reports them.
pub fn events(
    server: &dyn Server,
    age: u64,
    now: Timestamp,
    until: Instant,
) -> Result<Vec<Event>, StoreError> {
    let decode = |path: &str, entry: &Entry| {
        Ok((entry.version, records::events(path, entry).unwrap_or_default()))
    };
    let mut found: Vec<(u64, Vec<Event>)> = records::list(server, keys::HISTORY, until, decode)?;
    found.sort_by_key(|(version, _)| *version);
    let events = found.into_iter().flat_map(|(_, events)| events);
    Ok(events.filter(|event| event.time.saturating_add(age) >= now).collect())
}
