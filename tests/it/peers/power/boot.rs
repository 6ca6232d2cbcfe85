//! Tests boot leases. A kill must not lose any of them. After a power cut, sublet must not use any lease of
//! the earlier boot.

use std::fs;

use sublet::alloc::Context;
use sublet::model::{BootId, Persist};

use super::trace::Op;
use super::{Found, SHALLOW, Story};
use crate::lab::{Dice, Lab};
use crate::store_check::{self as check, Truth};

fn empty() -> Story {
    Story::new("boot", |_| Truth::default())
}

/// Makes a store that contains leases of an earlier boot.
fn second_boot() -> Story {
    Story::new("boot", |lab| {
        let before = Context { boot: Some(BootId("before".to_owned())), ..check::now() };
        let store = &mut *check::open(&lab.store(), Persist::Boot);
        for container in ["old-1", "old-2"] {
            check::given(store, container, &before).unwrap();
        }
        Truth::default()
    })
}

#[test]
fn killed_and_cut_everywhere() {
    let all = [("first boot", empty()), ("another boot", second_boot())];
    for (name, story) in all {
        let story = story
            .call_and("ADD", "a")
            .call_and("ADD", "b")
            .call_and("ADD", "a")
            .call_and("DEL", "a")
            .call_and("ADD", "c");
        story.replay(&[], 0, SHALLOW).nothing_wrong(name);
    }
}

/// If a process is killed at a system call of its first ADD, the next process must still be able to lease
/// addresses. The test kills the ADD at calls that change files.
#[test]
fn after_a_killed_first_add() {
    for begin in [empty, second_boot] {
        let mut all = Found::default();
        for name in ["ftruncate", "linkat", "unlink", "pwrite64"] {
            // Every write of a page to a new file has the same effect, so the test tries only every eighth
            // write.
            for n in (1..).filter(|n| name != "pwrite64" || n % 8 == 1) {
                let mut story = begin();
                if !story.killed_at("ADD", "a", name, n) {
                    break;
                }
                let from = story.ops().len();
                let mut found = story.call_and("ADD", "b").replay(&[], from, SHALLOW);
                let example = found.example.take();
                found.example = example.map(|e| format!("killed at {name} {n}: {e}"));
                all.and(found);
            }
        }
        all.nothing_wrong("the first ADD of a boot killed");
    }
}

/// Boot leases must never be flushed, not even when their file is created.
#[test]
fn nothing_is_flushed() {
    let story = second_boot().call_and("ADD", "a").call_and("ADD", "b").call_and("DEL", "a");
    let flushed: Vec<_> =
        story.ops().into_iter().filter(|(_, op)| matches!(op, Op::Sync(_))).collect();
    assert!(flushed.is_empty(), "{flushed:?}");
}

/// sublet must ignore the lease file of an earlier boot, even if it contains garbage.
#[test]
fn garbage_of_an_ended_boot() {
    let mut dice = Dice(17);
    let source = Lab::new();
    let store = &mut *check::open(&source.store(), Persist::Boot);
    for n in 0..40 {
        check::given(store, &format!("c{n}"), &check::now()).unwrap();
    }
    let name = format!("data/leases.redb.boot-{}", check::now().boot.unwrap().0);
    let whole = fs::read(source.join(&name)).unwrap();
    for round in 0..60_u64 {
        let mut bytes = whole.clone();
        for page in bytes.chunks_mut(4096).skip(usize::from(round % 3 == 0)) {
            match dice.below(3) {
                0 => page.fill(0),
                1 => page.fill_with(|| dice.next().to_le_bytes()[0]),
                _ => {}
            }
        }
        let len = usize::try_from(dice.below(whole.len() as u64)).unwrap();
        bytes.truncate(if round % 2 == 0 { whole.len() } else { len });
        let lab = Lab::new();
        fs::create_dir(lab.join("data")).unwrap();
        fs::write(lab.join(&name), &bytes).unwrap();
        let (cx, truth) = (check::rebooted(), Truth::default());
        check::store(&lab.store(), Persist::Boot, &cx, &truth).unwrap();
        assert_eq!(fs::read(lab.join(&name)).unwrap(), bytes);
    }
}
