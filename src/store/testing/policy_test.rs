//! Tests the policy file (`<file>.policy`): its reservations and draining ranges, and their copies in the
//! lease files.

use std::fs;

use super::contract::{added, addr, del, net, refused};
use super::draining_cases::{drain, drained};
use super::host::{Host, added_with_warnings, boot, listed, lowest, reserve, unreserve};
use crate::alloc::{Add, Command, Requested, Status};
use crate::error::{Error, Refusal};
use crate::model::{Kind, Persist};
use crate::net::Addr;
use crate::store::Store;

const MODES: [Persist; 2] = [Persist::Boot, Persist::Disk];

fn reserved(store: &mut dyn Store, n: u32) -> Vec<Addr> {
    let all = listed(store, &boot(n));
    all.iter().filter(|l| l.kind == Kind::Reserved).map(|l| l.addr).collect()
}

#[test]
fn a_reserved_address_is_leased_to_nobody_over_reboots() {
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        let new = reserve(&mut store, &[addr("10.0.0.2"), addr("10.0.0.3")], &boot(1)).unwrap();
        assert_eq!(new.len(), 2);
        for n in 1..4 {
            let name = format!("c{n}");
            assert_eq!(
                added_with_warnings(&mut store, &lowest(&name), &boot(n)).0,
                [addr("10.0.0.4")]
            );
            let requested = vec![Requested { addr: addr("10.0.0.3"), prefix: None }];
            let asked = Command::Add(Add { requested, ..lowest("x") });
            assert!(matches!(refused(&mut store, &asked, &boot(n)), Refusal::Held { .. }));
            assert_eq!(reserved(&mut store, n), [addr("10.0.0.2"), addr("10.0.0.3")]);
            store.apply(&del(&name), &boot(n)).unwrap();
        }
        assert_eq!(unreserve(&mut store, &[addr("10.0.0.2")], &boot(4)).unwrap().len(), 1);
        assert_eq!(added_with_warnings(&mut store, &lowest("c4"), &boot(4)).0, [addr("10.0.0.2")]);
    }
}

#[test]
fn an_address_within_a_reserved_range_is_leased_to_nobody() {
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        let range: Vec<Addr> = (2..=120).map(|n| addr(&format!("10.0.0.{n}"))).collect();
        reserve(&mut store, &range, &boot(1)).unwrap();
        let requested = vec![Requested { addr: range[50], prefix: None }];
        let asked = Command::Add(Add { requested, ..lowest("x") });
        assert!(matches!(refused(&mut store, &asked, &boot(1)), Refusal::Held { .. }));
        for n in 0..20 {
            // Use round robin, so that the search may start at any address.
            let add = super::contract::add(&format!("c{n}"), &super::host::range());
            assert!(!range.contains(&added(&mut store, &add, &boot(1))[0]));
        }
    }
}

#[test]
fn every_add_compares_the_nonce_and_refreshes_the_copy_if_it_differs() {
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        added(&mut store, &lowest("c1"), &boot(1));
        // Simulate another process that changes the policy file, so that the copy in this store's lease file
        // is outdated.
        let other = Host::new();
        reserve(&mut other.store(persist), &[addr("10.0.0.3")], &boot(1)).unwrap();
        fs::copy(other.path(".policy"), host.path(".policy")).unwrap();
        assert_eq!(added(&mut store, &lowest("c2"), &boot(1)), [addr("10.0.0.4")]);
        fs::remove_file(host.path(".policy")).unwrap();
        assert_eq!(added(&mut store, &lowest("c3"), &boot(1)), [addr("10.0.0.3")]);
    }
}

