//! Runs commands as processes. At each call to the server, the process may fail, be suspended or be killed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::super::process::{self, Fate, Process, Ran};
use super::super::random::Random;
use super::super::run_folder::RunFolder;
use super::super::server::{Caller, Connection, Note};
use super::{Machine, Running, Shared, World, act};
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Face, Persist};
use crate::store::Store;
use crate::store::cluster::{ClusterStore, LocalCache};
use crate::store::testing::fake_cluster::no_cache;

/// The work of a process. It gets the store and a context.
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

/// Runs `work` on a machine, as a separate process.
pub(super) fn run_steps<T>(
    world: &Shared,
    machine: usize,
    persist: Persist,
    work: &mut Work<'_, T>,
) -> Ran<T> {
    let mut opened = open(world, machine, persist);
    let cx = world.borrow_mut().context(machine);
    execute(world, machine, &mut opened, &cx, work)
}

/// An open store, and the process that uses its connection.
pub(super) struct Opened {
    store: ClusterStore<Connection>,
    caller: Rc<RefCell<Caller>>,
}

/// Opens a store for a process of a machine.
pub(super) fn open(world: &Shared, machine: usize, persist: Persist) -> Opened {
    let trace = Rc::downgrade(world);
    let note: Note = Rc::new(move |text| {
        if let Some(world) = trace.upgrade() {
            world.borrow_mut().note(format_args!("  m{machine} {text}"));
        }
    });
    let world = &mut *world.borrow_mut();
    let caller = Rc::new(RefCell::new(world.caller(machine, None)));
    let connection = world.server.of(&caller, note);
    let is_private = world.events.private_run && world.random.one_in(12);
    let run = world.machines[machine].run.clone();
    let cache = match (is_private, world.random.one_in(2)) {
        (false, _) => LocalCache::new(&run, "cluster".to_owned()),
        (true, true) => LocalCache::new(&run.join("private"), "cluster".to_owned()),
        (true, false) => no_cache(),
    };
    // The timeout does not matter, because no call takes real time.
    let store = ClusterStore::new(connection, Duration::from_secs(600), persist, cache);
    Opened { store, caller }
}

/// Runs `work` with an open store, either as a process or as a request of a daemon.
pub(super) fn execute<T>(
    world: &Shared,
    machine: usize,
    opened: &mut Opened,
    cx: &Context,
    work: &mut Work<'_, T>,
) -> Ran<T> {
    let (process, run, server) = {
        let world = &mut *world.borrow_mut();
        let fate = world.fate();
        let caller = world.caller(machine, fate);
        let (process, run) = (caller.process.clone(), caller.run.clone());
        *opened.caller.borrow_mut() = caller;
        let is_daemon = cx.face == Face::Docker;
        let running = Running { process: process.clone(), seed: cx.seed, is_daemon };
        world.machines[machine].running.push(running);
        (process, run, world.server.clone())
    };
    let others = world.clone();
    let is_daemon = cx.face == Face::Docker;
    process::meanwhile(Some(Box::new(move || suspended(&others, is_daemon))));
    let troubles = server.troubles();
    let answer = work(&mut opened.store, cx);
    process::meanwhile(None);
    let world = &mut *world.borrow_mut();
    world.machines[machine].running.retain(|other| !Arc::ptr_eq(&other.process, &process));
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
    fn caller(&self, machine: usize, fate: Option<(u64, Fate)>) -> Caller {
        let Machine { run, is_cut_off, .. } = &self.machines[machine];
        let run = Rc::new(RunFolder::new(run.clone()));
        Caller { process: Process::new(fate), run, is_cut_off: *is_cut_off }
    }

    fn fate(&mut self) -> Option<(u64, Fate)> {
        // Choose one of the first five calls, because an ADD makes at most five.
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

/// Runs other parts of the simulation while a process is suspended: events on any machine, and the arrival of
/// late transactions.
fn suspended(world: &Shared, is_daemon: bool) {
    let turns = {
        let world = &mut *world.borrow_mut();
        world.note("... is suspended; meanwhile:");
        world.story.depth += 1;
        1 + world.random.below(4)
    };
    for _ in 0..turns {
        let (before, is_alike) = {
            let world = &mut *world.borrow_mut();
            // While a Docker request is suspended, only other Docker requests can interfere with it, so
            // prefer those.
            let is_alike = world.random.one_in(2);
            // Each event has its own random numbers, so that leaving an event out does not change the later
            // events.
            let random = Random::new(world.random.next(), 0);
            if !world.story.happens() {
                continue;
            }
            (std::mem::replace(&mut world.random, random), is_alike)
        };
        act(world, is_daemon && is_alike);
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
