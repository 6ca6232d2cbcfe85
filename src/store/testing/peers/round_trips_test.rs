//! Tests that count the round trips of commands: in an empty, a nearly full and a full set of leases, and
//! while sixteen nodes lease concurrently. The tests run on real servers and on the fake server. The
//! containers have the same names in each run, so the numbers of round trips are the same, too.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::contract::{add, addr, at, del, net, set};
use super::delegate::delegate_server;
use super::fake_cluster::FakeServer;
use super::servers;
use crate::alloc::{Add, Command, Context, Cooldown, Outcome, Reserve, Strategy};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{BootId, History, Node, Persist};
use crate::net::{Addr, GatewaySpec, Range, RangeSet, RangeSpec, Span};
use crate::store::Store;
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::consul::Consul;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::server::{Commit, Entries, Entry, KeyRange, Operation, Server};
use crate::store::cluster::{ClusterStore, LocalCache};

/// A server that counts its round trips.
pub struct Counted<S>(pub S, pub Rc<Cell<usize>>);

impl<S> Counted<S> {
    fn asked(&self) -> &S {
        self.1.set(self.1.get() + 1);
        &self.0
    }
}

impl<S: Server> Server for Counted<S> {
    delegate_server!(self => self.0, self.asked());

    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError> {
        self.asked().commit(operations, until)
    }
}

impl Server for Box<dyn Server> {
    delegate_server!(self => (**self), (**self));

    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError> {
        (**self).commit(operations, until)
    }
}

/// A function that makes a client of a server. Its argument is a prefix for the client's keys.
type Make<'a> = &'a dyn Fn(&str) -> Box<dyn Server>;

/// A node of a cluster.
struct Member {
    store: ClusterStore<Counted<Box<dyn Server>>>,
    count: Rc<Cell<usize>>,
    cx: Context,
}

impl Member {
    /// Makes a node, which claims its name in the cluster before the test counts round trips.
    fn new(server: Box<dyn Server>, folder: &Path, number: u64) -> Member {
        let count = Rc::new(Cell::new(0));
        let cache = LocalCache::new(folder, String::new());
        let (server, timeout) = (Counted(server, count.clone()), Duration::from_secs(60));
        // Removing old events would take additional round trips, so keep all history.
        let history = History::Kept { count: u64::MAX, age: u64::MAX };
        let store = ClusterStore::new(server, timeout, Persist::Boot, cache).keeping(history);
        let node = Node { name: format!("node-{number}"), machine: format!("m{number}") };
        let mut member = Member { store, count, cx: Context { node, seed: number, ..at(1) } };
        let first = Add { set: net(), ..add("first", &[set("192.168.0.0/24")]) };
        member.ask(&Command::Add(first)).1.unwrap();
        member.ask(&del("first")).1.unwrap();
        member
    }

    /// Runs a command. Returns the number of its round trips, and its outcome.
    fn ask(&mut self, command: &Command) -> (usize, Result<Outcome, Error>) {
        self.count.set(0);
        self.cx.seed = self.cx.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let outcome = self.store.apply(command, &self.cx);
        (self.count.get(), outcome)
    }

    fn add(&mut self, add: Add) -> (usize, Addr) {
        let (trips, outcome) = self.ask(&Command::Add(add));
        match outcome {
            Ok(Outcome::Added(added)) => (trips, added.grants[0].addr),
            other => panic!("{other:?}"),
        }
    }

    fn is_exhausted(&mut self, add: Add) -> (usize, bool) {
        match self.ask(&Command::Add(add)) {
            (trips, Err(Error::Refused(Refusal::Exhausted { .. }))) => (trips, true),
            (trips, _) => (trips, false),
        }
    }

    /// Reserves addresses. Each transaction reserves 30 addresses, which is few enough for every server.
    fn reserve(&mut self, addrs: impl Iterator<Item = Addr>) {
        for some in addrs.collect::<Vec<_>>().chunks(30) {
            let reserve =
                Reserve { set: net(), addrs: some.to_vec(), note: None, holder: None, name: None };
            self.ask(&Command::Reserve(reserve)).1.unwrap();
        }
    }
}