#[test]
fn an_unreadable_policy_fails_add_naming_the_line_and_nothing_else() {
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        added(&mut store, &lowest("c1"), &boot(1));
        reserve(&mut store, &[addr("10.0.0.9")], &boot(1)).unwrap();
        reserve(&mut store, &[addr("10.0.0.11")], &boot(1)).unwrap();
        let text = fs::read_to_string(host.path(".policy")).unwrap();
        for (line, damaged) in [
            (3, text.replace("10.0.0.11", "10.0.0.x")),
            (3, text.replace("10.0.0.11", "10.0.0.8")),
            (1, text.replace("printer", "scanner")),
            (1, text.replace("sublet-policy 1", "sublet-policy 9")),
            (1, text[..20].to_owned()),
        ] {
            fs::write(host.path(".policy"), damaged).unwrap();
            let error = store.apply(&Command::Add(lowest("c2")), &boot(1)).unwrap_err();
            assert!(error.to_string().contains(&format!("line {line}:")), "{error}");
            let status = Status {
                set: net(),
                network: super::contract::network(),
                sets: super::host::range(),
                strict: false,
            };
            assert!(store.apply(&Command::Status(status), &boot(1)).is_err());
            store.apply(&del("none"), &boot(1)).unwrap();
        }
        store.apply(&del("c1"), &boot(1)).unwrap();
    }
}

#[test]
fn reserving_a_leased_address_is_refused_wherever_the_lease_is() {
    for persist in MODES {
        let host = Host::new();
        let leased = added(&mut host.store(persist), &lowest("c1"), &boot(1));
        for asks in MODES {
            let all = [addr("10.0.0.9"), leased[0]];
            let error = reserve(&mut host.store(asks), &all, &boot(1)).unwrap_err();
            assert!(matches!(error, Error::Refused(Refusal::Held { .. })), "{error}");
            assert!(reserved(&mut host.store(asks), 1).is_empty());
            assert!(!host.path(".policy").exists() && !host.path(".policy.new").exists());
        }
    }
}

#[test]
fn at_most_4096_entries_then_advice_to_use_ranges() {
    let host = Host::new();
    let mut store = host.store(Persist::Disk);
    let every_other = |n: u32| format!("10.1.{}.{}", n * 2 / 256, n * 2 % 256);
    let many: Vec<Addr> = (0..4096).map(|n| addr(&every_other(n))).collect();
    assert_eq!(reserve(&mut store, &many, &boot(1)).unwrap().len(), 4096);
    let error = reserve(&mut store, &[addr("10.9.0.1")], &boot(1)).unwrap_err();
    assert!(error.to_string().contains("ranges"), "{error}");
    // Two adjacent addresses take only one entry in the policy file, and so does a whole range.
    reserve(&mut store, &[addr("10.1.0.1")], &boot(1)).unwrap();
    let range: Vec<Addr> = (1..200).map(|n| addr(&format!("10.9.0.{n}"))).collect();
    reserve(&mut store, &range, &boot(1)).unwrap();
    assert_eq!(reserved(&mut store, 1).len(), 4097 + 199);
    // Many reservations do not slow down the allocator, because the lease file has an index of them.
    assert_eq!(added(&mut store, &lowest("c1"), &boot(1)), [addr("10.0.0.2")]);
}

#[test]
fn a_note_is_replaced_and_the_rest_of_a_range_keeps_its_own() {
    use crate::store::embedded::policy::{Policy, Reservation};
    let span = |first: &str, last: &str| crate::net::Span::new(addr(first), addr(last)).unwrap();
    let entry = |s, note: &str| Reservation {
        set: net(),
        span: s,
        note: Some(note.to_owned()),
        holder: None,
        name: None,
        time: 1,
    };
    let mut policy = Policy::default();
    assert_eq!(policy.reserve(&entry(span("10.0.0.2", "10.0.0.9"), "rack")).len(), 1);
    assert!(policy.reserve(&entry(span("10.0.0.4", "10.0.0.5"), "printer")).is_empty());
    let notes: Vec<_> = policy.entries.iter().filter_map(|e| e.note.as_deref()).collect();
    assert_eq!(notes, ["rack", "printer", "rack"]);
    let new = policy.reserve(&entry(span("10.0.0.8", "10.0.0.12"), "rack"));
    assert_eq!(new, [span("10.0.0.10", "10.0.0.12")]);
    let freed = policy.unreserve(&net(), span("10.0.0.5", "10.0.0.6"));
    assert_eq!(freed.len(), 2);
    assert!(policy.find(&net(), addr("10.0.0.6")).is_none());
    assert!(policy.find(&net(), addr("10.0.0.7")).is_some());
}

