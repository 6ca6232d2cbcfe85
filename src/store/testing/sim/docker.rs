//! Simulates Docker daemons (engines). Their requests reach the store through one or more processes of the
//! IPAM driver `subletd`.
//!
//! dockerd sends each release only once. If a release is lost, a later `subletd cleanup` frees the address or
//! the pool.

use std::cell::RefCell;
use std::rc::Rc;

use super::pools::{Held, Pools};
use super::process::Ran;
use super::random::Random;
use super::runs::Story;
use crate::alloc::{
    Ask, Collected, Command, Outcome, ReleaseAddress, ReleasePool, RequestAddress, RequestPool,
    Sweep,
};
use crate::error::{PoolRefusal, Refusal};
use crate::model::{Pool, PoolId};
use crate::net::Addr;
use crate::store::testing::contract::addr;
use crate::store::testing::pool_cases::{ask, shared, want};

/// A simulation whose machines run Docker.
pub trait Docker {
    fn engine(&mut self, machine: usize) -> &mut Engine;

    /// Returns the model of all pools in the machine's store, including the pools of other engines.
    fn pools(&mut self, machine: usize) -> &mut Pools;

    fn random(&mut self) -> &mut Random;

    fn story(&mut self) -> &mut Story;

    /// Returns the time on the machine's clock.
    fn now(&self, machine: usize) -> u64;

    /// Runs a request of the machine's daemon.
    fn run(world: &Shared<Self>, machine: usize, command: &Command) -> Ran<Outcome>;

    /// Returns a random pool that the machine's engine certainly uses.
    fn pool_in_use(&mut self, machine: usize) -> Option<PoolId> {
        let all = &self.pools(machine).all;
        let used = all.iter().filter(|(_, known)| known.is_used_by(machine));
        let used: Vec<PoolId> = used.map(|(id, _)| id.clone()).collect();
        let at = self.random().below(used.len());
        used.get(at).cloned()
    }

    fn note(&mut self, text: String) {
        self.story().note(text);
    }

    fn found(&mut self, what: String) {
        self.story().found(what);
    }
}

type Shared<W> = Rc<RefCell<W>>;

