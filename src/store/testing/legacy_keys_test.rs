//! Tests with leases of cni-ipam-consul (another IPAM plugin) on the same server. An ADD is refused until
//! these leases are imported. The import then writes the import mark (a record that the import is complete).
//! Checking the import mark costs an ADD no additional round trip.

use std::rc::Rc;

use super::contract::{add, addr, at, attachment, leases, net, owner, set};
use super::fake_cluster::{FakeServer, FakeStore};
use crate::alloc::{Add, Command, Context, Del, ForeignLease, Import, Imported, Legacy, Target};
use crate::engine;
use crate::error::{Error, Refusal};
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

fn import(store: &mut FakeStore, cx: &Context) -> Imported {
    let network = NetworkName::new("net").unwrap();
    engine::import_consul(store, &net(), &network, false, cx).unwrap()
}

fn free(store: &mut FakeStore, container: &str, cx: &Context) -> Vec<Addr> {
    let freed = engine::del(store, old_del(container), None, cx).unwrap();
    freed.iter().map(|lease| lease.addr).collect()
}

/// Makes a server that has more leases of cni-ipam-consul than fit into one transaction, and a key of another
/// network.
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
    assert!(
        matches!(import(&mut store, &at(1)), Imported::Done { taken, .. } if taken.len() == 199)
    );
    let first = lease(&mut store, "c1", &at(1));
    assert_eq!(import(&mut store, &at(1)), Imported::Before);
    assert_eq!(leases(&mut store).len(), 200);
    assert!(leases(&mut store).iter().filter(|l| l.addr == first[0]).count() == 1);
    let mut trips = |command: &Command| {
        let before = server.round_trips.get();
        let outcome = store.apply(command, &at(2)).unwrap();
        (server.round_trips.get() - before, outcome)
    };
    assert_eq!(trips(&Command::Add(old_add("c2"))).0, 1, "ADD");
    assert_eq!(trips(&Command::Del(old_del("c2"))).0, 2, "DEL");
    assert_eq!(trips(&Command::Del(old_del("c2"))).0, 2, "DEL of nothing");
    // cni-ipam-consul recorded neither interfaces nor nodes. Therefore any node can free an imported lease,
    // or get it for a repeated ADD.
    let elsewhere = Node { name: "elsewhere".to_owned(), machine: "m2".to_owned() };
    let cx = Context { node: elsewhere, ..at(3) };
    assert_eq!(free(&mut store, "old-7", &cx), [addr("10.0.0.7")]);
    assert_eq!(lease(&mut store, "old-8", &cx), [addr("10.0.0.8")]);
    assert_eq!(leases(&mut store).len(), 199);
    // The import does not change the old keys.
    assert_eq!(server.old_keys.borrow().len(), 201);
}

#[test]
fn nothing_is_leased_before_the_import() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    let refused = |result: Result<(), Error>| {
        let Err(Error::Refused(Refusal::NotImported { count, .. })) = result else {
            panic!("{result:?}");
        };
        assert_eq!(count, 199);
    };
    for container in ["c1", "old-7"] {
        refused(engine::add(&mut store, old_add(container), None, &at(1)).map(drop));
    }
    // A DEL of a container with an old key is refused, so that the runtime repeats it after the import.
    refused(engine::del(&mut store, old_del("old-7"), None, &at(1)).map(drop));
    assert_eq!(free(&mut store, "never-seen", &at(1)), []);
    assert_eq!(server.paths(), ["node/node"]);
    import(&mut store, &at(2));
    assert_eq!(free(&mut store, "old-7", &at(2)), [addr("10.0.0.7")]);
    assert_eq!(lease(&mut store, "c1", &at(2)).len(), 1);
}

#[test]
fn the_first_add_that_finds_no_old_keys_writes_the_mark() {
    let server = FakeServer::new(false);
    server.write_old_key("net", r#"{"gw":"","net":"10.0.0.0/24"}"#);
    server.write_old_key("net2/10.0.0.201", r#"{"id":"other"}"#);
    let mut store = FakeStore::new(server.clone());
    lease(&mut store, "c1", &at(1));
    assert!(server.paths().contains(&"adopted/net".to_owned()), "{:?}", server.paths());
    let before = server.round_trips.get();
    lease(&mut store, "c2", &at(1));
    assert_eq!(server.round_trips.get() - before, 1);
    // A key that cni-ipam-consul writes after the import has no effect.
    server.write_old_key("net/10.0.0.9", r#"{"id":"late"}"#);
    lease(&mut store, "c3", &at(1));
}

#[test]
fn the_next_import_completes_an_interrupted_one() {
    let server = old_server();
    let mut store = FakeStore::new(server.clone());
    // An import is killed after it has committed one portion of the leases, so there is no import mark (the
    // record that the import is complete).
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
    // Another node completes the import immediately before this node's import commits.
    let other = server.clone();
    *server.before_commit.borrow_mut() = Some(Box::new(move || {
        import(&mut FakeStore::new(other), &at(1));
    }));
    assert_eq!(import(&mut store, &at(1)), Imported::Before);
    assert_eq!(leases(&mut store).len(), 199);
}

/// While this node imports, another node imports all leases and then frees one of them. This node has already
/// read the old key of the freed lease, but must not import it. The other node acts either before this node's
/// first commit, or after this commit has conflicted and before it is repeated.
#[test]
fn a_late_import_restores_no_freed_lease() {
    for (is_etcd, conflict) in [(false, false), (true, false), (false, true), (true, true)] {
        let server = old_server();
        server.is_etcd.set(is_etcd);
        let other = server.clone();
        let intruder: Box<dyn FnOnce()> = Box::new(move || {
            other.failure_seed.set(0);
            let mut store = FakeStore::new(other);
            import(&mut store, &at(1));
            // Keys are sorted as text, so this lease is in the first portion that the import commits.
            assert_eq!(free(&mut store, "old-100", &at(1)), [addr("10.0.0.100")]);
        });
        let again = server.clone();
        *server.before_commit.borrow_mut() = Some(if conflict {
            Box::new(move || {
                // With this seed, the server reports that the next commit conflicts, although it does not.
                again.failure_seed.set(23);
                *again.before_commit.borrow_mut() = Some(intruder);
            })
        } else {
            intruder
        });
        let mut store = FakeStore::new(server);
        assert_eq!(import(&mut store, &at(1)), Imported::Before);
        lease(&mut store, "mine", &at(1));
        let left = leases(&mut store);
        assert!(left.iter().all(|l| l.addr != addr("10.0.0.100")), "{is_etcd} {conflict}");
        assert_eq!(left.len(), 199);
    }
}

#[test]
fn invalid_old_keys_refuse_the_add() {
    for (key, value, word) in [
        ("net/10.0.0.9", "garbage", "not valid JSON"),
        ("net/10.0.0.9", r#"{"id":""}"#, "not a container ID"),
        ("net/junk", r#"{"id":"c"}"#, "not an address"),
    ] {
        let server = FakeServer::new(false);
        server.write_old_key(key, value);
        let mut store = FakeStore::new(server.clone());
        let refusal = engine::add(&mut store, old_add("c1"), None, &at(1)).unwrap_err().to_string();
        assert!(refusal.contains(word) && refusal.contains(key), "{refusal}");
        assert_eq!(server.paths(), ["node/node"]);
    }
}
