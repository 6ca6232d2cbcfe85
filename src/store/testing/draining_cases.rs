//! The contract's cases for draining ranges.

use super::contract::{
    Make, add, added, addr, at, del, dual_stack, freed, leases, lowest, net, network, owner,
    refused, reserve, set,
};
use super::named_cases::{of_pod, reserve_for, unreserve};
use crate::alloc::{Add, Command, Cooldown, Drain, Outcome, Requested, Status, Strategy};
use crate::error::Refusal;
use crate::net::{Addr, RangeSet, Span};
use crate::store::Store;

pub fn drain(first: &str, last: &str) -> Drain {
    Drain { set: net(), span: Span::new(addr(first), addr(last)).unwrap(), undo: false }
}

/// Starts draining a range, or stops it if `undo` is set. Returns whether the command changed anything.
pub fn drained(store: &mut dyn Store, drain: &Drain, undo: bool, now: u64) -> bool {
    match store.apply(&Command::Drain(Drain { undo, ..drain.clone() }), &at(now)) {
        Ok(Outcome::Drained { changed }) => changed,
        other => panic!("{other:?}"),
    }
}

fn request(add: Add, at: Addr) -> Command {
    Command::Add(Add { requested: vec![Requested { addr: at, prefix: None }], ..add })
}

fn status(sets: &[RangeSet]) -> Command {
    let (set, network, sets) = (net(), network(), sets.to_vec());
    Command::Status(Status { set, network, sets, strict: false })
}

pub fn nothing_new_is_leased(make: Make<'_>) {
    let (mut a, mut b) = (make(), make());
    let sets = dual_stack();
    let lower = drain("10.0.0.0", "10.0.0.127");
    let stays = added(&mut *b, &lowest("stays", &sets), &at(1));
    let sticky = Add { sticky: true, ..of_pod("old", "web-0", &sets) };
    added(&mut *b, &sticky, &at(1));
    freed(&mut *b, &del("old"), &at(1));
    a.apply(&reserve_for(&["10.0.0.9"], "shop/db-0"), &at(1)).unwrap();
    assert!(drained(&mut *a, &lower, false, 2));
    assert!(!drained(&mut *b, &lower, false, 3));
    let ranges = a.draining(&at(3)).unwrap();
    assert!(ranges.len() == 1 && ranges[0].span == lower.span && ranges[0].since == 2);
    let is_new = |got: &[Addr]| got[0] > addr("10.0.0.127");
    // A repeated ADD returns the address that the container already has, although its range is draining.
    assert_eq!(added(&mut *b, &lowest("stays", &sets), &at(3)), stays);
    let all = [Strategy::Lowest, Strategy::RoundRobin, Strategy::Random, Strategy::Hash];
    for (n, strategy) in all.into_iter().cycle().take(24).enumerate() {
        let store = if n % 2 == 0 { &mut a } else { &mut b };
        let got = added(&mut **store, &Add { strategy, ..add(&format!("c{n}"), &sets) }, &at(4));
        assert!(is_new(&got), "{strategy:?}: {got:?}");
    }
    let sticky = Add { sticky: true, ..of_pod("new", "web-0", &sets) };
    let got = added(&mut *a, &sticky, &at(4));
    assert!(is_new(&got), "{got:?}");
    let before = leases(&mut *a);
    for command in [
        request(add("x", &sets), addr("10.0.0.77")),
        Command::Add(of_pod("x", "db-0", &sets)),
        Command::Add(Add { statics: vec![addr("10.0.0.78")], ..of_pod("x", "db-1", &sets) }),
    ] {
        let refusal = refused(&mut *b, &command, &at(5));
        let text = refusal.to_string();
        assert!(matches!(refusal, Refusal::Draining { .. }), "{text}");
        assert!(text.contains("`sublet drain net 10.0.0.0/25 --undo`"), "{text}");
    }
    assert_eq!(leases(&mut *a), before);
    // A freed address of the draining range is not leased again.
    assert_eq!(freed(&mut *a, &del("stays"), &at(6)), stays);
    assert!(is_new(&added(&mut *b, &lowest("next", &sets), &at(6))));
    // Once draining has ended, 10.0.0.9 is still reserved for the pod.
    assert!(drained(&mut *b, &lower, true, 7));
    assert!(!drained(&mut *b, &lower, true, 7));
    assert_eq!(a.draining(&at(7)).unwrap(), []);
    assert_eq!(added(&mut *a, &lowest("last", &sets), &at(8))[0], addr("10.0.0.2"));
    assert_eq!(added(&mut *a, &of_pod("db", "db-0", &sets), &at(8))[0], addr("10.0.0.9"));
}

pub fn a_range_set_that_drains_is_full(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/29")];
    let add = |name: &str| Add {
        cooldown: Cooldown { seconds: 60, strict: false },
        ..lowest(name, &sets)
    };
    assert_eq!(added(&mut *store, &add("c1"), &at(1)), [addr("10.0.0.2")]);
    assert_eq!(freed(&mut *store, &del("c1"), &at(2)), [addr("10.0.0.2")]);
    let whole = drain("10.0.0.0", "10.0.0.7");
    assert!(drained(&mut *store, &whole, false, 3));
    for now in [4, 100] {
        // The freed address is still cooling down at time 4, but not at time 100. It is leased at neither
        // time, because it is draining.
        let refusal = refused(&mut *store, &Command::Add(add("c2")), &at(now));
        assert!(matches!(refusal, Refusal::Exhausted { draining: true, .. }), "{refusal:?}");
        let refusal = refused(&mut *store, &status(&sets), &at(now));
        assert!(matches!(refusal, Refusal::Exhausted { draining: true, .. }), "{refusal:?}");
    }
    // One address stops draining.
    assert!(drained(&mut *store, &drain("10.0.0.5", "10.0.0.5"), true, 101));
    assert_eq!(store.draining(&at(101)).unwrap().len(), 2);
    assert_eq!(store.apply(&status(&sets), &at(102)).unwrap(), Outcome::Ready);
    assert_eq!(added(&mut *store, &add("c2"), &at(102)), [addr("10.0.0.5")]);
    let refusal = refused(&mut *store, &Command::Add(add("c3")), &at(103));
    assert!(matches!(refusal, Refusal::Exhausted { .. }), "{refusal:?}");
}

/// A reserved address in a draining range can be leased only after both the reservation and the draining have
/// ended.
pub fn reservations_in_a_draining_range(make: Make<'_>) {
    let mut store = make();
    let sets = [set("10.0.0.0/29")];
    let whole = drain("10.0.0.0", "10.0.0.7");
    store.apply(&reserve(&["10.0.0.2"]), &at(1)).unwrap();
    assert!(drained(&mut *store, &whole, false, 2));
    store.apply(&reserve(&["10.0.0.3"]), &at(3)).unwrap();
    assert_eq!(freed(&mut *store, &unreserve(&["10.0.0.2"]), &at(4)), [addr("10.0.0.2")]);
    refused(&mut *store, &Command::Add(lowest("c1", &sets)), &at(5));
    assert!(drained(&mut *store, &whole, true, 6));
    assert_eq!(added(&mut *store, &lowest("c1", &sets), &at(7)), [addr("10.0.0.2")]);
    assert_eq!(added(&mut *store, &lowest("c2", &sets), &at(7)), [addr("10.0.0.4")]);
    assert_eq!(leases(&mut *store)[0].owner, owner("c1"));
}
