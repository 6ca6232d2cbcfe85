//! Plans DEL, GC and EVICT (which frees all leases of a machine). This module selects the leases to free, and
//! determines how long each address cools down.
//!
//! Invariant: a lease is freed only if it has not changed since it was read. The store verifies this when it
//! commits.

use std::collections::BTreeSet;

use super::change::Change;
use super::command::{Collected, Del, Evict, Gc, Outcome, Target};
use super::import::cursors_of;
use super::view::{Context, Holder, Plan, View, held};
use crate::error::{Error, StoreError};
use crate::model::{Kind, Lease, Owner, SetName, Timestamp};
use crate::net::Addr;

/// Returns the plan for a DEL.
pub fn del(del: &Del, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let held = |owner| held(view, &del.set, owner, &|network| view.adopted(network));
    let freed = match &del.target {
        Target::Owner(owner) => held(owner)?,
        Target::OwnerAt(owner, addrs) => {
            let held = held(owner)?;
            let named = held.iter().any(|l| addrs.contains(&l.addr));
            if named { held } else { Vec::new() }
        }
        Target::Some(owner, addrs) => {
            let mut held = view.of(&del.set, owner)?;
            held.retain(|l| addrs.contains(&l.addr));
            held
        }
        Target::Unchanged(lease) => match view.holder(&del.set, lease.addr)? {
            Holder::Leased(found) if found == *lease => vec![*found],
            _ => Vec::new(),
        },
        Target::Addresses(addrs) => at(&del.set, addrs, view)?,
    };
    if let (Some(network), []) = (&del.legacy, &*freed)
        && !view.adopted(network)?
    {
        return Ok(Plan::only(Outcome::ReadLegacy));
    }
    let mut changes = Vec::new();
    for lease in &freed {
        let until = if del.undo { None } else { until(lease, cx) };
        changes.push(Change::Free { lease: lease.clone(), until });
        if del.rewind {
            let cursors = cursors_of(lease).into_iter();
            changes.extend(cursors.map(|c| Change::Cursor(del.set.clone(), c, lease.addr)));
        }
    }
    Ok(Plan::new(changes, Outcome::Freed(freed)))
}

fn at(set: &SetName, addrs: &[Addr], view: &dyn View) -> Result<Vec<Lease>, StoreError> {
    let mut found = Vec::new();
    let addrs: BTreeSet<&Addr> = addrs.iter().collect();
    for addr in addrs {
        if let Holder::Leased(lease) = view.holder(set, *addr)?
            && lease.kind.collectable()
        {
            found.push(*lease);
        }
    }
    Ok(found)
}

fn until(lease: &Lease, cx: &Context) -> Option<Timestamp> {
    (lease.cooldown > 0).then(|| cx.now.saturating_add(u64::from(lease.cooldown)))
}

/// The number of owners whose leases are read at a time.
const PAGE: usize = 512;

/// Returns the plan for one step of a GC.
pub fn gc(gc: &Gc, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    collect(
        &gc.set,
        gc.after.as_ref(),
        &|lease| is_stale(lease, gc),
        &|lease| until(lease, cx),
        view,
    )
}

/// Returns the plan for one step of an EVICT.
pub fn evict(evict: &Evict, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let goes = |lease: &Lease| {
        let kept = lease.kind == Kind::Reserved || matches!(lease.owner, Owner::Pool(..));
        let which = if evict.only_ended { cx.has_ended(lease) } else { !kept };
        lease.node.name == cx.node.name && which
    };
    // The addresses need no cooldown, because a machine that is gone has no open connections.
    collect(&evict.set, evict.after.as_ref(), &goes, &|_| None, view)
}

/// Frees as many stale leases as fit into one commit. If there are more, the step ends between two owners,
/// and the next step continues there. If a single owner has more leases than fit (one for each of many range
/// sets), the step ends between two leases of this owner.
fn collect(
    set: &SetName,
    after: Option<&Owner>,
    stale: &dyn Fn(&Lease) -> bool,
    until: &dyn Fn(&Lease) -> Option<Timestamp>,
    view: &dyn View,
) -> Result<Plan, Error> {
    // Freeing a lease counts as one change, with or without a cooldown.
    let room = view.capacity().max(1);
    let mut changes: Vec<Change> = Vec::new();
    let mut freed = Vec::new();
    let mut after = after.cloned();
    let mut done = false;
    'look: while !done {
        let page = view.page(set, after.as_ref(), PAGE)?;
        done = page.is_empty();
        for leases in page.chunk_by(|a, b| a.owner == b.owner) {
            let stale: Vec<&Lease> = leases.iter().filter(|l| stale(l)).collect();
            let all = changes.len() + stale.len() <= room;
            if !all && !changes.is_empty() {
                break 'look;
            }
            for lease in stale.into_iter().take(room) {
                freed.push(lease.addr);
                changes.push(Change::Free { lease: lease.clone(), until: until(lease) });
            }
            if !all {
                break 'look;
            }
            after = Some(leases[0].owner.clone());
        }
    }
    Ok(Plan {
        changes,
        outcome: Ok(Outcome::Collected(Collected { freed, after, done, pool: false })),
    })
}

fn is_stale(lease: &Lease, gc: &Gc) -> bool {
    let Some(attachment) = lease.attachment().filter(|a| a.network == gc.network) else {
        return false;
    };
    if !lease.kind.collectable() {
        return false;
    }
    let valid = &gc.valid;
    if let Some(ifname) = &attachment.ifname {
        return valid
            .binary_search_by(|(c, i)| (c, i).cmp(&(&attachment.container, ifname)))
            .is_err();
    }
    // A lease without an interface is valid if the runtime lists any interface of its container.
    let first = valid.partition_point(|(c, _)| *c < attachment.container);
    valid.get(first).is_none_or(|(c, _)| *c != attachment.container)
}
