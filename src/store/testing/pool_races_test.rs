//! Tests Docker's pools in a cluster: several clients change a pool at the same time, responses are lost, and
//! removals are interrupted.

use std::rc::Rc;

use super::contract::{addr, at, leases};
use super::fake_cluster::{FakeServer, FakeStore, apply_stalled};
use super::pool_cases::{ask, lease, pool, pool_refusal, release, shared, want};
use crate::alloc::{Command, Context, ReleaseAddress, ReleasePool, RequestPool, Sweep};
use crate::error::{Error, PoolRefusal, StoreError};
use crate::model::{Kind, Lease, Node, Persist, PoolId, SetName};
use crate::store::cluster::{LocalCache, keys};
use crate::store::{Store, StoreReader};

const ID: &str = "net";

/// Another client's action, which the test runs at a chosen moment.
type Act = fn(&mut FakeStore);

fn shared_pool() -> RequestPool {
    shared(ID, ask("l", "10.0.0.0/24"))
}

fn on(node: &str, now: u64) -> Context {
    Context { node: Node { name: node.to_owned(), machine: node.to_owned() }, ..at(now) }
}

/// Returns how many times each node uses the pool.
fn users(server: &Rc<FakeServer>) -> Vec<(String, u32)> {
    let pools = FakeStore::new(server.clone()).pools().unwrap();
    let users = pools.into_iter().flat_map(|pool| pool.users);
    let mut users: Vec<_> = users.map(|(node, n)| (node.name, n)).collect();
    users.sort();
    users
}

/// The response to a commit is lost. Before the client checks whether the commit was applied, another client
/// changes the same pool. The other client is on another node, or is another request to the same daemon.
#[test]
fn users_are_counted_once_if_an_answer_is_lost() {
    for (is_etcd, other) in [(false, "two"), (true, "two"), (false, "one"), (true, "one")] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let meanwhile = |act: fn(&mut FakeStore, &Context)| {
            let (theirs, cx) = (server.clone(), on(other, 1));
            let act = move || act(&mut FakeStore::new(theirs), &cx);
            *server.after_commit.borrow_mut() = Some(Box::new(act));
        };
        let of_both = |count: u32| match other {
            "one" => vec![("one".to_owned(), 2 * count)],
            _ => vec![("one".to_owned(), count), ("two".to_owned(), count)],
        };
        pool(&mut store, &shared_pool(), &on("one", 1));
        pool(&mut store, &shared_pool(), &on(other, 1));
        meanwhile(|store, cx| drop(pool(store, &shared_pool(), cx)));
        pool(&mut store, &shared_pool(), &on("one", 1));
        assert_eq!(users(&server), of_both(2), "requested, etcd: {is_etcd}, with {other}");
        meanwhile(|store, cx| assert_eq!(release(store, ID, cx), (true, 0)));
        assert_eq!(release(&mut store, ID, &on("one", 2)), (true, 0));
        assert_eq!(users(&server), of_both(1), "released, etcd: {is_etcd}, with {other}");
    }
}

/// The server stops responding while dockerd requests an address, so the request fails. In some runs the
/// server applies the request later. In the other runs, another client has leased the address by then.
#[test]
fn an_address_that_a_failed_request_leased_is_freed() {
    for (is_etcd, is_late) in [(false, true), (true, true), (false, false), (true, false)] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let cx = on("one", 1);
        pool(&mut store, &shared_pool(), &cx);
        lease(&mut store, &want(ID, None), &cx);
        server.kills_in_commit.set(true);
        let failed = store.apply(&Command::RequestAddress(want(ID, None)), &cx);
        assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
        server.commits_left.set(None);
        let others = (!is_late)
            .then(|| lease(&mut FakeStore::new(server.clone()), &want(ID, None), &cx).addr);
        apply_stalled(&server);
        // The third lease is the gateway's.
        assert_eq!(leases(&mut store).len(), 3);
        let addr = lease(&mut store, &want(ID, None), &cx).addr;
        let left: Vec<_> = leases(&mut store).into_iter().map(|lease| lease.addr).collect();
        assert_eq!(left.len(), if is_late { 3 } else { 4 }, "{left:?}");
        assert!(
            left.contains(&addr)
                && others != Some(addr)
                && others.is_none_or(|a| left.contains(&a))
        );
    }
}

