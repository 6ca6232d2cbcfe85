//! Caches the data of a store that the page and its API show, and defines how old each cached value may be.
//!
//! Invariants: A single thread reads the store, one request after the other, regardless of the number of
//! clients. A request for a cached value never waits longer than its time limit. Lists of leases stay in
//! memory only while clients request them.

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

/// The minimum time for which a snapshot (the counts and lists of leases) counts as fresh.
const FRESH: Duration = Duration::from_secs(1);
/// The minimum time for which the cached problems and trends of a store count as fresh.
const SLOW_FRESH: Duration = Duration::from_secs(60);
/// How long cached leases stay in memory after the last request for them.
const IDLE: Duration = Duration::from_secs(30);
/// How long a reader waits for the lock of a lease file.
const LOCK: Duration = Duration::from_secs(2);
/// How long a request waits for a value that its response requires.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long a request waits for a newer value if it can also use the cached value.
pub const BRIEF: Duration = Duration::from_secs(2);
/// How long `/metrics` and `/healthz` wait for the lock of a lease file. Another reader holds the lock for at
/// most this long.
const HOLD: Duration = Duration::from_millis(10);
/// The maximum number of problems that are listed. Further problems are only counted.
const MOST_PROBLEMS: usize = 1_000;
/// The maximum number of events that are listed for an address: the newest ones.
const MOST_EVENTS: usize = 1_000;

/// A store and the values that were read from it.
pub struct Cache {
    reader: Reader,
    snapshot: Arc<Slot<Snapshot>>,
    /// When a client last requested a list of leases or the status. (The page requests the status first, and
    /// then the leases.)
    wanted: Arc<Mutex<Option<Instant>>>,
    problems: Arc<Slot<Problems>>,
    trends: Arc<Slot<Trends>>,
    /// The queue of the thread that reads the store.
    jobs: mpsc::Sender<Job>,
    /// The maximum size of the rows that each list keeps in memory, in bytes.
    room: usize,
}

/// The problems of the store.
#[derive(Default)]
pub struct Problems {
    /// When the search for problems began.
    pub looked: Time,
    /// At most [`MOST_PROBLEMS`] problems, errors first.
    pub rows: Vec<ProblemRow>,
    /// The number of damaged records.
    pub errors: usize,
    /// The number of leases whose container is gone.
    pub stale: usize,
    /// The number of all other problems.
    pub others: usize,
}

/// The leases and the history of an address.
pub struct Address {
    /// The leases that hold the address: at most one in each set of leases.
    pub leases: Vec<Lease>,
    /// Whether the container of each lease is alive, in the order of `leases`.
    pub liveness: Vec<Liveness>,
    /// The address's last events, the newest first.
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

/// Opens a store for each read, and closes it afterwards.
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

/// Returns whether rows of leases were requested recently.
fn is_wanted(wanted: &Mutex<Option<Instant>>) -> bool {
    let wanted = *wanted.lock().unwrap_or_else(PoisonError::into_inner);
    wanted.is_some_and(|at| at.elapsed() < IDLE)
}

impl Cache {
    /// Creates an empty cache and starts the thread that reads the store. The thread ends when the cache is
    /// dropped. Each list keeps up to `room` bytes of rows.
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

    /// Passes a job to the thread that reads the store. Sending cannot fail, because that thread runs as long
    /// as the cache exists.
    fn start(&self, job: Job) {
        let _ = self.jobs.send(job);
    }

    /// Returns the store's name: its file or its servers.
    pub fn place(&self) -> String {
        self.reader.store.place()
    }

    /// Returns the node on which this process runs.
    pub fn node(&self) -> &crate::model::Node {
        &self.reader.cx.node
    }

    /// Frees the memory of the rows of leases if no client has requested them for [`IDLE`].
    pub fn drop_idle(&self) {
        if !is_wanted(&self.wanted)
            && let Some(snapshot) = self.snapshot.last().value
        {
            snapshot.drop_rows();
        }
    }

