//! Everything on a server that another store can take over.
//!
//! Invariant: every record below the prefix is told, or an error; addresses tell of leases, what owners
//! hold is an index.

use std::time::{Duration, Instant};

use super::super::Each;
use super::super::codec::{self, Bad};
use super::engine::{Engine, Entry};
use super::knowledge::bad_record;
use super::paths;
use crate::alloc::{Holder, Record, Restore};
use crate::error::{Error, StoreError};
use crate::model::Persist;

/// Calls `each` with every record, kind by kind, by path.
pub fn tell(engine: &dyn Engine, timeout: Duration, each: &mut Each<'_>) -> Result<(), Error> {
    type Read = fn(&str, &Entry) -> Result<Option<Record>, Bad>;
    let kinds: [(&str, Read); 6] = [
        (paths::ADOPTED, adopted),
        (paths::NETWORKS, network),
        (paths::POOLS, pool),
        (paths::IPS, slot),
        (paths::CURSORS, cursor),
        (paths::STICKIES, sticky),
    ];
    for (prefix, read) in kinds {
        for (path, entry) in engine.list(prefix, Instant::now() + timeout)? {
            let record: Result<_, StoreError> =
                read(&path, &entry).map_err(|Bad(what)| bad_record(engine, &path, what));
            if let Some(record) = record? {
                let persist = lives(&record);
                each(record, persist)?;
            }
        }
    }
    Ok(())
}

/// How long a record lives.
fn lives(record: &Record) -> Persist {
    match record {
        Record::Lease(lease) if lease.ends_with_boot() && lease.boot.is_some() => Persist::Boot,
        _ => Persist::Disk,
    }
}

/// The same records, of no boot with which they would end.
pub fn without_boots(restore: &Restore) -> Restore {
    let mut restore = restore.clone();
    for record in &mut restore.records {
        if let Record::Lease(lease) = record
            && lease.ends_with_boot()
        {
            lease.boot = None;
        }
    }
    restore
}

const FORM: Bad = Bad("a key of another form");

fn pool(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let id = paths::read_pool(path).ok_or(FORM)?;
    codec::read_pool_of(path.as_bytes(), id, &entry.value).map(|pool| Some(Record::Pool(pool)))
}

fn slot(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let (set, addr) = paths::read_ip(path).ok_or(FORM)?;
    Ok(match codec::read_slot(path.as_bytes(), &set, addr, &entry.value)? {
        Holder::Leased(lease) => Some(Record::Lease(*lease)),
        Holder::Cooling(cooling) => Some(Record::Cooling(set, cooling)),
        Holder::Free => None,
    })
}

fn cursor(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let (set, range) = paths::read_cursor(path).ok_or(FORM)?;
    let addr = codec::read_addr(path.as_bytes(), &entry.value)?;
    Ok(Some(Record::Cursor(set, range, addr)))
}

fn sticky(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let (set, pod, range) = paths::read_sticky(path).ok_or(FORM)?;
    let addr = codec::read_addr(path.as_bytes(), &entry.value)?;
    Ok(Some(Record::Sticky(set, pod, range, addr)))
}

fn network(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let network = paths::read_network(path).ok_or(FORM)?;
    let record = codec::read_network(path.as_bytes(), network, &entry.value)?;
    Ok(Some(Record::Network(record)))
}

fn adopted(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let network = paths::read_adopted(path).ok_or(FORM)?;
    let time = codec::read_number(path.as_bytes(), &entry.value)?;
    Ok(Some(Record::Adopted(network, time)))
}
