//! What was seen last, for as long as it is fresh.
//!
//! Owns: how often the store is looked at. Invariant: one look at a time; whoever asks meanwhile
//! gets what it brings.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::survey;
use super::survey::Survey;
use crate::alloc::Context;
use crate::error::StoreError;
use crate::liveness;
use crate::model::{Event, Lease, StoreSpec};
use crate::net::Addr;
use crate::rows::{ProblemRow, Time};
use crate::store;
use crate::store::{Problem, Store};
use crate::sys::{host, panic};
use crate::telemetry::counters;

/// How long a look is fresh, at least.
const FRESH: Duration = Duration::from_secs(1);

/// ... and in looks: it costs at most a tenth of the time.
const LOOKS: u32 = 10;

/// How long a look is kept behind that.
const IDLE: Duration = Duration::from_secs(30);

/// How long all records of the store are taken for sound.
const SOUND: Duration = Duration::from_secs(60);

/// Why there is nothing to show: a text that names the way out.
pub type Why = String;

/// The store, and what was seen of it last.
pub struct Shelf {
    store: StoreSpec,
    cx: Context,
    survey: Mutex<Option<Seen<Survey>>>,
    problems: Mutex<Option<Seen<Problems>>>,
}

/// What came of a look, and until when that is fresh.
struct Seen<T> {
    what: Result<Arc<T>, Why>,
    until: Instant,
}

/// What is wrong, as far as was looked.
pub struct Problems {
    /// When.
    pub looked: Time,
    /// All of it.
    pub rows: Vec<ProblemRow>,
}

/// One address: who holds it, and who did, the newest first.
pub struct Past {
    /// Its leases, in all sets.
    pub leases: Vec<Lease>,
    /// What happened to it.
    pub events: Vec<Event>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shelf {
    /// Of this store.
    pub fn new(store: StoreSpec, cx: Context) -> Shelf {
        Shelf { store, cx, survey: Mutex::default(), problems: Mutex::default() }
    }

    /// The machine that answers.
    pub fn node(&self) -> &crate::model::Node {
        &self.cx.node
    }

    /// Which store, for a person.
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

    /// Blocks while it looks. A panic of the store is a failure like any other.
    fn ask<T>(
        &self,
        question: impl FnOnce(&mut dyn Store, &Context) -> Result<T, StoreError>,
    ) -> Result<T, Why> {
        let cx = Context { now: host::now(), ..self.cx.clone() };
        let asked = AssertUnwindSafe(|| question(&mut *store::open(&self.store)?, &cx));
        let answer = match catch_unwind(asked) {
            Ok(answer) => answer.map_err(|e| e.to_string()),
            Err(payload) => Err(panic::explain(&*payload).msg),
        };
        if answer.is_err() {
            counters::failure();
        }
        answer
    }

    /// Lets go of what nobody asked for in a while: of a large store it is large.
    pub fn forget(&self) {
        if let Ok(mut seen) = self.survey.try_lock() {
            let old = |seen: &mut Seen<Survey>| seen.until.elapsed() > IDLE;
            seen.take_if(old);
        }
    }

    /// A fresh look at all leases.
    pub fn survey(&self) -> Result<Arc<Survey>, Why> {
        fresh(&self.survey, FRESH, || self.ask(survey::look))
    }

    /// What is wrong with the store.
    pub fn problems(&self) -> Arc<Problems> {
        let looked = Time(host::now());
        let look = || self.ask(|store, cx| Ok(Problems { looked, rows: problems(store, cx)? }));
        // A store that cannot be read is told at once.
        let readable = self.survey().is_ok();
        let told = |seen: &Seen<Problems>| {
            seen.what.as_ref().is_ok_and(|p| p.rows.iter().any(|row| row.level == "error"))
        };
        lock(&self.problems).take_if(|seen| !readable && !told(seen));
        let keep = if readable { SOUND } else { FRESH };
        fresh(&self.problems, keep, look).unwrap_or_else(|what| {
            let advice = "see the message; nothing is leased or freed until the store answers";
            let (place, advice) = (self.place(), advice.to_owned());
            let row = ProblemRow { level: "error", place, what, advice, repairable: false };
            Arc::new(Problems { looked, rows: vec![row] })
        })
    }

    /// One address.
    pub fn past(&self, addr: Addr) -> Result<Past, Why> {
        self.ask(|store, cx| {
            let mut leases = Vec::new();
            store.list(cx, &mut |lease| {
                if lease.addr == addr {
                    leases.push(lease);
                }
            })?;
            let mut events = store.history(cx, &mut |event| event.addr == addr)?;
            events.reverse();
            Ok(Past { leases, events })
        })
    }
}

/// What is on the shelf; what is stale is looked up by whoever comes first.
fn fresh<T>(
    seen: &Mutex<Option<Seen<T>>>,
    keep: Duration,
    look: impl FnOnce() -> Result<T, Why>,
) -> Result<Arc<T>, Why> {
    let mut seen = lock(seen);
    if let Some(seen) = &*seen
        && Instant::now() < seen.until
    {
        return seen.what.clone();
    }
    // Not two of them at a time: of a large store that counts.
    *seen = None;
    let began = Instant::now();
    let what = look().map(Arc::new);
    let keep = if what.is_ok() { keep } else { FRESH };
    let until = Instant::now() + keep.max(began.elapsed() * LOOKS);
    *seen = Some(Seen { what: what.clone(), until });
    what
}

/// What `sublet doctor` finds, the worst first.
fn problems(store: &mut dyn Store, cx: &Context) -> Result<Vec<ProblemRow>, StoreError> {
    let mut found: Vec<Problem> = Vec::new();
    store.problems(cx, &mut |problem| found.push(problem))?;
    // A damaged store does not tell its leases.
    if !found.iter().any(|problem| problem.mendable) {
        let mut leases = Vec::new();
        store.list(cx, &mut |lease| {
            if lease.kind.collectable() && lease.origin.netns.is_some() {
                leases.push(lease);
            }
        })?;
        found.extend(liveness::problems(&leases, cx));
    }
    found.sort_by_key(|problem| !problem.mendable);
    Ok(found.into_iter().map(ProblemRow::new).collect())
}