fn all(sets: &[RangeSet]) -> impl Iterator<Item = Addr> + use<> {
    let spans: Vec<Span> =
        sets.iter().flat_map(RangeSet::ranges).flat_map(Range::spans).copied().collect();
    spans.into_iter().flat_map(Span::addresses)
}

/// Returns a hash of a number.
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn number(addr: Addr) -> u64 {
    u64::try_from(addr.bits() & 0xffff_ffff).unwrap()
}

/// An ADD chooses an address that another node has just leased. The server reports the conflict. Then the
/// store reads a chunk of neighboring records to find a free address.
fn a_lost_race(make: Make<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Member::new(make("race"), folder.path(), 1);
    let sets = [set("10.0.0.0/16")];
    let mut trips = 0;
    for i in 0..20 {
        let name = format!("c{i}");
        let (first, candidate) = one.add(add(&name, &sets));
        let (freeing, freed) = one.ask(&del(&name));
        assert!(first == 1 && freeing == 2 && freed.is_ok(), "{first} {freeing}");
        one.reserve(std::iter::once(candidate));
        let (asked, other) = one.add(add(&name, &sets));
        assert_ne!(other, candidate);
        // A repeated ADD returns the same address.
        assert_eq!(one.add(add(&name, &sets)).1, other);
        trips += asked;
    }
    assert_eq!(trips, 60, "20 lost races");
}

/// Nine of ten addresses are in use, scattered at random over the subnet.
fn ninety_percent(make: Make<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Member::new(make("ninety"), folder.path(), 1);
    let sets = [set("10.0.0.0/20")];
    one.reserve(all(&sets).filter(|addr| !mixed(number(*addr)).is_multiple_of(10)));
    let mut trips = 0;
    for i in 0..200 {
        let name = format!("c{i}");
        trips += one.add(add(&name, &sets)).0;
        one.ask(&del(&name)).1.unwrap();
    }
    assert!(trips <= 600, "{trips} trips for 200 ADDs");
}

/// Only one address is free. An ADD must find this address, and the next ADD must report that the set is
/// exhausted. Both may take only a few round trips.
fn full(make: Make<'_>, len: u8) {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Member::new(make("full"), folder.path(), 1);
    let mut two = Member::new(make("full"), folder.path(), 2);
    let sets = [set(&format!("10.0.0.0/{len}"))];
    let last = all(&sets).nth(1234).unwrap();
    one.reserve(all(&sets).filter(|addr| *addr != last));
    // Count more ranges than one transaction of a server can count.
    let path = |n: u32| format!("ip/net/{:06x}/{n:08x}", n >> 8);
    let four = |n: u32| KeyRange { first: path(n), last: path(n + 3) };
    let ranges: Vec<KeyRange> = (0..300).map(|n| four(0x0a00_0000 + 4 * n)).collect();
    let until = Instant::now() + Duration::from_secs(60);
    let counts = make("full").count("ip/net/", &ranges, until).unwrap();
    // The network address and the gateway are in the first range, but have no records.
    assert!(counts[0] == 2 && counts[1..].iter().all(|n| *n == 4), "{counts:?}");
    let strategies = [Strategy::Hash, Strategy::Random, Strategy::Lowest, Strategy::RoundRobin];
    for strategy in strategies {
        let named = |name: &str| Add { strategy, ..add(name, &sets) };
        let (trips, found) = one.add(named("c"));
        assert!(found == last && trips <= 8, "{strategy:?}: {found} after {trips} trips");
        let (trips, exhausted) = two.is_exhausted(named("d"));
        assert!(exhausted && trips <= 10, "{strategy:?}: {exhausted} after {trips} trips");
        one.ask(&del("c")).1.unwrap();
        // As soon as the address is freed, a node that has just found the set exhausted can lease it.
        assert_eq!(two.add(named("d")).1, last);
        two.ask(&del("d")).1.unwrap();
    }
    // An address that is cooling down is found as soon as its cooldown has ended.
    let cool =
        |name: &str, strict| Add { cooldown: Cooldown { seconds: 30, strict }, ..add(name, &sets) };
    one.add(cool("c", true));
    one.ask(&del("c")).1.unwrap();
    two.cx.now = 30;
    assert!(two.is_exhausted(cool("d", true)).1, "it cools");
    two.cx.now = 31;
    let (trips, found) = two.add(cool("d", true));
    assert!(found == last && trips <= 9, "{found} after {trips} trips");
    two.ask(&del("d")).1.unwrap();
    assert_eq!(one.add(cool("c", false)).1, last, "no other address is free");
}

