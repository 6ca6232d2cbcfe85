//! The contract of [`crate::store::Store`], as a suite of test cases. They run on every store: the model, the
//! lease file with boot leases and with durable leases, the fake cluster (`cluster_test`), and real servers
//! (`servers_test`).
//!
//! Each case gets a function that opens the case's store, which is empty at first. A case that calls the
//! function twice gets two handles on the same store, which act as two processes or two nodes.

use std::rc::Rc;

use super::delegate::{delegate_reads, delegate_repairs};
use super::memory::Memory;
use super::operator_test;
use crate::alloc::{
    Add, Check, Command, Context, Cooldown, Del, ForeignLease, Gc, Legacy, LegacyCursor,
    OnDuplicate, Outcome, Requested, Reserve, Status, Strategy, Target,
};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{
    Attachment, BootId, ContainerId, IfName, Kind, Lease, NetworkName, Node, Origin, Owner,
    Persist, Pod, SetName, Wait,
};
use crate::net::{Addr, GatewaySpec, Range, RangeSet, RangeSpec};
use crate::store::{Embedded, Store, StoreReader};

/// A function that opens the store of a case.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Store>;

pub fn addr(text: &str) -> Addr {
    text.parse().unwrap()
}

/// Makes a range set with one range. The text is a subnet such as `10.0.0.0/29`, or a subnet with the first
/// and last address, such as `10.0.0.0/24 10.0.0.5 10.0.0.9`.
pub fn set(text: &str) -> RangeSet {
    let mut words = text.split(' ');
    let subnet = words.next().unwrap().parse().unwrap();
    let (start, end) = (words.next().map(addr), words.next().map(addr));
    let spec = RangeSpec { start, end, ..RangeSpec::of(subnet) };
    RangeSet::new(vec![Range::new(&spec).unwrap()]).unwrap()
}

pub fn attachment(container: &str) -> Attachment {
    Attachment {
        network: NetworkName::new("net").unwrap(),
        container: ContainerId::new(container).unwrap(),
        ifname: Some(IfName::new("eth0").unwrap()),
    }
}

/// Makes a lease of the network "net" in the form in which an import reads it from host-local's folder.
pub fn foreign(container: &str, at: &str, ifname: Option<&str>) -> ForeignLease {
    let ifname = ifname.map(|i| IfName::new(i).unwrap());
    let owner = Owner::Attachment(Attachment { ifname, ..attachment(container) });
    ForeignLease { addr: addr(at), kind: Kind::Dynamic, owner }
}

pub fn owner(container: &str) -> Owner {
    Owner::Attachment(attachment(container))
}

pub fn net() -> SetName {
    SetName("net".to_owned())
}

pub fn network() -> NetworkName {
    NetworkName::new("net").unwrap()
}

pub fn add(container: &str, sets: &[RangeSet]) -> Add {
    Add {
        set: net(),
        network: NetworkName::new("net").unwrap(),
        owner: owner(container),
        sets: sets.to_vec(),
        requested: vec![],
        strategy: Strategy::Hash,
        cooldown: Cooldown::default(),
        sticky: false,
        on_duplicate: OnDuplicate::Same,
        claim_gateways: false,
        origin: Origin { attachment: Some(attachment(container)), ..Origin::default() },
        statics: Vec::new(),
        gone: Vec::new(),
        legacy: Legacy::Absent,
        define: None,
    }
}

/// Makes an ADD that leases the lowest free address.
pub fn lowest(container: &str, sets: &[RangeSet]) -> Add {
    Add { strategy: Strategy::Lowest, ..add(container, sets) }
}

pub fn del(container: &str) -> Command {
    Command::Del(del_target(Target::Owner(owner(container))))
}

pub fn del_target(target: Target) -> Del {
    Del { set: net(), target, rewind: false, undo: false, legacy: None }
}

pub fn reserve(addrs: &[&str]) -> Command {
    let addrs = addrs.iter().map(|text| addr(text)).collect();
    Command::Reserve(Reserve { set: net(), addrs, note: None, holder: None, name: None })
}

/// Makes a GC of the network "net" that frees the leases of all containers, because it lists none of them as
/// valid.
pub fn gc_all() -> Gc {
    let network = NetworkName::new("net").unwrap();
    Gc { set: net(), network, valid: [].into(), after: None }
}

