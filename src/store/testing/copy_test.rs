//! The contract's cases for `sublet copy`: all records of a store are copied to a second store and back.

use super::contract::{Make, add, added, addr, at, attachment, del, leases, net, refused, set};
use super::draining_cases::{drain, drained};
use super::fake_cluster::{FakeServer, FakeStore};
use super::memory::Memory;
use super::named_cases::{of_pod, reserve_for};
use super::pool_cases::{ask, lease, pool, want};
use crate::alloc::{
    Add, Command, Cooldown, Del, ForeignLease, Import, Outcome, Record, RequestPool, Reserve,
    Restore, Shared, Strategy, Target,
};
use crate::error::{Error, Refusal};
use crate::migrate::copy::{Copier, compare};
use crate::model::{
    Attachment, Kind, Lease, NetworkDefinition, NetworkName, Node, Origin, Owner, Persist, Pod,
    PoolId, SetName,
};
use crate::store::{Store, StoreReader};

/// Fills a store with a lease for each kind of owner, and with records of all other kinds.
fn fill(store: &mut dyn Store) {
    let sets = [set("10.0.0.0/24"), set("fd00::/64")];
    let pod = Pod { namespace: "ns".into(), name: "db-0".into(), uid: "u".into() };
    let origin =
        Origin { pod: Some(pod), mac: Some("02:00:00:00:00:01".into()), ..add("c1", &sets).origin };
    let sticky = Add { sticky: true, strategy: Strategy::RoundRobin, origin, ..add("c1", &sets) };
    added(store, &sticky, &at(1));
    let ecs = Add { owner: Owner::Id("eni \u{e4}".into()), ..add("x", &sets[..1]) };
    added(store, &Add { claim_gateways: true, origin: Origin::default(), ..ecs }, &at(2));
    let cool = Cooldown { seconds: 30, strict: true };
    added(store, &Add { cooldown: cool, ..add("c2", &sets[..1]) }, &at(3));
    store.apply(&del("c2"), &at(4)).unwrap();
    for i in 0..70 {
        added(store, &add(&format!("many-{i}"), &sets), &at(5));
    }
    let reserve = Reserve {
        set: net(),
        addrs: vec![addr("10.9.0.1"), addr("fd00:9::1")],
        note: Some("printers".to_owned()),
        holder: Some("ops".to_owned()),
        name: None,
    };
    store.apply(&Command::Reserve(reserve), &at(6)).unwrap();
    // Three addresses are reserved for a pod. The pod's ADD leases two of them, so one stays reserved without
    // a lease.
    store
        .apply(&reserve_for(&["10.0.0.201", "10.0.1.1", "fd00::201"], "shop/db-1"), &at(6))
        .unwrap();
    added(store, &of_pod("named", "db-1", &sets), &at(6));
    assert!(drained(store, &drain("10.8.0.0", "10.8.0.255"), false, 6));
    assert!(drained(store, &drain("10.8.3.0", "10.8.3.9"), false, 7));
    let old = Attachment { ifname: None, ..attachment("old") };
    let old =
        ForeignLease { addr: addr("10.0.9.9"), kind: Kind::Dynamic, owner: Owner::Attachment(old) };
    let adopts = NetworkName::new("other").ok();
    let set = SetName("other".into());
    let import =
        Import { set, leases: vec![old], cursors: vec![], adopts, partial: false, dry_run: false };
    store.apply(&Command::Import(import), &at(7)).unwrap();
    let plain = pool(store, &ask("l", "10.1.0.0/16"), &at(8)).id.0;
    pool(store, &ask("g", "10.1.0.0/16"), &at(8));
    let shared = Shared { name: "kontena".into(), id: PoolId("kontena".into()) };
    pool(store, &RequestPool { shared: Some(shared), ..ask("l", "10.2.0.0/16") }, &at(8));
    for _ in 0..70 {
        lease(store, &want(&plain, None), &at(9));
        lease(store, &want("kontena", None), &at(9));
    }
}

/// Returns whether the store makes boot leases or durable leases.
fn lifetime(store: &mut dyn Store) -> Persist {
    let probe = SetName("probe".into());
    let network = NetworkName::new("probe").unwrap();
    let of_probe = Attachment { network: network.clone(), ..attachment("probe") };
    let (owner, sets) = (Owner::Attachment(of_probe), [set("10.0.0.0/24")]);
    let target = Target::Owner(owner.clone());
    added(store, &Add { set: probe.clone(), network, owner, ..add("probe", &sets) }, &at(99));
    let mut found = Persist::default();
    let mut collect = |record, persist| {
        if matches!(record, Record::Lease(lease) if lease.set == probe) {
            found = persist;
        }
        Ok(())
    };
    store.records(&at(99), &mut collect).unwrap();
    let del = Del { set: probe, target, rewind: false, undo: false, legacy: None };
    store.apply(&Command::Del(del), &at(99)).unwrap();
    found
}

fn copy_all(from: &mut dyn Store, to: &mut dyn Store) -> Result<usize, Error> {
    let (cx, persist) = (at(100), lifetime(to));
    let mut copier = Copier::new(to, &cx, false);
    from.records(&at(100), &mut |record, _| copier.push(record, persist))?;
    copier.flush()?;
    Ok(copier.copied)
}

fn all(store: &mut dyn Store) -> Vec<Record> {
    let mut found = Vec::new();
    let mut collect = |record, _| {
        found.push(record);
        Ok(())
    };
    store.records(&at(100), &mut collect).unwrap();
    found
}

