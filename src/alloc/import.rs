//! Plans IMPORT and EXPORT, which transfer leases and cursors from another program to this store, and back.
//! (A cursor is the address that was allocated last in a range set.)
//!
//! This module contains the rules for imported addresses that are already leased in this store, and for
//! cursors whose range is unknown. [`crate::migrate`] reads the other program's files. Invariant: an import
//! is carried out completely or not at all. A repeated import changes nothing.

use std::collections::BTreeSet;

use super::change::Change;
use super::command::{ExportHostLocal, ForeignLease, Import, Imported, Outcome};
use super::view::{Context, Holder, Plan, View};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Lease, Node, SetName};
use crate::net::{Addr, Subnet};

/// Returns the plan for an IMPORT.
pub fn run(import: &Import, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    if let Some(network) = &import.adopts
        && view.adopted(network)?
    {
        return Ok(Plan::only(Outcome::Imported(Imported::Before)));
    }
    let mut changes = Vec::new();
    let (mut taken, mut present) = (Vec::new(), Vec::new());
    for imported in &import.leases {
        match view.holder(&import.set, imported.addr)? {
            Holder::Leased(lease) if lease.owner == imported.owner => present.push(imported.addr),
            Holder::Leased(holder) => {
                let owner = Box::new(imported.owner.clone());
                return Err(Refusal::Clash { holder, owner }.into());
            }
            Holder::Free | Holder::Cooling(_) => {
                taken.push(imported.addr);
                changes.push(Change::Put(lease(&import.set, imported, view, cx)));
            }
        }
    }
    for last in &import.cursors {
        for range in possible_ranges(*last) {
            // An existing cursor stays, because an ADD may have moved it since an earlier import.
            if view.cursor(&import.set, range)?.is_none() {
                changes.push(Change::Cursor(import.set.clone(), range, *last));
            }
        }
    }
    let adopts = import.adopts.clone().filter(|_| !import.partial);
    changes.extend(adopts.map(|network| Change::Adopted(network, cx.now)));
    if import.dry_run {
        changes.clear();
    }
    Ok(Plan::new(changes, Outcome::Imported(Imported::Done { taken, present })))
}

/// Returns the plan for an EXPORT.
pub fn export_host_local(hand: &ExportHostLocal, view: &dyn View) -> Result<Plan, Error> {
    let cursors: Result<Vec<Option<Addr>>, StoreError> =
        hand.ranges.iter().map(|range| view.cursor(&hand.set, *range)).collect();
    let mut changes = Vec::new();
    for lease in &hand.leases {
        if view.holder(&hand.set, lease.addr)? == Holder::Leased(Box::new(lease.clone())) {
            changes.push(Change::Free { lease: lease.clone(), until: None });
        }
    }
    Ok(Plan { changes, outcome: Ok(Outcome::Exported(cursors?)) })
}

/// Makes a lease from another program's lease. Without a configuration, the prefix length and the range are
/// unknown, so the address itself is the key of the range. The owner's next ADD corrects the prefix length
/// and the range.
fn lease(set: &SetName, imported: &ForeignLease, view: &dyn View, cx: &Context) -> Lease {
    let origin = imported.origin();
    let bare = cx.reservation(set.clone(), imported.addr);
    // In a cluster, if the interface is unknown, the node on which the container runs is unknown too.
    let nameless = origin.attachment.as_ref().is_some_and(|a| a.ifname.is_none());
    let (kind, owner) = (imported.kind, imported.owner.clone());
    let lease = Lease { kind, owner, origin, ..bare };
    if nameless && view.has_other_nodes() {
        return Lease { node: Node::default(), boot: None, ..lease };
    }
    lease
}

/// Returns the possible keys of the range set that contains `addr`: the first host address of each subnet
/// that contains `addr`. This assumes that the first range of the range set is a whole subnet. Many of these
/// subnets share a first address, because most bits of an address are usually zero, so there are only a few
/// keys.
pub fn possible_ranges(addr: Addr) -> BTreeSet<Addr> {
    let lens = 1..addr.family().bits().saturating_sub(1);
    lens.filter_map(|len| Subnet::masked(addr, len)?.first().next()).collect()
}

/// Returns the keys of the cursors that a DEL with `rewind` moves back to a lease's address. If the lease was
/// imported, its range set is unknown, so all possible keys are returned.
pub fn cursors_of(lease: &Lease) -> BTreeSet<Addr> {
    let unknown = lease.range == lease.addr && lease.prefix == lease.addr.family().bits();
    if unknown { possible_ranges(lease.addr) } else { BTreeSet::from([lease.range]) }
}
