//! Tests boot files, which hold the leases that end when the host reboots: the boot ID in the file name, the
//! absence of flushes, and what happens to the files of earlier boots.

use std::fs;

use super::contract::{add, added, addr, at, del, net, refused};
use super::host::{Host, boot, listed, lowest, of_network, range, reserve, sticky};
use crate::alloc::{Check, Command, Context, Outcome, Status};
use crate::error::Refusal;
use crate::model::{BootId, History, Node, Persist, Wait};
use crate::store::{Embedded, Store};

#[test]
fn the_leases_of_a_boot_end_with_it() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    assert_eq!(added(&mut store, &lowest("c1"), &boot(1)), [addr("10.0.0.2")]);
    assert_eq!(added(&mut store, &lowest("c2"), &boot(1)), [addr("10.0.0.3")]);
    // Before the first ADD of the new boot, nothing is leased and no file is touched.
    let before = fs::read(host.of_boot(1)).unwrap();
    assert!(listed(&mut store, &boot(2)).is_empty());
    assert_eq!(store.apply(&del("c1"), &boot(2)).unwrap(), Outcome::Freed(vec![]));
    let owner = super::contract::owner("c1");
    let check = Check { set: net(), owner, sets: range(), expected: None };
    let missing = refused(&mut store, &Command::Check(check), &boot(2));
    assert!(matches!(missing, Refusal::Missing { .. }));
    let status =
        Status { set: net(), network: super::contract::network(), sets: range(), strict: false };
    assert_eq!(store.apply(&Command::Status(status), &boot(2)).unwrap(), Outcome::Ready);
    assert!(!host.of_boot(2).exists());
    // The first ADD of the boot creates a new boot file and leaves the old one unchanged.
    assert_eq!(added(&mut store, &lowest("c3"), &boot(2)), [addr("10.0.0.2")]);
    assert_eq!(fs::read(host.of_boot(1)).unwrap(), before);
    assert_eq!(listed(&mut store, &boot(2)).len(), 1);
}

#[test]
fn disk_leases_survive_a_reboot() {
    let host = Host::new();
    let mut store = host.store(Persist::Disk);
    let got = added(&mut store, &lowest("c1"), &boot(1));
    assert_eq!(added(&mut store, &lowest("c1"), &boot(2)), got);
    assert_ne!(added(&mut store, &lowest("c2"), &boot(2)), got);
    assert_eq!(host.names(), ["", ".lock"]);
}

#[test]
fn an_earlier_file_torn_or_not_is_never_mistaken_for_this_boot_s() {
    let ended = Host::new();
    added(&mut ended.store(Persist::Boot), &lowest("c1"), &boot(1));
    let whole = fs::read(ended.of_boot(1)).unwrap();
    for bytes in [&whole[..], &whole[..5000], b"", b"torn", &[0; 8192]] {
        let host = Host::new();
        fs::write(host.of_boot(1), bytes).unwrap();
        let mut store = host.store(Persist::Boot);
        assert_eq!(added(&mut store, &lowest("c2"), &boot(2)), [addr("10.0.0.2")]);
        assert_eq!(fs::read(host.of_boot(1)).unwrap(), bytes);
    }
}

#[test]
fn an_address_of_an_earlier_boot_is_remembered_for_a_sticky_pod() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    added(&mut store, &lowest("c0"), &boot(1));
    let former = added(&mut store, &sticky("c1", "db-0"), &boot(1));
    assert_eq!(former, [addr("10.0.0.3")]);
    assert_eq!(added(&mut store, &sticky("c2", "db-0"), &boot(2)), former);
    // The most recent boot file is damaged, so the former address is read from the one before it.
    fs::write(host.of_boot(2), b"torn").unwrap();
    assert_eq!(added(&mut store, &sticky("c3", "db-0"), &boot(3)), former);
}

#[test]
fn earlier_files_are_removed_beyond_the_retention_of_history_if_they_name_this_machine() {
    let host = Host::new();
    let mut store = Embedded::new(host.path(""), Persist::Boot, Wait::Try)
        .keeping(History::Kept { count: 10, age: 1500 });
    let other = Context { node: Node { name: "b".into(), machine: "another".into() }, ..boot(1) };
    let other = Context { boot: Some(BootId("theirs".into())), ..other };
    added(&mut store, &lowest("x"), &other);
    for n in 1..=5 {
        added(&mut store, &lowest(&format!("c{n}")), &boot(n));
    }
    // The time is 5000. Boot 3 ended at 4000, within the retention of 1500 s, so its file stays. Boot 2 ended
    // at 3000, so its file is removed.
    let kept: Vec<bool> = (1..=5).map(|n| host.of_boot(n).exists()).collect();
    assert_eq!(kept, [false, false, true, true, true]);
    assert!(host.path(".boot-theirs").exists(), "another machine's file was removed");
    // The newest file of an earlier boot stays even if it is very old, because it records the former
    // addresses of sticky pods.
    added(&mut store, &lowest("late"), &Context { now: 90_000, ..boot(6) });
    assert!(host.of_boot(5).exists() && !host.of_boot(4).exists());
}

