//! Checks of the conditions that the records on the server must meet after each turn (an event from outside,
//! such as an ADD).

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::super::process::Process;
use super::super::run_folder::RunFolder;
use super::super::runs::Finding;
use super::super::server::{Caller, Connection, SimServer};
use super::{Container, Key, NETWORKS, Reserved, World, attachment, boot_id, key_of, name};
use crate::alloc::{Command, Context, Gc, Holder, ReleasePool, Unreserve};
use crate::engine;
use crate::model::{Kind, Lease, Node, Persist, SetName};
use crate::net::Addr;
use crate::store::cluster::server::Server;
use crate::store::cluster::{ClusterStore, check, keys};
use crate::store::testing::fake_cluster::no_cache;
use crate::store::{Store, StoreReader};

/// Checks that the records agree with each other, and that `list` agrees with the results that commands have
/// returned. If `thoroughly` is set, also checks that everything can be freed.
pub(super) fn look(world: &mut World, thoroughly: bool) -> Result<(), Finding> {
    if world.seen.0 != world.server.version() || thoroughly {
        read(world)?;
    }
    compare(world, &world.seen.1)?;
    let (is_final, seen) = (!world.server.is_in_transit(), &world.seen);
    world.pools.compare(&seen.2, &seen.1, &machine_of, is_final)?;
    // Check a copy of the server, because the original may have no leader at this moment.
    if thoroughly { leaks(world, &world.server.copied()) } else { Ok(()) }
}

/// Returns the number of a node's machine.
fn machine_of(node: &Node) -> usize {
    node.machine.strip_prefix("machine-").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX)
}

/// Returns a node that has no leases and only reads.
fn observer() -> Node {
    Node { name: "observer".to_owned(), machine: "observer".to_owned() }
}

/// Checks that `sublet doctor` finds no problem in the records.
fn examine(server: &SimServer) -> Result<(), Finding> {
    let until = Instant::now() + Duration::from_secs(600);
    let mut problem = None;
    check::check(&connection(server), until, &mut |found| problem = Some(found))
        .map_err(|error| format!("doctor: {error}"))?;
    match problem {
        Some(problem) => Err(format!("doctor: {}: {}", problem.place, problem.what)),
        None => Ok(()),
    }
}

/// Reads the leases and pools into `world.seen`. Checks that `sublet doctor` finds no problem, and that the
/// ranges that are draining are the ranges that operators drain.
fn read(world: &mut World) -> Result<(), Finding> {
    let server = world.server.copied();
    examine(&server)?;
    let mut rows = Vec::new();
    let cx = Context { node: observer(), ..Context::default() };
    let mut store = store(&server);
    store.list(&cx, &mut |lease| rows.push(lease)).map_err(|e| format!("list: {e}"))?;
    let pools = store.pools().map_err(|e| format!("pools: {e}"))?;
    let ranges = store.draining(&cx).map_err(|e| format!("draining: {e}"))?;
    for (set, declared) in &world.draining {
        if *declared == Reserved::Certainly && ranges.iter().all(|range| range.set != *set) {
            return Err(format!("{set} does not drain any more"));
        }
    }
    if let Some(range) = ranges.iter().find(|range| !world.draining.contains_key(&range.set)) {
        return Err(format!("{} drains without a request", range.set));
    }
    world.seen = (world.server.version(), rows, pools);
    Ok(())
}

fn connection(server: &SimServer) -> Connection {
    let run = Rc::new(RunFolder::new("/proc/nowhere".into()));
    let caller = Caller { process: Process::new(None), run, is_cut_off: false };
    server.of(&Rc::new(RefCell::new(caller)), Rc::new(|_| {}))
}

fn store(server: &SimServer) -> ClusterStore<Connection> {
    let timeout = Duration::from_secs(600);
    ClusterStore::new(connection(server), timeout, Persist::Boot, no_cache())
}

