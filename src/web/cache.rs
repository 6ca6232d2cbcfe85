//! What the page and its API know of the store, and how old that may be.
//!
//! Invariant: however many clients ask, one thread reads the store, one question after the other; and nobody
//! who asks for a kept value waits longer than they choose to. Leases are kept only while somebody looks at them.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::leases::{Done, Rest};
use super::past;
use super::query::Query;
use super::slot::{Fault, Job, Seen, Slot, caught};
use super::snapshot::Snapshot;
use crate::alloc::Context;
use crate::error::StoreError;
use crate::liveness;
use crate::liveness::stale;
use crate::liveness::stale::Liveness;
use crate::model::{Event, Lease, StoreSpec, Wait};
use crate::net::Addr;
use crate::rows::{ProblemRow, Time};
use crate::store;
use crate::store::Store;
use crate::sys::host;
use crate::telemetry::counters;
use crate::trends::Trends;

/// How long leases and their numbers are fresh, at least.
const FRESH: Duration = Duration::from_secs(1);
/// How long the cached problems and history of a store count as fresh, if the store could be read.
const SLOW_FRESH: Duration = Duration::from_secs(60);
/// How long cached leases stay in memory after the last request for them.
const IDLE: Duration = Duration::from_secs(30);
/// How long a reader waits for the lock of a lease file.
const LOCK: Duration = Duration::from_secs(2);
/// How long a client waits for what it cannot do without.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a client waits for newer numbers than those that are kept.
pub const BRIEF: Duration = Duration::from_secs(2);
/// As long as a reader holds the lock at most: how long `/metrics` waits for it.
const HOLD: Duration = Duration::from_millis(10);
/// Problems that are listed; more are counted.
const MOST_PROBLEMS: usize = 1_000;
/// Events of an address that are listed: the newest.
const MOST_EVENTS: usize = 1_000;

/// A store, and what was read from it.
pub struct Cache {
    reader: Reader,
    snapshot: Arc<Slot<Snapshot>>,
    /// The last request for the lists of leases, or for the status, which the page requests first.
    wanted: Arc<Mutex<Option<Instant>>>,
    problems: Arc<Slot<Problems>>,
    trends: Arc<Slot<Trends>>,
    /// To the thread that reads.
    jobs: mpsc::Sender<Job>,
    /// Bytes of rows that are kept.
    room: usize,
}

/// The problems of the store.
#[derive(Default)]
pub struct Problems {
    /// When they were looked for.
    pub looked: Time,
    /// The first of them, errors first.
    pub rows: Vec<ProblemRow>,
    /// How many are damage.
    pub errors: usize,
    /// How many are leases whose container is gone.
    pub stale: usize,
    /// How many there are of any other kind.
    pub others: usize,
}

/// What is known about an address.
pub struct Address {
    /// The leases that hold it, one for each set.
    pub leases: Vec<Lease>,
    /// Whether the container of each of them is alive.
    pub liveness: Vec<Liveness>,
    /// Its newest events, the newest first.
    pub events: Vec<Event>,
}

impl Problems {
    fn find(store: &mut dyn Store, cx: &Context) -> Result<Problems, StoreError> {
        let mut found = Problems { looked: Time(cx.now), ..Problems::default() };
        liveness::problems(store, cx, &mut |problem, is_stale| {
            *match (is_stale, problem.damage) {
                (true, _) => &mut found.stale,
                (false, true) => &mut found.errors,
                (false, false) => &mut found.others,
            } += 1;
            if found.rows.len() < MOST_PROBLEMS {
                found.rows.push(ProblemRow::new(problem));
            }
        })?;
        found.rows.sort_by_key(|row| row.level != "error");
        Ok(found)
    }
}

/// Opens the store and reads it.
#[derive(Clone)]
struct Reader {
    store: StoreSpec,
    cx: Context,
}

impl Reader {
    fn read<T>(
        &self,
        question: impl FnOnce(&mut dyn Store, &Context) -> Result<T, StoreError>,
    ) -> Result<T, Fault> {
        self.read_within(LOCK, question)
    }

    /// Reads the store, and waits at most `patience` for each lock.
    fn read_within<T>(
        &self,
        patience: Duration,
        question: impl FnOnce(&mut dyn Store, &Context) -> Result<T, StoreError>,
    ) -> Result<T, Fault> {
        let cx = Context { now: host::now(), ..self.cx.clone() };
        let mut spec = self.store.clone();
        if let StoreSpec::Embedded { wait, .. } = &mut spec {
            *wait = Wait::For(patience);
        }
        let answer = store::open(&spec).and_then(|mut store| question(&mut *store, &cx));
        answer.inspect_err(|_| counters::failure()).map_err(Fault::from)
    }
}

/// Returns whether the lists of leases were requested recently.
fn is_wanted(wanted: &Mutex<Option<Instant>>) -> bool {
    let wanted = *wanted.lock().unwrap_or_else(PoisonError::into_inner);
    wanted.is_some_and(|at| at.elapsed() < IDLE)
}

