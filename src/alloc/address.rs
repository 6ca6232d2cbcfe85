//! Addresses of pools, as a container engine asks for them.
//!
//! Owns: which address of a pool, and whose request for one is granted. Does not own: pools.
//! Invariant: an address is leased through a pool that exists in the same transaction, so no lease
//! outlives its pool.

use super::change::Change;
use super::command::{Outcome, ReleaseAddress, RequestAddress};
use super::view::{Context, Holder, Order, Plan, View};
use crate::error::{PoolRefusal, StoreError};
use crate::model::{Kind, Lease, Owner, Pool};
use crate::net::{Addr, Span, hosts};

/// Decides a request for an address.
pub fn request(
    request: &RequestAddress,
    view: &dyn View,
    cx: &Context,
) -> Result<Plan, StoreError> {
    let Some(pool) = view.pool(&request.pool)? else {
        return Ok(Plan::refuse(PoolRefusal::Unknown(request.pool.clone()).into()));
    };
    // Every host of a shared pool has the same gateway, whoever asks.
    let shared = pool.gateway.filter(|gateway| {
        request.gateway && request.wanted.is_none_or(|wanted| wanted == *gateway)
    });
    let chosen = match request.wanted.or(shared) {
        Some(addr) => asked(addr, &pool, view)?,
        None => next(request.serial, &pool, view)?,
    };
    let addr = match chosen {
        Ok(addr) => addr,
        Err(PoolRefusal::Taken { holder: Some(lease), .. })
            if shared == Some(lease.addr) && lease.kind == Kind::Gateway =>
        {
            return Ok(Plan::only(Outcome::Leased { lease, created: false }));
        }
        Err(refusal) => return Ok(Plan::refuse(refusal.into())),
    };
    let kind = match (request.gateway, request.wanted) {
        (true, _) => Kind::Gateway,
        (false, Some(_)) => Kind::Static,
        (false, None) => Kind::Dynamic,
    };
    let lease = Lease { origin: request.origin.clone(), ..lease(&pool, addr, kind, cx) };
    let mut changes = vec![Change::Put(lease.clone())];
    if request.serial && request.wanted.is_none() {
        changes.push(Change::Cursor(lease.set.clone(), lease.range, addr));
    }
    Ok(Plan { changes, outcome: Ok(Outcome::Leased { lease: Box::new(lease), created: true }) })
}

/// A lease through a pool that says nothing of its origin.
pub fn lease(pool: &Pool, addr: Addr, kind: Kind, cx: &Context) -> Lease {
    Lease {
        prefix: pool.subnet.len(),
        kind,
        owner: Owner::Pool(pool.id.clone(), addr),
        range: pool.sub.unwrap_or(pool.subnet).first(),
        ..cx.reservation(pool.set(), addr)
    }
}

/// Whether an address that was asked for can be had: anywhere in the subnet, for gateways and
/// `--ip` may lie outside the sub-pool.
fn asked(
    addr: Addr,
    pool: &Pool,
    view: &dyn View,
) -> Result<Result<Addr, PoolRefusal>, StoreError> {
    if !pool.subnet.contains(addr) {
        return Ok(Err(PoolRefusal::OutOfRange { addr, subnet: pool.subnet }));
    }
    if !hosts(pool.subnet).contains(addr) {
        return Ok(Err(PoolRefusal::Taken { addr, holder: None }));
    }
    Ok(match view.holder(&pool.set(), addr)? {
        Holder::Leased(lease) => Err(PoolRefusal::Taken { addr, holder: Some(lease) }),
        Holder::Free | Holder::Cooling(_) => Ok(addr),
    })
}

/// The lowest free address, or the next one in turn.
fn next(
    serial: bool,
    pool: &Pool,
    view: &dyn View,
) -> Result<Result<Addr, PoolRefusal>, StoreError> {
    let full = PoolRefusal::Exhausted(pool.id.clone());
    let Some(all) = pool.draws() else { return Ok(Err(full)) };
    let set = pool.set();
    let key = pool.sub.unwrap_or(pool.subnet).first();
    let last = if serial { view.cursor(&set, key)? } else { None };
    let walk: Vec<Span> = match last.filter(|last| all.contains(*last)) {
        None => vec![all],
        Some(last) => {
            let behind = last.next().and_then(|next| all.starting(next));
            behind.into_iter().chain(all.up_to(last)).collect()
        }
    };
    for span in walk {
        if let Some(addr) = view.next_free(&set, span, Order::Ascending)? {
            return Ok(Ok(addr));
        }
    }
    Ok(Err(full))
}

/// Decides a release. An address that another pool of the same subnet leased stays with it, and a
/// shared pool's gateway stays until the pool goes: other hosts use it.
pub fn release(release: &ReleaseAddress, view: &dyn View) -> Result<Plan, StoreError> {
    let nothing = || Plan::only(Outcome::Freed(Vec::new()));
    let Some(pool) = view.pool(&release.pool)? else { return Ok(nothing()) };
    let addr = release.addr;
    if !pool.subnet.contains(addr) {
        let refusal = PoolRefusal::OutOfRange { addr, subnet: pool.subnet };
        return Ok(Plan::refuse(refusal.into()));
    }
    match view.holder(&pool.set(), addr)? {
        Holder::Leased(lease)
            if lease.owner == Owner::Pool(pool.id.clone(), addr)
                && pool.gateway != Some(addr)
                && release.only.as_ref().is_none_or(|only| *only == lease) =>
        {
            let change = Change::Free { lease: (*lease).clone(), until: None };
            Ok(Plan { changes: vec![change], outcome: Ok(Outcome::Freed(vec![*lease])) })
        }
        _ => Ok(nothing()),
    }
}