#[test]
fn on_a_network_file_system_boot_is_refused() {
    use super::watched::Watched;
    use crate::error::{Error, StoreError};

    let host = Host::new();
    let shared = Watched { is_shared: true, before: std::sync::Arc::new(|_, _| Ok(())) };
    let store = |persist| Embedded::on(shared.clone(), host.path(""), persist, Wait::Try);
    let got = store(Persist::Boot).apply(&Command::Add(add("c1", &range())), &boot(1));
    assert!(matches!(got, Err(Error::Store(StoreError::SharedFolder { .. }))), "{got:?}");
    let status = Command::Status(Status {
        set: net(),
        network: super::contract::network(),
        sets: range(),
        strict: false,
    });
    assert!(store(Persist::Boot).apply(&status, &at(1)).is_err());
    added(&mut store(Persist::Disk), &add("c1", &range()), &boot(1));
}

#[test]
fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
    for persist in [Persist::Boot, Persist::Disk] {
        let host = Host::new();
        let mut store = host.store(persist);
        for n in 1..4 {
            added(&mut store, &lowest(&format!("c{n}")), &boot(1));
        }
        let end = if persist == Persist::Disk { "" } else { ".boot-boot-1" };
        std::fs::rename(host.path(end), host.path(".away")).unwrap();
        assert_eq!(added(&mut store, &lowest("c4"), &boot(1)), [addr("10.0.0.2")]);
        assert_eq!(added(&mut store, &lowest("c5"), &boot(1)), [addr("10.0.0.3")]);
    }
}

#[test]
fn a_sticky_pod_keeps_its_address_over_any_number_of_reboots() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    added(&mut store, &lowest("c0"), &boot(1));
    let former = added(&mut store, &sticky("c1", "db-0"), &boot(1));
    for n in 2..5 {
        assert_eq!(added(&mut store, &sticky(&format!("c{n}"), "db-0"), &boot(n)), former);
    }
}

#[test]
fn a_sticky_pod_whose_address_was_taken_is_remembered_with_its_new_one() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    added(&mut store, &sticky("c1", "db-0"), &boot(1));
    // After the reboot, host-local has leased the pod's former address to another container. The pod's next
    // ADD imports that lease.
    let leases = vec![super::contract::foreign("old", "10.0.0.2", Some("eth0"))];
    let legacy = crate::alloc::Legacy::Read(leases, vec![]);
    let add = crate::alloc::Add { legacy, ..sticky("c2", "db-0") };
    assert_eq!(added(&mut store, &add, &boot(2)), [addr("10.0.0.3")]);
    assert_eq!(added(&mut store, &sticky("c3", "db-0"), &boot(3)), [addr("10.0.0.3")]);
}

/// Returns the context of a command that runs on the given machine in its n-th boot.
fn elsewhere(machine: &str, n: u32) -> Context {
    let node = Node { name: machine.to_owned(), machine: machine.to_owned() };
    Context { node, boot: Some(BootId(format!("{machine}-{n}"))), ..boot(n) }
}

#[test]
fn a_file_of_an_earlier_boot_that_does_not_verify_is_never_removed() {
    let host = Host::new();
    let mut store = Embedded::new(host.path(""), Persist::Boot, Wait::Try)
        .keeping(History::Kept { count: 10, age: 1500 });
    added(&mut store, &lowest("c1"), &boot(1));
    fs::write(host.of_boot(1), b"torn").unwrap();
    for n in 2..=7 {
        added(&mut store, &lowest(&format!("c{n}")), &boot(n));
    }
    assert!(host.of_boot(1).exists() && !host.of_boot(2).exists());
}