pub fn at(now: u64) -> Context {
    Context {
        now,
        boot: Some(BootId("boot-1".to_owned())),
        node: Node { name: "node".to_owned(), machine: "machine".to_owned() },
        seed: now,
        ..Context::default()
    }
}

/// Runs an ADD that must succeed. Returns its addresses.
pub fn added(store: &mut dyn Store, add: &Add, cx: &Context) -> Vec<Addr> {
    match store.apply(&Command::Add(add.clone()), cx) {
        Ok(Outcome::Added(added)) => added.grants.iter().map(|g| g.addr).collect(),
        other => panic!("{other:?}"),
    }
}

pub fn refused(store: &mut dyn Store, command: &Command, cx: &Context) -> Refusal {
    match store.apply(command, cx) {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

pub fn freed(store: &mut dyn Store, command: &Command, cx: &Context) -> Vec<Addr> {
    match store.apply(command, cx) {
        Ok(Outcome::Freed(leases)) => leases.iter().map(|l| l.addr).collect(),
        other => panic!("{other:?}"),
    }
}

/// Returns the leases that have not ended.
pub fn listed(store: &mut dyn Store, cx: &Context) -> Vec<Lease> {
    let mut all = Vec::new();
    store.list(cx, &mut |lease| all.push(lease)).unwrap();
    all
}

/// Returns the leases, ordered by set and address. Panics if an address of a set has two leases.
pub fn leases(store: &mut dyn Store) -> Vec<Lease> {
    let mut all = listed(store, &at(0));
    all.sort_by(|a, b| (&a.set, a.addr).cmp(&(&b.set, b.addr)));
    let mut addrs: Vec<_> = all.iter().map(|l| (l.set.clone(), l.addr)).collect();
    addrs.dedup();
    assert_eq!(addrs.len(), all.len(), "an address has two holders");
    all
}

pub fn dual_stack() -> Vec<RangeSet> {
    vec![set("10.0.0.0/24"), set("fd00::/64")]
}

fn dual_stack_add_and_del(make: Make<'_>) {
    let (mut a, mut b) = (make(), make());
    let got = added(&mut *a, &add("c1", &dual_stack()), &at(1));
    assert_eq!(got.len(), 2);
    // If another process repeats the ADD, it gets the same addresses, and no lease is added.
    assert_eq!(added(&mut *b, &add("c1", &dual_stack()), &at(2)), got);
    assert_eq!(leases(&mut *a).len(), 2);
    let other = added(&mut *b, &add("c2", &dual_stack()), &at(3));
    assert!(got.iter().all(|x| !other.contains(x)));
    assert_eq!(freed(&mut *b, &del("c1"), &at(4)), got);
    assert_eq!(freed(&mut *a, &del("c1"), &at(5)), []);
    assert_eq!(leases(&mut *b).len(), 2);
}

fn del_of_nothing(make: Make<'_>) {
    assert_eq!(freed(&mut *make(), &del("c1"), &at(1)), []);
    assert!(leases(&mut *make()).is_empty());
}

fn ordered_strategies(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/29")];
    let rr = |c: &str| Add { strategy: Strategy::RoundRobin, ..add(c, &sets) };
    assert_eq!(added(&mut *store, &rr("c1"), &at(1)), [addr("10.0.0.2")]);
    assert_eq!(freed(&mut *store, &del("c1"), &at(2)), [addr("10.0.0.2")]);
    assert_eq!(added(&mut *store, &rr("c2"), &at(3)), [addr("10.0.0.3")]);
    let low = Add { strategy: Strategy::Lowest, ..add("c3", &sets) };
    assert_eq!(added(&mut *store, &low, &at(4)), [addr("10.0.0.2")]);
    for (i, want) in ["10.0.0.4", "10.0.0.5", "10.0.0.6"].iter().enumerate() {
        assert_eq!(added(&mut *store, &rr(&format!("r{i}")), &at(5)), [addr(want)]);
    }
    freed(&mut *store, &del("c3"), &at(6));
    assert_eq!(added(&mut *store, &rr("last"), &at(7)), [addr("10.0.0.2")]);
}

fn fixed_addresses(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    let requested = |c: &str, a: &str| {
        let requested = vec![Requested { addr: addr(a), prefix: None }];
        Command::Add(Add { requested, ..add(c, &sets) })
    };
    let Command::Add(first) = requested("c1", "10.0.0.7") else { unreachable!() };
    assert_eq!(added(&mut *store, &first, &at(1)), [addr("10.0.0.7")]);
    assert_eq!(leases(&mut *store)[0].kind, Kind::Static);
    let cx = at(2);
    assert!(matches!(
        refused(&mut *store, &requested("c2", "10.0.0.7"), &cx),
        Refusal::Held { holder, .. } if holder.owner == owner("c1")
    ));
    let no = |r: Refusal| std::mem::discriminant(&r);
    let gateway = Refusal::IsGateway { index: 0, addr: addr("10.0.0.1") };
    assert_eq!(no(refused(&mut *store, &requested("c2", "10.0.0.1"), &cx)), no(gateway));
    assert!(matches!(
        refused(&mut *store, &requested("c2", "10.0.1.1"), &cx),
        Refusal::NotInRange { .. }
    ));
    // A request for an address that the range excludes is refused.
    let exclude = vec![crate::net::Span::new(addr("10.0.0.50"), addr("10.0.0.60")).unwrap()];
    let spec = RangeSpec { exclude, ..RangeSpec::of("10.0.0.0/24".parse().unwrap()) };
    let without = RangeSet::new(vec![Range::new(&spec).unwrap()]).unwrap();
    let requested_there = vec![Requested { addr: addr("10.0.0.55"), prefix: None }];
    let excluded =
        Command::Add(Add { requested: requested_there, sets: vec![without], ..first.clone() });
    let Command::Add(excluded) = excluded else { unreachable!() };
    let excluded = Command::Add(Add { owner: owner("c2"), ..excluded });
    assert!(matches!(refused(&mut *store, &excluded, &cx), Refusal::Excluded { .. }));
    // If an owner that already has a lease requests a different address, the ADD is refused and the lease
    // stays.
    assert!(matches!(
        refused(&mut *store, &requested("c1", "10.0.0.8"), &cx),
        Refusal::Misfit { asked: Some(_), .. }
    ));
    assert!(matches!(
        refused(&mut *store, &Command::Add(Add { on_duplicate: OnDuplicate::Error, ..first }), &cx),
        Refusal::Duplicate { .. }
    ));
    assert_eq!(leases(&mut *store).len(), 1);
}

fn all_or_nothing(make: Make<'_>) {
    let mut store = make();
    let tiny = set("fd00::/127");
    added(&mut *store, &add("c1", std::slice::from_ref(&tiny)), &at(1));
    let before = leases(&mut *store);
    let both = [set("10.0.0.0/24"), tiny];
    let refusal = refused(&mut *store, &Command::Add(add("c2", &both)), &at(2));
    assert!(matches!(refusal, Refusal::Exhausted { index: 1, .. }), "{refusal:?}");
    assert_eq!(leases(&mut *store), before);
    // After a range set was added to the configuration, a repeated ADD leases an address of the new range set
    // to the owner. The owner's existing lease stays.
    let got = added(&mut *store, &add("c1", &both), &at(3));
    assert_eq!(got[1], before[0].addr);
    // After the range set was removed from the configuration, a repeated ADD is refused and nothing changes.
    let before = leases(&mut *store);
    let gone = refused(&mut *store, &Command::Add(add("c1", &both[..1])), &at(4));
    assert!(matches!(gone, Refusal::Misfit { asked: None, .. }), "{gone:?}");
    assert_eq!(leases(&mut *store), before);
}

fn small_range_by_four_nodes(make: Make<'_>) {
    let mut nodes: Vec<_> = (0..4).map(|_| make()).collect();
    let sets = [set("10.0.0.0/29")];
    for i in 0..5 {
        added(&mut *nodes[i % 4], &add(&format!("c{i}"), &sets), &at(1));
    }
    let refusal = refused(&mut *nodes[1], &Command::Add(add("c9", &sets)), &at(2));
    assert!(matches!(refusal, Refusal::Exhausted { index: 0, .. }));
    let status = Command::Status(Status {
        set: net(),
        network: network(),
        sets: sets.to_vec(),
        strict: false,
    });
    assert!(matches!(refused(&mut *nodes[2], &status, &at(3)), Refusal::Exhausted { .. }));
    freed(&mut *nodes[3], &del("c3"), &at(4));
    assert_eq!(nodes[0].apply(&status, &at(5)).unwrap(), Outcome::Ready);
    added(&mut *nodes[0], &add("c9", &sets), &at(6));
    assert_eq!(leases(&mut *nodes[0]).len(), 5);
}

fn ninety_percent_full(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/22")];
    for i in 0..920 {
        added(&mut *store, &add(&format!("c{i}"), &sets), &at(1));
    }
    for i in (0..920).step_by(7) {
        assert_eq!(freed(&mut *store, &del(&format!("c{i}")), &at(2)).len(), 1);
    }
    for i in 0..101 {
        added(&mut *store, &add(&format!("d{i}"), &sets), &at(3));
    }
    assert_eq!(leases(&mut *store).len(), 920 - 132 + 101);
}

fn check_compares(make: Make<'_>) {
    let mut store = make();
    let got = added(&mut *store, &add("c1", &dual_stack()), &at(1));
    let mut check = |container: &str, expected: Option<Vec<Addr>>| {
        let check = Check { set: net(), owner: owner(container), sets: dual_stack(), expected };
        store.apply(&Command::Check(check), &at(2))
    };
    assert!(check("c1", None).is_ok());
    assert!(check("c1", Some([got.clone(), vec![addr("9.9.9.9")]].concat())).is_ok());
    assert!(matches!(
        check("c1", Some(got[..1].to_vec())),
        Err(Error::Refused(Refusal::Different { .. }))
    ));
    // prevResult contains an address in the network's ranges that the owner does not hold: the address was
    // freed, or another owner holds it.
    let lost = vec![got[0], got[1], addr("10.0.0.77")];
    assert!(matches!(check("c1", Some(lost)), Err(Error::Refused(Refusal::Lost { .. }))));
    assert!(matches!(check("c2", None), Err(Error::Refused(Refusal::Missing { .. }))));
}

fn garbage_collection(make: Make<'_>) {
    collect(make, 300);
}

/// Runs a GC over `count` containers, half of which no longer exist. The GC must free the leases of the missing
/// containers, and must keep three other leases that no GC may free.
fn collect(make: Make<'_>, count: usize) {
    let mut store = make();
    let sets = [set("10.0.0.0/8")];
    for i in 0..count {
        added(&mut *store, &add(&format!("c{i}"), &sets), &at(1));
    }
    // This container belongs to another network, so the GC must not free its lease.
    let foreign = Attachment { network: NetworkName::new("other").unwrap(), ..attachment("c1") };
    let foreign = Add { owner: Owner::Attachment(foreign), ..add("c1", &sets) };
    added(&mut *store, &foreign, &at(1));
    let id = Add { owner: Owner::Id("eni".into()), origin: Origin::default(), ..add("x", &sets) };
    added(&mut *store, &id, &at(1));
    store.apply(&reserve(&["11.0.0.1"]), &at(1)).unwrap();
    let mut valid: Vec<_> = (0..count)
        .step_by(2)
        .map(|i| {
            let a = attachment(&format!("c{i}"));
            (a.container, a.ifname.unwrap())
        })
        .collect();
    valid.sort();
    let network = NetworkName::new("net").unwrap();
    let gc = Gc { set: net(), network, valid: valid.into(), after: None };
    let freed = crate::engine::gc(&mut *store, gc, &at(2));
    assert_eq!(freed.unwrap(), count / 2);
    assert_eq!(leases(&mut *store).len(), count.div_ceil(2) + 3);
}

fn a_cooling_address_is_not_leased(make: Make<'_>) {
    cooldown_of_the_only_address(make, "10.0.0.0/30", "10.0.0.2");
    cooldown_of_the_only_address(make, "fd00::/64 fd00::2 fd00::2", "fd00::2");
}

fn cooldown_of_the_only_address(make: Make<'_>, range: &str, only: &str) {
    let mut store = make();
    let sets = [set(range)];
    let cool = |c: &str, strict| Add {
        cooldown: Cooldown { seconds: 30, strict },
        strategy: Strategy::Lowest,
        ..add(c, &sets)
    };
    let only = [addr(only)];
    assert_eq!(added(&mut *store, &cool("c1", true), &at(100)), only);
    freed(&mut *store, &del("c1"), &at(100));
    let strict = Command::Add(cool("c2", true));
    assert!(matches!(
        refused(&mut *store, &strict, &at(129)),
        Refusal::Exhausted { cooling: true, .. }
    ));
    // No other address is free, so the address is leased before its cooldown ends, unless the cooldown is
    // strict.
    assert_eq!(added(&mut *store, &cool("c2", false), &at(129)), only);
    freed(&mut *store, &del("c2"), &at(129));
    assert_eq!(added(&mut *store, &cool("c3", true), &at(159)), only);
    freed(&mut *store, &del("c3"), &at(159));
    // Setting the clock back does not prolong the cooldown.
    assert_eq!(added(&mut *store, &cool("c4", true), &at(50)), only);
    freed(&mut *store, &del("c4"), &at(50));
}

fn a_cooled_address_waits_its_turn(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/29")];
    let cool = |c: &str| Add {
        cooldown: Cooldown { seconds: 30, strict: false },
        strategy: Strategy::Lowest,
        ..add(c, &sets)
    };
    assert_eq!(added(&mut *store, &cool("c1"), &at(100)), [addr("10.0.0.2")]);
    freed(&mut *store, &del("c1"), &at(100));
    assert_eq!(added(&mut *store, &cool("c2"), &at(101)), [addr("10.0.0.3")]);
}

fn an_undone_add_leaves_nothing(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    let add = Add { cooldown: Cooldown { seconds: 30, strict: true }, ..add("c1", &sets) };
    let created = added(&mut *store, &add, &at(1));
    crate::engine::undo(&mut *store, &net(), &owner("c1"), &created, &at(2)).unwrap();
    assert!(leases(&mut *store).is_empty());
    assert_eq!(added(&mut *store, &add, &at(3)), created);
}

fn a_pod_returns_to_its_address(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    let pod = |c: &str, name: &str| {
        let pod = Pod { namespace: "ns".into(), name: name.into(), uid: c.into() };
        let origin = Origin { pod: Some(pod), ..add(c, &sets).origin };
        Add { sticky: true, strategy: Strategy::RoundRobin, origin, ..add(c, &sets) }
    };
    let first = added(&mut *store, &pod("c1", "db-0"), &at(1));
    freed(&mut *store, &del("c1"), &at(2));
    assert_ne!(added(&mut *store, &pod("c2", "db-1"), &at(3)), first);
    assert_eq!(added(&mut *store, &pod("c3", "db-0"), &at(4)), first);
    assert_ne!(added(&mut *store, &pod("c4", "db-0"), &at(5)), first);
}

fn gateways_are_claimed(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24 10.0.0.1 10.0.0.9")];
    let claim = |c: &str, sets: &[RangeSet]| Add { claim_gateways: true, ..add(c, sets) };
    added(&mut *store, &claim("c1", &sets), &at(1));
    added(&mut *store, &claim("c2", &sets), &at(1));
    assert_eq!(leases(&mut *store).iter().filter(|l| l.kind == Kind::Gateway).count(), 1);
    let target = Target::Addresses(vec![addr("10.0.0.1")]);
    let del = Command::Del(del_target(target));
    assert_eq!(freed(&mut *store, &del, &at(2)), []);
    let held = leases(&mut *store).into_iter().find(|l| l.kind == Kind::Dynamic).unwrap();
    let gateway = GatewaySpec::At(held.addr);
    let spec = RangeSpec { gateway, ..RangeSpec::of("10.0.0.0/24".parse().unwrap()) };
    let other = RangeSet::new(vec![Range::new(&spec).unwrap()]).unwrap();
    let refusal = refused(&mut *store, &Command::Add(claim("c3", &[other])), &at(3));
    assert!(matches!(refusal, Refusal::GatewayHeld { .. }));
}

fn dels_by_address_and_id(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    let ecs = |id: &str| Add { owner: Owner::Id(id.into()), ..add("x", &sets) };
    let a = added(&mut *store, &ecs("a"), &at(1));
    let b = added(&mut *store, &ecs("b"), &at(1));
    let mut del = |target| {
        let del = Del { set: net(), target, rewind: true, undo: false, legacy: None };
        freed(&mut *store, &Command::Del(del), &at(2))
    };
    assert_eq!(del(Target::OwnerAt(Owner::Id("a".into()), b.clone())), []);
    assert_eq!(del(Target::OwnerAt(Owner::Id("a".into()), a.clone())), a);
    assert_eq!(del(Target::Some(Owner::Id("b".into()), a)), []);
    assert_eq!(del(Target::Addresses(b.clone())), b);
}

fn a_moved_container_is_rewritten(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    added(&mut *store, &add("c1", &sets), &at(1));
    let moved = Add {
        origin: Origin { mac: Some("02:00:00:00:00:01".into()), ..add("c1", &sets).origin },
        ..add("c1", &sets)
    };
    let got = added(&mut *store, &moved, &at(2));
    let now = leases(&mut *store);
    assert_eq!((now.len(), now[0].addr), (1, got[0]));
    assert_eq!(now[0].origin.mac.as_deref(), Some("02:00:00:00:00:01"));
    assert_eq!(now[0].time, 1);
}

/// Prints the name of a test case if the case fails.
pub struct CaseName(pub String);

impl Drop for CaseName {
    #[allow(clippy::print_stderr, reason = "a failing test names its case")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the case {}", self.0);
        }
    }
}

