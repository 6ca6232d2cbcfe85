//! What happens to leases when a boot ends, and when `persist` changes.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::contract::{
    add, added, addr, at, del, leases, listed, lowest, net, refused, reserve, set,
};
use crate::alloc::{Add, Check, Command, Context, Legacy, LegacyLease, Outcome, Reserve, Status};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{BootId, ContainerId, Kind, Node, Origin, Persist, Pod, Wait};
use crate::net::RangeSet;
use crate::store::{Embedded, Store};

struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Host {
        Host { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("leases.redb{suffix}"))
    }

    fn store(&self, persist: Persist) -> Embedded {
        Embedded::new(self.path(""), persist, Wait::Try)
    }
}

/// The n-th boot.
fn boot(n: u32) -> Context {
    Context { boot: Some(BootId(format!("boot-{n}"))), ..at(u64::from(n) * 1000) }
}

fn range() -> Vec<RangeSet> {
    vec![set("10.0.0.0/24")]
}

fn pod(container: &str, name: &str) -> Add {
    let pod = Pod { namespace: "ns".into(), name: name.into(), uid: String::new() };
    let origin = Origin { pod: Some(pod), ..add(container, &range()).origin };
    Add { sticky: true, origin, ..lowest(container, &range()) }
}

#[test]
fn boot_leases_end_with_the_boot() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    assert_eq!(added(&mut store, &lowest("c1", &range()), &boot(1)), [addr("10.0.0.2")]);
    assert_eq!(added(&mut store, &lowest("c2", &range()), &boot(1)), [addr("10.0.0.3")]);
    // Before the first ADD of the new boot: nothing is held, and nothing is touched.
    let before = fs::read(host.path("")).unwrap();
    assert!(listed(&mut store, &boot(2)).is_empty());
    assert_eq!(store.apply(&del("c1"), &boot(2)).unwrap(), Outcome::Freed(vec![]));
    let check =
        Check { set: net(), owner: super::contract::owner("c1"), sets: range(), expected: None };
    let missing = refused(&mut store, &Command::Check(check), &boot(2));
    assert!(matches!(missing, Refusal::Missing { .. }));
    let status = Status { set: net(), sets: range(), strict: false };
    assert_eq!(store.apply(&Command::Status(status), &boot(2)).unwrap(), Outcome::Ready);
    assert_eq!(fs::read(host.path("")).unwrap(), before);
    // The first ADD begins anew and keeps the old file.
    assert_eq!(added(&mut store, &lowest("c3", &range()), &boot(2)), [addr("10.0.0.2")]);
    assert_eq!(fs::read(host.path(".last-boot")).unwrap(), before);
    assert_eq!(listed(&mut store, &boot(2)).len(), 1);
    assert_eq!(added(&mut store, &lowest("c1", &range()), &boot(2)), [addr("10.0.0.3")]);
}

#[test]
fn durable_leases_survive_a_reboot() {
    let host = Host::new();
    let mut store = host.store(Persist::Disk);
    let got = added(&mut store, &lowest("c1", &range()), &boot(1));
    assert_eq!(added(&mut store, &lowest("c1", &range()), &boot(2)), got);
    assert_eq!(listed(&mut store, &boot(2))[0].boot, boot(2).boot, "it lives in this boot now");
    assert_ne!(added(&mut store, &lowest("c2", &range()), &boot(2)), got);
    assert!(!host.path("").exists() && host.path(".keep").exists());
}

#[test]
fn an_unknown_boot_keeps_leases_on_disk() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    added(&mut store, &lowest("c1", &range()), &Context { boot: None, ..boot(1) });
    assert!(!host.path("").exists() && host.path(".keep").exists());
}

#[test]
fn the_last_note_of_a_reservation_survives_a_reboot() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    added(&mut store, &lowest("c1", &range()), &boot(1));
    for note in ["printer", "scanner"] {
        let (addrs, note) = (vec![addr("10.0.0.9")], Some(note.to_owned()));
        let reserve = Reserve { set: net(), addrs, note, holder: None };
        store.apply(&Command::Reserve(reserve), &boot(1)).unwrap();
    }
    for n in [1, 2] {
        let all = listed(&mut store, &boot(n));
        let reserved = all.iter().find(|l| l.addr == addr("10.0.0.9")).unwrap();
        assert_eq!(reserved.origin.note.as_deref(), Some("scanner"), "boot {n}");
    }
}

