//! Cases of the contract (the tests that every store must pass) about addresses that are reserved for a name.

use super::contract::{
    Make, add, added, addr, at, del, dual_stack, freed, gc_all, leases, lowest, net, owner,
    refused, set,
};
use super::host::{Host, boot};
use crate::alloc::{
    Add, Command, Cooldown, Evict, Outcome, Requested, Reserve, Strategy, Unreserve,
};
use crate::engine;
use crate::error::{Error, Refusal};
use crate::liveness;
use crate::liveness::stale::Liveness;
use crate::model::{Kind, Lease, Netns, Origin, Owner, Persist, Pod, StaticName};
use crate::net::{Addr, RangeSet};
use crate::store::{Store, StoreReader};

pub fn name(text: &str) -> StaticName {
    StaticName::new(text).unwrap()
}

pub fn reserve_for(addrs: &[&str], text: &str) -> Command {
    let addrs = addrs.iter().map(|text| addr(text)).collect();
    Command::Reserve(Reserve {
        set: net(),
        addrs,
        note: Some("of the team".to_owned()),
        holder: None,
        name: Some(name(text)),
    })
}

pub fn unreserve(addrs: &[&str]) -> Command {
    let addrs = addrs.iter().map(|text| addr(text)).collect();
    Command::Unreserve(Unreserve { set: net(), addrs })
}

/// Makes an ADD for a pod in the namespace `shop`.
pub fn of_pod(container: &str, pod: &str, sets: &[RangeSet]) -> Add {
    let pod = Pod { namespace: "shop".into(), name: pod.into(), uid: container.into() };
    let add = lowest(container, sets);
    Add { origin: Origin { pod: Some(pod), ..add.origin.clone() }, ..add }
}

fn reserved(store: &mut dyn Store, command: &Command, now: u64) -> Vec<Addr> {
    match store.apply(command, &at(now)) {
        Ok(Outcome::Reserved(addrs)) => addrs,
        other => panic!("{other:?}"),
    }
}

fn lease_of(store: &mut dyn Store, at: &str) -> Lease {
    leases(store).into_iter().find(|lease| lease.addr == addr(at)).unwrap()
}

fn request(add: Add, at: &str) -> Command {
    Command::Add(Add { requested: vec![Requested { addr: addr(at), prefix: None }], ..add })
}

pub fn only_the_name_gets_them(make: Make<'_>) {
    let (mut a, mut b) = (make(), make());
    let sets = dual_stack();
    let both = ["10.0.0.2", "fd00::5"];
    assert_eq!(reserved(&mut *a, &reserve_for(&both, "shop/db-0"), 1), both.map(addr));
    for n in 0..4 {
        // Other containers and other pods never get the reserved addresses, not even if they request them.
        let got = added(&mut *b, &lowest(&format!("x{n}"), &sets), &at(2));
        assert!(got[0] != addr(both[0]) && got[1] != addr(both[1]), "{got:?}");
    }
    let other = added(&mut *b, &of_pod("y", "db-1", &sets), &at(2));
    assert_ne!(other[0], addr(both[0]));
    for stranger in [add("z", &sets), of_pod("z", "db-1", &sets)] {
        let refusal = refused(&mut *a, &request(stranger, both[0]), &at(2));
        let Refusal::Held { holder, .. } = refusal else { panic!("{refusal:?}") };
        assert_eq!(holder.owner, Owner::Named(name("shop/db-0")));
    }
    for n in 3..6 {
        // The pod `db-0` gets its reserved addresses in every new sandbox, no matter which of the two
        // processes runs the ADD.
        let container = format!("c{n}");
        let store = if n % 2 == 0 { &mut a } else { &mut b };
        let mut pod = of_pod(&container, "db-0", &sets);
        pod.cooldown = Cooldown { seconds: 30, strict: true };
        pod.strategy = Strategy::RoundRobin;
        assert_eq!(added(&mut **store, &pod, &at(n)), both.map(addr));
        assert_eq!(added(&mut **store, &pod, &at(n)), both.map(addr));
        let lease = lease_of(&mut *a, both[0]);
        assert_eq!((lease.kind, &lease.owner), (Kind::Named, &owner(&container)));
        let refusal = refused(&mut *b, &request(add("z", &sets), both[0]), &at(n));
        assert!(matches!(refusal, Refusal::Held { .. }), "{refusal:?}");
        assert_eq!(freed(&mut *a, &del(&container), &at(n)), both.map(addr));
        let lease = lease_of(&mut *b, both[0]);
        assert_eq!((lease.kind, lease.owner), (Kind::Reserved, Owner::Named(name("shop/db-0"))));
        assert_eq!((lease.origin.note.as_deref(), lease.time), (Some("of the team"), 1));
    }
    assert_eq!(freed(&mut *b, &unreserve(&both), &at(9)), both.map(addr));
    assert_eq!(added(&mut *a, &lowest("free", &sets), &at(9))[0], addr(both[0]));
}

