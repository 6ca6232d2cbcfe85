//! Tests the nodes of a cluster: reboots, node names that belong to another machine, and machines that no
//! longer exist. Also tests network definitions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::contract::{
    add, added, addr, at, attachment, del, dual_stack, freed, gc_all, listed, lowest, net, owner,
    reserve, set,
};
use super::fake_cluster::{FakeServer, FakeStore, apply_stalled, no_cache};
use super::pool_cases::{ask, lease, pool, want};
use crate::alloc::{
    Add, Check, Command, Context, Cooldown, DefineNetwork, Del, Evict, OnDuplicate, Outcome,
    Requested, Status, Target,
};
use crate::engine;
use crate::error::{Error, Refusal, StoreError};
use crate::model::{BootId, Kind, Lease, Node, NodeRecord, Origin, Persist, Pod, SetName};
use crate::net::{Addr, RangeSet};
use crate::store::cluster::LocalCache;
use crate::store::{Store, StoreReader};

/// Returns the context of a command that runs on a node in its boot number `boot`.
fn on(name: &str, machine: &str, boot: u64) -> Context {
    Context {
        node: Node { name: name.to_owned(), machine: machine.to_owned() },
        boot: Some(BootId(format!("{machine}-{boot}"))),
        seed: boot,
        ..at(boot * 1000)
    }
}

fn boot(n: u64) -> Context {
    on("node", "machine", n)
}

fn fixed(container: &str, sets: &[RangeSet], wanted: &str) -> Add {
    Add { requested: vec![Requested { addr: addr(wanted), prefix: None }], ..add(container, sets) }
}

fn trips(server: &FakeServer, mut act: impl FnMut()) -> usize {
    let before = server.round_trips.get();
    act();
    server.round_trips.get() - before
}

/// Returns the number of records that contain leases.
fn lease_records(server: &FakeServer) -> usize {
    let other = ["node/", "past/", "ranges/"];
    server.paths().iter().filter(|path| !other.iter().any(|o| path.starts_with(o))).count()
}

