//! A model of the Docker engines' pools. It contains what the engines know from the responses to their
//! requests. The simulations compare the pools in a store with this model.

use std::collections::BTreeMap;

use super::runs::Finding;
use crate::error::PoolRefusal;
use crate::model::{Kind, Lease, Node, Owner, Pool, PoolId, SetName};
use crate::net::{Addr, Span, hosts};

/// How a machine's engine uses a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct User {
    /// The number of requests for the pool that succeeded and have not been released since. The store must
    /// count at least this many uses.
    pub least: u32,
    /// The number of requests for the pool that may have succeeded, including requests and releases that got
    /// no response. The store may count at most this many uses.
    pub most: u32,
    /// Whether a request for an address of the pool got no response. The store may then contain leases that
    /// the engine does not know about.
    pub has_lost: bool,
    /// The number of suspended requests for addresses of the pool.
    pub in_flight: u32,
}

/// An address that a machine's engine has, or may have.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub user: usize,
    /// Whether the engine certainly has the address. If not, the address is being released, or the request or
    /// release of the address got no response.
    pub is_certain: bool,
}

/// A pool that an engine has requested.
#[derive(Clone, Debug)]
pub struct Known {
    pub pool: Pool,
    /// The users of the pool, by machine.
    pub users: BTreeMap<usize, User>,
    pub addrs: BTreeMap<Addr, Held>,
    /// Whether a gateway was requested. A sweep does not free gateways.
    pub has_gateways: bool,
    /// Whether the store still contains the pool although nobody uses it. This happens if a removal was
    /// interrupted.
    is_left: bool,
    /// A number that distinguishes the pool from earlier pools with the same name.
    pub generation: u64,
}

impl Known {
    pub fn user(&mut self, machine: usize) -> &mut User {
        self.users.entry(machine).or_default()
    }

    /// Returns whether a machine's engine uses the pool.
    pub fn is_used_by(&self, machine: usize) -> bool {
        self.users.get(&machine).is_some_and(|user| user.least > 0)
    }

    pub fn is_used(&self) -> bool {
        self.users.values().any(|user| user.least > 0)
    }

    /// Returns the addresses that a machine's engine certainly has.
    pub fn certain(&self, machine: usize) -> impl Iterator<Item = Addr> {
        let is_its = move |held: &Held| held.user == machine && held.is_certain;
        self.addrs.iter().filter(move |(_, held)| is_its(held)).map(|(addr, _)| *addr)
    }

    fn forget_uncertain(&mut self, machine: usize) {
        self.addrs.retain(|_, held| held.user != machine || held.is_certain);
    }
}

/// The model of the pools of all engines that use the same store.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pub all: BTreeMap<PoolId, Known>,
    /// The number of requests for automatic pools that got no response.
    pub lost: u32,
    /// The number of suspended requests for automatic pools.
    pub in_flight: u32,
    /// A counter that grows with each release and each sweep. If it has changed during a request, the request
    /// may have been refused because of a pool that was just being removed.
    pub removals: u64,
    generation: u64,
}

impl Pools {
    /// Returns the model for a copy of the store. The copy's only user is the machine `copy`, which is a copy
    /// of `machine`.
    pub fn of_copy(&self, machine: usize, copy: usize) -> Pools {
        let mut pools = self.clone();
        pools.lost += std::mem::take(&mut pools.in_flight);
        for known in pools.all.values_mut() {
            known.users =
                known.users.remove(&machine).map(|user| (copy, user)).into_iter().collect();
            known.addrs.values_mut().for_each(|held| held.user = copy);
        }
        pools
    }

    /// Records that a machine has requested a pool by name and has no response yet. Returns the pool's
    /// generation.
    pub fn requested(&mut self, machine: usize, id: &PoolId, pool: &Pool) -> u64 {
        self.generation += 1;
        let new = Known {
            pool: pool.clone(),
            users: BTreeMap::new(),
            addrs: BTreeMap::new(),
            has_gateways: false,
            is_left: false,
            generation: self.generation,
        };
        let known = self.all.entry(id.clone()).or_insert(new);
        known.user(machine).most += 1;
        known.generation
    }

