//! Runs the store contract (the cases in `contract.rs`) on a fake cluster. Further tests add concurrent
//! clients, lost responses and delayed commits, and count round trips.

use std::rc::Rc;

use super::contract::{
    CASES, CaseName, add, added, addr, at, del, dual_stack, freed, gc_all, leases, listed, lowest,
    net, owner, refused, set,
};
use super::draining_cases::{drain, drained};
use super::fake_cluster::{FakeServer, FakeStore, apply_stalled};
use super::long;
use super::named_cases::{of_pod, reserve_for, unreserve};
use super::pool_cases::{ask, free, lease, pool, pool_refusal, release, want};
use crate::alloc::{Add, Check, Command, Context, Outcome, ReleasePool, Requested};
use crate::engine;
use crate::error::{Error, PoolRefusal, Refusal, StoreError};
use crate::model::{BootId, Kind, Node, SetName, Timestamp};
use crate::net::RangeSet;
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::keys;
use crate::store::{Store, StoreReader};

/// Returns fake etcd and Consul servers of three kinds: servers without failures, servers that never respond
/// to commits, and servers that fail at random.
fn servers() -> impl Iterator<Item = (String, Rc<FakeServer>)> {
    [false, true].into_iter().flat_map(|is_etcd| {
        let kind = if is_etcd { "as etcd" } else { "as Consul" };
        let reliable = (format!("{kind}, reliable"), FakeServer::new(is_etcd));
        let silent = FakeServer::new(is_etcd);
        silent.never_answers.set(true);
        let failing = (1..7_u64).map(move |seed| {
            let server = FakeServer::new(is_etcd);
            server.failure_seed.set(seed);
            (format!("{kind}, seed {seed}"), server)
        });
        [reliable, (format!("{kind}, silent"), silent)].into_iter().chain(failing)
    })
}

#[test]
fn the_cluster_store_meets_the_contract() {
    for (name, case) in CASES {
        // Each case starts on new servers.
        for (kind, server) in servers() {
            let _name = CaseName(format!("{kind}: {name}"));
            case(&|| Box::new(FakeStore::new(server.clone())));
        }
    }
}

#[test]
fn commands_take_the_fewest_round_trips() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let mut trips = |command: &Command| {
        let before = server.round_trips.get();
        let outcome = store.apply(command, &at(1)).unwrap();
        (server.round_trips.get() - before, outcome)
    };
    // The first ADD of a boot takes more round trips, because it also claims the node's name and searches for
    // leases and history of earlier boots.
    assert_eq!(trips(&Command::Add(add("first", &dual_stack()))).0, 5, "first ADD");
    let (adding, added) = trips(&Command::Add(add("c1", &dual_stack())));
    let (again, same) = trips(&Command::Add(add("c1", &dual_stack())));
    assert_eq!((adding, again), (1, 2), "ADD and repeated ADD");
    let grants = |outcome: &Outcome| match outcome {
        Outcome::Added(added) => added.grants.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(grants(&added), grants(&same));
    let (deleting, freed) = trips(&del("c1"));
    assert!(deleting == 2 && matches!(freed, Outcome::Freed(l) if l.len() == 2), "DEL");
    let (deleting, freed) = trips(&del("c1"));
    // The DEL takes one round trip to read the leases of the node, and one to read the import mark (the
    // record that another program's leases of the network were imported).
    assert!(deleting == 2 && freed == Outcome::Freed(vec![]), "DEL of nothing");
    let requested = vec![Requested { addr: addr("10.0.0.9"), prefix: None }];
    let (adding, added) = trips(&Command::Add(Add { requested, ..add("c2", &dual_stack()) }));
    assert!(adding == 1 && grants(&added)[0].addr == addr("10.0.0.9"), "fixed ADD");
}

#[test]
fn a_transaction_that_is_repeated_after_the_del_leases_nothing() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        added(&mut store, &add("first", &dual_stack()), &at(1));
        server.never_answers.set(true);
        let leased = added(&mut store, &add("c", &dual_stack()), &at(2));
        server.never_answers.set(false);
        assert_eq!(freed(&mut store, &del("c"), &at(3)), leased);
        apply_stalled(&server);
        let left = listed(&mut store, &at(3));
        assert!(left.len() == 2 && left.iter().all(|l| l.owner == owner("first")), "{left:?}");
    }
}