fn name_refusal(store: &mut dyn Store, command: &Command, cx: &Context) -> String {
    match store.apply(command, cx) {
        Err(Error::Store(error @ StoreError::Claimed { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_range_is_empty_after_a_boot() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/24"), set("fd00::/120")];
    for i in 0..253 {
        added(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
    }
    let refusal = store.apply(&Command::Add(add("more", &sets)), &boot(1));
    assert!(matches!(refusal, Err(Error::Refused(Refusal::Exhausted { .. }))));
    // The leases of an earlier boot count as free even before their records are removed.
    let status = Command::Status(Status {
        set: net(),
        network: super::contract::network(),
        sets: sets.to_vec(),
        strict: true,
    });
    assert!(store.apply(&status, &boot(1)).is_err());
    assert_eq!(store.apply(&status, &boot(2)).unwrap(), Outcome::Ready);
    assert!(listed(&mut store, &boot(2)).is_empty());
    let check = Check { set: net(), owner: owner("c7"), sets: sets.to_vec(), expected: None };
    assert!(store.apply(&Command::Check(check), &boot(2)).is_err());
    assert_eq!(freed(&mut store, &del("c7"), &boot(2)), []);
    // The next ADD requests an address whose lease has ended. The former owner's lease of the other address
    // family has ended, too.
    let before = lease_records(&server);
    assert_eq!(before, 253 * 3);
    let first = fixed("new", &sets, "10.0.0.9");
    assert_eq!(added(&mut store, &first, &boot(2))[0], addr("10.0.0.9"));
    assert_eq!(lease_records(&server), 3, "the leases of the earlier boot are removed");
    assert_eq!(listed(&mut store, &boot(2)).len(), 2);
    // Once the ended leases have been removed, commands need the usual number of round trips again.
    assert_eq!(trips(&server, || drop(added(&mut store, &add("x", &sets), &boot(2)))), 1);
    assert_eq!(trips(&server, || drop(freed(&mut store, &del("x"), &boot(2)))), 2);
    for i in 0..252 {
        added(&mut store, &add(&format!("d{i}"), &sets), &boot(2));
    }
    assert_eq!(listed(&mut store, &boot(2)).len(), 253 * 2);
}

/// A node has rebooted and no longer uses this set of leases. Other nodes may lease the addresses of its
/// ended leases.
#[test]
fn ended_leases_of_another_node_are_free() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/29"), set("fd00::/125")];
    for i in 0..5 {
        added(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
    }
    let other = on("other", "machine", 1);
    let asks = [
        Command::Status(Status {
            set: net(),
            network: super::contract::network(),
            sets: sets.to_vec(),
            strict: false,
        }),
        Command::Add(fixed("d", &sets, "10.0.0.2")),
        Command::Add(add("e", &sets)),
    ];
    for command in &asks {
        assert!(store.apply(command, &other).is_err(), "that boot is not over yet");
    }
    let elsewhere = Add { set: SetName("elsewhere".into()), ..add("x", &sets) };
    added(&mut store, &elsewhere, &boot(2));
    for command in &asks {
        store.apply(command, &other).unwrap();
    }
    for i in 0..3 {
        added(&mut store, &add(&format!("f{i}"), &sets), &other);
    }
    assert!(store.apply(&Command::Add(add("g", &sets)), &other).is_err());
    assert_eq!(listed(&mut store, &other).len(), 12);
    assert_eq!(lease_records(&server), 3 * 6);
}

/// While one node is reading which of another node's leases have ended, the other node reboots and leases an
/// address. The first node must not take that new lease for an ended one.
#[test]
fn a_lease_of_a_boot_that_has_just_started_is_held() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        // The range has only one allocatable address.
        let sets = [set("10.0.0.0/30")];
        added(&mut store, &add("c", &sets), &boot(1));
        let elsewhere = Add { set: SetName("elsewhere".into()), ..add("x", &sets) };
        // The node stops after two commits, before it removes the ended lease.
        server.commits_left.set(Some(2));
        added(&mut store, &elsewhere, &boot(2));
        server.commits_left.set(None);
        let (theirs, new) = (server.clone(), add("new", &sets));
        *server.after_list.borrow_mut() = Some((
            "node/",
            Box::new(move || drop(added(&mut FakeStore::new(theirs), &new, &boot(3)))),
        ));
        let other = on("other", "machine2", 1);
        let outcome = store.apply(&Command::Add(add("late", &sets)), &other);
        assert!(matches!(outcome, Err(Error::Refused(Refusal::Exhausted { .. }))), "{outcome:?}");
        assert!(server.after_list.borrow().is_none());
        let left = listed(&mut store, &other);
        assert!(left.iter().any(|l| l.owner == owner("new")), "{left:?}");
    }
}

/// The server does not respond to a DEL in time, and the container is added again. When the server finally
/// applies the DEL, the new lease must stay.
#[test]
fn a_del_that_is_still_in_flight_frees_nothing_later() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/24")];
    let first = added(&mut store, &add("c", &sets), &boot(1));
    server.stalled_commits.set(1000);
    store.apply(&del("c"), &boot(1)).unwrap_err();
    server.stalled_commits.set(0);
    assert_eq!(added(&mut FakeStore::new(server.clone()), &add("c", &sets), &boot(1)), first);
    apply_stalled(&server);
    assert_eq!(listed(&mut store, &boot(1)).len(), 1);
    assert_eq!(freed(&mut store, &del("c"), &boot(1)), first);
}

/// A client is killed after it has sent its transaction. The runtime adds the same container again, and this
/// ADD succeeds. Only then does the server apply the first transaction.
#[test]
fn a_late_transaction_of_a_killed_client_undoes_nothing() {
    // The range has only one allocatable address.
    let sets = [set("10.0.0.0/30")];
    let lease = Lease {
        kind: Kind::Dynamic,
        owner: owner("c"),
        ..boot(1).reservation(net(), addr("10.0.0.2"))
    };
    let at_address = Target::Addresses(vec![lease.addr]);
    let free = Del { set: net(), target: at_address, rewind: false, undo: false, legacy: None };
    let commands = [
        ("DEL", del("c"), boot(1)),
        ("GC", Command::Gc(gc_all()), boot(1)),
        ("release by address", Command::Del(free), boot(1)),
        ("eviction", Command::Evict(Evict { set: net(), only_ended: false, after: None }), boot(1)),
    ];
    for is_etcd in [false, true] {
        for (name, command, cx) in &commands {
            // What happens to the in-flight notes (files in `/run` that say that a transaction may be
            // pending). "elsewhere": the killed client has a different `/run`, as in a container.
            // "unwritable": it cannot write to `/run`.
            for notes in ["kept", "lost", "none", "elsewhere", "unwritable"] {
                let server = FakeServer::new(is_etcd);
                let [folder, elsewhere] = [(); 2].map(|()| tempfile::tempdir().unwrap());
                let nowhere = Path::new("/proc/nowhere");
                let place = if notes == "none" { nowhere } else { folder.path() };
                let process_in = |place: &Path| {
                    let cache = LocalCache::new(place, "fake".to_owned());
                    FakeStore::with_cache(server.clone(), Persist::Boot, cache)
                };
                let process = || process_in(place);
                let its_place = match notes {
                    "elsewhere" => elsewhere.path(),
                    "unwritable" => nowhere,
                    _ => place,
                };
                let first = added(&mut process(), &add("c", &sets), &boot(1));
                server.kills_in_commit.set(true);
                let cx = Context { seed: 7, ..cx.clone() };
                process_in(its_place).apply(command, &cx).unwrap_err();
                server.commits_left.set(None);
                if notes == "lost" {
                    fs::remove_dir_all(folder.path()).unwrap();
                }
                assert_eq!(added(&mut process(), &add("c", &sets), &boot(1)), first);
                apply_stalled(&server);
                let what = format!("{name}, etcd {is_etcd}, notes {notes}");
                assert_eq!(listed(&mut process(), &boot(1)).len(), 1, "{what}");
                let other = process().apply(&Command::Add(add("d", &sets)), &on("o", "o", 1));
                assert!(matches!(other, Err(Error::Refused(Refusal::Exhausted { .. }))), "{what}");
            }
        }
    }
}

/// A client is killed after it has sent an ADD, and then the container is deleted. If the ADD arrives late,
/// it must not lease an address.
#[test]
fn a_late_add_of_a_killed_client_leases_nothing() {
    let sets = dual_stack();
    for is_etcd in [false, true] {
        for warm in [false, true] {
            let server = FakeServer::new(is_etcd);
            let process = || FakeStore::new(server.clone());
            if warm {
                added(&mut process(), &add("other", &sets), &boot(1));
            }
            server.kills_in_commit.set(true);
            process().apply(&Command::Add(add("c", &sets)), &boot(1)).unwrap_err();
            server.commits_left.set(None);
            assert_eq!(freed(&mut process(), &del("c"), &boot(1)), []);
            apply_stalled(&server);
            assert_eq!(listed(&mut process(), &boot(1)).len(), if warm { 2 } else { 0 });
        }
    }
}

/// The first attempt of an ADD gets no response. The client fences it: it writes the node's record, so that
/// the first attempt can no longer be applied. The second attempt leases the address.
#[test]
fn an_attempt_that_was_not_answered_is_void() {
    let sets = [set("10.0.0.0/30")];
    let server = FakeServer::new(true);
    let mut store = FakeStore::new(server.clone());
    added(&mut store, &add("warm", &sets), &boot(1));
    freed(&mut store, &del("warm"), &boot(1));
    server.stalled_commits.set(1);
    let got = added(&mut store, &add("c", &sets), &boot(1));
    let before = server.paths();
    apply_stalled(&server);
    assert_eq!(server.paths(), before);
    assert_eq!(freed(&mut store, &del("c"), &boot(1)), got);
    assert!(listed(&mut store, &boot(1)).is_empty());
}

/// A host is renamed while its containers are running. Under the new name, their leases must still be found,
/// checked and freed.
#[test]
fn a_renamed_host_keeps_its_leases() {
    let sets = dual_stack();
    for same_folder in [true, false] {
        let server = FakeServer::new(false);
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let host = |name: &str, n| Context { by_host_name: true, ..on(name, "machine", n) };
        let store = |i: usize| {
            let folder = folders[if same_folder { 0 } else { i }].path();
            FakeStore::with_cache(
                server.clone(),
                Persist::Boot,
                LocalCache::new(folder, String::new()),
            )
        };
        let [a, b] = ["a", "b"].map(|c| added(&mut store(0), &add(c, &sets), &host("old", 1)));
        let (mut store, new) = (store(1), host("new", 1));
        assert_eq!(added(&mut store, &add("a", &sets), &new), a);
        let check = Check { set: net(), owner: owner("a"), sets: sets.clone(), expected: None };
        assert_eq!(store.apply(&Command::Check(check), &new).unwrap(), Outcome::Checked);
        assert_eq!(freed(&mut store, &del("b"), &new), b);
        assert_eq!(engine::gc(&mut store, gc_all(), &new).unwrap(), 2);
        added(&mut store, &add("c", &sets), &new);
        // The host reboots under a third name, which ends its earlier leases.
        added(&mut store, &add("d", &sets), &host("third", 2));
        let left = listed(&mut store, &host("third", 2));
        assert!(
            left.len() == 2 && left.iter().all(|l| l.owner == owner("d") && l.node.name == "old")
        );
        assert_eq!(lease_records(&server), 3 + 1, "with the record of the machine");
        // A machine that is started again after `sublet node release` leases under its new name.
        engine::release_node(&mut store, "old", &on("operator", "m2", 1)).unwrap();
        drop(folders);
        added(&mut store, &add("e", &sets), &host("fourth", 3));
        assert!(listed(&mut store, &host("fourth", 3)).iter().all(|l| l.node.name == "fourth"));
    }
}

/// Two running machines have the same name and the same machine-id.
#[test]
fn a_copy_of_a_machine_takes_no_lease_that_is_newer_than_its_boot() {
    // The range has three addresses.
    let sets = [set("10.0.0.0/29 10.0.0.2 10.0.0.4")];
    let server = FakeServer::new(false);
    let folder = tempfile::tempdir().unwrap();
    let copied = || {
        let cache = LocalCache::new(folder.path(), "fake".to_owned());
        FakeStore::with_cache(server.clone(), Persist::Boot, cache)
    };
    let mut first = FakeStore::new(server.clone());
    let (one, two) = (boot(1), Context { booted: Some(500), ..boot(2) });
    let a =
        [added(&mut first, &add("a0", &sets), &one), added(&mut first, &add("a1", &sets), &one)]
            .concat();
    let Ok(Outcome::Added(b)) = copied().apply(&Command::Add(add("b0", &sets)), &two) else {
        panic!()
    };
    assert!(
        !a.contains(&b.grants[0].addr) && b.warnings.iter().any(|w| w.contains("stays in use")),
        "{b:?}"
    );
    let full = copied().apply(&Command::Add(add("b1", &sets)), &two);
    assert!(matches!(full, Err(Error::Refused(Refusal::Exhausted { .. }))), "{full:?}");
    assert_eq!(engine::gc(&mut copied(), gc_all(), &two).unwrap(), 1, "only its own");
    let other = on("other", "m3", 1);
    added(&mut copied(), &add("c", &sets), &other);
    let full = copied().apply(&Command::Add(add("d", &sets)), &other);
    assert!(matches!(full, Err(Error::Refused(Refusal::Exhausted { .. }))), "{full:?}");
    name_refusal(&mut first, &Command::Add(add("a2", &sets)), &one);
    assert_eq!(freed(&mut first, &del("a0"), &one), a[..1]);
}

/// The server has been restored from a backup that is older than the node's last boot.
#[test]
fn a_restored_record_of_an_earlier_boot_is_claimed_again() {
    let sets = dual_stack();
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    added(&mut store, &add("a", &sets), &boot(1));
    let backup = server.record("node/node");
    added(&mut store, &add("b", &sets), &boot(2));
    server.restore("node/node", backup);
    added(&mut store, &add("c", &sets), &boot(2));
    assert_eq!(listed(&mut store, &boot(2)).len(), 4);
}

/// A host with a slow clock cannot end a cooldown early. Setting a clock back ends a cooldown only on the
/// node that started it.
#[test]
fn a_cooldown_ends_by_no_other_clock_early() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let sets = [set("10.0.0.0/30")];
        let cooldown = Cooldown { seconds: 3600, strict: true };
        let strict = |c: &str| Command::Add(Add { cooldown, ..add(c, &sets) });
        let here = |now| Context { now, ..boot(10) };
        let there = |now| Context { now, ..on("other", "m2", 1) };
        store.apply(&strict("a"), &here(9_000)).unwrap();
        freed(&mut store, &del("a"), &here(10_000));
        for now in [10_000, 9_999, 9_995, 0, 10_005, 13_599] {
            let outcome = store.apply(&strict("b"), &there(now));
            assert!(matches!(outcome, Err(Error::Refused(_))), "{now}: {outcome:?}");
        }
        // The node's clock was set back, so the cooldown seems to start in the future and might never end.
        // The node that started the cooldown therefore treats it as ended.
        store.apply(&strict("c"), &here(9_999)).unwrap();
        freed(&mut store, &del("c"), &here(10_000));
        store.apply(&strict("d"), &there(13_600)).unwrap();
    }
}

