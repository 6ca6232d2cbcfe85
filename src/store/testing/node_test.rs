//! The life of a node on a compare-and-set server: boots that end, names that are another's, machines
//! that are gone; and definitions of networks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;

use super::contract::{add, addr, at, attachment, del, dual, freed, given, net, owner, set};
use super::fake_cluster::{FakeServer, FakeStore, go_on};
use super::pool_cases::{ask, lease, pool, want};
use crate::alloc::{
    Add, Check, Command, Context, DefineNetwork, Gc, OnDuplicate, Outcome, Requested, Reserve,
    Status, Strategy,
};
use crate::engine;
use crate::error::{Error, Refusal, StoreError};
use crate::model::{
    BootId, Kind, Lease, NetworkName, Node, NodeRecord, Origin, Persist, Pod, SetName,
};
use crate::net::{Addr, RangeSet};
use crate::store::cluster::LocalCache;
use crate::store::{Store, StoreReader};

/// A node's n-th boot.
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

fn low(container: &str, sets: &[RangeSet]) -> Add {
    Add { strategy: Strategy::Lowest, ..add(container, sets) }
}

fn fixed(container: &str, sets: &[RangeSet], wanted: &str) -> Add {
    Add { requested: vec![Requested { addr: addr(wanted), prefix: None }], ..add(container, sets) }
}

fn trips(server: &FakeServer, mut act: impl FnMut()) -> usize {
    let before = server.trips.get();
    act();
    server.trips.get() - before
}

fn listed(store: &mut dyn Store, cx: &Context) -> Vec<Lease> {
    let mut all = Vec::new();
    store.list(cx, &mut |lease| all.push(lease)).unwrap();
    all
}

/// Paths of leases.
fn paths(server: &FakeServer) -> usize {
    let other = ["node/", "past/", "ranges/"];
    server.paths().iter().filter(|path| !other.iter().any(|o| path.starts_with(o))).count()
}

