//! What this process has seen since it began: how long requests took, how long locks were waited for,
//! how often others were faster.
//!
//! Owns: the numbers; they are the whole process's, as what they measure is. Does not own: what is kept
//! over processes (the store's counters), or how a number is written ([`super::metrics`]).
//! Invariant: counting never blocks on anything but another count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::model::Histogram;

/// A kind of request: face, command, outcome.
pub type Request = (&'static str, &'static str, &'static str);

static REQUESTS: Mutex<BTreeMap<Request, Histogram>> = Mutex::new(BTreeMap::new());
static WAITS: Mutex<Histogram> = Mutex::new(Histogram::EMPTY);
static CONFLICTS: AtomicU64 = AtomicU64::new(0);
static FAILURES: AtomicU64 = AtomicU64::new(0);

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request was answered.
pub fn request(request: Request, took: Duration) {
    lock(&REQUESTS).entry(request).or_default().add(took);
}

/// A store's lock was not free, and was waited for.
pub fn waited(took: Duration) {
    lock(&WAITS).add(took);
}

/// A cluster's commit found that another was faster.
pub fn conflict() {
    CONFLICTS.fetch_add(1, Ordering::Relaxed);
}

/// A store did not answer, or is damaged.
pub fn failure() {
    FAILURES.fetch_add(1, Ordering::Relaxed);
}

/// The numbers, as they are now.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests.
    pub requests: BTreeMap<Request, Histogram>,
    /// Waits for locks.
    pub waits: Histogram,
    /// Commits that others were faster than.
    pub conflicts: u64,
    /// Times that a store failed.
    pub failures: u64,
}

/// All of it.
pub fn now() -> Tally {
    Tally {
        requests: lock(&REQUESTS).clone(),
        waits: lock(&WAITS).clone(),
        conflicts: CONFLICTS.load(Ordering::Relaxed),
        failures: FAILURES.load(Ordering::Relaxed),
    }
}