/// The state of a machine's Docker daemon.
#[derive(Clone, Debug, Default)]
pub struct Engine {
    /// The times at which the suspended requests began, in seconds on the machine's clock.
    since: Vec<u64>,
    /// The number of times that a sweep (the removal of leases and pools that the engine does not list) has
    /// begun or ended. If this number has changed, a sweep may have freed addresses that the engine did not
    /// list.
    sweeps: u64,
    /// The number of suspended sweeps. A sweep compares times, so the clock must not be set back during a
    /// sweep.
    pub sweeping: u32,
    /// The number of suspended releases. A sweep begins only if this number is 0. Otherwise the sweep could
    /// free the address or pool first, another request could lease it again, and then the release would free
    /// it while it is in use.
    releasing: u32,
    /// Whether an operator is running a sweep without a grace period. No other request is made during this
    /// time.
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

pub fn act<W: Docker>(world: &Shared<W>, machine: usize) {
    let choice = world.borrow_mut().random().below(20);
    if world.borrow_mut().engine(machine).is_quiet {
        return;
    }
    match choice {
        0..5 => request_pool(world, machine),
        5..11 => request_address(world, machine),
        11..15 => release_address(world, machine),
        15..18 => release_pool(world, machine),
        _ => sweep(world, machine),
    }
}

impl Engine {
    /// Returns whether a sweep is running, or has begun or ended since the field `sweeps` had the given
    /// value.
    fn may_be_swept(&self, sweeps: u64) -> bool {
        self.sweeping > 0 || self.sweeps != sweeps
    }
}

/// Sends a request of the machine's Docker daemon, and returns the result.
pub fn send<W: Docker>(world: &Shared<W>, machine: usize, command: &Command) -> Ran<Outcome> {
    let now = world.borrow().now(machine);
    world.borrow_mut().engine(machine).since.push(now);
    let ran = W::run(world, machine, command);
    let world = &mut *world.borrow_mut();
    let since = &mut world.engine(machine).since;
    let at = since.iter().position(|since| *since == now).expect("it was pushed");
    since.swap_remove(at);
    ran
}

fn request_pool<W: Docker>(world: &Shared<W>, machine: usize) {
    let (request, named, removals) = {
        let world = &mut *world.borrow_mut();
        let random = world.random();
        let (space, subnet) = (*random.pick(&SPACES), *random.pick(&SUBNETS));
        let mut request = ask(space, subnet);
        if random.one_in(2) {
            request = shared(if random.one_in(2) { "x" } else { "y" }, request);
        }
        let pools = world.pools(machine);
        let named = named(&request).map(|pool| {
            let generation = pools.requested(machine, &pool.id, &pool);
            (pool, generation)
        });
        let pools = world.pools(machine);
        pools.in_flight += u32::from(named.is_none());
        (request, named, pools.removals)
    };
    let ran = send(world, machine, &Command::RequestPool(request.clone()));
    let world = &mut *world.borrow_mut();
    world.pools(machine).in_flight -= u32::from(named.is_none());
    let name = format!("docker {machine} request pool {:?} {:?}", request.ask, request.shared);
    match ran {
        Ran::Done(Outcome::Pool(pool)) => {
            world.note(format!("{name} -> {}", pool.id));
            if let Err(what) = world.pools(machine).made(machine, &pool) {
                world.found(format!("docker {machine} {what}"));
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => {
            world.note(format!("{name} -> {refusal:?}"));
            if let Refusal::Pool(refusal) = &refusal
                && let PoolRefusal::Overlap { with, .. } = &**refusal
                && !world.pools(machine).may_overlap(with)
                && world.pools(machine).removals == removals
            {
                world.found(format!("{name}: no engine has {with}"));
            }
            if let Some((pool, generation)) = &named {
                world.pools(machine).refused(machine, &pool.id, *generation);
            }
        }
        Ran::Failed(_) | Ran::Killed => {
            world.note(format!("{name} was not answered"));
            match &named {
                Some((pool, generation)) => {
                    world.pools(machine).unanswered(machine, pool, *generation);
                }
                None => world.pools(machine).lost += 1,
            }
        }
    }
}

/// Returns the pool that a request names. Returns `None` if the store chooses the pool.
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

fn request_address<W: Docker>(world: &Shared<W>, machine: usize) {
    let (id, request, removals) = {
        let world = &mut *world.borrow_mut();
        let Some(id) = world.pool_in_use(machine) else { return };
        let random = world.random();
        let addr = addr(&format!("10.5.0.{}", random.below(16)));
        let requested = random.one_in(4).then_some(addr);
        let (gateway, serial) = (random.one_in(5), random.one_in(3));
        let known = world.pools(machine).all.get_mut(&id).expect("a pool in use");
        let requested = requested.filter(|addr| known.pool.subnet.contains(*addr));
        known.user(machine).in_flight += 1;
        known.has_gateways |= gateway;
        let removals = world.pools(machine).removals;
        let request = RequestAddress { requested, gateway, serial, ..want(&id.0, None) };
        (id, request, removals)
    };
    let ran = send(world, machine, &Command::RequestAddress(request.clone()));
    let (lease, is_lost) = {
        let world = &mut *world.borrow_mut();
        let name = format!("docker {machine} request {:?} of {id}", request.requested);
        if let Some(known) = world.pools(machine).all.get_mut(&id) {
            let user = known.user(machine);
            user.in_flight = user.in_flight.saturating_sub(1);
            user.has_lost |= matches!(ran, Ran::Failed(_) | Ran::Killed);
        }
        match ran {
            Ran::Done(Outcome::Leased { lease, created: true }) => {
                world.note(format!("{name} -> {}", lease.addr));
                if let Err(what) = world.pools(machine).leased(machine, &lease) {
                    world.found(format!("docker {machine} {what}"));
                }
                (lease, world.random().one_in(10))
            }
            Ran::Done(Outcome::Leased { created: false, .. }) => return,
            Ran::Done(other) => return world.found(format!("{name}: {other:?}")),
            Ran::Refused(refusal) => {
                world.note(format!("{name} -> {refusal:?}"));
                let pools = world.pools(machine);
                let explained = match &refusal {
                    Refusal::Pool(refusal) => pools.explains(machine, &id, refusal),
                    _ => false,
                };
                if !explained && pools.removals == removals {
                    world.found(format!("{name}: {refusal:?}"));
                }
                return;
            }
            Ran::Failed(_) | Ran::Killed => return world.note(format!("{name} was not answered")),
        }
    };
    if is_lost {
        // The driver could not deliver the response to dockerd, so it frees the lease.
        free(world, machine, ReleaseAddress { pool: id, addr: lease.addr, only: Some(lease) });
    }
}

fn release_address<W: Docker>(world: &Shared<W>, machine: usize) {
    let (pool, addr) = {
        let world = &mut *world.borrow_mut();
        let Some(id) = world.pool_in_use(machine) else { return };
        let addrs: Vec<Addr> = world.pools(machine).all[&id].certain(machine).collect();
        let Some(addr) = addrs.get(world.random().below(addrs.len())) else { return };
        (id, *addr)
    };
    free(world, machine, ReleaseAddress { pool, addr, only: None });
}

fn free<W: Docker>(world: &Shared<W>, machine: usize, release: ReleaseAddress) {
    let (id, addr) = (release.pool.clone(), release.addr);
    let (generation, removals, sweeps) = {
        let world = &mut *world.borrow_mut();
        let sweeps = world.engine(machine).sweeps;
        let removals = world.pools(machine).removals;
        let Some(known) = world.pools(machine).all.get_mut(&id) else { return };
        known.addrs.insert(addr, Held { user: machine, is_certain: false });
        known.user(machine).in_flight += 1;
        let generation = known.generation;
        world.engine(machine).releasing += 1;
        (generation, removals, sweeps)
    };
    let ran = send(world, machine, &Command::ReleaseAddress(release));
    let world = &mut *world.borrow_mut();
    world.engine(machine).releasing -= 1;
    let name = format!("docker {machine} release {addr} of {id}");
    let pools = world.pools(machine);
    // If no other release ran in the meantime, the address must still have been leased. (The release of a
    // pool also frees the pool's addresses.)
    let is_alone = pools.removals == removals;
    pools.removals += 1;
    let known = pools.all.get_mut(&id).filter(|known| known.generation == generation);
    if let Some(known) = known {
        let user = known.user(machine);
        user.in_flight = user.in_flight.saturating_sub(1);
        let is_its = |held: &Held| held.user == machine && !held.is_certain;
        if matches!(ran, Ran::Done(_)) && known.addrs.get(&addr).is_some_and(is_its) {
            known.addrs.remove(&addr);
        }
    }
    match ran {
        Ran::Done(Outcome::Freed(freed))
            if freed.is_empty() && is_alone && !world.engine(machine).may_be_swept(sweeps) =>
        {
            world.found(format!("{name}: it was leased, and there was nothing to free"));
        }
        Ran::Done(Outcome::Freed(_)) => world.note(name),
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => world.note(format!("{name} was not answered")),
    }
}

fn release_pool<W: Docker>(world: &Shared<W>, machine: usize) {
    let (id, generation, sweeps) = {
        let world = &mut *world.borrow_mut();
        let Some(id) = world.pool_in_use(machine) else { return };
        let user = world.pools(machine).all[&id].users[&machine];
        // dockerd does not release a network while it is connecting a container to it. However, it may
        // release the network after it has given up on the connection.
        if user.in_flight > 0 && user.least == 1 && !world.random().one_in(3) {
            return;
        }
        let generation = world.pools(machine).releasing(machine, &id);
        world.engine(machine).releasing += 1;
        (id, generation, world.engine(machine).sweeps)
    };
    let ran = send(world, machine, &Command::ReleasePool(ReleasePool::of(id.clone())));
    let world = &mut *world.borrow_mut();
    world.engine(machine).releasing -= 1;
    let name = format!("docker {machine} release pool {id}");
    match ran {
        Ran::Done(Outcome::Collected(Collected { pool, .. }))
            if pool || world.engine(machine).may_be_swept(sweeps) =>
        {
            world.note(name);
            world.pools(machine).released(machine, &id, generation);
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => world.note(format!("{name} was not answered")),
    }
}

/// Runs `subletd cleanup` for a pool. The cleanup frees addresses, and the pool, if the daemon does not list
/// them and they are older than the grace period.
fn sweep<W: Docker>(world: &Shared<W>, machine: usize) {
    let (id, sweep) = {
        let world = &mut *world.borrow_mut();
        if world.engine(machine).releasing > 0 {
            return;
        }
        let all: Vec<PoolId> = world.pools(machine).all.keys().cloned().collect();
        let Some(id) = all.get(world.random().below(all.len())).cloned() else { return };
        let known = &world.pools(machine).all[&id];
        let listed = known.is_used_by(machine).then(|| known.certain(machine).collect());
        // The grace period must be longer than the age of the oldest request in progress. If no request is in
        // progress, an operator may run the sweep without a grace period.
        let since = world.engine(machine).since.iter().min().copied();
        let is_quiet = since.is_none() && world.random().one_in(2);
        let now = world.now(machine);
        let before = if is_quiet { u64::MAX } else { since.unwrap_or(now).min(now) };
        let docker = world.engine(machine);
        docker.is_quiet |= is_quiet;
        docker.sweeping += 1;
        docker.sweeps += 1;
        let alive = Vec::new();
        (id.clone(), Sweep { pool: id, known: listed, before, dry: false, alive })
    };
    let (before, was_used) = (sweep.before, sweep.known.is_some());
    let known = sweep.known.clone().unwrap_or_default();
    let ran = send(world, machine, &Command::Sweep(sweep));
    let world = &mut *world.borrow_mut();
    let docker = world.engine(machine);
    docker.sweeping -= 1;
    docker.sweeps += 1;
    if before == u64::MAX {
        docker.is_quiet = false;
    }
    let name = format!("docker {machine} sweep pool {id} before {before}");
    match ran {
        Ran::Done(Outcome::Collected(Collected { freed, pool, .. })) => {
            world.note(format!("{name} -> {freed:?} {pool}"));
            if pool && was_used || freed.iter().any(|addr| known.contains(addr)) {
                return world.found(format!("{name}: freed what is in use"));
            }
            world.pools(machine).removals += 1;
            if before == u64::MAX {
                world.pools(machine).swept(machine, &id);
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => world.note(format!("{name} was not answered")),
    }
}
