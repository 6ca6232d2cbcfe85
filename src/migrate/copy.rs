//! One store's records in another: written, and compared.
//!
//! Owns: in which portions records go over, and what is told of a difference. Does not own: what a
//! record does to the one that is there already (`alloc`), where records come from.
//! Invariant: a portion is one transaction; records that are there already are left alone, so that
//! whoever was stopped midway starts again at the beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::alloc::{Command, Context, Outcome, Record, Restore};
use crate::error::{Error, Refusal};
use crate::model::{Lease, Persist, SetName};
use crate::store::Store;

/// Most records of a portion: what a file's transaction takes at a time.
const PORTION: usize = 1000;

/// Writes records into a store, portion by portion.
pub struct Copier<'s> {
    store: &'s mut dyn Store,
    cx: &'s Context,
    dry_run: bool,
    portion: Vec<Record>,
    /// What the portion's records have in common.
    of: (Option<SetName>, Persist),
    /// How many records are there now, or would be.
    pub copied: usize,
    /// What stands in the way of a dry run.
    pub clashes: Vec<Refusal>,
}

impl<'s> Copier<'s> {
    /// Nothing is written yet; in a dry run nothing ever is.
    pub fn new(store: &'s mut dyn Store, cx: &'s Context, dry_run: bool) -> Copier<'s> {
        let of = (None, Persist::Disk);
        Copier { store, cx, dry_run, portion: Vec::new(), of, copied: 0, clashes: Vec::new() }
    }

    /// Takes a record, and writes those before if they are many or of another kind.
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

    /// Writes what was taken; to be called at the end.
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

/// How two stores differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Records that are the same in both.
    pub same: usize,
    /// Names of those that the second has not.
    pub missing: Vec<String>,
    /// Names of those that the second has otherwise.
    pub different: Vec<String>,
    /// Records that the second alone has.
    pub more: usize,
    /// Names of what a cluster keeps and a lease file does not, where the second keeps none: definitions
    /// of networks, and records of takeovers.
    pub left_out: Vec<String>,
}

/// Compares every record of one store with another's, to which they went to live as long as they did or
/// as `persist` says.
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

/// Whether only a cluster keeps such a record.
fn is_of_cluster(record: &Record) -> bool {
    matches!(record, Record::Definition(_) | Record::Adopted(..))
}

/// Enough to tell two records of one name apart; all of a large store in memory would be too much. In
/// which boot a lease was made that outlives it is told by a file and not by a cluster.
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
