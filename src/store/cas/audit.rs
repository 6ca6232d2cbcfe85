//! Whether addresses and owners agree on a server: each lease is known twice.
//!
//! Invariant of a sound server: every address has one holder, whose record names it, and the other
//! way round.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::codec;
use super::{Engine, paths};
use crate::alloc::Holder;
use crate::model::SetName;
use crate::net::Addr;

/// Panics if an address has two holders, or a lease is known in one place only.
pub fn audit(engine: &dyn Engine) {
    let until = Instant::now() + Duration::from_secs(30);
    let mut held: BTreeMap<(SetName, Addr), String> = BTreeMap::new();
    for (path, entry) in engine.list("own/", until).unwrap() {
        let set = SetName(path.split('/').nth(1).unwrap().to_owned());
        for lease in codec::read_owned(path.as_bytes(), &set, &entry.value).unwrap() {
            assert_eq!(paths::own(&set, &lease.node, &lease.owner), path);
            let other = held.insert((set.clone(), lease.addr), path.clone());
            assert_eq!(other, None, "an address has two holders: {path}");
        }
    }
    for (path, entry) in engine.list(paths::IPS, until).unwrap() {
        let (set, addr) = paths::read_ip(&path).unwrap();
        let slot = codec::read_slot(path.as_bytes(), &set, addr, &entry.value).unwrap();
        if let Holder::Leased(lease) = slot {
            let own = paths::own(&set, &lease.node, &lease.owner);
            assert_eq!(held.remove(&(set, addr)), Some(own), "{path} and its owner disagree");
        }
    }
    assert!(held.is_empty(), "owners of nothing: {held:?}");
}
