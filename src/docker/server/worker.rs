//! The worker threads, which apply requests to the store in the order in which they arrive.
//!
//! Only one process or thread at a time can write to a lease file, so a lease file has a single worker. A
//! cluster has several workers, so that requests do not wait for each other's round trips.
//! Invariant: when the workers end, every change is settled. Either its response was fully written to the
//! kernel and its [`PendingUndo`] was confirmed, or the change was undone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::alloc::Context;
use crate::config::Level;
use crate::docker::api;
use crate::docker::api::{Driver, Reply, Undo};
use crate::error::StoreError;
use crate::model::{StoreSpec, Wait};
use crate::store;
use crate::store::{Recent, Store};
use crate::sys::{host, panic};
use crate::telemetry::counters;
use crate::telemetry::log::{Entry, Log};

/// The number of requests to a cluster that run at the same time.
const CLUSTER_WORKERS: usize = 8;

/// The paths of the protocol's methods.
const METHODS: [&str; 7] = [
    "Activate",
    "GetCapabilities",
    "GetDefaultAddressSpaces",
    "RequestPool",
    "ReleasePool",
    "RequestAddress",
    "ReleaseAddress",
];

/// The driver, its store, and the settings for running a request.
pub struct Backend {
    /// The configuration of the driver.
    pub driver: Driver,
    /// The store in which the driver leases addresses. The time to wait for the store's lock is set anew for
    /// each request.
    pub store: StoreSpec,
    /// The node and the boot, for the context of each command.
    pub cx: Context,
    /// The maximum time for a request, including the wait for the lock.
    pub timeout: Duration,
    /// The log of subletd.
    pub log: Log,
}

impl Backend {
    /// Logs an event that does not belong to a request.
    pub(super) fn log(&self, level: Level, text: impl Into<String>) {
        self.log.write(&Entry::new(level, text));
    }

    /// Returns the context for a command, with the current time and a random number.
    pub(super) fn context(&self) -> Context {
        Context { now: host::now(), seed: host::chance(), ..self.cx.clone() }
    }
}

enum Work {
    Request(Job),
    Undo(Undo),
}

struct Job {
    path: String,
    body: Vec<u8>,
    received: Instant,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
    /// A sender for the [`PendingUndo`] of the response. The workers keep no sender of their own, because
    /// they end when all senders are dropped.
    queue: Queue,
}

/// A response, and how to undo the change that it reports.
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, a JSON object.
    pub body: String,
    /// Undoes the change when dropped. When the response has been written, the change is confirmed, and is
    /// no longer undone.
    pub undo: PendingUndo,
}

/// Undoes a change when it is dropped, unless the response was delivered.
pub struct PendingUndo {
    undo: Option<Undo>,
    queue: Queue,
}

impl PendingUndo {
    /// Keeps the change, because the response has been written to the kernel.
    pub fn confirm(&mut self) {
        self.undo = None;
    }
}

impl Drop for PendingUndo {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            // Sending fails only if the workers have ended, and they outlive all connections.
            let _ = self.queue.0.send(Work::Undo(undo));
        }
    }
}

/// The queue of work for the workers.
#[derive(Clone)]
pub struct Queue(mpsc::Sender<Work>);

impl Queue {
    /// Starts the workers. They end when the last clone of the queue has been dropped.
    pub fn start(backend: &Arc<Backend>) -> std::io::Result<(Queue, Vec<JoinHandle<()>>)> {
        let (sender, receiver) = mpsc::channel();
        let count = if backend.store.is_cluster() { CLUSTER_WORKERS } else { 1 };
        let receiver = Arc::new(Mutex::new(receiver));
        let recent = Recent::default();
        let threads = (0..count).map(|_| {
            let (backend, receiver, recent) = (backend.clone(), receiver.clone(), recent.clone());
            std::thread::Builder::new().name("store".to_owned()).spawn(move || {
                let mut worker = Worker { backend, connected: None, recent };
                while let Some(work) = next(&receiver) {
                    match work {
                        Work::Request(job) => worker.request(job),
                        Work::Undo(undo) => worker.undo(&undo),
                    }
                }
            })
        });
        Ok((Queue(sender), threads.collect::<Result<_, _>>()?))
    }

    /// Runs one request. If it does not finish within `timeout`, returns a failure. If the request still
    /// changes the store after the timeout, the change is undone.
    pub async fn ask(&self, path: String, body: Vec<u8>, timeout: Duration) -> Answer {
        let (answer, get) = oneshot::channel();
        let received = Instant::now();
        let deadline = received + timeout;
        let job = Job { path, body, received, deadline, answer, queue: self.clone() };
        let sent = self.0.send(Work::Request(job));
        // The workers observe the timeout themselves, so this timeout matters only if the disk hangs.
        let grace = Duration::from_secs(2);
        match (sent, tokio::time::timeout(timeout + grace, get).await) {
            (Ok(()), Ok(Ok(answer))) => answer,
            _ => self.failed(503, "the lease store did not respond in time; try again"),
        }
    }

