//! A Docker daemon, whose requests reach the store through one or two driver processes at a time.
//!
//! dockerd sends each release only once. What was lost, `cleanup` frees.

use super::super::pools::Pools;
use super::{Ran, Shared, World, clock, run};
use crate::alloc::{
    Ask, Collected, Command, Outcome, ReleaseAddress, ReleasePool, RequestAddress, RequestPool,
    Sweep,
};
use crate::error::{PoolRefusal, Refusal};
use crate::model::{Persist, Pool, PoolId};
use crate::net::Addr;
use crate::store::testing::contract::addr;
use crate::store::testing::pool_cases::{ask, shared, want};

/// The daemon of a host.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    pub pools: Pools,
    /// When the requests that are suspended began, by the host's clock.
    pub since: Vec<u64>,
    /// Sweeps that have begun or ended. What is freed at the same time may have been swept.
    sweeps: u64,
    /// Sweeps that are suspended. The clock must not be set back meanwhile, because a sweep compares times.
    pub sweeping: u32,
    /// An operator sweeps without a grace period, so nothing else is requested.
    is_quiet: bool,
}

const SPACES: [&str; 2] = ["local", "global"];
const SUBNETS: [&str; 7] = [
    "10.5.0.0/29",
    "10.5.0.8/29",
    "10.5.0.0/28",
    "10.5.0.0/28 10.5.0.8/29",
    "10.5.0.0/28 10.5.0.4/30",
    "auto 10.6.0.0/27 29",
    "auto 10.5.0.0/27 29",
];

pub(super) fn act(world: &Shared, host: usize) {
    let choice = world.borrow_mut().random.below(20);
    if world.borrow().hosts[host].docker.is_quiet {
        return;
    }
    match choice {
        0..5 => request_pool(world, host),
        5..11 => request_address(world, host),
        11..15 => release_address(world, host),
        15..18 => release_pool(world, host),
        _ => sweep(world, host),
    }
}

impl World {
    fn now(&self, host: usize) -> u64 {
        clock().as_secs().saturating_add_signed(self.hosts[host].skew)
    }

    fn pools(&mut self, host: usize) -> &mut Pools {
        &mut self.hosts[host].docker.pools
    }

    /// A pool that is certainly in use.
    fn pool_in_use(&mut self, host: usize) -> Option<PoolId> {
        let all = &self.hosts[host].docker.pools.all;
        let used: Vec<_> = all.iter().filter(|(_, known)| known.users.0 > 0).collect();
        let (id, _) = used.get(self.random.below(used.len()))?;
        Some((*id).clone())
    }
}

impl Engine {
    /// Whether a sweep ran since, or runs.
    fn may_be_swept(&self, sweeps: u64) -> bool {
        self.sweeping > 0 || self.sweeps != sweeps
    }
}

/// Runs a request of the daemon.
fn send(world: &Shared, host: usize, command: &Command) -> Ran {
    let now = world.borrow().now(host);
    world.borrow_mut().hosts[host].docker.since.push(now);
    let ran = run(world, host, Persist::Disk, command);
    let since = &mut world.borrow_mut().hosts[host].docker.since;
    let at = since.iter().position(|since| *since == now).expect("it was pushed");
    since.swap_remove(at);
    ran
}

