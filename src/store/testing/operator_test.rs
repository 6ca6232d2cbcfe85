//! Cases of the contract (the tests that every store must pass) about operator commands: import, export, and
//! freeing stale leases.

use super::contract::{Make, add, added, addr, at, del_target, freed, leases, net, refused, set};
use crate::alloc::{
    Add, Command, Del, ExportHostLocal, ForeignLease, Import, Imported, Outcome, Strategy, Target,
};
use crate::error::Refusal;
use crate::model::{Kind, Lease, Origin, Owner};

/// Another program's leases are imported only once, even if the import is repeated. If one lease conflicts,
/// none is imported. A DEL with `rewind` sets the round-robin cursor back to the freed address, although the
/// DEL does not contain the range.
pub fn imports_are_atomic_and_repeatable(make: Make<'_>) {
    let (mut store, sets) = (make(), [set("10.0.0.0/24")]);
    let lease = |ip: &str, id: &str| ForeignLease {
        addr: addr(ip),
        kind: Kind::Dynamic,
        owner: Owner::Id(id.into()),
    };
    let import = |leases: &[ForeignLease], last: &str, dry_run| {
        let (leases, cursors) = (leases.to_vec(), vec![addr(last)]);
        Command::Import(Import {
            set: net(),
            leases,
            cursors,
            adopts: None,
            partial: false,
            dry_run,
        })
    };
    let ecs = |id: &str| Add {
        owner: Owner::Id(id.into()),
        strategy: Strategy::RoundRobin,
        ..add("x", &sets)
    };
    let two = [lease("10.0.0.7", "a"), lease("10.0.0.9", "b")];
    let done = |taken: &[&str], present: &[&str]| {
        let taken = taken.iter().map(|a| addr(a)).collect();
        let present = present.iter().map(|a| addr(a)).collect();
        Outcome::Imported(Imported::Done { taken, present })
    };
    let addrs = ["10.0.0.7", "10.0.0.9"];
    assert_eq!(store.apply(&import(&two, addrs[1], true), &at(1)).unwrap(), done(&addrs, &[]));
    assert!(leases(&mut *store).is_empty(), "a dry run");
    assert_eq!(store.apply(&import(&two, addrs[1], false), &at(1)).unwrap(), done(&addrs, &[]));
    assert_eq!(added(&mut *store, &ecs("c"), &at(2)), [addr("10.0.0.10")]);
    let before = leases(&mut *store);
    assert_eq!(store.apply(&import(&two, addrs[1], false), &at(3)).unwrap(), done(&[], &addrs));
    let clash = [lease("10.0.0.20", "new"), lease("10.0.0.7", "other")];
    let refusal = refused(&mut *store, &import(&clash, addrs[1], false), &at(3));
    assert!(matches!(refusal, Refusal::Clash { .. }), "{refusal}");
    assert_eq!(leases(&mut *store), before);
    let target = Target::Owner(Owner::Id("a".into()));
    let del = Del { set: net(), target, rewind: true, undo: false, legacy: None };
    assert_eq!(freed(&mut *store, &Command::Del(del), &at(4)), [addr("10.0.0.7")]);
    assert_eq!(added(&mut *store, &ecs("d"), &at(5)), [addr("10.0.0.8")]);
    assert_eq!(added(&mut *store, &ecs("b"), &at(5)), [addr("10.0.0.9")]);
}

/// A stale lease is freed only if it has not changed since it was read.
pub fn a_changed_lease_is_not_freed(make: Make<'_>) {
    let (mut store, sets) = (make(), [set("10.0.0.0/24")]);
    let got = added(&mut *store, &add("c1", &sets), &at(1));
    let read = leases(&mut *store).remove(0);
    let mut free = |now, lease: &Lease| {
        let target = Target::Unchanged(Box::new(lease.clone()));
        let del = del_target(target);
        freed(&mut *store, &Command::Del(del), &at(now))
    };
    assert_eq!(free(2, &Lease { time: 2, ..read.clone() }), []);
    assert_eq!(free(2, &Lease { origin: Origin::default(), ..read.clone() }), []);
    assert_eq!(free(2, &read), got);
    assert_eq!(free(2, &read), []);
    // The same container leases its address again, so the lease differs from the lease that was read.
    added(&mut *make(), &add("c1", &sets), &at(3));
    assert_eq!(free(4, &read), []);
    assert_eq!(leases(&mut *make()).len(), 1);
}

/// After leases have been exported to host-local's folder, they are freed in this store. A lease that has
/// changed since the export must not be freed.
pub fn an_export_moves_the_leases(make: Make<'_>) {
    let (mut store, sets) = (make(), [set("10.0.0.0/24")]);
    let rr = |c: &str| Add { strategy: Strategy::RoundRobin, ..add(c, &sets) };
    for c in ["c1", "c2", "c3"] {
        added(&mut *store, &rr(c), &at(1));
    }
    let mut written = leases(&mut *store);
    let changed = written.pop().unwrap();
    let export = ExportHostLocal {
        set: net(),
        ranges: vec![sets[0].key()],
        leases: [&written[..], &[Lease { time: 9, ..changed.clone() }]].concat(),
    };
    let last = store.apply(&Command::ExportHostLocal(export), &at(2)).unwrap();
    assert_eq!(last, Outcome::Exported(vec![Some(changed.addr)]));
    assert_eq!(leases(&mut *store), [changed]);
}