/// The containers lease from the set "shared" until the key `shared` is removed from the configuration. After
/// that, every command names the set "net", but DEL, CHECK and GC must still find the leases in "shared".
#[test]
fn del_check_and_gc_find_leases_of_the_set_before_shared_was_edited() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let sets = dual_stack();
        let shared = |name: &str| Add { set: SetName("shared".to_owned()), ..add(name, &sets) };
        for container in ["a", "b", "c", "d"] {
            added(&mut store, &shared(container), &at(1));
        }
        // After `shared` was edited, the ADD of "b" was repeated. It leased two more addresses, in the set
        // "net".
        added(&mut store, &add("b", &sets), &at(1));
        added(&mut store, &add("e", &sets), &at(1));
        let check = Check { set: net(), owner: owner("a"), sets: sets.clone(), expected: None };
        assert_eq!(store.apply(&Command::Check(check), &at(1)).unwrap(), Outcome::Checked);
        assert_eq!(freed(&mut store, &del("a"), &at(1)).len(), 2);
        assert_eq!(freed(&mut store, &del("b"), &at(1)).len(), 4);
        assert_eq!(engine::gc(&mut store, gc_all(), &at(1)).unwrap(), 6);
        assert_eq!(listed(&mut store, &at(1)), []);
    }
}

/// Returns the context of a command that runs on the first node in the given boot.
fn here(boot: &str, now: Timestamp) -> Context {
    Context { boot: Some(BootId(boot.to_owned())), ..at(now) }
}

/// Returns the context of a command that runs on a second node.
fn there(now: Timestamp) -> Context {
    Context { node: Node { name: "other".to_owned(), machine: "other".to_owned() }, ..at(now) }
}

/// Every other address of the range is leased, so the only address left is the one reserved for the pod. No
/// other container may get it, and the pod must get it again after a reboot and on another node.
#[test]
fn a_reservation_for_a_name_outlives_the_boot_and_the_node_of_its_container() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let (sets, named) = ([set("10.0.0.0/29")], [addr("10.0.0.4")]);
        store.apply(&reserve_for(&["10.0.0.4"], "shop/db-0"), &there(1)).unwrap();
        for n in 0..4 {
            assert_ne!(added(&mut store, &add(&format!("x{n}"), &sets), &there(1)), named);
        }
        let pod = |container: &str| of_pod(container, "db-0", &sets);
        assert_eq!(added(&mut store, &pod("c1"), &here("boot-1", 2)), named);
        let refusal = refused(&mut store, &Command::Add(pod("c2")), &there(3));
        let Refusal::Predecessor { holder, .. } = refusal else { panic!("{refusal:?}") };
        assert_eq!(holder.node.name, "node");
        // After the node's reboot, the lease has ended, but the reservation has not.
        let refusal = refused(&mut store, &Command::Add(add("y", &sets)), &here("boot-2", 100));
        assert!(matches!(refusal, Refusal::Exhausted { .. }), "{refusal:?}");
        let refusal = refused(&mut store, &Command::Add(add("y", &sets)), &there(101));
        assert!(matches!(refusal, Refusal::Exhausted { .. }), "{refusal:?}");
        let rows = listed(&mut store, &there(101));
        let row = rows.iter().find(|lease| lease.addr == named[0]).unwrap();
        assert_eq!((rows.len(), row.kind), (5, Kind::Reserved), "{rows:?}");
        assert_eq!(added(&mut store, &pod("c3"), &there(102)), named);
        assert_eq!(freed(&mut store, &del("c3"), &there(103)), named);
    }
}

/// The lease of a reserved address has ended because its node rebooted, but its record still exists.
/// `unreserve` must also remove the lease from its owner's record.
#[test]
fn unreserve_leaves_no_record_of_a_lease_that_has_ended() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let (sets, named) = ([set("10.0.0.0/29")], [addr("10.0.0.4")]);
        store.apply(&reserve_for(&["10.0.0.4"], "shop/db-0"), &there(1)).unwrap();
        let pod = of_pod("c1", "db-0", &sets);
        assert_eq!(added(&mut store, &pod, &here("boot-1", 2)), named);
        // This is the node's first command after the reboot, so no earlier command has removed the ended
        // lease.
        store.apply(&unreserve(&["10.0.0.4"]), &here("boot-2", 100)).unwrap();
        assert_sound(&server);
        assert!(listed(&mut store, &there(101)).is_empty());
    }
}

