//! Tests history and counters. The cases run on the model, on lease files with boot leases and with durable
//! leases, and on a cluster. Further tests cover the differences between these stores.

use std::time::Duration;

use super::contract::{
    Make, add, added, addr, at, attachment, del, gc_all, lowest, memory, net, refused, reserve, set,
};
use super::fake_cluster::{FakeServer, FakeStore};
use crate::alloc::{
    Add, Command, Context, Cooldown, Holder, Outcome, Reserve, Strategy, Unreserve,
};
use crate::error::Refusal;
use crate::model::{
    Attachment, BootId, Counter, Ending, Event, Face, History, Kind, NetworkName, Node, Origin,
    Owner, Persist, SetName, Verb, Wait, What,
};
use crate::store::cluster::{ClusterStore, LocalCache, Server};
use crate::store::{Embedded, Store, StoreReader};

fn events(store: &mut dyn Store) -> Vec<Event> {
    store.history(&at(100), &mut |_| true).unwrap()
}

fn event_words(store: &mut dyn Store) -> Vec<(What, String)> {
    events(store).iter().map(|e| (e.what, e.addr.to_string())).collect()
}

fn count(store: &mut dyn Store, verb: Verb, ending: Ending) -> u64 {
    let all = store.counters(&at(100)).unwrap();
    let of = |c: &&Counter| c.set == net() && c.verb == verb && c.ending == ending;
    all.iter().filter(of).map(|c| c.count).sum()
}

/// Makes leases, a refusal, a reservation, and releases of every kind.
fn every_event_is_recorded_once(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/29")];
    let low = |c: &str| lowest(c, &sets);
    added(&mut *store, &low("c1"), &at(1));
    // A repeated ADD records no event.
    added(&mut *store, &low("c1"), &at(2));
    added(&mut *store, &low("c2"), &at(3));
    let reserve = |addrs: &[&str], note: &str| {
        let addrs = addrs.iter().map(|a| addr(a)).collect();
        let (note, holder) = (Some(note.to_owned()), None);
        Command::Reserve(Reserve { set: net(), addrs, note, holder, name: None })
    };
    let cli = |now| Context { face: Face::Cli, ..at(now) };
    let done = store.apply(&reserve(&["10.0.0.4", "10.0.0.5"], "printer"), &cli(4)).unwrap();
    assert_eq!(done, Outcome::Reserved(vec![addr("10.0.0.4"), addr("10.0.0.5")]));
    // Neither address is reserved, because one of them (10.0.0.2) is leased.
    let no = refused(&mut *store, &reserve(&["10.0.0.6", "10.0.0.2"], "x"), &cli(4));
    assert!(matches!(no, Refusal::Held { .. }), "{no}");
    // Changing the note of a reservation records no event.
    let again = store.apply(&reserve(&["10.0.0.4"], "scanner"), &cli(4)).unwrap();
    assert_eq!(again, Outcome::Reserved(vec![]));
    added(&mut *store, &low("c3"), &at(5));
    let full = refused(&mut *store, &Command::Add(low("c4")), &at(5));
    assert!(matches!(full, Refusal::Exhausted { .. }), "{full}");
    store.apply(&del("c1"), &at(6)).unwrap();
    store.apply(&del("c1"), &at(6)).unwrap();
    let unreserve = Unreserve { set: net(), addrs: vec![addr("10.0.0.4"), addr("10.0.0.3")] };
    store.apply(&Command::Unreserve(unreserve), &cli(7)).unwrap();
    let gc = gc_all();
    crate::engine::gc(&mut *store, gc, &at(8)).unwrap();
    let expected = [
        (What::Added, "10.0.0.2"),
        (What::Added, "10.0.0.3"),
        (What::Reserved, "10.0.0.4"),
        (What::Reserved, "10.0.0.5"),
        (What::Added, "10.0.0.6"),
        (What::Deleted, "10.0.0.2"),
        (What::Unreserved, "10.0.0.4"),
        (What::Collected, "10.0.0.3"),
        (What::Collected, "10.0.0.6"),
    ];
    assert_eq!(event_words(&mut *store), expected.map(|(what, at)| (what, at.to_owned())));
    let all = events(&mut *store);
    assert_eq!((all[2].face, all[2].origin.note.as_deref()), (Face::Cli, Some("printer")));
    assert_eq!(all[6].origin.note.as_deref(), Some("scanner"));
    assert_eq!(
        (all[0].time, &all[0].attachment().unwrap().container),
        (1, &crate::model::ContainerId::new("c1").unwrap())
    );
    assert_eq!(count(&mut *store, Verb::Add, Ending::Ok), 3);
    assert_eq!(count(&mut *store, Verb::Del, Ending::Ok), 1);
    assert_eq!(count(&mut *store, Verb::Gc, Ending::Ok), 1);
    assert_eq!(count(&mut *store, Verb::Reserve, Ending::Ok), 3);
}

