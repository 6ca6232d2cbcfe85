//! Tests of edge cases with two range sets, two interfaces, two lease files, two processes, many addresses
//! per owner, or a wrong clock.

use std::path::Path;

use super::contract::{
    add, added, addr, at, attachment, del, del_target, foreign, gc_all, leases, lowest, owner,
    reserve, set,
};
use super::delegate::{delegate_reads, delegate_repairs};
use super::fake_cluster::{FakeServer, FakeStore};
use super::memory::Memory;
use crate::alloc::{
    Add, Collected, Command, Context, Cooldown, Legacy, Outcome, Requested, Strategy, Target,
};
use crate::error::{Error, StoreError};
use crate::model::{
    Attachment, IfName, Lease, NetworkName, Origin, Owner, Persist, Pod, SetName, Wait,
};
use crate::net::RangeSet;
use crate::store::embedded::fs::Os;
use crate::store::embedded::lock::Patience;
use crate::store::embedded::view::Kv;
use crate::store::embedded::{database, keys};
use crate::store::{Embedded, Store, StoreReader};

fn embedded(path: &Path, persist: Persist) -> Embedded {
    Embedded::new(path.to_owned(), persist, Wait::Forever)
}

/// Runs a case on the two stores that need no server: the in-memory model and a lease file.
fn each(case: impl Fn(&mut dyn Store)) {
    case(&mut Memory::default());
    let folder = tempfile::tempdir().unwrap();
    case(&mut embedded(&folder.path().join("leases.redb"), Persist::Boot));
}

fn cooled(container: &str, sets: &[RangeSet]) -> Add {
    let cooldown = Cooldown { seconds: 1, strict: false };
    Add { cooldown, strategy: Strategy::Lowest, ..add(container, sets) }
}

/// An ADD searches two range sets of the same address family, and finds the same expired cooldown for both.
/// It must remove the record of this cooldown only once.
#[test]
fn two_sets_of_a_family_end_a_cooldown_once() {
    each(|store| {
        let sets = [set("10.0.0.0/24"), set("10.0.1.0/24")];
        added(store, &cooled("c1", &sets), &at(1));
        store.apply(&del("c1"), &at(2)).unwrap();
        added(store, &cooled("c2", &sets), &at(10));
        added(store, &cooled("c3", &sets), &at(10));
    });
}

/// An ADD leases an address whose cooldown has ended from its first range set, and so removes the record of
/// that cooldown. Then it searches its second range set and removes the records of all cooldowns that have
/// ended. It must not try to remove the first record again.
#[test]
fn the_cooldown_of_an_address_that_was_just_leased_is_not_ended() {
    each(|store| {
        let one = [set("10.0.0.0/24")];
        added(store, &cooled("c1", &one), &at(1));
        store.apply(&del("c1"), &at(2)).unwrap();
        let sets = [set("10.0.0.0/24"), set("10.0.1.0/24")];
        let requested = vec![Requested { addr: addr("10.0.0.2"), prefix: None }];
        added(store, &Add { requested, ..cooled("c2", &sets) }, &at(10));
        added(store, &cooled("c3", &sets), &at(10));
    });
}

fn legacy(container: &str, at: &str, ifname: Option<&str>) -> Legacy {
    Legacy::Read(vec![foreign(container, at, ifname)], vec![])
}

/// host-local did not record the interface of the imported lease, so the owner's name is incomplete. When the
/// ADD leases a second address, it must also complete this name. Otherwise, a repeated ADD would return a
/// different address, and a DEL would leave the imported lease.
#[test]
fn an_imported_container_keeps_its_address_when_a_set_is_added() {
    each(|store| {
        let sets = [set("10.0.0.0/24"), set("10.0.1.0/24")];
        let first = Add { legacy: legacy("old", "10.0.0.9", None), ..add("old", &sets[..1]) };
        assert_eq!(added(store, &first, &at(1)), [addr("10.0.0.9")]);
        let both = Add { legacy: Legacy::Unread, ..add("old", &sets) };
        let got = added(store, &both, &at(2));
        assert_eq!(got[0], addr("10.0.0.9"));
        assert_eq!(added(store, &both, &at(3)), got, "repeated");
        store.apply(&del("old"), &at(4)).unwrap();
        assert_eq!(leases(store).len(), 0, "leaked");
    });
}