fn compare(world: &World, rows: &[Lease]) -> Result<(), Finding> {
    let mut of_network: BTreeMap<(&str, Addr), &Lease> = BTreeMap::new();
    let mut reserved: Vec<(&SetName, Addr)> = Vec::new();
    let mut held: BTreeMap<Key, Vec<Addr>> = BTreeMap::new();
    for row in rows {
        if row.set.is_pools() {
            continue;
        }
        if row.kind == Kind::Reserved {
            if !world.reserved.contains_key(&(row.set.clone(), row.addr)) {
                return Err(format!("{} of {} is reserved without a request", row.addr, row.set));
            }
            reserved.push((&row.set, row.addr));
            continue;
        }
        // The address is reserved for a container and is leased to this container, so the reservation still
        // exists.
        let at = (row.set.clone(), row.addr);
        let mut names = world.named.get(&at).into_iter().flatten();
        if row.kind == Kind::Named && names.any(|name| name.is_of(&row.origin)) {
            reserved.push((&row.set, row.addr));
        }
        let key = key_of(row).ok_or_else(|| format!("unknown holder {}", row.owner))?;
        // Leases of an earlier boot count as free, even if their records still exist.
        let boot = boot_id(world.machines[key.1].boot);
        if row.boot.as_ref().is_some_and(|of_lease| *of_lease != boot) {
            continue;
        }
        let network = if world.events.one_set { NETWORKS[key.0] } else { &row.set.0 };
        if let Some(other) = of_network.insert((network, row.addr), row) {
            return Err(format!("{} is held by {} and {}", row.addr, other.owner, row.owner));
        }
        held.entry(key).or_default().push(row.addr);
    }
    for (key, container) in &world.containers {
        let Container::Live { addrs, is_exact, .. } = container else {
            held.remove(key);
            continue;
        };
        let now = held.remove(key).unwrap_or_default();
        let is_right =
            addrs.iter().all(|addr| now.contains(addr)) && (!is_exact || now.len() == addrs.len());
        if !is_right {
            let name = name(*key);
            let network = NETWORKS[key.0];
            return Err(format!("{network}/{name} was leased {addrs:?} and now has {now:?}"));
        }
    }
    if let Some((key, addrs)) = held.into_iter().next() {
        return Err(format!("{}/{} is gone and still has {addrs:?}", NETWORKS[key.0], name(key)));
    }
    let is_lost = |(at, reserved_so): &(&(SetName, Addr), &Reserved)| {
        **reserved_so == Reserved::Certainly && !reserved.contains(&(&at.0, at.1))
    };
    match world.reserved.iter().find(is_lost) {
        Some(((set, addr), _)) => Err(format!("{addr} of {set} was reserved and is not any more")),
        None => Ok(()),
    }
}

/// Frees everything: on each machine, runs a GC that lists no container as valid; then removes all
/// reservations and releases all pools. Afterwards, no record of a lease or pool may be left.
fn leaks(world: &World, server: &SimServer) -> Result<(), Finding> {
    let mut store = store(server);
    let context = |machine: usize| Context {
        now: world.now(machine),
        boot: Some(boot_id(world.machines[machine].boot)),
        node: world.machines[machine].node.clone(),
        by_host_name: true,
        ..Context::default()
    };
    for machine in 0..world.machines.len() {
        for network in 0..NETWORKS.len() {
            let (set, name) =
                (world.settings[network].set(network), attachment(network, "c").network);
            let gc = Gc { set, network: name, valid: [].into(), after: None };
            // If another machine has the same name, the server may refuse the GC.
            let done = engine::collect(&mut store, Command::Gc(gc), &context(machine));
            if let Err(error) = done
                && !world.events.clones
            {
                return Err(format!("GC of everything: {error}"));
            }
        }
    }
    for (set, addr) in world.reserved.keys() {
        let unreserve = Unreserve { set: set.clone(), addrs: vec![*addr] };
        store
            .apply(&Command::Unreserve(unreserve), &context(0))
            .map_err(|error| format!("unreserve everything: {error}"))?;
    }
    release_pools(&mut store, &Context { node: observer(), ..context(0) })?;
    // The index of cooling addresses must contain exactly the addresses that are cooling down.
    let mut cooling = 0;
    store
        .occupancy(&context(0), &mut |_, _, holder| {
            cooling += usize::from(matches!(holder, Holder::Cooling(_)));
        })
        .map_err(|error| format!("occupancy: {error}"))?;
    let indexed = connection(server)
        .list(keys::COOLING, Instant::now())
        .map_err(|error| format!("the index of cooling addresses: {error}"))?;
    if indexed.len() != cooling {
        return Err(format!("{cooling} addresses cool, and the index has {}", indexed.len()));
    }
    let mut left = Vec::new();
    let all = Context { boot: None, ..context(0) };
    store
        .list(&all, &mut |lease| left.push(format!("{} of {}", lease.addr, lease.owner)))
        .map_err(|error| format!("list: {error}"))?;
    for kind in [keys::POOL, keys::SPACE] {
        let records = connection(server).list(kind, Instant::now());
        left.extend(records.map_err(|error| format!("list: {error}"))?.into_keys());
    }
    if !left.is_empty() {
        return Err(format!("after everything was freed: {left:?}"));
    }
    examine(server)
}

/// Releases every pool once for each use. If a pool's removal was interrupted, one release completes the
/// removal.
fn release_pools(store: &mut ClusterStore<Connection>, cx: &Context) -> Result<(), Finding> {
    let failed = |error| format!("release everything: {error}");
    for pool in store.pools().map_err(|error| format!("pools: {error}"))? {
        let users = pool.users.iter().flat_map(|(node, n)| (0..*n).map(|_| node.clone()));
        let users = if pool.is_closed() { vec![cx.node.clone()] } else { users.collect() };
        for node in users {
            let release = Command::ReleasePool(ReleasePool::of(pool.id.clone()));
            let there = Context { node, boot: None, ..cx.clone() };
            engine::collect(store, release, &there).map_err(failed)?;
        }
    }
    Ok(())
}