    /// Records that a machine's request for a pool was refused. If the pool's generation is no longer
    /// `generation`, the pool was created again in the meantime, and nothing is recorded.
    pub fn refused(&mut self, machine: usize, id: &PoolId, generation: u64) {
        if self.is_of(id, generation) {
            self.less(machine, id);
            self.drop_unused(id);
        }
    }

    /// Records that a machine's request for a pool got no response. If the pool's generation is no longer
    /// `generation`, the pool was created again in the meantime, and the request is counted for the new pool.
    pub fn unanswered(&mut self, machine: usize, pool: &Pool, generation: u64) {
        if !self.is_of(&pool.id, generation) {
            self.requested(machine, &pool.id, pool);
        }
    }

    fn is_of(&self, id: &PoolId, generation: u64) -> bool {
        self.all.get(id).is_some_and(|known| known.generation == generation)
    }

    /// Lowers the maximum number of uses of the pool that the store may count for the machine by one. Returns
    /// whether the maximum is now 0.
    fn less(&mut self, machine: usize, id: &PoolId) -> bool {
        let Some(known) = self.all.get_mut(id) else { return false };
        let user = known.user(machine);
        user.most = user.most.saturating_sub(1);
        user.most == 0
    }

    /// Removes a pool from the model if it has no users.
    fn drop_unused(&mut self, id: &PoolId) {
        let is_gone = |known: &Known| !known.is_left && known.users.values().all(|u| u.most == 0);
        if self.all.get(id).is_some_and(is_gone) {
            self.all.remove(id);
        }
    }

    /// Records that a request of a machine returned this pool. Returns a finding if the response cannot be
    /// right.
    pub fn made(&mut self, machine: usize, pool: &Pool) -> Result<(), Finding> {
        if pool.shared.is_some() {
            let known = self.all.get_mut(&pool.id).ok_or("a pool that was never requested")?;
            known.user(machine).least += 1;
            known.is_left = false;
            known.pool = pool.clone();
            return Ok(());
        }
        if self.all.get(&pool.id).is_some_and(Known::is_used) {
            return Err(format!("pool {} was made twice", pool.id));
        }
        self.all.remove(&pool.id);
        self.requested(machine, &pool.id, pool);
        self.all.get_mut(&pool.id).expect("inserted above").user(machine).least = 1;
        Ok(())
    }

    /// Records that a machine has sent a release of the pool. Returns the pool's generation.
    pub fn releasing(&mut self, machine: usize, id: &PoolId) -> u64 {
        self.removals += 1;
        let known = self.all.get_mut(id).expect("a pool that is in use");
        known.user(machine).least -= 1;
        if !known.is_used_by(machine) {
            let its = known.addrs.values_mut().filter(|held| held.user == machine);
            its.for_each(|held| held.is_certain = false);
        }
        known.generation
    }

    /// Records that a machine's release of a pool got a response.
    pub fn released(&mut self, machine: usize, id: &PoolId, generation: u64) {
        self.removals += 1;
        if self.is_of(id, generation)
            && self.less(machine, id)
            && let Some(known) = self.all.get_mut(id)
        {
            known.forget_uncertain(machine);
            self.drop_unused(id);
        }
    }

    /// Records that a sweep without a grace period has freed everything in the pool that the machine's engine
    /// does not list.
    pub fn swept(&mut self, machine: usize, id: &PoolId) {
        let Some(known) = self.all.get_mut(id) else { return };
        known.forget_uncertain(machine);
        known.user(machine).has_lost = false;
        if !known.is_used_by(machine) {
            known.user(machine).most = 0;
            known.is_left = false;
        }
        self.drop_unused(id);
    }