impl Cache {
    /// An empty cache that keeps up to `room` bytes of rows, and the thread that reads for it, which ends with
    /// the cache.
    pub fn new(store: StoreSpec, cx: Context, room: usize) -> std::io::Result<Cache> {
        let (jobs, work) = mpsc::channel::<Job>();
        let read = move || work.into_iter().for_each(|job| job());
        std::thread::Builder::new().name("reader".to_owned()).spawn(read)?;
        Ok(Cache {
            reader: Reader { store, cx },
            snapshot: Arc::default(),
            wanted: Arc::default(),
            problems: Arc::default(),
            trends: Arc::default(),
            jobs,
            room,
        })
    }

    /// Has the thread that reads do a job. It ends only with the cache.
    fn start(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// The store's name: its file or servers.
    pub fn place(&self) -> String {
        self.reader.store.place()
    }

    /// The node that answers.
    pub fn node(&self) -> &crate::model::Node {
        &self.reader.cx.node
    }

    /// Drops the lists of leases if no request for them has come for a while.
    pub fn drop_idle(&self) {
        if !is_wanted(&self.wanted)
            && let Some(snapshot) = self.snapshot.last().value
        {
            snapshot.drop_lists();
        }
    }

    /// Keeps the lists of leases in memory for some time, because the page may request them.
    pub fn want_lists(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// How long a scrape waits for newer numbers: not at all where it would wait for a lock.
    pub fn scrape_patience(&self) -> Duration {
        let is_file = matches!(self.reader.store, StoreSpec::Embedded { .. });
        let is_locked = is_file && self.reader.read_within(HOLD, |store, _| store.pools()).is_err();
        if is_locked { Duration::ZERO } else { BRIEF }
    }

    /// The numbers of the leases.
    pub fn snapshot(&self, patience: Duration) -> Seen<Snapshot> {
        let (reader, slot) = (self.reader.clone(), self.snapshot.clone());
        let (wanted, room) = (self.wanted.clone(), self.room);
        let read = move || {
            let room = if is_wanted(&wanted) { room } else { 0 };
            // The lists of two snapshots need not be in memory at once.
            slot.last().value.inspect(|snapshot| snapshot.drop_lists());
            reader.read(|store, cx| Snapshot::take(store, cx, room))
        };
        self.snapshot.get(FRESH, patience, |job| self.start(job), read)
    }

    /// The problems of the store.
    pub fn problems(&self, patience: Duration) -> Seen<Problems> {
        let reader = self.reader.clone();
        self.problems.get(
            SLOW_FRESH,
            patience,
            |job| self.start(job),
            move || reader.read(Problems::find),
        )
    }

    /// The last day of each range.
    pub fn trends(&self, patience: Duration) -> Seen<Trends> {
        // The thread that reads takes the snapshot first, so it is there when the trends are computed.
        let _ = self.snapshot(Duration::ZERO);
        let (reader, snapshot) = (self.reader.clone(), self.snapshot.clone());
        self.trends.get(
            SLOW_FRESH,
            patience,
            |job| self.start(job),
            move || {
                let snapshot = snapshot.last().now()?;
                reader.read(|store, cx| Trends::take(store, cx, &snapshot.usage))
            },
        )
    }

    /// A page of the leases, or of the cooling addresses. `None`: nothing is left of the cursor's set.
    pub fn page(&self, query: &Query, cooling: bool) -> Result<Option<(Done, String)>, Fault> {
        self.want_lists();
        let mut snapshot = self.snapshot(PATIENCE).now()?;
        // A snapshot that was taken for other requests has no lists.
        for _ in 0..2 {
            if snapshot.lists().is_none() {
                self.snapshot.expire();
                snapshot = self.snapshot(PATIENCE).now()?;
            }
        }
        let Some(lists) = snapshot.lists() else {
            let text = "the lease store is being read; try again".to_owned();
            return Err(Fault { kind: "unavailable", text });
        };
        let list = if cooling { &lists.cooling } else { &lists.leases };
        let rest = |rest: Rest| self.ask(move |store, cx| rest.read(store, cx));
        let page = list.page((snapshot.time, cooling), query, rest)?;
        Ok(page.map(|page| (page, list.version.clone())))
    }

    /// A page of who held each address at a time.
    pub fn held(&self, at: Time, query: &Query) -> Result<Done, Fault> {
        let query = query.clone();
        self.ask(move |store, cx| past::page(store, cx, at, &query))
    }

    /// What is known about an address in all sets.
    pub fn address(&self, addr: Addr) -> Result<Address, Fault> {
        self.ask(move |store, cx| {
            let mut leases = Vec::new();
            store.list(cx, &mut |lease| {
                if lease.addr == addr {
                    leases.push(lease);
                }
            })?;
            let mut events = store.history(cx, &mut |event| event.addr == addr)?;
            events.reverse();
            events.truncate(MOST_EVENTS);
            // Nothing is freed, so young leases are examined too.
            let evidence = liveness::evidence(&leases, cx, 0, true, Vec::new());
            let liveness = stale::assess(&leases, &evidence);
            Ok(Address { leases, liveness, events })
        })
    }

    /// Has the thread that reads answer a question, and waits for it.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Store, &Context) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Fault> {
        let reader = self.reader.clone();
        let (answer, wait) = mpsc::channel();
        self.start(Box::new(move || {
            // Whoever asked may be gone.
            let _ = answer.send(caught(|| reader.read(question)));
        }));
        wait.recv().unwrap_or_else(|_| {
            let text = "the page's reader has ended".to_owned();
            Err(Fault { kind: "unavailable", text })
        })
    }
}