    /// Keeps rows of leases in memory until [`IDLE`] has passed since the last call.
    pub fn want_rows(&self) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Returns how long `/metrics` and `/healthz` wait for a newer snapshot. Returns zero if the lease file
    /// is locked, so that a long write does not delay a scrape.
    pub fn scrape_patience(&self) -> Duration {
        let is_file = matches!(self.reader.store, StoreSpec::Embedded { .. });
        let is_locked = is_file && self.reader.read_within(HOLD, |store, _| store.pools()).is_err();
        if is_locked { Duration::ZERO } else { BRIEF }
    }

    /// Returns the snapshot of the store, and waits at most `patience` for a newer one.
    pub fn snapshot(&self, patience: Duration) -> Seen<Snapshot> {
        let (reader, slot) = (self.reader.clone(), self.snapshot.clone());
        let (wanted, room) = (self.wanted.clone(), self.room);
        let read = move || {
            let room = if is_wanted(&wanted) { room } else { 0 };
            // Free the old rows first, so that the rows of two snapshots are never in memory at once.
            slot.last().value.inspect(|snapshot| snapshot.drop_rows());
            reader.read(|store, cx| Snapshot::take(store, cx, room))
        };
        self.snapshot.get(FRESH, patience, |job| self.start(job), read)
    }

    /// Returns the problems of the store, and waits at most `patience` for a newer search.
    pub fn problems(&self, patience: Duration) -> Seen<Problems> {
        let reader = self.reader.clone();
        self.problems.get(
            SLOW_FRESH,
            patience,
            |job| self.start(job),
            move || reader.read(Problems::find),
        )
    }

    /// Returns how full each range was during the last day, and waits at most `patience` for newer trends.
    pub fn trends(&self, patience: Duration) -> Seen<Trends> {
        // The trends are computed from a snapshot. Request the snapshot first, because the thread runs its
        // jobs in order.
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

    /// Returns a page of the leases, or of the cooling addresses if `cooling`, and the version of the list.
    /// Returns `None` if the cursor's set of leases no longer has any rows.
    pub fn page(&self, query: &Query, cooling: bool) -> Result<Option<(Done, String)>, Fault> {
        self.want_rows();
        let mut snapshot = self.snapshot(PATIENCE).now()?;
        if !snapshot.leases.has_rows() {
            // The snapshot was taken for a request that needs no rows. Without rows, each page would be read
            // from the store.
            self.snapshot.expire();
            snapshot = self.snapshot(PATIENCE).now()?;
        }
        let list = if cooling { &snapshot.cooling } else { &snapshot.leases };
        let rest = |rest: Rest| self.ask(move |store, cx| rest.read(store, cx));
        let page = list.page(snapshot.time, cooling, query, rest)?;
        Ok(page.map(|page| (page, list.version.clone())))
    }

    /// Returns a page of the leases that existed at the time `at`.
    pub fn held(&self, at: Time, query: &Query) -> Result<Done, Fault> {
        let query = query.clone();
        self.ask(move |store, cx| past::page(store, cx, at, &query))
    }

    /// Returns the leases and events of an address in all sets of leases.
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
            // Examine leases within the grace period too, because this request only reports evidence and
            // frees nothing.
            let evidence = liveness::evidence(&leases, cx, 0, true, Vec::new());
            let liveness = stale::assess(&leases, &evidence);
            Ok(Address { leases, liveness, events })
        })
    }

    /// Runs `question` in the thread that reads the store, and waits for the result without a time limit.
    fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut dyn Store, &Context) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Fault> {
        let reader = self.reader.clone();
        let (answer, wait) = mpsc::channel();
        self.start(Box::new(move || {
            // Sending fails if the requesting thread is no longer waiting. It does not need the result then.
            let _ = answer.send(caught(|| reader.read(question)));
        }));
        wait.recv().unwrap_or_else(|_| {
            let text = "the thread that reads the lease store has ended".to_owned();
            Err(Fault { kind: "unavailable", text })
        })
    }
}