    /// Records that `sublet node release` for a machine has begun or, if `is_done` is set, has ended. At the
    /// end, everything that the machine's engine had is freed.
    pub fn machine_is_gone(&mut self, machine: usize, is_done: bool) {
        self.removals += 1;
        for id in self.all.keys().cloned().collect::<Vec<_>>() {
            let Some(known) = self.all.get_mut(&id) else { continue };
            known.user(machine).least = 0;
            let its = known.addrs.values_mut().filter(|held| held.user == machine);
            its.for_each(|held| held.is_certain = false);
            if is_done {
                known.forget_uncertain(machine);
                known.users.remove(&machine);
                self.drop_unused(&id);
            }
        }
    }

    /// Returns the pools that use the set of leases `set`.
    fn of_set<'a>(&'a self, set: &'a SetName) -> impl Iterator<Item = &'a Known> {
        self.all.values().filter(move |known| known.pool.set() == *set)
    }

    /// Returns whether the pool `with` may exist in the store, so that a request for an overlapping pool may
    /// be refused.
    pub fn may_overlap(&self, with: &PoolId) -> bool {
        self.lost > 0 || self.in_flight > 0 || self.all.contains_key(with)
    }

    /// Returns whether the refusal of an address can be right. The state of the pool may be uncertain,
    /// because some requests got no response.
    pub fn explains(&self, machine: usize, id: &PoolId, refusal: &PoolRefusal) -> bool {
        let Some(known) = self.all.get(id) else { return true };
        let set = known.pool.set();
        let mut users = self.of_set(&set).flat_map(|known| known.users.values());
        let lost = users.any(|user| user.has_lost || user.in_flight > 0);
        let is_held = |addr: &Addr| {
            self.of_set(&set).any(|k| k.addrs.contains_key(addr) || k.pool.gateway == Some(*addr))
        };
        match refusal {
            PoolRefusal::Unknown(_) => !known.is_used_by(machine),
            PoolRefusal::Taken { addr, .. } => {
                lost || is_held(addr) || !hosts(known.pool.subnet).contains(*addr)
            }
            PoolRefusal::Exhausted(_) => {
                lost || known
                    .pool
                    .draws()
                    .is_none_or(|draws| draws.addresses().all(|a| is_held(&a)))
            }
            _ => false,
        }
    }

    /// Records that a request of a machine returned this lease. Returns a finding if the leased address
    /// certainly has another holder.
    pub fn leased(&mut self, machine: usize, lease: &Lease) -> Result<(), Finding> {
        let Owner::Pool(id, addr) = &lease.owner else {
            return Err(format!("an address of a pool has the owner {}", lease.owner));
        };
        let is_certain = |k: &&Known| k.addrs.get(addr).is_some_and(|held| held.is_certain);
        if let Some(other) = self.of_set(&lease.set).find(is_certain) {
            return Err(format!("{addr} has two holders: {} and {id}", other.pool.id));
        }
        if let Some(known) = self.all.get_mut(id)
            && known.pool.gateway != Some(*addr)
        {
            // The engine may have released the pool while the request was in progress.
            let is_certain = known.is_used_by(machine);
            known.addrs.insert(*addr, Held { user: machine, is_certain });
        }
        Ok(())
    }