fn request_pool(world: &Shared, host: usize) {
    let (request, named) = {
        let world = &mut *world.borrow_mut();
        let random = &mut world.random;
        let (space, subnet) = (*random.pick(&SPACES), *random.pick(&SUBNETS));
        let mut request = ask(space, subnet);
        if random.one_in(4) {
            request = shared(if random.one_in(2) { "x" } else { "y" }, request);
        }
        let named = named(&request);
        if let Some(pool) = &named {
            world.pools(host).requested(&pool.id, pool);
        }
        (request, named)
    };
    let ran = send(world, host, &Command::RequestPool(request.clone()));
    let world = &mut *world.borrow_mut();
    let name = format!("h{host} request pool {:?} {:?}", request.ask, request.shared);
    match ran {
        Ran::Done(Outcome::Pool(pool)) => {
            world.note(format!("{name} -> {}", pool.id));
            if let Err(what) = world.pools(host).made(&pool) {
                world.found(format!("h{host} {what}"));
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => {
            world.note(format!("{name} -> {refusal:?}"));
            if let Refusal::Pool(refusal) = &refusal
                && let PoolRefusal::Overlap { with, .. } = &**refusal
                && !world.pools(host).may_overlap(with)
            {
                world.found(format!("{name}: nobody has {with}"));
            }
            if let Some(pool) = &named {
                world.pools(host).refused(&pool.id);
            }
        }
        Ran::Failed(_) | Ran::Killed => {
            world.note(format!("{name} was not answered"));
            if named.is_none() {
                world.pools(host).lost += 1;
            }
        }
    }
}

/// The pool that a request is about, unless the store chooses one.
fn named(request: &RequestPool) -> Option<Pool> {
    let subnet = match &request.ask {
        Ask::Exactly(subnet) => *subnet,
        Ask::Any(blocks) => blocks[0].within,
    };
    let id = match (&request.shared, &request.ask, request.sub) {
        (Some(shared), ..) => shared.id.clone(),
        (None, Ask::Any(_), _) => return None,
        (None, _, None) => PoolId(format!("{}/{subnet}", request.space)),
        (None, _, Some(sub)) => PoolId(format!("{}/{subnet}/{sub}", request.space)),
    };
    let shared = request.shared.as_ref().map(|shared| shared.name.clone());
    let (space, sub) = (request.space.clone(), request.sub);
    Some(Pool { id, space, subnet, sub, shared, gateway: None, users: vec![], time: 0 })
}

fn request_address(world: &Shared, host: usize) {
    let (id, request) = {
        let world = &mut *world.borrow_mut();
        let Some(id) = world.pool_in_use(host) else { return };
        let random = &mut world.random;
        let addr = addr(&format!("10.5.0.{}", random.below(16)));
        let requested = random.one_in(4).then_some(addr);
        let (gateway, serial) = (random.one_in(5), random.one_in(3));
        let known = world.pools(host).all.get_mut(&id).expect("a pool in use");
        let requested = requested.filter(|addr| known.pool.subnet.contains(*addr));
        known.in_flight += 1;
        known.has_gateways |= gateway;
        (id.clone(), RequestAddress { requested, gateway, serial, ..want(&id.0, None) })
    };
    let ran = send(world, host, &Command::RequestAddress(request.clone()));
    let (lease, is_lost) = {
        let world = &mut *world.borrow_mut();
        let name = format!("h{host} request {:?} of {id}", request.requested);
        if let Some(known) = world.pools(host).all.get_mut(&id) {
            known.in_flight -= 1;
            if matches!(ran, Ran::Failed(_) | Ran::Killed) {
                known.has_lost = true;
            }
        }
        match ran {
            Ran::Done(Outcome::Leased { lease, created: true }) => {
                world.note(format!("{name} -> {}", lease.addr));
                if let Err(what) = world.pools(host).leased(&lease) {
                    world.found(format!("h{host} {what}"));
                }
                (lease, world.random.one_in(10))
            }
            Ran::Done(Outcome::Leased { created: false, .. }) => return,
            Ran::Done(other) => return world.found(format!("{name}: {other:?}")),
            Ran::Refused(refusal) => {
                world.note(format!("{name} -> {refusal:?}"));
                let explained = match &refusal {
                    Refusal::Pool(refusal) => world.pools(host).explains(&id, refusal),
                    _ => false,
                };
                if !explained {
                    world.found(format!("{name}: {refusal:?}"));
                }
                return;
            }
            Ran::Failed(_) | Ran::Killed => return world.note(format!("{name} was not answered")),
        }
    };
    if is_lost {
        // The answer could not be delivered, so the driver frees the lease.
        free(world, host, ReleaseAddress { pool: id, addr: lease.addr, only: Some(lease) });
    }
}

fn release_address(world: &Shared, host: usize) {
    let (pool, addr) = {
        let world = &mut *world.borrow_mut();
        let Some(id) = world.pool_in_use(host) else { return };
        let certain = |(addr, certain): (&Addr, &bool)| certain.then_some(*addr);
        let addrs: Vec<Addr> =
            world.pools(host).all[&id].addrs.iter().filter_map(certain).collect();
        let Some(addr) = addrs.get(world.random.below(addrs.len())) else { return };
        (id, *addr)
    };
    free(world, host, ReleaseAddress { pool, addr, only: None });
}

fn free(world: &Shared, host: usize, release: ReleaseAddress) {
    let (id, addr) = (release.pool.clone(), release.addr);
    let (generation, sweeps) = {
        let world = &mut *world.borrow_mut();
        let sweeps = world.hosts[host].docker.sweeps;
        let Some(known) = world.pools(host).all.get_mut(&id) else { return };
        known.addrs.insert(addr, false);
        known.in_flight += 1;
        (known.generation, sweeps)
    };
    let ran = send(world, host, &Command::ReleaseAddress(release));
    let world = &mut *world.borrow_mut();
    let name = format!("h{host} release {addr} of {id}");
    let known = world.pools(host).all.get_mut(&id).filter(|k| k.generation == generation);
    if let Some(known) = known {
        known.in_flight -= 1;
        if matches!(ran, Ran::Done(_)) && known.addrs.get(&addr) == Some(&false) {
            known.addrs.remove(&addr);
        }
    }
    match ran {
        Ran::Done(Outcome::Freed(freed))
            if freed.is_empty() && !world.hosts[host].docker.may_be_swept(sweeps) =>
        {
            world.found(format!("{name}: it was leased, and there was nothing to free"));
        }
        Ran::Done(Outcome::Freed(_)) => world.note(name),
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => world.note(format!("{name} was not answered")),
    }
}

fn release_pool(world: &Shared, host: usize) {
    let (id, generation, sweeps) = {
        let world = &mut *world.borrow_mut();
        let Some(id) = world.pool_in_use(host) else { return };
        let known = &world.pools(host).all[&id];
        // dockerd does not release a network that it is connecting a container to.
        if known.in_flight > 0 && known.users.0 == 1 {
            return;
        }
        let generation = world.pools(host).releasing(&id);
        (id, generation, world.hosts[host].docker.sweeps)
    };
    let ran = send(world, host, &Command::ReleasePool(ReleasePool::of(id.clone())));
    let world = &mut *world.borrow_mut();
    let name = format!("h{host} release pool {id}");
    match ran {
        Ran::Done(Outcome::Collected(Collected { pool, .. }))
            if pool || world.hosts[host].docker.may_be_swept(sweeps) =>
        {
            world.note(name);
            world.pools(host).released(&id, generation);
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => world.note(format!("{name} was not answered")),
    }
}

/// `cleanup`: what the daemon does not know is freed, if it was leased before the daemon was asked.
fn sweep(world: &Shared, host: usize) {
    let (id, sweep) = {
        let world = &mut *world.borrow_mut();
        let all: Vec<PoolId> = world.pools(host).all.keys().cloned().collect();
        let Some(id) = all.get(world.random.below(all.len())).cloned() else { return };
        let known = &world.pools(host).all[&id];
        let certain = |(addr, certain): (&Addr, &bool)| certain.then_some(*addr);
        let listed = (known.users.0 > 0).then(|| known.addrs.iter().filter_map(certain).collect());
        // A request that is under way began within the grace period. An operator who knows that there is
        // none needs no grace period.
        let since = world.hosts[host].docker.since.iter().min().copied();
        let is_quiet = since.is_none() && world.random.one_in(2);
        let before = if is_quiet { u64::MAX } else { since.unwrap_or(world.now(host)) };
        let docker = &mut world.hosts[host].docker;
        docker.is_quiet |= is_quiet;
        docker.sweeping += 1;
        docker.sweeps += 1;
        let alive = Vec::new();
        (id.clone(), Sweep { pool: id, known: listed, before, dry: false, alive })
    };
    let (before, was_used) = (sweep.before, sweep.known.is_some());
    let known = sweep.known.clone().unwrap_or_default();
    let ran = send(world, host, &Command::Sweep(sweep));
    let world = &mut *world.borrow_mut();
    let docker = &mut world.hosts[host].docker;
    docker.sweeping -= 1;
    docker.sweeps += 1;
    if before == u64::MAX {
        docker.is_quiet = false;
    }
    let name = format!("h{host} sweep pool {id} before {before}");
    match ran {
        Ran::Done(Outcome::Collected(Collected { freed, pool, .. })) => {
            world.note(format!("{name} -> {freed:?} {pool}"));
            if pool && was_used || freed.iter().any(|addr| known.contains(addr)) {
                return world.found(format!("{name}: freed what is in use"));
            }
            if before == u64::MAX {
                world.pools(host).swept(&id);
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => world.note(format!("{name} was not answered")),
    }
}