/// A daemon in a container has another `/run`. The daemon is killed during a request, and a cleanup of the host
/// cannot see that a transaction is in flight. After the cleanup, the transaction must not be applied.
#[test]
fn a_cleanup_stops_a_request_from_another_run() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut host = FakeStore::new(server.clone());
        pool(&mut host, &ask("l", "10.0.0.0/24"), &on("one", 1));
        let id = host.pools().unwrap()[0].id.clone();
        let run = tempfile::tempdir_in("/dev/shm").unwrap();
        let cache = LocalCache::new(run.path(), String::new());
        let mut daemon = FakeStore::with_cache(server.clone(), Persist::Disk, cache);
        server.kills_in_commit.set(true);
        let request = Command::RequestAddress(want(&id.0, None));
        assert!(daemon.apply(&request, &on("one", 1)).is_err());
        server.commits_left.set(None);
        let known = Some(Vec::new());
        let sweep = Sweep { pool: id, known, before: 9, dry: false, alive: Vec::new() };
        let swept = crate::engine::collect(&mut host, Command::Sweep(sweep), &on("one", 2));
        assert!(swept.is_ok_and(|swept| swept.freed.is_empty()));
        apply_stalled(&server);
        assert_eq!(leases(&mut host), [], "etcd: {is_etcd}");
    }
}

/// The release of a pool was interrupted after its first step. Each action in `finish` must complete it: a
/// request that conflicts with the pool, another release of the pool, a sweep, and the release of the node.
#[test]
fn an_interrupted_removal_is_finished() {
    let finish: [(&str, Act); 5] = [
        ("a request", |store| drop(pool(store, &shared_pool(), &on("two", 3)))),
        ("an overlapping request", |store| {
            drop(pool(store, &ask("l", "10.0.0.0/16"), &on("two", 3)));
        }),
        ("a release", |store| assert_eq!(release(store, ID, &on("two", 3)), (true, 2))),
        ("a sweep", |store| {
            let sweep = Sweep {
                pool: PoolId(ID.to_owned()),
                known: None,
                before: 3,
                dry: false,
                alive: Vec::new(),
            };
            let swept = crate::engine::collect(store, Command::Sweep(sweep), &on("two", 3));
            assert!(swept.is_ok_and(|swept| swept.pool && swept.freed.len() == 2));
        }),
        ("a release of the node", |store| {
            let left = crate::engine::release_node(store, "one", &on("two", 3)).unwrap();
            assert_eq!((left.freed, leases(store).len()), (2, 0));
            assert!(store.pools().unwrap().iter().all(|pool| pool.id != PoolId(ID.to_owned())));
        }),
    ];
    for (name, finish) in finish {
        let server = FakeServer::new(false);
        let mut store = FakeStore::new(server.clone());
        pool(&mut store, &ask("l", "10.9.0.0/24"), &on("two", 1));
        pool(&mut store, &shared_pool(), &on("one", 1));
        lease(&mut store, &want(ID, None), &on("one", 1));
        server.commits_left.set(Some(1));
        let command = Command::ReleasePool(ReleasePool::of(PoolId(ID.to_owned())));
        assert!(crate::engine::collect(&mut store, command, &on("one", 2)).is_err(), "{name}");
        server.commits_left.set(None);
        // Only the leases of the gateway and of one container remain.
        assert_eq!(leases(&mut store).len(), 2, "{name}");
        let more = Command::RequestAddress(want(ID, None));
        assert!(matches!(pool_refusal(&mut store, &more), PoolRefusal::Unknown(_)), "{name}");
        finish(&mut store);
        let left = leases(&mut store);
        assert!(left.iter().all(|lease| lease.node.name == "two"), "{name}: {left:?}");
    }
}