fn claimed(store: &mut dyn Store, command: &Command, cx: &Context) -> String {
    match store.apply(command, cx) {
        Err(Error::Store(error @ StoreError::Claimed { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_range_is_empty_after_a_boot() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/24"), set("fd00::/120")];
    for i in 0..253 {
        given(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
    }
    let refusal = store.apply(&Command::Add(add("more", &sets)), &boot(1));
    assert!(matches!(refusal, Err(Error::Refused(Refusal::Exhausted { .. }))));
    // What is not erased yet counts as free.
    let status = Command::Status(Status { set: net(), sets: sets.to_vec(), strict: true });
    assert!(store.apply(&status, &boot(1)).is_err());
    assert_eq!(store.apply(&status, &boot(2)).unwrap(), Outcome::Ready);
    assert!(listed(&mut store, &boot(2)).is_empty());
    let check = Check { set: net(), owner: owner("c7"), sets: sets.to_vec(), expected: None };
    assert!(store.apply(&Command::Check(check), &boot(2)).is_err());
    assert_eq!(freed(&mut store, &del("c7"), &boot(2)), []);
    // Another's address, by name; its owner had one of the other family, too.
    let before = paths(&server);
    assert_eq!(before, 253 * 3);
    let first = fixed("new", &sets, "10.0.0.9");
    assert_eq!(given(&mut store, &first, &boot(2))[0], addr("10.0.0.9"));
    assert_eq!(paths(&server), 3, "the earlier boot's are erased");
    assert_eq!(listed(&mut store, &boot(2)).len(), 2);
    // From now on a boot like any other.
    assert_eq!(trips(&server, || drop(given(&mut store, &add("x", &sets), &boot(2)))), 1);
    assert_eq!(trips(&server, || drop(freed(&mut store, &del("x"), &boot(2)))), 2);
    for i in 0..252 {
        given(&mut store, &add(&format!("d{i}"), &sets), &boot(2));
    }
    assert_eq!(listed(&mut store, &boot(2)).len(), 253 * 2);
}

/// The node that booted does not come back to that set: others find its addresses when they need them.
#[test]
fn what_ended_on_another_node_is_free_as_well() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/29"), set("fd00::/125")];
    for i in 0..5 {
        given(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
    }
    let other = on("other", "machine", 1);
    let asks = [
        Command::Status(Status { set: net(), sets: sets.to_vec(), strict: false }),
        Command::Add(fixed("d", &sets, "10.0.0.2")),
        Command::Add(add("e", &sets)),
    ];
    for command in &asks {
        assert!(store.apply(command, &other).is_err(), "that boot is not over yet");
    }
    let elsewhere = Add { set: SetName("elsewhere".into()), ..add("x", &sets) };
    given(&mut store, &elsewhere, &boot(2));
    for command in &asks {
        store.apply(command, &other).unwrap();
    }
    for i in 0..3 {
        given(&mut store, &add(&format!("f{i}"), &sets), &other);
    }
    assert!(store.apply(&Command::Add(add("g", &sets)), &other).is_err());
    assert_eq!(listed(&mut store, &other).len(), 12);
    assert_eq!(paths(&server), 3 * 6);
}

/// It boots again, and leases, while another looks which of its leases have ended.
#[test]
fn a_lease_of_a_boot_that_has_just_begun_is_not_taken() {
    for nests in [false, true] {
        let server = Rc::new(FakeServer::default());
        server.nests.set(nests);
        let mut store = FakeStore::new(server.clone());
        // One address.
        let sets = [set("10.0.0.0/30")];
        given(&mut store, &add("c", &sets), &boot(1));
        let elsewhere = Add { set: SetName("elsewhere".into()), ..add("x", &sets) };
        given(&mut store, &elsewhere, &boot(2));
        let (theirs, new) = (server.clone(), add("new", &sets));
        *server.watcher.borrow_mut() = Some((
            "node/",
            Box::new(move || drop(given(&mut FakeStore::new(theirs), &new, &boot(3)))),
        ));
        let other = on("other", "machine2", 1);
        let outcome = store.apply(&Command::Add(add("late", &sets)), &other);
        assert!(matches!(outcome, Err(Error::Refused(Refusal::Exhausted { .. }))), "{outcome:?}");
        assert!(server.watcher.borrow().is_none());
        let left = listed(&mut store, &other);
        assert!(left.iter().any(|l| l.owner == owner("new")), "{left:?}");
    }
}

/// Nobody waits for a DEL any more; then its container is told that it has the address.
#[test]
fn a_del_that_was_given_up_frees_nothing_later() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/24")];
    let first = given(&mut store, &add("c", &sets), &boot(1));
    server.stopped.set(1000);
    store.apply(&del("c"), &boot(1)).unwrap_err();
    server.stopped.set(0);
    assert_eq!(given(&mut FakeStore::new(server.clone()), &add("c", &sets), &boot(1)), first);
    go_on(&server);
    assert_eq!(listed(&mut store, &boot(1)).len(), 1);
    assert_eq!(freed(&mut store, &del("c"), &boot(1)), first);
}

/// Without notes, and whatever time it is: the clock was set back.
#[test]
fn notes_save_trips_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let sets = dual();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    for place in [Some(folder.path().join("new/notes")), Some(file.join("notes")), None] {
        let server = Rc::new(FakeServer::default());
        let notes = LocalCache::new(place.as_deref(), "fake".to_owned());
        let mut store = FakeStore::with(server.clone(), Persist::Boot, notes);
        let early = |n: u64| Context { now: 0, ..boot(n) };
        given(&mut store, &add("old", &sets), &boot(1));
        given(&mut store, &add("a", &sets), &early(2));
        assert_eq!(paths(&server), 3);
        let kept = place.is_some_and(|place| place.is_dir());
        let cost = trips(&server, || drop(given(&mut store, &add("b", &sets), &early(2))));
        // The node, the commit, the node's leases.
        assert_eq!(cost, if kept { 1 } else { 3 });
        assert_eq!(listed(&mut store, &early(2)).len(), 4);
    }
}

#[test]
fn a_note_that_is_damaged_or_not_true_costs_a_look() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = dual();
    let folder = server.notes.0.path().to_owned();
    let note = |folder: &Path| {
        let all = fs::read_dir(folder).unwrap().map(|e| e.unwrap());
        let all = all.filter(|e| e.file_name().to_str().unwrap().starts_with("node-"));
        let all: Vec<_> = all.map(|e| e.path()).collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    };
    given(&mut store, &add("first", &sets), &boot(1));
    let good = fs::read(note(&folder)).unwrap();
    for (i, spoil) in [&b""[..], b"x", &good[..good.len() - 1]].into_iter().enumerate() {
        fs::write(note(&folder), spoil).unwrap();
        given(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
        assert_eq!(fs::read(note(&folder)).unwrap(), good);
    }
    fs::remove_file(note(&folder)).unwrap();
    given(&mut store, &add("d", &sets), &boot(1));
    assert_eq!(fs::read(note(&folder)).unwrap(), good);
    // The server was made anew: the note is of a record that is not there.
    let new = Rc::new(FakeServer::default());
    let notes = LocalCache::new(Some(&folder), "fake".to_owned());
    let mut other = FakeStore::with(new.clone(), Persist::Boot, notes);
    given(&mut other, &add("e", &sets), &boot(1));
    assert_eq!(trips(&new, || drop(given(&mut other, &add("f", &sets), &boot(1)))), 1);
    assert_eq!(listed(&mut other, &boot(1)).len(), 4);
}

#[test]
fn only_what_a_container_of_this_machine_leased_in_another_boot_has_ended() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/24")];
    let claim = Add { claim_gateways: true, ..low("c", &sets) };
    given(&mut store, &claim, &boot(1));
    let reserve = Reserve { set: net(), addrs: vec![addr("10.0.0.77")], note: None, holder: None };
    store.apply(&Command::Reserve(reserve), &boot(1)).unwrap();
    pool(&mut store, &ask("l", "10.9.0.0/24"), &boot(1));
    lease(&mut store, &want("l/10.9.0.0/24", None), &boot(1));
    given(&mut store, &low("theirs", &sets), &on("other", "machine", 1));
    given(&mut store, &low("blind", &sets), &Context { boot: None, ..boot(1) });
    let mut disk = FakeStore::with(
        server.clone(),
        Persist::Disk,
        LocalCache::new(Some(server.notes.0.path()), "fake".to_owned()),
    );
    given(&mut disk, &low("kept", &sets), &boot(1));
    let names = |store: &mut FakeStore, cx: &Context| -> Vec<String> {
        listed(store, cx).iter().map(|l| l.owner.to_string()).collect()
    };
    let all = names(&mut store, &boot(1));
    assert_eq!(all.len(), 7, "{all:?}");
    // A boot that cannot tell which it is takes nothing for ended.
    assert_eq!(names(&mut store, &Context { boot: None, ..boot(2) }), all);
    given(&mut disk, &low("kept", &sets), &boot(2));
    given(&mut store, &low("new", &sets), &boot(2));
    let left = names(&mut store, &boot(2));
    assert_eq!(left.len(), 7, "{left:?}");
    assert!(!left.iter().any(|name| name.contains("container c ")), "{left:?}");
    for name in ["kept", "blind", "theirs", "gateway", "reservation", "pool", "new"] {
        assert!(left.iter().any(|l| l.contains(name)), "{name}: {left:?}");
    }
    // Two machines without a machine-id may be two.
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server);
    given(&mut store, &low("a", &sets), &on("node", "", 1));
    given(&mut store, &low("b", &sets), &on("node", "", 2));
    assert_eq!(listed(&mut store, &on("node", "", 2)).len(), 2);
}

/// A container that is made again under its name, or a pod that returns, has a lease of this boot.
#[test]
fn an_owner_that_returns_after_a_boot_leases_anew() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = dual();
    let pod = Pod { namespace: "ns".into(), name: "web-0".into(), uid: String::new() };
    let origin = Origin { pod: Some(pod), ..Origin::default() };
    let sticky = |c: &str| Add { sticky: true, origin: origin.clone(), ..add(c, &sets) };
    let before = given(&mut store, &sticky("c"), &boot(1));
    given(&mut store, &add("other", &sets), &boot(1));
    // Not refused as a duplicate, nor for the ranges that it no longer fits.
    let moved = [set("10.5.0.0/24")];
    let strict = Add { on_duplicate: OnDuplicate::Error, ..add("other", &moved) };
    assert!(moved[0].range_of(given(&mut store, &strict, &boot(2))[0]).is_some());
    assert_eq!(given(&mut store, &sticky("c"), &boot(2)), before);
    assert_eq!(given(&mut store, &sticky("c"), &boot(2)), before, "repeated");
    for lease in listed(&mut store, &boot(2)) {
        assert_eq!((lease.boot, lease.time), (boot(2).boot, 2000));
    }
    assert_eq!(paths(&server), 5 + 4, "with what is remembered of the pod");
}

