//! Operators' actions: reservations, draining ranges, configuration changes, and the release of a lost
//! machine.

use super::super::process::Ran;
use super::commands::{run, run_steps};
use super::{Container, NETWORKS, Reserved, Settings, Shared, draining};
use crate::alloc::{Command, Drain, Outcome, Reserve, Unreserve};
use crate::engine;
use crate::error::Refusal;
use crate::model::StaticName;
use crate::store::testing::contract::addr;

pub(super) fn reserve(world: &Shared, machine: usize) {
    let (at, persist, was, of) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        let settings = &world.settings[network];
        let (set, persist) = (settings.set(network), settings.persist);
        let at = (set, addr(&format!("10.0.0.{}", world.random.below(16))));
        if !world.reserving.insert(at.clone()) {
            return;
        }
        let was = world.reserved.get(&at).copied();
        world.reserved.entry(at.clone()).or_insert(Reserved::Perhaps);
        // Half of the reservations are for a pod.
        let (pod, number) = (world.random.below(2 * world.machines.len()), world.random.below(3));
        let of = format!("ns/m{pod}p{number}");
        let of = (pod < world.machines.len()).then(|| StaticName::new(of).unwrap());
        world.named.entry(at.clone()).or_default().extend(of.clone());
        (at, persist, was, of)
    };
    let command = Reserve {
        set: at.0.clone(),
        addrs: vec![at.1],
        note: None,
        holder: None,
        name: of.clone(),
    };
    let ran = run(world, machine, persist, &Command::Reserve(command));
    let world = &mut *world.borrow_mut();
    world.reserving.remove(&at);
    // A reservation ends the cooldown of its address, even if the command gets no response.
    world.cooling.remove(&at);
    let for_whom = of.as_ref().map_or("nobody", StaticName::as_str);
    let name = format!("m{machine} reserve {} {} for {for_whom}", at.0, at.1);
    match ran {
        Ran::Done(_) => {
            world.note(name);
            let is_doubtful = world.doubtful.contains(&at);
            let now = if is_doubtful { Reserved::Perhaps } else { Reserved::Certainly };
            world.reserved.insert(at, now);
        }
        Ran::Refused(Refusal::Held { .. }) => {
            world.note(format!("{name}: held"));
            match was {
                // If the command reserves the address for a name, the refusal may be right: the address may
                // be reserved for another name.
                Some(Reserved::Certainly) if of.is_none() => {
                    world.found(format!("{} {} was reserved and is leased", at.0, at.1));
                }
                Some(_) => {}
                None if world.doubtful.contains(&at) => {}
                None => drop(world.reserved.remove(&at)),
            }
        }
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => {
            world.note(format!("{name} was not answered"));
            world.doubtful.insert(at);
        }
    }
}

