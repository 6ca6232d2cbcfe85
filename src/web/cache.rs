//! The snapshots of the store that requests are answered from.
//!
//! Invariant: one request at a time reads the store; requests that come meanwhile get the same snapshot.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::snapshot::Snapshot;
use crate::alloc::Context;
use crate::error::StoreError;
use crate::liveness;
use crate::model::{Event, Lease, StoreSpec};
use crate::net::Addr;
use crate::rows::{ProblemRow, Time};
use crate::store;
use crate::store::Store;
use crate::sys::{host, panic};
use crate::telemetry::counters;

/// How long a snapshot is fresh, at least.
const FRESH: Duration = Duration::from_secs(1);

/// A snapshot is fresh for this many times as long as it took: reading takes at most a tenth of the time.
const TIMES: u32 = 10;

/// How long a stale snapshot of the leases stays in memory.
const IDLE: Duration = Duration::from_secs(30);

/// How long the problems of a readable store are fresh.
const PROBLEMS_FRESH: Duration = Duration::from_secs(60);

/// Why a store could not be read, and what to do.
pub type Why = String;

/// A store, and its newest snapshots.
pub struct Cache {
    store: StoreSpec,
    /// The node that answers.
    pub cx: Context,
    snapshot: Mutex<Option<Cached<Snapshot>>>,
    problems: Mutex<Option<Cached<Problems>>>,
}

struct Cached<T> {
    value: Result<Arc<T>, Why>,
    fresh_until: Instant,
}

/// The problems of the store.
pub struct Problems {
    /// When they were looked for.
    pub looked: Time,
    /// All of them, errors first.
    pub rows: Vec<ProblemRow>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    /// An empty cache.
    pub fn new(store: StoreSpec, cx: Context) -> Cache {
        Cache { store, cx, snapshot: Mutex::default(), problems: Mutex::default() }
    }

    /// The store's file or servers.
    pub fn place(&self) -> String {
        match &self.store {
            StoreSpec::Embedded { path, .. } => path.display().to_string(),
            StoreSpec::Etcd(etcd) => format!("etcd at {}", etcd.servers.endpoints.join(", ")),
            StoreSpec::Consul(consul) => {
                format!("Consul at {}", consul.servers.endpoints.join(", "))
            }
            StoreSpec::Unreadable { .. } => String::new(),
        }
    }

    /// Reads the store, and blocks meanwhile. A panic of the store is a failure like any other.
    fn read<T>(
        &self,
        question: impl FnOnce(&mut dyn Store, &Context) -> Result<T, StoreError>,
    ) -> Result<T, Why> {
        let cx = Context { now: host::now(), ..self.cx.clone() };
        let read = AssertUnwindSafe(|| question(&mut *store::open(&self.store)?, &cx));
        let answer = match catch_unwind(read) {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(payload) => Err(panic::explain(&*payload).msg),
        };
        if answer.is_err() {
            counters::failure();
        }
        answer
    }

    /// Drops a snapshot that nobody has asked for in a while: that of a large store is large.
    pub fn drop_idle(&self) {
        if let Ok(mut cached) = self.snapshot.try_lock() {
            cached.take_if(|cached| cached.fresh_until.elapsed() > IDLE);
        }
    }

    /// A fresh snapshot of the leases.
    pub fn snapshot(&self) -> Result<Arc<Snapshot>, Why> {
        fresh(&self.snapshot, FRESH, || self.read(Snapshot::take))
    }

    /// The problems of the store.
    pub fn problems(&self) -> Arc<Problems> {
        let looked = Time(host::now());
        let find = || {
            let mut found = self.read(liveness::problems)?;
            found.sort_by_key(|problem| !problem.mendable);
            Ok(Problems { looked, rows: found.into_iter().map(ProblemRow::new).collect() })
        };
        // A store that cannot be read any more is reported at once.
        let readable = self.snapshot().is_ok();
        let has_error = |cached: &Cached<Problems>| {
            cached.value.as_ref().is_ok_and(|p| p.rows.iter().any(|row| row.level == "error"))
        };
        lock(&self.problems).take_if(|cached| !readable && !has_error(cached));
        let keep = if readable { PROBLEMS_FRESH } else { FRESH };
        fresh(&self.problems, keep, find).unwrap_or_else(|what| {
            let advice = "see the message; nothing is leased or freed until the store answers";
            let (place, advice) = (self.place(), advice.to_owned());
            let row = ProblemRow { level: "error", place, what, advice, repairable: false };
            Arc::new(Problems { looked, rows: vec![row] })
        })
    }

    /// The leases of an address in all sets, and its events, the newest first.
    pub fn history(&self, addr: Addr) -> Result<(Vec<Lease>, Vec<Event>), Why> {
        self.read(|store, cx| {
            let mut leases = Vec::new();
            store.list(cx, &mut |lease| {
                if lease.addr == addr {
                    leases.push(lease);
                }
            })?;
            let mut events = store.history(cx, &mut |event| event.addr == addr)?;
            events.reverse();
            Ok((leases, events))
        })
    }
}

/// The cached value if it is fresh, else a new one, which is fresh for `keep`.
fn fresh<T>(
    cached: &Mutex<Option<Cached<T>>>,
    keep: Duration,
    read: impl FnOnce() -> Result<T, Why>,
) -> Result<Arc<T>, Why> {
    let mut cached = lock(cached);
    if let Some(cached) = &*cached
        && Instant::now() < cached.fresh_until
    {
        return cached.value.clone();
    }
    // Two large ones need not be in memory at a time.
    *cached = None;
    let began = Instant::now();
    let value = read().map(Arc::new);
    let keep = if value.is_ok() { keep } else { FRESH };
    let fresh_until = Instant::now() + keep.max(began.elapsed() * TIMES);
    *cached = Some(Cached { value: value.clone(), fresh_until });
    value
}
