//! Everything in a store's files that another store can take over, and what comes from there.
//!
//! Owns: the order (pools before their addresses, then by the keys), and which file a record is of.
//! Invariant: an index is no record; a record that cannot be read is damage, never left out; one that
//! is in both files is told once.

use std::collections::BTreeSet;

use super::Embedded;
use super::view::{Kv, Tables};
use super::{database, files, keys, pools};
use crate::alloc::{Command, Context, Plan, Record};
use crate::error::{Error, StoreError};
use crate::model::{Kind, Lease, Persist, SetName};
use crate::store::EachRecord;
use crate::store::codec;
use crate::store::codec::Bad;

impl Embedded {
    /// RESTORE: leases where new ones of their kind go, pools where pools are.
    pub(super) fn restore(
        &mut self,
        command: &Command,
        persist: Persist,
        cx: &Context,
    ) -> Result<Plan, StoreError> {
        let usual = std::mem::replace(&mut self.persist, persist);
        let plan = match (command.only_looks(), command.set()) {
            (true, _) => self.look(command, cx),
            (false, Some(_)) => self.give(command, cx),
            (false, None) => self.serve_pool(command, cx),
        };
        self.persist = usual;
        plan
    }

    /// Calls `each` with the records of both files.
    pub(super) fn tell_records(
        &self,
        cx: &Context,
        each: &mut EachRecord<'_>,
    ) -> Result<(), Error> {
        let keep = self.keep_place();
        let places = self.places(cx)?;
        // Some are in both files: what belongs to a network goes with its leases.
        let mut kept = BTreeSet::new();
        if keep.path.exists() {
            let lock = files::lock_to_look(&keep.path, &self.patience)?;
            let told = database::look(&keep.path, Some(&lock), |tables| {
                let homes = keys::homes();
                tables.kv.scan(&homes, &keys::behind(&homes), &mut |key, _| {
                    kept.extend(keys::read_home(key));
                    Ok(true)
                })?;
                adopted(tables, &mut |record| each(record, Persist::Disk))
            })?;
            told.unwrap_or(Ok(()))?;
        }
        let two = places.iter().any(|place| place.path != keep.path);
        let in_boot_file = |set: &SetName| two && !kept.contains(set);
        for place in &places {
            let boot = place.path != keep.path;
            let persist = if boot { Persist::Boot } else { Persist::Disk };
            let lock = files::lock_to_look(&place.path, &self.patience)?;
            let told = database::look(&place.path, Some(&lock), |tables| {
                all(tables, &mut |record| {
                    let here = match &record {
                        Record::Lease(l) if l.kind == Kind::Reserved => {
                            boot == in_boot_file(&l.set)
                        }
                        Record::Sticky(set, ..) => boot == in_boot_file(set),
                        _ => true,
                    };
                    if here { each(record, persist) } else { Ok(()) }
                })
            })?;
            told.unwrap_or(Ok(()))?;
        }
        Ok(())
    }
}

/// Calls `each` with the records of a table, but those of [`adopted`].
fn all<K: Kv>(
    tables: &Tables<'_, K>,
    each: &mut dyn FnMut(Record) -> Result<(), Error>,
) -> Result<Result<(), Error>, StoreError> {
    let mut walk = Walk { tables, each, failed: None };
    for pool in pools::all(tables)? {
        walk.tell(Record::Pool(pool));
    }
    walk.scan(&keys::leases(None), |key, value| {
        let lease: Lease = codec::read_lease(key, value)?;
        Ok(Record::Lease(lease))
    })?;
    walk.scan(&keys::coolings(), |key, value| {
        let (set, addr) = keys::read_cooling(key).ok_or(WRONG)?;
        Ok(Record::Cooling(set, codec::read_cooling(key, addr, value)?))
    })?;
    walk.scan(&keys::cursors(), |key, value| {
        let (set, range) = keys::read_cursor(key).ok_or(WRONG)?;
        Ok(Record::Cursor(set, range, codec::read_addr(key, value)?))
    })?;
    walk.scan(&keys::stickies(), |key, value| {
        let (set, pod, range) = keys::read_sticky(key).ok_or(WRONG)?;
        Ok(Record::Sticky(set, pod, range, codec::read_addr(key, value)?))
    })?;
    Ok(walk.failed.map_or(Ok(()), Err))
}

/// Which folders were taken over: told first, for a file copies that when a network comes into it.
fn adopted<K: Kv>(
    tables: &Tables<'_, K>,
    each: &mut dyn FnMut(Record) -> Result<(), Error>,
) -> Result<Result<(), Error>, StoreError> {
    let mut walk = Walk { tables, each, failed: None };
    walk.scan(&keys::all_adopted(), |key, value| {
        let network = keys::read_adopted(key).ok_or(WRONG)?;
        Ok(Record::Adopted(network, codec::read_number(key, value)?))
    })?;
    Ok(walk.failed.map_or(Ok(()), Err))
}

const WRONG: Bad = Bad("a record under a wrong key");

struct Walk<'a, 't, K> {
    tables: &'a Tables<'t, K>,
    each: &'a mut dyn FnMut(Record) -> Result<(), Error>,
    failed: Option<Error>,
}

impl<K: Kv> Walk<'_, '_, K> {
    fn tell(&mut self, record: Record) {
        if self.failed.is_none() {
            self.failed = (self.each)(record).err();
        }
    }

    fn scan(
        &mut self,
        prefix: &[u8],
        read: impl Fn(&[u8], &[u8]) -> Result<Record, Bad>,
    ) -> Result<(), StoreError> {
        let tables = self.tables;
        tables.kv.scan(prefix, &keys::behind(prefix), &mut |key, value| {
            self.tell(tables.whole(read(key, value))?);
            Ok(self.failed.is_none())
        })
    }
}