/// All nodes have rebooted and claimed their names, but stopped before they removed their ended leases. The
/// range is full of ended leases. To find a free address, an ADD reads the leases of only one node.
#[test]
fn one_address_after_a_mass_reboot_takes_few_round_trips() {
    let server = FakeServer::new(false);
    let sets = [set("10.0.0.0/24")];
    for n in 0..50 {
        let mut store = FakeStore::new(server.clone());
        let node = |boot| on(&format!("n{n}"), &format!("m{n}"), boot);
        for i in 0..5 {
            added(&mut store, &add(&format!("c{n}-{i}"), &sets), &node(1));
        }
        server.commits_left.set(Some(2));
        let elsewhere = Add { set: SetName("elsewhere".into()), ..add("x", &sets) };
        drop(store.apply(&Command::Add(elsewhere), &node(2)));
        server.commits_left.set(None);
    }
    let (mut store, other) = (FakeStore::new(server.clone()), on("other", "other", 1));
    let elsewhere = Add { set: SetName("elsewhere".into()), ..add("warm", &sets) };
    added(&mut store, &elsewhere, &other);
    for i in 0..3 {
        added(&mut store, &add(&format!("last{i}"), &sets), &other);
    }
    let cost = trips(&server, || drop(added(&mut store, &add("one", &sets), &other)));
    assert!(cost <= 10, "{cost} trips");
}

