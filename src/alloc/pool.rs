//! Docker pools. This module implements the rules of Docker's default driver, and kontena-ipam's rules for
//! pools that several hosts share by name.
//!
//! This module determines which subnet a pool gets, which pools may overlap, and what is removed together
//! with a pool. The module `address` handles the addresses of an existing pool. Invariant (moby's rule): two
//! pools of one address space overlap only if both are sub-pools, or if one is a sub-pool inside the other
//! pool's subnet. A new shared pool overlaps no other pool.
//!
//! A pool without a user is *closed*: no address is leased from it, and its leases and the pool itself are
//! being removed. If other nodes use the store, a pool is closed before its leases are listed, so that no
//! lease can be added after the listing. If the removal is interrupted, another command completes it: the
//! next request for this pool or an overlapping pool, the next release, or the next sweep.

use super::address::lease;
use super::change::Change;
use super::command::{AdoptPool, Ask, Block, Collected, Outcome, ReleasePool, RequestPool, Sweep};
use super::view::{Context, Plan, View};
use crate::error::{Error, PoolRefusal, StoreError};
use crate::model::{Kind, Lease, Node, Pool, PoolId};
use crate::net::{Addr, Span, Subnet, hosts};

/// Returns the plan for a request for a pool.
pub fn request(request: &RequestPool, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    if let Some(shared) = &request.shared
        && let Some(pool) = view.pool(&shared.id)?
    {
        if pool.is_closed() {
            return finish(pool, view);
        }
        return Ok(put(join(request, &shared.name, pool, view, cx)?, Vec::new()));
    }
    let space = &request.space;
    let subnet = match &request.ask {
        Ask::Exactly(subnet) => *subnet,
        Ask::Any(blocks) => {
            find(space, blocks, &request.avoid, view)?.ok_or(PoolRefusal::NoBlock)?
        }
    };
    let id = match &request.shared {
        Some(shared) => shared.id.clone(),
        None => PoolId::plain(space, subnet, request.sub),
    };
    let name = request.shared.as_ref().map(|shared| shared.name.clone());
    // A sub-pool may overlap any pool, except a pool with the same subnet and the same sub-pool.
    let other = if request.sub.is_none() || request.shared.is_some() {
        view.overlapping(space, subnet)?
    } else {
        view.pool(&id)?
    };
    if let Some(other) = other {
        return match view.pool(&other.id)? {
            Some(closed) if closed.is_closed() => finish(closed, view),
            _ => Err(PoolRefusal::overlap(subnet, other, name).into()),
        };
    }
    let mut pool = Pool { sub: request.sub, shared: name, ..new(id, space, subnet, cx) };
    let mut leases = Vec::new();
    // In a subnet with a single address there is no gateway, because the container needs that address.
    if pool.shared.is_some() && subnet.len() < subnet.family().bits() {
        let gateway = hosts(subnet).first;
        pool.gateway = Some(gateway);
        leases.push(lease(&pool, gateway, Kind::Gateway, cx));
    }
    Ok(put(pool, leases))
}

/// Makes an unshared pool with this node as its only user.
fn new(id: PoolId, space: &str, subnet: Subnet, cx: &Context) -> Pool {
    let users = vec![(cx.node.clone(), 1)];
    let (sub, shared, gateway, space) = (None, None, None, space.to_owned());
    Pool { id, space, subnet, sub, shared, gateway, users, time: cx.now }
}

fn put(pool: Pool, leases: Vec<Lease>) -> Plan {
    let mut changes = vec![Change::PutPool(pool.clone())];
    changes.extend(leases.into_iter().map(Change::Put));
    Plan::new(changes, Outcome::Pool(Box::new(pool)))
}

/// Adds this node to the users of a shared pool. Refuses a request that does not match the pool.
fn join(
    request: &RequestPool,
    name: &str,
    mut pool: Pool,
    view: &dyn View,
    cx: &Context,
) -> Result<Pool, Error> {
    let differs = |what, has: String, asked: String| {
        Err(PoolRefusal::Differs { name: name.to_owned(), what, has, asked }.into())
    };
    let subnet = pool.subnet;
    match &request.ask {
        Ask::Exactly(asked) if *asked != subnet => {
            return differs("subnet", subnet.to_string(), asked.to_string());
        }
        // dockerd would reject a pool that overlaps one of the host's routes, and then request the same pool
        // again, forever.
        Ask::Any(_) if request.avoid.iter().any(|span| span.overlaps(subnet.into())) => {
            return Err(PoolRefusal::Routed { name: name.to_owned(), subnet }.into());
        }
        Ask::Exactly(_) | Ask::Any(_) => {}
    }
    if pool.shared.as_deref() != Some(name) {
        return differs("subnet", subnet.to_string(), format!("the name {name}"));
    }
    if let Some(asked) = request.sub
        && pool.sub != Some(asked)
    {
        let has = pool.sub.map_or_else(|| "none".to_owned(), |sub| sub.to_string());
        return differs("iprange", has, asked.to_string());
    }
    match user(&pool, &cx.node, view) {
        Some(at) => pool.users[at].1 = pool.users[at].1.saturating_add(1),
        None => pool.users.push((cx.node.clone(), 1)),
    }
    // The clocks of hosts differ, so keep the latest time: the pool must not look older than the latest
    // request for it.
    pool.time = pool.time.max(cx.now);
    Ok(pool)
}

