//! Cases of the contract (the tests that every store must pass) about Docker's address pools.

use super::contract::{Make, addr, at, leases, refused};
use crate::alloc::{
    AdoptPool, Ask, Block, Command, Context, Outcome, ReleaseAddress, ReleasePool, RequestAddress,
    RequestPool, Shared, Sweep,
};
use crate::error::{PoolRefusal, Refusal};
use crate::model::{Kind, Lease, Node, Origin, Pool, PoolId};
use crate::net::{Addr, Span, Subnet};
use crate::store::Store;

pub fn subnet(text: &str) -> Subnet {
    text.parse::<ipnet::IpNet>().unwrap().into()
}

/// Builds a request for a pool from text. Examples: `10.0.0.0/8` (a subnet), `10.0.0.0/8 10.1.0.0/16` (a
/// subnet and its sub-pool), and `auto 10.0.0.0/8 24` (any free /24 in the subnet).
pub fn ask(space: &str, text: &str) -> RequestPool {
    let words: Vec<&str> = text.split(' ').collect();
    let (ask, sub) = match words[..] {
        ["auto", within, len] => {
            let block = Block { within: subnet(within), len: len.parse().unwrap() };
            (Ask::Any(vec![block]), None)
        }
        [pool] => (Ask::Exactly(subnet(pool)), None),
        [pool, sub] => (Ask::Exactly(subnet(pool)), Some(subnet(sub))),
        _ => panic!("{text}"),
    };
    RequestPool { space: space.to_owned(), ask, sub, shared: None, avoid: vec![] }
}

pub fn shared(name: &str, request: RequestPool) -> RequestPool {
    let shared = Shared { name: name.to_owned(), id: PoolId(name.to_owned()) };
    RequestPool { shared: Some(shared), ..request }
}

pub fn pool(store: &mut dyn Store, request: &RequestPool, cx: &Context) -> Pool {
    crate::engine::request_pool(store, request.clone(), cx).unwrap()
}

pub fn pool_refusal(store: &mut dyn Store, command: &Command) -> PoolRefusal {
    match refused(store, command, &at(1)) {
        Refusal::Pool(refusal) => *refusal,
        other => panic!("{other:?}"),
    }
}

pub fn release(store: &mut dyn Store, id: &str, cx: &Context) -> (bool, usize) {
    let release = Command::ReleasePool(ReleasePool::of(PoolId(id.to_owned())));
    match crate::engine::collect(store, release, cx) {
        Ok(released) => (released.pool, released.freed.len()),
        other => panic!("{other:?}"),
    }
}

pub fn want(id: &str, requested: Option<&str>) -> RequestAddress {
    RequestAddress {
        pool: PoolId(id.to_owned()),
        requested: requested.map(addr),
        gateway: false,
        serial: false,
        origin: Origin::default(),
    }
}

pub fn lease(store: &mut dyn Store, request: &RequestAddress, cx: &Context) -> Lease {
    match store.apply(&Command::RequestAddress(request.clone()), cx) {
        Ok(Outcome::Leased { lease, .. }) => *lease,
        other => panic!("{other:?}"),
    }
}

pub fn free(store: &mut dyn Store, id: &str, at_addr: &str) -> usize {
    let (pool, addr) = (PoolId(id.to_owned()), addr(at_addr));
    match store.apply(&Command::ReleaseAddress(ReleaseAddress { pool, addr, only: None }), &at(2)) {
        Ok(Outcome::Freed(freed)) => freed.len(),
        other => panic!("{other:?}"),
    }
}