/// Two interfaces of a container must not get the same address.
#[test]
fn an_imported_lease_serves_one_interface() {
    each(|store| {
        let sets = [set("10.0.0.0/24")];
        let eth0 = Add { legacy: legacy("old", "10.0.0.9", None), ..add("old", &sets) };
        let a = added(store, &eth0, &at(1));
        let second = Attachment { ifname: Some(IfName::new("eth1").unwrap()), ..attachment("old") };
        let eth1 =
            Add { owner: Owner::Attachment(second), legacy: Legacy::Unread, ..add("old", &sets) };
        let b = added(store, &eth1, &at(2));
        assert_ne!(a, b, "one address on two interfaces");
    });
}

fn collected(first: usize) {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server);
    let sets: Vec<RangeSet> = (0..9).map(|i| set(&format!("10.0.{i}.0/24"))).collect();
    for i in 0..first {
        added(&mut store, &add(&format!("a{i}"), &sets[..1]), &at(1));
    }
    for c in ["c1", "c2", "c3", "c4"] {
        added(&mut store, &add(c, &sets), &at(1));
    }
    let mut gc = gc_all();
    for _ in 0..100 {
        match store.apply(&Command::Gc(gc.clone()), &at(2)).unwrap() {
            Outcome::Collected(Collected { done: true, .. }) => {
                assert_eq!(leases(&mut store).len(), 0, "GC ended early");
                return;
            }
            Outcome::Collected(Collected { after, .. }) => gc.after = after,
            other => panic!("{other:?}"),
        }
    }
    panic!("no end");
}

/// A GC reads the owners page by page. Here the first page has more leases than one transaction can free.
#[test]
fn gc_frees_owners_with_many_addresses() {
    collected(0);
}

/// A GC reads the owners page by page. Here a later page has more leases than one transaction can free.
#[test]
fn gc_gets_past_owners_with_many_addresses() {
    collected(4);
}

/// One owner has more addresses than a transaction can free.
#[test]
fn gc_frees_an_owner_in_several_steps() {
    let mut store = FakeStore::new(FakeServer::new(false));
    let sets: Vec<RangeSet> = (0..40).map(|i| set(&format!("10.0.{i}.0/24"))).collect();
    added(&mut store, &add("c1", &sets), &at(1));
    added(&mut store, &add("c2", &sets[..1]), &at(1));
    assert_eq!(crate::engine::gc(&mut store, gc_all(), &at(2)).unwrap(), 41);
    assert_eq!(leases(&mut store), []);
}

/// The clock was wrong and has been set back, so a cooldown may have begun at a time that is now in the
/// future. Such a cooldown counts as ended. An ADD must find it even if many newer cooldowns have earlier end
/// times.
#[test]
fn a_clock_that_is_set_back_exhausts_no_range() {
    each(|store| {
        let sets = [set("10.0.0.0/24 10.0.0.2 10.0.0.40")];
        let cooldown = Cooldown { seconds: 30, strict: true };
        let cool = |c: &str| Add { cooldown, strategy: Strategy::Lowest, ..add(c, &sets) };
        for i in 0..39 {
            added(store, &cool(&format!("c{i}")), &at(1_000_000));
        }
        store.apply(&del("c0"), &at(1_000_000)).unwrap();
        // The clock is correct again.
        for i in 1..=32 {
            store.apply(&del(&format!("c{i}")), &at(500)).unwrap();
        }
        assert_eq!(added(store, &cool("d"), &at(510)), [addr("10.0.0.2")]);
        // By now the other cooldowns have ended as well, so their addresses are leased again.
        for n in 0..7 {
            added(store, &cool(&format!("e{n}")), &at(545));
        }
    });
}

fn of_other_network() -> Add {
    let network = NetworkName::new("other").unwrap();
    let owner = Owner::Attachment(Attachment { network: network.clone(), ..attachment("o") });
    Add { set: SetName("other".into()), network, owner, ..add("o", &[set("10.9.0.0/24")]) }
}