/// Returns the index of a node among the users of a pool. Users are identified by their names. If no other
/// node uses the store, a pool's only user must be this machine, even if its name differs: the machine was
/// renamed. For a shared pool, the machine-id must also match.
fn user(pool: &Pool, node: &Node, view: &dyn View) -> Option<usize> {
    let named = pool.users.iter().position(|(n, _)| n.name == node.name);
    let renamed = || {
        if view.has_other_nodes() {
            return None;
        }
        let only = pool.users.len() == 1 && pool.shared.is_none();
        let machine = &pool.users.first()?.0.machine;
        (only || (pool.users.len() == 1 && !machine.is_empty() && *machine == node.machine))
            .then_some(0)
    };
    named.or_else(renamed)
}

/// Returns the first free subnet of the requested size. Skips subnets that overlap the spans in `avoid` (the
/// host's routes), or pools with other prefix lengths.
fn find(
    space: &str,
    blocks: &[Block],
    avoid: &[Span],
    view: &dyn View,
) -> Result<Option<Subnet>, StoreError> {
    for block in blocks {
        let mut from = Some(block.within.first());
        while let Some(at) = from {
            let Some(free) = view.next_block(space, block.within, block.len, at)? else { break };
            let span = Span::from(free);
            let route = avoid.iter().find(|a| a.overlaps(span)).map(|a| a.last);
            let pool = match route {
                Some(_) => None,
                None => view.overlapping(space, free)?.map(|p| p.subnet.last()),
            };
            let Some(last) = route.or(pool) else { return Ok(Some(free)) };
            from = last.max(span.last).next();
        }
    }
    Ok(None)
}

/// Returns the plan for the release of a pool. If other machines still use a shared pool, only the releasing
/// machine's addresses are freed. The pool is removed when its last machine releases it.
pub fn release(release: &ReleasePool, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let Some(pool) = view.pool(&release.pool)? else {
        return Ok(Plan::only(collected(Vec::new(), false, true)));
    };
    let mut less = pool.clone();
    let at = user(&pool, &cx.node, view);
    match at {
        // This node has requested the pool again since the first step of the release, so the release ends
        // here.
        Some(_) if release.resumed => return Ok(Plan::only(collected(Vec::new(), true, true))),
        Some(at) if less.users[at].1 > 1 => {
            less.users[at].1 -= 1;
            let outcome = collected(Vec::new(), true, true);
            return Ok(Plan::new(vec![Change::PutPool(less)], outcome));
        }
        Some(at) => drop(less.users.remove(at)),
        None if pool.shared.is_none()
            && !release.resumed
            && let Some((other, _)) = pool.users.first() =>
        {
            let node = other.name.clone();
            return Err(PoolRefusal::OfAnotherNode { pool: pool.id, node }.into());
        }
        None => {}
    }
    if !pool.is_closed() && less.is_closed() && view.has_other_nodes() {
        return Ok(Plan::new(vec![Change::PutPool(less)], collected(Vec::new(), true, false)));
    }
    let is_mine = |lease: &Lease| lease.node.name == cx.node.name;
    let goes =
        |lease: &Lease| less.is_closed() || is_mine(lease) && pool.gateway != Some(lease.addr);
    let (stale, done) = collect(&pool, &goes, view)?;
    let (freed, changes) = leave(stale, shrink(pool, less, done));
    Ok(Plan::new(changes, collected(freed, true, done)))
}

/// Continues the removal of a closed pool.
fn finish(pool: Pool, view: &dyn View) -> Result<Plan, Error> {
    let (leases, done) = collect(&pool, &|_| true, view)?;
    let (freed, changes) = leave(leases, shrink(pool.clone(), pool, done));
    Ok(Plan::new(changes, collected(freed, true, false)))
}

fn collected(freed: Vec<Addr>, pool: bool, done: bool) -> Outcome {
    Outcome::Collected(Collected { freed, pool, after: None, done })
}

/// Returns the change that replaces `pool` by `less`, the same pool with one user fewer; `None` if they are
/// equal. If `less` is closed and has no leases (`is_empty`), the change removes the pool instead.
fn shrink(pool: Pool, less: Pool, is_empty: bool) -> Option<Change> {
    if less.is_closed() && is_empty {
        return Some(Change::DropPool(pool));
    }
    (less != pool).then_some(Change::PutPool(less))
}

