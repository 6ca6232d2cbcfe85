//! What the indexes of a store ought to be, from its records: the same code that keeps them makes them
//! again, and both are compared.
//!
//! Owns: which records are told by others, and the comparison. Does not own: where records come from,
//! what becomes of a fault.
//! Invariant: a store without a fault here gives no address twice and forgets no lease.

use std::collections::BTreeMap;
use std::path::Path;

use super::view::{Each, Kv, KvMut, Tables};
use super::{changes, keys};
use crate::alloc::Change;
use crate::error::StoreError;
use crate::model::{Lease, Timestamp};
use crate::store::codec;
use crate::store::codec::Bad;

/// What every record of a store is, by the first byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It tells something that no other record does.
    Told(&'static str),
    /// It can be made again from others.
    Made(&'static str),
    /// No build of this schema writes it.
    Unknown,
}

/// What a record is.
pub fn nature(key: &[u8]) -> Nature {
    match key.first() {
        Some(b'L') => Nature::Told("lease"),
        Some(b'K') => Nature::Told("cooling address"),
        Some(b'S') => Nature::Told("pod's address"),
        Some(b'P') => Nature::Told("pool"),
        Some(b'D') => Nature::Told("network"),
        Some(b'C') => Nature::Told("last address"),
        Some(b'A') => Nature::Told("takeover"),
        Some(b'H') => Nature::Told("home"),
        Some(b'E') => Nature::Told("event"),
        Some(b'X') => Nature::Told("counter"),
        Some(b'M') => Nature::Told("fact"),
        Some(b'O') => Nature::Made("owners' index"),
        Some(b'B') => Nature::Made("occupancy"),
        Some(b'Q') => Nature::Made("queue of cooling addresses"),
        Some(b'T') => Nature::Made("index of pods' addresses"),
        Some(b'R') => Nature::Made("index of reservations"),
        Some(b'N') => Nature::Made("index of pools"),
        Some(b'G') => Nature::Made("subnets in use"),
        _ => Nature::Unknown,
    }
}

/// Reads a record that tells something; the lease, if it is one.
pub fn read(key: &[u8], value: &[u8]) -> Result<Option<Lease>, Bad> {
    match key.first() {
        Some(b'L') => return codec::read_lease(key, value).map(Some),
        Some(b'K') => {
            let (_, addr) = keys::read_cooling(key).ok_or(Bad("a key of another form"))?;
            codec::read_cooling(key, addr, value)?;
        }
        Some(b'S' | b'C') => drop(codec::read_addr(key, value)?),
        Some(b'P') => drop(codec::read_pool(key, value)?),
        Some(b'D') => {
            let network = keys::read_ranges(key).ok_or(Bad("a key of another form"))?;
            codec::read_ranges(key, network, value)?;
        }
        Some(b'E') => drop(codec::read_event(key, value)?),
        Some(b'X') => drop(codec::read_counts(key, value)?),
        Some(b'M') if key == keys::BOUNDS => drop(codec::read_bounds(key, value)?),
        Some(b'A' | b'M') => drop(codec::read_number(key, value)?),
        _ => {}
    }
    Ok(None)
}

/// Writes a record that tells something, and all that is made of it. An error says that it
/// contradicts one that was written before.
pub fn write<K: KvMut>(
    tables: &mut Tables<'_, K>,
    key: &[u8],
    value: &[u8],
) -> Result<(), StoreError> {
    let misread = |tables: &Tables<'_, K>| tables.damaged("a key of another form");
    match key.first() {
        Some(b'L') => {
            let lease = tables.whole(codec::read_lease(key, value))?;
            changes::make(tables, &Change::Put(lease), 0).map(drop)
        }
        Some(b'K') => {
            let Some((set, addr)) = keys::read_cooling(key) else { return Err(misread(tables)) };
            let cooling = tables.whole(codec::read_cooling(key, addr, value))?;
            changes::cool(tables, &set, &cooling)
        }
        Some(b'S') => {
            let addr = tables.whole(codec::read_addr(key, value))?;
            let Some(set) = keys::read_sticky_set(key) else { return Err(misread(tables)) };
            changes::stick(tables, &set, key, addr)
        }
        Some(b'P') => {
            let pool = tables.whole(codec::read_pool(key, value))?;
            changes::make(tables, &Change::PutPool(pool), 0).map(drop)
        }
        _ => tables.kv.put(key, value),
    }
}

/// A table in memory of what is made of other records; of those it remembers nothing.
#[derive(Default)]
pub struct Made(BTreeMap<Vec<u8>, Vec<u8>>);

impl Kv for Made {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut Each<'_>) -> Result<(), StoreError> {
        for (key, value) in self.0.range(from.to_vec()..to.to_vec()) {
            if !each(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.range(from.to_vec()..to.to_vec()).next_back().map(|(key, _)| key.clone()))
    }
}

impl KvMut for Made {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        // What a pod had is asked for when another gets it.
        if matches!(nature(key), Nature::Made(_)) || key.first() == Some(&b'S') {
            self.0.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.0.remove(key);
        Ok(())
    }
}

/// A fault of a file: which kind of record, what about it.
pub type Fault = (&'static str, String);

/// Looks at every record.
pub fn faults<K: Kv>(
    tables: &Tables<'_, K>,
    now: Timestamp,
    path: &Path,
) -> Result<Vec<Fault>, StoreError> {
    let mut faults: BTreeMap<&'static str, (usize, String)> = BTreeMap::new();
    let mut fault = |kind: &'static str, what: String| {
        faults.entry(kind).or_insert((0, what)).0 += 1;
    };
    let mut made = Tables { kv: Made::default(), path };
    tables.kv.scan(&[], &[0xff], &mut |key, value| {
        if let Nature::Told(kind) = nature(key) {
            let told = read(key, value).map_err(|Bad(what)| what.to_owned());
            let told = told.and_then(|lease| {
                // What contradicts another record is told by either.
                write(&mut made, key, value).map_err(|e| plain(&e))?;
                Ok(lease)
            });
            match told {
                Ok(Some(lease)) if lease.time > now.saturating_add(CLOCK) => {
                    let what = format!("{} is leased since a time that is yet to come", lease.addr);
                    fault("clock", what);
                }
                Ok(_) => {}
                Err(what) => fault(kind, format!("{}: {what}", shown(key))),
            }
        } else if nature(key) == Nature::Unknown {
            fault("record", format!("{}: no record of this schema", shown(key)));
        }
        Ok(true)
    })?;
    let Made(mut made) = made.kv;
    made.retain(|key, _| matches!(nature(key), Nature::Made(_)));
    tables.kv.scan(&[], &[0xff], &mut |key, value| {
        if let Nature::Made(kind) = nature(key)
            && made.remove(key).as_deref() != Some(value)
        {
            fault(kind, format!("{} is not as the leases have it", shown(key)));
        }
        Ok(true)
    })?;
    for key in made.keys() {
        if let Nature::Made(kind) = nature(key) {
            fault(kind, format!("{} is missing", shown(key)));
        }
    }
    let told = |(kind, (count, what)): (&'static str, (usize, String))| {
        let more = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
        (kind, what + &more)
    };
    Ok(faults.into_iter().map(told).collect())
}

/// So far may the clocks of an ADD and of who looks be apart, in seconds.
const CLOCK: u64 = 300;

fn plain(error: &StoreError) -> String {
    match error {
        StoreError::Damaged { what, .. } => what.clone(),
        other => other.to_string(),
    }
}

/// A key for a person: its set and address where it has them, else its bytes.
pub fn shown(key: &[u8]) -> String {
    let found = keys::read_lease(key)
        .or_else(|| keys::read_cooling(key))
        .or_else(|| keys::read_reserved(key));
    match found {
        Some((set, addr)) => format!("{addr} of {set}"),
        None => key.escape_ascii().to_string(),
    }
}
