//! What becomes of leases when a boot ends, and when `persist` changes.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::contract::{add, addr, at, del, foreign, given, leases, net, refused, set};
use crate::alloc::{Add, Check, Command, Context, Legacy, Outcome, Reserve, Status, Strategy};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{BootId, Kind, Lease, Node, Origin, Persist, Pod, Wait};
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

fn low(container: &str, sets: &[RangeSet]) -> Add {
    Add { strategy: Strategy::Lowest, ..add(container, sets) }
}

fn range() -> Vec<RangeSet> {
    vec![set("10.0.0.0/24")]
}

fn listed(store: &mut dyn Store, cx: &Context) -> Vec<Lease> {
    let mut all = Vec::new();
    store.list(cx, &mut |lease| all.push(lease)).unwrap();
    all
}

fn pod(container: &str, name: &str) -> Add {
    let pod = Pod { namespace: "ns".into(), name: name.into(), uid: String::new() };
    let origin = Origin { pod: Some(pod), ..add(container, &range()).origin };
    Add { sticky: true, origin, ..low(container, &range()) }
}

#[test]
fn a_boot_s_leases_end_with_it() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    assert_eq!(given(&mut store, &low("c1", &range()), &boot(1)), [addr("10.0.0.2")]);
    assert_eq!(given(&mut store, &low("c2", &range()), &boot(1)), [addr("10.0.0.3")]);
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
    assert_eq!(given(&mut store, &low("c3", &range()), &boot(2)), [addr("10.0.0.2")]);
    assert_eq!(fs::read(host.path(".last-boot")).unwrap(), before);
    assert_eq!(listed(&mut store, &boot(2)).len(), 1);
    assert_eq!(given(&mut store, &low("c1", &range()), &boot(2)), [addr("10.0.0.3")]);
}

#[test]
fn disk_leases_outlive_a_boot() {
    let host = Host::new();
    let mut store = host.store(Persist::Disk);
    let got = given(&mut store, &low("c1", &range()), &boot(1));
    assert_eq!(given(&mut store, &low("c1", &range()), &boot(2)), got);
    assert_eq!(listed(&mut store, &boot(2))[0].boot, boot(2).boot, "it lives in this boot now");
    assert_ne!(given(&mut store, &low("c2", &range()), &boot(2)), got);
    assert!(!host.path("").exists() && host.path(".keep").exists());
}

#[test]
fn an_unknown_boot_keeps_leases_on_disk() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    given(&mut store, &low("c1", &range()), &Context { boot: None, ..boot(1) });
    assert!(!host.path("").exists() && host.path(".keep").exists());
}

#[test]
fn a_reservation_outlives_a_boot_as_it_was_written_last() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    given(&mut store, &low("c1", &range()), &boot(1));
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
fn what_must_outlive_a_boot_does() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    let reserve = Reserve { set: net(), addrs: vec![addr("10.0.0.2")], note: None, holder: None };
    store.apply(&Command::Reserve(reserve), &boot(1)).unwrap();
    let first = given(&mut store, &pod("c1", "db-0"), &boot(1));
    assert_eq!(first, [addr("10.0.0.3")]);
    let legacy = Legacy::Read(vec![foreign("old", "10.0.0.9", None)], vec![]);
    let takes = Add { legacy, ..low("c2", &range()) };
    given(&mut store, &takes, &boot(1));
    for n in 2..4 {
        // The folder was taken over once and for all: its leases are of an ended boot now.
        let other = Add { legacy: Legacy::Unread, ..low(&format!("n{n}"), &range()) };
        let got = given(&mut store, &other, &boot(n));
        assert_eq!(got, [addr("10.0.0.3")], "boot {n}");
        store.apply(&del(&format!("n{n}")), &boot(n)).unwrap();
        assert_eq!(given(&mut store, &pod(&format!("p{n}"), "db-0"), &boot(n)), first);
        let all = listed(&mut store, &boot(n));
        let kinds: Vec<Kind> = all.iter().map(|l| l.kind).collect();
        assert_eq!(kinds, [Kind::Reserved, Kind::Dynamic], "boot {n}: {all:?}");
    }
}

#[test]
fn another_machine_s_leases_are_never_reclaimed() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    let got = given(&mut store, &low("c1", &range()), &boot(1));
    let other = Context { node: Node { name: "b".into(), machine: "another".into() }, ..boot(2) };
    assert_ne!(given(&mut store, &low("c2", &range()), &other), got);
    assert_eq!(listed(&mut store, &other).len(), 2);
}

