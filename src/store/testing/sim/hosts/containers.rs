//! The calls of container runtimes: ADD, DEL and GC.

use super::super::settings::{forbidden, is_in_another_set, requested};
use super::{
    Container, Host, Key, NETWORKS, Ran, Reserved, Shared, World, attachment, draining, key_of,
    owner, run,
};
use crate::alloc::{Add, Command, Del, Gc, Legacy, Outcome, Reserve, Target};
use crate::error::Refusal;
use crate::model::{IfName, Lease, Origin, Owner, Persist, Pod, SetName};
use crate::net::Addr;
use crate::store::testing::contract;

/// Chooses a network and a container of a host. Returns `None` if a call for this container is suspended.
pub(super) fn choose(world: &mut World, host: usize) -> Option<Key> {
    let key = (world.random.below(NETWORKS.len()), u8::try_from(world.random.below(14)).unwrap());
    (!world.hosts[host].busy.contains(&key)).then_some(key)
}

pub(super) fn add(world: &Shared, host: usize) {
    let (key, mut command, persist, before) = {
        let world = &mut *world.borrow_mut();
        let Some(key) = choose(world, host) else { return };
        let of_host = &mut world.hosts[host];
        let settings = of_host.settings[key.0].clone();
        let before = of_host.containers.get(&key).cloned();
        of_host.busy.insert(key);
        let held = match &before {
            Some(Container::Live(addrs) | Container::Open(Some(addrs))) => Some(addrs.clone()),
            _ => None,
        };
        if !matches!(before, Some(Container::Live(_))) {
            of_host.containers.insert(key, Container::Open(held));
        }
        let pod =
            Pod { namespace: "ns".into(), name: format!("p{}", key.1 / 2), uid: String::new() };
        let attachment = attachment(key.0, &format!("c{}", key.1));
        let folder = of_host.folders.get(&key.0).cloned();
        // Skip this ADD if another ADD is importing host-local's folder, because the other ADD holds
        // host-local's lock.
        if folder.is_some() && of_host.busy.iter().any(|busy| busy.0 == key.0 && busy.1 >= 14) {
            of_host.busy.remove(&key);
            return;
        }
        for lease in folder.iter().flatten() {
            // Until this ADD has ended, it is not known whether the leases in host-local's folder have been
            // imported.
            let Owner::Attachment(a) = &lease.owner else { continue };
            let old = (key.0, a.container.as_str()[1..].parse().unwrap());
            of_host.containers.entry(old).or_insert(Container::Open(Some(vec![lease.addr])));
            of_host.busy.insert(old);
        }
        let sets = settings.sets();
        let command = Add {
            set: settings.set(key.0),
            network: attachment.network.clone(),
            owner: owner(key),
            strategy: settings.strategy,
            cooldown: settings.cooldown,
            sticky: settings.sticky,
            origin: Origin { attachment: Some(attachment), pod: Some(pod), ..Origin::default() },
            requested: requested(&mut world.random, before.is_none()),
            legacy: folder.map_or(Legacy::Absent, |leases| Legacy::Read(leases, vec![])),
            ..contract::add("x", &sets)
        };
        (key, command, settings.persist, before)
    };
    let drained = world.borrow().hosts[host].drained(&command.set);
    let mut ended = Vec::new();
    let ran = engine(world, host, persist, &mut command, &mut ended);
    let world = &mut *world.borrow_mut();
    let name = format!("h{host} ADD {}/c{}", NETWORKS[key.0], key.1);
    let of_host = &mut world.hosts[host];
    if matches!(ran, Ran::Failed(_) | Ran::Killed) {
        of_host.unsure.insert(key);
    }
    of_host.busy.retain(|busy| !ended.contains(busy));
    of_host.busy.retain(|busy| *busy != key && (busy.0 != key.0 || busy.1 < 14));
    match ran {
        Ran::Done(Outcome::Added(added)) => {
            let addrs: Vec<Addr> = added.grants.iter().map(|grant| grant.addr).collect();
            of_host.folders.remove(&key.0);
            let same = match &before {
                // If a range set was added to the configuration, the container now has an additional address.
                Some(Container::Live(before)) => before.iter().all(|addr| addrs.contains(addr)),
                _ => true,
            };
            of_host.unsure.remove(&key);
            of_host.containers.insert(key, Container::Live(addrs.clone()));
            world.note(format!("{name} -> {addrs:?}"));
            if let Some(addr) = forbidden(&command, &added, &world.hosts[host].named) {
                world.found(format!("{name} got {addr}, which is not allocatable"));
            }
            let is_new = |addr: &&Addr| draining().contains(**addr);
            if !is_in_another_set(&added)
                && drained.is_some()
                && world.hosts[host].drained(&command.set) == drained
                && let Some(addr) = added.created.iter().find(is_new)
            {
                world.found(format!("{name} got {addr}, which is draining"));
            }
            if !same {
                world.found(format!("{name} got another address than before: {before:?}"));
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => {
            world.note(format!("{name} -> {refusal:?}"));
            // A refusal changes nothing, so the container's state is known.
            match before {
                Some(before) => drop(world.hosts[host].containers.insert(key, before)),
                None => drop(world.hosts[host].containers.remove(&key)),
            }
        }
        Ran::Failed(error) => world.note(format!("{name} failed: {error}")),
        Ran::Killed => world.note(format!("{name} was killed")),
    }
}

impl Host {
    /// Returns [`Host::undone`] if the range is certainly draining in the set. If this number stays the same
    /// during an ADD, the range was draining the whole time.
    fn drained(&self, set: &SetName) -> Option<u64> {
        (self.draining.get(set) == Some(&Reserved::Certainly)).then_some(self.undone)
    }
}

/// Runs an ADD, following the same steps as [`crate::engine`]. An ADD can get the address of an earlier
/// container only after that container has ended. Such containers are appended to `ended`.
fn engine(
    world: &Shared,
    host: usize,
    persist: Persist,
    command: &mut Add,
    ended: &mut Vec<Key>,
) -> Ran<Outcome> {
    loop {
        let ran = run(world, host, persist, &Command::Add(command.clone()));
        if let Ran::Refused(Refusal::Predecessor { holder, .. }) = &ran
            && let Some(of) = predecessor_ends(&mut world.borrow_mut(), host, holder)
        {
            ended.push(of);
            command.gone.push((**holder).clone());
            continue;
        }
        let Ran::Done(Outcome::Contested(contested)) = ran else { return ran };
        // As in the engine, addresses that two programs have leased are reserved, and the other leases are
        // imported.
        for contested in contested {
            let at = (contested.lease.set.clone(), contested.lease.addr);
            world.borrow_mut().hosts[host].reserving.insert(at.clone());
            world.borrow_mut().hosts[host].reserved.entry(at.clone()).or_insert(Reserved::Perhaps);
            world.borrow_mut().hosts[host].contested.insert(at.clone());
            let reserve = Reserve {
                set: at.0.clone(),
                addrs: vec![at.1],
                note: None,
                holder: None,
                name: None,
            };
            if let Ran::Done(_) = run(world, host, persist, &Command::ReserveContested(reserve)) {
                world.borrow_mut().hosts[host].reserved.insert(at.clone(), Reserved::Certainly);
            }
            world.borrow_mut().hosts[host].reserving.remove(&at);
            if let Legacy::Read(leases, _) = &mut command.legacy {
                leases.retain(|lease| lease.addr != at.1);
            }
        }
    }
}

/// If the runtime may have given up the container with this lease (because a call got no response), ends that
/// container and returns its key. The address is reserved for the container's pod, whose next container needs
/// it. The ended container counts as busy until the next container's ADD is over.
fn predecessor_ends(world: &mut World, host: usize, lease: &Lease) -> Option<Key> {
    let of_host = &mut world.hosts[host];
    let key = key_of(lease)?;
    let is_open = matches!(of_host.containers.get(&key), Some(Container::Open(_)));
    (is_open && of_host.busy.insert(key)).then_some(key)
}

pub(super) fn delete(world: &Shared, host: usize) {
    let (key, del, persist) = {
        let world = &mut *world.borrow_mut();
        let Some(key) = choose(world, host) else { return };
        let of_host = &mut world.hosts[host];
        of_host.busy.insert(key);
        if let Some(Container::Live(addrs)) = of_host.containers.get(&key).cloned() {
            of_host.containers.insert(key, Container::Open(Some(addrs)));
        }
        if let Some(leases) = of_host.folders.get_mut(&key.0) {
            leases.retain(|lease| lease.owner != owner(key));
        }
        let settings = &of_host.settings[key.0];
        let target = Target::Owner(owner(key));
        let set = settings.set(key.0);
        (key, Del { set, target, rewind: false, undo: false, legacy: None }, settings.persist)
    };
    let ran = run(world, host, persist, &Command::Del(del));
    let world = &mut *world.borrow_mut();
    world.hosts[host].busy.remove(&key);
    let name = format!("h{host} DEL {}/c{}", NETWORKS[key.0], key.1);
    match ran {
        Ran::Done(Outcome::Freed(freed)) => {
            world.note(format!("{name} -> {} freed", freed.len()));
            world.hosts[host].containers.remove(&key);
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(error) => world.note(format!("{name} failed: {error}")),
        Ran::Killed => world.note(format!("{name} was killed")),
    }
}

/// Runs a GC for one network. The GC frees the leases of containers that the runtime has given up.
pub(super) fn collect(world: &Shared, host: usize) {
    let (network, gc, persist, judged) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        let of_host = &world.hosts[host];
        let is_dead = |key: &Key| !matches!(of_host.containers[key], Container::Live(_));
        let of_network: Vec<Key> =
            of_host.containers.keys().copied().filter(|key| key.0 == network).collect();
        let judged: Vec<Key> = of_network
            .iter()
            .copied()
            .filter(|key| is_dead(key) && !of_host.busy.contains(key))
            .collect();
        // A runtime never reuses a container's ID after it has given up the container. Therefore these
        // containers count as busy during the GC.
        world.hosts[host].busy.extend(judged.iter().copied());
        let mut valid: Vec<_> = (0..14)
            .filter(|c| !judged.contains(&(network, *c)))
            .map(|c| {
                (attachment(network, &format!("c{c}")).container, IfName::new("eth0").unwrap())
            })
            .collect();
        valid.sort();
        let settings = &world.hosts[host].settings[network];
        let gc = Gc {
            set: settings.set(network),
            network: attachment(network, "c").network,
            valid: valid.into(),
            after: None,
        };
        (network, gc, settings.persist, judged)
    };
    let ran = run(world, host, persist, &Command::Gc(gc));
    let world = &mut *world.borrow_mut();
    world.note(format!("h{host} GC {}: {}", NETWORKS[network], matches!(ran, Ran::Done(_))));
    for key in judged {
        world.hosts[host].busy.remove(&key);
        if let Ran::Done(_) = ran {
            world.hosts[host].containers.remove(&key);
        }
    }
}
