//! Tests that sequences of calls lose no lease if the process is killed or the power fails.

use std::fs;

use sublet::model::Persist;

use super::trace::Op;
use super::{DEEP, Found, SHALLOW, Story, lease};
use crate::store_check::{self as check, Truth};

fn empty() -> Story {
    Story::new("disk", |_| Truth::default())
}

#[test]
fn creation() {
    let story = empty().call_and("ADD", "a").call_and("ADD", "b");
    story.replay(&[], 0, DEEP).nothing_wrong("creation");
}

#[test]
fn every_kind_of_call() {
    let story = Story::new("disk", |lab| lease(&lab.store(), &["a", "b", "c"]))
        .call_and("ADD", "d")
        .call_and("ADD", "a")
        .call_and("DEL", "b")
        .call_and("DEL", "b")
        .call_and("ADD", "e")
        .call_and("DEL", "a");
    story.replay(&[], 0, DEEP).nothing_wrong("every kind of call");
}

/// The lease file was removed, but its lock file, with a header note, was not. sublet must create the lease
/// file again.
#[test]
fn creation_anew() {
    let story = Story::new("disk", |lab| {
        lease(&lab.store(), &["a"]);
        fs::remove_file(lab.join("data/leases.redb")).unwrap();
        fs::write(lab.join("data/leases.redb.new"), b"half made").unwrap();
        Truth::default()
    });
    let story = story.call_and("ADD", "b").call_and("DEL", "b");
    story.replay(&[], 0, DEEP).nothing_wrong("creation anew");
}

#[test]
fn growth() {
    let mut story = Story::new("disk", |lab| {
        let file = lab.join("data/leases.redb");
        let mut truth = lease(&lab.store(), &["a"]);
        let store = &mut *check::open(&lab.store(), Persist::Disk);
        // A new file is larger than necessary, and the first commits make it smaller. Make some commits
        // first.
        for n in 0..8 {
            let name = format!("n{n}");
            let given = check::given(store, &name, &check::now()).unwrap().to_string();
            truth.acknowledged.insert(name, given);
        }
        let small = fs::metadata(&file).unwrap().len();
        // Reserve addresses until the file becomes longer, and then undo the last step, so that the next ADD
        // makes it longer.
        let mut step = 64;
        let mut from = 256;
        while step > 0 {
            // Undoing a step restores all of these files. If only the lease file were restored, sublet would
            // refuse it as older than the last commit.
            let all =
                ["", ".lock", ".policy"].map(|end| lab.join(&format!("data/leases.redb{end}")));
            let before = all.each_ref().map(|path| fs::read(path).ok());
            store.apply(&check::reserve(from, step), &check::now()).unwrap();
            if fs::metadata(&file).unwrap().len() == small {
                from += step;
            } else {
                for (path, content) in all.iter().zip(before) {
                    match content {
                        Some(content) => fs::write(path, content).unwrap(),
                        None => fs::remove_file(path).unwrap(),
                    }
                }
                step /= 2;
            }
        }
        truth.reserved = usize::try_from(from - 256).unwrap();
        truth
    });
    for n in 0.. {
        assert!(n < 40, "the file does not grow");
        let from = story.ops().len();
        story = story.call_and("ADD", &format!("m{n}"));
        if story.ops()[from..].iter().any(|(_, op)| matches!(op, Op::Len(..))) {
            story = story.call_and("DEL", "a").call_and("ADD", "b");
            story.replay(&[], from, DEEP).nothing_wrong("growth");
            return;
        }
    }
}

/// A process is killed at a system call that writes or flushes, and the next process completes the work. A
/// power cut must not undo any result that the next process has returned.
fn after_a_kill(command: &str, container: &str, next: (&str, &str), calls: &[(&str, usize)]) {
    let mut all = Found::default();
    for (name, n) in calls {
        let mut story = Story::new("disk", |lab| lease(&lab.store(), &["a", "b"]));
        assert!(story.killed_at(command, container, name, *n), "{command} has no {n} {name}");
        let from = story.ops().len();
        let mut found = story.call_and(next.0, next.1).replay(&[], from, SHALLOW);
        let example = found.example.take();
        found.example = example.map(|e| format!("killed at {name} {n}, then {next:?}: {e}"));
        all.and(found);
    }
    all.nothing_wrong(&format!("{command} killed, then {} {}", next.0, next.1));
}

/// Some of the system calls of a commit, with their numbers. A commit makes nine writes and a flush, then
/// writes and flushes the header, and then writes the header note.
const CALLS: [(&str, usize); 7] = [
    ("pwrite64", 1),
    ("pwrite64", 5),
    ("fdatasync", 1),
    ("pwrite64", 10),
    ("fdatasync", 2),
    ("pwrite64", 11),
    ("write", 1),
];

#[test]
fn after_a_killed_add() {
    after_a_kill("ADD", "c", ("ADD", "c"), &CALLS);
    after_a_kill("ADD", "c", ("ADD", "d"), &CALLS);
}

#[test]
fn after_a_killed_del() {
    after_a_kill("DEL", "a", ("DEL", "a"), &CALLS[..6]);
    after_a_kill("DEL", "a", ("ADD", "d"), &CALLS[..6]);
}

/// A process is killed while it creates the store, at each system call. The next process must complete the
/// work.
#[test]
fn after_a_killed_creation() {
    let mut all = Found::default();
    for name in ["mkdir", "ftruncate", "fsync", "linkat", "unlink", "fdatasync"] {
        for n in 1.. {
            let mut story = empty();
            if !story.killed_at("ADD", "a", name, n) {
                break;
            }
            let from = story.ops().len();
            let mut found = story.call_and("ADD", "a").replay(&[], from, SHALLOW);
            let example = found.example.take();
            found.example = example.map(|e| format!("killed at {name} {n}: {e}"));
            all.and(found);
        }
    }
    all.nothing_wrong("creation killed");
}