/// Lists a set's addresses in use: some are leased, some are reserved, and one is cooling down.
fn addresses_in_use_are_listed_once_and_in_order(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/24")];
    let cool = |c: &str| {
        let cooldown = Cooldown { seconds: 60, strict: false };
        Add { cooldown, strategy: Strategy::Lowest, ..add(c, &sets) }
    };
    // Three addresses are reserved before the set has a lease file, and a fourth once the file exists.
    store.apply(&reserve(&["10.0.0.3", "10.0.0.200", "10.0.0.7"]), &at(1)).unwrap();
    for c in ["c1", "c2", "c3", "c4", "c5"] {
        added(&mut *store, &cool(c), &at(2));
    }
    store.apply(&reserve(&["10.0.0.9"]), &at(3)).unwrap();
    store.apply(&del("c2"), &at(4)).unwrap();
    let mut found = Vec::new();
    let mut each = |_: &crate::model::SetName, at: crate::net::Addr, holder: &Holder| {
        let word = match holder {
            Holder::Free => panic!("{at} is free"),
            Holder::Cooling(_) => 'c',
            Holder::Leased(l) if l.kind == Kind::Reserved => 'r',
            Holder::Leased(_) => 'l',
        };
        found.push((at.to_string(), word));
    };
    store.occupancy(&at(5), &mut each).unwrap();
    let expected = [(2, 'l'), (3, 'r'), (4, 'c'), (5, 'l'), (6, 'l'), (7, 'r'), (8, 'l'), (9, 'r')];
    let mut expected: Vec<_> = expected.iter().map(|(n, w)| (format!("10.0.0.{n}"), *w)).collect();
    expected.push(("10.0.0.200".to_owned(), 'r'));
    assert_eq!(found, expected);
    let usage = crate::engine::usage(&mut *store, &at(5)).unwrap();
    let [usage] = &usage[..] else { panic!("{usage:?}") };
    assert_eq!((usage.size, usage.used, usage.reserved, usage.cooling), (253, 4, 4, 1));
    assert_eq!(usage.free, 244);
    assert_eq!(usage.gap.unwrap().to_string(), "10.0.0.10-10.0.0.199");
}

/// The contract's cases for history.
pub const CASES: [super::contract::Case; 2] =
    [every_event_is_recorded_once, addresses_in_use_are_listed_once_and_in_order];

#[test]
fn the_model_keeps_history() {
    for case in CASES {
        case(&memory());
    }
}

#[test]
fn redb_keeps_history() {
    for persist in [Persist::Boot, Persist::Disk] {
        for case in CASES {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("leases.redb");
            case(&|| Box::new(Embedded::new(path.clone(), persist, Wait::Forever)));
            let mut store = Embedded::new(path.clone(), persist, Wait::Forever);
            store.problems(&at(9), &mut |problem| panic!("{problem:?}")).unwrap();
        }
    }
}

#[test]
fn a_cluster_keeps_history() {
    for (is_etcd, mute) in [(false, false), (true, false), (false, true), (true, true)] {
        for case in CASES {
            let server = FakeServer::new(is_etcd);
            server.never_answers.set(mute);
            case(&|| Box::new(FakeStore::new(server.clone())));
        }
    }
}

