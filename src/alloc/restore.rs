//! RESTORE: a store's records, brought here from another store.
//!
//! Owns: what a record is, and what becomes of one that meets another here. Does not own: reading
//! another store, or how a record is written as text.
//! Invariant: what is here already stays, and is no obstacle; an address with another holder refuses
//! the whole slice; a second time changes nothing.

use super::command::{Change, Cooling, Outcome, PodKey};
use super::view::{Holder, Plan, View};
use crate::error::{PoolRefusal, Refusal, StoreError};
use crate::model::{Lease, NetworkName, NetworkRecord, Owner, Persist, Pool, SetName, Timestamp};
use crate::net::Addr;

/// One record of a store. What can be derived from others (indexes, the bounds kept for warnings) is
/// none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a slice of a store at a time, and most are leases")]
pub enum Record {
    /// A pool of a container engine.
    Pool(Pool),
    /// A network's definition. A store of one machine keeps none.
    Network(NetworkRecord),
    /// An address, and who has it.
    Lease(Lease),
    /// An address that was freed and is kept back.
    Cooling(SetName, Cooling),
    /// The address given last from the range set with this key.
    Cursor(SetName, Addr, Addr),
    /// A pod's former address in the range set with this key.
    Sticky(SetName, PodKey, Addr, Addr),
    /// Another program's leases for this network were taken over then.
    Adopted(NetworkName, Timestamp),
}

impl Record {
    /// The network's set of leases that it goes with; `None`: with none, as pools and what is theirs.
    pub fn set(&self) -> Option<SetName> {
        let set = match self {
            // Known to all of a host's networks, whatever file their leases are in.
            Record::Pool(_) | Record::Adopted(..) | Record::Network(_) => return None,
            Record::Lease(lease) => &lease.set,
            Record::Cooling(set, _) | Record::Cursor(set, ..) | Record::Sticky(set, ..) => set,
        };
        (!set.is_pools()).then(|| set.clone())
    }

    /// What a person calls it; no two records of a store are called the same.
    pub fn name(&self) -> String {
        match self {
            Record::Pool(pool) => format!("pool {}", pool.id),
            Record::Network(record) => format!("definition of network {}", record.network),
            Record::Lease(lease) => format!("lease of {} in {}", lease.addr, lease.set),
            Record::Cooling(set, cooling) => format!("cooling of {} in {set}", cooling.addr),
            Record::Cursor(set, range, _) => format!("last address of range {range} in {set}"),
            Record::Sticky(set, pod, range, _) => {
                format!("address of pod {}/{} of range {range} in {set}", pod.namespace, pod.name)
            }
            Record::Adopted(network, _) => format!("takeover of network {network}"),
        }
    }

    /// How many of a commit's changes it may need.
    fn weight(&self) -> usize {
        match self {
            // A pod's address is known from both sides, and takes the place of two others.
            Record::Sticky(..) => 3,
            _ => 1,
        }
    }
}

/// Writes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The set of leases that all of them go with, if with any.
    pub set: Option<SetName>,
    /// How long they live, where that can be chosen.
    pub persist: Persist,
    /// The records. Pools come one in a command.
    pub records: Vec<Record>,
    /// Only tell what stands in the way.
    pub dry_run: bool,
}

/// Decides a RESTORE: of as many records, from the first on, as a commit can hold.
pub fn run(restore: &Restore, view: &dyn View) -> Result<Plan, StoreError> {
    let room = view.capacity().saturating_sub(1).max(1);
    let mut work =
        Work { view, dry_run: restore.dry_run, changes: Vec::new(), clashes: Vec::new() };
    let (mut done, mut weight) = (0, 0);
    for record in &restore.records {
        weight += record.weight();
        if done > 0 && weight > room {
            break;
        }
        if let Some(refusal) = work.one(record)? {
            if !restore.dry_run {
                return Ok(Plan::refuse(refusal));
            }
            work.clashes.push(refusal);
        }
        done += 1;
    }
    if restore.dry_run {
        work.changes.clear();
    }
    let outcome = Ok(Outcome::Restored { done, clashes: work.clashes });
    Ok(Plan { changes: work.changes, outcome })
}

struct Work<'a> {
    view: &'a dyn View,
    dry_run: bool,
    changes: Vec<Change>,
    clashes: Vec<Refusal>,
}

impl Work<'_> {
    /// Adds a record's changes, or tells what stands in its way.
    fn one(&mut self, record: &Record) -> Result<Option<Refusal>, StoreError> {
        let view = self.view;
        match record {
            Record::Pool(pool) => return self.pool(pool),
            Record::Lease(lease) => return self.lease(lease),
            Record::Network(record) => {
                if view.has_other_nodes() && view.network(&record.network)?.as_ref() != Some(record)
                {
                    self.changes.push(Change::Network(record.clone()));
                }
            }
            Record::Cooling(set, cooling) => match view.holder(set, cooling.addr)? {
                Holder::Free => self.changes.push(Change::Cool(set.clone(), *cooling)),
                Holder::Cooling(other) if other == *cooling => {}
                Holder::Cooling(other) => {
                    self.changes.push(Change::Thaw(set.clone(), other));
                    self.changes.push(Change::Cool(set.clone(), *cooling));
                }
                // In use again: nothing keeps it back.
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
            Record::Adopted(network, time) => {
                if !view.adopted(network)? {
                    self.changes.push(Change::Adopted(network.clone(), *time));
                }
            }
        }
        Ok(None)
    }

    fn lease(&mut self, lease: &Lease) -> Result<Option<Refusal>, StoreError> {
        // A dry run brings no pools.
        if let Owner::Pool(id, _) = &lease.owner
            && !self.dry_run
            && self.view.pool(id)?.is_none_or(|pool| pool.set() != lease.set)
        {
            return Ok(Some(PoolRefusal::Unknown(id.clone()).into()));
        }
        match self.view.holder(&lease.set, lease.addr)? {
            Holder::Leased(here) if *here == *lease => {}
            // The same lease, read at another time.
            Holder::Leased(here) if here.owner == lease.owner && here.node == lease.node => {
                self.changes.push(Change::Put(lease.clone()));
            }
            Holder::Leased(holder) => {
                let owner = Box::new(lease.owner.clone());
                return Ok(Some(Refusal::Clash { holder, owner }));
            }
            Holder::Free | Holder::Cooling(_) => self.changes.push(Change::Put(lease.clone())),
        }
        Ok(None)
    }

    fn pool(&mut self, pool: &Pool) -> Result<Option<Refusal>, StoreError> {
        let here = match self.view.pool(&pool.id)? {
            Some(here) if here == *pool => return Ok(None),
            Some(here) if (&here.space, here.subnet) == (&pool.space, pool.subnet) => None,
            Some(here) => Some(here),
            None => self.view.overlapping(&pool.space, pool.subnet)?,
        };
        // Sub-pools may overlap everything but themselves.
        let clash =
            here.filter(|here| here.id == pool.id || pool.sub.is_none() && here.sub.is_none());
        if let Some(here) = clash {
            return Ok(Some(
                PoolRefusal::Overlap {
                    subnet: pool.subnet,
                    with: here.id,
                    taken: here.subnet,
                    shared: pool.shared.clone(),
                }
                .into(),
            ));
        }
        self.changes.push(Change::PutPool(pool.clone()));
        Ok(None)
    }
}