pub(super) fn unreserve(world: &Shared, machine: usize) {
    let (at, persist) = {
        let world = &mut *world.borrow_mut();
        let all: Vec<_> = world.reserved.keys().cloned().collect();
        let Some(at) = all.get(world.random.below(all.len())).cloned() else { return };
        if !world.reserving.insert(at.clone()) {
            return;
        }
        world.reserved.insert(at.clone(), Reserved::Perhaps);
        (at, world.settings[0].persist)
    };
    let command = Unreserve { set: at.0.clone(), addrs: vec![at.1] };
    let ran = run(world, machine, persist, &Command::Unreserve(command));
    let world = &mut *world.borrow_mut();
    world.reserving.remove(&at);
    let name = format!("m{machine} unreserve {} {}", at.0, at.1);
    match ran {
        Ran::Done(Outcome::Freed(_)) => {
            world.note(name);
            if !world.doubtful.contains(&at) {
                world.reserved.remove(&at);
                world.named.remove(&at);
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => {
            world.note(format!("{name} was not answered"));
            world.doubtful.insert(at);
        }
    }
}

/// Begins or ends the draining of the range [`draining`], as `sublet drain` does.
pub(super) fn drain(world: &Shared, machine: usize) {
    let (drain, at, persist) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        let undo = world.random.one_in(2);
        if std::mem::replace(&mut world.is_draining, true) {
            return;
        }
        let settings = &world.settings[network];
        let (set, persist) = (settings.set(network), settings.persist);
        let was = world.draining.get(&set);
        if undo && was.is_some() || !undo && was.is_none() {
            world.draining.insert(set.clone(), Reserved::Perhaps);
        }
        world.undone += u64::from(undo);
        let at = (set.clone(), draining().first);
        (Drain { set, span: draining(), undo }, at, persist)
    };
    let ran = run(world, machine, persist, &Command::Drain(drain.clone()));
    let world = &mut *world.borrow_mut();
    world.is_draining = false;
    let (set, end) = (drain.set, if drain.undo { " --undo" } else { "" });
    let name = format!("m{machine} drain {set}{end}");
    let is_doubtful = world.doubtful.contains(&at);
    match ran {
        Ran::Done(Outcome::Drained { .. }) => {
            world.note(name);
            match (drain.undo, is_doubtful) {
                (true, false) => drop(world.draining.remove(&set)),
                (false, false) => drop(world.draining.insert(set, Reserved::Certainly)),
                (_, true) => drop(world.draining.insert(set, Reserved::Perhaps)),
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(_) | Ran::Killed => {
            world.note(format!("{name} was not answered"));
            // The transaction may still arrive, and then begin or end the draining.
            world.draining.insert(set, Reserved::Perhaps);
            world.undone += u64::from(drain.undo);
            world.doubtful.insert(at);
        }
    }
}

/// Changes the configuration of a network on all machines, as an operator would. `persist` stays the same,
/// because existing leases keep their lifetime.
pub(super) fn edit(world: &Shared) {
    let world = &mut *world.borrow_mut();
    let network = world.random.below(NETWORKS.len());
    let persist = world.settings[network].persist;
    let mut settings = Settings { persist, ..Settings::new(&mut world.random) };
    world.events.restrict(&mut settings);
    world.note(format!("edit {}: {settings:?}", NETWORKS[network]));
    world.settings[network] = settings;
}

/// Runs `sublet node release` for a machine that is down and whose names no other machine has had.
pub(super) fn release_node(world: &Shared) {
    let (machine, gone, names, persist) = {
        let world = &mut *world.borrow_mut();
        let on: Vec<usize> =
            (0..world.machines.len()).filter(|m| world.machines[*m].is_on).collect();
        let Some(machine) = on.get(world.random.below(on.len())).copied() else { return };
        let is_alone = |gone: &usize| {
            let names = &world.machines[*gone].names;
            let others = world.machines.iter().enumerate().filter(|(other, _)| other != gone);
            !world.machines[*gone].is_on
                && others.flat_map(|(_, m)| &m.names).all(|name| !names.contains(name))
        };
        let Some(gone) = (0..world.machines.len()).find(is_alone) else { return };
        let of_machine = &mut world.machines[gone];
        if std::mem::replace(&mut of_machine.is_being_released, true) {
            return;
        }
        let names = of_machine.names.clone();
        for (key, container) in &mut world.containers {
            if key.1 == gone {
                *container = Container::Open;
            }
        }
        world.pools.machine_is_gone(gone, false);
        (machine, gone, names, world.settings[0].persist)
    };
    let mut ran = Ran::Done(true);
    for name in &names {
        if let Ran::Done(_) = ran {
            ran = run_steps(world, machine, persist, &mut |store, cx| {
                Ok(engine::release_node(store, name, cx)?.forgotten)
            });
        }
    }
    let world = &mut *world.borrow_mut();
    world.machines[gone].is_being_released = false;
    let name = format!("m{machine} releases m{gone} ({})", names.join(", "));
    match ran {
        Ran::Done(true) => {
            world.note(name);
            world.containers.retain(|key, _| key.1 != gone);
            world.pools.machine_is_gone(gone, true);
        }
        Ran::Done(false) => world.note(format!("{name}: another one has the name")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(error) => world.note(format!("{name} failed: {error}")),
        Ran::Killed => world.note(format!("{name} was killed")),
    }
}