/// Returns the addresses of `leases`, and the changes that free these leases, followed by the change to the
/// pool itself.
fn leave(leases: Vec<Lease>, pool: Option<Change>) -> (Vec<Addr>, Vec<Change>) {
    let freed = leases.iter().map(|lease| lease.addr).collect();
    let free = |lease| Change::Free { lease, until: None };
    (freed, leases.into_iter().map(free).chain(pool).collect())
}

/// The maximum number of a pool's leases that are read at a time.
const PAGE: usize = 512;

/// Returns as many of a pool's leases that `which` selects as fit into one commit, and whether there are no
/// more of them.
fn collect(
    pool: &Pool,
    which: &dyn Fn(&Lease) -> bool,
    view: &dyn View,
) -> Result<(Vec<Lease>, bool), StoreError> {
    // Leave room for the change to the pool itself.
    let room = view.capacity().saturating_sub(2).max(1);
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = view.of_pool(pool, after, PAGE)?;
        let Some(end) = page.last() else { return Ok((found, true)) };
        after = Some(end.addr);
        for lease in page {
            if !which(&lease) {
                continue;
            }
            if found.len() == room {
                return Ok((found, false));
            }
            found.push(lease);
        }
    }
}

/// Returns the plan for a sweep of a pool, which frees this node's addresses that Docker does not list.
pub fn sweep(sweep: &Sweep, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let Some(pool) = view.pool(&sweep.pool)? else {
        return Ok(Plan::only(collected(Vec::new(), false, true)));
    };
    let at = user(&pool, &cx.node, view);
    let young = |lease: &Lease| lease.time >= sweep.before;
    let alive = |lease: &Lease| sweep.alive.binary_search(&lease.addr).is_ok();
    let mine = |lease: &Lease| lease.node.name == cx.node.name;
    let mut less = pool.clone();
    // A pool that no Docker network uses is removed with all its leases, unless one of its addresses may be
    // in use.
    let is_unused = pool.is_closed() || at.is_some() && pool.time < sweep.before;
    let mut gone = sweep.known.is_none() && is_unused;
    if gone {
        let lives = |lease: &Lease| mine(lease) && (young(lease) || alive(lease));
        gone = collect(&pool, &lives, view)?.0.is_empty();
    }
    if gone && let Some(at) = at {
        less.users.remove(at);
    }
    let last = gone && less.is_closed();
    if last && !pool.is_closed() && !sweep.dry && view.has_other_nodes() {
        return Ok(Plan::new(vec![Change::PutPool(less)], collected(Vec::new(), false, false)));
    }
    let stale = |lease: &Lease| {
        let known = sweep.known.as_ref().is_some_and(|k| k.binary_search(&lease.addr).is_ok());
        let kept = known || young(lease) || alive(lease) || lease.kind == Kind::Gateway;
        last || (mine(lease) && if gone { pool.gateway != Some(lease.addr) } else { !kept })
    };
    // If this node no longer uses the pool, its remaining addresses in the pool are stale: they were
    // requested while the node was releasing the pool.
    let is_kept = sweep.known.is_none() && !gone && at.is_some();
    let (stale, done) = if is_kept { (Vec::new(), true) } else { collect(&pool, &stale, view)? };
    let pool = if done && gone { shrink(pool, less, true) } else { None };
    let (freed, changes) = leave(stale, pool);
    if sweep.dry {
        return Ok(Plan::only(collected(freed, gone, true)));
    }
    Ok(Plan::new(changes, collected(freed, gone && done, done)))
}

/// Returns the plan for the import of a gipam pool. gipam's file does not say which address is the gateway,
/// so the first one is taken: dockerd requests the gateway before any other address.
pub fn adopt(adopt: &AdoptPool, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let subnet = adopt.subnet;
    let overlap = |other| Err(PoolRefusal::overlap(subnet, other, None).into());
    let pool = match view.pool(&adopt.id)? {
        Some(pool) if pool.subnet == subnet && pool.space == adopt.space => pool,
        Some(other) => return overlap(other),
        None => match view.overlapping(&adopt.space, subnet)? {
            Some(other) => return overlap(other),
            None => new(adopt.id.clone(), &adopt.space, subnet, cx),
        },
    };
    let gateway = hosts(subnet).first;
    let mut leases = Vec::new();
    for addr in &adopt.addrs {
        if !subnet.contains(*addr) {
            return Err(PoolRefusal::OutOfRange { addr: *addr, subnet }.into());
        }
        if view.holder(&pool.set(), *addr)? == super::Holder::Free {
            let kind = if *addr == gateway { Kind::Gateway } else { Kind::Dynamic };
            leases.push(lease(&pool, *addr, kind, cx));
        }
    }
    Ok(put(pool, leases))
}
