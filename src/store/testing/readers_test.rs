//! Tests that a reader holds a lock while it reads a page of records, but never while it passes the records
//! to its consumer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::contract::{added, del, net};
use super::host::{Host, boot, lowest};
use super::watched::Watched;
use crate::alloc::{Command, ForeignLease, Import, Reserve};
use crate::model::{Attachment, Event, History, Kind, Owner, Persist, Wait};
use crate::net::{Addr, Family};
use crate::store::{Embedded, Store, StoreReader};

const MODES: [Persist; 2] = [Persist::Boot, Persist::Disk];

/// Makes a store with `count` leases, whose addresses start at 10.1.0.0.
fn filled(persist: Persist, count: u16) -> Host {
    let lease = |n: u16| {
        let container = crate::model::ContainerId::new(format!("old{n}")).unwrap();
        let owner = Attachment { container, ..super::contract::attachment("old") };
        let addr = Addr::from_bits(Family::V4, 0x0a01_0000 + u128::from(n)).unwrap();
        ForeignLease { addr, kind: Kind::Dynamic, owner: Owner::Attachment(owner) }
    };
    let import = Import {
        set: net(),
        leases: (0..count).map(lease).collect(),
        cursors: vec![],
        adopts: None,
        partial: false,
        dry_run: false,
    };
    let host = Host::new();
    // The history must have enough space for one event per lease.
    let history = History::Kept { count: 20_000, age: 1_000 };
    host.store(persist).keeping(history).apply(&Command::Import(import), &boot(1)).unwrap();
    host
}

#[test]
fn a_consumer_may_lease_and_free_and_no_address_appears_twice() {
    for persist in MODES {
        let host = filled(persist, 10_500);
        let mut seen: Vec<Addr> = Vec::new();
        let mut steps = 0;
        let list = |lease: crate::model::Lease| {
            // These commands use `Wait::Try`, so they would fail if the reader still held its lock.
            if [1, 9_000, 10_200].contains(&seen.len()) {
                steps += 1;
                added(&mut host.store(persist), &lowest(&format!("new{steps}")), &boot(1));
                for freed in [5, 10_400] {
                    host.store(persist).apply(&del(&format!("old{freed}")), &boot(1)).unwrap();
                }
            }
            seen.push(lease.addr);
        };
        let mut list = list;
        host.store(persist).list(&boot(1), &mut list).unwrap();
        assert_eq!(steps, 3);
        assert!(seen.is_sorted_by(|a, b| a < b));
        // Every lease that exists from the beginning to the end of the listing must be listed.
        let of = |n: u16| Addr::from_bits(Family::V4, 0x0a01_0000 + u128::from(n)).unwrap();
        let stays = |n: &u16| ![5, 10_400].contains(n);
        let missed = (0..10_500).filter(stays).find(|n| seen.binary_search(&of(*n)).is_err());
        assert_eq!(missed, None);
    }
}

#[test]
fn history_is_read_without_a_lock_between_its_pages() {
    for persist in MODES {
        let host = filled(persist, 10_500);
        let mut read = 0;
        let mut filter = |_: &Event| {
            // This command uses `Wait::Try`, so it would fail if the reader still held its lock.
            if [1, 9_000, 10_200].contains(&read) {
                added(&mut host.store(persist), &lowest(&format!("new{read}")), &boot(1));
            }
            read += 1;
            true
        };
        let events = host.store(persist).history(&boot(1), &mut filter).unwrap();
        let mut addresses: Vec<Addr> = events.iter().map(|event| event.addr).collect();
        assert!(addresses.len() >= 10_500, "{}", addresses.len());
        addresses.sort();
        assert!(addresses.is_sorted_by(|a, b| a < b), "an event is read twice");
    }
}

#[test]
fn ten_thousand_leases_are_one_hold_and_the_doctor_takes_several() {
    for persist in MODES {
        let lock =
            if persist == Persist::Disk { "leases.redb.lock" } else { "leases.redb.boot.lock" };
        let holds = |count, work: &dyn Fn(&mut Embedded<Watched>)| {
            let host = filled(persist, count);
            let opened = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&opened);
            let before = Arc::new(move |what: &str, path: &std::path::Path| {
                if what == "open" && path.ends_with(lock) {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
            let files = Watched { is_shared: false, before };
            work(&mut Embedded::on(files, host.path(""), persist, Wait::Try));
            opened.load(Ordering::Relaxed)
        };
        let list = |store: &mut Embedded<Watched>| store.list(&boot(1), &mut |_| ()).unwrap();
        assert_eq!((holds(9_999, &list), holds(10_001, &list)), (1, 2));
        // The import has recorded one event for each lease.
        let history = |store: &mut Embedded<Watched>| {
            assert!(!store.history(&boot(1), &mut |_| true).unwrap().is_empty());
        };
        assert_eq!((holds(9_999, &history), holds(10_001, &history)), (1, 2));
        let doctor = |store: &mut Embedded<Watched>| {
            store.problems(&boot(1), &mut |problem| panic!("{problem:?}")).unwrap();
        };
        assert!(holds(10_001, &doctor) > 2);
    }
}

#[test]
fn watch_compares_the_header_first() {
    for persist in MODES {
        let host = Host::new();
        let version = || host.store(persist).version(&boot(1)).unwrap().unwrap();
        let change = |command: &Command| host.store(persist).apply(command, &boot(1)).unwrap();
        let mut versions = vec![version()];
        let add = |container| drop(added(&mut host.store(persist), &lowest(container), &boot(1)));
        let addr = "10.0.0.9".parse().unwrap();
        let reserve =
            Reserve { set: net(), addrs: vec![addr], note: None, holder: None, name: None };
        for step in 0..4 {
            match step {
                0 => add("one"),
                1 => add("two"),
                2 => drop(change(&del("one"))),
                _ => drop(change(&Command::Reserve(reserve.clone()))),
            }
            let now = version();
            assert!(!versions.contains(&now), "{persist:?}, step {step}");
            // A DEL of an unknown container and a listing change nothing, so the version stays the same.
            change(&del("unknown"));
            host.store(persist).list(&boot(1), &mut |_| ()).unwrap();
            assert_eq!(version(), now, "{persist:?}, step {step}");
            versions.push(now);
        }
        // Reading the version must not open a lock file.
        let before = Arc::new(|what: &str, path: &std::path::Path| {
            assert!(what != "open" || path.extension() != Some("lock".as_ref()), "{path:?}");
            Ok(())
        });
        let files = Watched { is_shared: false, before };
        let mut store = Embedded::on(files, host.path(""), persist, Wait::Try);
        assert_eq!(store.version(&boot(1)).unwrap(), versions.pop());
    }
}
