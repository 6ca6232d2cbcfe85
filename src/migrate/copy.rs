//! Copies records from one store to another, and compares two stores.
//!
//! If a record already exists at the destination, the allocator (`alloc::restore`) determines whether it is
//! updated or is a conflict.
//! Invariant: a portion of records is written in one transaction. Writing a record again changes nothing, so
//! an interrupted copy can be run again from the beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::alloc::{Command, Context, Outcome, Record, Restore};
use crate::error::{Error, Refusal};
use crate::model::{Lease, Persist, SetName};
use crate::store::Store;

/// The maximum number of records in a portion. A lease file can write this many in one transaction.
const PORTION: usize = 1000;

/// Writes records into a store, in portions.
pub struct Copier<'s> {
    store: &'s mut dyn Store,
    cx: &'s Context,
    dry_run: bool,
    portion: Vec<Record>,
    /// The set of leases and the lifetime (boot or durable) that all records in the current portion share.
    of: (Option<SetName>, Persist),
    /// The number of records that are now at the destination or, in a dry run, that a copy would write.
    pub copied: usize,
    /// The conflicts that the dry run found.
    pub clashes: Vec<Refusal>,
}

impl<'s> Copier<'s> {
    /// Makes a copier that has written nothing yet. In a dry run, it never writes.
    pub fn new(store: &'s mut dyn Store, cx: &'s Context, dry_run: bool) -> Copier<'s> {
        let of = (None, Persist::Disk);
        Copier { store, cx, dry_run, portion: Vec::new(), of, copied: 0, clashes: Vec::new() }
    }

    /// Adds a record to the current portion. If the portion is full, or if the record has a different set or
    /// lifetime, the portion is written first. A pool always gets a portion of its own.
    pub fn push(&mut self, record: Record, persist: Persist) -> Result<(), Error> {
        let of = (record.set(), persist);
        let alone = matches!(record, Record::Pool(_));
        if of != self.of || alone || self.portion.len() >= PORTION {
            self.flush()?;
        }
        self.of = of;
        self.portion.push(record);
        if alone { self.flush() } else { Ok(()) }
    }

    /// Writes the last portion. Call this at the end.
    pub fn flush(&mut self) -> Result<(), Error> {
        while !self.portion.is_empty() {
            let (set, persist) = self.of.clone();
            let records = std::mem::take(&mut self.portion);
            let mut restore = Restore { set, persist, records, dry_run: self.dry_run };
            let command = Command::Restore(restore.clone());
            match self.store.apply(&command, self.cx)? {
                Outcome::Restored { done, clashes } if done > 0 => {
                    self.copied += done;
                    self.clashes.extend(clashes);
                    self.portion = restore.records.split_off(done.min(restore.records.len()));
                }
                other => return Err(other.unexpected()),
            }
        }
        Ok(())
    }
}

/// The differences between two stores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The number of records that are the same in both stores.
    pub same: usize,
    /// The names of records that are missing from the second store.
    pub missing: Vec<String>,
    /// The names of records that differ in the second store.
    pub different: Vec<String>,
    /// The number of records that only the second store has.
    pub more: usize,
    /// The names of records that are left out because the second store is a lease file, which cannot store
    /// them: network definitions and records of imports.
    pub left_out: Vec<String>,
}

/// Compares every record of one store with its copy in another store. The copy must have the lifetime
/// `persist`; if `persist` is `None`, it must have the lifetime of the original.
pub fn compare(
    from: &mut dyn Store,
    to: &mut dyn Store,
    persist: Option<Persist>,
    cx: &Context,
) -> Result<Comparison, Error> {
    let mut left: BTreeMap<String, u64> = BTreeMap::new();
    let mut of_cluster = BTreeSet::new();
    from.records(cx, &mut |record, lived| {
        of_cluster.extend(is_of_cluster(&record).then(|| record.name()));
        left.insert(record.name(), digest(&record, persist.unwrap_or(lived)));
        Ok(())
    })?;
    let mut comparison = Comparison::default();
    let mut keeps_them = false;
    to.records(cx, &mut |record, lives| {
        keeps_them |= is_of_cluster(&record);
        let name = record.name();
        match left.remove(&name) {
            Some(expected) if expected == digest(&record, lives) => comparison.same += 1,
            Some(_) => comparison.different.push(name),
            None => comparison.more += 1,
        }
        Ok(())
    })?;
    let not_kept = |name: &String| !keeps_them && of_cluster.contains(name);
    let (left_out, missing) = left.into_keys().partition(not_kept);
    Ok(Comparison { missing, left_out, ..comparison })
}

/// Returns whether only a cluster can store the record.
fn is_of_cluster(record: &Record) -> bool {
    matches!(record, Record::Definition(_) | Record::Adopted(..))
}

/// Returns a hash of a record. Comparing hashes avoids keeping all records of a large store in memory. The
/// boot of a durable lease is not included, because only a lease file stores it.
fn digest(record: &Record, persist: Persist) -> u64 {
    let mut hasher = DefaultHasher::new();
    match record {
        Record::Lease(lease) if persist == Persist::Disk && lease.ends_with_boot() => {
            let lease = Record::Lease(Lease { boot: None, ..lease.clone() });
            format!("{lease:?}").hash(&mut hasher);
        }
        _ => format!("{record:?}").hash(&mut hasher),
    }
    hasher.finish()
}
