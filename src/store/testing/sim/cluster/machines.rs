//! Events of the machines and of the server: power, clocks, network failures, elections, names and clones.

use std::fs;

use super::{Container, Machine, Shared, World};
use crate::model::Persist;

/// The maximum number of machines, including clones.
const MACHINES: usize = 5;

/// Turns a machine off or on. A machine that was on is usually turned on again at once, but its containers
/// have ended.
pub(super) fn power(world: &Shared, machine: usize) {
    let running = std::mem::take(&mut world.borrow_mut().machines[machine].running);
    for running in running {
        running.process.kill();
    }
    let world = &mut *world.borrow_mut();
    if world.machines[machine].is_on {
        world.turn_off(machine);
        if world.random.one_in(4) {
            return world.note(format!("m{machine} goes down"));
        }
    }
    // A machine that an operator is releasing is gone for good, so it does not boot again.
    if !world.machines[machine].is_being_released {
        world.turn_on(machine);
        world.note(format!("m{machine} boots: b{}", world.machines[machine].boot));
    }
}

impl World {
    fn turn_off(&mut self, machine: usize) {
        self.machines[machine].is_on = false;
        self.machines[machine].daemon.stop();
        for (key, container) in &mut self.containers {
            // A durable lease belongs to its container until the runtime deletes the container, even after a
            // reboot.
            if key.1 == machine && self.settings[key.0].persist == Persist::Boot {
                *container = Container::Open;
            }
        }
    }

    fn turn_on(&mut self, machine: usize) {
        self.boots += 1;
        let of_machine = &mut self.machines[machine];
        (of_machine.is_on, of_machine.boot) = (true, self.boots);
        of_machine.booted = super::super::process::clock();
        // `/run` is on tmpfs, so a boot empties it.
        let _ = fs::remove_dir_all(&of_machine.run);
        let settings = &self.settings;
        // The leases of earlier boots count as free, even if their records still exist.
        self.containers
            .retain(|key, _| key.1 != machine || settings[key.0].persist == Persist::Disk);
    }

    pub(super) fn now(&self, machine: usize) -> u64 {
        let time = super::super::process::clock().as_secs();
        time.saturating_add_signed(self.machines[machine].skew)
    }
}

pub(super) fn clock_jump(world: &Shared, machine: usize) {
    let world = &mut *world.borrow_mut();
    if !world.events.skew || world.machines[machine].daemon.engine.sweeping > 0 {
        return;
    }
    let jump = *world.random.pick(&[-100_000_i64, -60, -1, 60, 5_000_000]);
    let skew = &mut world.machines[machine].skew;
    *skew = (*skew + jump).clamp(-900_000, 20_000_000);
    world.note(format!("m{machine} the clock jumps by {jump} s"));
}

pub(super) fn cut_off(world: &Shared, machine: usize) {
    let world = &mut *world.borrow_mut();
    let is_cut_off = !world.machines[machine].is_cut_off;
    world.machines[machine].is_cut_off = is_cut_off;
    let what = if is_cut_off { "is cut off from the server" } else { "reaches the server again" };
    world.note(format!("m{machine} {what}"));
}

pub(super) fn elect(world: &Shared) {
    let world = &mut *world.borrow_mut();
    let calls = 1 + u32::try_from(world.random.below(8)).unwrap();
    world.server.elect(calls);
    world.note(format!("the server has no leader for {calls} calls"));
}

pub(super) fn fill(world: &Shared) {
    let world = &mut *world.borrow_mut();
    let is_full = world.server.toggle_full();
    world.note(if is_full { "the server is full" } else { "the server has space again" });
}

pub(super) fn rename(world: &Shared, machine: usize) {
    let world = &mut *world.borrow_mut();
    if !world.events.renames {
        return;
    }
    let of_machine = &mut world.machines[machine];
    let name = if of_machine.names.len() > 1 && world.random.one_in(3) {
        world.random.pick(&of_machine.names).clone()
    } else {
        format!("n{machine}-{}", of_machine.names.len())
    };
    if !of_machine.names.contains(&name) {
        of_machine.names.push(name.clone());
    }
    of_machine.node.name.clone_from(&name);
    world.note(format!("m{machine} is called {name} from now on"));
}

/// Copies a machine's disk to a new machine. The new machine boots with the same host name or with a
/// different one.
pub(super) fn clone(world: &Shared, machine: usize) {
    let world = &mut *world.borrow_mut();
    if !world.events.clones || world.machines.len() >= MACHINES {
        return;
    }
    let n = world.machines.len();
    // An operator may run `sublet node release` only for a name that no running machine has. Therefore the
    // copy of a machine that is being released gets another name.
    let has_name = world.random.one_in(2) && !world.machines[machine].is_being_released;
    let id = if world.events.twins {
        world.machines[machine].node.machine.clone()
    } else {
        format!("machine-{n}")
    };
    world.add_machine(id);
    if has_name {
        let name = world.machines[machine].node.name.clone();
        world.machines[n].node.name.clone_from(&name);
        world.machines[n].names = vec![name];
    }
    let Machine { node, .. } = &world.machines[n];
    let text = format!("m{machine} is cloned as m{n}: {} {}", node.name, node.machine);
    world.note(text);
}