/// An address is reserved while `persist` is "disk". A later ADD with `persist` "boot" leases from the boot
/// file, but must still not lease the reserved address.
#[test]
fn a_reservation_holds_whatever_persist_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.redb");
    let other = of_other_network();
    added(&mut embedded(&path, Persist::Boot), &other, &at(1));
    embedded(&path, Persist::Disk).apply(&reserve(&["10.0.0.2"]), &at(1)).unwrap();
    let first = lowest("c1", &[set("10.0.0.0/24")]);
    let got = added(&mut embedded(&path, Persist::Boot), &first, &at(2));
    assert_ne!(got, [addr("10.0.0.2")], "a reserved address was leased");
}

/// While `persist` is "disk", host-local's folder is imported, and the imported leases end. The boot file
/// does not record the import. Nevertheless, an ADD with `persist` "boot" must not import the folder again.
#[test]
fn a_folder_is_taken_over_once_whatever_persist_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.redb");
    let sets = [set("10.0.0.0/24")];
    let other = of_other_network();
    added(&mut embedded(&path, Persist::Boot), &other, &at(1));
    let mut disk = embedded(&path, Persist::Disk);
    let first = Add { legacy: legacy("old", "10.0.0.9", Some("eth0")), ..add("c1", &sets) };
    added(&mut disk, &first, &at(1));
    disk.apply(&del("old"), &at(2)).unwrap();
    disk.apply(&del("c1"), &at(2)).unwrap();
    let again = Command::Add(Add { legacy: Legacy::Unread, ..add("c2", &sets) });
    let outcome = embedded(&path, Persist::Boot).apply(&again, &at(3)).unwrap();
    assert_ne!(outcome, Outcome::ReadLegacy, "ended leases are imported again");
}

/// A cloned disk contains a boot file that another machine has created. Even so, the leases of this machine
/// must end at each reboot. Otherwise, the small range would soon be full.
#[test]
fn leases_of_this_machine_end_with_the_boot_whoever_began_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.redb");
    let sets = [set("10.0.0.0/29")];
    let cx = |machine: &str, boot: &str| Context {
        boot: Some(crate::model::BootId(boot.into())),
        node: crate::model::Node { name: "n".into(), machine: machine.into() },
        ..at(1)
    };
    let mut store = embedded(&path, Persist::Boot);
    added(&mut store, &add("image", &sets), &cx("builder", "b0"));
    for boot in 1..9 {
        let add = Command::Add(add(&format!("c{boot}"), &sets));
        let got = store.apply(&add, &cx("clone", &format!("b{boot}")));
        assert!(got.is_ok(), "boot {boot}: {got:?}");
    }
}

/// A DEL names a container that has a lease in host-local's folder. The container must have no lease after
/// the DEL, even if another container's ADD imports the folder in the meantime.
#[test]
fn a_del_during_an_import_leaves_no_lease() {
    struct Meanwhile<'a>(&'a mut Memory, bool);
    impl Store for Meanwhile<'_> {
        fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
            if matches!(command, Command::Del(_)) && !std::mem::replace(&mut self.1, true) {
                let legacy = legacy("old", "10.0.0.9", Some("eth0"));
                added(self.0, &Add { legacy, ..add("new", &[set("10.0.0.0/24")]) }, cx);
                assert_eq!(leases(self.0).len(), 2);
            }
            self.0.apply(command, cx)
        }
        delegate_repairs!(self => self.0);
    }
    impl StoreReader for Meanwhile<'_> {
        fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
            self.0.list(cx, each)
        }
        delegate_reads!(self => self.0);
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("10.0.0.9"), "old\r\neth0").unwrap();
    let mut memory = Memory::default();
    let network = NetworkName::new("net").unwrap();
    let legacy = crate::engine::HostLocalFolder {
        dir: folder.path(),
        network: &network,
        wait: Wait::Forever,
    };
    let target = Target::Owner(owner("old"));
    let del = del_target(target);
    crate::engine::del(&mut Meanwhile(&mut memory, false), del, Some(legacy), &at(1)).unwrap();
    let left = leases(&mut memory);
    assert!(left.len() == 1 && left[0].owner != owner("old"), "{left:?}");
}

