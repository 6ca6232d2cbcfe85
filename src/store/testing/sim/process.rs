//! A simulated process: its steps, what happens to it, and the virtual clock.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Refusal, StoreError};

/// What happens to a process at one step, where a step is one operation or one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    KilledBefore,
    KilledAfter,
    /// The operation fails with this `errno` value and has no effect, except that a write may be partly done.
    Fails(i32),
    /// The process is suspended, and other processes run.
    Suspended,
}

/// The reason why a step of a process returned no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Killed,
    Fails(i32),
}

/// How a process ended.
pub enum Ran<T> {
    Done(T),
    Refused(Refusal),
    Failed(StoreError),
    Killed,
}

/// A simulated process.
#[derive(Debug, Default)]
pub struct Process {
    dead: AtomicBool,
    steps: AtomicU64,
    /// What happens to the process, and at which step.
    fate: Option<(u64, Fate)>,
}

impl Process {
    pub fn new(fate: Option<(u64, Fate)>) -> Arc<Process> {
        Arc::new(Process { fate, ..Process::default() })
    }

    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Returns whether the process is alive and has not been disturbed yet.
    pub fn is_undisturbed(&self) -> bool {
        !self.is_dead() && self.fate.is_none_or(|(at, _)| at > self.steps())
    }

    /// Runs one step of the process: calls `effect`, unless the process is killed before the step or the
    /// operation fails. A killed process gets no result.
    pub fn step<T>(&self, effect: impl FnOnce() -> T) -> Result<T, Stop> {
        if self.is_dead() {
            return Err(Stop::Killed);
        }
        let step = self.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let fate = self.fate.filter(|(at, _)| *at == step).map(|(_, fate)| fate);
        match fate {
            Some(Fate::KilledBefore) => {
                self.kill();
                return Err(Stop::Killed);
            }
            Some(Fate::Fails(number)) => return Err(Stop::Fails(number)),
            Some(Fate::Suspended) => {
                let run = MEANWHILE.with(|hook| hook.borrow_mut().take());
                if let Some(mut run) = run {
                    run();
                }
                if self.is_dead() {
                    return Err(Stop::Killed);
                }
            }
            Some(Fate::KilledAfter) | None => {}
        }
        let done = effect();
        if fate == Some(Fate::KilledAfter) {
            self.kill();
            return Err(Stop::Killed);
        }
        Ok(done)
    }
}

thread_local! {
    /// The function that runs while a process of this thread is suspended.
    static MEANWHILE: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Sets the function that runs the next time that a process of this thread is suspended.
pub fn meanwhile(run: Option<Box<dyn FnMut()>>) {
    MEANWHILE.with(|hook| *hook.borrow_mut() = run);
}

/// Returns the virtual time since the simulation began.
pub fn clock() -> Duration {
    CLOCK.with(Cell::get)
}

pub fn set_clock(time: Duration) {
    CLOCK.with(|clock| clock.set(time));
}