/// Commands also work without a local cache, and on a node whose clock has been set back.
#[test]
fn the_local_cache_only_saves_round_trips() {
    let folder = tempfile::tempdir().unwrap();
    let sets = dual_stack();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [folder.path().join("new/cache"), file.join("cache"), "/proc/nowhere".into()] {
        let server = FakeServer::new(false);
        let cache = LocalCache::new(&place, "fake".to_owned());
        let mut store = FakeStore::with_cache(server.clone(), Persist::Boot, cache);
        let early = |n: u64| Context { now: 0, ..boot(n) };
        added(&mut store, &add("old", &sets), &boot(1));
        added(&mut store, &add("a", &sets), &early(2));
        assert_eq!(lease_records(&server), 3);
        let is_cached = place.is_dir();
        let cost = trips(&server, || drop(added(&mut store, &add("b", &sets), &early(2))));
        // Without a local cache, an ADD takes three round trips: for the node's record, for the commit, and
        // for the node's leases.
        assert_eq!(cost, if is_cached { 1 } else { 3 });
        assert_eq!(listed(&mut store, &early(2)).len(), 4);
    }
}

#[test]
fn a_damaged_or_outdated_cache_costs_a_read() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = dual_stack();
    let folder = server.cache.0.path().to_owned();
    let node_file = |folder: &Path| {
        let all = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
        let all = all.filter(|e| e.file_name().to_str().unwrap().starts_with("node-"));
        let all: Vec<_> = all.map(|e| e.path()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    };
    added(&mut store, &add("first", &sets), &boot(1));
    let good = fs::read(node_file(&folder)).unwrap();
    for (i, spoil) in [&b""[..], b"x", &good[..good.len() - 1]].into_iter().enumerate() {
        fs::write(node_file(&folder), spoil).unwrap();
        added(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
        assert_eq!(fs::read(node_file(&folder)).unwrap(), good);
    }
    fs::remove_file(node_file(&folder)).unwrap();
    added(&mut store, &add("d", &sets), &boot(1));
    assert_eq!(fs::read(node_file(&folder)).unwrap(), good);
    // The server has been replaced by an empty one, which lacks the node's cached record.
    let new = FakeServer::new(false);
    let cache = LocalCache::new(&folder, "fake".to_owned());
    let mut other = FakeStore::with_cache(new.clone(), Persist::Boot, cache);
    added(&mut other, &add("e", &sets), &boot(1));
    assert_eq!(trips(&new, || drop(added(&mut other, &add("f", &sets), &boot(1)))), 1);
    assert_eq!(listed(&mut other, &boot(1)).len(), 4);
}

#[test]
fn only_boot_leases_of_this_machine_end_with_the_boot() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/24")];
    let claim = Add { claim_gateways: true, ..lowest("c", &sets) };
    added(&mut store, &claim, &boot(1));
    store.apply(&reserve(&["10.0.0.77"]), &boot(1)).unwrap();
    pool(&mut store, &ask("l", "10.9.0.0/24"), &boot(1));
    lease(&mut store, &want("l/10.9.0.0/24", None), &boot(1));
    added(&mut store, &lowest("theirs", &sets), &on("other", "machine", 1));
    added(&mut store, &lowest("blind", &sets), &Context { boot: None, ..boot(1) });
    let mut disk = FakeStore::with_cache(
        server.clone(),
        Persist::Disk,
        LocalCache::new(server.cache.0.path(), "fake".to_owned()),
    );
    added(&mut disk, &lowest("kept", &sets), &boot(1));
    let names = |store: &mut FakeStore, cx: &Context| -> Vec<String> {
        listed(store, cx).iter().map(|l| l.owner.to_string()).collect()
    };
    let all = names(&mut store, &boot(1));
    assert_eq!(all.len(), 7, "{all:?}");
    // If the caller's boot is unknown, no lease counts as ended.
    assert_eq!(names(&mut store, &Context { boot: None, ..boot(2) }), all);
    added(&mut disk, &lowest("kept", &sets), &boot(2));
    added(&mut store, &lowest("new", &sets), &boot(2));
    let left = names(&mut store, &boot(2));
    assert_eq!(left.len(), 7, "{left:?}");
    assert!(!left.iter().any(|name| name.contains("container c ")), "{left:?}");
    for name in ["kept", "blind", "theirs", "gateway", "reservation", "pool", "new"] {
        assert!(left.iter().any(|l| l.contains(name)), "{name}: {left:?}");
    }
    // Two nodes with the same name and without a machine-id may be different machines. Therefore the second
    // boot does not end the lease of the first.
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server);
    added(&mut store, &lowest("a", &sets), &on("node", "", 1));
    added(&mut store, &lowest("b", &sets), &on("node", "", 2));
    assert_eq!(listed(&mut store, &on("node", "", 2)).len(), 2);
}

