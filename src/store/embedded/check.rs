//! What the indexes of a store ought to be, from its records: the same code that keeps them makes them
//! again, and both are compared.
//!
//! Owns: which records are told by others, and the comparison. Does not own: where records come from,
//! what becomes of a fault.
//! Invariant: a store without a fault here gives no address twice and forgets no lease.

use std::collections::BTreeMap;

use super::view::{Each, Kv, KvMut, Tables};
use super::{changes, keys, occupancy};
use crate::alloc::Change;
use crate::error::StoreError;
use crate::model::{Lease, Pool, Timestamp};
use crate::net::Addr;
use crate::store::codec;
use crate::store::codec::Bad;

/// What every record of a store is, by the first byte of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// It tells something that no other record does.
    Told(&'static str),
    /// It can be made again from others.
    Made(&'static str),
    /// A copy of the policy, which is compared with the policy at each use.
    Copy,
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
        Some(b'E') => Nature::Told("event"),
        Some(b'X') => Nature::Told("counter"),
        Some(b'M') => Nature::Told("fact"),
        Some(b'O') => Nature::Made("owners' index"),
        Some(b'B') => Nature::Made("occupancy"),
        Some(b'Q') => Nature::Made("queue of cooling addresses"),
        Some(b'T') => Nature::Made("index of pods' addresses"),
        Some(b'R') => Nature::Copy,
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
        Some(b'S' | b'C') => drop(codec::unseal::<Addr>(key, value)?),
        Some(b'P') => drop(codec::unseal::<Pool>(key, value)?),
        Some(b'D') => {
            let network = keys::read_ranges(key).ok_or(Bad("a key of another form"))?;
            codec::read_ranges(key, network, value)?;
        }
        Some(b'E') => drop(codec::read_event(key, value)?),
        Some(b'X') => drop(codec::read_counts(key, value)?),
        Some(b'M') if key == keys::BOUNDS => drop(codec::read_bounds(key, value)?),
        Some(b'M') if key == keys::MACHINE => drop(codec::unseal::<Vec<u8>>(key, value)?),
        Some(b'M') => drop(codec::unseal::<u64>(key, value)?),
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
            let addr = tables.whole(codec::unseal::<Addr>(key, value))?;
            let Some(set) = keys::read_sticky_set(key) else { return Err(misread(tables)) };
            changes::stick(tables, &set, key, addr)
        }
        Some(b'P') => {
            let pool = tables.whole(codec::unseal::<Pool>(key, value))?;
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
        if matches!(nature(key), Nature::Made(_)) {
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

/// How many addresses are judged in one hold of the lock.
const PAGE: usize = 5_000;

/// A judgement of a file in steps, each of which is one hold of the lock: a record is compared with
/// those that it must agree with, in the same step. So a change between two steps is no fault, and
/// what is kept in memory is one step.
#[derive(Default)]
pub struct Judgement {
    /// How often each kind of record was found wrong, and the first one.
    faults: BTreeMap<&'static str, (usize, String)>,
    /// Which part of [`PARTS`] the next step is about, and from which key on.
    part: usize,
    from: Vec<u8>,
}

/// The kinds of records that are judged one by one, by the first byte of their keys.
const PARTS: &[u8] = b"BLKOQSTDCEXMR";

impl Judgement {
    /// Judges the next part; whether there is more.
    pub fn step<K: Kv>(
        &mut self,
        tables: &Tables<'_, K>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let Some(kind) = PARTS.get(self.part).copied() else {
            self.pools(tables)?;
            self.unknown(tables)?;
            return Ok(false);
        };
        if self.from.is_empty() {
            self.from = vec![kind];
        }
        let mut work = 0;
        let mut page: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        tables.kv.scan(&self.from, &keys::behind(&[kind]), &mut |key, value| {
            page.push((key.to_vec(), value.to_vec()));
            // A block stands for up to 512 addresses.
            work += if kind == b'B' { 512 } else { 1 };
            Ok(work < PAGE)
        })?;
        for (key, value) in &page {
            if let Err(what) = judge(tables, key, value)? {
                let name = match nature(key) {
                    Nature::Told(name) | Nature::Made(name) => name,
                    Nature::Copy | Nature::Unknown => "reservation",
                };
                self.fault(name, format!("{}: {what}", shown(key)));
            }
            if let (b'L', Ok(lease)) = (kind, codec::read_lease(key, value))
                && lease.time > now.saturating_add(CLOCK)
            {
                let what = format!("{} is leased since a time that is yet to come", lease.addr);
                self.fault("clock", what);
            }
        }
        match page.pop() {
            Some((mut last, _)) if work >= PAGE => {
                last.push(0);
                self.from = last;
            }
            _ => {
                self.part += 1;
                self.from.clear();
            }
        }
        Ok(true)
    }

    /// What was found.
    pub fn faults(self) -> Vec<Fault> {
        let shown = |(kind, (count, what)): (&'static str, (usize, String))| {
            let more = if count > 1 { format!(", and {} more", count - 1) } else { String::new() };
            (kind, what + &more)
        };
        self.faults.into_iter().map(shown).collect()
    }

    fn fault(&mut self, kind: &'static str, what: String) {
        self.faults.entry(kind).or_insert((0, what)).0 += 1;
    }

    /// Pools are few: their indexes are made again from them, and compared.
    fn pools<K: Kv>(&mut self, tables: &Tables<'_, K>) -> Result<(), StoreError> {
        let mut made = Tables::new(Made::default(), tables.path);
        let mut faults = Vec::new();
        tables.kv.scan(b"P", b"Q", &mut |key, value| {
            let read = read(key, value).map_err(|Bad(what)| what.to_owned());
            if let Err(what) =
                read.and_then(|_| write(&mut made, key, value).map_err(|e| plain(&e)))
            {
                faults.push(("pool", format!("{}: {what}", shown(key))));
            }
            Ok(true)
        })?;
        let Made(mut made) = made.kv;
        for kind in *b"NG" {
            tables.kv.scan(&[kind], &[kind + 1], &mut |key, value| {
                if let Nature::Made(name) = nature(key)
                    && made.remove(key).as_deref() != Some(value)
                {
                    faults.push((name, format!("{} is not as the pools have it", shown(key))));
                }
                Ok(true)
            })?;
        }
        for key in made.keys() {
            if let (Nature::Made(name), b'N' | b'G') = (nature(key), key[0]) {
                faults.push((name, format!("{} is missing", shown(key))));
            }
        }
        for (kind, what) in faults {
            self.fault(kind, what);
        }
        Ok(())
    }

    fn unknown<K: Kv>(&mut self, tables: &Tables<'_, K>) -> Result<(), StoreError> {
        for kind in 0..=u8::MAX {
            if nature(&[kind]) == Nature::Unknown {
                let mut found = None;
                tables.kv.scan(&[kind], &keys::behind(&[kind]), &mut |key, _| {
                    found = Some(key.to_vec());
                    Ok(false)
                })?;
                if let Some(key) = found {
                    self.fault("record", format!("{}: no record of this schema", shown(&key)));
                }
            }
        }
        Ok(())
    }
}

/// Compares a record with those that it must agree with; what is wrong.
fn judge<K: Kv>(
    tables: &Tables<'_, K>,
    key: &[u8],
    value: &[u8],
) -> Result<Result<(), String>, StoreError> {
    let form = || "a key of another form".to_owned();
    let bad = |Bad(what): Bad| what.to_owned();
    let agrees = |is: bool, what: &str| if is { Ok(()) } else { Err(what.to_owned()) };
    Ok(match key.first() {
        Some(b'L') => match codec::read_lease(key, value) {
            Err(e) => Err(bad(e)),
            Ok(lease) => {
                let (set, addr) = (&lease.set, lease.addr);
                let index = keys::owner(set, &lease.owner);
                let indexed = tables.addrs(&index).is_ok_and(|addrs| addrs.contains(&addr));
                let marked = occupancy::taken(tables, set, addr).unwrap_or(false);
                let cools = tables.kv.get(&keys::cooling(set, addr))?.is_some();
                agrees(indexed, "its owner's index does not name it")
                    .and_then(|()| agrees(marked, "it is not marked as in use"))
                    .and_then(|()| agrees(!cools, "it is cooling down as well"))
            }
        },
        Some(b'K') => match keys::read_cooling(key) {
            None => Err(form()),
            Some((set, addr)) => match codec::read_cooling(key, addr, value) {
                Err(e) => Err(bad(e)),
                Ok(cooling) => {
                    let queue = keys::queued(&set, cooling.until, addr);
                    let marked = occupancy::taken(tables, &set, addr).unwrap_or(false);
                    agrees(tables.kv.get(&queue)?.is_some(), "it is not in the queue")
                        .and_then(|()| agrees(marked, "it is not marked as in use"))
                }
            },
        },
        Some(b'B') => occupancy::judge(tables, key, value)?,
        Some(b'O') => match codec::unseal::<Vec<Addr>>(key, value) {
            Err(e) => Err(bad(e)),
            Ok(addrs) => {
                let set = keys::read_owner_set(key);
                let mut all = Ok(());
                for addr in addrs {
                    let lease = set.as_ref().and_then(|set| tables.lease(set, addr).ok().flatten());
                    let named = lease.is_some_and(|l| keys::owner(&l.set, &l.owner) == key);
                    all = all
                        .and_then(|()| agrees(named, "it names a lease that is not the owner's"));
                }
                all
            }
        },
        Some(b'Q') => match keys::read_queued_set(key) {
            None => Err(form()),
            Some((set, until, addr)) => {
                let cooling = tables.cooling_of(&set, addr).ok().flatten();
                agrees(cooling.is_some_and(|c| c.until == until), "the address is not cooling down")
            }
        },
        Some(b'S') => match (keys::read_sticky_set(key), codec::unseal::<Addr>(key, value)) {
            (None, _) => Err(form()),
            (_, Err(e)) => Err(bad(e)),
            (Some(set), Ok(addr)) => {
                let stuck = keys::stuck(&set, addr);
                let back =
                    tables.kv.get(&stuck)?.and_then(|v| codec::unseal::<Vec<u8>>(&stuck, &v).ok());
                agrees(back.as_deref() == Some(key), "the index of pods' addresses disagrees")
            }
        },
        Some(b'T') => match codec::unseal::<Vec<u8>>(key, value) {
            Err(e) => Err(bad(e)),
            Ok(pod) => {
                let set = keys::read_sticky_set(&pod);
                let addr = tables.kv.get(&pod)?.and_then(|v| codec::unseal::<Addr>(&pod, &v).ok());
                let back = set.zip(addr).map(|(set, addr)| keys::stuck(&set, addr));
                agrees(back.as_deref() == Some(key), "the pod has another address")
            }
        },
        Some(b'R') => codec::unseal::<Vec<u8>>(key, value).map(drop).map_err(bad),
        _ => read(key, value).map(drop).map_err(bad),
    })
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
    let found = keys::read_lease(key).or_else(|| keys::read_cooling(key));
    match found {
        Some((set, addr)) => format!("{addr} of {set}"),
        None => key.escape_ascii().to_string(),
    }
}
