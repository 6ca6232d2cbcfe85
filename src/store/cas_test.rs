//! The contract on a compare-and-set server: the same cases, with other clients in between, lost
//! answers, and the round trips counted.

use std::rc::Rc;

use super::Store;
use super::contract::{CASES, add, addr, at, del, dual, given, leases, net, owner, set};
use super::fake_cas::{FakeCas, Server};
use crate::alloc::{Add, Command, Gc, Strategy, Wanted};
use crate::model::NetworkName;

#[test]
fn a_cas_server_keeps_the_contract() {
    for lose_every in [0, 1, 3] {
        for (name, case) in CASES {
            eprintln!("losing every {lose_every}th answer: {name}");
            let server = Rc::new(Server::default());
            server.lose_every.set(lose_every);
            case(&|| Box::new(FakeCas::new(server.clone())));
        }
    }
}

#[test]
fn a_cas_server_is_asked_as_seldom_as_possible() {
    let server = Rc::new(Server::default());
    let mut store = FakeCas::new(server.clone());
    let mut trips = |command: &Command| {
        let before = server.trips.get();
        let _ = store.apply(command, &at(1));
        server.trips.get() - before
    };
    assert_eq!(trips(&Command::Add(add("c1", &dual()))), 1, "ADD");
    assert_eq!(trips(&Command::Add(add("c1", &dual()))), 2, "repeated ADD");
    assert_eq!(trips(&del("c1")), 2, "DEL");
    assert_eq!(trips(&del("c1")), 1, "DEL of nothing");
    let wanted = vec![Wanted { addr: addr("10.0.0.9"), prefix: None }];
    assert_eq!(trips(&Command::Add(Add { wanted, ..add("c2", &dual()) })), 1, "fixed ADD");
}

/// GC of 65,000 leases on a server whose commits hold 64 operations.
#[test]
fn a_cas_server_is_collected_in_slices() {
    let server = Rc::new(Server::default());
    let mut store = FakeCas::new(server.clone());
    let sets = [set("10.0.0.0/8")];
    for i in 0..65_000 {
        given(&mut store, &add(&format!("c{i}"), &sets), &at(1));
    }
    assert!(server.trips.get() < 65_000 * 11 / 10, "{} trips", server.trips.get());
    server.trips.set(0);
    let network = NetworkName::new("net").unwrap();
    let gc = Gc { set: net(), network, valid: vec![], after: None };
    assert_eq!(crate::engine::gc(&mut store, gc, &at(2)).unwrap(), 65_000);
    assert!(leases(&mut store).is_empty());
}

/// The intruder takes the very address, and then the very owner, before the commit.
#[test]
fn a_cas_server_with_another_client_in_between() {
    let server = Rc::new(Server::default());
    let sets = [set("10.0.0.0/29")];
    let mut store = FakeCas::new(server.clone());
    for round in 0..4 {
        let other = server.clone();
        let (mine, theirs) = (format!("m{round}"), format!("t{round}"));
        let wanted = add(&mine, &sets);
        // The same hash, so the same candidate: the intruder asks under the owner's name first.
        let intruder = Add { owner: owner(&theirs), ..wanted.clone() };
        *server.intruder.borrow_mut() = Some(Box::new(move || {
            let mut other = FakeCas::new(other);
            if round % 2 == 0 {
                let _ = other.apply(&Command::Add(intruder), &at(1));
            } else {
                let same = Add { strategy: Strategy::Lowest, ..intruder };
                let _ = other.apply(
                    &Command::Add(Add { owner: owner(&format!("m{round}")), ..same }),
                    &at(1),
                );
            }
        }));
        let _ = store.apply(&Command::Add(wanted), &at(1));
    }
    let all = leases(&mut store);
    assert!(!all.is_empty());
    for lease in &all {
        assert_eq!(all.iter().filter(|l| l.owner == lease.owner).count(), 1, "{lease:?}");
    }
}

/// The control: without comparing, an address gets two owners, and the suite sees it.
#[test]
fn a_blind_cas_server_is_noticed() {
    let server = Rc::new(Server::default());
    server.blind.set(true);
    let sets = [set("10.0.0.0/30")];
    let mut store = FakeCas::new(server);
    let a = given(&mut store, &add("c1", &sets), &at(1));
    let b = given(&mut store, &add("c2", &sets), &at(1));
    assert_eq!(a, b, "a blind server was meant to give an address twice");
}