#[test]
fn a_second_machine_is_refused_until_the_first_is_released() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = dual();
    let (one, two) = (on("node", "m-one", 1), on("node", "m-two", 1));
    given(&mut store, &add("c", &sets), &one);
    let network = NetworkName::new("net").unwrap();
    let gc = Gc { set: net(), network, valid: [].into(), after: None };
    let status = Status { set: net(), sets: sets.clone(), strict: false };
    for command in [
        Command::Add(add("d", &sets)),
        Command::Gc(gc),
        Command::Status(status),
        Command::RequestPool(ask("l", "10.9.0.0/24")),
    ] {
        let text = claimed(&mut store, &command, &two);
        for part in ["m-one", "m-two", "NODE_ID", "sublet node release node"] {
            assert!(text.contains(part), "{text}");
        }
    }
    // A DEL is no error: whatever ends there never began.
    assert_eq!(freed(&mut store, &del("d"), &two), []);
    // No machine-id is no proof.
    given(&mut store, &add("e", &sets), &on("node", "", 1));
    assert_eq!(listed(&mut store, &one).len(), 4);
    let left = engine::release_node(&mut store, "node", &two).unwrap();
    assert_eq!(left, engine::Left { freed: 4, forgotten: true });
    assert!(paths(&server) == 0 && !server.paths().iter().any(|path| path.starts_with("node/")));
    given(&mut store, &add("d", &sets), &two);
    // The first was not gone after all: it has noted its name, and that is not its any more.
    claimed(&mut store, &Command::Add(add("f", &sets)), &one);
    assert_eq!(listed(&mut store, &two).len(), 2);
}