/// An ADD assumes that its owner has no record. While it searches for an address, it lists the leases of
/// earlier boots, and finds the owner's record and a cooling address. It must return the owner's lease. It
/// must not lease the cooling address, because it chose that address under the wrong assumption.
#[test]
fn an_assumption_that_is_refuted_while_deciding_is_not_relied_on() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(false);
        server.is_etcd.set(is_etcd);
        let cache = || LocalCache::new(server.cache.0.path(), "fake".to_owned());
        let mut disk = FakeStore::with_cache(server.clone(), Persist::Disk, cache());
        let sets = [set("10.0.0.0/28 10.0.0.2 10.0.0.4")];
        let cooldown = Cooldown { seconds: 100_000, strict: false };
        let ask = |c: &str| Add { cooldown, ..lowest(c, &sets) };
        let first = added(&mut disk, &ask("again"), &boot(1));
        let mut theirs = FakeStore::new(server.clone());
        for container in ["held", "freed"] {
            added(&mut theirs, &ask(container), &on("other", "machine-2", 1));
        }
        theirs.apply(&del("freed"), &on("other", "machine-2", 1)).unwrap();
        assert_eq!(added(&mut disk, &ask("again"), &boot(2)), first, "etcd: {is_etcd}");
        assert_eq!(listed(&mut disk, &boot(2)).len(), 2);
    }
}

/// A container that is created again after a reboot, or a pod that returns, gets a lease of the new boot.
#[test]
fn an_owner_that_returns_after_a_boot_leases_anew() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = dual_stack();
    let pod = Pod { namespace: "ns".into(), name: "web-0".into(), uid: String::new() };
    let origin = Origin { pod: Some(pod), ..Origin::default() };
    let sticky = |c: &str| Add { sticky: true, origin: origin.clone(), ..add(c, &sets) };
    let before = added(&mut store, &sticky("c"), &boot(1));
    added(&mut store, &add("other", &sets), &boot(1));
    // A lease of the earlier boot must not make the ADD fail: the ADD is no duplicate, and the old lease need
    // not be in the new ranges.
    let moved = [set("10.5.0.0/24")];
    let strict = Add { on_duplicate: OnDuplicate::Error, ..add("other", &moved) };
    assert!(moved[0].range_of(added(&mut store, &strict, &boot(2))[0]).is_some());
    assert_eq!(added(&mut store, &sticky("c"), &boot(2)), before);
    assert_eq!(added(&mut store, &sticky("c"), &boot(2)), before, "repeated");
    for lease in listed(&mut store, &boot(2)) {
        assert_eq!((lease.boot, lease.time), (boot(2).boot, 2000));
    }
    assert_eq!(lease_records(&server), 5 + 4, "with the records of the pod");
}

