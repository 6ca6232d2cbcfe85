//! Leases of cni-ipam-consul on the same server: they are imported once, by the first client, and cost no round
//! trip later.

use std::rc::Rc;

use super::contract::{add, added, addr, at, attachment, freed, leases, net, owner, refused, set};
use super::fake_cluster::{FakeServer, FakeStore};
use crate::alloc::{Add, Command, Context, Del, Import, Imported, Legacy, Target};
use crate::model::{Attachment, Kind, NetworkName, Node, Owner};
use crate::store::Store;

fn old_add(container: &str) -> Add {
    Add { legacy: Legacy::Unread, ..add(container, &[set("10.0.0.0/16")]) }
}

fn old_del(container: &str) -> Command {
    let network = NetworkName::new("net").ok();
    let target = Target::Owner(owner(container));
    Command::Del(Del { set: net(), target, rewind: false, undo: false, legacy: network })
}

/// A server with more leases of cni-ipam-consul than fit in one transaction, and a key of another network.
fn old_server() -> Rc<FakeServer> {
    let server = FakeServer::new(false);
    for i in 2..=200 {
        let value = format!(r#"{{"ip":"10.0.0.{i}","mac":"00:00:00:00:00:00","id":"old-{i}"}}"#);
        server.write_old_key(&format!("net/10.0.0.{i}"), &value);
    }
    server.write_old_key("net", r#"{"gw":"","net":"10.0.0.0/24"}"#);
    server.write_old_key("net2/10.0.0.201", r#"{"id":"other"}"#);
    server
}

#[test]
fn old_keys_are_imported_once_and_cost_no_round_trip_later() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    let first = added(&mut store, &old_add("c1"), &at(1));
    assert_eq!(leases(&mut store).len(), 200);
    assert!(leases(&mut store).iter().filter(|l| l.addr == first[0]).count() == 1);
    let mut trips = |command: &Command| {
        let before = server.round_trips.get();
        let outcome = store.apply(command, &at(2)).unwrap();
        (server.round_trips.get() - before, outcome)
    };
    assert_eq!(trips(&Command::Add(old_add("c2"))).0, 1, "ADD");
    assert_eq!(trips(&old_del("c2")).0, 2, "DEL");
    assert_eq!(trips(&old_del("c2")).0, 1, "DEL of nothing");
    // cni-ipam-consul recorded neither interfaces nor nodes.
    let elsewhere = Node { name: "elsewhere".to_owned(), machine: "m2".to_owned() };
    let cx = Context { node: elsewhere, ..at(3) };
    assert_eq!(freed(&mut store, &old_del("old-7"), &cx), [addr("10.0.0.7")]);
    assert_eq!(added(&mut store, &old_add("old-8"), &cx), [addr("10.0.0.8")]);
    assert_eq!(leases(&mut store).len(), 199);
    // The old keys stay, and only a change is reported.
    assert_eq!(store.old_keys_changed().unwrap(), Vec::<String>::new());
    server.write_old_key("net/10.0.0.7", r#"{"id":"late"}"#);
    assert_eq!(store.old_keys_changed().unwrap(), ["net/10.0.0.7"]);
}

#[test]
fn a_del_before_the_first_add_frees_an_old_lease_for_good() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    assert_eq!(freed(&mut store, &old_del("old-9"), &at(1)), [addr("10.0.0.9")]);
    assert_eq!(freed(&mut store, &old_del("old-9"), &at(1)), []);
    assert_eq!(leases(&mut store).len(), 198);
    added(&mut store, &old_add("c1"), &at(2));
    assert_eq!(leases(&mut store).len(), 199);
}

#[test]
fn the_next_add_completes_an_interrupted_import() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    // Killed after a portion: there is no mark that the import is complete.
    let portion = |some: &[u8]| {
        let lease = |i: &u8| Imported {
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
            adopts: None,
            dry_run: false,
        })
    };
    store.apply(&portion(&[2, 3, 4]), &at(1)).unwrap();
    // Another node completes the import at the same time.
    let other = server.clone();
    *server.before_commit.borrow_mut() = Some(Box::new(move || {
        added(&mut FakeStore::new(other), &old_add("theirs"), &at(1));
    }));
    added(&mut store, &old_add("mine"), &at(1));
    assert_eq!(leases(&mut store).len(), 201);
}

/// This node has read the old keys. Another node imports them, and a container is deleted.
#[test]
fn a_late_import_does_not_restore_freed_leases() {
    for is_etcd in [false, true] {
        let server = old_server();
        server.is_etcd.set(is_etcd);
        let other = server.clone();
        *server.before_commit.borrow_mut() = Some(Box::new(move || {
            let mut store = FakeStore::new(other);
            added(&mut store, &old_add("theirs"), &at(1));
            assert_eq!(freed(&mut store, &old_del("old-9"), &at(1)), [addr("10.0.0.9")]);
        }));
        let mut store = FakeStore::new(server);
        added(&mut store, &old_add("mine"), &at(1));
        let left = leases(&mut store);
        assert!(left.iter().all(|l| l.addr != addr("10.0.0.9")), "it was restored");
        assert_eq!(left.len(), 200);
    }
}

#[test]
fn invalid_old_keys_refuse_the_add() {
    for (key, value, word) in [
        ("net/10.0.0.9", "garbage", "no JSON"),
        ("net/10.0.0.9", r#"{"id":""}"#, "no container ID"),
        ("net/junk", r#"{"id":"c"}"#, "no address"),
    ] {
        let server = FakeServer::new(false);
        server.write_old_key(key, value);
        let mut store = FakeStore::new(server.clone());
        let refusal = refused(&mut store, &Command::Add(old_add("c1")), &at(1)).to_string();
        assert!(refusal.contains(word) && refusal.contains(key), "{refusal}");
        assert_eq!(server.paths(), Vec::<String>::new());
    }
}