pub fn pools_do_not_overlap(make: Make<'_>) {
    let mut store = make();
    let store = &mut *store;
    assert!(store.pools().unwrap().is_empty());
    assert_eq!(pool(store, &ask("l", "10.0.0.0/8"), &at(1)).id.0, "l/10.0.0.0/8");
    // Pools of different address spaces never conflict, even if they have the same subnet.
    pool(store, &ask("g", "10.0.0.0/8"), &at(1));
    pool(store, &ask("l", "192.168.4.0/24"), &at(1));
    pool(store, &ask("l", "fd00:1::/112"), &at(1));
    for taken in [
        "10.0.0.0/8",
        "10.20.2.0/24",
        "10.128.0.0/9",
        "8.0.0.0/6",
        "0.0.0.0/0",
        "192.168.0.0/16",
        "192.168.4.128/25",
        "192.168.4.255/32",
        "fd00:1::/64",
        "::/0",
        "fd00:1::8/125",
    ] {
        let command = Command::RequestPool(ask("l", taken));
        let refusal = pool_refusal(store, &command);
        assert!(matches!(refusal, PoolRefusal::Overlap { .. }), "{taken}: {refusal:?}");
    }
    for free in ["11.0.0.0/8", "9.0.0.0/8", "192.168.5.0/24", "192.168.3.0/24", "fd00:2::/64"] {
        pool(store, &ask("l", free), &at(1));
    }
    assert_eq!(store.pools().unwrap().len(), 9);
    assert_eq!(release(store, "l/10.0.0.0/8", &at(2)), (true, 0));
    assert_eq!(release(store, "l/10.0.0.0/8", &at(2)), (false, 0));
    assert_eq!(pool(store, &ask("l", "10.20.2.0/24"), &at(1)).id.0, "l/10.20.2.0/24");
}

pub fn automatic_pools(make: Make<'_>) {
    let (mut a, mut b) = (make(), make());
    let auto = ask("l", "auto 10.80.0.0/20 24");
    let got = |store: &mut dyn Store, request: &RequestPool| {
        pool(store, request, &at(1)).subnet.to_string()
    };
    // An automatic pool must not overlap an existing pool, whether the existing pool is smaller or larger.
    pool(&mut *a, &ask("l", "10.80.1.64/26"), &at(1));
    pool(&mut *a, &ask("l", "10.80.2.0/23"), &at(1));
    let route = Span::from(subnet("10.80.4.128/25"));
    let careful = RequestPool { avoid: vec![route], ..auto.clone() };
    assert_eq!(got(&mut *a, &careful), "10.80.0.0/24");
    assert_eq!(got(&mut *b, &careful), "10.80.5.0/24");
    assert_eq!(got(&mut *b, &auto), "10.80.4.0/24");
    release(&mut *a, "l/10.80.0.0/24", &at(2));
    assert_eq!(got(&mut *b, &auto), "10.80.0.0/24");
    for third in 6..16 {
        assert_eq!(got(&mut *a, &auto), format!("10.80.{third}.0/24"));
    }
    let command = Command::RequestPool(auto.clone());
    assert_eq!(pool_refusal(&mut *b, &command), PoolRefusal::NoBlock);
    // A pool of a different size still fits between the existing pools. When one supernet is full, the next
    // supernet is used.
    assert_eq!(got(&mut *a, &ask("l", "auto 10.80.0.0/20 26")), "10.80.1.0/26");
    let mut more = auto;
    more.ask = Ask::Any(vec![
        Block { within: subnet("10.80.0.0/20"), len: 24 },
        Block { within: subnet("fd00::/48"), len: 64 },
    ]);
    assert_eq!(got(&mut *a, &more), "fd00::/64");
    assert_eq!(got(&mut *a, &more), "fd00:0:0:1::/64");
}

pub fn sub_pools(make: Make<'_>) {
    let mut store = make();
    let store = &mut *store;
    let cx = at(1);
    let id = pool(store, &ask("l", "10.0.0.0/8 10.10.0.0/16"), &cx).id.0;
    assert_eq!(id, "l/10.0.0.0/8/10.10.0.0/16");
    let same = Command::RequestPool(ask("l", "10.0.0.0/8 10.10.0.0/16"));
    assert!(matches!(pool_refusal(store, &same), PoolRefusal::Overlap { .. }));
    let inner = pool(store, &ask("l", "10.0.0.0/8 10.10.0.0/17"), &cx).id.0;
    // Both pools use the same set of leases.
    assert_eq!(lease(store, &want(&id, None), &cx).addr, addr("10.10.0.0"));
    assert_eq!(lease(store, &want(&inner, None), &cx).addr, addr("10.10.0.1"));
    // A pool of the whole subnet would overlap the sub-pools. A sub-pool of a different subnet uses its own
    // set of leases.
    let whole = Command::RequestPool(ask("l", "10.0.0.0/8"));
    assert!(matches!(pool_refusal(store, &whole), PoolRefusal::Overlap { .. }));
    let other = pool(store, &ask("l", "10.10.0.0/16 10.10.0.0/24"), &cx).id.0;
    assert_eq!(lease(store, &want(&other, None), &cx).addr, addr("10.10.0.1"));
    // An address is released only through the pool in which it was leased.
    assert_eq!(free(store, &id, "10.10.0.1"), 0);
    assert_eq!(free(store, &inner, "10.10.0.1"), 1);
    assert_eq!(release(store, &inner, &at(2)), (true, 0));
    assert_eq!(release(store, &id, &at(2)), (true, 1));
    assert_eq!(release(store, &other, &at(2)), (true, 1));
    assert_eq!(pool(store, &ask("l", "10.0.0.0/8"), &cx).id.0, "l/10.0.0.0/8");
    assert!(leases(store).is_empty());
}

