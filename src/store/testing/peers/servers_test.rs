//! Runs the contract on real etcd and Consul servers.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::contract::{
    CASES, CaseName, add, added, addr, at, del, dual_stack, gc_all, leases, set,
};
use super::delegate::{delegate_reads, delegate_repairs};
use super::history_test;
use super::round_trips_test::Counted;
use super::servers;
use crate::alloc::{Add, Command, Context, Outcome, Requested};
use crate::error::{Error, StoreError};
use crate::model::{History, Lease, Node, Persist};
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::consul::Consul;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::{ClusterStore, LocalCache, Server};
use crate::store::{Store, StoreReader};

const LIMIT: Duration = Duration::from_secs(20);

/// A cluster store that checks, whenever it lists the leases, that the server's records agree with each
/// other. The function makes the client that reads the records for this check.
struct Checked<S: Server, F: Fn() -> S>(ClusterStore<S>, F);

impl<S: Server, F: Fn() -> S> Store for Checked<S, F> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.0.apply(command, cx)
    }
    delegate_repairs!(self => (&mut self.0));
}

impl<S: Server, F: Fn() -> S> StoreReader for Checked<S, F> {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        assert_sound(&(self.1)());
        self.0.list(cx, each)
    }
    delegate_reads!(self => (&mut self.0));
}

fn store_of<S: Server>(server: S, folder: &Path, cluster: &str) -> ClusterStore<S> {
    let cache = LocalCache::new(folder, cluster.to_owned());
    ClusterStore::new(server, LIMIT, Persist::Boot, cache)
}

/// Runs all checks on a server. `make` makes a client, and its argument is a prefix for the client's keys.
fn check<S: Server + 'static>(make: &(impl Fn(&str) -> S + Clone + 'static)) {
    meets_the_contract(make);
    keeps_history(make);
    takes_the_fewest_round_trips(make("tests/trips"));
    holds_thousands_of_leases(make("tests/many"));
}

fn meets_the_contract<S: Server + 'static>(make: &(impl Fn(&str) -> S + Clone + 'static)) {
    let folder = Rc::new(tempfile::tempdir().unwrap());
    for (i, (name, case)) in CASES.iter().enumerate() {
        let _name = CaseName((*name).to_owned());
        let prefix = format!("tests/case-{i}");
        case(&|| {
            let (make, prefix) = (make.clone(), prefix.clone());
            let store = store_of(make(&prefix), folder.path(), &prefix);
            Box::new(Checked(store, move || make(&prefix)))
        });
    }
}

fn keeps_history<S: Server + 'static>(make: &(impl Fn(&str) -> S + Clone + 'static)) {
    for (i, case) in history_test::CASES.iter().enumerate() {
        let (folder, prefix) = (tempfile::tempdir().unwrap(), format!("tests/history-{i}"));
        case(&|| Box::new(store_of(make(&prefix), folder.path(), &prefix)));
    }
    history_test::history_of_a_network_is_bounded(&|| make("tests/past"));
}

fn takes_the_fewest_round_trips(server: impl Server) {
    // A repeated ADD finds its owner's record already present. etcd returns this record with the conflict.
    // Consul returns only the path, so the ADD needs a second round trip to read the record.
    let repeated = if server.place().starts_with("etcd") { 1 } else { 2 };
    let count = Rc::new(Cell::new(0));
    let folder = tempfile::tempdir().unwrap();
    // Removing old events would take additional round trips, so keep all history.
    let history = History::Kept { count: u64::MAX, age: u64::MAX };
    let store = store_of(Counted(server, count.clone()), folder.path(), "trips");
    let mut store = store.keeping(history);
    let mut trips = |command: &Command| {
        count.set(0);
        store.apply(command, &at(1)).unwrap();
        count.get()
    };
    let requested = vec![Requested { addr: addr("10.0.0.9"), prefix: None }];
    // The first ADD of a boot needs additional round trips: to claim the node's name, and to find leases and
    // history of earlier boots.
    assert_eq!(trips(&Command::Add(add("first", &dual_stack()))), 5, "first ADD");
    assert_eq!(trips(&Command::Add(add("c1", &dual_stack()))), 1, "ADD");
    assert_eq!(trips(&Command::Add(add("c1", &dual_stack()))), repeated, "repeated ADD");
    assert_eq!(trips(&Command::Add(Add { requested, ..add("c2", &dual_stack()) })), 1, "fixed ADD");
    assert_eq!(trips(&del("c1")), 2, "DEL");
    // A DEL of an unknown container searches all sets, because the setting `shared` may have been changed
    // since the ADD.
    assert_eq!(trips(&del("c1")), 2, "DEL of nothing");
}

/// Tests a listing that takes more than one page. Each node's GC must free only the leases of that node.
fn holds_thousands_of_leases(server: impl Server) {
    let sets = [set("10.0.0.0/16")];
    let folder = tempfile::tempdir().unwrap();
    let mut store = store_of(server, folder.path(), "many");
    for i in 0..5000 {
        added(&mut store, &add(&format!("c{i}"), &sets), &at(1));
    }
    assert_eq!(leases(&mut store).len(), 5000);
    let other =
        Context { node: Node { name: "other".to_owned(), machine: "m".to_owned() }, ..at(2) };
    added(&mut store, &add("c1", &sets), &other);
    assert_eq!(crate::engine::gc(&mut store, gc_all(), &other).unwrap(), 1);
    assert_eq!(crate::engine::gc(&mut store, gc_all(), &at(2)).unwrap(), 5000);
    assert!(leases(&mut store).is_empty());
}

#[test]
fn etcd_meets_the_contract() {
    let server = Rc::new(servers::ready_etcd());
    check(&move |prefix: &str| Etcd::new(&server.etcd(prefix)).unwrap());
}

#[test]
fn consul_meets_the_contract() {
    let server = Rc::new(servers::ready_consul());
    check(&move |prefix: &str| Consul::new(&server.consul(prefix)).unwrap());
}
