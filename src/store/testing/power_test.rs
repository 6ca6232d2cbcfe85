//! Tests power cuts, on a simulated in-memory disk. Every change that a command has reported must survive, no
//! matter which of the unflushed writes have reached the disk.

use std::sync::Arc;

use super::contract::{added, del, owner};
use super::host::{boot, listed, lowest, reserve};
use super::sim::disk::{Disk, SimFs};
use super::sim::process::{Fate, Process};
use super::sim::random::Random;
use crate::model::{Kind, Owner, Persist, Wait};
use crate::net::Addr;
use crate::store::{Embedded, Store, StoreReader};

fn store(disk: &Disk, process: &Arc<Process>) -> Embedded<SimFs> {
    Embedded::on(disk.of(process), "/data/leases.redb".into(), Persist::Disk, Wait::Try)
}

fn undisturbed(disk: &Disk) -> Embedded<SimFs> {
    store(disk, &Process::new(None))
}

/// Cuts the power `cuts` times, each time on a new copy of the disk. After each cut, opens the store and
/// passes it to `judge`.
fn cut(disk: &Disk, cuts: u64, judge: impl Fn(&mut Embedded<SimFs>)) {
    for seed in 0..cuts {
        let disk = disk.copied();
        disk.cut(&mut Random::new(seed, cuts));
        judge(&mut undisturbed(&disk));
    }
}

fn owners(store: &mut dyn Store) -> Vec<Owner> {
    listed(store, &boot(2)).into_iter().map(|lease| lease.owner).collect()
}

#[test]
fn what_was_acknowledged_survives_a_power_cut() {
    let disk = Disk::default();
    added(&mut undisturbed(&disk), &lowest("c1"), &boot(1));
    cut(&disk, 20, |store| assert_eq!(owners(store), [owner("c1")]));
    added(&mut undisturbed(&disk), &lowest("c2"), &boot(1));
    cut(&disk, 20, |store| assert_eq!(owners(store), [owner("c1"), owner("c2")]));
    undisturbed(&disk).apply(&del("c1"), &boot(1)).unwrap();
    cut(&disk, 20, |store| {
        assert_eq!(owners(store), [owner("c2")]);
        store.problems(&boot(2), &mut |problem| panic!("{problem:?}")).unwrap();
    });
}

/// Runs `work` on copies of the disk, and kills the first run after one step, the second run after two steps,
/// and so on. After each kill, calls `then` with the copy.
fn killed_everywhere(disk: &Disk, work: impl Fn(&mut Embedded<SimFs>), then: impl Fn(&Disk)) {
    for step in 1.. {
        let disk = disk.copied();
        let process = Process::new(Some((step, Fate::KilledAfter)));
        work(&mut store(&disk, &process));
        if !process.is_dead() {
            break;
        }
        then(&disk);
    }
}

/// An ADD leased an address but was killed before it flushed the lease. The repeated ADD returns this lease:
/// it writes nothing itself, but it must flush the lease.
#[test]
fn a_repeated_add_flushes_what_a_killed_one_has_written() {
    let fresh = Disk::default();
    let begun = Disk::default();
    added(&mut undisturbed(&begun), &lowest("c0"), &boot(1));
    for disk in [fresh, begun] {
        let add = crate::alloc::Command::Add(lowest("c1"));
        killed_everywhere(
            &disk,
            |store| drop(store.apply(&add, &boot(1))),
            |disk| {
                // The copy of the disk has no locks, just as a killed process's locks are released.
                let disk = disk.copied();
                added(&mut undisturbed(&disk), &lowest("c1"), &boot(1));
                cut(&disk, 2, |store| assert!(owners(store).contains(&owner("c1"))));
            },
        );
    }
}

fn reserved(store: &mut dyn Store) -> Vec<Addr> {
    let all = listed(store, &boot(2)).into_iter().filter(|lease| lease.kind == Kind::Reserved);
    all.map(|lease| lease.addr).collect()
}

#[test]
fn a_reservation_survives_a_power_cut() {
    let addrs = ["10.0.0.9", "10.0.0.11"].map(super::contract::addr);
    let disk = Disk::default();
    added(&mut undisturbed(&disk), &lowest("c0"), &boot(1));
    for n in 1..=2 {
        let wanted = &addrs[..n];
        let work = |store: &mut Embedded<SimFs>| drop(reserve(store, wanted, &boot(1)));
        killed_everywhere(&disk, work, |disk| {
            let disk = disk.copied();
            reserve(&mut undisturbed(&disk), wanted, &boot(1)).unwrap();
            cut(&disk, 2, |store| assert_eq!(reserved(store), wanted));
        });
        reserve(&mut undisturbed(&disk), wanted, &boot(1)).unwrap();
        cut(&disk, 2, |store| assert_eq!(reserved(store), wanted));
    }
}

/// A power cut while a store is being created may lose the whole store, because no command has reported a
/// result yet. The power cut must not leave an incomplete file under the store's name, because then every
/// later command would fail.
#[test]
fn a_power_cut_after_a_kill_leaves_a_whole_store_or_none() {
    let disk = Disk::default();
    let add = crate::alloc::Command::Add(lowest("c1"));
    let work = |store: &mut Embedded<SimFs>| drop(store.apply(&add, &boot(1)));
    killed_everywhere(&disk, work, |disk| {
        cut(disk, 3, |store| drop(added(store, &lowest("c2"), &boot(2))));
    });
}
