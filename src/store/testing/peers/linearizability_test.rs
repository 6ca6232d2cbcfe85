//! Many clients on a cluster whose members are killed and paused: what they were told is checked.
//!
//! Each client adds and deletes containers of its own, and notes when it asked and when it was
//! answered. The history is sound if no address was held by two at a time, counted from the answer to
//! an ADD to the question of its DEL, and if at the end just what is held is there. A client that got
//! no answer does not know what it holds; it asks for the same container again until it knows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::contract::{add, at, del, leases, set};
use super::servers;
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Etcd as Spec, Face, Node};
use crate::net::Addr;
use crate::store::Store;
use crate::store::cluster::backoff::pause;
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::{
    ClusterStore, Commit, Entries, Entry, Expect, KeyRange, Operation, Server,
};

const CLIENTS: u64 = 16;

/// Held by a client from the answer to its ADD to the question of its DEL.
#[derive(Debug)]
struct Held {
    addr: Addr,
    from: Instant,
    /// `None`: to the end.
    to: Option<Instant>,
}

/// Forgets to compare: the control.
struct Blind(Etcd);

impl Server for Blind {
    fn place(&self) -> String {
        self.0.place()
    }
    fn max_operations(&self) -> usize {
        self.0.max_operations()
    }
    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
        self.0.get(paths, until)
    }
    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        self.0.list(prefix, until)
    }
    fn count(
        &self,
        folder: &str,
        windows: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError> {
        self.0.count(folder, windows, until)
    }
    fn max_candidates(&self) -> usize {
        1
    }
    fn commit(&self, tries: &[&[Operation]], until: Instant) -> Result<Commit, StoreError> {
        let blind = |step: &Operation| Operation { expect: Expect::Anything, ..step.clone() };
        self.0.commit(&[&tries[0].iter().map(blind).collect::<Vec<_>>()], until)
    }
}

struct Tally {
    history: Vec<Held>,
    answered: usize,
    unanswered: usize,
}

/// One client, for as long as it may.
fn client(mut store: impl Store, number: u64, stop: &AtomicBool) -> Tally {
    let sets = [set("10.0.0.0/27")];
    let mut tally = Tally { history: Vec::new(), answered: 0, unanswered: 0 };
    let mut chance = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let cx = Context {
            node: Node { name: format!("node-{number}"), machine: "m".to_owned() },
            seed: chance,
            face: Face::Cni,
            ..at(round)
        };
        let name = format!("c-{number}-{round}");
        let mut ask = |command: &Command, tally: &mut Tally| {
            loop {
                match store.apply(command, &cx) {
                    Err(Error::Store(e)) => {
                        assert!(!matches!(e, StoreError::BadRecord { .. }), "{e}");
                        tally.unanswered += 1;
                        pause(Duration::from_millis(5), Instant::now() + Duration::from_secs(1));
                    }
                    known => {
                        tally.answered += 1;
                        return known;
                    }
                }
            }
        };
        let addr = match ask(&Command::Add(add(&name, &sets)), &mut tally) {
            Ok(Outcome::Added(added)) => added.grants[0].addr,
            Err(Error::Refused(Refusal::Exhausted { .. })) => continue,
            other => panic!("{other:?}"),
        };
        tally.history.push(Held { addr, from: Instant::now(), to: None });
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pause(Duration::from_millis(chance >> 59), Instant::now() + Duration::from_secs(1));
        // The last one is kept: what is held at the end must be there.
        if stop.load(Ordering::Relaxed) {
            break;
        }
        tally.history.last_mut().unwrap().to = Some(Instant::now());
        match ask(&del(&name), &mut tally) {
            Ok(Outcome::Freed(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    tally
}

/// The addresses that two held at a time.
fn doubly_held(history: &[Held]) -> Vec<Addr> {
    let mut held: Vec<&Held> = history.iter().collect();
    held.sort_by_key(|h| (h.addr, h.from));
    let overlap = |pair: &&[&Held]| {
        pair[0].addr == pair[1].addr && pair[0].to.is_none_or(|to| to > pair[1].from)
    };
    held.windows(2).filter(overlap).map(|pair| pair[0].addr).collect()
}

/// Runs the clients beside `disturb`; answers with all that they noted.
fn run<S: Store>(make: impl Fn(u64) -> S + Sync, disturb: impl FnOnce()) -> Tally {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let make = &make;
        let stop = &stop;
        let clients: Vec<_> =
            (0..CLIENTS).map(|n| scope.spawn(move || client(make(n), n, stop))).collect();
        disturb();
        stop.store(true, Ordering::Relaxed);
        let mut all = Tally { history: Vec::new(), answered: 0, unanswered: 0 };
        for one in clients {
            let one = one.join().unwrap();
            all.history.extend(one.history);
            all.answered += one.answered;
            all.unanswered += one.unanswered;
        }
        all
    })
}

fn wait(millis: u64) {
    let wait = Duration::from_millis(millis);
    pause(wait, Instant::now() + wait);
}

#[test]
fn no_address_is_held_twice_while_members_die() {
    let members = servers::etcd_of_three();
    let endpoints = members.each_ref().map(|m| m.endpoint.clone());
    let mut spec: Spec = members[0].etcd("sublet");
    spec.servers.timeout = Duration::from_secs(2);
    let probe = Etcd::new(&spec).unwrap();
    let mut members = members.map(|member| member.await_ready(&probe));
    spec.servers.endpoints = endpoints.to_vec();
    let make = |number: u64| {
        let mut spec = spec.clone();
        // Each begins with another member.
        spec.servers.endpoints.rotate_left(usize::try_from(number).unwrap() % 3);
        ClusterStore::new(Etcd::new(&spec).unwrap(), spec.servers.timeout)
    };
    let tally = run(make, || {
        for round in 0..6 {
            let member = &mut members[round % 3];
            wait(700);
            if round % 2 == 0 {
                member.signal("STOP");
                wait(1800);
                member.signal("CONT");
            } else {
                member.restart();
                wait(1200);
            }
        }
        // A majority is gone for a while.
        members[0].signal("STOP");
        members[1].signal("STOP");
        wait(2500);
        members[0].signal("CONT");
        members[1].signal("CONT");
        wait(3000);
    });
    let [answered, unanswered] = [tally.answered, tally.unanswered];
    assert!(answered > 500, "{answered} answers are no proof");
    assert!(unanswered > 0, "nothing was disturbed");
    assert_eq!(doubly_held(&tally.history), [], "{answered} answers, {unanswered} failures");
    let mut store = make(0);
    assert_sound(&Etcd::new(&spec).unwrap());
    let mut kept: Vec<Addr> =
        tally.history.iter().filter(|h| h.to.is_none()).map(|h| h.addr).collect();
    kept.sort();
    let there: Vec<Addr> = leases(&mut store).iter().map(|l| l.addr).collect();
    assert_eq!(there, kept, "{answered} answers, {unanswered} failures");
}

/// The control: a store that does not compare is found out by the same check.
#[test]
fn a_history_without_comparing_is_noticed() {
    let server = servers::etcd(&[]);
    let spec = server.etcd("sublet");
    let probe = Etcd::new(&spec).unwrap();
    let _server = server.await_ready(&probe);
    let make = |_| ClusterStore::new(Blind(Etcd::new(&spec).unwrap()), Duration::from_secs(20));
    // It may trip over its own records before that, which is being noticed, too.
    let seen = std::panic::catch_unwind(|| doubly_held(&run(make, || wait(1500)).history));
    assert!(seen.is_err() || seen.is_ok_and(|addrs| !addrs.is_empty()));
}
