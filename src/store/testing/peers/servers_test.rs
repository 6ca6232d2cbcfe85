//! The contract on real servers: etcd and Consul.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::contract::{CASES, Named, add, addr, at, del, dual, given, leases, set};
use super::delegate::{reads, repairs};
use super::history_test;
use super::round_trips_test::Counted;
use super::servers;
use super::servers::Running;
use crate::alloc::{Add, Command, Context, Outcome, Requested};
use crate::error::{Error, StoreError};
use crate::model::{Lease, Node, Persist};
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::consul::Consul;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::{
    ClusterStore, Commit, Entries, Entry, KeyRange, LocalCache, Operation, Server,
};
use crate::store::{Store, StoreReader};

const LIMIT: Duration = Duration::from_secs(20);

/// A store whose listing checks that addresses and owners agree.
struct Audited<E: Server, F: Fn() -> E>(ClusterStore<E>, F);

impl<E: Server, F: Fn() -> E> Store for Audited<E, F> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.0.apply(command, cx)
    }
    repairs!(self => (&mut self.0));
}

impl<E: Server, F: Fn() -> E> StoreReader for Audited<E, F> {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        assert_sound(&(self.1)());
        self.0.list(cx, each)
    }
    reads!(self => (&mut self.0));
}

fn keeps_the_contract<E: Server + 'static>(engine: &(impl Fn(&str) -> E + Clone + 'static)) {
    let folder = Rc::new(tempfile::tempdir().unwrap());
    for (i, (name, case)) in CASES.iter().enumerate() {
        let _name = Named((*name).to_owned());
        let prefix = format!("tests/case-{i}");
        let (engine, prefix) = (engine.clone(), Rc::new(prefix));
        let folder = folder.clone();
        case(&|| {
            let (engine, prefix) = (engine.clone(), prefix.clone());
            let store = noting(engine(&prefix), folder.path(), &prefix);
            Box::new(Audited(store, move || engine(&prefix)))
        });
    }
}

/// A store that notes what it has done.
fn noting<E: Server>(engine: E, folder: &Path, cluster: &str) -> ClusterStore<E> {
    ClusterStore::new(engine, LIMIT)
        .with(Persist::Boot, LocalCache::new(Some(folder), cluster.to_owned()))
}

/// What happened is told as by the other stores, and goes when it is to.
fn tells<E: Server + 'static>(engine: &(impl Fn(&str) -> E + Clone + 'static)) {
    for (i, case) in history_test::CASES.iter().enumerate() {
        let (folder, prefix) = (tempfile::tempdir().unwrap(), format!("tests/told-{i}"));
        case(&|| Box::new(noting(engine(&prefix), folder.path(), &prefix)));
    }
    history_test::a_nodes_history_is_bounded(&|| engine("tests/past"));
}

fn is_asked_as_seldom_as_possible(engine: impl Server) {
    // A conflict tells the owner's lease, or (Consul) only that there is one.
    let repeated = if engine.max_candidates() > 1 { 1 } else { 2 };
    let count = Rc::new(Cell::new(0));
    let folder = tempfile::tempdir().unwrap();
    let mut store = noting(Counted(engine, count.clone()), folder.path(), "trips");
    let mut trips = |command: &Command| {
        count.set(0);
        let outcome = store.apply(command, &at(1)).unwrap();
        (count.get(), outcome)
    };
    let requested = vec![Requested { addr: addr("10.0.0.9"), prefix: None }];
    // A boot's first ADD claims the node, looks for leases and history that earlier boots left, and
    // notes that.
    assert_eq!(trips(&Command::Add(add("first", &dual()))).0, 5, "first ADD");
    assert_eq!(trips(&Command::Add(add("c1", &dual()))).0, 1, "ADD");
    assert_eq!(trips(&Command::Add(add("c1", &dual()))).0, repeated, "repeated ADD");
    assert_eq!(trips(&Command::Add(Add { requested, ..add("c2", &dual()) })).0, 1, "fixed ADD");
    assert_eq!(trips(&del("c1")).0, 2, "DEL");
    assert_eq!(trips(&del("c1")).0, 1, "DEL of nothing");
}

/// More than a page, and each node collects its own.
fn thousands_of_leases(engine: Box<dyn Server>) {
    let sets = [set("10.0.0.0/16")];
    let folder = tempfile::tempdir().unwrap();
    let mut store = noting(engine, folder.path(), "many");
    for i in 0..5000 {
        given(&mut store, &add(&format!("c{i}"), &sets), &at(1));
    }
    assert_eq!(leases(&mut store).len(), 5000);
    let other =
        Context { node: Node { name: "other".to_owned(), machine: "m".to_owned() }, ..at(2) };
    given(&mut store, &add("c1", &sets), &other);
    let network = crate::model::NetworkName::new("net").unwrap();
    let gc =
        crate::alloc::Gc { set: super::contract::net(), network, valid: [].into(), after: None };
    assert_eq!(crate::engine::gc(&mut store, gc.clone(), &other).unwrap(), 1);
    assert_eq!(crate::engine::gc(&mut store, gc, &at(2)).unwrap(), 5000);
    assert!(leases(&mut store).is_empty());
}

fn ready(server: Running, engine: &dyn Server) -> Running {
    server.await_ready(engine)
}

impl Server for Box<dyn Server> {
    fn place(&self) -> String {
        (**self).place()
    }
    fn max_operations(&self) -> usize {
        (**self).max_operations()
    }
    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
        (**self).get(paths, until)
    }
    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        (**self).list(prefix, until)
    }
    fn count(
        &self,
        folder: &str,
        windows: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError> {
        (**self).count(folder, windows, until)
    }
    fn max_candidates(&self) -> usize {
        (**self).max_candidates()
    }
    fn commit(&self, tries: &[&[Operation]], until: Instant) -> Result<Commit, StoreError> {
        (**self).commit(tries, until)
    }
}

#[test]
fn etcd_keeps_the_contract() {
    let server = servers::etcd(&[]);
    let probe = Etcd::new(&server.etcd("tests")).unwrap();
    let server = Rc::new(ready(server, &probe));
    let here = server.clone();
    let engine = move |prefix: &str| Etcd::new(&here.etcd(prefix)).unwrap();
    keeps_the_contract(&engine);
    tells(&engine);
    is_asked_as_seldom_as_possible(Etcd::new(&server.etcd("tests/trips")).unwrap());
    thousands_of_leases(Box::new(Etcd::new(&server.etcd("tests/many")).unwrap()));
}

#[test]
fn consul_keeps_the_contract() {
    let server = servers::consul("");
    let probe = Consul::new(&server.consul("tests")).unwrap();
    let server = Rc::new(ready(server, &probe));
    let here = server.clone();
    let engine = move |prefix: &str| Consul::new(&here.consul(prefix)).unwrap();
    keeps_the_contract(&engine);
    tells(&engine);
    is_asked_as_seldom_as_possible(Consul::new(&server.consul("tests/trips")).unwrap());
    thousands_of_leases(Box::new(Consul::new(&server.consul("tests/many")).unwrap()));
}
