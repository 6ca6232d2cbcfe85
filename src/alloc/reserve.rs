//! Plans RESERVE and UNRESERVE, which make and end reservations. A reserved address is leased to no
//! container, or only to a container with a given name.
//!
//! Invariant: a RESERVE never takes an address away from its holder, and an UNRESERVE frees only
//! reservations. A reservation for a name never becomes a reservation for a different name.

use super::change::Change;
use super::command::{Outcome, Reserve, Unreserve};
use super::view::{Context, Holder, Plan, View};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Kind, Lease, Node, Origin, Owner, StaticName};
use crate::net::Addr;

/// Returns the plan for a RESERVE. `contested` means that this store and host-local have leased the same
/// addresses to different owners. This store's lease of an address then stays as it is: until it ends, no
/// other container can get the address. A store with a policy file also writes the reservation to that file,
/// where it outlasts the lease.
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
                let after = renewed(&lease, reserve)?;
                if after.owner != lease.owner {
                    changes.push(Change::Free { lease: (*lease).clone(), until: None });
                }
                changes.extend((after != *lease).then_some(Change::Put(after)));
            }
            Holder::Leased(tenant) => {
                let Some(name) = name_of(&tenant, reserve) else {
                    let ranges = addr.to_string();
                    return Err(Refusal::Held { index: 0, ranges, holder: tenant }.into());
                };
                // The container keeps its lease. Only the reservation is written.
                let after = if let Some(before) = reservation(&tenant, &name, view)? {
                    renewed(&before, reserve)?
                } else {
                    reserved.push(*addr);
                    new(reserve, *addr, Some(name), cx)
                };
                changes.push(Change::Put(after));
                changes.push(Change::Put(Lease { kind: Kind::Named, cooldown: 0, ..*tenant }));
            }
            Holder::Free | Holder::Cooling(_) => {
                reserved.push(*addr);
                changes.push(Change::Put(new(reserve, *addr, reserve.name.clone(), cx)));
            }
        }
    }
    Ok(Plan::new(changes, Outcome::Reserved(reserved)))
}

/// Returns a new reservation. It has no node and no boot, because it belongs to an operator.
fn new(reserve: &Reserve, addr: Addr, name: Option<StaticName>, cx: &Context) -> Lease {
    let (note, holder) = (reserve.note.clone(), reserve.holder.clone());
    Lease {
        owner: name.map_or(Owner::Reservation(addr), Owner::Named),
        node: Node::default(),
        boot: None,
        origin: Origin { note, holder, ..Origin::default() },
        ..cx.reservation(reserve.set.clone(), addr)
    }
}

/// Returns an existing reservation, updated with the note, the holder and the name that the command sets.
/// Refuses a command that would replace a name by a different name.
fn renewed(before: &Lease, reserve: &Reserve) -> Result<Lease, Refusal> {
    let owner = match (&before.owner, &reserve.name) {
        (Owner::Named(name), Some(other)) if name != other => {
            let (ranges, holder) = (before.addr.to_string(), Box::new(before.clone()));
            return Err(Refusal::Held { index: 0, ranges, holder });
        }
        (_, Some(name)) => Owner::Named(name.clone()),
        (owner, None) => owner.clone(),
    };
    let origin = Origin {
        note: reserve.note.clone().or_else(|| before.origin.note.clone()),
        holder: reserve.holder.clone().or_else(|| before.origin.holder.clone()),
        ..before.origin.clone()
    };
    Ok(Lease { owner, origin, ..before.clone() })
}

/// Returns the name of the container that holds the lease `tenant`; `None` if the command must not reserve
/// the address for that name.
fn name_of(tenant: &Lease, reserve: &Reserve) -> Option<StaticName> {
    let name = StaticName::of(&tenant.origin)?;
    let is_meant = match &reserve.name {
        Some(meant) => meant.has(tenant),
        None => tenant.kind == Kind::Named,
    };
    is_meant.then_some(name)
}

/// Returns the reservation that exists alongside a lease: the same address, reserved for the name of the
/// container that holds the lease.
fn reservation(
    tenant: &Lease,
    name: &StaticName,
    view: &dyn View,
) -> Result<Option<Lease>, StoreError> {
    let reserved = view.of(&tenant.set, &Owner::Named(name.clone()))?;
    Ok(reserved.into_iter().find(|lease| lease.addr == tenant.addr))
}

/// Returns the plan for an UNRESERVE.
pub fn unreserve(unreserve: &Unreserve, view: &dyn View) -> Result<Plan, Error> {
    let (mut freed, mut changes) = (Vec::new(), Vec::new());
    for addr in &unreserve.addrs {
        let Holder::Leased(lease) = view.holder(&unreserve.set, *addr)? else { continue };
        let (reserved, tenant) = match (lease.kind, StaticName::of(&lease.origin)) {
            (Kind::Reserved, _) => (Some(*lease), None),
            (Kind::Named, Some(name)) => (reservation(&lease, &name, view)?, Some(lease)),
            _ => (None, None),
        };
        let Some(reserved) = reserved else { continue };
        changes.push(Change::Free { lease: reserved.clone(), until: None });
        // The container keeps its lease. The lease becomes static, because its address is no longer reserved
        // for the container's name.
        changes.extend(tenant.map(|lease| Change::Put(Lease { kind: Kind::Static, ..*lease })));
        freed.push(reserved);
    }
    Ok(Plan::new(changes, Outcome::Freed(freed)))
}