pub type Case = fn(Make<'_>);
pub const CASES: &[(&str, Case)] = &[
    ("pools do not overlap", super::pool_cases::pools_do_not_overlap),
    ("automatic pools", super::pool_cases::automatic_pools),
    ("sub-pools share their subnet's addresses", super::pool_cases::sub_pools),
    ("addresses of a pool", super::pool_cases::addresses),
    ("serial addresses", super::pool_cases::serial_addresses),
    ("a released pool frees its leases", super::pool_cases::release_frees_all),
    ("a shared pool", super::pool_cases::shared_pool),
    ("a sweep", super::pool_cases::sweep),
    ("an adopted pool", super::pool_cases::adopted),
    ("dual stack ADD and DEL", dual_stack_add_and_del),
    ("DEL of nothing", del_of_nothing),
    ("ordered strategies", ordered_strategies),
    ("fixed addresses", fixed_addresses),
    ("all or nothing", all_or_nothing),
    ("a /29 by four nodes", small_range_by_four_nodes),
    ("90 % full", ninety_percent_full),
    ("CHECK compares", check_compares),
    ("GC", garbage_collection),
    ("a cooling address is not leased", a_cooling_address_is_not_leased),
    ("a cooled address waits its turn", a_cooled_address_waits_its_turn),
    ("an undone ADD leaves nothing", an_undone_add_leaves_nothing),
    ("a pod returns to its address", a_pod_returns_to_its_address),
    ("gateways are claimed", gateways_are_claimed),
    ("DELs by address and id", dels_by_address_and_id),
    ("a moved container is rewritten", a_moved_container_is_rewritten),
    ("only the name gets its addresses", super::named_cases::only_the_name_gets_them),
    (
        "a full range has the reserved address",
        super::named_cases::a_full_range_has_the_reserved_address,
    ),
    ("an earlier container of the name", super::named_cases::an_earlier_container_of_the_name),
    ("a reservation under a lease", super::named_cases::a_reservation_under_a_lease),
    ("a plain reservation gets a name", super::named_cases::a_plain_reservation_gets_a_name),
    (
        "a reservation survives whatever frees the lease",
        super::named_cases::a_reservation_survives_whatever_frees_the_lease,
    ),
    ("static in the configuration", super::named_cases::statics_of_the_configuration),
    ("nothing new from a draining range", super::draining_cases::nothing_new_is_leased),
    ("a range set that drains is full", super::draining_cases::a_range_set_that_drains_is_full),
    ("reservations in a draining range", super::draining_cases::reservations_in_a_draining_range),
    ("a changed lease is not freed", operator_test::a_changed_lease_is_not_freed),
    ("every record is copied", super::copy_test::every_record_is_copied),
    (
        "a copy stops at an address with another holder",
        super::copy_test::another_holder_is_reported,
    ),
    ("a copy that was stopped can be repeated", super::copy_test::stopped_and_repeated),
    ("imports are atomic and repeatable", operator_test::imports_are_atomic_and_repeatable),
    ("an export moves the leases", operator_test::an_export_moves_the_leases),
];

pub fn memory() -> impl Fn() -> Box<dyn Store> {
    struct Shared(Rc<std::cell::RefCell<Memory>>);
    impl Store for Shared {
        fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
            self.0.borrow_mut().apply(command, cx)
        }
        delegate_repairs!(self => self.0.borrow_mut());
    }
    impl StoreReader for Shared {
        fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
            self.0.borrow_mut().list(cx, each)
        }
        delegate_reads!(self => self.0.borrow_mut());
    }
    let shared = Rc::new(std::cell::RefCell::new(Memory::default()));
    move || Box::new(Shared(shared.clone()))
}