/// The only free address in the range is reserved, so the range counts as exhausted for every container
/// except the container with the reserved name.
pub fn a_full_range_has_the_reserved_address(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/29")];
    reserved(&mut *store, &reserve_for(&["10.0.0.4"], "db"), 1);
    for n in 0..4 {
        assert_ne!(added(&mut *store, &add(&format!("c{n}"), &sets), &at(2)), [addr("10.0.0.4")]);
    }
    let stranger = Command::Add(add("c9", &sets));
    let refusal = refused(&mut *store, &stranger, &at(3));
    assert!(matches!(refusal, Refusal::Exhausted { .. }), "{refusal:?}");
    let of_db = add("db-1", &sets);
    let origin = Origin { endpoint: Some("db".into()), ..of_db.origin.clone() };
    let of_db = Add { origin, ..of_db };
    assert_eq!(added(&mut *store, &of_db, &at(4)), [addr("10.0.0.4")]);
    freed(&mut *store, &del("db-1"), &at(5));
    let refusal = refused(&mut *store, &stranger, &at(6));
    assert!(matches!(refusal, Refusal::Exhausted { .. }), "{refusal:?}");
}

pub fn an_earlier_container_of_the_name(make: Make<'_>) {
    let mut store = make();
    let sets = dual_stack();
    let both = ["10.0.0.7", "fd00::7"].map(addr);
    reserved(&mut *store, &reserve_for(&["10.0.0.7", "fd00::7"], "shop/db-0"), 1);
    assert_eq!(added(&mut *store, &of_pod("old", "db-0", &sets), &at(2)), both);
    let before = leases(&mut *store);
    let newer = of_pod("new", "db-0", &sets);
    let refusal = refused(&mut *store, &Command::Add(newer.clone()), &at(3));
    let Refusal::Predecessor { holder, .. } = refusal else { panic!("{refusal:?}") };
    assert_eq!((&holder.owner, holder.addr), (&owner("old"), both[0]));
    assert_eq!(leases(&mut *store), before);
    // A lease that is listed in `gone` is not freed if it has changed since it was read.
    let changed = Lease { time: 1, ..(*holder).clone() };
    let gone = Add { gone: vec![changed], ..newer.clone() };
    let refusal = refused(&mut *store, &Command::Add(gone), &at(3));
    assert!(matches!(refusal, Refusal::Predecessor { .. }), "{refusal:?}");
    // The earlier container has two leases. If only one of them is listed in `gone`, the other lease still
    // causes the refusal.
    let gone = Add { gone: vec![(*holder).clone()], ..newer.clone() };
    let refusal = refused(&mut *store, &Command::Add(gone), &at(3));
    assert!(
        matches!(&refusal, Refusal::Predecessor { holder, .. } if holder.addr == both[1]),
        "{refusal:?}"
    );
    assert_eq!(leases(&mut *store), before);
    let gone = Add { gone: before.clone(), ..newer };
    assert_eq!(added(&mut *store, &gone, &at(3)), both);
    // The earlier container's DEL arrives only now, and frees nothing.
    assert_eq!(freed(&mut *store, &del("old"), &at(4)), []);
    let now = leases(&mut *store);
    assert!(now.len() == 2 && now.iter().all(|l| l.owner == owner("new")), "{now:?}");
    assert_eq!(freed(&mut *store, &del("new"), &at(5)), both);
    assert!(leases(&mut *store).iter().all(|lease| lease.kind == Kind::Reserved));
}