    /// Compares the model with a store. `machine` maps a node to its machine. If `is_final` is set, no
    /// request is in transit any longer, so the store shows the outcome of every request that got no
    /// response.
    pub fn compare(
        &mut self,
        stored: &[Pool],
        rows: &[Lease],
        machine: &dyn Fn(&Node) -> usize,
        is_final: bool,
    ) -> Result<(), Finding> {
        let mut counts: BTreeMap<&PoolId, BTreeMap<usize, u32>> = BTreeMap::new();
        for (at, pool) in stored.iter().enumerate() {
            let users = counts.entry(&pool.id).or_default();
            for (node, count) in &pool.users {
                *users.entry(machine(node)).or_default() += *count;
            }
            let known = self.all.get(&pool.id);
            let is_new = |user: &usize| known.is_none_or(|known| !known.users.contains_key(user));
            let new: Vec<usize> = users.keys().copied().filter(is_new).collect();
            if !new.is_empty() && self.lost > 0 {
                self.lost -= 1;
                for user in new {
                    self.requested(user, &pool.id, pool);
                }
            }
            let Some(known) = self.all.get(&pool.id) else {
                return Err(format!("pool {} is left, but no engine has it", pool.id));
            };
            let count = |user: &usize| users.get(user).copied().unwrap_or_default();
            let is_right =
                |(u, user): (&usize, &User)| (user.least..=user.most).contains(&count(u));
            if !known.users.iter().all(is_right)
                || users.keys().any(|u| !known.users.contains_key(u))
            {
                return Err(format!("pool {} has users {users:?}, not {:?}", pool.id, known.users));
            }
            let overlaps = |other: &&Pool| {
                // As in Docker (moby), a sub-pool may overlap any pool, except a pool with the same subnet
                // and the same sub-pool.
                let is_sub = |pool: &Pool| pool.sub.is_some() && pool.shared.is_none();
                let may = is_sub(pool) || is_sub(other);
                let spans = (Span::from(pool.subnet), Span::from(other.subnet));
                !may && pool.space == other.space && spans.0.overlaps(spans.1)
            };
            if let Some(other) = stored[at + 1..].iter().find(overlaps) {
                return Err(format!("pools {} and {} overlap", pool.id, other.id));
            }
        }
        let mut held: BTreeMap<(&PoolId, Addr), &Lease> = BTreeMap::new();
        for row in rows {
            let Owner::Pool(id, addr) = &row.owner else { continue };
            let Some(pool) = stored.iter().find(|pool| pool.id == *id && *addr == row.addr) else {
                return Err(format!("{} belongs to pool {id}, which is gone", row.addr));
            };
            let known = &self.all[id];
            let is_gateway =
                row.kind == Kind::Gateway && known.has_gateways || pool.gateway == Some(*addr);
            let has_lost = known.users.values().any(|user| user.has_lost);
            if !known.addrs.contains_key(addr) && !has_lost && !is_gateway {
                return Err(format!("{addr} of pool {id} is leased, but no engine has it"));
            }
            held.insert((id, *addr), row);
        }
        for (id, known) in &self.all {
            if known.is_used() && !counts.contains_key(id) {
                return Err(format!("pool {id} is in use and gone"));
            }
            let is_lost = |(addr, its): &(&Addr, &Held)| {
                let is_its = |lease: &&Lease| machine(&lease.node) == its.user;
                its.is_certain && !held.get(&(id, **addr)).is_some_and(is_its)
            };
            if let Some((addr, _)) = known.addrs.iter().find(is_lost) {
                return Err(format!("{addr} of pool {id} is in use and not leased any more"));
            }
        }
        if is_final {
            self.settle(&counts, &held, machine);
        }
        Ok(())
    }

    /// Updates the model when no request is in transit any longer. The store then shows the outcome of every
    /// request that got no response. Addresses that are in the store but not in the model stay uncertain.
    fn settle(
        &mut self,
        counts: &BTreeMap<&PoolId, BTreeMap<usize, u32>>,
        held: &BTreeMap<(&PoolId, Addr), &Lease>,
        machine: &dyn Fn(&Node) -> usize,
    ) {
        self.lost = 0;
        for (id, known) in &mut self.all {
            let count = counts.get(id);
            known.is_left = count.is_some_and(BTreeMap::is_empty);
            for (at, user) in &mut known.users {
                user.most = count.and_then(|users| users.get(at)).copied().unwrap_or_default();
                user.has_lost = false;
            }
            known.addrs.retain(|addr, its| its.is_certain || held.contains_key(&(id, *addr)));
        }
        for ((id, addr), lease) in held {
            let Some(known) = self.all.get_mut(*id) else { continue };
            if known.pool.gateway != Some(*addr) {
                let left = Held { user: machine(&lease.node), is_certain: false };
                known.addrs.entry(*addr).or_insert(left);
            }
        }
        for id in self.all.keys().cloned().collect::<Vec<_>>() {
            self.drop_unused(&id);
        }
    }
}
