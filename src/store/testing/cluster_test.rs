//! The contract on a compare-and-set server: the same cases, with other clients in between, lost
//! answers, and the round trips counted.

use std::rc::Rc;

use super::contract::{CASES, Named, add, addr, at, del, dual, given, leases, net, set};
use super::fake_cluster::{FakeServer, FakeStore, go_on};
use super::long;
use super::pool_cases::{ask, lease, no, pool, release, want};
use crate::alloc::{Add, Command, Gc, Outcome, Requested, Strategy};
use crate::error::{Error, PoolRefusal, StoreError};
use crate::model::NetworkName;
use crate::store::{Store, StoreReader};

/// A server that can do what Consul can, or what etcd can.
fn server(nests: bool) -> Rc<FakeServer> {
    let server = Rc::new(FakeServer::default());
    server.nests.set(nests);
    server
}

/// A server of each kind and mood: well, never answering a commit, and with random trouble.
fn servers() -> impl Iterator<Item = (String, Rc<FakeServer>)> {
    [false, true].into_iter().flat_map(|nests| {
        let kind = if nests { "as etcd" } else { "as Consul" };
        let well = (format!("{kind}, well"), server(nests));
        let mute = server(nests);
        mute.mute.set(true);
        let troubled = (1..7_u64).map(move |seed| {
            let server = server(nests);
            server.trouble.set(seed);
            (format!("{kind}, seed {seed}"), server)
        });
        [well, (format!("{kind}, mute"), mute)].into_iter().chain(troubled)
    })
}

#[test]
fn a_cas_server_keeps_the_contract() {
    for (name, case) in CASES {
        // Each case begins on servers of its own.
        for (mood, server) in servers() {
            let _name = Named(format!("{mood}: {name}"));
            case(&|| Box::new(FakeStore::new(server.clone())));
        }
    }
}

#[test]
fn a_cas_server_is_asked_as_seldom_as_possible() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let mut trips = |command: &Command| {
        let before = server.trips.get();
        let outcome = store.apply(command, &at(1)).unwrap();
        (server.trips.get() - before, outcome)
    };
    // A boot's first ADD claims the node, looks for leases and history that earlier boots left, and
    // notes that.
    assert_eq!(trips(&Command::Add(add("first", &dual()))).0, 5, "first ADD");
    let (adding, added) = trips(&Command::Add(add("c1", &dual())));
    let (again, same) = trips(&Command::Add(add("c1", &dual())));
    assert_eq!((adding, again), (1, 2), "ADD and repeated ADD");
    let grants = |outcome: &Outcome| match outcome {
        Outcome::Added(added) => added.grants.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(grants(&added), grants(&same));
    let (deleting, freed) = trips(&del("c1"));
    assert!(deleting == 2 && matches!(freed, Outcome::Freed(l) if l.len() == 2), "DEL");
    let (deleting, freed) = trips(&del("c1"));
    assert!(deleting == 1 && freed == Outcome::Freed(vec![]), "DEL of nothing");
    let requested = vec![Requested { addr: addr("10.0.0.9"), prefix: None }];
    let (adding, added) = trips(&Command::Add(Add { requested, ..add("c2", &dual()) }));
    assert!(adding == 1 && grants(&added)[0].addr == addr("10.0.0.9"), "fixed ADD");
}

/// GC of many more leases than the 64 operations that a commit of the server holds.
#[test]
fn a_cas_server_is_collected_in_slices() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let count = if long() { 65_000 } else { 6500 };
    let sets = [set("10.0.0.0/8")];
    for i in 0..count {
        given(&mut store, &add(&format!("c{i}"), &sets), &at(1));
    }
    assert!(server.trips.get() < count * 11 / 10, "{} trips", server.trips.get());
    server.trips.set(0);
    let network = NetworkName::new("net").unwrap();
    let gc = Gc { set: net(), network, valid: [].into(), after: None };
    assert_eq!(crate::engine::gc(&mut store, gc, &at(2)).unwrap(), count);
    assert!(leases(&mut store).is_empty());
}

/// Another client takes the very address before the commit, or leases for the very owner.
#[test]
fn a_cas_server_with_another_client_in_between() {
    let sets = [set("10.0.0.0/29")];
    for same_owner in [false, true] {
        let server = Rc::new(FakeServer::default());
        let mut store = FakeStore::new(server.clone());
        // Both ask for the lowest, so both have the same candidate.
        let lowest = |c: &str| Add { strategy: Strategy::Lowest, ..add(c, &sets) };
        let theirs = lowest(if same_owner { "mine" } else { "theirs" });
        let other = server.clone();
        *server.intruder.borrow_mut() = Some(Box::new(move || {
            let got = given(&mut FakeStore::new(other), &theirs, &at(1));
            assert_eq!(got, [addr("10.0.0.2")]);
        }));
        let got = given(&mut store, &lowest("mine"), &at(1));
        assert_eq!(got, [addr(if same_owner { "10.0.0.2" } else { "10.0.0.3" })]);
        assert_eq!(leases(&mut store).len(), if same_owner { 1 } else { 2 });
    }
}