pub fn a_reservation_under_a_lease(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    let held = added(&mut *store, &of_pod("c1", "db-0", &sets), &at(1));
    let text = held[0].to_string();
    let other = reserve_for(&[&text], "shop/db-1");
    assert!(matches!(refused(&mut *store, &other, &at(2)), Refusal::Held { .. }));
    assert_eq!(reserved(&mut *store, &reserve_for(&[&text], "shop/db-0"), 2), held);
    assert_eq!(reserved(&mut *store, &reserve_for(&[&text], "shop/db-0"), 2), []);
    assert!(matches!(refused(&mut *store, &other, &at(2)), Refusal::Held { .. }));
    assert_eq!(lease_of(&mut *store, &text).owner, owner("c1"));
    assert_eq!(freed(&mut *store, &del("c1"), &at(3)), held);
    assert_eq!(lease_of(&mut *store, &text).kind, Kind::Reserved);
    assert!(matches!(refused(&mut *store, &other, &at(3)), Refusal::Held { .. }));
    assert_ne!(added(&mut *store, &lowest("x", &sets), &at(3)), held);
    // The reservation ends while the pod has the address. The pod keeps its lease. After the pod's DEL, any
    // container can get the address.
    assert_eq!(added(&mut *store, &of_pod("c2", "db-0", &sets), &at(4)), held);
    assert_eq!(freed(&mut *store, &unreserve(&[&text]), &at(5)), held);
    assert_eq!(freed(&mut *store, &unreserve(&[&text]), &at(5)), []);
    assert_eq!(lease_of(&mut *store, &text).owner, owner("c2"));
    assert_eq!(freed(&mut *store, &del("c2"), &at(6)), held);
    assert_eq!(added(&mut *store, &lowest("y", &sets), &at(7)), held);
}

pub fn a_plain_reservation_gets_a_name(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    assert_eq!(reserved(&mut *store, &super::contract::reserve(&["10.0.0.9"]), 1).len(), 1);
    assert_ne!(added(&mut *store, &of_pod("c1", "db-0", &sets), &at(2)), [addr("10.0.0.9")]);
    freed(&mut *store, &del("c1"), &at(2));
    assert_eq!(reserved(&mut *store, &reserve_for(&["10.0.0.9"], "shop/db-0"), 3), []);
    assert_eq!(added(&mut *store, &of_pod("c2", "db-0", &sets), &at(4)), [addr("10.0.0.9")]);
    // Several addresses may be reserved for one name, so that several containers with the name can run. Each
    // container may request one of these addresses.
    reserved(&mut *store, &reserve_for(&["10.0.0.3"], "shop/db-0"), 5);
    assert_eq!(added(&mut *store, &of_pod("c3", "db-0", &sets), &at(6)), [addr("10.0.0.3")]);
    freed(&mut *store, &del("c2"), &at(7));
    freed(&mut *store, &del("c3"), &at(7));
    let requested = request(of_pod("c4", "db-0", &sets), "10.0.0.9");
    let Ok(Outcome::Added(got)) = store.apply(&requested, &at(8)) else { panic!("added") };
    assert_eq!(got.grants[0].addr, addr("10.0.0.9"));
    // If none of the addresses that are reserved for a name is in the ranges, the container gets any free
    // address.
    let elsewhere = [set("10.9.0.0/24")];
    assert_eq!(added(&mut *store, &of_pod("c5", "db-0", &elsewhere), &at(9)), [addr("10.9.0.2")]);
}

