//! Every record of a store that another store can take over, and what comes from there.
//!
//! Pools come before their addresses, the rest in the order of the keys. An index is no record. A
//! record that cannot be read is damage, never left out.

#![allow(clippy::redundant_closure, reason = "the functions are not general enough over lifetimes")]

use std::collections::BTreeSet;

use super::fs::FileSystem;
use super::policy::{Policy, Reservation, spans};
use super::reserve::addresses;
use super::view::{Kv, Tables};
use super::walk::PAGE;
use super::{Embedded, keys, pools};
use crate::alloc::{Command, Context, Outcome, Plan, Record, Restore};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Kind, Lease, Owner, Persist};
use crate::store::codec::Bad;
use crate::store::{EachRecord, codec};

impl<F: FileSystem> Embedded<F> {
    /// RESTORE: leases where new ones of their kind go, pools where pools are, reservations into the
    /// policy.
    pub(super) fn restore(
        &mut self,
        command: &Command,
        restore: &Restore,
        cx: &Context,
    ) -> Result<Plan, StoreError> {
        let usual = std::mem::replace(&mut self.persist, restore.persist);
        let plan = self.restore_as(command, restore, cx);
        self.persist = usual;
        plan
    }

    fn restore_as(
        &self,
        command: &Command,
        restore: &Restore,
        cx: &Context,
    ) -> Result<Plan, StoreError> {
        if restore.dry_run {
            return self.look(command, cx);
        }
        let Some(set) = &restore.set else { return self.serve_pool(command, cx) };
        let is_reserved =
            |record: &Record| matches!(record, Record::Lease(l) if l.kind == Kind::Reserved);
        let first = restore.records.iter().take_while(|record| is_reserved(record)).count();
        if first > 0 {
            return self.restore_reservations(&restore.records[..first], cx);
        }
        let others = restore.records.iter().take_while(|record| !is_reserved(record));
        let part = Restore { records: others.cloned().collect(), ..restore.clone() };
        self.allocate(&Command::Restore(part), set, cx)
    }

    fn restore_reservations(&self, records: &[Record], cx: &Context) -> Result<Plan, StoreError> {
        self.make_folder()?;
        let lock = self.lock(&self.durable())?;
        let before = Policy::read(&self.fs, &self.names.policy())?;
        let mut after = before.clone();
        let mut leases = Vec::new();
        for record in records {
            if let Record::Lease(lease) = record
                && before.find(&lease.set, lease.addr).is_none()
            {
                leases.push(lease);
                after.reserve(&Reservation {
                    set: lease.set.clone(),
                    span: spans(&[lease.addr])[0],
                    note: lease.origin.note.clone(),
                    holder: lease.origin.holder.clone(),
                    time: lease.time,
                });
            }
        }
        let clash = self.declare(&lock, &before, after, cx, &|file, lock| {
            let found = self.read(file, lock, |tables| {
                for lease in &leases {
                    if let Some(there) = tables.lease(&lease.set, lease.addr)? {
                        return Ok(Some(there));
                    }
                }
                Ok(None)
            })?;
            Ok(found.flatten())
        })?;
        Ok(match clash {
            Some(holder) => {
                let owner = Box::new(Owner::Reservation(holder.addr));
                Plan::refuse(Refusal::Clash { holder: Box::new(holder), owner })
            }
            None => Plan::only(Outcome::Restored { done: records.len(), clashes: Vec::new() }),
        })
    }

    /// Calls `each` with the records of both files and of the policy.
    pub(super) fn walk_records(
        &self,
        cx: &Context,
        each: &mut EachRecord<'_>,
    ) -> Result<(), Error> {
        let mut seen = BTreeSet::new();
        for file in self.lease_files_own_first(cx)? {
            let pools = self.read_page(&file, |tables| pools::all(tables))?;
            for pool in pools.unwrap_or_default() {
                each(Record::Pool(pool), file.persist)?;
            }
            let mut here = BTreeSet::new();
            for (prefix, read) in KINDS {
                let mut from = prefix();
                loop {
                    let page =
                        self.read_page(&file, |tables| page(tables, &from, &prefix(), *read))?;
                    let Some((records, next)) = page else { break };
                    for record in records {
                        let set = record.set();
                        if set.as_ref().is_none_or(|set| !seen.contains(set)) {
                            here.extend(set);
                            each(record, file.persist)?;
                        }
                    }
                    let Some(next) = next else { break };
                    from = next;
                }
            }
            seen.extend(here);
        }
        for entry in Policy::read(&self.fs, &self.names.policy())?.entries {
            for addr in addresses(entry.span) {
                each(Record::Lease(entry.lease(addr)), Persist::Disk)?;
            }
        }
        Ok(())
    }
}

/// The first part of a kind's keys, and how its records are read.
type RecordKind = (fn() -> Vec<u8>, Read);

/// Reads a record of one kind.
type Read = fn(&[u8], &[u8]) -> Result<Record, Bad>;

const WRONG: Bad = Bad("a record under a wrong key");

/// The kinds of records, pools apart: their keys, and how they are read.
const KINDS: &[RecordKind] = &[
    (
        || keys::leases(None),
        |key, value| {
            let lease: Lease = codec::read_lease(key, value)?;
            Ok(Record::Lease(lease))
        },
    ),
    (keys::coolings, |key, value| {
        let (set, addr) = keys::read_cooling(key).ok_or(WRONG)?;
        Ok(Record::Cooling(set, codec::read_cooling(key, addr, value)?))
    }),
    (keys::cursors, |key, value| {
        let (set, range) = keys::read_cursor(key).ok_or(WRONG)?;
        Ok(Record::Cursor(set, range, codec::unseal(key, value)?))
    }),
    (keys::stickies, |key, value| {
        let (set, pod, range) = keys::read_sticky(key).ok_or(WRONG)?;
        Ok(Record::Sticky(set, pod, range, codec::unseal(key, value)?))
    }),
];

/// One page of records, and where the next one begins.
fn page<K: Kv>(
    tables: &Tables<'_, K>,
    from: &[u8],
    prefix: &[u8],
    read: Read,
) -> Result<(Vec<Record>, Option<Vec<u8>>), StoreError> {
    let (mut records, mut next) = (Vec::new(), None);
    tables.kv.scan(from, &keys::behind(prefix), &mut |key, value| {
        if records.len() == PAGE {
            next = Some(key.to_vec());
            return Ok(false);
        }
        records.push(tables.whole(read(key, value))?);
        Ok(true)
    })?;
    Ok((records, next))
}