/// A version of sublet that does not support draining ranges must refuse the policy file instead of ignoring
/// the range.
#[test]
fn the_version_of_the_policy_says_whether_a_range_is_draining() {
    let lower = drain("10.0.0.0", "10.0.0.127");
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        let line = || fs::read_to_string(host.path(".policy")).unwrap();
        added(&mut store, &lowest("c1"), &boot(1));
        reserve(&mut store, &[addr("10.0.0.200")], &boot(1)).unwrap();
        assert!(line().starts_with("sublet-policy 1 "));
        assert!(drained(&mut store, &lower, false, 1));
        let text = line();
        assert!(text.starts_with("sublet-policy 3 "), "{text}");
        let entry = r#"{"draining":"net","first":"10.0.0.0","last":"10.0.0.127","since":1}"#;
        assert_eq!(text.lines().last(), Some(entry));
        // The range is still draining in later boots, and also in a new lease file.
        for n in 1..4 {
            let name = format!("d{n}");
            assert_eq!(added(&mut store, &lowest(&name), &boot(n)), [addr("10.0.0.128")]);
            store.apply(&del(&name), &boot(n)).unwrap();
        }
        let _ = fs::remove_file(host.path(""));
        assert_eq!(added(&mut store, &lowest("e"), &boot(4)), [addr("10.0.0.128")]);
        for damaged in [text.replace("10.0.0.127", "10.0.0.x"), text.replace("127", "126")] {
            fs::write(host.path(".policy"), damaged).unwrap();
            assert!(store.apply(&Command::Add(lowest("x")), &boot(4)).is_err());
        }
        fs::write(host.path(".policy"), text).unwrap();
        assert!(drained(&mut store, &lower, true, 5));
        assert!(line().starts_with("sublet-policy 1 "));
    }
}

#[test]
fn a_cooling_address_that_is_reserved_stays_reserved() {
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        let cooldown = crate::alloc::Cooldown { seconds: 5, strict: false };
        let add = |name: &str| Add { cooldown, ..lowest(name) };
        added(&mut store, &add("c1"), &boot(1));
        store.apply(&del("c1"), &boot(1)).unwrap();
        reserve(&mut store, &[addr("10.0.0.2")], &boot(1)).unwrap();
        let later = crate::alloc::Context { now: 1900, ..boot(1) };
        assert_eq!(added(&mut store, &add("c2"), &later), [addr("10.0.0.3")]);
        unreserve(&mut store, &[addr("10.0.0.2")], &later).unwrap();
        assert_eq!(added(&mut store, &add("c3"), &later), [addr("10.0.0.2")]);
    }
}

#[test]
fn a_copy_is_out_of_date_after_any_number_of_changes() {
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        added(&mut store, &lowest("c1"), &boot(1));
        reserve(&mut store, &[addr("10.0.0.3")], &boot(1)).unwrap();
        assert_eq!(added(&mut store, &lowest("c2"), &boot(1)), [addr("10.0.0.4")]);
        for last in 5..9 {
            reserve(&mut store, &[addr(&format!("10.0.0.{last}"))], &boot(1)).unwrap();
        }
        assert_eq!(added(&mut store, &lowest("c3"), &boot(1)), [addr("10.0.0.9")]);
    }
}