    /// Makes the response to a request that failed without changing anything.
    pub fn failed(&self, status: u16, text: &str) -> Answer {
        self.reply(Reply::failed(status, text, ""))
    }

    fn reply(&self, reply: Reply) -> Answer {
        let undo = PendingUndo { undo: reply.undo, queue: self.clone() };
        Answer { status: reply.status, body: reply.body, undo }
    }
}

/// Counts a request. All unknown methods are counted under one name.
fn count(command: &str, reply: &Reply, took: Duration) {
    let known = METHODS.iter().find(|known| **known == command).unwrap_or(&"unknown");
    let fact = reply.entry.facts.iter().find(|(name, _)| *name == "outcome");
    let outcome = match fact.map(|(_, outcome)| outcome.as_str()) {
        Some("ok") => "ok",
        Some("refused") => "refused",
        _ => "error",
    };
    counters::request(("docker", known, outcome), took);
    if reply.status >= 500 {
        counters::failure();
    }
}

/// Waits for the next piece of work; returns `None` when all senders have been dropped.
fn next(receiver: &Mutex<mpsc::Receiver<Work>>) -> Option<Work> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// A worker thread.
struct Worker {
    backend: Arc<Backend>,
    /// The open connections to a cluster, kept for later requests.
    connected: Option<Box<dyn Store>>,
    /// Recently read data about pool addresses. The workers share it to save round trips.
    recent: Recent,
}

impl Worker {
    fn open(&self, deadline: Instant) -> Result<Box<dyn Store>, StoreError> {
        let mut spec = self.backend.store.clone();
        if let StoreSpec::Embedded { wait, .. } = &mut spec {
            let left = deadline.saturating_duration_since(Instant::now());
            *wait = if left.is_zero() { Wait::Try } else { Wait::For(left) };
        }
        store::open_sharing(&spec, &self.recent)
    }

    fn request(&mut self, job: Job) {
        let Job { path, body, received, deadline, answer, queue } = job;
        if answer.is_closed() {
            return;
        }
        let reply = if Instant::now() >= deadline {
            Reply::failed(
                503,
                "the lease store is busy, because too many requests are waiting; try again",
                "",
            )
        } else {
            self.execute(&path, &body, deadline)
        };
        let command = path.rsplit(['.', '/']).next().unwrap_or_default();
        let mut entry = Entry::new(reply.entry.level, reply.entry.text.as_str())
            .with("face", "docker")
            .with("command", command);
        entry.facts.extend(reply.entry.facts.iter().cloned());
        entry.took = Some(received.elapsed());
        self.backend.log.write(&entry);
        count(command, &reply, received.elapsed());
        // If the client is gone, dropping the response here queues the undo of its change.
        drop(answer.send(queue.reply(reply)));
    }

    fn execute(&mut self, path: &str, body: &[u8], deadline: Instant) -> Reply {
        let connected = self.connected.take();
        let work = AssertUnwindSafe(|| {
            let mut store = connected.map_or_else(|| self.open(deadline), Ok)?;
            let reply =
                api::handle(&self.backend.driver, &mut *store, &self.backend.context(), path, body);
            Ok::<_, StoreError>((reply, store))
        });
        match catch_unwind(work) {
            Ok(Ok((reply, store))) => {
                // After a failure, close the connections, so that the next request rereads all files and
                // connects again. A certificate may have been renewed.
                self.connected =
                    Some(store).filter(|_| self.backend.store.is_cluster() && reply.status < 500);
                reply
            }
            Ok(Err(error)) => Reply::failed(500, &error.to_string(), ""),
            Err(payload) => Reply::failed(500, &panic::explain(&*payload).msg, ""),
        }
    }

    fn undo(&self, undo: &Undo) {
        let what = match undo {
            Undo::Address(pool, lease) => format!("{} of pool {pool}", lease.addr),
            Undo::Pool(pool) => format!("pool {pool}"),
        };
        let deadline = Instant::now() + self.backend.timeout;
        let done = self.open(deadline).map_err(|e| e.to_string()).and_then(|mut store| {
            api::undo(&mut *store, &self.backend.context(), undo).map_err(|e| e.to_string())
        });
        let (level, text) = match done {
            Ok(()) => {
                (Level::Warn, format!("the client did not read the response, so {what} was freed"))
            }
            Err(e) => (
                Level::Error,
                format!(
                    "the client did not read the response, and {what} could not be freed: {e}; run `subletd \
                     cleanup`"
                ),
            ),
        };
        self.backend
            .log
            .write(&Entry::new(level, text).with("face", "docker").with("command", "undo"));
    }
}
