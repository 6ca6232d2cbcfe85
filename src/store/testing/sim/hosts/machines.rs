//! Events of machines: reboots, power cuts, clocks, clones and full disks.

use std::collections::BTreeSet;

use super::super::process::Process;
use super::{Container, Key, Shared, key_of, open};
use crate::alloc::Record;
use crate::model::Persist;
use crate::store::StoreReader;

/// Shuts a host down or cuts its power, and boots it again, which ends its containers.
pub(super) fn reboot(world: &Shared, host: usize) {
    let running = std::mem::take(&mut world.borrow_mut().hosts[host].running);
    for process in running {
        process.kill();
    }
    // The containers with durable leases, which survive the reboot.
    let mut durable = BTreeSet::new();
    {
        let disk = world.borrow().hosts[host].disk.copied();
        let cx = world.borrow_mut().context(host);
        let process = Process::new(None);
        let mut store = open(disk.of(&process));
        let walked = store.records(&cx, &mut |record, persist| {
            if let (Record::Lease(lease), Persist::Disk) = (&record, persist) {
                durable.extend(key_of(lease));
            }
            Ok(())
        });
        if let Err(error) = walked {
            world.borrow_mut().found(format!("before a reboot: {error}"));
        }
    }
    let world = &mut *world.borrow_mut();
    let is_cut = world.random.one_in(2);
    world.note(format!("h{host} {}", if is_cut { "power cut" } else { "reboot" }));
    world.boots += 1;
    let boots = world.boots;
    let of_host = &mut world.hosts[host];
    if is_cut {
        of_host.disk.cut(&mut world.random);
    } else {
        of_host.disk.shut_down();
    }
    of_host.boot = boots;
    for (key, container) in &mut of_host.containers {
        match container {
            Container::Live(_) if durable.contains(key) => {}
            Container::Live(addrs) | Container::Open(Some(addrs)) => {
                *container = Container::Open(Some(addrs.clone()));
            }
            Container::Open(None) => {}
        }
    }
    // These containers ended with the reboot and had no durable leases, so none of their leases may be left.
    let gone = |key: &Key| !durable.contains(key) && !of_host.busy.contains(key);
    of_host.containers.retain(|key, _| !gone(key));
}

pub(super) fn clock_jump(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    if world.hosts[host].docker.sweeping > 0 {
        return;
    }
    let jump = *world.random.pick(&[-100_000_i64, -60, -1, 60, 5_000_000]);
    world.hosts[host].skew = (world.hosts[host].skew + jump).clamp(-900_000, 20_000_000);
    world.note(format!("h{host} the clock jumps by {jump} s"));
}

/// Copies a host's disk to a new machine. The new machine either keeps the machine-id or gets a new one, at
/// random.
pub(super) fn clone(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    if world.hosts.len() >= 3 || world.story.depth > 0 {
        return;
    }
    let disk = world.hosts[host].disk.copied();
    disk.set_full(false);
    let machine = if world.random.one_in(2) {
        world.hosts[host].machine.clone()
    } else {
        format!("machine-{}", world.hosts.len())
    };
    let mut new = world.new_host(disk, machine);
    let old = &world.hosts[host];
    new.settings.clone_from(&old.settings);
    new.reserved.clone_from(&old.reserved);
    new.docker = old.docker.clone();
    new.pools = old.pools.of_copy(host, world.hosts.len());
    new.contested.clone_from(&old.contested);
    new.named.clone_from(&old.named);
    new.draining.clone_from(&old.draining);
    for (key, container) in &old.containers {
        let addrs = match container {
            Container::Live(addrs) => Some(addrs.clone()),
            Container::Open(addrs) => addrs.clone(),
        };
        new.containers.insert(*key, Container::Open(addrs));
    }
    world.note(format!("h{host} is cloned as h{}", world.hosts.len()));
    world.hosts.push(new);
}

pub(super) fn fill_disk(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let is_full = !world.hosts[host].is_full;
    world.hosts[host].is_full = is_full;
    world.hosts[host].disk.set_full(is_full);
    world.note(format!("h{host} the disk is {}", if is_full { "full" } else { "free again" }));
}
