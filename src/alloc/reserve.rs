//! RESERVE and UNRESERVE: keep addresses from being leased, and end that.
//!
//! Invariant: a reservation never takes an address away from its holder, and UNRESERVE frees only
//! reservations.

use super::change::Change;
use super::command::{Outcome, Reserve, Unreserve};
use super::view::{Context, Holder, Plan, View};
use crate::error::{Error, Refusal};
use crate::model::{Kind, Lease, Node, Origin};

/// Decides a RESERVE. `contested` means that this store and host-local have leased the same addresses to
/// different owners. The lease in this store then stays, because it protects the address for now. If the
/// store has a policy file, a reservation is written there in addition, and it lasts longer than the lease.
pub fn reserve(
    reserve: &Reserve,
    contested: bool,
    view: &dyn View,
    cx: &Context,
) -> Result<Plan, Error> {
    let mut changes = Vec::new();
    let mut reserved = Vec::new();
    for addr in &reserve.addrs {
        match view.holder(&reserve.set, *addr)? {
            Holder::Leased(_) if contested => {}
            Holder::Leased(lease) if lease.kind == Kind::Reserved => {
                let origin = Origin {
                    note: reserve.note.clone().or_else(|| lease.origin.note.clone()),
                    holder: reserve.holder.clone().or_else(|| lease.origin.holder.clone()),
                    ..lease.origin.clone()
                };
                if origin != lease.origin {
                    changes.push(Change::Put(Lease { origin, ..*lease }));
                }
            }
            Holder::Leased(holder) => {
                let ranges = addr.to_string();
                return Err(Refusal::Held { index: 0, ranges, holder }.into());
            }
            Holder::Free | Holder::Cooling(_) => {
                // A reservation has no node and no boot, because it belongs to an operator.
                let mut lease = cx.reservation(reserve.set.clone(), *addr);
                (lease.node, lease.boot) = (Node::default(), None);
                lease.origin.note.clone_from(&reserve.note);
                lease.origin.holder.clone_from(&reserve.holder);
                reserved.push(*addr);
                changes.push(Change::Put(lease));
            }
        }
    }
    Ok(Plan::new(changes, Outcome::Reserved(reserved)))
}

/// Decides an UNRESERVE: returns the plan for it.
pub fn unreserve(unreserve: &Unreserve, view: &dyn View) -> Result<Plan, Error> {
    let mut freed = Vec::new();
    for addr in &unreserve.addrs {
        if let Holder::Leased(lease) = view.holder(&unreserve.set, *addr)?
            && lease.kind == Kind::Reserved
        {
            freed.push(*lease);
        }
    }
    let free = |lease: &Lease| Change::Free { lease: lease.clone(), until: None };
    let changes = freed.iter().map(free).collect();
    Ok(Plan::new(changes, Outcome::Freed(freed)))
}
