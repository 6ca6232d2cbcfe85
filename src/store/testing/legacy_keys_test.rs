//! Leases of cni-ipam-consul on the same server: taken over once, whoever is first, and at no cost later.

use std::rc::Rc;

use super::contract::{add, addr, at, attachment, leases, net, owner, set};
use super::fake_cluster::{FakeServer, FakeStore};
use crate::alloc::{Add, Command, Context, Del, ForeignLease, Import, Imported, Legacy, Target};
use crate::engine;
use crate::model::{Attachment, Kind, NetworkName, Node, Owner};
use crate::net::Addr;
use crate::store::Store;

fn old_add(container: &str) -> Add {
    Add { legacy: Legacy::Unread, ..add(container, &[set("10.0.0.0/16")]) }
}

fn old_del(container: &str) -> Del {
    let network = NetworkName::new("net").ok();
    let target = Target::Owner(owner(container));
    Del { set: net(), target, rewind: false, undo: false, legacy: network }
}

fn lease(store: &mut FakeStore, container: &str, cx: &Context) -> Vec<Addr> {
    let added = engine::add(store, old_add(container), None, cx).unwrap();
    added.grants.iter().map(|grant| grant.addr).collect()
}

fn free(store: &mut FakeStore, container: &str, cx: &Context) -> Vec<Addr> {
    let freed = engine::del(store, old_del(container), None, cx).unwrap();
    freed.iter().map(|lease| lease.addr).collect()
}

/// More of cni-ipam-consul's leases than one transaction holds; a key of another network beside them.
fn old_server() -> Rc<FakeServer> {
    let server = Rc::new(FakeServer::default());
    for i in 2..=200 {
        let value = format!(r#"{{"ip":"10.0.0.{i}","mac":"00:00:00:00:00:00","id":"old-{i}"}}"#);
        server.lease_as_old(&format!("net/10.0.0.{i}"), &value);
    }
    server.lease_as_old("net", r#"{"gw":"","net":"10.0.0.0/24"}"#);
    server.lease_as_old("net2/10.0.0.201", r#"{"id":"other"}"#);
    server
}

#[test]
fn old_keys_are_taken_over_once_and_cost_no_trip_later() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    let first = lease(&mut store, "c1", &at(1));
    assert_eq!(leases(&mut store).len(), 200);
    assert!(leases(&mut store).iter().filter(|l| l.addr == first[0]).count() == 1);
    let mut trips = |command: &Command| {
        let before = server.trips.get();
        let outcome = store.apply(command, &at(2)).unwrap();
        (server.trips.get() - before, outcome)
    };
    assert_eq!(trips(&Command::Add(old_add("c2"))).0, 1, "ADD");
    assert_eq!(trips(&Command::Del(old_del("c2"))).0, 2, "DEL");
    assert_eq!(trips(&Command::Del(old_del("c2"))).0, 1, "DEL of nothing");
    // The old one knew no interfaces; any node may be the container's.
    let elsewhere = Node { name: "elsewhere".to_owned(), machine: "m2".to_owned() };
    let cx = Context { node: elsewhere, ..at(3) };
    assert_eq!(free(&mut store, "old-7", &cx), [addr("10.0.0.7")]);
    assert_eq!(lease(&mut store, "old-8", &cx), [addr("10.0.0.8")]);
    assert_eq!(leases(&mut store).len(), 199);
    // The old keys stay as they are.
    assert_eq!(server.old.borrow().len(), 201);
}

#[test]
fn a_del_before_the_first_add_frees_an_old_lease_for_good() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    assert_eq!(free(&mut store, "old-9", &at(1)), [addr("10.0.0.9")]);
    assert_eq!(free(&mut store, "old-9", &at(1)), []);
    assert_eq!(leases(&mut store).len(), 198);
    lease(&mut store, "c1", &at(2));
    assert_eq!(leases(&mut store).len(), 199);
}

#[test]
fn a_takeover_that_was_interrupted_is_ended_by_the_next_add() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    // Killed after a portion: nothing says that all is there.
    let portion = |some: &[u8]| {
        let lease = |i: &u8| ForeignLease {
            addr: addr(&format!("10.0.0.{i}")),
            kind: Kind::Dynamic,
            owner: Owner::Attachment(Attachment {
                ifname: None,
                ..attachment(&format!("old-{i}"))
            }),
        };
        let leases = some.iter().map(lease).collect();
        Command::Import(Import {
            set: net(),
            leases,
            cursors: vec![],
            adopts: NetworkName::new("net").ok(),
            partial: true,
            dry_run: false,
        })
    };
    store.apply(&portion(&[2, 3, 4]), &at(1)).unwrap();
    // And a node that is a little behind, while another ends it.
    let other = server.clone();
    *server.intruder.borrow_mut() = Some(Box::new(move || {
        lease(&mut FakeStore::new(other), "theirs", &at(1));
    }));
    lease(&mut store, "mine", &at(1));
    assert_eq!(leases(&mut store).len(), 201);
}

/// Another node imports all leases, and a container ends, after this node has read the old keys; once
/// before its first commit, and once before it tries again after a conflict.
#[test]
fn a_late_import_restores_no_freed_lease() {
    for (nests, conflict) in [(false, false), (true, false), (false, true), (true, true)] {
        let server = old_server();
        server.nests.set(nests);
        let other = server.clone();
        let intruder: Box<dyn FnOnce()> = Box::new(move || {
            other.trouble.set(0);
            let mut store = FakeStore::new(other);
            lease(&mut store, "theirs", &at(1));
            // One of the first portion: keys are sorted as text.
            assert_eq!(free(&mut store, "old-100", &at(1)), [addr("10.0.0.100")]);
        });
        let again = server.clone();
        *server.intruder.borrow_mut() = Some(if conflict {
            Box::new(move || {
                // The seed of a conflict without a reason.
                again.trouble.set(23);
                *again.intruder.borrow_mut() = Some(intruder);
            })
        } else {
            intruder
        });
        let mut store = FakeStore::new(server);
        let network = NetworkName::new("net").unwrap();
        let import = engine::import_consul(&mut store, &net(), &network, false, &at(1));
        assert_eq!(import.unwrap(), Imported::Before);
        lease(&mut store, "mine", &at(1));
        let left = leases(&mut store);
        assert!(left.iter().all(|l| l.addr != addr("10.0.0.100")), "{nests} {conflict}");
        assert_eq!(left.len(), 200);
    }
}

#[test]
fn old_keys_that_mean_nothing_refuse_the_add() {
    for (key, value, word) in [
        ("net/10.0.0.9", "garbage", "no JSON"),
        ("net/10.0.0.9", r#"{"id":""}"#, "no container ID"),
        ("net/junk", r#"{"id":"c"}"#, "no address"),
    ] {
        let server = Rc::new(FakeServer::default());
        server.lease_as_old(key, value);
        let mut store = FakeStore::new(server.clone());
        let refusal = engine::add(&mut store, old_add("c1"), None, &at(1)).unwrap_err().to_string();
        assert!(refusal.contains(word) && refusal.contains(key), "{refusal}");
        assert_eq!(server.paths(), Vec::<String>::new());
    }
}