/// The GC frees far more leases than fit into one commit. This server allows 64 operations per commit.
#[test]
fn gc_of_many_leases_takes_many_steps() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let count = if long() { 65_000 } else { 6500 };
    let sets = [set("10.0.0.0/8")];
    for i in 0..count {
        added(&mut store, &add(&format!("c{i}"), &sets), &at(1));
    }
    assert!(server.round_trips.get() < count * 11 / 10, "{} trips", server.round_trips.get());
    server.round_trips.set(0);
    let gc = gc_all();
    assert_eq!(crate::engine::gc(&mut store, gc, &at(2)).unwrap(), count);
    assert!(leases(&mut store).is_empty());
}

/// A pod's reservation ends while the pod's ADD is running: after the ADD's first commit has failed, and
/// before its second commit.
#[test]
fn a_reservation_for_a_name_ends_while_its_container_starts() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let sets = [set("10.0.0.0/29")];
        added(&mut store, &add("first", &sets), &at(1));
        store.apply(&reserve_for(&["10.0.0.4"], "shop/db-0"), &at(1)).unwrap();
        let (other, hook) = (server.clone(), server.clone());
        let ends = move || drop(FakeStore::new(other).apply(&unreserve(&["10.0.0.4"]), &at(2)));
        // The first commit fails, because the ADD assumed that nothing is reserved for the pod.
        *server.before_commit.borrow_mut() = Some(Box::new(move || {
            *hook.before_commit.borrow_mut() = Some(Box::new(ends));
        }));
        added(&mut store, &of_pod("c1", "db-0", &sets), &at(3));
        assert!(server.before_commit.borrow().is_none());
        assert_sound(&server);
    }
}

/// Another client starts or stops draining a range immediately before an ADD commits its lease.
#[test]
fn draining_begins_or_ends_while_a_container_starts() {
    for (is_etcd, undo) in [(false, false), (false, true), (true, false), (true, true)] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let (sets, lower) = ([set("10.0.0.0/29")], drain("10.0.0.0", "10.0.0.4"));
        added(&mut store, &add("first", &[set("10.9.0.0/29")]), &at(1));
        if undo {
            assert!(drained(&mut store, &lower, false, 1));
        }
        let (other, hook, of_hook) = (server.clone(), server.clone(), lower.clone());
        let act = move || assert!(drained(&mut FakeStore::new(other), &of_hook, undo, 2));
        let act: Box<dyn FnOnce()> = if undo {
            // The first commit fails, because the ADD assumed that no range is draining. The other client
            // acts before the second commit.
            Box::new(move || *hook.before_commit.borrow_mut() = Some(Box::new(act)))
        } else {
            Box::new(act)
        };
        *server.before_commit.borrow_mut() = Some(act);
        let got = added(&mut store, &lowest("c", &sets), &at(3));
        assert!(server.before_commit.borrow().is_none());
        assert_eq!(got, [addr(if undo { "10.0.0.2" } else { "10.0.0.5" })]);
        assert_sound(&server);
    }
}

/// Another client commits its ADD immediately before this client commits.
#[test]
fn a_concurrent_client_leases_the_same_address_or_for_the_same_owner() {
    let sets = [set("10.0.0.0/29")];
    for same_owner in [false, true] {
        let server = FakeServer::new(false);
        let mut store = FakeStore::new(server.clone());
        // Both clients search for the lowest free address, so both try the same address.
        let lowest = |c: &str| lowest(c, &sets);
        // The node's first command runs here, because it has an additional commit, which claims the node's
        // name.
        added(&mut store, &lowest("first"), &at(1));
        let theirs = lowest(if same_owner { "mine" } else { "theirs" });
        let other = server.clone();
        *server.before_commit.borrow_mut() = Some(Box::new(move || {
            let got = added(&mut FakeStore::new(other), &theirs, &at(1));
            assert_eq!(got, [addr("10.0.0.3")]);
        }));
        let got = added(&mut store, &lowest("mine"), &at(1));
        assert_eq!(got, [addr(if same_owner { "10.0.0.3" } else { "10.0.0.4" })]);
        assert_eq!(leases(&mut store).len(), if same_owner { 2 } else { 3 });
    }
}