#[test]
fn the_model_meets_the_contract() {
    for (name, case) in CASES {
        let _name = CaseName((*name).to_owned());
        case(&memory());
    }
    collect(&memory(), 3000);
}

#[test]
fn redb_meets_the_contract() {
    for persist in [Persist::Boot, Persist::Disk] {
        for (name, case) in CASES {
            let _name = CaseName(format!("{persist:?}: {name}"));
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("leases.redb");
            case(&|| Box::new(Embedded::new(path.clone(), persist, Wait::Forever)));
        }
    }
}

#[test]
fn the_first_add_imports_the_leases_of_host_local() {
    for make in [Box::new(memory()) as Box<dyn Fn() -> Box<dyn Store>>, {
        let folder = tempfile::tempdir().unwrap();
        Box::new(move || {
            let path = folder.path().join("leases.redb");
            Box::new(Embedded::new(path, Persist::Boot, Wait::Forever)) as Box<dyn Store>
        })
    }] {
        let mut store = make();
        let sets = [set("10.0.0.0/29")];
        let add = |c: &str, legacy| Add { strategy: Strategy::RoundRobin, legacy, ..add(c, &sets) };
        let legacy = Legacy::Read(
            vec![foreign("old", "10.0.0.3", None), foreign("new", "10.0.0.4", Some("eth0"))],
            vec![LegacyCursor { index: 0, addr: addr("10.0.0.2") }],
        );
        assert_eq!(added(&mut *store, &add("c1", legacy), &at(1)), [addr("10.0.0.5")]);
        assert_eq!(leases(&mut *store).len(), 3);
        // A repeated ADD finds the imported leases without reading host-local's folder again.
        let same = added(&mut *store, &add("old", Legacy::Unread), &at(2));
        assert_eq!(same, [addr("10.0.0.3")]);
        assert_eq!(added(&mut *store, &add("new", Legacy::Unread), &at(2)), [addr("10.0.0.4")]);
        assert_eq!(freed(&mut *store, &del("old"), &at(3)), [addr("10.0.0.3")]);
        assert_eq!(leases(&mut *store).len(), 2);
    }
}

