//! The threads that work on the store.
//!
//! Owns: the order of requests (first come, first served), how long each may take, and taking back
//! what was done for an answer that nobody got. Does not own: sockets.
//! A file is one thread's work, for it has one writer at a time; a cluster is several threads', so
//! that none waits for another's answer.
//! Invariant: an answer's [`Owed`] is either settled, because its bytes are with the kernel, or what
//! was done for it is undone, before the threads end.

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
use crate::store::Store;
use crate::sys::{host, panic};
use crate::telemetry::counters;
use crate::telemetry::log::{Entry, Log};

/// How many requests to a cluster are on their way at a time.
const AT_ONCE: usize = 8;

/// The protocol's methods.
const COMMANDS: [&str; 7] = [
    "Activate",
    "GetCapabilities",
    "GetDefaultAddressSpaces",
    "RequestPool",
    "ReleasePool",
    "RequestAddress",
    "ReleaseAddress",
];

/// What the threads are told once.
pub struct Bench {
    /// What the driver knows beside its store.
    pub driver: Driver,
    /// Which store; its wait is set for each request.
    pub store: StoreSpec,
    /// Node and boot.
    pub cx: Context,
    /// How long a request may take, waiting included.
    pub timeout: Duration,
    /// Where lines go.
    pub log: Log,
}

enum Work {
    Request(Job),
    Undo(Undo),
}

struct Job {
    path: String,
    body: Vec<u8>,
    came: Instant,
    until: Instant,
    answer: oneshot::Sender<Answer>,
    /// For what is owed: the threads themselves hold no way to themselves.
    desk: Desk,
}

/// An answer, and what is owed for it.
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// A JSON object.
    pub body: String,
    /// Settle it once the answer is written.
    pub owed: Owed,
}

/// What has to be undone unless the answer is delivered: dropping it unsettled undoes it.
pub struct Owed {
    undo: Option<Undo>,
    desk: Desk,
}

impl Owed {
    /// The answer is with the kernel.
    pub fn settle(&mut self) {
        self.undo = None;
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        if let Some(undo) = self.undo.take() {
            // Fails only when the threads are gone, and they outlive all connections.
            let _ = self.desk.0.send(Work::Undo(undo));
        }
    }
}

/// A way to the threads.
#[derive(Clone)]
pub struct Desk(mpsc::Sender<Work>);

impl Desk {
    /// Starts the threads; they end when the last way to them is dropped.
    pub fn open(bench: Bench) -> std::io::Result<(Desk, Vec<JoinHandle<()>>)> {
        let (sender, receiver) = mpsc::channel();
        let count = if bench.store.is_cluster() { AT_ONCE } else { 1 };
        let (bench, receiver) = (Arc::new(bench), Arc::new(Mutex::new(receiver)));
        let threads = (0..count).map(|_| {
            let (bench, receiver) = (bench.clone(), receiver.clone());
            std::thread::Builder::new().name("store".to_owned()).spawn(move || {
                let mut worker = Worker { bench, kept: None };
                while let Some(work) = next(&receiver) {
                    worker.serve(work);
                }
            })
        });
        Ok((Desk(sender), threads.collect::<Result<_, _>>()?))
    }

    /// Answers one request within `timeout`, or fails then; a result that comes later is undone.
    pub async fn ask(&self, path: String, body: Vec<u8>, timeout: Duration) -> Answer {
        let (answer, get) = oneshot::channel();
        let came = Instant::now();
        let until = came + timeout;
        let job = Job { path, body, came, until, answer, desk: self.clone() };
        let sent = self.0.send(Work::Request(job));
        // The threads give up by themselves; a disk that hangs does not let them.
        let grace = Duration::from_secs(2);
        match (sent, tokio::time::timeout(timeout + grace, get).await) {
            (Ok(()), Ok(Ok(answer))) => answer,
            _ => self.failed(503, "the lease store does not answer; try again"),
        }
    }

    /// An answer that nothing is owed for.
    pub fn failed(&self, status: u16, text: &str) -> Answer {
        self.reply(Reply::failed(status, text, ""))
    }

    fn reply(&self, reply: Reply) -> Answer {
        let owed = Owed { undo: reply.undo, desk: self.clone() };
        Answer { status: reply.status, body: reply.body, owed }
    }
}

