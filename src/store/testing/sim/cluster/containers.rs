//! The calls of container runtimes: ADD, DEL and GC.

use super::super::process::Ran;
use super::super::settings::{forbidden, requested};
use super::commands::{run, run_steps};
use super::{
    Container, Cooling, Key, NETWORKS, Reserved, Shared, World, attachment, draining, key_of, name,
    owner,
};
use crate::alloc::{Add, Command, Del, Gc, Outcome, Target};
use crate::engine;
use crate::model::{IfName, Lease, Origin, Persist, Pod, SetName};
use crate::net::Addr;
use crate::store::testing::contract;

/// The number of containers on each machine in each network.
const NUMBERS: u8 = 6;

/// Chooses a network and a container of a machine. Returns `None` if a call for this container is suspended.
fn choose(world: &mut World, machine: usize) -> Option<Key> {
    let number = u8::try_from(world.random.below(NUMBERS.into())).unwrap();
    let key = (world.random.below(NETWORKS.len()), machine, number);
    (!world.busy.contains(&key)).then_some(key)
}

pub(super) fn add(world: &Shared, machine: usize) {
    let (key, command, persist, before, boot, began) = {
        let world = &mut *world.borrow_mut();
        let Some(key) = choose(world, machine) else { return };
        world.busy.insert(key);
        let before = world.containers.get(&key).cloned();
        if before.is_none() {
            world.containers.insert(key, Container::Open);
            world.tried.remove(&key);
        }
        let settings = &world.settings[key.0];
        world.tried.entry(key).or_default().insert(settings.set(key.0));
        let (namespace, name) = ("ns".into(), format!("m{machine}p{}", key.2 / 2));
        let pod = Pod { namespace, name, uid: String::new() };
        let attachment = attachment(key.0, &super::name(key));
        let command = Add {
            set: settings.set(key.0),
            network: attachment.network.clone(),
            owner: owner(key),
            strategy: settings.strategy,
            cooldown: settings.cooldown,
            sticky: settings.sticky,
            origin: Origin { attachment: Some(attachment), pod: Some(pod), ..Origin::default() },
            requested: requested(&mut world.random, before.is_none()),
            ..contract::add("x", &settings.sets())
        };
        let began = world.now(machine);
        (key, command, settings.persist, before, world.machines[machine].boot, began)
    };
    let drained = world.borrow().drained(&command.set);
    let ran = run(world, machine, persist, &Command::Add(command.clone()));
    let world = &mut *world.borrow_mut();
    let name = format!("m{machine} ADD {}/{}", NETWORKS[key.0], name(key));
    world.busy.remove(&key);
    if world.machines[machine].boot != boot || !world.machines[machine].is_on {
        // The machine's containers ended with its boot, except containers with durable leases.
        world.unsure(key);
        return world.note(format!("{name}: the machine went down"));
    }
    match ran {
        Ran::Done(Outcome::Added(added)) => {
            let addrs: Vec<Addr> = added.grants.iter().map(|grant| grant.addr).collect();
            world.note(format!("{name} -> {addrs:?}"));
            if let Some(addr) = forbidden(&command, &added, &world.named) {
                world.found(format!("{name} got {addr}, which is not allocatable"));
            }
            let is_another = matches!(&before, Some(Container::Live { addrs: before, .. })
                if !before.iter().all(|addr| addrs.contains(addr)));
            let is_moved = matches!(&before, Some(Container::Live { set, .. })
                if *set != command.set && !world.events.one_set);
            let is_excused =
                is_moved || !world.events.repeats_after_reboot && persist == Persist::Disk;
            if is_another && !is_excused {
                world.found(format!("{name} got another address than before: {before:?}"));
            }
            if let Some(what) = world.conflict(key, &command, &addrs, &added.created, began) {
                world.found(format!("{name}: {what}"));
            }
            let is_new = |addr: &&Addr| draining().contains(**addr);
            if drained.is_some()
                && world.drained(&command.set) == drained
                && let Some(addr) = added.created.iter().find(is_new)
            {
                world.found(format!("{name} got {addr}, which is draining"));
            }
            for addr in &added.created {
                world.cooling.remove(&(command.set.clone(), *addr));
            }
            let is_exact = !is_excused && world.tried[&key].len() == 1;
            world.containers.insert(key, Container::Live { set: command.set, addrs, is_exact });
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => {
            world.note(format!("{name} -> {refusal:?}"));
            // A refusal changes nothing, so the container's state is known.
            let is_sure = world.events.refusals_after_no_answer || !world.had_trouble;
            if before.is_none() && is_sure {
                world.containers.remove(&key);
            }
        }
        Ran::Failed(error) => {
            world.note(format!("{name} failed: {error}"));
            world.unsure(key);
        }
        Ran::Killed => {
            world.note(format!("{name} was killed"));
            world.unsure(key);
        }
    }
}

impl World {
    /// Returns [`World::undone`] if the range is certainly draining in the set. If this number stays the same
    /// during an ADD, the range was draining the whole time.
    fn drained(&self, set: &SetName) -> Option<u64> {
        (self.draining.get(set) == Some(&Reserved::Certainly)).then_some(self.undone)
    }

    /// Records that the outcome of an ADD is unknown, so the container may have more addresses than before.
    fn unsure(&mut self, key: Key) {
        if let Some(Container::Live { is_exact, .. }) = self.containers.get_mut(&key) {
            *is_exact = false;
        }
    }

    /// Checks the addresses that an ADD has returned, and returns what is wrong. `created` contains the newly
    /// leased addresses among `addrs`. `began` is the time when the ADD started, on the clock of its machine.
    fn conflict(
        &self,
        key: Key,
        add: &Add,
        addrs: &[Addr],
        created: &[Addr],
        began: u64,
    ) -> Option<String> {
        for (other, container) in self.containers.iter().filter(|(other, _)| **other != key) {
            let Container::Live { set, addrs: held, .. } = container else { continue };
            let is_same = *set == add.set || other.0 == key.0 && self.events.one_set;
            if let Some(addr) = addrs.iter().find(|addr| is_same && held.contains(addr)) {
                return Some(format!("{addr} is held by {}", name(*other)));
            }
        }
        // A strict cooldown keeps an address only from other pods. With `sticky`, a pod gets its former
        // address even while that address is cooling down.
        let is_strict = add.cooldown.strict && !add.sticky && self.events.cooldown_between_machines;
        for addr in created.iter().filter(|_| is_strict) {
            let Some(cooling) = self.cooling.get(&(add.set.clone(), *addr)) else { continue };
            // Setting a machine's clock back ends the cooldowns that the machine started. An ADD uses its
            // start time. If the clock is set forward while the ADD is running, a cooldown that begins then
            // is later than this start time, as if the clock had been set back.
            let is_set_back = cooling.machine == key.1 && began < cooling.freed;
            if self.now(key.1) < cooling.until && !is_set_back {
                return Some(format!("{addr} cools until {}, and it was {began}", cooling.until));
            }
        }
        None
    }

    /// Records that leases were freed by a command that started at `began`, on the clock of its machine. If a
    /// lease has a cooldown, its address cools down from then on.
    fn freed(&mut self, machine: usize, leases: &[Lease], began: u64) {
        for lease in leases {
            let at = (lease.set.clone(), lease.addr);
            if lease.cooldown > 0 {
                let until = began + u64::from(lease.cooldown);
                self.cooling.insert(at, Cooling { machine, freed: began, until });
            } else {
                self.cooling.remove(&at);
            }
        }
    }
}

pub(super) fn delete(world: &Shared, machine: usize) {
    let (key, del, persist, began) = {
        let world = &mut *world.borrow_mut();
        let Some(key) = choose(world, machine) else { return };
        world.busy.insert(key);
        if world.containers.contains_key(&key) {
            world.containers.insert(key, Container::Open);
        }
        let (settings, target) = (&world.settings[key.0], Target::Owner(owner(key)));
        let set = settings.set(key.0);
        let del = Del { set, target, rewind: false, undo: false, legacy: None };
        (key, del, settings.persist, world.now(machine))
    };
    let ran = run(world, machine, persist, &Command::Del(del));
    let world = &mut *world.borrow_mut();
    world.busy.remove(&key);
    let name = format!("m{machine} DEL {}/{}", NETWORKS[key.0], name(key));
    match ran {
        Ran::Done(Outcome::Freed(freed)) => {
            world.note(format!("{name} -> {} freed", freed.len()));
            if let Some(other) = freed.iter().find(|lease| key_of(lease) != Some(key)) {
                world.found(format!("{name} freed a lease of {}", other.owner));
            }
            world.freed(machine, &freed, began);
            world.containers.remove(&key);
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(error) => world.note(format!("{name} failed: {error}")),
        Ran::Killed => world.note(format!("{name} was killed")),
    }
}

/// Runs a GC for one machine and one network. The GC frees the leases of containers that the runtime has
/// given up.
pub(super) fn collect(world: &Shared, machine: usize) {
    let (network, gc, persist, judged) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        let is_judged = |key: &Key| {
            (key.0, key.1) == (network, machine)
                && !world.busy.contains(key)
                && !matches!(world.containers[key], Container::Live { .. })
        };
        let judged: Vec<Key> = world.containers.keys().copied().filter(is_judged).collect();
        // A runtime never reuses a container's ID after it has given up the container. Therefore these
        // containers count as busy during the GC.
        world.busy.extend(judged.iter().copied());
        let mut valid: Vec<_> = (0..NUMBERS)
            .map(|number| (network, machine, number))
            .filter(|key| !judged.contains(key))
            .map(|key| (attachment(network, &name(key)).container, IfName::new("eth0").unwrap()))
            .collect();
        valid.sort();
        let settings = &world.settings[network];
        let name = attachment(network, "c").network;
        let gc = Gc { set: settings.set(network), network: name, valid: valid.into(), after: None };
        (network, gc, settings.persist, judged)
    };
    let ran = run_steps(world, machine, persist, &mut |store, cx| {
        engine::collect(store, Command::Gc(gc.clone()), cx)
    });
    let world = &mut *world.borrow_mut();
    let is_done = matches!(ran, Ran::Done(_));
    world.note(format!("m{machine} GC {}: {is_done}", NETWORKS[network]));
    for key in judged {
        world.busy.remove(&key);
        if is_done && matches!(world.containers.get(&key), Some(Container::Open)) {
            world.containers.remove(&key);
        }
    }
}
