//! Counts how often a call on an existing store flushes files.

use sublet::model::Persist;

use crate::lab::{Answer, Call, Lab, conf};
use crate::peers::power::trace::strace;
use crate::store_check as check;

fn call(lab: &Lab, persist: &str, command: &str, container: &str) -> Call {
    let mut conf = conf(&lab.data_dir(), check::SUBNET);
    conf["cniVersion"] = "1.1.0".into();
    conf["ipam"]["persist"] = persist.into();
    if command == "CHECK" {
        conf["prevResult"] = call(lab, persist, "ADD", container).run().ok();
    }
    Call::cni(command, container, &conf)
}

/// Runs a call. Returns its result, and the number of flushes of any kind and any file.
fn flushes(call: &Call) -> (Answer, usize) {
    let calls = "trace=fsync,fdatasync,sync,syncfs,msync,sync_file_range";
    let (answer, trace) = strace(call, &["-f", "-e", calls]);
    (answer, trace.lines().filter(|line| line.contains("sync")).count())
}

fn counts(persist: &str, commit: usize, leases: u32) {
    let lab = Lab::new();
    let kind = if persist == "disk" { Persist::Disk } else { Persist::Boot };
    if leases > 0 {
        let store = &mut *check::open(&lab.store(), kind);
        store.apply(&check::reserve(4096, leases), &check::now()).unwrap();
    }
    // A new lease file is larger than necessary, and the first commits make it smaller. Make some commits
    // first, so that this work is not counted.
    for n in 0..8 {
        call(&lab, persist, "ADD", &format!("n{n}")).run().ok();
        call(&lab, persist, "DEL", &format!("n{n}")).run().silent();
    }
    let list = Call::sublet().arg("list").arg("--json").arg("--store");
    let list = list.arg(&lab.store().display().to_string());
    let (answer, count) = flushes(&call(&lab, persist, "ADD", "a"));
    assert_eq!((answer.code, count), (Some(0), commit), "{persist}, {leases} leases: ADD");
    for (what, call, expected) in [
        ("ADD again", call(&lab, persist, "ADD", "a"), 0),
        ("CHECK", call(&lab, persist, "CHECK", "a"), 0),
        ("STATUS", call(&lab, persist, "STATUS", "a"), 0),
        ("list", list.clone(), 0),
        ("another ADD", call(&lab, persist, "ADD", "b"), commit),
        ("DEL", call(&lab, persist, "DEL", "a"), commit),
        ("DEL again", call(&lab, persist, "DEL", "a"), 0),
        ("DEL of an unknown one", call(&lab, persist, "DEL", "x"), 0),
        ("another DEL", call(&lab, persist, "DEL", "b"), commit),
    ] {
        let (answer, count) = flushes(&call);
        assert_eq!(answer.code, Some(0), "{what}: {answer:?}");
        assert_eq!(count, expected, "{persist}, {leases} leases: {what}");
    }
}

#[test]
fn of_boot_leases_there_are_none() {
    counts("boot", 0, 0);
    counts("boot", 0, 10_000);
}

#[test]
fn of_leases_on_disk_there_are_two() {
    counts("disk", 2, 0);
    counts("disk", 2, 10_000);
}

#[test]
fn watch_takes_no_lock_while_nothing_changes() {
    let lab = Lab::new();
    call(&lab, "disk", "ADD", "a").run().ok();
    let watch = Call::new("timeout").arg("-s").arg("INT").arg("2").arg(crate::lab::SUBLET);
    let watch = watch.arg("watch").arg("--interval").arg("10ms");
    let watch = watch.arg("--store").arg(&lab.store().display().to_string());
    // Trace both calls: musl opens files with open(2) on architectures that have it, and with openat(2)
    // elsewhere.
    let (_, trace) = strace(&watch, &["-f", "-e", "trace=?open,openat"]);
    let opened = |end: &str| trace.lines().filter(|line| line.contains(end)).count();
    let (looks, waits) = (opened("leases.redb\""), opened(".lock\""));
    assert!(looks > 20 && waits < 10, "{looks} looks, {waits} locks");
}