/// Two machines with one name and one machine-id: a copied disk. The later one has the name.
#[test]
fn a_boot_that_lost_its_name_leases_nothing_more() {
    let server = Rc::new(FakeServer::default());
    let sets = dual();
    let mut one = FakeStore::new(server.clone());
    let folder = tempfile::tempdir().unwrap();
    let notes = LocalCache::new(Some(folder.path()), "fake".to_owned());
    let mut copy = FakeStore::with(server.clone(), Persist::Boot, notes);
    given(&mut one, &add("a", &sets), &boot(1));
    given(&mut copy, &add("b", &sets), &boot(2));
    let text = claimed(&mut one, &Command::Add(add("c", &sets)), &boot(1));
    assert!(text.contains("another boot's") && text.contains("machine-id machine"), "{text}");
    assert_eq!(listed(&mut copy, &boot(2)).len(), 2);
    given(&mut copy, &add("d", &sets), &boot(2));
}

#[test]
fn clients_race_at_the_first_boot() {
    for earlier in [false, true] {
        let server = Rc::new(FakeServer::default());
        let mut store = FakeStore::new(server.clone());
        let sets = [set("10.0.0.0/29")];
        let begin = u64::from(earlier) + 1;
        if earlier {
            for i in 0..5 {
                given(&mut store, &add(&format!("old{i}"), &sets), &boot(1));
            }
        }
        let other = server.clone();
        *server.intruder.borrow_mut() = Some(Box::new(move || {
            let sets = [set("10.0.0.0/29")];
            given(&mut FakeStore::new(other), &low("theirs", &sets), &boot(begin));
        }));
        given(&mut store, &low("mine", &sets), &boot(begin));
        assert_eq!(listed(&mut store, &boot(begin)).len(), 2);
        given(&mut store, &low("next", &sets), &boot(begin));
        assert_eq!((paths(&server), listed(&mut store, &boot(begin)).len()), (6, 3));
    }
}

/// Killed after any number of commits, and begun again.
#[test]
fn erasing_may_end_anywhere() {
    let sets = [set("10.0.0.0/24"), set("fd00::/120")];
    for commits in 1..8 {
        let server = Rc::new(FakeServer::default());
        let mut store = FakeStore::new(server.clone());
        for i in 0..100 {
            given(&mut store, &add(&format!("c{i}"), &sets), &boot(1));
        }
        server.left.set(Some(commits));
        drop(store.apply(&Command::Add(add("new", &sets)), &boot(2)));
        server.left.set(None);
        drop(store);
        let mut store = FakeStore::new(server.clone());
        assert!(paths(&server) > 30, "{commits}: it was not killed on the way");
        assert!(listed(&mut store, &boot(2)).len() <= 2);
        assert_eq!(given(&mut store, &add("new", &sets), &boot(2)).len(), 2);
        assert_eq!(paths(&server), 3);
        assert_eq!(listed(&mut store, &boot(2)).len(), 2);
    }
}

