//! Runs commands as processes, which may be killed, fail or be suspended.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::process::{self, Fate, Process, Ran};
use super::super::random::Random;
use super::{STORE, Shared, World, act};
use crate::alloc::{Command, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Persist, Wait};
use crate::store::{Embedded, Store};

/// Runs a command as a separate process, which may be killed, fail or be suspended.
pub(super) fn run(
    world: &Shared,
    host: usize,
    persist: Persist,
    command: &Command,
) -> Ran<Outcome> {
    let (process, fs, cx, errors) = {
        let world = &mut *world.borrow_mut();
        let fate = world.fate();
        let process = Process::new(fate);
        let cx = world.context(host);
        let may_fail = fate.is_some() || world.story.depth > 0 || world.hosts[host].is_full;
        world.hosts[host].running.push(process.clone());
        (process.clone(), world.hosts[host].disk.of(&process), cx, may_fail)
    };
    let others = world.clone();
    process::meanwhile(Some(Box::new(move || suspended(&others, host))));
    let wait = Wait::For(Duration::from_secs(1));
    let mut store = Embedded::on(fs, PathBuf::from(STORE), persist, wait);
    let answer = store.apply(command, &cx);
    process::meanwhile(None);
    let world = &mut *world.borrow_mut();
    world.hosts[host].running.retain(|other| !Arc::ptr_eq(other, &process));
    world.story.steps += process.steps();
    if process.is_dead() {
        return Ran::Killed;
    }
    match answer {
        Ok(outcome) => Ran::Done(outcome),
        Err(Error::Refused(refusal)) => Ran::Refused(refusal),
        Err(Error::Store(error)) => {
            let is_harmless = errors || !process.is_undisturbed();
            if !is_harmless || matches!(error, StoreError::Damaged { .. }) {
                let kind = format!("{command:?}");
                let kind = kind.split('(').next().unwrap_or_default();
                world.found(format!("h{host} {kind}: {error}"));
            }
            Ran::Failed(error)
        }
    }
}

impl World {
    fn fate(&mut self) -> Option<(u64, Fate)> {
        // An ADD takes about seventy steps. Half of the time, choose one of the first twenty, which include
        // the steps without a lock.
        let steps = if self.random.one_in(2) { 20 } else { 90 };
        let at = 1 + self.random.next() % steps;
        let errors = [libc_errno::EIO, libc_errno::ENOSPC, libc_errno::ENOMEM, libc_errno::ESTALE];
        let fate = match self.random.below(12) {
            0 => Fate::KilledBefore,
            1 => Fate::KilledAfter,
            2 => Fate::Fails(*self.random.pick(&errors)),
            3 | 4 if self.story.depth < 2 => Fate::Suspended,
            _ => return None,
        };
        self.story.happens().then_some((at, fate))
    }
}

mod libc_errno {
    pub const EIO: i32 = 5;
    pub const ENOMEM: i32 = 12;
    pub const ENOSPC: i32 = 28;
    pub const ESTALE: i32 = 116;
}

/// Runs other parts of the simulation while a process of the host is suspended.
pub(super) fn suspended(world: &Shared, host: usize) {
    let turns = {
        let world = &mut *world.borrow_mut();
        world.note("... is suspended; meanwhile:");
        world.story.depth += 1;
        1 + world.random.below(3)
    };
    for _ in 0..turns {
        let before = {
            let world = &mut *world.borrow_mut();
            // Each event has its own random numbers, so that leaving an event out does not change the later
            // events.
            let random = Random::new(world.random.next(), 0);
            if !world.story.happens() {
                continue;
            }
            std::mem::replace(&mut world.random, random)
        };
        act(world, Some(host));
        world.borrow_mut().random = before;
    }
    let world = &mut *world.borrow_mut();
    world.story.depth -= 1;
    world.note("... goes on");
}
