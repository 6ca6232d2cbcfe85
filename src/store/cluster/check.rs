//! The checks of `sublet doctor` on a cluster. They find records that cannot be decoded or that contradict
//! each other.
//!
//! Each lease has two records: one of its address and one of its owner. In a sound store, every address has
//! one holder. The holder's owner record lists the address, and lists no address of another owner. An address
//! of a pool belongs to an existing pool. The record of an address space lists all of its pools. The index of
//! cooling addresses is complete.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::records::Decode;
use super::server::Server;
use super::{keys, records};
use crate::alloc::Holder;
use crate::error::StoreError;
use crate::model::{Kind, Owner, Pool, PoolId, SetName, StaticName};
use crate::net::Addr;
use crate::store::Problem;
use crate::store::codec::{Bad, OTHER_VERSION};

/// Reports every record that cannot be decoded or that contradicts another record. The kinds of records are
/// listed one after the other, so a change during the check may look like a problem. The caller therefore
/// checks twice.
pub fn check(
    server: &dyn Server,
    until: Instant,
    each: &mut dyn FnMut(Problem),
) -> Result<(), StoreError> {
    let mut checker = Checker { server, until, each };
    let (mut owners, mut named) = checker.owners()?;
    let pools = checker.pools()?;
    let cooling = checker.addresses(&mut owners, &mut named, &pools)?;
    for ((_, addr), path) in named {
        let what = format!(
            "the record reserves {addr} for a name, but the record of {addr} does not contain this \
             reservation"
        );
        checker.report(
            &path,
            what,
            "run `sublet unreserve` for the address, then reserve the address again",
        );
    }
    for ((_, addr), path) in owners {
        let what = format!("the owner record lists {addr}, but {addr} has no lease record");
        checker.report(&path, what, "run a DEL for this owner, which removes the record");
    }
    let mut indexed = BTreeSet::new();
    for page in server.pages(keys::COOLING, until) {
        indexed.extend(page?.into_iter().map(|(path, _)| path));
    }
    for path in cooling.iter().filter(|path| !indexed.contains(*path)) {
        let what = "the address is cooling down, but the index of cooling addresses has no entry for the \
                    address";
        checker.report(
            path,
            what,
            "no action needed: an ADD can lease the address after the cooldown",
        );
    }
    let advice = "remove the record; no lease depends on it";
    checker.each(keys::HISTORY, records::events, advice, &mut |_, _, _| ())?;
    checker.each(keys::RANGES, records::ranges, advice, &mut |_, _, _| ())?;
    let advice = "remove the record, then run `sublet drain` again for each range";
    checker.each(keys::DRAINING, records::draining, advice, &mut |_, _, _| ())?;
    Ok(())
}

struct Checker<'a> {
    server: &'a dyn Server,
    until: Instant,
    each: &'a mut dyn FnMut(Problem),
}

/// For each address, the path of the owner's record that lists the address.
type Owners = BTreeMap<(SetName, Addr), String>;

const REMOVE: &str = "remove the record when no container uses its address";
const CLEAN_UP: &str = "run `subletd cleanup` on every host";