/// Copies the records from the in-memory model to the store, and from the store to a second model.
pub fn every_record_is_copied(make: Make<'_>) {
    let (mut model, mut back) = (Memory::default(), Memory::default());
    fill(&mut model);
    let expected = all(&mut model);
    assert!(expected.len() > 290, "{}", expected.len());
    let mut store = make();
    assert_eq!(copy_all(&mut model, &mut *store).unwrap(), expected.len());
    let persist = Some(lifetime(&mut *store));
    let comparison = compare(&mut model, &mut *store, persist, &at(100)).unwrap();
    assert_eq!((comparison.same, comparison.more), (expected.len(), 0), "{comparison:?}");
    assert!(comparison.missing.is_empty() && comparison.different.is_empty(), "{comparison:?}");
    assert_eq!(copy_all(&mut *store, &mut back).unwrap(), expected.len());
    assert_eq!(all(&mut back), expected);
    // The copy is usable: no leased address is leased again, and every owner can free its lease.
    let taken: Vec<_> = leases(&mut *store).into_iter().map(|l| (l.set, l.addr)).collect();
    let new = added(&mut *store, &add("new", &[set("10.0.0.0/24")]), &at(101));
    assert!(!taken.contains(&(net(), new[0])));
    let before = leases(&mut *store).len();
    for i in 0..70 {
        let freed = store.apply(&del(&format!("many-{i}")), &at(102)).unwrap();
        assert!(matches!(freed, Outcome::Freed(l) if l.len() == 2));
    }
    assert_eq!(leases(&mut *store).len(), before - 140);
}

/// Records are copied in portions. If another owner already holds one of a portion's addresses, the whole
/// portion is refused and none of its records is written. A dry run writes nothing and reports every such
/// conflict.
pub fn another_holder_is_reported(make: Make<'_>) {
    let mut store = make();
    let mine = added(&mut *store, &add("mine", &[set("10.0.0.0/24")]), &at(1));
    let here = leases(&mut *store).remove(0);
    let other = |addr, who: &str| {
        let owner = Owner::Attachment(attachment(who));
        Record::Lease(Lease { addr, owner, ..here.clone() })
    };
    let records = vec![other(addr("10.0.0.99"), "a"), other(mine[0], "b")];
    let persist = lifetime(&mut *store);
    let restore = |dry_run| {
        let (set, records) = (Some(net()), records.clone());
        Command::Restore(Restore { set, persist, records, dry_run })
    };
    let refusal = refused(&mut *store, &restore(false), &at(2));
    assert!(matches!(&refusal, Refusal::Clash { holder, .. } if holder.addr == mine[0]));
    match store.apply(&restore(true), &at(2)).unwrap() {
        Outcome::Restored { done: 2, clashes } => assert_eq!(clashes, [refusal]),
        other => panic!("{other:?}"),
    }
    assert_eq!(leases(&mut *store), [here]);
}

/// A copy that was stopped after any portion can be repeated from the start. If a node has been renamed in
/// the meantime, its leases are refused as conflicts, because the leases that were already copied have the
/// node's former name.
pub fn stopped_and_repeated(make: Make<'_>) {
    let mut model = Memory::default();
    fill(&mut model);
    let records = all(&mut model);
    let mut store = make();
    for stop in [1, 5, 77, 200, records.len()] {
        let cx = at(100);
        let mut copier = Copier::new(&mut *store, &cx, false);
        for record in &records[..stop] {
            copier.push(record.clone(), Persist::Disk).unwrap();
        }
        copier.flush().unwrap();
    }
    let comparison = compare(&mut model, &mut *store, Some(Persist::Disk), &at(100)).unwrap();
    assert_eq!((comparison.same, comparison.more), (records.len(), 0), "{comparison:?}");
    let renamed = Node { name: "renamed".into(), machine: "m".into() };
    let lease = leases(&mut model).into_iter().find(|l| l.kind == Kind::Dynamic).unwrap();
    let set = (!lease.set.is_pools()).then(|| lease.set.clone());
    let records = vec![Record::Lease(Lease { node: renamed, ..lease })];
    let restore = Restore { set, persist: Persist::Disk, records, dry_run: false };
    let refusal = refused(&mut *store, &Command::Restore(restore), &at(101));
    assert!(matches!(refusal, Refusal::Clash { .. }));
}

/// Only clusters store network definitions. A copy from a cluster to a lease file leaves the definitions out.
#[test]
fn definitions_are_copied_between_clusters() {
    let server = || FakeStore::new(FakeServer::new(false));
    let (mut one, mut two, mut file) = (server(), server(), Memory::default());
    let record = Record::Definition(NetworkDefinition {
        network: NetworkName::new("net").unwrap(),
        version: 3,
        text: r#"{"subnet":"10.0.0.0/24"}"#.into(),
        by: "node".into(),
        time: 7,
    });
    Copier::new(&mut one, &at(1), false).push(record.clone(), Persist::Disk).unwrap();
    assert_eq!(all(&mut one), []);
    let cx = at(1);
    let mut copier = Copier::new(&mut one, &cx, false);
    copier.push(record.clone(), Persist::Disk).unwrap();
    copier.flush().unwrap();
    assert_eq!(all(&mut one), std::slice::from_ref(&record));
    for (to, left_out) in [(&mut two as &mut dyn Store, 0), (&mut file, 1)] {
        let mut copier = Copier::new(to, &cx, false);
        one.records(&cx, &mut |record, persist| copier.push(record, persist)).unwrap();
        copier.flush().unwrap();
        let comparison = compare(&mut one, to, None, &cx).unwrap();
        assert_eq!((comparison.same, comparison.left_out.len()), (1 - left_out, left_out));
        assert!(comparison.missing.is_empty() && comparison.different.is_empty());
    }
    assert_eq!(all(&mut two), [record]);
}
