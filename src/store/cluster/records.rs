//! Records as they lie on a server, kind by kind; and all of them that another store can take over.
//!
//! Owns: reading a record with its key, and a whole kind. Does not own: the forms (`codec`, `paths`).
//! Invariant: every record below the prefix is told, or an error; addresses tell of leases, what owners
//! hold is an index.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::keys;
use super::server::{Entry, Server};
use super::view::bad_record;
use crate::alloc::{Holder, NetworkRanges, Record, Restore};
use crate::error::{Error, StoreError};
use crate::model::{Kind, NodeRecord, Persist, Pool, SetName};
use crate::net::Addr;
use crate::store::EachRecord;
use crate::store::codec;
use crate::store::codec::Bad;

/// Reads a record of a kind.
type Read<T> = fn(&str, &Entry) -> Result<T, Bad>;

/// All records below a prefix, by path. An error names the one that cannot be read.
pub fn list<T>(
    server: &dyn Server,
    prefix: &str,
    until: Instant,
    read: Read<T>,
) -> Result<Vec<T>, StoreError> {
    let whole = |(path, entry): (String, Entry)| {
        read(&path, &entry).map_err(|Bad(what)| bad_record(server, &path, what))
    };
    server.list(prefix, until)?.into_iter().map(whole).collect()
}

/// Calls `each` with every record, kind by kind, by path.
pub fn export(
    server: &dyn Server,
    timeout: Duration,
    each: &mut EachRecord<'_>,
) -> Result<(), Error> {
    let kinds: [(&str, Read<Option<Record>>); 6] = [
        (keys::ADOPTED, adopted),
        (keys::NETWORKS, definition),
        (keys::POOLS, |path, entry| Ok(Some(Record::Pool(pool(path, entry)?)))),
        (keys::ADDRESSES, taken),
        (keys::CURSOR, cursor),
        (keys::STICKY, sticky),
    ];
    // Sets whose leases end with a boot: what else goes with them lives as long.
    let mut of_boot = BTreeSet::new();
    for (prefix, read) in kinds {
        let found = list(server, prefix, Instant::now() + timeout, read)?;
        of_boot
            .extend(found.iter().flatten().filter(|r| ends_with_boot(r)).filter_map(Record::set));
        for record in found.into_iter().flatten() {
            // A reservation outlives a boot wherever it is; it is where the leases are.
            let lease = matches!(&record, Record::Lease(l) if l.kind != Kind::Reserved);
            let with_set = record.set().is_some_and(|set| of_boot.contains(&set));
            let boot = ends_with_boot(&record) || with_set && !lease;
            each(record, if boot { Persist::Boot } else { Persist::Disk })?;
        }
    }
    Ok(())
}

fn ends_with_boot(record: &Record) -> bool {
    matches!(record, Record::Lease(lease) if lease.ends_with_boot() && lease.boot.is_some())
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

/// A pool.
pub fn pool(path: &str, entry: &Entry) -> Result<Pool, Bad> {
    codec::read_pool(path.as_bytes(), &entry.value)
}

/// An address, and who has it.
pub fn holder(path: &str, entry: &Entry) -> Result<((SetName, Addr), Holder), Bad> {
    let (set, addr) = keys::read_address(path).ok_or(FORM)?;
    let holder = codec::read_slot(path.as_bytes(), &set, addr, &entry.value)?;
    Ok(((set, addr), holder))
}

/// A node.
pub fn node(path: &str, entry: &Entry) -> Result<NodeRecord, Bad> {
    let name = keys::read_node(path).ok_or(FORM)?;
    codec::read_node(path.as_bytes(), &name, &entry.value)
}

fn taken(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let ((set, _), holder) = holder(path, entry)?;
    Ok(match holder {
        Holder::Leased(lease) => Some(Record::Lease(*lease)),
        Holder::Cooling(cooling) => Some(Record::Cooling(set, cooling)),
        Holder::Free => None,
    })
}

fn cursor(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let (set, range) = keys::read_cursor(path).ok_or(FORM)?;
    let addr = codec::read_addr(path.as_bytes(), &entry.value)?;
    Ok(Some(Record::Cursor(set, range, addr)))
}

fn sticky(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let (set, pod, range) = keys::read_sticky(path).ok_or(FORM)?;
    let addr = codec::read_addr(path.as_bytes(), &entry.value)?;
    Ok(Some(Record::Sticky(set, pod, range, addr)))
}

fn definition(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let network = keys::read_definition(path).ok_or(FORM)?;
    let record = codec::read_definition(path.as_bytes(), network, &entry.value)?;
    Ok(Some(Record::Definition(record)))
}

/// A network's ranges.
pub fn ranges(path: &str, entry: &Entry) -> Result<NetworkRanges, Bad> {
    let network = keys::read_ranges(path).ok_or(FORM)?;
    codec::read_ranges(path.as_bytes(), network, &entry.value)
}

fn adopted(path: &str, entry: &Entry) -> Result<Option<Record>, Bad> {
    let network = keys::read_adopted(path).ok_or(FORM)?;
    let time = codec::read_number(path.as_bytes(), &entry.value)?;
    Ok(Some(Record::Adopted(network, time)))
}