pub fn addresses(make: Make<'_>) {
    let (mut a, mut b) = (make(), make());
    let cx = at(1);
    let id = pool(&mut *a, &ask("l", "192.168.0.0/29 192.168.0.4/30"), &cx).id.0;
    let gateway = RequestAddress { gateway: true, ..want(&id, Some("192.168.0.1")) };
    let got = lease(&mut *a, &gateway, &cx);
    assert_eq!((got.kind, got.prefix), (Kind::Gateway, 29));
    assert_eq!(lease(&mut *b, &want(&id, Some("192.168.0.2")), &cx).kind, Kind::Static);
    assert_eq!(lease(&mut *b, &want(&id, None), &cx).addr, addr("192.168.0.4"));
    assert_eq!(lease(&mut *a, &want(&id, None), &cx).addr, addr("192.168.0.5"));
    assert_eq!(lease(&mut *b, &want(&id, None), &cx).addr, addr("192.168.0.6"));
    let request = |requested| Command::RequestAddress(want(&id, requested));
    assert!(matches!(pool_refusal(&mut *a, &request(None)), PoolRefusal::Exhausted(_)));
    // A request is refused if the pool is unknown, or if the address is leased, is the network or broadcast
    // address, or is outside the subnet.
    for taken in ["192.168.0.4", "192.168.0.0", "192.168.0.7"] {
        assert!(matches!(pool_refusal(&mut *a, &request(Some(taken))), PoolRefusal::Taken { .. }));
    }
    assert!(matches!(
        pool_refusal(&mut *a, &request(Some("192.168.0.8"))),
        PoolRefusal::OutOfRange { .. }
    ));
    assert!(matches!(
        pool_refusal(&mut *a, &request(Some("fd00::1"))),
        PoolRefusal::OutOfRange { .. }
    ));
    let unknown = Command::RequestAddress(want("nope", None));
    assert!(matches!(pool_refusal(&mut *a, &unknown), PoolRefusal::Unknown(_)));
    assert_eq!(free(&mut *a, &id, "192.168.0.5"), 1);
    assert_eq!(free(&mut *a, &id, "192.168.0.5"), 0);
    assert_eq!(free(&mut *a, "nope", "192.168.0.5"), 0);
    assert_eq!(lease(&mut *b, &want(&id, None), &cx).addr, addr("192.168.0.5"));
    // A lease that has changed since it was read is not released.
    let stale = Lease { time: 7, ..leases(&mut *a)[0].clone() };
    let undo = ReleaseAddress { pool: PoolId(id), addr: stale.addr, only: Some(Box::new(stale)) };
    let undone = a.apply(&Command::ReleaseAddress(undo), &cx).unwrap();
    assert_eq!(undone, Outcome::Freed(vec![]));
    // In a subnet of one or two addresses, all addresses can be leased.
    for (of, all) in
        [("10.9.0.2/31", vec!["10.9.0.2", "10.9.0.3"]), ("fd00::7/128", vec!["fd00::7"])]
    {
        let id = pool(&mut *a, &ask("l", of), &cx).id.0;
        for expected in all {
            assert_eq!(lease(&mut *a, &want(&id, None), &cx).addr, addr(expected));
        }
        let full = Command::RequestAddress(want(&id, None));
        assert!(matches!(pool_refusal(&mut *a, &full), PoolRefusal::Exhausted(_)));
    }
}

