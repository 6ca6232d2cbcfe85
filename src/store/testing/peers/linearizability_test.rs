//! Tests in which many clients use a cluster while its members are killed and paused.
//!
//! Each client adds and deletes its own containers, and records when it sent each request and when it got
//! each response. The run is correct if no two containers held an address at the same time, and if exactly
//! the addresses held at the end have leases. A container holds an address from the response to its ADD until
//! its DEL is sent. If a command gets no response, the client cannot know which address its container holds,
//! so it repeats the command until there is a response.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::contract::{add, at, del, leases, set};
use super::delegate::delegate_server;
use super::fake_cluster::no_cache;
use super::servers;
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Etcd as Spec, Face, Node, Persist};
use crate::net::Addr;
use crate::store::Store;
use crate::store::cluster::ClusterStore;
use crate::store::cluster::backoff::pause;
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::server::{Commit, Entries, Entry, KeyRange, Operation, Server};

const CLIENTS: u64 = 16;

/// An address that a client held, from the response to its ADD until it sent its DEL.
#[derive(Debug)]
pub struct Held {
    pub addr: Addr,
    pub from: Instant,
    /// When the DEL was sent; `None` if the address was still held at the end.
    pub to: Option<Instant>,
}

/// An etcd client whose transactions compare nothing. Used in the control run.
struct Blind(Etcd);

impl Server for Blind {
    delegate_server!(self => self.0, self.0);

    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError> {
        let blind = |operation: &Operation| {
            let (path, write) = (operation.path.clone(), operation.write.clone());
            Operation::write(path, write)
        };
        self.0.commit(&operations.iter().map(blind).collect::<Vec<_>>(), until)
    }
}

struct Run {
    history: Vec<Held>,
    answered: usize,
    unanswered: usize,
}

/// Runs one client until `stop` is set. Returns what it recorded.
fn client(mut store: impl Store, number: u64, stop: &AtomicBool) -> Run {
    let sets = [set("10.0.0.0/27")];
    let mut run = Run { history: Vec::new(), answered: 0, unanswered: 0 };
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
        let mut ask = |command: &Command, run: &mut Run| {
            loop {
                match store.apply(command, &cx) {
                    Err(Error::Store(e)) => {
                        assert!(!matches!(e, StoreError::BadRecord { .. }), "{e}");
                        run.unanswered += 1;
                        pause(Duration::from_millis(5), Instant::now() + Duration::from_secs(1));
                    }
                    known => {
                        run.answered += 1;
                        return known;
                    }
                }
            }
        };
        let addr = match ask(&Command::Add(add(&name, &sets)), &mut run) {
            Ok(Outcome::Added(added)) => added.grants[0].addr,
            Err(Error::Refused(Refusal::Exhausted { .. })) => continue,
            other => panic!("{other:?}"),
        };
        run.history.push(Held { addr, from: Instant::now(), to: None });
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        pause(Duration::from_millis(chance >> 59), Instant::now() + Duration::from_secs(1));
        // The last container keeps its address. At the end, the test checks that this address has a lease.
        if stop.load(Ordering::Relaxed) {
            break;
        }
        run.history.last_mut().unwrap().to = Some(Instant::now());
        match ask(&del(&name), &mut run) {
            Ok(Outcome::Freed(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    run
}

/// Returns the addresses that two containers held at the same time.
pub fn doubly_held(history: &[Held]) -> Vec<Addr> {
    let mut held: Vec<&Held> = history.iter().collect();
    held.sort_by_key(|h| (h.addr, h.from));
    let overlap = |pair: &&[&Held]| {
        pair[0].addr == pair[1].addr && pair[0].to.is_none_or(|to| to > pair[1].from)
    };
    held.windows(2).filter(overlap).map(|pair| pair[0].addr).collect()
}

/// Runs the clients while `disturb` runs. Returns the combined records of all clients.
fn run_all<S: Store>(make: impl Fn(u64) -> S + Sync, disturb: impl FnOnce()) -> Run {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let make = &make;
        let stop = &stop;
        let clients: Vec<_> =
            (0..CLIENTS).map(|n| scope.spawn(move || client(make(n), n, stop))).collect();
        disturb();
        stop.store(true, Ordering::Relaxed);
        let mut all = Run { history: Vec::new(), answered: 0, unanswered: 0 };
        for one in clients {
            let one = one.join().unwrap();
            all.history.extend(one.history);
            all.answered += one.answered;
            all.unanswered += one.unanswered;
        }
        all
    })
}

pub fn wait(millis: u64) {
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
        // Rotate the list of members, so that the clients do not all have the same first endpoint.
        spec.servers.endpoints.rotate_left(usize::try_from(number).unwrap() % 3);
        ClusterStore::new(
            Etcd::new(&spec).unwrap(),
            spec.servers.timeout,
            Persist::Boot,
            no_cache(),
        )
    };
    let run = run_all(make, || {
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
        // Pause two of the three members for 2.5 seconds, so that the cluster has no majority.
        members[0].signal("STOP");
        members[1].signal("STOP");
        wait(2500);
        members[0].signal("CONT");
        members[1].signal("CONT");
        wait(3000);
    });
    let [answered, unanswered] = [run.answered, run.unanswered];
    assert!(answered > 500, "{answered} answers are no proof");
    assert!(unanswered > 0, "nothing was disturbed");
    assert_eq!(doubly_held(&run.history), [], "{answered} answers, {unanswered} failures");
    let mut store = make(0);
    assert_sound(&Etcd::new(&spec).unwrap());
    let mut kept: Vec<Addr> =
        run.history.iter().filter(|h| h.to.is_none()).map(|h| h.addr).collect();
    kept.sort();
    let there: Vec<Addr> = leases(&mut store).iter().map(|l| l.addr).collect();
    assert_eq!(there, kept, "{answered} answers, {unanswered} failures");
}

/// The control run: if clients compare nothing, the same check must find an address that two containers held.
#[test]
fn a_server_that_does_not_compare_is_detected() {
    let server = servers::ready_etcd();
    let spec = server.etcd("sublet");
    let make = |_| {
        ClusterStore::new(
            Blind(Etcd::new(&spec).unwrap()),
            Duration::from_secs(20),
            Persist::Boot,
            no_cache(),
        )
    };
    // Contradictory records on the server may also make the clients panic, which counts as detection, too.
    let seen = std::panic::catch_unwind(|| doubly_held(&run_all(make, || wait(1500)).history));
    assert!(seen.is_err() || seen.is_ok_and(|addrs| !addrs.is_empty()));
}