/// Leases of an earlier boot have ended, so their addresses are free. Their records still exist, so the
/// server still counts the addresses as used.
fn full_of_ended_leases(make: Make<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Member::new(make("ended"), folder.path(), 1);
    let sets = [set("10.0.0.0/21")];
    let last = all(&sets).last().unwrap();
    one.reserve(all(&sets).filter(|addr| *addr != last));
    assert_eq!(one.add(add("before", &sets)).1, last);
    let mut two = Member::new(make("ended"), folder.path(), 2);
    assert!(two.is_exhausted(add("c", &sets)).1);
    one.cx.boot = Some(BootId("boot-2".to_owned()));
    assert_eq!(one.add(add("after", &sets)).1, last);
    assert!(two.is_exhausted(add("c", &sets)).1);
}

/// Four nodes lease from a subnet of six addresses. A second range in this subnet has only three addresses,
/// because the other addresses are excluded.
fn a_small_subnet(make: Make<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let mut nodes: Vec<Member> =
        (0..4).map(|n| Member::new(make("small"), folder.path(), n)).collect();
    let range = |exclude: Vec<Span>| RangeSpec {
        gateway: GatewaySpec::None,
        exclude,
        ..RangeSpec::of("10.9.0.0/29".parse().unwrap())
    };
    let one = |spec: &RangeSpec| RangeSet::new(vec![Range::new(spec).unwrap()]).unwrap();
    let whole = [one(&range(vec![]))];
    let span = |first, last| Span::new(addr(first), addr(last)).unwrap();
    let holes = [one(&range(vec![span("10.9.0.1", "10.9.0.2"), span("10.9.0.4", "10.9.0.4")]))];
    let mut given = BTreeSet::new();
    for (i, node) in nodes.iter_mut().enumerate().take(3) {
        assert!(given.insert(node.add(add(&format!("c{i}"), &holes)).1));
    }
    assert!(given.iter().all(|a| holes[0].ranges()[0].gives(*a)), "{given:?}");
    assert!(nodes[3].is_exhausted(add("c3", &holes)).1);
    for i in 3..6 {
        assert!(given.insert(nodes[i % 4].add(add(&format!("c{i}"), &whole)).1));
    }
    assert_eq!(given.len(), 6);
    for node in &mut nodes {
        assert!(node.is_exhausted(add("c6", &whole)).1);
    }
    nodes[1].ask(&del("c1")).1.unwrap();
    nodes[2].add(add("c6", &whole));
    assert!(nodes[0].is_exhausted(add("c7", &whole)).1);
}