#[test]
fn reservations_and_sticky_addresses_survive_a_reboot() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    store.apply(&reserve(&["10.0.0.2"]), &boot(1)).unwrap();
    let first = added(&mut store, &pod("c1", "db-0"), &boot(1));
    assert_eq!(first, [addr("10.0.0.3")]);
    let legacy = LegacyLease {
        addr: addr("10.0.0.9"),
        container: ContainerId::new("old").unwrap(),
        ifname: None,
    };
    let takes = Add { legacy: Legacy::Read(vec![legacy], vec![]), ..lowest("c2", &range()) };
    added(&mut store, &takes, &boot(1));
    for n in 2..4 {
        // The folder was taken over once and for all: its leases are of an ended boot now.
        let other = Add { legacy: Legacy::Unread, ..lowest(&format!("n{n}"), &range()) };
        let got = added(&mut store, &other, &boot(n));
        assert_eq!(got, [addr("10.0.0.3")], "boot {n}");
        store.apply(&del(&format!("n{n}")), &boot(n)).unwrap();
        assert_eq!(added(&mut store, &pod(&format!("p{n}"), "db-0"), &boot(n)), first);
        let all = listed(&mut store, &boot(n));
        let kinds: Vec<Kind> = all.iter().map(|l| l.kind).collect();
        assert_eq!(kinds, [Kind::Reserved, Kind::Dynamic], "boot {n}: {all:?}");
    }
}

#[test]
fn leases_of_another_machine_are_never_freed() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    let got = added(&mut store, &lowest("c1", &range()), &boot(1));
    let other = Context { node: Node { name: "b".into(), machine: "another".into() }, ..boot(2) };
    assert_ne!(added(&mut store, &lowest("c2", &range()), &other), got);
    assert_eq!(listed(&mut store, &other).len(), 2);
}

/// Nor when who carried them over was killed while no file had the store's name.
#[test]
fn leases_of_another_machine_survive_a_killed_first_add() {
    for marked in [false, true] {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        let got = added(&mut store, &lowest("c1", &range()), &boot(1));
        fs::copy(host.path(""), host.path(".last-boot")).unwrap();
        let before = fs::read(host.path(".boot")).unwrap();
        let other =
            Context { node: Node { name: "b".into(), machine: "another".into() }, ..boot(2) };
        added(&mut store, &lowest("c2", &range()), &other);
        store.apply(&del("c2"), &other).unwrap();
        // As it was before the last step, or the last two.
        fs::rename(host.path(""), host.path(".next")).unwrap();
        if !marked {
            fs::write(host.path(".boot"), before).unwrap();
        }
        assert_ne!(added(&mut store, &lowest("c3", &range()), &other), got, "marked: {marked}");
        assert_eq!(listed(&mut store, &other).len(), 2);
    }
}

#[test]
fn the_file_of_an_ended_boot_is_set_aside_whatever_it_contains() {
    for junk in [&b""[..], b"torn", &[0; 8192], b"redb\x1a\x0a\xa9\x0d\x0a and then nothing"] {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        added(&mut store, &lowest("c1", &range()), &boot(1));
        fs::write(host.path(""), junk).unwrap();
        assert_eq!(added(&mut store, &lowest("c2", &range()), &boot(2)), [addr("10.0.0.2")]);
        assert_eq!(fs::read(host.path(".last-boot")).unwrap(), junk);
    }
}