/// Checks that a cluster keeps no more events of a network than the limits of `History::Kept` allow, and none
/// while history is off. `open` returns a new client of the server.
pub fn history_of_a_network_is_bounded<S: Server>(open: &dyn Fn() -> S) {
    let folder = tempfile::tempdir().unwrap();
    let store = |history| {
        let cache = LocalCache::new(folder.path(), "history".to_owned());
        let limit = Duration::from_secs(20);
        ClusterStore::new(open(), limit, Persist::Boot, cache).keeping(history)
    };
    let few = History::Kept { count: 4, age: 50 };
    // The limit applies to the events of both nodes together.
    let cycle = |history, now: u64| {
        let node = Node { name: format!("n{}", now % 2), machine: format!("m{}", now % 2) };
        let (mut store, cx) = (store(history), Context { node, ..at(now) });
        added(&mut store, &add("c", &[set("10.0.0.0/24")]), &cx);
        store.apply(&del("c"), &cx).unwrap();
        let all = store.history(&cx, &mut |_| true).unwrap();
        all.iter().map(|e| e.time).collect::<Vec<_>>()
    };
    for now in 1..9 {
        assert!(cycle(few, now).len() <= 4);
    }
    assert_eq!(cycle(few, 9), [8, 8, 9, 9]);
    assert_eq!(cycle(few, 10), [9, 9, 10, 10]);
    // A call without a history setting uses the last setting.
    assert_eq!(cycle(History::Standing, 11), [10, 10, 11, 11]);
    assert_eq!(cycle(History::Off, 12), [10, 10, 11, 11]);
    assert_eq!(cycle(History::Standing, 14), [10, 10, 11, 11]);
    // Events that are too old are not returned, and the next DEL removes them.
    assert_eq!(cycle(few, 61), [11, 11, 61, 61]);
    assert_eq!(cycle(few, 901), [901, 901]);
    store(few).problems(&at(992), &mut |problem| panic!("{problem:?}")).unwrap();
}

#[test]
fn history_of_a_cluster_is_bounded_and_can_be_off() {
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        history_of_a_network_is_bounded(&|| server.clone());
    }
}

/// The end of a boot lease is recorded once, by the transaction that removes the lease. The events of all
/// nodes are in transaction order, even if the clocks of the nodes differ.
#[test]
fn events_of_a_cluster_are_in_order() {
    let server = FakeServer::new(false);
    let sets = [set("10.0.0.0/30")];
    let low = |c: &str| lowest(c, &sets);
    let mut store = FakeStore::new(server.clone());
    added(&mut store, &low("c1"), &at(50));
    let next = |now| Context { boot: Some(BootId("boot-2".to_owned())), ..at(now) };
    // The range has only one address. Its lease ended with the first boot, so "c2" can lease it.
    added(&mut store, &low("c2"), &next(40));
    store.apply(&del("c2"), &next(30)).unwrap();
    let other = Node { name: "other".to_owned(), machine: "m2".to_owned() };
    let other = Context { node: other, ..next(20) };
    added(&mut store, &low("c3"), &other);
    let found: Vec<(u64, What)> = events(&mut store).iter().map(|e| (e.time, e.what)).collect();
    let expected = [
        (50, What::Added),
        (40, What::BootEnded),
        (40, What::Added),
        (30, What::Deleted),
        (20, What::Added),
    ];
    assert_eq!(found, expected);
    // A damaged record is reported, and the other records are read.
    let path = server.paths().into_iter().find(|p| p.starts_with("past/")).unwrap();
    server.corrupt(&path, |value| value.push(0));
    assert_eq!(events(&mut store).len(), 4);
    let mut problems = Vec::new();
    store.problems(&at(60), &mut |problem| problems.push(problem.place)).unwrap();
    assert!(matches!(&problems[..], [place] if place.contains(&path)), "{problems:?}");
}

/// The machine has rebooted. A container's ADD first ends the container's lease of the earlier boot, and then
/// leases again. Both events happen in one call, so both must have its trace ID.
#[test]
fn all_events_of_a_call_have_its_trace() {
    let mut store = FakeStore::new(FakeServer::new(false));
    let boot = |id: &str, trace: Option<&str>| Context {
        boot: Some(BootId(id.to_owned())),
        node: Node { name: "one".to_owned(), machine: "one".to_owned() },
        trace: trace.map(str::to_owned),
        ..at(1)
    };
    let add = lowest("c1", &[set("10.0.0.0/29")]);
    added(&mut store, &add, &boot("b0", None));
    added(&mut store, &add, &boot("b1", Some("t")));
    let traces: Vec<_> = events(&mut store).into_iter().map(|e| (e.what, e.trace)).collect();
    let trace = Some("t".to_owned());
    assert_eq!(
        traces,
        [(What::Added, None), (What::BootEnded, trace.clone()), (What::Added, trace)]
    );
}

