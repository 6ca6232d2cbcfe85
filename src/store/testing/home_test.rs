//! Tests a set's home, which is the one file (the durable file or the boot file) that holds all of the set's
//! leases, even if `persist` differs from call to call.

use super::contract::{added, addr, del};
use super::host::{Host, added_with_warnings, boot, listed, lowest, of_network};
use crate::alloc::{Add, Command, Context, Outcome, Record, Strategy};
use crate::model::{BootId, Persist};
use crate::store::{Store, StoreReader};

const BOTH: [(Persist, Persist); 2] =
    [(Persist::Boot, Persist::Disk), (Persist::Disk, Persist::Boot)];

#[test]
fn leases_go_where_the_set_has_one_already_with_a_warning_until_it_is_empty() {
    for (before, after) in BOTH {
        let host = Host::new();
        added(&mut host.store(before), &lowest("c1"), &boot(1));
        let files = host.names();
        let (addrs, warnings) =
            added_with_warnings(&mut host.store(after), &lowest("c2"), &boot(1));
        assert_eq!(addrs, [addr("10.0.0.3")]);
        assert!(warnings.iter().any(|w| w.contains("persist")), "{warnings:?}");
        let new: Vec<_> = host.names().into_iter().filter(|n| !files.contains(n)).collect();
        assert!(new.iter().all(|name| name.strip_suffix(".lock").is_some()), "{new:?}");
        // With either value of `persist`, the leases can be listed and freed.
        for persist in [before, after] {
            assert_eq!(listed(&mut host.store(persist), &boot(1)).len(), 2);
        }
        host.store(after).apply(&del("c1"), &boot(1)).unwrap();
        host.store(before).apply(&del("c2"), &boot(1)).unwrap();
        // The set no longer has any leases, so the new `persist` takes effect.
        let (addrs, warnings) =
            added_with_warnings(&mut host.store(after), &lowest("c3"), &boot(1));
        assert_eq!((addrs, warnings), (vec![addr("10.0.0.2")], vec![]));
        let file = if after == Persist::Disk { host.path("") } else { host.of_boot(1) };
        assert!(file.exists());
    }
}

/// A copy must read a set's records from the file that has the set's leases, even if the other file still has
/// the set's cursor (the address that its round-robin search leased last).
#[test]
fn the_records_of_a_set_are_those_of_its_home() {
    for (before, after) in BOTH {
        let host = Host::new();
        let round_robin = |name| Add { strategy: Strategy::RoundRobin, ..lowest(name) };
        added(&mut host.store(before), &round_robin("c1"), &boot(1));
        host.store(before).apply(&del("c1"), &boot(1)).unwrap();
        added(&mut host.store(after), &round_robin("c2"), &boot(1));
        for persist in [before, after] {
            let mut leases = Vec::new();
            host.store(persist)
                .records(&boot(1), &mut |record, persist| {
                    leases.extend(matches!(record, Record::Lease(_)).then_some(persist));
                    Ok(())
                })
                .unwrap();
            assert_eq!(leases, [after]);
        }
    }
}

#[test]
fn del_looks_into_both_files() {
    for (before, after) in BOTH {
        for has_both in [false, true] {
            let host = Host::new();
            added(&mut host.store(before), &lowest("c1"), &boot(1));
            if has_both {
                added(&mut host.store(after), &of_network("other", lowest("x")), &boot(1));
            }
            let freed = host.store(after).apply(&del("c1"), &boot(1)).unwrap();
            assert!(matches!(freed, Outcome::Freed(leases) if leases.len() == 1));
            let left = listed(&mut host.store(before), &boot(1));
            assert_eq!(left.len(), usize::from(has_both), "{left:?}");
        }
    }
}

#[test]
fn a_gateway_record_alone_is_no_home() {
    let host = Host::new();
    let ecs = crate::alloc::Add { claim_gateways: true, ..lowest("c1") };
    added(&mut host.store(Persist::Disk), &ecs, &boot(1));
    host.store(Persist::Disk).apply(&del("c1"), &boot(1)).unwrap();
    let (_, warnings) = added_with_warnings(&mut host.store(Persist::Boot), &ecs, &boot(1));
    assert!(warnings.is_empty() && host.of_boot(1).exists(), "{warnings:?}");
    let all = listed(&mut host.store(Persist::Boot), &boot(1));
    let mut addrs: Vec<_> = all.iter().map(|lease| lease.addr).collect();
    addrs.dedup();
    assert_eq!(addrs, [addr("10.0.0.1"), addr("10.0.0.2")]);
}