#[test]
fn a_second_machine_is_refused_until_the_first_is_released() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = dual_stack();
    let (one, two) = (on("node", "m-one", 1), on("node", "m-two", 1));
    added(&mut store, &add("c", &sets), &one);
    let gc = gc_all();
    let status = Status {
        set: net(),
        network: super::contract::network(),
        sets: sets.clone(),
        strict: false,
    };
    for command in [
        Command::Add(add("d", &sets)),
        Command::Gc(gc),
        Command::Status(status),
        Command::RequestPool(ask("l", "10.9.0.0/24")),
    ] {
        let text = name_refusal(&mut store, &command, &two);
        for part in ["m-one", "m-two", "NODE_ID", "sublet node release node"] {
            assert!(text.contains(part), "{text}");
        }
    }
    // On the second machine, the DEL succeeds, because its container never had a lease.
    assert_eq!(freed(&mut store, &del("d"), &two), []);
    // A machine without a machine-id cannot be identified, so its ADD is not refused.
    added(&mut store, &add("e", &sets), &on("node", "", 1));
    assert_eq!(listed(&mut store, &one).len(), 4);
    let left = engine::release_node(&mut store, "node", &two).unwrap();
    assert_eq!(left, engine::Left { freed: 4, forgotten: true });
    assert!(
        lease_records(&server) == 0 && !server.paths().iter().any(|path| path.starts_with("node/"))
    );
    added(&mut store, &add("d", &sets), &two);
    // The first machine is still running. Its cache says that it owns the name, but another machine has
    // claimed the name since then.
    name_refusal(&mut store, &Command::Add(add("f", &sets)), &one);
    assert_eq!(listed(&mut store, &two).len(), 2);
}

/// Two machines have the same name and machine-id, because a disk was copied. The machine that booted later
/// owns the name.
#[test]
fn a_boot_that_lost_its_name_leases_nothing_more() {
    let server = FakeServer::new(false);
    let sets = dual_stack();
    let mut one = FakeStore::new(server.clone());
    let folder = tempfile::tempdir().unwrap();
    let cache = LocalCache::new(folder.path(), "fake".to_owned());
    let mut copy = FakeStore::with_cache(server.clone(), Persist::Boot, cache);
    added(&mut one, &add("a", &sets), &boot(1));
    added(&mut copy, &add("b", &sets), &boot(2));
    let text = name_refusal(&mut one, &Command::Add(add("c", &sets)), &boot(1));
    assert!(
        text.contains("after the current boot") && text.contains("machine-id machine"),
        "{text}"
    );
    assert_eq!(listed(&mut copy, &boot(2)).len(), 2);
    added(&mut copy, &add("d", &sets), &boot(2));
}

#[test]
fn two_clients_race_for_the_first_add_of_a_boot() {
    for earlier in [false, true] {
        let server = FakeServer::new(false);
        let mut store = FakeStore::new(server.clone());
        let sets = [set("10.0.0.0/29")];
        let begin = u64::from(earlier) + 1;
        if earlier {
            for i in 0..5 {
                added(&mut store, &add(&format!("old{i}"), &sets), &boot(1));
            }
        }
        let other = server.clone();
        *server.before_commit.borrow_mut() = Some(Box::new(move || {
            let sets = [set("10.0.0.0/29")];
            added(&mut FakeStore::new(other), &lowest("theirs", &sets), &boot(begin));
        }));
        added(&mut store, &lowest("mine", &sets), &boot(begin));
        assert_eq!(listed(&mut store, &boot(begin)).len(), 2);
        added(&mut store, &lowest("next", &sets), &boot(begin));
        assert_eq!((lease_records(&server), listed(&mut store, &boot(begin)).len()), (6, 3));
    }
}

