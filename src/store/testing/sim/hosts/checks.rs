//! Checks of the conditions that a host must meet after each turn (an event from outside, such as an ADD).

use std::collections::BTreeMap;

use super::super::process::Process;
use super::super::runs::Finding;
use super::{Container, Host, Key, NETWORKS, Reserved, Shared, SimFs, attachment, key_of, open};
use crate::alloc::{Command, Context, Gc, Sweep, Unreserve};
use crate::model::{Kind, Lease, Pool, SetName};
use crate::net::Addr;
use crate::store::{Embedded, Store, StoreReader};

/// Checks that `list` and `doctor` agree with the results that commands have returned. `doctor` runs only if
/// `thoroughly` is set, and then the function also checks that everything can be freed.
pub(super) fn look(world: &Shared, host: usize, thoroughly: bool) {
    let world = &mut *world.borrow_mut();
    let cx = world.context(host);
    // Check a copy of the disk, because the original disk may be full.
    let process = Process::new(None);
    let disk = world.hosts[host].disk.copied();
    disk.set_full(false);
    let mut store = open(disk.of(&process));
    let mut rows: Vec<Lease> = Vec::new();
    if let Err(error) = store.list(&cx, &mut |lease| rows.push(lease)) {
        return world.found(format!("h{host} list: {error}"));
    }
    let mut problems = Vec::new();
    if thoroughly {
        let examined = store.problems(&cx, &mut |problem| problems.push(problem));
        if let Err(error) = examined {
            return world.found(format!("h{host} doctor: {error}"));
        }
    }
    let is_expected = |what: &str| {
        what.contains("overlap")
            || what.contains("dated in the future")
            || what.contains("left behind")
    };
    if let Some(problem) = problems.iter().find(|p| !is_expected(&p.what)) {
        return world.found(format!("h{host} doctor: {}: {}", problem.place, problem.what));
    }
    let pools = match store.pools() {
        Ok(pools) => pools,
        Err(error) => return world.found(format!("h{host} pools: {error}")),
    };
    let compared = world.hosts[host].pools.compare(&pools, &rows, &|_| host, false);
    let draining = match store.draining(&cx) {
        Ok(ranges) => ranges,
        Err(error) => return world.found(format!("h{host} draining: {error}")),
    };
    let declared = &world.hosts[host].draining;
    let is_lost = |(set, declared): &(&SetName, &Reserved)| {
        **declared == Reserved::Certainly && draining.iter().all(|range| range.set != **set)
    };
    if let Some((set, _)) = declared.iter().find(is_lost) {
        return world.found(format!("h{host} {set} does not drain any more"));
    }
    if let Some(range) = draining.iter().find(|range| !declared.contains_key(&range.set)) {
        return world.found(format!("h{host} {} drains without a request", range.set));
    }
    if let Some(what) = compare(&world.hosts[host], &rows).or(compared.err()) {
        return world.found(format!("h{host} {what}"));
    }
    if thoroughly && let Err(what) = leaks(&world.hosts[host], &mut store, &pools, &cx) {
        world.found(format!("h{host} {what}"));
    }
}

/// Frees everything: for each network, runs a GC that lists no container as valid; then removes all
/// reservations and sweeps all pools. Afterwards, no lease or pool may be left.
fn leaks(
    host: &Host,
    store: &mut Embedded<SimFs>,
    pools: &[Pool],
    cx: &Context,
) -> Result<(), Finding> {
    let mut commands = Vec::new();
    for network in 0..NETWORKS.len() {
        let set = host.settings[network].set(network);
        let name = attachment(network, "c").network;
        let gc = Gc { set, network: name, valid: [].into(), after: None };
        commands.push(Command::Gc(gc));
    }
    for (set, addr) in host.reserved.keys() {
        let unreserve = Unreserve { set: set.clone(), addrs: vec![*addr] };
        commands.push(Command::Unreserve(unreserve));
    }
    for pool in pools {
        let (pool, known, before) = (pool.id.clone(), None, u64::MAX);
        commands.push(Command::Sweep(Sweep { pool, known, before, dry: false, alive: vec![] }));
    }
    for command in commands {
        store.apply(&command, cx).map_err(|error| format!("{command:?}: {error}"))?;
    }
    let mut left = Vec::new();
    store.list(cx, &mut |lease| left.push(lease.owner)).map_err(|e| e.to_string())?;
    let pools = store.pools().map_err(|e| e.to_string())?;
    if left.is_empty() && pools.is_empty() {
        return Ok(());
    }
    Err(format!("after everything was freed, {left:?} and {pools:?} are left"))
}

fn compare(host: &Host, rows: &[Lease]) -> Option<Finding> {
    let mut of_network: BTreeMap<(usize, Addr), &Lease> = BTreeMap::new();
    let mut of_set: BTreeMap<(&SetName, Addr), &Lease> = BTreeMap::new();
    let mut held: BTreeMap<Key, Vec<Addr>> = BTreeMap::new();
    for row in rows {
        if let Some(other) = of_set.insert((&row.set, row.addr), row) {
            return Some(format!(
                "{} has two holders: {} and {}",
                row.addr, other.owner, row.owner
            ));
        }
        if row.kind == Kind::Reserved {
            if !host.reserved.contains_key(&(row.set.clone(), row.addr)) {
                return Some(format!("{} is reserved, but was never requested", row.addr));
            }
            continue;
        }
        if row.set.is_pools() {
            continue;
        }
        let Some(key) = key_of(row) else { return Some(format!("unknown holder {}", row.owner)) };
        if let Some(other) = of_network.insert((key.0, row.addr), row) {
            return Some(format!(
                "{} has two holders: {} and {}",
                row.addr, other.owner, row.owner
            ));
        }
        held.entry(key).or_default().push(row.addr);
    }
    for addrs in held.values_mut() {
        addrs.sort_unstable();
    }
    for (key, container) in &host.containers {
        let name = format!("{}/c{}", NETWORKS[key.0], key.1);
        let now = held.remove(key);
        match container {
            Container::Live(addrs) => {
                let mut addrs = addrs.clone();
                addrs.sort_unstable();
                let now_has = |addr: &Addr| now.as_ref().is_some_and(|now| now.contains(addr));
                let is_more = host.unsure.contains(key) && addrs.iter().all(now_has);
                if now.as_ref() != Some(&addrs) && !is_more {
                    return Some(format!("{name} was leased {addrs:?} and now has {now:?}"));
                }
            }
            Container::Open(Some(addrs)) => {
                if let Some(now) = now
                    && now.iter().all(|addr| !addrs.contains(addr))
                    && !addrs.is_empty()
                {
                    return Some(format!("{name} had {addrs:?} and now has {now:?}"));
                }
            }
            Container::Open(None) => {}
        }
    }
    if let Some((key, addrs)) = held.into_iter().next() {
        return Some(format!("{}/c{} is gone and still has {addrs:?}", NETWORKS[key.0], key.1));
    }
    let lost = host.reserved.iter().find(|(at, reserved)| {
        let row = of_set.get(&(&at.0, at.1));
        // Instead of the reservation, the store may have a lease of the container that the address is
        // reserved for.
        let names = || host.named.get(at).into_iter().flatten();
        let is_of = |row: &Lease| names().any(|name| name.is_of(&row.origin));
        let kept =
            |row: &&Lease| row.kind == Kind::Reserved || host.contested.contains(at) || is_of(row);
        **reserved == Reserved::Certainly && !row.is_some_and(kept)
    });
    lost.map(|((set, addr), _)| format!("{addr} of {set} was reserved and is not any more"))
}