/// If the ranges of two networks overlap, sublet warns once. It does not warn if the networks deliberately
/// share one set of leases.
#[test]
fn overlapping_networks_are_reported_once() {
    let folder = tempfile::tempdir().unwrap();
    let embedded = || {
        let path = folder.path().join("leases.redb");
        Box::new(Embedded::new(path, Persist::Boot, Wait::Forever)) as Box<dyn Store>
    };
    for make in [&memory() as Make<'_>, &embedded] {
        let mut store = make();
        let mut warned = |network: &str, set: &str, ranges: &str, container: &str| {
            let network = NetworkName::new(network).unwrap();
            let sets = [self::set(ranges)];
            let owner =
                Owner::Attachment(Attachment { network: network.clone(), ..attachment(container) });
            let add = Add { network, owner, set: SetName(set.into()), ..add(container, &sets) };
            match store.apply(&Command::Add(add), &at(1)) {
                Ok(Outcome::Added(added)) => added.warnings.join("\n"),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(warned("a", "a", "10.0.0.0/24", "c1"), "");
        let warning = warned("b", "b", "10.0.0.128/25", "c1");
        assert!(warning.contains("network b") && warning.contains("network a"), "{warning}");
        assert_eq!(warned("b", "b", "10.0.0.128/25", "c2"), "");
        let warning = warned("c", "a", "10.0.0.0/24", "c3");
        assert!(warning.contains("network b") && !warning.contains("network a"), "{warning}");
        // When the range of a network changes, the network is compared with the other networks again.
        assert!(!warned("b", "b", "10.0.0.0/25", "c5").is_empty());
    }
}
