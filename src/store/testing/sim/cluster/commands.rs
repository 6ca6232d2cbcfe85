//! Commands as processes, which may be killed, fail or be suspended at each call of the server.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::process::{self, Fate, Process};
use super::super::random::Random;
use super::super::run_folder::RunFolder;
use super::super::server::{Connection, Note};
use super::{Shared, World, act};
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, Refusal, StoreError};
use crate::model::Persist;
use crate::store::Store;
use crate::store::cluster::{ClusterStore, LocalCache};
use crate::store::testing::fake_cluster::no_cache;

/// How a process ended.
pub(super) enum Ran<T> {
    Done(T),
    Refused(Refusal),
    Failed(StoreError),
    Killed,
}

/// What a process does with its store.
type Work<'a, T> = dyn FnMut(&mut ClusterStore<Connection>, &Context) -> Result<T, Error> + 'a;

/// Runs one command.
pub(super) fn run(
    world: &Shared,
    machine: usize,
    persist: Persist,
    command: &Command,
) -> Ran<Outcome> {
    run_steps(world, machine, persist, &mut |store, cx| store.apply(command, cx))
}

/// Runs a process of a machine.
pub(super) fn run_steps<T>(
    world: &Shared,
    machine: usize,
    persist: Persist,
    work: &mut Work<'_, T>,
) -> Ran<T> {
    let trace = world.clone();
    let note: Note =
        Rc::new(move |text| trace.borrow_mut().note(format_args!("  m{machine} {text}")));
    let (process, run, cx, server, connection, cache) = {
        let world = &mut *world.borrow_mut();
        let process = Process::new(world.fate());
        let cx = world.context(machine);
        let is_private = world.events.private_run && world.random.one_in(12);
        let of_machine = &mut world.machines[machine];
        of_machine.running.push(process.clone());
        let run = Rc::new(RunFolder::new(of_machine.run.clone()));
        let connection = world.server.of(&process, &run, note, of_machine.is_cut_off);
        let cache = LocalCache::new(&of_machine.run, "cluster".to_owned());
        let cache = if is_private { no_cache() } else { cache };
        (process, run, cx, world.server.clone(), connection, cache)
    };
    let others = world.clone();
    process::meanwhile(Some(Box::new(move || suspended(&others))));
    let troubles = server.troubles();
    // The real time does not matter: no call takes any.
    let mut store = ClusterStore::new(connection, Duration::from_secs(600), persist, cache);
    let answer = work(&mut store, &cx);
    drop(store);
    process::meanwhile(None);
    let world = &mut *world.borrow_mut();
    world.machines[machine].running.retain(|other| !Arc::ptr_eq(other, &process));
    world.story.steps += process.steps();
    world.had_trouble = server.troubles() != troubles;
    if process.is_dead() {
        run.restore();
        return Ran::Killed;
    }
    match answer {
        Ok(outcome) => Ran::Done(outcome),
        Err(Error::Refused(refusal)) => Ran::Refused(refusal),
        Err(Error::Store(error)) => {
            let is_claimed = matches!(error, StoreError::Claimed { .. })
                && (world.events.renames || world.events.clones);
            if !world.had_trouble && !is_claimed {
                world.found(format!("m{machine} failed on a healthy server: {error}"));
            }
            Ran::Failed(error)
        }
    }
}

impl World {
    fn fate(&mut self) -> Option<(u64, Fate)> {
        // An ADD takes one to five calls.
        let at = 1 + self.random.next() % 5;
        let fate = match self.random.below(12) {
            0 => Fate::KilledBefore,
            1 => Fate::KilledAfter,
            2 => Fate::Fails(111),
            3..6 if self.story.depth < 3 => Fate::Suspended,
            _ => return None,
        };
        self.story.happens().then_some((at, fate))
    }
}

/// What others do while a process is suspended: on any machine, and transactions that arrive late.
fn suspended(world: &Shared) {
    let turns = {
        let world = &mut *world.borrow_mut();
        world.note("... is suspended; meanwhile:");
        world.story.depth += 1;
        1 + world.random.below(4)
    };
    for _ in 0..turns {
        let before = {
            let world = &mut *world.borrow_mut();
            // What happens has random numbers of its own, so that it can be left out.
            let random = Random::new(world.random.next(), 0);
            if !world.story.happens() {
                continue;
            }
            std::mem::replace(&mut world.random, random)
        };
        act(world, None);
        world.borrow_mut().random = before;
        let world = &mut *world.borrow_mut();
        for note in world.server.clone().arrive(&mut world.random) {
            world.note(note);
        }
    }
    let world = &mut *world.borrow_mut();
    world.story.depth -= 1;
    world.note("... goes on");
}