/// Each run kills the machine after a different number of commits (1 to 7), and then starts it again.
#[test]
fn the_removal_of_ended_leases_may_be_interrupted() {
    let sets = [set("10.0.0.0/24"), set("fd00::/120")];
    for commits in 1..8 {
        let server = FakeServer::new(false);
        let mut store = FakeStore::new(server.clone());
        for i in 0..100 {
            added(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
        }
        server.commits_left.set(Some(commits));
        drop(store.apply(&Command::Add(add("new", &sets)), &boot(2)));
        server.commits_left.set(None);
        drop(store);
        let mut store = FakeStore::new(server.clone());
        assert!(lease_records(&server) > 30, "{commits}: it was not killed on the way");
        assert!(listed(&mut store, &boot(2)).len() <= 2);
        assert_eq!(added(&mut store, &add("new", &sets), &boot(2)).len(), 2);
        assert_eq!(lease_records(&server), 3);
        assert_eq!(listed(&mut store, &boot(2)).len(), 2);
    }
}

/// `sublet node release` is interrupted after some number of commits, and then repeated. It must free only
/// the released node's leases.
#[test]
fn the_release_of_a_node_frees_only_its_leases() {
    for commits in 1..60 {
        let server = FakeServer::new(false);
        let mut store = FakeStore::new(server.clone());
        let sets = [set("10.0.0.0/24"), set("fd00::/120")];
        let (dead, alive) = (on("dead", "m-dead", 1), on("alive", "m-alive", 1));
        for i in 0..60 {
            added(&mut store, &add(&format!("c{i}"), &sets), &dead);
        }
        let elsewhere = Add { set: SetName("elsewhere".into()), ..add("c", &sets) };
        added(&mut store, &elsewhere, &dead);
        // In its second boot, the node claims its name but stops before it removes its ended leases.
        server.commits_left.set(Some(2));
        drop(store.apply(&Command::Add(add("last", &sets)), &on("dead", "m-dead", 2)));
        server.commits_left.set(None);
        store.apply(&reserve(&["10.0.0.77"]), &dead_again()).unwrap();
        for cx in [&dead_again(), &alive] {
            let shared = super::pool_cases::shared("shared", ask("l", "10.9.0.0/24"));
            pool(&mut store, &shared, cx);
            pool(&mut store, &shared, cx);
            lease(&mut store, &want("shared", None), cx);
        }
        for i in 0..60 {
            added(&mut store, &add(&format!("d{i}"), &sets), &dead_again());
        }
        added(&mut store, &add("mine", &sets), &alive);
        server.commits_left.set(Some(commits));
        let done = engine::release_node(&mut store, "dead", &alive);
        server.commits_left.set(None);
        listed(&mut store, &alive);
        if done.is_ok() {
            assert!(commits > 4, "the release takes one step only");
            break;
        }
        assert!(engine::release_node(&mut store, "dead", &alive).unwrap().forgotten);
        let left = listed(&mut store, &alive);
        let of_dead: Vec<&Lease> = left.iter().filter(|l| l.node.name == "dead").collect();
        // One lease of the released node is left: the gateway of a pool that the node `alive` uses.
        // Reservations belong to no node.
        assert_eq!(of_dead.len(), 1, "{commits}: {of_dead:?}");
        assert!(of_dead.iter().all(|l| l.kind == Kind::Gateway));
        assert_eq!(left.iter().filter(|l| l.kind == Kind::Reserved).count(), 1);
        assert_eq!(left.len(), 2 + 2 + 1);
        let users: Vec<_> = store.pools().unwrap().remove(0).users;
        assert_eq!(users, [(alive.node.clone(), 2)]);
        let nodes = store.cluster().unwrap().nodes().unwrap();
        assert_eq!(nodes.iter().map(|n| &*n.node.name).collect::<Vec<_>>(), ["alive"]);
    }
}

fn dead_again() -> Context {
    on("dead", "m-dead", 2)
}

#[test]
fn nodes_are_listed_and_forgotten() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server);
    let sets = dual_stack();
    added(&mut store, &add("a", &sets), &boot(1));
    added(&mut store, &add("b", &sets), &boot(3));
    added(&mut store, &add("c", &sets), &on("a/b", "m2", 2));
    let all = store.cluster().unwrap().nodes().unwrap();
    let facts = |r: &NodeRecord| (r.node.clone(), r.boot.clone(), r.first, r.since, r.has_earlier);
    let expected = |cx: Context, first| (cx.node, cx.boot, first, cx.now, false);
    assert_eq!(facts(&all[0]), expected(on("a/b", "m2", 2), 2000));
    assert_eq!(facts(&all[1]), expected(boot(3), 1000));
    let before = NodeRecord { boot: boot(1).boot, ..all[1].clone() };
    assert!(!store.cluster().unwrap().forget(&before, &boot(3)).unwrap(), "it has changed since");
    assert!(
        store.cluster().unwrap().forget(&all[1], &boot(3)).unwrap()
            && store.cluster().unwrap().nodes().unwrap().len() == 1
    );
    // The released machine is still running, and its next ADD claims the name again.
    added(&mut store, &add("d", &sets), &boot(3));
    assert_eq!(store.cluster().unwrap().nodes().unwrap().len(), 2);
}

/// Two nodes add, delete and reboot at random, with random failures and killed clients. In the end, each
/// container that has not been deleted must have its leases, and there must be no other leases.
#[test]
fn random_commands_of_two_nodes() {
    let sets = [set("10.0.0.0/28"), set("fd00::/124")];
    for seed in 1..40_u64 {
        let server = FakeServer::new(false);
        let mut chance = seed;
        let mut dice = |n: u64| {
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (chance >> 33) % n
        };
        let mut boots = [1, 1];
        let mut lives: BTreeMap<(usize, String), Vec<Addr>> = BTreeMap::new();
        for _ in 0..120 {
            let mut store = FakeStore::new(server.clone());
            let node = usize::try_from(dice(2)).unwrap();
            let name = format!("c{}", dice(8));
            let begins = dice(8) == 0;
            if begins {
                boots[node] += 1;
                lives.retain(|(n, _), _| *n != node);
            }
            let cx = on(&format!("n{node}"), &format!("m{node}"), boots[node]);
            server.failure_seed.set(if dice(2) == 0 { dice(1 << 30) + 1 } else { 0 });
            server.commits_left.set((dice(3) == 0).then(|| usize::try_from(dice(4)).unwrap()));
            // Each node has its own containers, with different names.
            let full = format!("{name}-{node}");
            let adds = begins || dice(3) > 0;
            let command = if adds { Command::Add(add(&full, &sets)) } else { del(&full) };
            let done = loop {
                match store.apply(&command, &cx) {
                    Err(Error::Store(e)) => {
                        assert!(!matches!(e, StoreError::BadRecord { .. }), "{seed}: {e}");
                        server.commits_left.set(None);
                    }
                    known => break known,
                }
            };
            server.commits_left.set(None);
            server.failure_seed.set(0);
            match done {
                Ok(Outcome::Added(added)) => {
                    let got: Vec<Addr> = added.grants.iter().map(|g| g.addr).collect();
                    let before = lives.insert((node, name), got.clone());
                    assert!(before.is_none_or(|before| before == got), "{seed}");
                }
                Ok(Outcome::Freed(_)) => drop(lives.remove(&(node, name))),
                Err(Error::Refused(Refusal::Exhausted { .. })) => assert!(lives.len() >= 13),
                other => panic!("{seed}: {other:?}"),
            }
            let mut there: Vec<Addr> = listed(&mut store, &cx).iter().map(|l| l.addr).collect();
            let mut expected: Vec<Addr> = lives.values().flatten().copied().collect();
            there.sort();
            expected.sort();
            assert_eq!(there, expected, "seed {seed}");
        }
    }
}