impl Checker<'_> {
    fn report(&mut self, path: &str, what: impl Into<String>, advice: &str) {
        let place = format!("{} at {}", path, self.server.place());
        let what = what.into();
        let other_version = what == OTHER_VERSION.0;
        let advice =
            if other_version { "use that version or a newer one" } else { advice }.to_owned();
        (self.each)(Problem { place, what, advice, repairable: false, damage: false });
    }

    /// Calls `each` for every record of this kind that can be decoded. Reports the records that cannot be
    /// decoded.
    fn each<T>(
        &mut self,
        kind: &str,
        decode: Decode<T>,
        advice: &str,
        each: &mut dyn FnMut(&mut Self, String, T),
    ) -> Result<(), StoreError> {
        for page in self.server.pages(kind, self.until) {
            for (path, entry) in page? {
                match decode(&path, &entry) {
                    Ok(record) => each(self, path, record),
                    Err(Bad(what)) => self.report(&path, what, advice),
                }
            }
        }
        Ok(())
    }

    /// Reads the owners' records. Returns the owners of leases, and separately the reservations for names.
    /// They are separate because one address may have both: the container with that name may have leased the
    /// address.
    fn owners(&mut self) -> Result<(Owners, Owners), StoreError> {
        let (mut owners, mut named) = (Owners::new(), Owners::new());
        self.each(keys::OWNER, records::owner, REMOVE, &mut |checker, path, (set, leases)| {
            for lease in leases {
                let addr = lease.addr;
                if keys::owner(&set, &lease.node, &lease.owner).as_ref() != Some(&path) {
                    checker.report(
                        &path,
                        format!(
                            "the owner record contains a lease of {addr} that belongs to another owner"
                        ),
                        REMOVE,
                    );
                }
                let is_named = matches!(lease.owner, Owner::Named(_));
                let all = if is_named { &mut named } else { &mut owners };
                if let Some(other) = all.insert((set.clone(), addr), path.clone()) {
                    let what = format!("a second record, {other}, also lists {addr}");
                    checker.report(
                        &path,
                        what,
                        "stop one of the two containers, then run a DEL for both containers",
                    );
                }
            }
        })?;
        Ok((owners, named))
    }

    fn pools(&mut self) -> Result<BTreeSet<PoolId>, StoreError> {
        let mut pools = BTreeSet::new();
        let mut of_spaces: BTreeSet<PoolId> = BTreeSet::new();
        let decode = records::plain::<Vec<Pool>>;
        self.each(keys::SPACE, decode, CLEAN_UP, &mut |_, _, pools| {
            of_spaces.extend(pools.into_iter().map(|pool| pool.id));
        })?;
        self.each(keys::POOL, records::plain::<Pool>, CLEAN_UP, &mut |checker, path, pool| {
            if !of_spaces.remove(&pool.id) {
                let what = format!(
                    "the pool is missing from the pool list of address space {}",
                    pool.space
                );
                checker.report(
                    &path,
                    what,
                    "remove the networks of the pool with `docker network rm`",
                );
            }
            pools.insert(pool.id);
        })?;
        for id in of_spaces {
            let path = keys::named(keys::POOL, &id.0);
            self.report(
                &path,
                "the address space lists this pool, but the pool has no record",
                "create the network of this pool again",
            );
        }
        Ok(pools)
    }

    /// Checks the records of addresses. Removes each leased address from `owners`, and each address that is
    /// reserved for a name from `named`. The addresses that remain in the two maps have no matching address
    /// record. Returns the paths that the index of cooling addresses must contain.
    fn addresses(
        &mut self,
        owners: &mut Owners,
        named: &mut Owners,
        pools: &BTreeSet<PoolId>,
    ) -> Result<Vec<String>, StoreError> {
        let mut cooling = Vec::new();
        let decode = records::address;
        self.each(keys::ADDRESS, decode, REMOVE, &mut |checker, path, ((set, addr), holder)| {
            let lease = match holder {
                Holder::Leased(lease) => lease,
                Holder::Cooling(_) => {
                    cooling.push(keys::of_address(keys::COOLING, &set, addr));
                    return;
                }
                Holder::Free => return,
            };
            let own = keys::owner(&set, &lease.node, &lease.owner);
            let key = (set, addr);
            let name = StaticName::of(&lease.origin).filter(|_| lease.kind == Kind::Named);
            let under = name.and_then(|n| keys::owner(&key.0, &lease.node, &Owner::Named(n)));
            if under.is_some() && named.remove(&key) != under {
                checker.report(
                    &path,
                    "the address is leased through a reservation for a name, but the record of this \
                     reservation is missing",
                    REMOVE,
                );
            }
            let is_named = matches!(lease.owner, Owner::Named(_));
            let found = if is_named { named.remove(&key) } else { owners.remove(&key) };
            if found != own {
                let what = match found {
                    Some(other) => {
                        format!(
                            "the address is leased to {}, but the owner record {other} also lists the \
                             address",
                            lease.owner
                        )
                    }
                    None => {
                        format!(
                            "the address is leased to {}, but the owner record does not list the address",
                            lease.owner
                        )
                    }
                };
                checker.report(&path, what, REMOVE);
            }
            if let Owner::Pool(id, at) = &lease.owner
                && (*at != addr || !pools.contains(id))
            {
                checker.report(
                    &path,
                    format!("the lease belongs to pool {id}, which does not exist"),
                    REMOVE,
                );
            }
        })?;
        Ok(cooling)
    }
}

/// Checks all records, and panics at the first problem.
#[cfg(test)]
pub fn assert_sound(server: &dyn Server) {
    let until = Instant::now() + std::time::Duration::from_secs(30);
    check(server, until, &mut |problem| panic!("{}: {}", problem.place, problem.what)).unwrap();
}