#[test]
fn two_machines_on_one_folder_share_durable_leases_and_no_boot_leases() {
    let host = Host::new();
    let (a, b) = (elsewhere("a", 1), elsewhere("b", 1));
    // With "disk", both machines keep their leases in the same file, so they can share a folder.
    let one = added(&mut host.store(Persist::Disk), &lowest("c1"), &a);
    let other = added(&mut host.store(Persist::Disk), &lowest("c2"), &b);
    assert_ne!(one, other);
    // Boot leases belong to one machine: each machine lists both durable leases, but only its own boot lease.
    let of_boot = |name: &str| of_network("boot", lowest(name));
    added(&mut host.store(Persist::Boot), &of_boot("c3"), &a);
    added(&mut host.store(Persist::Boot), &of_boot("c4"), &b);
    for cx in [&a, &b] {
        assert_eq!(listed(&mut host.store(Persist::Boot), cx).len(), 3);
    }
}

#[test]
fn a_cloned_disk_carries_durable_leases_and_nothing_of_a_boot() {
    let (host, clone) = (Host::new(), Host::new());
    let durable = added(&mut host.store(Persist::Disk), &lowest("c1"), &elsewhere("a", 1));
    let of_boot = |name: &str| of_network("boot", sticky(name, "db-0"));
    added(&mut host.store(Persist::Boot), &of_network("boot", lowest("c0")), &elsewhere("a", 1));
    let former = added(&mut host.store(Persist::Boot), &of_boot("c2"), &elsewhere("a", 1));
    for entry in fs::read_dir(host.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, clone.folder.path().join(path.file_name().unwrap())).unwrap();
    }
    // The clone has its own machine ID and its own boot.
    let cx = elsewhere("b", 2);
    let all = listed(&mut clone.store(Persist::Boot), &cx);
    assert_eq!(all.iter().map(|lease| lease.addr).collect::<Vec<_>>(), durable);
    assert_ne!(added(&mut clone.store(Persist::Disk), &lowest("c3"), &cx), durable);
    // The original host's boot file records the former addresses of that host's pods. The clone must neither
    // use these addresses nor remove the file.
    assert_ne!(added(&mut clone.store(Persist::Boot), &of_boot("c4"), &cx), former);
    assert!(clone.path(".boot-a-1").exists() && clone.path(".boot-b-2").exists());
}

/// A container mounts its own boot ID over `/proc/sys/kernel/random/boot_id` but uses the host's store
/// folder. The container and the host therefore use different boot files. Neither leases an address twice,
/// and neither changes the other's boot file. Reservations and durable leases apply to both. However, both
/// boot files may contain a lease of the same address; sublet does not prevent this.
#[test]
fn a_container_with_a_boot_id_of_its_own_leases_beside_the_host() {
    let host = Host::new();
    let inside = Context { boot: Some(BootId("inside".to_owned())), ..boot(1) };
    let mut store = host.store(Persist::Boot);
    reserve(&mut store, &[addr("10.0.0.2")], &boot(1)).unwrap();
    for cx in [&boot(1), &inside] {
        let names = ["c1", "c2", "c3"];
        let got: Vec<_> = names.iter().map(|c| added(&mut store, &lowest(c), cx)).collect();
        assert_eq!(got, ["10.0.0.3", "10.0.0.4", "10.0.0.5"].map(|a| vec![addr(a)]));
    }
    let before = fs::read(host.of_boot(1)).unwrap();
    store.apply(&del("c1"), &inside).unwrap();
    assert_eq!(fs::read(host.of_boot(1)).unwrap(), before);
    assert_eq!(listed(&mut store, &boot(1)).len(), 4);
    // With "disk", there is only one file, and no address has two holders.
    let durable = |name: &str| of_network("disk", lowest(name));
    let one = added(&mut host.store(Persist::Disk), &durable("c1"), &boot(1));
    assert_ne!(added(&mut host.store(Persist::Disk), &durable("c2"), &inside), one);
}

/// Checks that no command on boot leases flushes the folder, which holds the file names.
/// `tests/it/peers/flushes.rs` counts system calls to check that file contents are not flushed either.
#[test]
fn a_boot_lease_flushes_no_name() {
    use super::watched::Watched;

    let host = Host::new();
    let before = |what: &str, path: &std::path::Path| {
        assert_ne!(what, "sync_folder", "{}", path.display());
        Ok(())
    };
    let files = Watched { is_shared: false, before: std::sync::Arc::new(before) };
    let mut store = Embedded::on(files, host.path(""), Persist::Boot, Wait::Try);
    for n in 1..4 {
        added(&mut store, &sticky(&format!("c{n}"), "db-0"), &boot(n));
        added(&mut store, &lowest(&format!("d{n}")), &boot(n));
        store.apply(&del(&format!("c{n}")), &boot(n)).unwrap();
    }
}