/// Another client leases through a pool that goes, or makes one in the same place.
#[test]
fn pools_with_another_client_in_between() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    let intrude = |act: fn(&mut FakeStore)| {
        let other = server.clone();
        *server.intruder.borrow_mut() = Some(Box::new(move || act(&mut FakeStore::new(other))));
    };
    let id = pool(&mut store, &ask("l", "10.0.0.0/24"), &at(1)).id.0;
    intrude(|other| drop(lease(other, &want("l/10.0.0.0/24", None), &at(1))));
    assert_eq!(release(&mut store, &id, &at(2)), (true, 1));
    assert!(leases(&mut store).is_empty());
    intrude(|other| drop(pool(other, &ask("l", "10.0.0.0/16"), &at(1))));
    let here = Command::RequestPool(ask("l", "10.0.0.0/24"));
    assert!(matches!(no(&mut store, &here), PoolRefusal::Overlap { .. }));
    // The pool that was asked for goes before the address is taken.
    intrude(|other| assert_eq!(release(other, "l/10.0.0.0/16", &at(2)), (true, 0)));
    let unknown = Command::RequestAddress(want("l/10.0.0.0/16", None));
    assert!(matches!(no(&mut store, &unknown), PoolRefusal::Unknown(_)));
    assert!(store.pools().unwrap().is_empty() && leases(&mut store).is_empty());
    let paths = server.paths().into_iter().filter(|path| !path.starts_with("past/"));
    assert_eq!(paths.collect::<Vec<_>>(), ["node/node"]);
}

/// The control: without comparing an address gets two owners, and the suite sees it.
#[test]
#[should_panic(expected = "has another holder")]
fn a_blind_cas_server_is_noticed() {
    let server = Rc::new(FakeServer::default());
    server.blind.set(true);
    let mut store = FakeStore::new(server);
    let sets = [set("10.0.0.0/30")];
    let first = given(&mut store, &add("c1", &sets), &at(1));
    assert_eq!(given(&mut store, &add("c2", &sets), &at(1)), first);
    leases(&mut store);
}

/// A record that was changed behind our back is believed by nobody.
#[test]
fn a_damaged_record_is_named() {
    let server = Rc::new(FakeServer::default());
    let mut store = FakeStore::new(server.clone());
    given(&mut store, &add("c1", &dual()), &at(1));
    let found = |store: &mut FakeStore| {
        let mut found = Vec::new();
        store.problems(&at(1), &mut |problem| found.push(problem)).unwrap();
        found
    };
    assert_eq!(found(&mut store), []);
    for path in server.paths() {
        server.spoil(&path, |value| value[3] ^= 1);
    }
    let found = found(&mut store);
    assert!(found.len() >= 3 && found.iter().all(|p| p.what.contains("checksum")), "{found:?}");
    match store.apply(&del("c1"), &at(2)) {
        Err(Error::Store(StoreError::BadRecord { key, .. })) => {
            assert_eq!(key, "own/net/node/cni/net/c1/eth0");
        }
        other => panic!("{other:?}"),
    }
}

/// A server that was stopped with a lease in hand goes on when its container is gone.
#[test]
fn no_lease_is_made_after_its_container_is_deleted() {
    let lost = |server: &Rc<FakeServer>, n| {
        server.stopped.set(n);
        FakeStore::new(server.clone()).apply(&Command::Add(add("c1", &dual())), &at(1))
    };
    let deleted = |server: &Rc<FakeServer>| {
        let freed = FakeStore::new(server.clone()).apply(&del("c1"), &at(2)).unwrap();
        go_on(server);
        assert_eq!(leases(&mut FakeStore::new(server.clone())), []);
        freed
    };
    for first_call in [true, false] {
        // The ADD is tried again and succeeds.
        let server = Rc::new(FakeServer::default());
        if !first_call {
            given(&mut FakeStore::new(server.clone()), &add("c0", &dual()), &at(1));
            FakeStore::new(server.clone()).apply(&del("c0"), &at(1)).unwrap();
        }
        assert!(matches!(lost(&server, 1), Ok(Outcome::Added(_))));
        assert!(matches!(deleted(&server), Outcome::Freed(freed) if freed.len() == 2));
        // It is never answered, nor is what was to make it fail; another process deletes.
        assert!(lost(&server, usize::MAX).is_err());
        server.stopped.set(0);
        assert_eq!(deleted(&server), Outcome::Freed(vec![]));
        // Nobody is in doubt any more.
        server.trips.set(0);
        FakeStore::new(server.clone()).apply(&del("c1"), &at(2)).unwrap();
        assert_eq!(server.trips.get(), 1);
    }
}
