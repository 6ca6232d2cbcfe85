//! Plans requests for addresses in Docker pools, and releases of these addresses.
//!
//! The transaction that leases an address also checks that the pool exists, so no lease outlives its pool.

use super::change::Change;
use super::command::{Outcome, ReleaseAddress, RequestAddress};
use super::view::{Context, Holder, Order, Plan, View};
use crate::error::{Error, PoolRefusal};
use crate::model::{Kind, Lease, Owner, Pool};
use crate::net::{Addr, Span, hosts};

/// Returns the plan for a request for an address.
pub fn request(request: &RequestAddress, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let Some(pool) = view.pool(&request.pool)?.filter(|pool| !pool.is_closed()) else {
        return Err(PoolRefusal::Unknown(request.pool.clone()).into());
    };
    // All hosts of a shared pool use the same gateway, so each host may request the gateway's address.
    let shared = pool.gateway.filter(|gateway| {
        request.gateway && request.requested.is_none_or(|requested| requested == *gateway)
    });
    if let Some(addr) = shared
        && let Holder::Leased(lease) = view.holder(&pool.set(), addr)?
        && lease.kind == Kind::Gateway
    {
        return Ok(Plan::only(Outcome::Leased { lease, created: false }));
    }
    let addr = match request.requested.or(shared) {
        Some(addr) => requested(addr, &pool, view)?,
        None => next(request.serial, &pool, view)?,
    };
    let kind = match (request.gateway, request.requested) {
        (true, _) => Kind::Gateway,
        (false, Some(_)) => Kind::Static,
        (false, None) => Kind::Dynamic,
    };
    let lease = Lease { origin: request.origin.clone(), ..lease(&pool, addr, kind, cx) };
    let mut changes = vec![Change::Put(lease.clone())];
    if request.serial && request.requested.is_none() {
        changes.push(Change::Cursor(lease.set.clone(), lease.range, addr));
    }
    Ok(Plan::new(changes, Outcome::Leased { lease: Box::new(lease), created: true }))
}

/// Makes a lease in a pool, with an empty origin.
pub fn lease(pool: &Pool, addr: Addr, kind: Kind, cx: &Context) -> Lease {
    Lease {
        prefix: pool.subnet.len(),
        kind,
        owner: Owner::Pool(pool.id.clone(), addr),
        range: pool.sub.unwrap_or(pool.subnet).first(),
        ..cx.reservation(pool.set(), addr)
    }
}

/// Returns a requested address, or refuses it if it is not free. The address may lie anywhere in the subnet,
/// because gateways and addresses requested with `--ip` may lie outside the sub-pool.
fn requested(addr: Addr, pool: &Pool, view: &dyn View) -> Result<Addr, Error> {
    if !pool.subnet.contains(addr) {
        return Err(PoolRefusal::OutOfRange { addr, subnet: pool.subnet }.into());
    }
    if !hosts(pool.subnet).contains(addr) {
        return Err(PoolRefusal::Taken { addr, holder: None }.into());
    }
    match view.holder(&pool.set(), addr)? {
        Holder::Leased(lease) => Err(PoolRefusal::Taken { addr, holder: Some(lease) }.into()),
        Holder::Free | Holder::Cooling(_) => Ok(addr),
    }
}

/// Returns the lowest free address of the pool. If `serial` is set, returns the next free address after the
/// address that the pool allocated last.
fn next(serial: bool, pool: &Pool, view: &dyn View) -> Result<Addr, Error> {
    let full = || PoolRefusal::Exhausted(pool.id.clone());
    let all = pool.draws().ok_or_else(full)?;
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
            return Ok(addr);
        }
    }
    Err(full().into())
}

/// Returns the plan for the release of an address. The address stays leased if a different pool with the same
/// subnet has leased it. The gateway of a shared pool stays leased until the pool is released, because other
/// hosts use the gateway.
pub fn release(release: &ReleaseAddress, view: &dyn View) -> Result<Plan, Error> {
    let nothing = || Plan::only(Outcome::Freed(Vec::new()));
    let Some(pool) = view.pool(&release.pool)? else { return Ok(nothing()) };
    let addr = release.addr;
    if !pool.subnet.contains(addr) {
        return Err(PoolRefusal::OutOfRange { addr, subnet: pool.subnet }.into());
    }
    match view.holder(&pool.set(), addr)? {
        Holder::Leased(lease)
            if lease.owner == Owner::Pool(pool.id.clone(), addr)
                && pool.gateway != Some(addr)
                && release.only.as_ref().is_none_or(|only| *only == lease) =>
        {
            let change = Change::Free { lease: (*lease).clone(), until: None };
            Ok(Plan::new(vec![change], Outcome::Freed(vec![*lease])))
        }
        _ => Ok(nothing()),
    }
}