/// Counts a request. All that are no methods of the protocol count as one, `unknown`.
fn count(command: &str, reply: &Reply, took: Duration) {
    let known = COMMANDS.iter().find(|known| **known == command).unwrap_or(&"unknown");
    let outcome = reply.entry.facts.iter().find(|(name, _)| *name == "outcome");
    let outcome = match outcome.map(|(_, outcome)| outcome.as_str()) {
        Some("ok") => "ok",
        Some("refused") => "refused",
        _ => "error",
    };
    counters::request(("docker", known, outcome), took);
    if reply.status >= 500 {
        counters::failure();
    }
}

/// The next piece of work; `None` when there will be none.
fn next(receiver: &Mutex<mpsc::Receiver<Work>>) -> Option<Work> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// One of the threads.
struct Worker {
    bench: Arc<Bench>,
    /// A cluster's connections, from request to request.
    kept: Option<Box<dyn Store>>,
}

impl Worker {
    fn context(&self) -> Context {
        Context { now: host::now(), seed: host::chance(), ..self.bench.cx.clone() }
    }

    fn open(&self, until: Instant) -> Result<Box<dyn Store>, StoreError> {
        let mut spec = self.bench.store.clone();
        if let StoreSpec::Embedded { wait, .. } = &mut spec {
            let left = until.saturating_duration_since(Instant::now());
            *wait = if left.is_zero() { Wait::Try } else { Wait::For(left) };
        }
        store::open(&spec)
    }

    fn serve(&mut self, work: Work) {
        match work {
            Work::Request(job) => self.request(job),
            Work::Undo(undo) => self.undo(&undo),
        }
    }

    fn request(&mut self, job: Job) {
        let Job { path, body, came, until, answer, desk } = job;
        if answer.is_closed() {
            return;
        }
        let reply = if Instant::now() >= until {
            Reply::failed(503, "the lease store is busy: too many requests wait; try again", "")
        } else {
            self.carry_out(&path, &body, until)
        };
        let command = path.rsplit(['.', '/']).next().unwrap_or_default();
        let mut entry = Entry::new(reply.entry.level, reply.entry.text.as_str())
            .with("face", "docker")
            .with("command", command);
        entry.facts.extend(reply.entry.facts.iter().cloned());
        entry.took = Some(came.elapsed());
        self.bench.log.write(&entry);
        count(command, &reply, came.elapsed());
        // If nobody waits any more the answer is dropped here, and what it owes comes back as work.
        drop(answer.send(desk.reply(reply)));
    }

    fn carry_out(&mut self, path: &str, body: &[u8], until: Instant) -> Reply {
        let kept = self.kept.take();
        let work = AssertUnwindSafe(|| {
            let mut store = kept.map_or_else(|| self.open(until), Ok)?;
            let reply = api::handle(&self.bench.driver, &mut *store, &self.context(), path, body);
            Ok((reply, store))
        });
        match catch_unwind(work) {
            Ok(Ok((reply, store))) => {
                // After a failure everything is read anew, a certificate that was renewed too.
                self.kept =
                    Some(store).filter(|_| self.bench.store.is_cluster() && reply.status < 500);
                reply
            }
            Ok(Err(error)) => {
                let error: StoreError = error;
                Reply::failed(500, &error.to_string(), "")
            }
            Err(payload) => Reply::failed(500, &panic::explain(&*payload).msg, ""),
        }
    }

    fn undo(&self, undo: &Undo) {
        let what = match undo {
            Undo::Address(pool, lease) => format!("{} of pool {pool}", lease.addr),
            Undo::Pool(pool) => format!("pool {pool}"),
        };
        let until = Instant::now() + self.bench.timeout;
        let done = self.open(until).map_err(|e| e.to_string()).and_then(|mut store| {
            api::undo(&mut *store, &self.context(), undo).map_err(|e| e.to_string())
        });
        let (level, text) = match done {
            Ok(()) => (Level::Warn, format!("nobody took the answer: {what} is free again")),
            Err(e) => (
                Level::Error,
                format!(
                    "nobody took the answer, and {what} stays leased: {e}; run `subletd cleanup`"
                ),
            ),
        };
        self.bench
            .log
            .write(&Entry::new(level, text).with("face", "docker").with("command", "undo"));
    }
}