/// Nor when who carried them over was killed while no file had the store's name.
#[test]
fn another_machine_s_leases_outlive_a_killed_beginning() {
    for marked in [false, true] {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        let got = given(&mut store, &low("c1", &range()), &boot(1));
        fs::copy(host.path(""), host.path(".last-boot")).unwrap();
        let before = fs::read(host.path(".boot")).unwrap();
        let other =
            Context { node: Node { name: "b".into(), machine: "another".into() }, ..boot(2) };
        given(&mut store, &low("c2", &range()), &other);
        store.apply(&del("c2"), &other).unwrap();
        // As it was before the last step, or the last two.
        fs::rename(host.path(""), host.path(".next")).unwrap();
        if !marked {
            fs::write(host.path(".boot"), before).unwrap();
        }
        assert_ne!(given(&mut store, &low("c3", &range()), &other), got, "marked: {marked}");
        assert_eq!(listed(&mut store, &other).len(), 2);
    }
}

#[test]
fn whatever_the_ended_boot_left_is_set_aside() {
    for junk in [&b""[..], b"torn", &[0; 8192], b"redb\x1a\x0a\xa9\x0d\x0a and then nothing"] {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        given(&mut store, &low("c1", &range()), &boot(1));
        fs::write(host.path(""), junk).unwrap();
        assert_eq!(given(&mut store, &low("c2", &range()), &boot(2)), [addr("10.0.0.2")]);
        assert_eq!(fs::read(host.path(".last-boot")).unwrap(), junk);
    }
}

/// A process can be killed after each step of beginning a boot; the next one goes on from there.
#[test]
fn a_boot_may_begin_several_times() {
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
            given(&mut fresh.store(Persist::Boot), &low("x", &range()), &boot(2));
            fresh.store(Persist::Boot).apply(&del("x"), &boot(2)).unwrap();
            fs::rename(host.path(""), host.path(".last-boot")).unwrap();
            fs::copy(fresh.path(""), host.path("")).map(drop).unwrap();
        }),
        ("a mark half made", |host| fs::write(host.path(".boot.new"), b"boot bo").unwrap()),
    ];
    for (name, prepare) in states {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        given(&mut store, &low("c1", &range()), &boot(1));
        prepare(&host);
        assert_eq!(given(&mut store, &low("c2", &range()), &boot(2)), [addr("10.0.0.2")], "{name}");
        assert_eq!(listed(&mut store, &boot(2)).len(), 1, "{name}");
        assert_eq!(given(&mut store, &low("c3", &range()), &boot(2)), [addr("10.0.0.3")], "{name}");
    }
}

#[test]
fn without_a_mark_the_first_lease_tells_the_boot() {
    for (now, count) in [(boot(1), 2), (boot(2), 1)] {
        let host = Host::new();
        let mut store = host.store(Persist::Boot);
        given(&mut store, &low("c1", &range()), &boot(1));
        fs::remove_file(host.path(".boot")).unwrap();
        given(&mut store, &low("c2", &range()), &now);
        assert_eq!(listed(&mut store, &now).len(), count);
    }
}

#[test]
fn a_mark_that_says_nothing_is_damage() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    given(&mut store, &low("c1", &range()), &boot(1));
    fs::write(host.path(".boot"), "?").unwrap();
    let before = contents(host.folder.path());
    let error = store.apply(&Command::Add(low("c2", &range())), &boot(1)).unwrap_err();
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
fn persist_changes_only_without_living_leases() {
    for (before, after) in [(Persist::Boot, Persist::Disk), (Persist::Disk, Persist::Boot)] {
        let host = Host::new();
        let first = given(&mut host.store(before), &low("c1", &range()), &boot(1));
        let error =
            host.store(after).apply(&Command::Add(low("c2", &range())), &boot(1)).unwrap_err();
        assert!(matches!(error, Error::Store(StoreError::Moved { .. })), "{error}");
        assert_eq!(listed(&mut host.store(after), &boot(1)).len(), 1);
        // A DEL finds the lease wherever it is; then the network may move, and move back.
        host.store(after).apply(&del("c1"), &boot(1)).unwrap();
        assert_eq!(given(&mut host.store(after), &low("c2", &range()), &boot(1)), first);
        let back = host.store(before).apply(&Command::Add(low("c3", &range())), &boot(1));
        assert!(matches!(back, Err(Error::Store(StoreError::Moved { .. }))));
        host.store(before).apply(&del("c2"), &boot(1)).unwrap();
        assert_eq!(given(&mut host.store(before), &low("c3", &range()), &boot(1)), first);
        assert_eq!(leases(&mut host.store(after)).len(), 1);
    }
}

#[test]
fn reservations_move_with_the_network() {
    for (before, after) in [(Persist::Boot, Persist::Disk), (Persist::Disk, Persist::Boot)] {
        let host = Host::new();
        let reserve =
            Reserve { set: net(), addrs: vec![addr("10.0.0.2")], note: None, holder: None };
        host.store(before).apply(&Command::Reserve(reserve), &boot(1)).unwrap();
        let got = given(&mut host.store(after), &low("c1", &range()), &boot(1));
        assert_eq!(got, [addr("10.0.0.3")], "from {before:?} to {after:?}");
        assert_eq!(listed(&mut host.store(after), &boot(1)).len(), 2);
    }
}