/// Between two steps of a release, the same host requests the pool again and leases an address from it.
#[test]
fn a_release_leaves_a_pool_that_was_requested_again() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let set: SetName = pool(&mut store, &shared_pool(), &on("one", 1)).set();
    let (other, cx) = (server.clone(), on("one", 2));
    let act = move || {
        let mut store = FakeStore::new(other);
        pool(&mut store, &shared_pool(), &cx);
        assert_eq!(lease(&mut store, &want(ID, None), &cx).addr, addr("10.0.0.2"));
    };
    let listing = keys::of_set(keys::ADDRESS, &set).leak();
    *server.after_list.borrow_mut() = Some((listing, Box::new(act)));
    release(&mut store, ID, &on("one", 2));
    assert!(server.after_list.borrow().is_none(), "the other client did not act");
    assert_eq!(users(&server), [("one".to_owned(), 1)]);
    assert_eq!(leases(&mut store).len(), 2);
}

/// A machine was copied together with its host name and its Docker networks. After booting, the copy removes
/// these networks, which must not release the original's pools.
#[test]
fn a_copy_of_a_machine_releases_nothing_of_the_original() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let cx = on("one", 1);
    pool(&mut store, &shared_pool(), &cx);
    let addr = lease(&mut store, &want(ID, None), &cx).addr;
    let node = Node { name: cx.node.name.clone(), machine: "copy".to_owned() };
    let copy = Context { node, ..on("one", 2) };
    let id = PoolId(ID.to_owned());
    let release = ReleaseAddress { pool: id.clone(), addr, only: None };
    for command in [Command::ReleaseAddress(release), Command::ReleasePool(ReleasePool::of(id))] {
        let refused = FakeStore::new(server.clone()).apply(&command, &copy);
        assert!(
            matches!(refused, Err(Error::Store(StoreError::Claimed { .. }))),
            "{command:?}: {refused:?}"
        );
    }
    assert_eq!(users(&server), [("one".to_owned(), 1)]);
    assert_eq!(leases(&mut store).len(), 2);
}

/// A host whose clock is behind starts to use a pool. Another host has just requested the same pool, and its
/// dockerd does not list the network yet. The slow clock must not make the pool look old enough to be swept.
#[test]
fn a_clock_that_is_behind_makes_no_pool_older() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    for (node, now) in [("two", 1), ("one", 100), ("two", 5)] {
        pool(&mut store, &shared_pool(), &on(node, now));
    }
    let (pool, known, alive) = (PoolId(ID.to_owned()), None, Vec::new());
    let sweep = Sweep { pool, known, before: 100, dry: false, alive };
    crate::engine::collect(&mut store, Command::Sweep(sweep), &on("one", 101)).unwrap();
    assert_eq!(users(&server), [("one".to_owned(), 1), ("two".to_owned(), 2)]);
}

/// dockerd removes a host's last network with a shared pool while a request for an address of the pool is
/// still in progress. A later sweep must free that address.
#[test]
fn an_address_that_was_leased_after_the_pool_s_release_is_swept() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    for node in ["one", "two"] {
        pool(&mut store, &shared_pool(), &on(node, 1));
    }
    release(&mut store, ID, &on("one", 2));
    lease(&mut store, &want(ID, None), &on("one", 3));
    lease(&mut store, &want(ID, None), &on("two", 3));
    for (before, left) in [(3, 2), (4, 1)] {
        let (pool, known, alive) = (PoolId(ID.to_owned()), None, Vec::new());
        let sweep = Sweep { pool, known, before, dry: false, alive };
        crate::engine::collect(&mut store, Command::Sweep(sweep), &on("one", 5)).unwrap();
        let of_containers = |lease: &&Lease| lease.kind != Kind::Gateway;
        assert_eq!(leases(&mut store).iter().filter(of_containers).count(), left, "{before}");
    }
    assert_eq!(users(&server), [("two".to_owned(), 1)]);
}

/// Two hosts create the same Docker network with a shared pool at the same time.
#[test]
fn a_shared_pool_is_not_in_the_way_of_itself() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let other = server.clone();
        let act = move || drop(pool(&mut FakeStore::new(other), &shared_pool(), &on("two", 1)));
        *server.after_get.borrow_mut() = Some(("pool/net", Box::new(act)));
        pool(&mut store, &shared_pool(), &on("one", 1));
        assert!(server.after_get.borrow().is_none(), "the other client did not act");
        assert_eq!(users(&server), [("one".to_owned(), 1), ("two".to_owned(), 1)]);
    }
}