pub fn a_reservation_survives_whatever_frees_the_lease(make: Make<'_>) {
    let mut store = make();
    let sets = dual_stack();
    let both = ["10.0.0.7", "fd00::7"];
    reserved(&mut *store, &reserve_for(&both, "shop/db-0"), 1);
    let pod = |n: u64| of_pod(&format!("c{n}"), "db-0", &sets);
    assert_eq!(added(&mut *store, &pod(1), &at(2)), both.map(addr));
    assert_eq!(engine::gc(&mut *store, gc_all(), &at(3)).unwrap(), 2);
    assert_eq!(added(&mut *store, &pod(2), &at(4)), both.map(addr));
    let evict = Evict { set: net(), only_ended: false, after: None };
    if let Err(Error::Store(error)) = engine::collect(&mut *store, Command::Evict(evict), &at(5)) {
        panic!("{error}");
    }
    assert_eq!(added(&mut *store, &pod(3), &at(6)), both.map(addr));
    let created = both.map(addr);
    engine::undo(&mut *store, &net(), &owner("c3"), &created, &at(7)).unwrap();
    let now = leases(&mut *store);
    assert!(now.len() == 2 && now.iter().all(|lease| lease.kind == Kind::Reserved), "{now:?}");
}

/// Tests addresses that the configuration key `static` reserves for a name. The ADD passes them to the
/// allocator in its field `statics`.
pub fn statics_of_the_configuration(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    let statics = vec![addr("10.0.0.77"), addr("fd00::77")];
    let pod =
        |container: &str| Add { statics: statics.clone(), ..of_pod(container, "db-0", &sets) };
    assert_eq!(added(&mut *store, &pod("c1"), &at(1)), statics[..1]);
    assert_eq!(leases(&mut *store)[0].kind, Kind::Static);
    let refusal = refused(&mut *store, &Command::Add(pod("c2")), &at(2));
    let Refusal::Predecessor { holder, .. } = refusal else { panic!("{refusal:?}") };
    let gone = Add { gone: vec![*holder], ..pod("c2") };
    assert_eq!(added(&mut *store, &gone, &at(3)), statics[..1]);
    freed(&mut *store, &del("c2"), &at(4));
    assert_eq!(leases(&mut *store), []);
    // Another container leases the address before the configuration reserves it for the pod.
    let Command::Add(early) = request(add("early", &sets), "10.0.0.77") else { unreachable!() };
    added(&mut *store, &early, &at(5));
    let refusal = refused(&mut *store, &Command::Add(pod("c3")), &at(6));
    assert!(matches!(refusal, Refusal::Held { .. }), "{refusal:?}");
}

/// Returns the network namespace at `path`, in the form in which an ADD records it. If the path does not
/// exist, the inode number is made up.
fn namespace(path: &str) -> Netns {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |path: &str| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let mount_ns = inode("/proc/self/ns/mnt").map(|(_, inode)| inode);
    Netns { path: path.to_owned(), inode: inode(path).or(Some((4, 987_654_321_000))), mount_ns }
}