/// The same for a machine that is gone.
#[test]
fn a_dead_node_is_released_and_nothing_else() {
    for commits in 1..60 {
        let server = Rc::new(FakeServer::default());
        let mut store = FakeStore::new(server.clone());
        let sets = [set("10.0.0.0/24"), set("fd00::/120")];
        let (dead, alive) = (on("dead", "m-dead", 1), on("alive", "m-alive", 1));
        for i in 0..60 {
            given(&mut store, &add(&format!("c{i}"), &sets), &dead);
        }
        let elsewhere = Add { set: SetName("elsewhere".into()), ..add("c", &sets) };
        given(&mut store, &elsewhere, &dead);
        // Another boot began and claimed the name, and had not erased when it died.
        server.left.set(Some(2));
        drop(store.apply(&Command::Add(add("last", &sets)), &on("dead", "m-dead", 2)));
        server.left.set(None);
        let reserve =
            Reserve { set: net(), addrs: vec![addr("10.0.0.77")], note: None, holder: None };
        store.apply(&Command::Reserve(reserve), &dead_again()).unwrap();
        for cx in [&dead_again(), &alive] {
            let shared = super::pool_cases::named("shared", ask("l", "10.9.0.0/24"));
            pool(&mut store, &shared, cx);
            pool(&mut store, &shared, cx);
            lease(&mut store, &want("shared", None), cx);
        }
        given(&mut store, &add("mine", &sets), &alive);
        server.left.set(Some(commits));
        let done = engine::release_node(&mut store, "dead", &alive);
        server.left.set(None);
        listed(&mut store, &alive);
        if done.is_ok() {
            assert!(commits > 4, "that is not in slices");
            break;
        }
        assert!(engine::release_node(&mut store, "dead", &alive).unwrap().forgotten);
        let left = listed(&mut store, &alive);
        let of_dead: Vec<&Lease> = left.iter().filter(|l| l.node.name == "dead").collect();
        // The gateway of the pool that others use. What is reserved is no node's.
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
fn what_is_known_of_nodes() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server);
    let sets = dual();
    given(&mut store, &add("a", &sets), &boot(1));
    given(&mut store, &add("b", &sets), &boot(3));
    given(&mut store, &add("c", &sets), &on("a/b", "m2", 2));
    let record = |cx: Context, first| NodeRecord {
        node: cx.node,
        boot: cx.boot,
        first,
        since: cx.now,
        turn: 0,
    };
    let all = [record(on("a/b", "m2", 2), 2000), record(boot(3), 1000)];
    assert_eq!(store.cluster().unwrap().nodes().unwrap(), all);
    let before = record(boot(1), 1000);
    assert!(!store.cluster().unwrap().forget(&before, &boot(3)).unwrap(), "it has changed since");
    assert!(
        store.cluster().unwrap().forget(&all[1], &boot(3)).unwrap()
            && store.cluster().unwrap().nodes().unwrap().len() == 1
    );
    // It lives: its next ADD has the name again.
    given(&mut store, &add("d", &sets), &boot(3));
    assert_eq!(store.cluster().unwrap().nodes().unwrap().len(), 2);
}

/// Two nodes that add, delete and boot by chance, on a server that makes trouble and is left in the
/// middle: what lives is there, once.
#[test]
fn lives_of_nodes_by_chance() {
    let sets = [set("10.0.0.0/28"), set("fd00::/124")];
    for seed in 1..40_u64 {
        let server = Rc::new(FakeServer::default());
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
            server.trouble.set(if dice(2) == 0 { dice(1 << 30) + 1 } else { 0 });
            server.left.set((dice(3) == 0).then(|| usize::try_from(dice(4)).unwrap()));
            // The container's names differ, for nodes do not make each other's.
            let full = format!("{name}-{node}");
            let adds = begins || dice(3) > 0;
            let command = if adds { Command::Add(add(&full, &sets)) } else { del(&full) };
            let done = loop {
                match store.apply(&command, &cx) {
                    Err(Error::Store(e)) => {
                        assert!(!matches!(e, StoreError::BadRecord { .. }), "{seed}: {e}");
                        server.left.set(None);
                    }
                    known => break known,
                }
            };
            server.left.set(None);
            server.trouble.set(0);
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

fn network(text: &str, version: Option<u64>) -> DefineNetwork {
    DefineNetwork { network: attachment("c").network, text: text.to_owned(), version }
}

#[test]
fn the_first_writer_defines_the_network() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let sets = dual();
    let name = attachment("c").network;
    given(&mut store, &add("warm", &sets), &boot(1));
    let defines = |c: &str, text: &str, version| Add {
        define: Some(network(text, version)),
        ..add(c, &sets)
    };
    let cost = trips(&server, || {
        assert_eq!(store.cluster().unwrap().definition(&name).unwrap(), None);
        given(&mut store, &defines("a", "one", None), &boot(1));
    });
    assert_eq!(cost, 2, "a look and a commit");
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
        given(&mut store, &defines("b", "two", Some(1)), &boot(1));
    });
    assert_eq!(cost, 2);
    assert_eq!(store.cluster().unwrap().definition(&name).unwrap().unwrap().text, "one");
    // It is defined anew between the look and the commit.
    store.cluster().unwrap().definition(&name).unwrap();
    let other = server.clone();
    *server.intruder.borrow_mut() = Some(Box::new(move || {
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
