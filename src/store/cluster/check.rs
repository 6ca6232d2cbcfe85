//! Whether the records of a server agree: each lease is known twice.
//!
//! Invariant of a sound server: every address has one holder, whose record names it, and the other
//! way round; an address of a pool has its pool, and a pool stands in its space's record; those that
//! cool are those that are said to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::{Server, history, keys, records};
use crate::alloc::Holder;
use crate::error::StoreError;
use crate::model::{Owner, PoolId, SetName};
use crate::net::Addr;
use crate::store::Problem;
use crate::store::codec;
use crate::store::codec::Bad;

/// Tells of every record that cannot be read or that another contradicts. Each kind is listed at one
/// moment of its own, so what others change meanwhile may look like a fault: look twice.
pub fn check(
    server: &dyn Server,
    until: Instant,
    each: &mut dyn FnMut(Problem),
) -> Result<(), StoreError> {
    let (held, pools, cooling) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let mut checker = Checker { server, until, held, pools, cooling, each };
    checker.owners()?;
    checker.pools()?;
    checker.addresses()?;
    checker.left();
    checker.cooling()?;
    checker.history()
}

struct Checker<'a> {
    server: &'a dyn Server,
    until: Instant,
    /// Which owner's record names an address.
    held: BTreeMap<(SetName, Addr), String>,
    pools: BTreeSet<PoolId>,
    /// What says that an address cools.
    cooling: BTreeSet<String>,
    each: &'a mut dyn FnMut(Problem),
}

const REMOVE: &str = "remove the record once no container has that address";

impl Checker<'_> {
    fn report(&mut self, path: &str, what: impl Into<String>, advice: &str) {
        let place = format!("{} at {}", path, self.server.place());
        let what = what.into();
        let other_version = what == codec::OTHER_VERSION.0;
        let advice =
            if other_version { "use that version or a newer one" } else { advice }.to_owned();
        (self.each)(Problem { place, what, advice, mendable: false });
    }

    fn owners(&mut self) -> Result<(), StoreError> {
        for (path, entry) in self.server.list(keys::OWNERS, self.until)? {
            let read = keys::read_owner_set(&path).ok_or(Bad("a key of another form"));
            let read = read.and_then(|set| {
                let leases = codec::read_owned(path.as_bytes(), &set, &entry.value)?;
                Ok((set, leases))
            });
            let (set, leases) = match read {
                Ok(read) => read,
                Err(Bad(what)) => {
                    self.report(&path, what, REMOVE);
                    continue;
                }
            };
            for lease in leases {
                let addr = lease.addr;
                if keys::owner(&set, &lease.node, &lease.owner).as_ref() != Some(&path) {
                    self.report(&path, format!("it holds {addr} of another owner"), REMOVE);
                }
                if let Some(other) = self.held.insert((set.clone(), addr), path.clone()) {
                    let what = format!("{addr} has another holder too, {other}");
                    self.report(&path, what, "stop one of the two containers, and DEL both");
                }
            }
        }
        Ok(())
    }

    fn pools(&mut self) -> Result<(), StoreError> {
        let mut known = BTreeSet::new();
        for (path, entry) in self.server.list(keys::SPACES, self.until)? {
            match codec::read_pools(path.as_bytes(), &entry.value) {
                Ok(pools) => known.extend(pools.into_iter().map(|pool| pool.id)),
                Err(Bad(what)) => self.report(&path, what, "run `subletd cleanup` on every host"),
            }
        }
        for (path, entry) in self.server.list(keys::POOLS, self.until)? {
            match records::pool(&path, &entry) {
                Ok(pool) => {
                    if !known.remove(&pool.id) {
                        let what = format!("the pool is not among those of space {}", pool.space);
                        self.report(&path, what, "remove its networks with `docker network rm`");
                    }
                    self.pools.insert(pool.id);
                }
                Err(Bad(what)) => self.report(&path, what, "run `subletd cleanup` on every host"),
            }
        }
        for id in known {
            let path = keys::pool(&id);
            self.report(&path, "its space has the pool, and there is none", "create it again");
        }
        Ok(())
    }

    fn addresses(&mut self) -> Result<(), StoreError> {
        for (path, entry) in self.server.list(keys::ADDRESSES, self.until)? {
            let ((set, addr), slot) = match records::holder(&path, &entry) {
                Ok(read) => read,
                Err(Bad(what)) => {
                    self.report(&path, what, REMOVE);
                    continue;
                }
            };
            let lease = match slot {
                Holder::Leased(lease) => lease,
                Holder::Cooling(_) => {
                    self.cooling.insert(keys::cooling(&set, addr));
                    continue;
                }
                Holder::Free => continue,
            };
            let own = keys::owner(&set, &lease.node, &lease.owner);
            let named = self.held.remove(&(set, addr));
            if named != own {
                let what = match named {
                    Some(other) => format!("{} has it, and {other} names it too", lease.owner),
                    None => format!("{} has it, whose record does not name it", lease.owner),
                };
                self.report(&path, what, REMOVE);
            }
            if let Owner::Pool(id, at) = &lease.owner
                && (*at != addr || !self.pools.contains(id))
            {
                self.report(&path, format!("its pool {id} is gone"), REMOVE);
            }
        }
        Ok(())
    }

    fn cooling(&mut self) -> Result<(), StoreError> {
        let said = self.server.list(keys::COOLING, self.until)?;
        for path in std::mem::take(&mut self.cooling) {
            if !said.contains_key(&path) {
                let what = "the address cools, and is not among those that do";
                self.report(&path, what, "it is free again with the next ADD that comes upon it");
            }
        }
        Ok(())
    }

    fn history(&mut self) -> Result<(), StoreError> {
        let advice = "remove the record; no lease depends on it";
        for (path, entry) in self.server.list(keys::HISTORY, self.until)? {
            if let Err(Bad(what)) = history::read(&path, &entry) {
                self.report(&path, what, advice);
            }
        }
        for (path, entry) in self.server.list(keys::RANGES, self.until)? {
            if let Err(Bad(what)) = records::ranges(&path, &entry) {
                self.report(&path, what, advice);
            }
        }
        Ok(())
    }

    /// Owners of what is nobody's.
    fn left(&mut self) {
        for ((_, addr), path) in std::mem::take(&mut self.held) {
            let what = format!("it holds {addr}, which is not leased");
            self.report(&path, what, "remove the record; a DEL of its owner does that");
        }
    }
}

/// For tests: panics over the first problem.
#[cfg(test)]
pub fn assert_sound(server: &dyn Server) {
    let until = Instant::now() + std::time::Duration::from_secs(30);
    check(server, until, &mut |problem| panic!("{}: {}", problem.place, problem.what)).unwrap();
}