/// A changed configuration makes a container's address the gateway. The container's repeated ADD must fail,
/// because otherwise the container would be its own gateway.
#[test]
fn a_container_is_not_its_own_gateway() {
    each(|store| {
        let first = lowest("c1", &[set("10.0.0.0/24")]);
        assert_eq!(added(store, &first, &at(1)), [addr("10.0.0.2")]);
        let spec = crate::net::RangeSpec {
            gateway: crate::net::GatewaySpec::At(addr("10.0.0.2")),
            ..crate::net::RangeSpec::of("10.0.0.0/24".parse().unwrap())
        };
        let moved = RangeSet::new(vec![crate::net::Range::new(&spec).unwrap()]).unwrap();
        let got = store.apply(&Command::Add(add("c1", &[moved])), &at(2));
        assert!(got.is_err(), "{got:?}");
    });
}

/// A DEL names the same address twice (in the ECS dialect, as `ipv4-address` and as an IPv4-mapped
/// `ipv6-address`). The address is freed only once.
#[test]
fn an_address_named_twice_is_freed_once() {
    each(|store| {
        let a = added(store, &add("c1", &[set("10.0.0.0/24")]), &at(1))[0];
        let target = Target::Addresses(vec![a, a]);
        let del = del_target(target);
        store.apply(&Command::Del(del), &at(2)).unwrap();
    });
}

/// Each address is recorded as the former address of at most one pod. Therefore the file never has more
/// records of former addresses than the range has addresses.
#[test]
fn the_addresses_of_pods_that_never_return_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.redb");
    let mut store = embedded(&path, Persist::Boot);
    let sets = [set("10.0.0.0/29")];
    for i in 0..40 {
        let container = format!("c{i}");
        let pod = Pod { namespace: "ns".into(), name: container.clone(), uid: String::new() };
        let origin = Origin { pod: Some(pod), ..add(&container, &sets).origin };
        let add = Add { sticky: true, origin, ..add(&container, &sets) };
        added(&mut store, &add, &at(1));
        store.apply(&del(&container), &at(1)).unwrap();
    }
    let boot = at(1).boot.unwrap();
    let file = path.with_file_name(format!("leases.redb.boot-{}", boot.0));
    let mut records = 0;
    let patience = Patience::new(Wait::Try);
    database::read(&Os, &file, None, &patience, |tables| {
        let all = [keys::STICKY];
        tables.kv.scan(&all, &keys::behind(&all), &mut |_, _| {
            records += 1;
            Ok(true)
        })
    })
    .unwrap();
    assert!((1..=5).contains(&records), "{records}");
}

/// A pod returns and gets a different address, because its former address is leased to another container. The
/// index from addresses to pods must then no longer have an entry for the former address.
#[test]
fn a_pod_that_moves_leaves_no_index_behind() {
    for persist in [Persist::Boot, Persist::Disk] {
        let host = super::host::Host::new();
        let mut store = host.store(persist);
        let (sticky, lowest) = (super::host::sticky, super::host::lowest);
        added(&mut store, &sticky("c1", "db-0"), &at(1));
        store.apply(&del("c1"), &at(1)).unwrap();
        added(&mut store, &lowest("x"), &at(1));
        let moved = added(&mut store, &sticky("c2", "db-0"), &at(1));
        assert_eq!(moved, [addr("10.0.0.3")]);
        store.problems(&at(1), &mut |problem| panic!("{problem:?}")).unwrap();
        // The pod db-1 leases the first address of db-0. From then on, this address is recorded as the former
        // address of db-1, and db-0 returns to its second address.
        store.apply(&del("x"), &at(1)).unwrap();
        store.apply(&del("c2"), &at(1)).unwrap();
        added(&mut store, &sticky("c3", "db-1"), &at(1));
        assert_eq!(added(&mut store, &sticky("c4", "db-0"), &at(1)), moved);
        store.problems(&at(1), &mut |problem| panic!("{problem:?}")).unwrap();
    }
}