/// Another client acts immediately before this client commits. It leases an address from the pool that this
/// client is releasing, creates a pool that overlaps the one that this client is creating, or releases the
/// pool that this client is leasing from.
#[test]
fn a_concurrent_client_changes_the_pools() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let interfere = |act: fn(&mut FakeStore)| {
        let other = server.clone();
        *server.before_commit.borrow_mut() =
            Some(Box::new(move || act(&mut FakeStore::new(other))));
    };
    let id = pool(&mut store, &ask("l", "10.0.0.0/24"), &at(1)).id.0;
    interfere(|other| drop(lease(other, &want("l/10.0.0.0/24", None), &at(1))));
    assert_eq!(release(&mut store, &id, &at(2)), (true, 1));
    assert!(leases(&mut store).is_empty());
    interfere(|other| drop(pool(other, &ask("l", "10.0.0.0/16"), &at(1))));
    let here = Command::RequestPool(ask("l", "10.0.0.0/24"));
    assert!(matches!(pool_refusal(&mut store, &here), PoolRefusal::Overlap { .. }));
    // The other client releases the pool before this client leases an address from it.
    interfere(|other| assert_eq!(release(other, "l/10.0.0.0/16", &at(2)), (true, 0)));
    let unknown = Command::RequestAddress(want("l/10.0.0.0/16", None));
    assert!(matches!(pool_refusal(&mut store, &unknown), PoolRefusal::Unknown(_)));
    assert!(store.pools().unwrap().is_empty() && leases(&mut store).is_empty());
    let is_state = |path: &String| !path.starts_with("past/") && !path.starts_with("mark/");
    let paths = server.paths().into_iter().filter(is_state);
    assert_eq!(paths.collect::<Vec<_>>(), ["node/node"]);
}

/// A daemon starts each request with the records that it read for earlier requests. The outcome must be
/// correct even if these records are outdated.
#[test]
fn requests_start_with_recent_records_and_never_rely_on_them() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let (mut store, mut other) =
            (FakeStore::new(server.clone()), FakeStore::new(server.clone()));
        let id = pool(&mut store, &ask("l", "10.0.0.0/29"), &at(1)).id.0;
        let get = |store: &mut FakeStore, now| {
            let before = server.round_trips.get();
            let got = lease(store, &want(&id, None), &at(now)).addr;
            (got.to_string(), server.round_trips.get() - before)
        };
        let put = |store: &mut FakeStore, addr: &str| {
            let before = server.round_trips.get();
            (free(store, &id, addr), server.round_trips.get() - before)
        };
        // The first request takes more round trips, because it also reads the pool's record and its leases.
        assert_eq!(get(&mut store, 1), ("10.0.0.1".to_owned(), 3));
        assert_eq!(get(&mut store, 1), ("10.0.0.2".to_owned(), 1));
        assert_eq!(put(&mut store, "10.0.0.1"), (1, 1));
        assert_eq!(get(&mut store, 1), ("10.0.0.1".to_owned(), 1));
        // The other host leases 10.0.0.3, which is the lowest free address in this host's records. Later it
        // frees the lower address 10.0.0.1.
        assert_eq!(get(&mut other, 1).0, "10.0.0.3");
        assert_eq!(get(&mut store, 1).0, "10.0.0.4");
        assert_eq!(put(&mut other, "10.0.0.1").0, 1);
        assert_eq!(get(&mut store, 3).0, "10.0.0.1");
        // The pool becomes full. The other host frees 10.0.0.2, and this host leases it. Then the other host
        // frees it and leases it again.
        assert_eq!(get(&mut store, 3).0, "10.0.0.5");
        assert_eq!(get(&mut store, 3).0, "10.0.0.6");
        assert_eq!(put(&mut other, "10.0.0.2").0, 1);
        assert_eq!(get(&mut store, 3).0, "10.0.0.2");
        assert_eq!(put(&mut other, "10.0.0.2").0, 1);
        assert_eq!(get(&mut other, 3).0, "10.0.0.2");
        assert_eq!(put(&mut store, "10.0.0.2").0, 1);
        assert_eq!(put(&mut other, "10.0.0.2").0, 0);
        // The other host releases the pool, and then creates it again.
        assert_eq!(release(&mut other, &id, &at(3)), (true, 5));
        let request = Command::RequestAddress(want(&id, None));
        assert!(matches!(pool_refusal(&mut store, &request), PoolRefusal::Unknown(_)));
        assert_eq!(pool(&mut other, &ask("l", "10.0.0.0/29"), &at(3)).id.0, id);
        assert_eq!(get(&mut store, 3).0, "10.0.0.1");
        assert_eq!(leases(&mut store).len(), 1);
    }
}