/// After a node's record has been removed from the cluster, the events of the node stay until they are too
/// old.
#[test]
fn history_of_forgotten_nodes_ends() {
    const DAY: u64 = 24 * 3600;
    for is_etcd in [false, true] {
        let server = FakeServer::new(is_etcd);
        let mut store = FakeStore::new(server.clone());
        let named = |n: u64, now| Context {
            node: Node { name: format!("n{n}"), machine: format!("m{n}") },
            ..at(now)
        };
        for n in 0..100 {
            let cx = named(n, n * DAY);
            added(&mut store, &add("c", &[set("10.0.0.0/24")]), &cx);
            store.apply(&del("c"), &cx).unwrap();
            let record = store.cluster().unwrap().nodes().unwrap().remove(0);
            assert!(store.cluster().unwrap().forget(&record, &cx).unwrap());
        }
        let events = store.history(&at(99 * DAY), &mut |_| true).unwrap();
        let days: Vec<u64> = events.iter().map(|e| e.time / DAY).collect();
        assert_eq!(days, (69..100).flat_map(|day| [day, day]).collect::<Vec<_>>());
    }
}

/// If a server has no space for new records, a DEL succeeds but records no event. A repeated ADD returns the
/// existing lease. An ADD that needs a new lease fails.
#[test]
fn a_full_server_drops_history() {
    let server = FakeServer::new(true);
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/24")];
    added(&mut store, &add("c1", &sets), &at(1));
    let kept = added(&mut store, &add("kept", &sets), &at(1));
    server.is_full.set(true);
    let freed = store.apply(&del("c1"), &at(2)).unwrap();
    assert!(matches!(freed, Outcome::Freed(freed) if freed.len() == 1));
    let error = store.apply(&Command::Add(add("c2", &sets)), &at(3)).unwrap_err();
    assert_eq!(added(&mut store, &add("kept", &sets), &at(3)), kept, "repeated");
    assert!(error.to_string().contains("space exceeded"), "{error}");
    server.is_full.set(false);
    added(&mut store, &add("c3", &sets), &at(4));
    let all: Vec<u64> = events(&mut store).iter().map(|e| e.time).collect();
    assert_eq!(all, [1, 1, 4]);
}

/// Requests that failed because the servers did not respond are counted, too.
#[test]
fn each_node_of_a_cluster_counts_its_own_requests() {
    let server = FakeServer::new(false);
    let mut store = FakeStore::new(server.clone());
    let sets = [set("10.0.0.0/30")];
    added(&mut store, &add("c1", &sets), &at(1));
    for _ in 0..2 {
        refused(&mut store, &Command::Add(add("c2", &sets)), &at(2));
    }
    server.commits_left.set(Some(0));
    store.apply(&Command::Add(add("c3", &sets)), &at(3)).unwrap_err();
    server.commits_left.set(None);
    let counts = |store: &mut FakeStore| {
        [Ending::Ok, Ending::Exhausted, Ending::Failed].map(|e| count(store, Verb::Add, e))
    };
    assert_eq!(counts(&mut store), [1, 2, 1]);
    let other = Node { name: "other".to_owned(), machine: "m2".to_owned() };
    let other = Context { node: other, ..at(4) };
    assert_eq!(store.counters(&other).unwrap(), []);
}

