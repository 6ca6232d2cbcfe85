//! What container engines know of their pools: the model that pools of a store are compared with.

use std::collections::BTreeMap;

use super::runs::Finding;
use crate::error::PoolRefusal;
use crate::model::{Kind, Lease, Owner, Pool, PoolId, SetName};
use crate::net::{Addr, Span, hosts};

/// A pool that was requested.
#[derive(Clone, Debug)]
pub struct Known {
    pub pool: Pool,
    /// Requests that were not released: the least and the greatest number that the store may have.
    pub users: (u32, u32),
    /// The addresses, and whether the engine certainly has them. Others are being released, or their
    /// release was not answered.
    pub addrs: BTreeMap<Addr, bool>,
    /// A request for any address was not answered.
    pub has_lost: bool,
    /// A gateway was requested: a sweep leaves gateways alone.
    pub has_gateways: bool,
    /// Requests for addresses that are suspended.
    pub in_flight: u32,
    /// Another one whenever a pool is made anew under this name.
    pub generation: u64,
}

/// All pools of an address space's users.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    pub all: BTreeMap<PoolId, Known>,
    /// Requests for automatic pools that were not answered.
    pub lost: u32,
    generation: u64,
}

impl Pools {
    /// A pool was requested by name, and there is no answer yet.
    pub fn requested(&mut self, id: &PoolId, pool: &Pool) {
        self.generation += 1;
        let new = Known {
            pool: pool.clone(),
            users: (0, 0),
            addrs: BTreeMap::new(),
            has_lost: false,
            has_gateways: false,
            in_flight: 0,
            generation: self.generation,
        };
        self.all.entry(id.clone()).or_insert(new).users.1 += 1;
    }

    /// The request was refused.
    pub fn refused(&mut self, id: &PoolId) {
        self.less(id);
    }

    /// One user less may be counted.
    fn less(&mut self, id: &PoolId) {
        let Some(known) = self.all.get_mut(id) else { return };
        known.users.1 -= 1;
        if known.users.1 == 0 {
            self.all.remove(id);
        }
    }

    /// A request was answered with this pool.
    pub fn made(&mut self, pool: &Pool) -> Result<(), Finding> {
        if pool.shared.is_some() {
            let known = self.all.get_mut(&pool.id).ok_or("a pool that nobody requested")?;
            known.users.0 += 1;
            known.pool = pool.clone();
            return Ok(());
        }
        if self.all.get(&pool.id).is_some_and(|known| known.users.0 > 0) {
            return Err(format!("pool {} was made twice", pool.id));
        }
        self.all.remove(&pool.id);
        self.requested(&pool.id, pool);
        let known = self.all.get_mut(&pool.id).expect("inserted above");
        known.users = (1, 1);
        Ok(())
    }

    /// A release was sent.
    pub fn releasing(&mut self, id: &PoolId) -> u64 {
        let known = self.all.get_mut(id).expect("a pool that is in use");
        known.users.0 -= 1;
        if known.users.0 == 0 {
            known.addrs.values_mut().for_each(|is_certain| *is_certain = false);
        }
        known.generation
    }

    /// A release was answered.
    pub fn released(&mut self, id: &PoolId, generation: u64) {
        if self.all.get(id).is_some_and(|known| known.generation == generation) {
            self.less(id);
        }
    }

    /// Everything that the engine does not have was freed.
    pub fn swept(&mut self, id: &PoolId) {
        let Some(known) = self.all.get_mut(id) else { return };
        known.addrs.retain(|_, is_certain| *is_certain);
        known.has_lost = false;
        if known.users.0 == 0 {
            self.all.remove(id);
        }
    }

    /// The pools that share their addresses with this one.
    fn of_set<'a>(&'a self, set: &'a SetName) -> impl Iterator<Item = &'a Known> {
        self.all.values().filter(move |known| known.pool.set() == *set)
    }

    /// Whether a pool may be the reason that another one was refused.
    pub fn may_overlap(&self, with: &PoolId) -> bool {
        self.lost > 0 || self.all.contains_key(with)
    }

    /// Whether a refusal of an address has a reason that is known or possible.
    pub fn explains(&self, id: &PoolId, refusal: &PoolRefusal) -> bool {
        let Some(known) = self.all.get(id) else { return true };
        let set = known.pool.set();
        let lost = self.of_set(&set).any(|known| known.has_lost || known.in_flight > 0);
        let is_held = |addr: &Addr| {
            self.of_set(&set).any(|k| k.addrs.contains_key(addr) || k.pool.gateway == Some(*addr))
        };
        match refusal {
            PoolRefusal::Unknown(_) => known.users.0 == 0,
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

    /// An address was leased.
    pub fn leased(&mut self, lease: &Lease) -> Result<(), Finding> {
        let Owner::Pool(id, addr) = &lease.owner else {
            return Err(format!("an address of a pool has the owner {}", lease.owner));
        };
        let certain = |known: &&Known| known.addrs.get(addr) == Some(&true);
        if let Some(other) = self.of_set(&lease.set).find(certain) {
            return Err(format!("{addr} has two holders: {} and {id}", other.pool.id));
        }
        if let Some(known) = self.all.get_mut(id)
            && known.pool.gateway != Some(*addr)
        {
            known.addrs.insert(*addr, true);
        }
        Ok(())
    }

    /// Compares with a store.
    pub fn compare(&mut self, stored: &[Pool], rows: &[Lease]) -> Result<(), Finding> {
        for (at, pool) in stored.iter().enumerate() {
            if !self.all.contains_key(&pool.id) && self.lost > 0 {
                self.lost -= 1;
                self.requested(&pool.id, pool);
            }
            let Some(known) = self.all.get(&pool.id) else {
                return Err(format!("pool {} is left, and nobody has it", pool.id));
            };
            let users: u32 = pool.users.iter().map(|(_, count)| *count).sum();
            if users < known.users.0 || users > known.users.1 {
                return Err(format!("pool {} has {users} users, not {:?}", pool.id, known.users));
            }
            let overlaps = |other: &&Pool| {
                // As in moby, a sub-pool may overlap everything but itself.
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
            if !stored.iter().any(|pool| pool.id == *id) || *addr != row.addr {
                return Err(format!("{} belongs to pool {id}, which is gone", row.addr));
            }
            let known = &self.all[id];
            let is_gateway = (row.kind == Kind::Gateway && known.has_gateways)
                || stored.iter().any(|pool| pool.id == *id && pool.gateway == Some(*addr));
            if !known.addrs.contains_key(addr) && !known.has_lost && !is_gateway {
                return Err(format!("{addr} of pool {id} is leased, and nobody has it"));
            }
            held.insert((id, *addr), row);
        }
        for (id, known) in &self.all {
            if known.users.0 > 0 && !stored.iter().any(|pool| pool.id == *id) {
                return Err(format!("pool {id} is in use and gone"));
            }
            let is_lost =
                |(addr, certain): &(&Addr, &bool)| **certain && !held.contains_key(&(id, **addr));
            if let Some((addr, _)) = known.addrs.iter().find(is_lost) {
                return Err(format!("{addr} of pool {id} is in use and not leased any more"));
            }
        }
        Ok(())
    }
}