pub fn serial_addresses(make: Make<'_>) {
    let mut store = make();
    let store = &mut *store;
    let cx = at(1);
    let id = pool(store, &ask("g", "10.2.0.0/16 10.2.2.0/29"), &cx).id.0;
    let serial = RequestAddress { serial: true, ..want(&id, None) };
    let next = |store: &mut dyn Store| lease(store, &serial, &cx).addr.to_string();
    lease(store, &RequestAddress { serial: true, ..want(&id, Some("10.2.2.1")) }, &cx);
    assert_eq!((next(store), next(store)), ("10.2.2.0".into(), "10.2.2.2".into()));
    free(store, &id, "10.2.2.0");
    assert_eq!(next(store), "10.2.2.3");
    free(store, &id, "10.2.2.1");
    for expected in ["4", "5", "6", "7", "0", "1"] {
        assert_eq!(next(store), format!("10.2.2.{expected}"));
    }
    let full = Command::RequestAddress(serial.clone());
    assert!(matches!(pool_refusal(store, &full), PoolRefusal::Exhausted(_)));
}

/// Releasing a pool frees all its leases, even if there are too many to free in a single transaction of a
/// cluster.
pub fn release_frees_all(make: Make<'_>) {
    let mut store = make();
    let store = &mut *store;
    let id = pool(store, &ask("l", "10.0.0.0/24"), &at(1)).id.0;
    let other = pool(store, &ask("l", "10.0.1.0/24"), &at(1)).id.0;
    lease(store, &want(&other, None), &at(1));
    for _ in 0..100 {
        lease(store, &want(&id, None), &at(1));
    }
    assert_eq!(release(store, &id, &at(2)), (true, 100));
    assert_eq!(leases(store).len(), 1);
    // The subnet is free again, and leasing starts over at its first address.
    let id = pool(store, &ask("l", "10.0.0.0/24"), &at(3)).id.0;
    assert_eq!(lease(store, &want(&id, None), &at(3)).addr, addr("10.0.0.1"));
}

fn on(name: &str, now: u64) -> Context {
    Context { node: Node { name: name.to_owned(), machine: format!("m-{name}") }, ..at(now) }
}

pub fn shared_pool(make: Make<'_>) {
    let (mut a, mut b) = (make(), make());
    let (one, two) = (on("one", 1), on("two", 1));
    let auto = shared("test", ask("l", "auto 10.80.0.0/12 24"));
    let first = pool(&mut *a, &auto, &one);
    assert_eq!((first.id.0.as_str(), first.gateway), ("test", Some(addr("10.80.0.1"))));
    let joined = pool(&mut *b, &auto, &two);
    assert_eq!((joined.subnet, joined.users.len()), (first.subnet, 2));
    // A request for the same shared pool with different settings is refused.
    let other = Command::RequestPool(shared("test", ask("l", "10.80.1.0/24")));
    assert!(matches!(pool_refusal(&mut *a, &other), PoolRefusal::Differs { what: "subnet", .. }));
    let other = Command::RequestPool(shared("test", ask("l", "10.80.0.0/24 10.80.0.0/25")));
    assert!(matches!(pool_refusal(&mut *a, &other), PoolRefusal::Differs { what: "iprange", .. }));
    let routed = RequestPool { avoid: vec![first.subnet.into()], ..auto.clone() };
    assert!(matches!(
        pool_refusal(&mut *a, &Command::RequestPool(routed)),
        PoolRefusal::Routed { .. }
    ));
    let wide = Command::RequestPool(shared("wide", ask("l", "10.64.0.0/10 10.100.0.0/16")));
    assert!(matches!(pool_refusal(&mut *a, &wide), PoolRefusal::Overlap { shared: Some(_), .. }));
    // Every request for the gateway returns the same address, and no release frees this address.
    let gateway = RequestAddress { gateway: true, ..want("test", None) };
    assert_eq!(lease(&mut *b, &gateway, &two).addr, addr("10.80.0.1"));
    let gateway = RequestAddress { gateway: true, ..want("test", Some("10.80.0.1")) };
    assert_eq!(lease(&mut *b, &gateway, &two).addr, addr("10.80.0.1"));
    assert_eq!(free(&mut *b, "test", "10.80.0.1"), 0);
    let taken = Command::RequestAddress(want("test", Some("10.80.0.1")));
    assert!(matches!(pool_refusal(&mut *a, &taken), PoolRefusal::Taken { .. }));
    assert_eq!(lease(&mut *a, &want("test", None), &one).addr, addr("10.80.0.2"));
    assert_eq!(lease(&mut *b, &want("test", None), &two).addr, addr("10.80.0.3"));
    // A node that has requested the pool twice must release it twice.
    pool(&mut *a, &auto, &one);
    assert_eq!(release(&mut *a, "test", &one), (true, 0));
    assert_eq!(leases(&mut *a).len(), 3);
    assert_eq!(release(&mut *a, "test", &one), (true, 1));
    let left: Vec<Addr> = leases(&mut *a).iter().map(|l| l.addr).collect();
    assert_eq!(left, [addr("10.80.0.1"), addr("10.80.0.3")]);
    // A release by a node that does not use the pool has no effect.
    assert_eq!(release(&mut *a, "test", &on("three", 2)), (true, 0));
    assert_eq!(release(&mut *b, "test", &two), (true, 2));
    assert!(leases(&mut *a).is_empty() && a.pools().unwrap().is_empty());
}

