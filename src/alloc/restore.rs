//! Plans a RESTORE, which writes records that were read from another store.
//!
//! If a record already exists with different content, it is updated. If another owner holds one of the
//! addresses, the command is refused and writes no record. A repeated RESTORE changes nothing.

use super::change::Change;
use super::command::{Drain, Outcome, Restore};
use super::drain::after;
use super::record::Record;
use super::view::{Holder, Plan, View};
use crate::error::{Error, PoolRefusal, Refusal};
use crate::model::{Kind, Lease, Owner, Pool};

/// Returns the plan for a RESTORE. The plan writes the records in order, as many as fit into one commit.
pub fn run(restore: &Restore, view: &dyn View) -> Result<Plan, Error> {
    let room = view.capacity().saturating_sub(1).max(1);
    let mut work =
        Work { view, dry_run: restore.dry_run, changes: Vec::new(), clashes: Vec::new() };
    let (mut done, mut needed) = (0, 0);
    for record in &restore.records {
        needed += weight(record);
        if done > 0 && needed > room {
            break;
        }
        match work.one(record) {
            Err(Error::Refused(refusal)) if restore.dry_run => work.clashes.push(refusal),
            added => added?,
        }
        done += 1;
    }
    if restore.dry_run {
        work.changes.clear();
    }
    Ok(Plan::new(work.changes, Outcome::Restored { done, clashes: work.clashes }))
}

struct Work<'a> {
    view: &'a dyn View,
    dry_run: bool,
    changes: Vec<Change>,
    clashes: Vec<Refusal>,
}

impl Work<'_> {
    /// Adds the changes that write one record, or refuses the record because of a conflict.
    fn one(&mut self, record: &Record) -> Result<(), Error> {
        let view = self.view;
        match record {
            Record::Pool(pool) => return self.pool(pool),
            Record::Lease(lease) => return self.lease(lease),
            Record::Definition(record) => {
                if view.has_other_nodes()
                    && view.definition(&record.network)?.as_ref() != Some(record)
                {
                    self.changes.push(Change::PutDefinition(record.clone()));
                }
            }
            Record::Cooling(set, cooling) => match view.holder(set, cooling.addr)? {
                Holder::Free => self.changes.push(Change::Cool(set.clone(), *cooling)),
                Holder::Cooling(other) if other == *cooling => {}
                Holder::Cooling(other) => {
                    self.changes.push(Change::Thaw(set.clone(), other));
                    self.changes.push(Change::Cool(set.clone(), *cooling));
                }
                // The address has been leased again, so its cooldown record is not needed.
                Holder::Leased(_) => {}
            },
            Record::Cursor(set, range, addr) => {
                if view.cursor(set, *range)? != Some(*addr) {
                    self.changes.push(Change::Cursor(set.clone(), *range, *addr));
                }
            }
            Record::Sticky(set, pod, range, addr) => {
                if view.former(set, pod, *range)? != Some(*addr) {
                    self.changes.push(Change::Sticky(set.clone(), pod.clone(), *range, *addr));
                }
            }
            Record::Draining(range) => {
                // An earlier record of the same command may have changed the set's draining ranges too.
                let earlier = self.changes.iter().rev().find_map(|change| match change {
                    Change::PutDraining(set, ranges) if *set == range.set => Some(ranges.clone()),
                    _ => None,
                });
                let before = earlier.map_or_else(|| view.draining(&range.set), Ok)?;
                let drain = Drain { set: range.set.clone(), span: range.span, undo: false };
                let after = after(&before, &drain, range.since);
                if after != before {
                    self.changes.push(Change::PutDraining(range.set.clone(), after));
                }
            }
            Record::Adopted(network, time) => {
                if !view.adopted(network)? {
                    self.changes.push(Change::Adopted(network.clone(), *time));
                }
            }
        }
        Ok(())
    }

    fn lease(&mut self, lease: &Lease) -> Result<(), Error> {
        // In a dry run, the lease's pool may be missing, because a dry run creates no pools.
        if let Owner::Pool(id, _) = &lease.owner
            && !self.dry_run
            && self.view.pool(id)?.is_none_or(|pool| pool.set() != lease.set)
        {
            return Err(PoolRefusal::Unknown(id.clone()).into());
        }
        match self.view.holder(&lease.set, lease.addr)? {
            // An address may be reserved for a name and, at the same time, leased to the container of that
            // name.
            Holder::Leased(here) if reserved_for(&here, lease) => {
                self.changes.push(Change::Put(lease.clone()));
            }
            Holder::Leased(here) if reserved_for(lease, &here) => {
                if !self.view.of(&lease.set, &lease.owner)?.contains(lease) {
                    let tenant = Lease { kind: Kind::Named, cooldown: 0, ..*here };
                    self.changes.extend([Change::Put(lease.clone()), Change::Put(tenant)]);
                }
            }
            Holder::Leased(here) if *here == *lease => {}
            // This store already has the lease, but its details differ from the record, so write the lease
            // again.
            Holder::Leased(here) if here.owner == lease.owner && here.node == lease.node => {
                self.changes.push(Change::Put(lease.clone()));
            }
            Holder::Leased(holder) => {
                let owner = Box::new(lease.owner.clone());
                return Err(Refusal::Clash { holder, owner }.into());
            }
            Holder::Free | Holder::Cooling(_) => self.changes.push(Change::Put(lease.clone())),
        }
        Ok(())
    }

    fn pool(&mut self, pool: &Pool) -> Result<(), Error> {
        let here = match self.view.pool(&pool.id)? {
            Some(here) if here == *pool => return Ok(()),
            Some(here) if (&here.space, here.subnet) == (&pool.space, pool.subnet) => None,
            Some(here) => Some(here),
            None => self.view.overlapping(&pool.space, pool.subnet)?,
        };
        // A sub-pool may overlap any pool, except a pool with the same subnet and the same sub-pool.
        let clash =
            here.filter(|here| here.id == pool.id || pool.sub.is_none() && here.sub.is_none());
        if let Some(here) = clash {
            return Err(PoolRefusal::overlap(pool.subnet, here, pool.shared.clone()).into());
        }
        self.changes.push(Change::PutPool(pool.clone()));
        Ok(())
    }
}

/// Returns whether `reserved` is a reservation for the name of the container that has the lease `tenant`. The
/// two leases must have the same address.
fn reserved_for(reserved: &Lease, tenant: &Lease) -> bool {
    match &reserved.owner {
        Owner::Named(name) => name.has(tenant),
        _ => false,
    }
}

/// Returns the maximum number of changes that writing a record adds to a commit.
fn weight(record: &Record) -> usize {
    match record {
        // A pod's former address has an index entry in each direction, and each entry may replace an older
        // one.
        Record::Sticky(..) => 3,
        // The command may have to write the lease of the container with that name as well.
        Record::Lease(Lease { owner: Owner::Named(_), .. }) => 2,
        _ => 1,
    }
}
