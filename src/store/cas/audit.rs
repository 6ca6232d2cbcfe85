//! Whether addresses and owners agree on a server: each lease is known twice.
//!
//! Invariant of a sound server: every address has one holder, whose record names it, and the other
//! way round; an address of a pool has its pool; those that cool are those that are said to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::super::codec;
use super::{Engine, paths};
use crate::alloc::Holder;
use crate::model::{Owner, SetName};
use crate::net::Addr;

/// Panics if an address has two holders, a lease is known in one place only, or its pool is gone.
pub fn audit(engine: &dyn Engine) {
    let until = Instant::now() + Duration::from_secs(30);
    let mut held: BTreeMap<(SetName, Addr), String> = BTreeMap::new();
    for (path, entry) in engine.list("own/", until).unwrap() {
        let set = SetName(path.split('/').nth(1).unwrap().to_owned());
        for lease in codec::read_owned(path.as_bytes(), &set, &entry.value).unwrap() {
            assert_eq!(paths::own(&set, &lease.node, &lease.owner), Some(path.clone()));
            let other = held.insert((set.clone(), lease.addr), path.clone());
            assert_eq!(other, None, "an address has two holders: {path}");
        }
    }
    let pools = engine.list(paths::POOLS, until).unwrap();
    let mut cooling = BTreeSet::new();
    for (path, entry) in engine.list(paths::IPS, until).unwrap() {
        let (set, addr) = paths::read_ip(&path).unwrap();
        let slot = codec::read_slot(path.as_bytes(), &set, addr, &entry.value).unwrap();
        if let Holder::Cooling(_) = slot {
            cooling.insert(paths::cooling(&set, addr));
        }
        if let Holder::Leased(lease) = slot {
            let own = paths::own(&set, &lease.node, &lease.owner);
            assert_eq!(held.remove(&(set, addr)), own, "{path} and its owner disagree");
            if let Owner::Pool(id, at) = &lease.owner {
                assert!(*at == addr && pools.contains_key(&paths::pool(id)), "{path}: no pool");
            }
        }
    }
    assert!(held.is_empty(), "owners of nothing: {held:?}");
    let said: BTreeSet<String> = engine.list("cooling/", until).unwrap().into_keys().collect();
    assert_eq!(said, cooling, "those that cool");
}