#[test]
fn an_address_moves_once_the_namespace_of_the_earlier_container_is_gone() {
    for persist in [Persist::Boot, Persist::Disk] {
        let host = Host::new();
        let mut store = host.store(persist);
        reserved(&mut store, &reserve_for(&["10.0.0.7", "fd00::7"], "shop/db-0"), 1);
        let both = ["10.0.0.7", "fd00::7"].map(addr).to_vec();
        let pod = |container: &str, path: &str| {
            let add = of_pod(container, "db-0", &dual_stack());
            Add { origin: Origin { netns: Some(namespace(path)), ..add.origin.clone() }, ..add }
        };
        let leased = |store: &mut dyn Store, add, n| {
            engine::add(store, add, None, &boot(n))
                .map(|added| added.grants.iter().map(|grant| grant.addr).collect::<Vec<_>>())
        };
        let alive = "/proc/self/ns/net";
        assert_eq!(leased(&mut store, pod("c1", alive), 1).unwrap(), both);
        let refused = leased(&mut store, pod("c2", "/no/such/netns"), 1).unwrap_err();
        let text = refused.to_string();
        assert!(text.contains("network namespace exists; stop the earlier container"), "{text}");
        // After a reboot, no namespace of the earlier boot exists.
        assert_eq!(leased(&mut store, pod("c2", "/no/such/netns"), 2).unwrap(), both);
        let rows = super::host::listed(&mut store, &boot(2));
        assert!(rows.iter().all(|lease| lease.owner == owner("c2")), "{rows:?}");
        // Only a user who can inspect every process can prove that a network namespace no longer exists. For
        // other users, skip the rest of the test.
        if let Liveness::Stale(_) = liveness::of(&rows[0], None, &boot(2)) {
            // Simulate that the kernel has reused an inode number: the namespace of the next container has
            // the inode number of the namespace that no longer exists.
            let next = namespace(alive);
            let netns = Some(Netns { path: "/no/such/netns".to_owned(), ..next.clone() });
            let origin = Origin { netns, ..rows[0].origin.clone() };
            let former = Lease { origin, ..rows[0].clone() };
            let is_stale =
                |newcomer| matches!(liveness::of(&former, newcomer, &boot(2)), Liveness::Stale(_));
            assert!(is_stale(Some(&next)) && !is_stale(None));
            assert_eq!(leased(&mut store, pod("c3", alive), 2).unwrap(), both);
            let lost = |event: &crate::model::Event| event.what == crate::model::What::Lost;
            let events = store.history(&boot(2), &mut |event| lost(event)).unwrap();
            assert!(events.iter().all(|event| both.contains(&event.addr)) && events.len() >= 2);
        }
    }
}

#[test]
fn a_name_keeps_its_address_over_reboots_and_the_loss_of_the_lease_file() {
    for persist in [Persist::Boot, Persist::Disk] {
        let host = Host::new();
        let sets = [set("10.0.0.0/24")];
        let mut store = host.store(persist);
        reserved(&mut store, &reserve_for(&["10.0.0.2"], "shop/db-0"), 1);
        for n in 1..4 {
            let (of_db, stranger) = (format!("db{n}"), format!("x{n}"));
            assert_ne!(added(&mut store, &lowest(&stranger, &sets), &boot(n)), [addr("10.0.0.2")]);
            assert_eq!(
                added(&mut store, &of_pod(&of_db, "db-0", &sets), &boot(n)),
                [addr("10.0.0.2")]
            );
            freed(&mut store, &del(&of_db), &boot(n));
            freed(&mut store, &del(&stranger), &boot(n));
        }
        for file in [host.path(""), host.of_boot(3)] {
            let _ = std::fs::remove_file(file);
        }
        assert_ne!(added(&mut store, &lowest("y", &sets), &boot(3)), [addr("10.0.0.2")]);
        assert_eq!(added(&mut store, &of_pod("z", "db-0", &sets), &boot(3)), [addr("10.0.0.2")]);
    }
}

/// A policy file that reserves no address for a name has format version 1, which earlier versions of sublet
/// read. Such a file adds no cost to an ADD.
#[test]
fn the_version_of_the_policy_says_whether_it_has_names() {
    let host = Host::new();
    let mut store = host.store(Persist::Disk);
    let line = || std::fs::read_to_string(host.path(".policy")).unwrap();
    store.apply(&super::contract::reserve(&["10.0.0.9"]), &at(1)).unwrap();
    assert!(line().starts_with("sublet-policy 1 ") && !line().contains("\"for\""));
    reserved(&mut store, &reserve_for(&["10.0.0.2"], "shop/db-0"), 1);
    assert!(line().starts_with("sublet-policy 2 ") && line().contains(r#""for":"shop/db-0""#));
    freed(&mut store, &unreserve(&["10.0.0.2"]), &at(2));
    assert!(line().starts_with("sublet-policy 1 "));
}