/// One daemon runs two requests in the same second. Both lease an address from the same pool, so their
/// records differ only in the nonce (a number that identifies the transaction). The request that commits
/// second gets no response. It must not mistake the other request's record for its own.
#[test]
fn a_transaction_is_recognized_by_its_nonce() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let id = pool(&mut store, &ask("l", "10.0.0.0/24"), &at(1)).id.0;
        let other = server.clone();
        *server.before_commit.borrow_mut() = Some(Box::new(move || {
            let lease =
                lease(&mut FakeStore::new(other.clone()), &want("l/10.0.0.0/24", None), &at(1));
            assert_eq!(lease.addr, addr("10.0.0.1"));
            other.stalled_commits.set(1);
        }));
        assert_eq!(lease(&mut store, &want(&id, None), &at(1)).addr, addr("10.0.0.2"));
        apply_stalled(&server);
        assert_eq!(leases(&mut store).len(), 2);
    }
}

#[test]
fn a_pool_that_is_not_shared_is_released_by_its_node_only() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server);
    let id = pool(&mut store, &ask("l", "10.0.0.0/24"), &at(1)).id;
    let other = Node { name: "other".to_owned(), machine: "m2".to_owned() };
    let elsewhere = Context { node: other, ..at(2) };
    let command = Command::ReleasePool(ReleasePool::of(id.clone()));
    let refused = store.apply(&command, &elsewhere).unwrap_err();
    let Error::Refused(Refusal::Pool(refused)) = refused else { panic!("{refused:?}") };
    assert!(matches!(*refused, PoolRefusal::OfAnotherNode { .. }), "{refused:?}");
    assert_eq!(store.pools().unwrap().len(), 1);
    assert_eq!(release(&mut store, &id.0, &at(3)), (true, 0));
}

/// Checks the suite itself: if a server ignores comparisons, an address gets two owners, and the suite must
/// notice.
#[test]
#[should_panic(expected = "also lists")]
fn a_server_that_does_not_compare_is_detected() {
    let server = FakeServer::new(false);
    server.ignores_comparisons.set(true);
    let mut store = FakeStore::new(server);
    let sets = [set("10.0.0.0/30")];
    let first = added(&mut store, &add("c1", &sets), &at(1));
    assert_eq!(added(&mut store, &add("c2", &sets), &at(1)), first);
    leases(&mut store);
}

/// The test damages records without changing their versions, so only their checksums reveal the damage.
#[test]
fn a_damaged_record_is_reported() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    added(&mut store, &add("c1", &dual_stack()), &at(1));
    let found = |store: &mut FakeStore| {
        let mut found = Vec::new();
        store.problems(&at(1), &mut |problem| found.push(problem)).unwrap();
        found
    };
    assert_eq!(found(&mut store), []);
    for path in server.paths() {
        // Byte 20 is part of the record itself. The bytes before the record are the nonce, which has no
        // checksum.
        server.corrupt(&path, |value| value[20] ^= 1);
    }
    let found = found(&mut store);
    assert!(found.len() >= 3 && found.iter().all(|p| p.what.contains("checksum")), "{found:?}");
    match store.apply(&del("c1"), &at(2)) {
        Err(Error::Store(StoreError::BadRecord { key, .. })) => {
            assert_eq!(key, "own/node/net/cni/net/c1/eth0");
        }
        other => panic!("{other:?}"),
    }
}

