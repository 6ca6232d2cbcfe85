//! Operators' actions: reservations, draining ranges, configuration changes, and the temporary use of
//! host-local.

use super::{NETWORKS, Ran, Reserved, Settings, Shared, draining, owner, run};
use crate::alloc::{Command, Drain, ForeignLease, Reserve, Unreserve};
use crate::error::Refusal;
use crate::model::{Kind, StaticName};
use crate::store::testing::contract::addr;

pub(super) fn reserve(world: &Shared, host: usize) {
    let (at, persist, name) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        // Half of the reservations are for a pod.
        let pod = world.random.below(14);
        let name = (pod < 7).then(|| StaticName::new(format!("ns/p{pod}")).unwrap());
        let settings = &world.hosts[host].settings[network];
        let (set, persist) = (settings.set(network), settings.persist);
        let addr = addr(&format!("10.0.0.{}", world.random.below(16)));
        if !world.hosts[host].reserving.insert((set.clone(), addr)) {
            return;
        }
        world.hosts[host].reserved.entry((set.clone(), addr)).or_insert(Reserved::Perhaps);
        let names = world.hosts[host].named.entry((set.clone(), addr)).or_default();
        names.extend(name.clone());
        ((set, addr), persist, name)
    };
    let command = Reserve {
        set: at.0.clone(),
        addrs: vec![at.1],
        note: None,
        holder: None,
        name: name.clone(),
    };
    let ran = run(world, host, persist, &Command::Reserve(command));
    let world = &mut *world.borrow_mut();
    world.hosts[host].reserving.remove(&at);
    let of = name.as_ref().map_or("nobody", StaticName::as_str);
    world.note(format!(
        "h{host} reserve {} {} for {of}: {}",
        at.0,
        at.1,
        matches!(ran, Ran::Done(_))
    ));
    match ran {
        Ran::Done(_) => drop(world.hosts[host].reserved.insert(at, Reserved::Certainly)),
        Ran::Refused(Refusal::Held { .. }) => {
            let of_host = &world.hosts[host];
            let is_reserved = of_host.reserved.get(&at) == Some(&Reserved::Certainly);
            // The refusal may be right: two programs may have leased the address, or it may be reserved for
            // another name.
            let is_expected = of_host.contested.contains(&at) || name.is_some();
            if is_reserved && !is_expected {
                world.found(format!("{} {} was reserved and is leased", at.0, at.1));
            }
        }
        Ran::Refused(refusal) => world.found(format!("reserve {} {}: {refusal:?}", at.0, at.1)),
        Ran::Failed(_) | Ran::Killed => {}
    }
}

pub(super) fn unreserve(world: &Shared, host: usize) {
    let (at, persist) = {
        let world = &mut *world.borrow_mut();
        let all: Vec<_> = world.hosts[host].reserved.keys().cloned().collect();
        if all.is_empty() {
            return;
        }
        let at = world.random.pick(&all).clone();
        if !world.hosts[host].reserving.insert(at.clone()) {
            return;
        }
        world.hosts[host].reserved.insert(at.clone(), Reserved::Perhaps);
        (at, world.hosts[host].settings[0].persist)
    };
    let command = Unreserve { set: at.0.clone(), addrs: vec![at.1] };
    let ran = run(world, host, persist, &Command::Unreserve(command));
    let world = &mut *world.borrow_mut();
    world.hosts[host].reserving.remove(&at);
    world.note(format!("h{host} unreserve {} {}: {}", at.0, at.1, matches!(ran, Ran::Done(_))));
    if let Ran::Done(_) = ran {
        world.hosts[host].reserved.remove(&at);
        world.hosts[host].named.remove(&at);
    }
}

/// Begins or ends the draining of the range [`draining`], as `sublet drain` does.
pub(super) fn drain(world: &Shared, host: usize) {
    let (drain, persist) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        let undo = world.random.one_in(2);
        let of_host = &mut world.hosts[host];
        if std::mem::replace(&mut of_host.is_draining, true) {
            return;
        }
        let set = of_host.settings[network].set(network);
        let was = of_host.draining.get(&set);
        if undo && was.is_some() || !undo && was.is_none() {
            of_host.draining.insert(set.clone(), Reserved::Perhaps);
        }
        of_host.undone += u64::from(undo);
        (Drain { set, span: draining(), undo }, of_host.settings[network].persist)
    };
    let ran = run(world, host, persist, &Command::Drain(drain.clone()));
    let world = &mut *world.borrow_mut();
    world.hosts[host].is_draining = false;
    let (set, end) = (&drain.set, if drain.undo { " --undo" } else { "" });
    world.note(format!("h{host} drain {set}{end}: {}", matches!(ran, Ran::Done(_))));
    let draining = &mut world.hosts[host].draining;
    match ran {
        Ran::Done(_) if drain.undo => drop(draining.remove(set)),
        Ran::Done(_) => drop(draining.insert(set.clone(), Reserved::Certainly)),
        Ran::Refused(refusal) => world.found(format!("drain {set}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => {}
    }
}

/// Changes the configuration of a network, as an operator would.
pub(super) fn edit(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let network = world.random.below(NETWORKS.len());
    let settings = Settings::new(&mut world.random);
    world.note(format!("h{host} edit {}: {settings:?}", NETWORKS[network]));
    world.hosts[host].settings[network] = settings;
}

/// Makes a host-local folder with leases of containers, as if host-local had served the network until now.
pub(super) fn host_local_was_here(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let network = world.random.below(NETWORKS.len());
    let mut leases: Vec<ForeignLease> = Vec::new();
    for container in 14..17 {
        let at = addr(&format!("10.0.0.{}", 2 + world.random.below(6)));
        let key = (network, container);
        let known = world.hosts[host].containers.contains_key(&key);
        if !known && leases.iter().all(|lease| lease.addr != at) {
            leases.push(ForeignLease { addr: at, kind: Kind::Dynamic, owner: owner(key) });
        }
    }
    let of_host = &mut world.hosts[host];
    if of_host.busy.iter().all(|key| key.0 != network) && !of_host.folders.contains_key(&network) {
        let text: Vec<_> = leases.iter().map(|l| format!("{} {}", l.owner, l.addr)).collect();
        of_host.folders.insert(network, leases);
        world.note(format!("h{host} host-local has leases of {}: {text:?}", NETWORKS[network]));
    }
}