/// Round robin needs one round trip to read the cursor, and the strategy `lowest` needs one to search for the
/// lowest free address. The commit takes the second round trip.
fn in_order(make: Make<'_>) {
    let folder = tempfile::tempdir().unwrap();
    let mut one = Member::new(make("order"), folder.path(), 1);
    let sets = [set("10.0.0.0/16"), set("fd00::/64")];
    for strategy in [Strategy::RoundRobin, Strategy::Lowest] {
        one.add(Add { strategy, ..add("first", &sets[..1]) });
        for i in 0..20 {
            let name = format!("{strategy:?}-{i}");
            let trips = one.add(Add { strategy, ..add(&name, &sets[..1]) }).0;
            assert_eq!(trips, 2, "{name}");
        }
        one.ask(&del("first")).1.unwrap();
    }
    // With the default strategy, the hash of the owner selects the addresses. An ADD then takes one round
    // trip, even if it leases an IPv4 and an IPv6 address.
    for i in 0..20 {
        assert_eq!(one.add(add(&format!("dual-{i}"), &sets)).0, 1);
    }
}

/// Returns an ADD's average number of round trips while sixteen nodes lease concurrently.
fn at_once(make: &(dyn Fn(&str) -> Box<dyn Server> + Sync), strategy: Strategy) -> f64 {
    const EACH: u64 = 40;
    let prefix = format!("once-{strategy:?}");
    let folder = tempfile::tempdir().unwrap();
    let asked = AtomicU64::new(0);
    let barrier = std::sync::Barrier::new(16);
    let client = |n: u64| {
        let mut one = Member::new(make(&prefix), folder.path(), n);
        let sets = [set("10.0.0.0/16")];
        barrier.wait();
        let mut given = Vec::new();
        for i in 0..EACH {
            let (trips, addr) = one.add(Add { strategy, ..add(&format!("{n}-{i}"), &sets) });
            asked.fetch_add(trips as u64, Ordering::Relaxed);
            given.push(addr);
        }
        given
    };
    let given: Vec<Addr> = thread::scope(|scope| {
        let client = &client;
        let running: Vec<_> = (0..16).map(|n| scope.spawn(move || client(n))).collect();
        running.into_iter().flat_map(|one| one.join().unwrap()).collect()
    });
    let given: BTreeSet<Addr> = given.into_iter().collect();
    assert_eq!(given.len() as u64, 16 * EACH, "an address has two holders");
    assert_sound(&make(&prefix));
    #[allow(clippy::cast_precision_loss, reason = "at most a few hundred")]
    let average = asked.into_inner() as f64 / (16 * EACH) as f64;
    average
}

fn takes_few_round_trips(make: &(dyn Fn(&str) -> Box<dyn Server> + Sync)) {
    everywhere(&|prefix| make(prefix), 20);
    assert!(at_once(make, Strategy::Hash) <= 1.3);
    // With round robin, all sixteen nodes read the same cursor and compete for the next address.
    let in_turn = at_once(make, Strategy::RoundRobin);
    assert!(in_turn <= 8.0, "{in_turn}");
}

fn everywhere(make: Make<'_>, len: u8) {
    a_lost_race(make);
    ninety_percent(make);
    full(make, len);
    full_of_ended_leases(make);
    a_small_subnet(make);
    in_order(make);
}

#[test]
fn etcd_takes_few_round_trips() {
    let server = servers::ready_etcd();
    takes_few_round_trips(&|prefix| {
        Box::new(Etcd::new(&server.etcd(&format!("tests/{prefix}"))).unwrap())
    });
}

#[test]
fn consul_takes_few_round_trips() {
    let server = servers::ready_consul();
    takes_few_round_trips(&|prefix| {
        Box::new(Consul::new(&server.consul(&format!("tests/{prefix}"))).unwrap())
    });
}

/// Runs the cases on the fake server, with a set of about 65,000 leases.
#[test]
fn a_search_in_a_large_set_takes_few_round_trips() {
    for is_etcd in [false, true] {
        let servers = std::cell::RefCell::new(BTreeMap::<String, Rc<FakeServer>>::new());
        everywhere(
            &|prefix| {
                let mut servers = servers.borrow_mut();
                let server = servers.entry(prefix.to_owned()).or_default().clone();
                server.is_etcd.set(is_etcd);
                Box::new(server)
            },
            16,
        );
        for server in servers.borrow().values() {
            assert_sound(server);
        }
    }
}