/// A stopped server resumes after a container has been deleted, and only then applies the delayed commit of
/// the container's ADD. This commit must not lease an address.
#[test]
fn no_lease_is_made_after_its_container_is_deleted() {
    let lost = |server: &Rc<FakeServer>, n| {
        server.stalled_commits.set(n);
        FakeStore::new(server.clone()).apply(&Command::Add(add("c1", &dual_stack())), &at(1))
    };
    let deleted = |server: &Rc<FakeServer>| {
        let freed = FakeStore::new(server.clone()).apply(&del("c1"), &at(2)).unwrap();
        apply_stalled(server);
        assert_eq!(leases(&mut FakeStore::new(server.clone())), []);
        freed
    };
    for first_call in [true, false] {
        // The ADD's first commit gets no response, because the server delays it. The ADD commits again and
        // succeeds.
        let server = FakeServer::new(false);
        if !first_call {
            added(&mut FakeStore::new(server.clone()), &add("c0", &dual_stack()), &at(1));
            FakeStore::new(server.clone()).apply(&del("c0"), &at(1)).unwrap();
        }
        assert!(matches!(lost(&server, 1), Ok(Outcome::Added(_))));
        assert!(matches!(deleted(&server), Outcome::Freed(freed) if freed.len() == 2));
        // Neither the ADD's commit nor the fence (the write that stops the server from applying a delayed
        // commit) gets a response. Then another process deletes the container.
        assert!(lost(&server, usize::MAX).is_err());
        server.stalled_commits.set(0);
        assert_eq!(deleted(&server), Outcome::Freed(vec![]));
        // By now no transaction is in flight, so the DEL needs no fence.
        server.round_trips.set(0);
        FakeStore::new(server.clone()).apply(&del("c1"), &at(2)).unwrap();
        assert_eq!(server.round_trips.get(), 2, "a DEL of nothing");
    }
}

/// Leasing an address from a pool does not change the pool's record. If the response to the commit is lost,
/// the pool's record therefore cannot show whether the address was leased.
#[test]
fn a_lease_of_a_pool_whose_commit_was_lost_is_made_again() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        pool(&mut store, &ask("l", "10.0.0.0/24"), &at(1));
        server.stalled_commits.set(1);
        let got = lease(&mut store, &want("l/10.0.0.0/24", None), &at(1));
        let all = leases(&mut FakeStore::new(server.clone()));
        assert!(all.iter().any(|lease| lease.addr == got.addr), "{got:?} is not leased: {all:?}");
        apply_stalled(&server);
        assert_eq!(leases(&mut store), all);
    }
}

/// Runs the contract's cases about cooling addresses on fake servers that never fail.
#[test]
fn a_cluster_finds_its_cooling_addresses() {
    for is_etcd in [false, true] {
        for (_, case) in CASES.iter().filter(|(name, _)| name.contains("cool")) {
            let server = FakeServer::new(is_etcd);
            case(&|| Box::new(FakeStore::new(server.clone())));
        }
    }
}

/// An ADD lists the two ranges of a range set one after the other. After the ADD has listed the first range,
/// another client leases the last free address, which is in the second range, and then frees an address in
/// the first range. Each listing shows a full range, but the ADD must find the freed address.
#[test]
fn a_range_is_full_only_if_all_of_it_is_full_at_one_moment() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let ranges =
            ["10.0.0.0/16 10.0.0.254 10.0.0.255", "10.0.0.0/16 10.0.1.0 10.0.1.1"].map(set);
        let ranges = ranges.iter().flat_map(RangeSet::ranges).cloned().collect();
        let sets = [RangeSet::new(ranges).unwrap()];
        for c in ["c1", "c2", "c3"] {
            added(&mut store, &lowest(c, &sets), &at(1));
        }
        let chunk = keys::chunk(&net(), addr("10.0.0.254")).leak();
        let (other, theirs) = (server.clone(), lowest("c4", &sets));
        *server.after_list.borrow_mut() = Some((
            chunk,
            Box::new(move || {
                let mut other = FakeStore::new(other);
                let last = vec![Requested { addr: addr("10.0.1.1"), prefix: None }];
                added(&mut other, &Add { requested: last, ..theirs }, &at(1));
                other.apply(&del("c1"), &at(1)).unwrap();
            }),
        ));
        let got = added(&mut store, &lowest("c5", &sets), &at(1));
        assert!(server.after_list.borrow().is_none(), "the other client did not act");
        assert_eq!(got, [addr("10.0.0.254")]);
    }
}