#[test]
fn a_change_is_made_under_both_locks_or_not_at_all() {
    use crate::model::Wait;
    for persist in MODES {
        let host = Host::new();
        let mut store = host.store(persist);
        added(&mut host.store(Persist::Boot), &lowest("c1"), &boot(1));
        reserve(&mut store, &[addr("10.0.0.9")], &boot(1)).unwrap();
        let before = fs::read(host.path(".policy")).unwrap();
        for lock in [".lock", ".boot.lock"] {
            let held = crate::store::lock_file(&host.path(lock), Wait::Try).unwrap();
            assert!(reserve(&mut store, &[addr("10.0.0.11")], &boot(1)).is_err(), "{lock}");
            assert!(unreserve(&mut store, &[addr("10.0.0.9")], &boot(1)).is_err(), "{lock}");
            assert_eq!(fs::read(host.path(".policy")).unwrap(), before);
            assert!(!host.path(".policy.new").exists());
            drop(held);
        }
        // The new policy file is flushed before the second lock is taken, so no ADD waits for that flush.
        let held = crate::store::lock_file(&host.path(".lock"), Wait::Try).unwrap();
        added(&mut host.store(Persist::Boot), &lowest("c2"), &boot(1));
        drop(held);
    }
}

#[test]
fn a_contested_address_is_listed_once_whichever_file_its_set_is_in() {
    let host = Host::new();
    let [held] = added_with_warnings(&mut host.store(Persist::Disk), &lowest("c1"), &boot(1)).0[..]
    else {
        panic!("one address")
    };
    let contested = crate::alloc::Reserve {
        set: net(),
        addrs: vec![held],
        note: None,
        holder: None,
        name: None,
    };
    host.store(Persist::Disk).apply(&Command::ReserveContested(contested), &boot(1)).unwrap();
    // The set "other" comes after the set "net" in name order, but its leases are in the file that is listed
    // first.
    let other = crate::model::Attachment {
        network: crate::model::NetworkName::new("other").unwrap(),
        ..super::contract::attachment("x")
    };
    let set = crate::model::SetName("other".to_owned());
    let owner = crate::model::Owner::Attachment(other);
    added(&mut host.store(Persist::Boot), &Add { set, owner, ..lowest("x") }, &boot(1));
    let rows = listed(&mut host.store(Persist::Boot), &boot(1));
    assert_eq!(rows.iter().filter(|row| row.set == net()).count(), 1, "{rows:?}");
}

/// While the first process waits to take the lock, a second process reserves another address. Neither change
/// is lost.
#[test]
fn of_two_changes_at_once_none_is_lost() {
    use super::watched::Watched;
    use crate::model::Wait;
    use crate::store::Embedded;
    use std::sync::atomic::{AtomicBool, Ordering};
    type Change = fn(&mut dyn Store) -> Result<Vec<Addr>, Error>;
    let changes: [(Change, &[&str]); 2] = [
        (
            |store| reserve(store, &[addr("10.0.0.9")], &boot(1)),
            &["10.0.0.5", "10.0.0.9", "10.0.0.11"],
        ),
        (|store| unreserve(store, &[addr("10.0.0.5")], &boot(1)), &["10.0.0.11"]),
    ];
    for (change, expected) in changes {
        let host = Host::new();
        reserve(&mut host.store(Persist::Disk), &[addr("10.0.0.5")], &boot(1)).unwrap();
        let (path, done) = (host.path(""), AtomicBool::new(false));
        let before = move |what: &str, name: &std::path::Path| {
            let is_lock = name.to_str().is_some_and(|name| name.ends_with(".redb.lock"));
            if what == "open" && is_lock && !done.swap(true, Ordering::Relaxed) {
                let mut other = Embedded::new(path.clone(), Persist::Disk, Wait::Try);
                reserve(&mut other, &[addr("10.0.0.11")], &boot(1)).unwrap();
            }
            Ok(())
        };
        let files = Watched { is_shared: false, before: std::sync::Arc::new(before) };
        change(&mut Embedded::on(files, host.path(""), Persist::Disk, Wait::Try)).unwrap();
        let expected: Vec<Addr> = expected.iter().map(|text| addr(text)).collect();
        assert_eq!(reserved(&mut host.store(Persist::Disk), 1), expected);
    }
}