fn swept(store: &mut dyn Store, sweep: &Sweep, cx: &Context) -> (Vec<String>, bool) {
    let swept = crate::engine::collect(store, Command::Sweep(sweep.clone()), cx).unwrap();
    (swept.freed.iter().map(ToString::to_string).collect(), swept.pool)
}

pub fn sweep(make: Make<'_>) {
    let mut store = make();
    let store = &mut *store;
    let id = pool(store, &ask("l", "10.0.0.0/24"), &at(1)).id;
    lease(store, &RequestAddress { gateway: true, ..want(&id.0, None) }, &at(1));
    for now in [2, 2, 2, 9] {
        lease(store, &want(&id.0, None), &at(now));
    }
    let theirs = on("other", 2);
    lease(store, &want(&id.0, Some("10.0.0.77")), &theirs);
    let known = Some(vec![addr("10.0.0.3")]);
    let mut sweep = Sweep { pool: id, known, before: 9, dry: true, alive: vec![addr("10.0.0.4")] };
    assert_eq!(swept(store, &sweep, &at(10)), (vec!["10.0.0.2".into()], false));
    assert_eq!(leases(store).len(), 6);
    sweep.dry = false;
    assert_eq!(swept(store, &sweep, &at(10)), (vec!["10.0.0.2".into()], false));
    assert_eq!(leases(store).len(), 5);
    // The pool is kept although no Docker network uses it: first because one of its leases is too recent,
    // then because one of its addresses responds to a ping.
    sweep.known = None;
    assert_eq!(swept(store, &sweep, &at(10)), (vec![], false));
    sweep.before = 10;
    assert_eq!(swept(store, &sweep, &at(10)), (vec![], false));
    sweep.alive.clear();
    sweep.dry = true;
    assert_eq!(swept(store, &sweep, &at(10)).0.len(), 5);
    sweep.dry = false;
    let (freed, gone) = swept(store, &sweep, &at(10));
    assert_eq!((freed.len(), gone), (5, true));
    assert!(leases(store).is_empty() && store.pools().unwrap().is_empty());
    assert_eq!(swept(store, &sweep, &at(10)), (vec![], false));
}

pub fn adopted(make: Make<'_>) {
    let mut store = make();
    let store = &mut *store;
    let adopt = AdoptPool {
        id: PoolId("Ab3dEf6hIj9lMn2p".to_owned()),
        space: "l".to_owned(),
        subnet: subnet("192.168.0.0/24"),
        addrs: vec![addr("192.168.0.1"), addr("192.168.0.3")],
    };
    let command = Command::AdoptPool(adopt.clone());
    for _ in 0..2 {
        assert!(matches!(store.apply(&command, &at(1)), Ok(Outcome::Pool(_))));
        assert_eq!(leases(store).len(), 2);
    }
    assert_eq!(lease(store, &want(&adopt.id.0, None), &at(2)).addr, addr("192.168.0.2"));
    let twice = AdoptPool { id: PoolId("other".to_owned()), ..adopt.clone() };
    assert!(matches!(pool_refusal(store, &Command::AdoptPool(twice)), PoolRefusal::Overlap { .. }));
    let outside = AdoptPool { addrs: vec![addr("10.0.0.1")], ..adopt };
    assert!(matches!(
        pool_refusal(store, &Command::AdoptPool(outside)),
        PoolRefusal::OutOfRange { .. }
    ));
}
