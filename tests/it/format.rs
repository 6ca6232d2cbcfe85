//! Store files of earlier releases open for ever.

use std::fs;

use sublet::model::{BootId, Kind, Persist};

use crate::lab::Lab;
use crate::lab::testdata;
use crate::store_check as check;

/// How testdata/store/v1.redb was made, once; a later format gets a file of its own.
fn make() {
    let lab = Lab::new();
    fill(&lab);
    let folder = testdata().join("store");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(lab.join("data/leases.redb.keep"), folder.join("v1.redb")).unwrap();
}

fn context() -> sublet::alloc::Context {
    sublet::alloc::Context {
        now: 1_700_000_000,
        boot: Some(BootId("boot-1".to_owned())),
        node: sublet::model::Node { name: "node".to_owned(), machine: "0123".to_owned() },
        seed: 1,
        face: sublet::model::Face::Cni,
    }
}

fn fill(lab: &Lab) {
    let store = &mut *check::open(&lab.store(), Persist::Disk);
    store.apply(&check::reserve(100, 2), &context()).unwrap();
    for container in ["a", "gone", "b", "c", "d", "e"] {
        check::given(store, container, &context()).unwrap();
    }
    store.apply(&check::del("gone"), &context()).unwrap();
    // A file begins larger than it needs to be; the first commits make it smaller.
    for _ in 0..4 {
        check::given(store, "e", &context()).unwrap();
        store.apply(&check::del("e"), &context()).unwrap();
    }
    check::given(store, "e", &context()).unwrap();
}

#[test]
fn v1() {
    #[allow(clippy::disallowed_methods, reason = "a test reads its own switch")]
    if std::env::var_os("MAKE_STORE").is_some() {
        make();
    }
    let lab = Lab::new();
    fs::create_dir(lab.join("data")).unwrap();
    let file = lab.join("data/leases.redb.keep");
    fs::copy(testdata().join("store/v1.redb"), &file).unwrap();
    let store = &mut *check::open(&lab.store(), Persist::Disk);
    let leases = check::list(store, &context()).unwrap();
    let rows: Vec<_> = leases.iter().map(|l| (check::row(l).0, l.addr.to_string())).collect();
    let expected = [
        ("a", "10.4.0.2"),
        ("b", "10.4.0.4"),
        ("c", "10.4.0.5"),
        ("d", "10.4.0.6"),
        ("e", "10.4.0.11"),
        ("", "10.4.0.100"),
        ("", "10.4.0.101"),
    ];
    assert_eq!(rows, expected.map(|(c, a)| (c.to_owned(), a.to_owned())));
    let first = &leases[0];
    assert_eq!((first.time, first.prefix, first.kind), (1_700_000_000, 16, Kind::Dynamic));
    assert_eq!(first.boot, context().boot);
    assert_eq!(first.node, context().node);
    // It can be used as well: the cursor and the index of owners are read.
    assert_eq!(check::given(store, "new", &context()).unwrap().to_string(), "10.4.0.12");
    assert_eq!(check::given(store, "c", &context()).unwrap().to_string(), "10.4.0.5");
    store.apply(&check::del("a"), &context()).unwrap();
    assert_eq!(check::list(store, &context()).unwrap().len(), 7);
    assert_eq!(lab.list().len(), 7);
}
