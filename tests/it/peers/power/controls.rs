//! Shows that each flush is necessary: if the replay leaves out any of them, power cuts must lose data.

use super::trace::Op;
use super::{DEEP, Found, RANDOM, Story, lease, tell};
use crate::store_check::Truth;

/// Asserts that at least one in a hundred of the simulated power cuts lost data.
pub fn fails(name: &str, found: &Found) {
    tell(&format!("without {name}: {:.1} % of {} cuts fail", found.percent(), found.cuts));
    assert!(found.percent() >= 1.0, "without {name}: {found:?}");
}

/// Returns the indexes of the flushes in one step of the sequence, for paths that end with `end`.
pub fn flushes(story: &Story, step: usize, end: &str) -> Vec<usize> {
    let all = story.ops().into_iter().enumerate();
    let wanted = |op: &Op| matches!(op, Op::Sync(path) if path.to_str().unwrap().ends_with(end));
    all.filter(|(_, (n, op))| *n == step && wanted(op)).map(|(at, _)| at).collect()
}

fn three() -> Story {
    Story::new("disk", |lab| lease(&lab.store(), &["a", "b", "c"]))
}

#[test]
fn the_first_flush_of_a_commit() {
    let story = three().call_and("ADD", "d").call_and("DEL", "a");
    for step in [0, 1] {
        let both = flushes(&story, step, "leases.redb");
        assert_eq!(both.len(), 2);
        fails("the first flush of a commit", &story.replay(&both[..1], both[0], DEEP));
    }
}

#[test]
fn the_second_flush_of_a_commit() {
    let story = three().call_and("ADD", "d").call_and("DEL", "a");
    for step in [0, 1] {
        let both = flushes(&story, step, "leases.redb");
        fails("the second flush of a commit", &story.replay(&both[1..], both[0], DEEP));
    }
}

/// Returns a sequence of two calls: an ADD that is killed at its second flush, and the call `next`.
fn killed(next: (&str, &str)) -> Story {
    let mut story = three();
    assert!(story.killed_at("ADD", "d", "fdatasync", 2));
    story.call_and(next.0, next.1)
}

#[test]
fn the_flush_after_a_killed_predecessor() {
    for next in [("ADD", "e"), ("ADD", "d"), ("DEL", "x")] {
        let story = killed(next);
        let all = flushes(&story, 1, "leases.redb");
        assert_eq!(all.len(), if next.1 == "e" { 3 } else { 1 });
        // Without this flush, only an ADD that follows can lose data. A DEL of an unknown container changes
        // nothing.
        if next.0 == "ADD" {
            let name = format!("the flush before {} {}", next.0, next.1);
            fails(&name, &story.replay(&all[..1], all[0], DEEP));
        }
    }
}

#[test]
fn the_flush_of_a_new_file() {
    let story = Story::new("disk", |_| Truth::default()).call_and("ADD", "a");
    let new = flushes(&story, 0, ".new");
    assert_eq!(new.len(), 1);
    fails("the flush of a new file", &story.replay(&new, new[0], DEEP));
}

#[test]
fn the_flushes_of_names() {
    for folder in ["data", ""] {
        let story = Story::new("disk", |_| Truth::default()).call_and("ADD", "a");
        let mut end = story.lab.path().join(folder).display().to_string();
        end = end.trim_end_matches('/').to_owned();
        let all = flushes(&story, 0, &end);
        assert!(!all.is_empty(), "{end}");
        fails("the flush of names in a folder", &story.replay(&all, all[0], RANDOM));
    }
}