/// A refused ADD is counted only if counting it needs no flush.
#[test]
fn refusals_are_counted_where_a_commit_flushes_nothing() {
    for (persist, counted) in [(Persist::Boot, 2), (Persist::Disk, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases.redb");
        let mut store = Embedded::new(path, persist, Wait::Forever);
        let sets = [set("10.0.0.0/30")];
        added(&mut store, &add("c1", &sets), &at(1));
        for _ in 0..2 {
            refused(&mut store, &Command::Add(add("c2", &sets)), &at(2));
        }
        assert_eq!(count(&mut store, Verb::Add, Ending::Exhausted), counted, "{persist:?}");
        assert_eq!(event_words(&mut store).len(), 1);
    }
}

#[test]
fn history_of_a_file_is_bounded_and_can_be_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.redb");
    let store =
        |history| Embedded::new(path.clone(), Persist::Boot, Wait::Forever).keeping(history);
    let sets = [set("10.0.0.0/24")];
    let few = History::Kept { count: 5, age: 50 };
    for n in 0..9 {
        added(&mut store(few), &add(&format!("c{n}"), &sets), &at(n));
    }
    assert_eq!(events(&mut store(few)).iter().map(|e| e.time).collect::<Vec<_>>(), [4, 5, 6, 7, 8]);
    // A call without a history setting uses the last setting.
    added(&mut store(History::Standing), &add("standing", &sets), &at(9));
    assert_eq!(events(&mut store(few)).len(), 5);
    // Events that are too old are removed, a few with each call.
    added(&mut store(few), &add("late", &sets), &at(58));
    assert_eq!(events(&mut store(few)).iter().map(|e| e.time).collect::<Vec<_>>(), [8, 9, 58]);
    added(&mut store(History::Off), &add("off", &sets), &at(59));
    added(&mut store(History::Off), &add("off2", &sets), &at(59));
    assert_eq!(events(&mut store(few)).len(), 3);
    added(&mut store(History::Kept { count: 1, age: 50 }), &add("one", &sets), &at(60));
    assert_eq!(events(&mut store(few)).len(), 1);
}

#[test]
fn a_busy_network_does_not_erase_the_history_of_a_quiet_one() {
    for persist in [Persist::Boot, Persist::Disk] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("leases.redb");
        let few = History::Kept { count: 5, age: 50 };
        let mut store = Embedded::new(path, persist, Wait::Forever).keeping(few);
        let sets = [set("10.0.0.0/24")];
        let of = |network: &str, container: &str| {
            let (set, network) = (SetName(network.to_owned()), NetworkName::new(network).unwrap());
            let attachment = Attachment { network: network.clone(), ..attachment(container) };
            let owner = Owner::Attachment(attachment);
            Add { set, network, owner, origin: Origin::default(), ..add(container, &sets) }
        };
        let quiet = |store: &mut Embedded| {
            let mut of_it = |event: &Event| event.set.0 == "quiet";
            store.history(&at(100), &mut of_it).unwrap().len()
        };
        added(&mut store, &of("quiet", "q1"), &at(1));
        added(&mut store, &of("quiet", "q2"), &at(1));
        for n in 0..20 {
            added(&mut store, &of("busy", &format!("b{n}")), &at(2));
        }
        assert_eq!((quiet(&mut store), events(&mut store).len()), (2, 7));
        store
            .problems(&at(9), &mut |problem| {
                assert!(problem.what.contains("overlap"), "{problem:?}");
            })
            .unwrap();
        // A network's events are removed when they are too old, even if the network has no new events.
        added(&mut store, &of("busy", "late"), &at(60));
        assert_eq!(quiet(&mut store), 0);
    }
}

/// The history contains an event for each boot lease that ended with the previous boot.
#[test]
fn history_includes_the_previous_boot() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leases.redb");
    let mut store = Embedded::new(path, Persist::Boot, Wait::Forever);
    let sets = [set("10.0.0.0/29")];
    let low = |c: &str| lowest(c, &sets);
    added(&mut store, &low("c1"), &at(1));
    added(&mut store, &low("c2"), &at(2));
    store.apply(&del("c1"), &at(3)).unwrap();
    let next = |now| Context { boot: Some(BootId("boot-2".to_owned())), ..at(now) };
    let found = |store: &mut Embedded, now| -> Vec<(u64, What, String)> {
        let all = store.history(&next(now), &mut |_| true).unwrap();
        all.iter().map(|e| (e.time, e.what, e.addr.to_string())).collect()
    };
    let before = [
        (1, What::Added, "10.0.0.2".to_owned()),
        (2, What::Added, "10.0.0.3".to_owned()),
        (3, What::Deleted, "10.0.0.2".to_owned()),
    ];
    let ended = |time| (time, What::BootEnded, "10.0.0.3".to_owned());
    let mut expected = before.to_vec();
    expected.push(ended(7));
    assert_eq!(found(&mut store, 7), expected, "before anything is leased");
    added(&mut store, &low("c3"), &next(9));
    expected[3] = ended(9);
    expected.push((9, What::Added, "10.0.0.2".to_owned()));
    let mut got = found(&mut store, 50);
    got.sort_by_key(|e| (e.0, e.1 != What::BootEnded));
    assert_eq!(got, expected);
}