#[test]
fn an_unreadable_boot_id_is_an_error_where_boot_leases_may_be() {
    let host = Host::new();
    let blind = |n: u64| Context { boot: None, ..super::contract::at(n) };
    let add = |name: &str| Command::Add(lowest(name));
    assert!(host.store(Persist::Boot).apply(&add("c1"), &blind(1)).is_err());
    // A host that uses only "disk" needs no boot ID.
    host.store(Persist::Disk).apply(&add("c2"), &blind(2)).unwrap();
    host.store(Persist::Disk).apply(&del("c2"), &blind(3)).unwrap();
    added(&mut host.store(Persist::Boot), &lowest("c3"), &boot(1));
    for persist in [Persist::Boot, Persist::Disk] {
        assert!(host.store(persist).apply(&add("c4"), &blind(4)).is_err(), "{persist:?}");
        assert!(host.store(persist).apply(&del("c3"), &blind(5)).is_err(), "{persist:?}");
    }
    // The durable lease has been freed, so the network may move to the boot file.
    let (_, warnings) =
        added_with_warnings(&mut host.store(Persist::Boot), &lowest("c5"), &boot(1));
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn another_process_s_first_lease_is_seen() {
    // Two stores have different values of `persist`. In each round, the set is empty at first. One store
    // makes the first lease, and the other store must find this lease in the other file.
    let host = Host::new();
    for round in 0..20 {
        let (one, other) = BOTH[round % 2];
        let cx = Context { boot: Some(BootId("boot-1".to_owned())), ..boot(1) };
        let a = added(&mut host.store(one), &lowest("a"), &cx);
        let b = added(&mut host.store(other), &lowest("b"), &cx);
        assert_ne!(a, b, "round {round}");
        host.store(other).apply(&del("a"), &cx).unwrap();
        host.store(one).apply(&del("b"), &cx).unwrap();
    }
}

#[test]
fn del_and_gc_free_after_shared_was_added_or_removed() {
    let in_set = |name: &str, set: &str| crate::alloc::Add {
        set: crate::model::SetName(set.to_owned()),
        ..lowest(name)
    };
    for persist in [Persist::Boot, Persist::Disk] {
        let host = Host::new();
        let mut store = host.store(persist);
        added(&mut store, &in_set("a", "SH"), &boot(1));
        added(&mut store, &in_set("b", "SH"), &boot(1));
        added(&mut store, &lowest("c"), &boot(1));
        // The leases of "a" and "b" are in the set "SH", but the DEL and the GC name the set "net".
        let freed = store.apply(&del("a"), &boot(1)).unwrap();
        assert!(matches!(freed, Outcome::Freed(leases) if leases.len() == 1));
        let gc = crate::alloc::Gc {
            set: super::contract::net(),
            network: crate::model::NetworkName::new("net").unwrap(),
            valid: [].into(),
            after: None,
        };
        crate::engine::gc(&mut store, gc, &boot(1)).unwrap();
        assert!(listed(&mut store, &boot(1)).is_empty());
    }
}

#[test]
fn a_set_is_listed_from_its_home_whatever_else_the_other_file_has() {
    use crate::alloc::{Add, Cooldown};
    for (before, after) in BOTH {
        let host = Host::new();
        let cooldown = Cooldown { seconds: 9, strict: false };
        let ecs = |name: &str| Add { cooldown, claim_gateways: true, ..lowest(name) };
        // After the DEL, the first file has no leases, only the records of a gateway and of a cooling
        // address.
        added(&mut host.store(before), &ecs("c1"), &boot(1));
        host.store(before).apply(&del("c1"), &boot(1)).unwrap();
        added(&mut host.store(after), &ecs("c2"), &boot(1));
        for persist in [before, after] {
            let mut store = host.store(persist);
            let all = listed(&mut store, &boot(1));
            let addrs: Vec<_> = all.iter().map(|lease| lease.addr).collect();
            assert_eq!(addrs, [addr("10.0.0.1"), addr("10.0.0.2")], "{persist:?}");
            let mut in_use = Vec::new();
            store.occupancy(&boot(1), &mut |_, addr, _| in_use.push(addr)).unwrap();
            assert_eq!(in_use, addrs, "{persist:?}");
        }
    }
}

/// Makes an ADD of the network "net" that leases from the set `set`.
fn from(set: &str, container: &str) -> crate::alloc::Add {
    crate::alloc::Add { set: crate::model::SetName(set.to_owned()), ..lowest(container) }
}

#[test]
fn a_network_stays_in_its_set_while_it_has_leases_whatever_shared_says() {
    for (before, after) in BOTH.into_iter().chain([(Persist::Boot, Persist::Boot)]) {
        for (one, other) in [("net", "SH"), ("SH", "net")] {
            let host = Host::new();
            added(&mut host.store(before), &from(one, "c1"), &boot(1));
            // Another network has a lease in the new set, which must make no difference.
            let network = crate::model::NetworkName::new("elsewhere").unwrap();
            let x = crate::model::Attachment {
                network: network.clone(),
                ..super::contract::attachment("x")
            };
            let owner = crate::model::Owner::Attachment(x);
            let of_other = crate::alloc::Add { network, owner, ..from(other, "x") };
            added(&mut host.store(after), &of_other, &boot(1));
            let (addrs, warnings) =
                added_with_warnings(&mut host.store(after), &from(other, "c2"), &boot(1));
            assert_eq!(addrs, [addr("10.0.0.3")], "{one} to {other}");
            assert!(warnings.iter().any(|w| w.contains("shared")), "{warnings:?}");
            // Although `shared` has changed, a repeated ADD returns the container's lease, and undoing an ADD
            // finds the lease.
            let (addrs, _) =
                added_with_warnings(&mut host.store(after), &from(other, "c1"), &boot(1));
            assert_eq!(addrs, [addr("10.0.0.2")]);
            let (owner, set) = (from(other, "c2").owner, from(other, "c2").set);
            crate::engine::undo(
                &mut host.store(after),
                &set,
                &owner,
                &[addr("10.0.0.3")],
                &boot(1),
            )
            .unwrap();
            host.store(after).apply(&del("c1"), &boot(1)).unwrap();
            assert_eq!(listed(&mut host.store(after), &boot(1)).len(), 1);
            // The network no longer has any leases, so the new `shared` takes effect.
            let (addrs, warnings) =
                added_with_warnings(&mut host.store(after), &from(other, "c3"), &boot(1));
            assert_eq!((addrs, warnings), (vec![addr("10.0.0.3")], vec![]));
        }
    }
}

#[test]
fn persist_edited_back_and_forth_with_live_leases_moves_nothing() {
    for (before, after) in BOTH {
        let host = Host::new();
        let mut all = Vec::new();
        for n in 0..6 {
            let persist = if n % 2 == 0 { before } else { after };
            all.extend(added(&mut host.store(persist), &lowest(&format!("c{n}")), &boot(1)));
            let addrs: Vec<_> =
                listed(&mut host.store(persist), &boot(1)).iter().map(|lease| lease.addr).collect();
            assert_eq!(addrs, all);
        }
        // All leases have the same lifetime as the network's first lease.
        let left = if before == Persist::Disk { 6 } else { 0 };
        assert_eq!(listed(&mut host.store(after), &boot(2)).len(), left);
    }
}

#[test]
fn a_foreign_file_is_refused_with_the_import_command_and_nothing_is_made() {
    let mut bolt = vec![0; 4096];
    bolt[16..20].copy_from_slice(&0xed0c_daed_u32.to_le_bytes());
    for persist in [Persist::Boot, Persist::Disk] {
        let host = Host::new();
        std::fs::write(host.path(""), &bolt).unwrap();
        for command in [Command::Add(lowest("c1")), del("c1")] {
            let error = host.store(persist).apply(&command, &boot(1)).unwrap_err();
            assert!(error.to_string().contains("sublet import ecs-ipam"), "{error}");
        }
        assert!(!host.of_boot(1).exists());
        assert_eq!(std::fs::read(host.path("")).unwrap(), bolt);
    }
}