/// A process can be killed after each step of beginning a boot; the next one goes on from there.
#[test]
fn the_first_add_of_a_boot_may_be_killed_at_any_step() {
    type Prepare = fn(&Host);
    let states: [(&str, Prepare); 5] = [
        ("a new file half made", |host| fs::write(host.path(".next.new"), b"half").unwrap()),
        ("a new file without its name", |host| {
            fs::copy(host.path(""), host.path(".next")).map(drop).unwrap();
        }),
        ("the old file set aside", |host| {
            fs::rename(host.path(""), host.path(".last-boot")).unwrap();
        }),
        ("a new file in place and no new mark", |host| {
            let fresh = Host::new();
            added(&mut fresh.store(Persist::Boot), &lowest("x", &range()), &boot(2));
            fresh.store(Persist::Boot).apply(&del("x"), &boot(2)).unwrap();
            fs::rename(host.path(""), host.path(".last-boot")).unwrap();
            fs::copy(fresh.path(""), host.path("")).map(drop).unwrap();
        }),
        ("a mark half made", |host| fs::write(host.path(".boot.new"), b"boot bo").unwrap()),
    ];
    for (name, prepare) in states {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        added(&mut store, &lowest("c1", &range()), &boot(1));
        prepare(&host);
        assert_eq!(
            added(&mut store, &lowest("c2", &range()), &boot(2)),
            [addr("10.0.0.2")],
            "{name}"
        );
        assert_eq!(listed(&mut store, &boot(2)).len(), 1, "{name}");
        assert_eq!(
            added(&mut store, &lowest("c3", &range()), &boot(2)),
            [addr("10.0.0.3")],
            "{name}"
        );
    }
}

#[test]
fn without_a_mark_the_first_lease_determines_the_boot() {
    for (now, count) in [(boot(1), 2), (boot(2), 1)] {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        added(&mut store, &lowest("c1", &range()), &boot(1));
        fs::remove_file(host.path(".boot")).unwrap();
        added(&mut store, &lowest("c2", &range()), &now);
        assert_eq!(listed(&mut store, &now).len(), count);
    }
}

#[test]
fn an_unreadable_mark_is_damage() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    added(&mut store, &lowest("c1", &range()), &boot(1));
    fs::write(host.path(".boot"), "?").unwrap();
    let before = contents(host.folder.path());
    let error = store.apply(&Command::Add(lowest("c2", &range())), &boot(1)).unwrap_err();
    assert!(matches!(error, Error::Store(StoreError::Damaged { .. })), "{error}");
    assert_eq!(contents(host.folder.path()), before);
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.clone(), fs::read(p).unwrap()))
        .collect();
    all.sort();
    all
}

/// The two files never both hold leases of a set: an address would have two holders.
#[test]
fn persist_changes_only_without_leases() {
    for (before, after) in [(Persist::Boot, Persist::Disk), (Persist::Disk, Persist::Boot)] {
        let host = Host::new();
        let first = added(&mut host.store(before), &lowest("c1", &range()), &boot(1));
        let error =
            host.store(after).apply(&Command::Add(lowest("c2", &range())), &boot(1)).unwrap_err();
        assert!(matches!(error, Error::Store(StoreError::Moved { .. })), "{error}");
        assert_eq!(listed(&mut host.store(after), &boot(1)).len(), 1);
        // A DEL finds the lease wherever it is; then the network may move, and move back.
        host.store(after).apply(&del("c1"), &boot(1)).unwrap();
        assert_eq!(added(&mut host.store(after), &lowest("c2", &range()), &boot(1)), first);
        let back = host.store(before).apply(&Command::Add(lowest("c3", &range())), &boot(1));
        assert!(matches!(back, Err(Error::Store(StoreError::Moved { .. }))));
        host.store(before).apply(&del("c2"), &boot(1)).unwrap();
        assert_eq!(added(&mut host.store(before), &lowest("c3", &range()), &boot(1)), first);
        assert_eq!(leases(&mut host.store(after)).len(), 1);
    }
}

#[test]
fn reservations_move_with_the_network() {
    for (before, after) in [(Persist::Boot, Persist::Disk), (Persist::Disk, Persist::Boot)] {
        let host = Host::new();
        host.store(before).apply(&reserve(&["10.0.0.2"]), &boot(1)).unwrap();
        let got = added(&mut host.store(after), &lowest("c1", &range()), &boot(1));
        assert_eq!(got, [addr("10.0.0.3")], "from {before:?} to {after:?}");
        assert_eq!(listed(&mut host.store(after), &boot(1)).len(), 2);
    }
}
