//! The contract on real servers: etcd and Consul.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Store;
use super::cas::audit::assert_sound;
use super::cas::{Cas, Commit, Engine, Entry, Step, Truths};
use super::consul::Consul;
use super::contract::{CASES, Named, add, addr, at, del, dual, given, leases, set, tells};
use super::etcd::Etcd;
use super::servers::{self, Running};
use crate::alloc::{Add, Command, Context, Outcome, Wanted};
use crate::error::{Error, StoreError};
use crate::model::{Lease, Node};

const LIMIT: Duration = Duration::from_secs(20);

/// Counts what is asked.
struct Counted<E>(E, Rc<Cell<usize>>);

impl<E: Engine> Engine for Counted<E> {
    fn place(&self) -> String {
        self.0.place()
    }
    fn room(&self) -> usize {
        self.0.room()
    }
    fn get(&self, paths: &[&str], until: Instant) -> Result<Truths, StoreError> {
        self.1.set(self.1.get() + 1);
        self.0.get(paths, until)
    }
    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        self.1.set(self.1.get() + 1);
        self.0.list(prefix, until)
    }
    fn commit(&self, steps: &[Step], until: Instant) -> Result<Commit, StoreError> {
        self.1.set(self.1.get() + 1);
        self.0.commit(steps, until)
    }
}

/// A store whose listing checks that addresses and owners agree.
struct Audited<E: Engine, F: Fn() -> E>(Cas<E>, F);

impl<E: Engine, F: Fn() -> E> Store for Audited<E, F> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.0.apply(command, cx)
    }
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        assert_sound(&(self.1)());
        self.0.list(cx, each)
    }
    tells!(self => (&mut self.0));
}

fn keeps_the_contract<E: Engine + 'static>(engine: &(impl Fn(&str) -> E + Clone + 'static)) {
    for (i, (name, case)) in CASES.iter().enumerate() {
        let _name = Named((*name).to_owned());
        let prefix = format!("tests/case-{i}");
        let (engine, prefix) = (engine.clone(), Rc::new(prefix));
        case(&|| {
            let (engine, prefix) = (engine.clone(), prefix.clone());
            let again = move || engine(&prefix);
            Box::new(Audited(Cas::new(again(), LIMIT), again))
        });
    }
}

fn is_asked_as_seldom_as_possible(engine: impl Engine) {
    let count = Rc::new(Cell::new(0));
    let mut store = Cas::new(Counted(engine, count.clone()), LIMIT);
    let mut trips = |command: &Command| {
        count.set(0);
        let outcome = store.apply(command, &at(1)).unwrap();
        (count.get(), outcome)
    };
    let wanted = vec![Wanted { addr: addr("10.0.0.9"), prefix: None }];
    assert_eq!(trips(&Command::Add(add("c1", &dual()))).0, 1, "ADD");
    // The compared records come with the conflict.
    assert_eq!(trips(&Command::Add(add("c1", &dual()))).0, 1, "repeated ADD");
    assert_eq!(trips(&Command::Add(Add { wanted, ..add("c2", &dual()) })).0, 1, "fixed ADD");
    assert_eq!(trips(&del("c1")).0, 2, "DEL");
    assert_eq!(trips(&del("c1")).0, 1, "DEL of nothing");
}

/// More than a page, and each node collects its own.
fn thousands_of_leases(engine: &dyn Fn() -> Cas<Box<dyn Engine>>) {
    let sets = [set("10.0.0.0/16")];
    let mut store = engine();
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

fn ready(server: Running, engine: &dyn Engine) -> Running {
    server.await_ready(engine)
}

impl Engine for Box<dyn Engine> {
    fn place(&self) -> String {
        (**self).place()
    }
    fn room(&self) -> usize {
        (**self).room()
    }
    fn get(&self, paths: &[&str], until: Instant) -> Result<Truths, StoreError> {
        (**self).get(paths, until)
    }
    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        (**self).list(prefix, until)
    }
    fn commit(&self, steps: &[Step], until: Instant) -> Result<Commit, StoreError> {
        (**self).commit(steps, until)
    }
}

#[test]
fn etcd_keeps_the_contract() {
    let server = servers::etcd(&[]);
    let probe = Etcd::new(&server.etcd("tests")).unwrap();
    let server = Rc::new(ready(server, &probe));
    let here = server.clone();
    keeps_the_contract(&move |prefix: &str| Etcd::new(&here.etcd(prefix)).unwrap());
    is_asked_as_seldom_as_possible(Etcd::new(&server.etcd("tests/trips")).unwrap());
    thousands_of_leases(&|| {
        Cas::new(Box::new(Etcd::new(&server.etcd("tests/many")).unwrap()), LIMIT)
    });
}

#[test]
fn consul_keeps_the_contract() {
    let server = servers::consul("");
    let probe = Consul::new(&server.consul("tests")).unwrap();
    let server = Rc::new(ready(server, &probe));
    let here = server.clone();
    keeps_the_contract(&move |prefix: &str| Consul::new(&here.consul(prefix)).unwrap());
    is_asked_as_seldom_as_possible(Consul::new(&server.consul("tests/trips")).unwrap());
    thousands_of_leases(&|| {
        Cas::new(Box::new(Consul::new(&server.consul("tests/many")).unwrap()), LIMIT)
    });
}
