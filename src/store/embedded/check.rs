//! Checks a lease file: compares each record with the records that it must agree with, for example a lease
//! with its entries in the indexes.
//!
//! This module also defines which records are derived from other records and can be recomputed.
//! Invariant: if no fault is found, no address is leased twice and no lease is lost.

use std::collections::BTreeMap;

use super::view::{Each, Kv, KvMut, Tables, read_ranges};
use super::{Result, changes, keys, occupancy};
use crate::alloc::{Change, Record};
use crate::error::StoreError;
use crate::model::Timestamp;
use crate::net::Addr;
use crate::store::codec;
use crate::store::codec::Bad;

/// Whether a record contains original information or is derived from other records. The first byte of the
/// record's key determines this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// The record contains information that is in no other record.
    Primary(&'static str),
    /// The record is derived from other records and can be recomputed.
    Made(&'static str),
    /// The record is a copy of an entry in the policy file. It is compared with the policy whenever it is
    /// used.
    Copy,
    /// This version of the file format has no such kind of record.
    Unknown,
}

/// Returns whether the record under a key is original or derived, and a name for records of its kind.
pub fn nature(key: &[u8]) -> Nature {
    match key.first() {
        Some(&keys::LEASE) => Nature::Primary("lease"),
        Some(&keys::COOLING) => Nature::Primary("cooling address"),
        Some(&keys::STICKY) => Nature::Primary("pod address"),
        Some(&keys::POOL) => Nature::Primary("pool"),
        Some(&keys::RANGES) => Nature::Primary("network"),
        Some(&keys::CURSOR) => Nature::Primary("last address"),
        Some(&keys::EVENT) => Nature::Primary("event"),
        Some(&keys::COUNT) => Nature::Primary("counter"),
        Some(&keys::FACT) => Nature::Primary("fact"),
        Some(&keys::OWNER) => Nature::Made("owner index"),
        Some(&keys::BLOCK) => Nature::Made("occupancy"),
        Some(&keys::QUEUE) => Nature::Made("queue of cooling addresses"),
        Some(&keys::STUCK) => Nature::Made("index of pod addresses"),
        Some(&keys::RESERVED) => Nature::Copy,
        Some(&keys::PLACE) => Nature::Made("index of pools"),
        Some(&keys::GRID) => Nature::Made("subnets in use"),
        _ => Nature::Unknown,
    }
}

const FORM: Bad = Bad("the key has an unknown format");

/// Decodes a record into the form that other stores can import. Returns `None` for a record that cannot be
/// imported.
pub fn read(key: &[u8], value: &[u8]) -> Result<Option<Record>, Bad> {
    Ok(Some(match key.first() {
        Some(&keys::LEASE) => Record::Lease(codec::read_lease(key, value)?),
        Some(&keys::COOLING) => {
            let (set, addr) = keys::read_at(keys::COOLING, key).ok_or(FORM)?;
            Record::Cooling(set, codec::read_cooling(key, addr, value)?)
        }
        Some(&keys::STICKY) => {
            let (set, pod, range) = keys::read_sticky(key).ok_or(FORM)?;
            Record::Sticky(set, pod, range, codec::unseal(key, value)?)
        }
        Some(&keys::CURSOR) => {
            let (set, range) = keys::read_at(keys::CURSOR, key).ok_or(FORM)?;
            Record::Cursor(set, range, codec::unseal(key, value)?)
        }
        Some(&keys::POOL) => Record::Pool(codec::unseal(key, value)?),
        _ => return read_other(key, value).map(|()| None),
    }))
}

fn read_other(key: &[u8], value: &[u8]) -> Result<(), Bad> {
    match key.first() {
        Some(&keys::RANGES) => drop(read_ranges(key, value)?),
        Some(&keys::EVENT) => drop(codec::read_event(key, value)?),
        Some(&keys::COUNT) => drop(codec::read_counts(key, value)?),
        Some(&keys::OWNER) => drop(codec::unseal::<Vec<Addr>>(key, value)?),
        Some(&(keys::STUCK | keys::RESERVED)) => drop(codec::unseal::<Vec<u8>>(key, value)?),
        Some(&keys::FACT) if key.starts_with(keys::BOUNDS) => drop(codec::read_bounds(key, value)?),
        Some(&keys::FACT) if key == keys::MACHINE => drop(codec::unseal::<Vec<u8>>(key, value)?),
        Some(&keys::FACT) => drop(codec::unseal::<u64>(key, value)?),
        _ => {}
    }
    Ok(())
}

/// Writes a record, and all records that are derived from it. Fails if the record contradicts a record that
/// was written before.
pub fn write<K: KvMut>(tables: &mut Tables<'_, K>, key: &[u8], value: &[u8]) -> Result<()> {
    let change = match tables.whole(read(key, value))? {
        Some(Record::Lease(lease)) => Change::Put(lease),
        Some(Record::Cooling(set, cooling)) => Change::Cool(set, cooling),
        Some(Record::Sticky(set, pod, range, addr)) => Change::Sticky(set, pod, range, addr),
        Some(Record::Pool(pool)) => Change::PutPool(pool),
        _ => return tables.kv.put(key, value),
    };
    changes::make(tables, &change, 0).map(drop)
}

/// An in-memory table that stores only derived records. An empty table represents a store that does not exist
/// yet.
#[derive(Default)]
pub struct Made(BTreeMap<Vec<u8>, Vec<u8>>);

impl Kv for Made {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut Each<'_>) -> Result<()> {
        for (key, value) in self.0.range(from.to_vec()..to.to_vec()) {
            if !each(key, value)? {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.range(from.to_vec()..to.to_vec()).next_back().map(|(key, _)| key.clone()))
    }
}

impl KvMut for Made {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if matches!(nature(key), Nature::Made(_)) {
            self.0.insert(key.to_vec(), value.to_vec());
        }
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<()> {
        self.0.remove(key);
        Ok(())
    }
}

/// A fault in a file: the kind of the record, and a description.
pub type Fault = (&'static str, String);

/// The number of addresses that are checked in one step, that is, before the lock is released.
const PAGE: usize = 5_000;

/// A check of a file, in steps. The caller must hold the file's lock at least during each step. A record and
/// the records that it must agree with are compared in the same step, so a change between two steps is not
/// mistaken for a fault. Only the data of one step is in memory.
#[derive(Default)]
pub struct Judgement {
    /// For each kind of record: the number of faulty records, and a description of the first one.
    faults: BTreeMap<&'static str, (usize, String)>,
    /// Where the next step starts: an index into [`PARTS`], and a key.
    part: usize,
    from: Vec<u8>,
}

/// The kinds of records that are checked one by one, each given by the first byte of its keys.
const PARTS: &[u8] = b"BLKOQSTDCEXMR";

impl Judgement {
    /// Checks the next records. Returns whether there are more.
    pub fn step<K: Kv>(&mut self, tables: &Tables<'_, K>, now: Timestamp) -> Result<bool> {
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
            // An occupancy block covers up to 512 addresses.
            work += if kind == b'B' { 512 } else { 1 };
            Ok(work < PAGE)
        })?;
        for (key, value) in &page {
            if let Err(what) = judge(tables, key, value)? {
                let name = match nature(key) {
                    Nature::Primary(name) | Nature::Made(name) => name,
                    Nature::Copy | Nature::Unknown => "reservation",
                };
                self.fault(name, format!("{}: {what}", shown(key)));
            }
            if let (b'L', Ok(lease)) = (kind, codec::read_lease(key, value))
                && lease.time > now.saturating_add(CLOCK)
            {
                let what = format!("the lease of {} is dated in the future", lease.addr);
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

    /// Returns the faults that were found.
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

    /// Checks the pools. There are only a few pools, so their indexes are recomputed completely and compared
    /// with the stored indexes.
    fn pools<K: Kv>(&mut self, tables: &Tables<'_, K>) -> Result<()> {
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
                    faults.push((name, format!("{} does not match the pools", shown(key))));
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

    fn unknown<K: Kv>(&mut self, tables: &Tables<'_, K>) -> Result<()> {
        for kind in 0..=u8::MAX {
            if nature(&[kind]) == Nature::Unknown
                && let Some((key, _)) = tables.kv.first(&[kind], &keys::behind(&[kind]))?
            {
                self.fault(
                    "record",
                    format!("{}: unknown kind of record in this schema version", shown(&key)),
                );
            }
        }
        Ok(())
    }
}

/// Compares a record with the records that it must agree with. The inner error describes a fault of the
/// record. The outer error means that the file could not be read.
fn judge<K: Kv>(tables: &Tables<'_, K>, key: &[u8], value: &[u8]) -> Result<Result<(), String>> {
    let record = match read(key, value) {
        Ok(record) => record,
        Err(Bad(what)) => return Ok(Err(what.to_owned())),
    };
    let is_marked = |set, addr| occupancy::taken(tables, set, addr).unwrap_or(false);
    // Each pair is a condition, and the fault to report if the condition does not hold.
    let facts = match (key.first(), record) {
        (_, Some(Record::Lease(lease))) => {
            let (set, addr) = (&lease.set, lease.addr);
            let index = keys::owner(set, &lease.owner);
            let is_indexed = tables.addrs(&index).is_ok_and(|addrs| addrs.contains(&addr));
            let cools = tables.kv.get(&keys::at(keys::COOLING, set, addr))?.is_some();
            vec![
                (is_indexed, "the owner index has no entry for this lease"),
                (is_marked(set, addr), "the address is not marked as in use"),
                (!cools, "the leased address is also cooling down"),
            ]
        }
        (_, Some(Record::Cooling(set, cooling))) => {
            let queue = keys::queued(&set, cooling.until, cooling.addr);
            vec![
                (
                    tables.kv.get(&queue)?.is_some(),
                    "the cooling address is not in the queue of cooling addresses",
                ),
                (is_marked(&set, cooling.addr), "the address is not marked as in use"),
            ]
        }
        (_, Some(Record::Sticky(set, _, _, addr))) => {
            let stuck = keys::at(keys::STUCK, &set, addr);
            let back = tables.kv.get(&stuck)?;
            let back = back.and_then(|value| codec::unseal::<Vec<u8>>(&stuck, &value).ok());
            vec![(
                back.as_deref() == Some(key),
                "the index from addresses to pods has no matching entry",
            )]
        }
        (Some(&keys::BLOCK), _) => return occupancy::judge(tables, key, value),
        (Some(&keys::OWNER), _) => {
            let set = keys::read_set(keys::OWNER, key);
            let is_owner = |addr: &Addr| {
                let lease = set.as_ref().and_then(|set| tables.lease(set, *addr).ok().flatten());
                lease.is_some_and(|lease| keys::owner(&lease.set, &lease.owner) == key)
            };
            let addrs: Vec<Addr> = codec::unseal(key, value).unwrap_or_default();
            vec![(
                addrs.iter().all(is_owner),
                "the owner index lists an address that the owner has not leased",
            )]
        }
        (Some(&keys::QUEUE), _) => match keys::read_queued(key) {
            None => vec![(false, FORM.0)],
            Some((set, until, addr)) => {
                let cooling = tables.cooling_of(&set, addr).ok().flatten();
                let cools = cooling.is_some_and(|cooling| cooling.until == until);
                vec![(cools, "the queue lists an address that is not cooling down")]
            }
        },
        (Some(&keys::STUCK), _) => {
            let pod: Vec<u8> = codec::unseal(key, value).unwrap_or_default();
            let set = keys::read_set(keys::STICKY, &pod);
            let addr = tables.kv.get(&pod)?.and_then(|v| codec::unseal::<Addr>(&pod, &v).ok());
            let back = set.zip(addr).map(|(set, addr)| keys::at(keys::STUCK, &set, addr));
            vec![(
                back.as_deref() == Some(key),
                "the index lists a pod that has a different address",
            )]
        }
        _ => Vec::new(),
    };
    let wrong = facts.into_iter().find(|(holds, _)| !holds);
    Ok(wrong.map_or(Ok(()), |(_, what)| Err(what.to_owned())))
}

/// How far the clock of an ADD may be ahead of the clock of this check, in seconds.
const CLOCK: u64 = 300;

fn plain(error: &StoreError) -> String {
    match error {
        StoreError::Damaged { what, .. } => what.clone(),
        other => other.to_string(),
    }
}

/// Returns a key in printable form: its set and address if it has them, otherwise its bytes.
pub fn shown(key: &[u8]) -> String {
    match [keys::LEASE, keys::COOLING].iter().find_map(|kind| keys::read_at(*kind, key)) {
        Some((set, addr)) => format!("{addr} in {set}"),
        None => key.escape_ascii().to_string(),
    }
}