/// A client is killed while it is claiming its machine's first name. Then the machine is renamed. Only after
/// that does the server apply the claim of the first name.
#[test]
fn a_late_claim_does_not_rename_the_machine() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::with_cache(server.clone(), Persist::Boot, no_cache());
        let host = |name: &str| Context { by_host_name: true, ..on(name, "machine", 1) };
        server.stalled_commits.set(usize::MAX);
        assert!(store.apply(&Command::Add(add("lost", &dual_stack())), &host("old")).is_err());
        server.stalled_commits.set(0);
        let leased = added(&mut store, &add("c", &dual_stack()), &host("new"));
        apply_stalled(&server);
        assert_eq!(freed(&mut store, &del("c"), &host("new")), leased);
    }
}

/// A client that cannot create an in-flight note (a file that says that a transaction may be pending) is
/// killed during an ADD. Another client, which has the node's record in its cache, deletes the container. The
/// ADD must then lease nothing, even if it arrives late.
#[test]
fn a_del_that_frees_nothing_fences_a_client_without_a_note() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let folder = tempfile::tempdir().unwrap();
        let cache = LocalCache::new(folder.path(), "fake".to_owned());
        let mut store = FakeStore::with_cache(server.clone(), Persist::Boot, cache);
        added(&mut store, &add("first", &dual_stack()), &boot(1));
        let mut blind = FakeStore::with_cache(server.clone(), Persist::Boot, no_cache());
        server.kills_in_commit.set(true);
        assert!(blind.apply(&Command::Add(add("lost", &dual_stack())), &boot(1)).is_err());
        server.commits_left.set(None);
        assert!(freed(&mut store, &del("lost"), &boot(1)).is_empty());
        apply_stalled(&server);
        assert_eq!(listed(&mut store, &boot(1)).len(), 2);
    }
}

fn network(text: &str, version: Option<u64>) -> DefineNetwork {
    DefineNetwork { network: attachment("c").network, text: text.to_owned(), version }
}

#[test]
fn the_first_writer_defines_the_network() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = dual_stack();
    let name = attachment("c").network;
    added(&mut store, &add("warm", &sets), &boot(1));
    let defines = |c: &str, text: &str, version| Add {
        define: Some(network(text, version)),
        ..add(c, &sets)
    };
    let cost = trips(&server, || {
        assert_eq!(store.cluster().unwrap().definition(&name).unwrap(), None);
        added(&mut store, &defines("a", "one", None), &boot(1));
    });
    assert_eq!(cost, 2, "a read and a commit");
    let kept = store.cluster().unwrap().definition(&name).unwrap().unwrap();
    assert_eq!((kept.version, &*kept.text, &*kept.by, kept.time), (1, "one", "node", 1000));
    let no = |done: Result<Outcome, Error>| match done {
        Err(Error::Refused(Refusal::Redefined { expected, kept, .. })) => (expected, kept),
        other => panic!("{other:?}"),
    };
    let late = Command::Add(defines("b", "two", None));
    assert_eq!(no(store.apply(&late, &boot(1))), (None, Some(1)));
    let cost = trips(&server, || {
        store.cluster().unwrap().definition(&name).unwrap();
        added(&mut store, &defines("b", "two", Some(1)), &boot(1));
    });
    assert_eq!(cost, 2);
    assert_eq!(store.cluster().unwrap().definition(&name).unwrap().unwrap().text, "one");
    // The network's definition changes between the read and the commit.
    store.cluster().unwrap().definition(&name).unwrap();
    let other = server.clone();
    *server.before_commit.borrow_mut() = Some(Box::new(move || {
        let set = Command::DefineNetwork(network("three", Some(1)));
        let done = FakeStore::new(other).apply(&set, &boot(1)).unwrap();
        assert_eq!(done, Outcome::Defined(2));
    }));
    let add = Command::Add(defines("d", "two", Some(1)));
    assert_eq!(no(store.apply(&add, &boot(1))), (Some(1), Some(2)));
    assert!(listed(&mut store, &boot(1)).iter().all(|l| l.owner != owner("d")));
    assert_eq!(
        no(store.apply(&Command::DefineNetwork(network("x", None)), &boot(1))),
        (None, Some(2))
    );
    assert_eq!(engine::define(&mut store, network("x", Some(2)), &boot(1)).unwrap(), 3);
}
