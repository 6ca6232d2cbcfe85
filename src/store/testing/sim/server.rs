//! A simulated compare-and-set server that enforces the limits of etcd or Consul, and the network between the
//! server and its clients.
//!
//! Each call is one step of the process that makes it. A transaction may be lost, may be applied without a
//! response, or may still be in transit when its client has ended. A transaction in transit arrives later,
//! once or twice, between the calls of other clients. The server reports a transaction as not sent only if
//! the transaction can never arrive.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::records::Records;
use super::cluster::Events;
use super::process::{Process, Stop};
use super::random::Random;
use super::run_folder::RunFolder;
use crate::error::StoreError;
use crate::store::cluster::server::{
    Commit, Conflict, Entries, Entry, Expect, KeyRange, Operation, Server, Write,
};

/// A function that writes a line to the trace of the run.
pub type Note = Rc<dyn Fn(String)>;

/// The operations of a transaction that was sent.
type Sent = Vec<Operation>;

/// A transaction that has not arrived yet, with the process that sent it.
#[derive(Debug)]
struct InTransit {
    sent: Sent,
    sender: Arc<Process>,
}

/// The state of the server and the network.
#[derive(Debug)]
struct State {
    records: Records,
    is_etcd: bool,
    random: Random,
    /// The transactions that have not arrived yet.
    in_transit: Vec<InTransit>,
    /// The number of calls until a new leader has been elected. Until then, every call fails, although some
    /// transactions are applied.
    election: u32,
    /// Whether the server is full. A full server can remove records, but not write any.
    is_full: bool,
    /// The number of calls that a failure affected.
    troubles: u64,
    /// The number of transactions that arrived after their clients had ended or stopped waiting.
    arrived_late: u64,
}

/// The simulated server.
#[derive(Clone, Debug)]
pub struct SimServer {
    state: Rc<RefCell<State>>,
    events: Events,
}

impl SimServer {
    pub fn new(is_etcd: bool, events: Events, random: Random) -> SimServer {
        let state = State {
            records: Records::default(),
            is_etcd,
            random,
            in_transit: Vec::new(),
            election: 0,
            is_full: false,
            troubles: 0,
            arrived_late: 0,
        };
        SimServer { state: Rc::new(RefCell::new(state)), events }
    }

    /// Returns a server with the same records, without failures and without transactions in transit.
    pub fn copied(&self) -> SimServer {
        let (records, is_etcd) = (self.state.borrow().records.clone(), self.state.borrow().is_etcd);
        let copy = SimServer::new(is_etcd, Events::NONE, Random::new(0, 0));
        copy.state.borrow_mut().records = records;
        copy
    }

    /// Returns a connection to the server, for the process in `caller`.
    pub fn of(&self, caller: &Rc<RefCell<Caller>>, note: Note) -> Connection {
        Connection { server: self.clone(), caller: caller.clone(), note }
    }

    /// Sets the random numbers that determine the behavior of the network.
    pub fn set_random(&self, random: Random) {
        self.state.borrow_mut().random = random;
    }

    /// Returns a number that changes whenever the records change.
    pub fn version(&self) -> u64 {
        self.state.borrow().records.version
    }

    /// Returns the number of calls that were affected by a failure.
    pub fn troubles(&self) -> u64 {
        self.state.borrow().troubles
    }

    pub fn arrived_late(&self) -> u64 {
        self.state.borrow().arrived_late
    }

    /// Returns whether a transaction is still in transit.
    pub fn is_in_transit(&self) -> bool {
        !self.state.borrow().in_transit.is_empty()
    }

    pub fn elect(&self, calls: u32) {
        self.state.borrow_mut().election = calls;
    }

    /// Fills the server up, or makes space again. Returns whether the server is full now.
    pub fn toggle_full(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        state.is_full = !state.is_full;
        state.is_full
    }

    /// Lets some of the transactions in transit arrive, and loses others. Returns lines for the trace of the
    /// run.
    pub fn arrive(&self, random: &mut Random) -> Vec<String> {
        let mut notes = Vec::new();
        while !self.state.borrow().in_transit.is_empty() && random.one_in(6) {
            notes.extend(self.state.borrow_mut().arrive(self.events, random));
        }
        notes
    }
}

impl State {
    /// Lets a random transaction in transit arrive, or loses it. Returns a line for the trace if the
    /// transaction was applied.
    fn arrive(&mut self, events: Events, random: &mut Random) -> Option<String> {
        let at = random.below(self.in_transit.len());
        let InTransit { sent, sender } = self.in_transit.swap_remove(at);
        let is_lost = random.one_in(4) || (sender.is_dead() && !events.late_of_killed);
        if is_lost || (self.is_full && writes(&sent)) {
            return None;
        }
        if !self.records.all_hold(&sent) {
            return None;
        }
        self.records.apply(&sent);
        self.arrived_late += 1;
        Some(format!("late: {}", text(&sent)))
    }

    fn trouble(&mut self, why: &str) -> StoreError {
        self.troubles += 1;
        StoreError::unavailable("ask", "the server", why.to_owned())
    }

    fn unknown(&mut self) -> Commit {
        self.troubles += 1;
        Commit::Unknown(StoreError::Unanswered {
            doing: "commit to".to_owned(),
            place: "the server".to_owned(),
            source: "no answer".into(),
        })
    }

    /// Counts one call of an election. Returns whether the call fails because the cluster has no leader yet.
    fn is_electing(&mut self) -> bool {
        let is_electing = self.election > 0;
        self.election = self.election.saturating_sub(1);
        is_electing
    }
}

/// Returns whether the transaction writes a record. A transaction that only removes records does not.
fn writes(sent: &[Operation]) -> bool {
    sent.iter().any(|operation| matches!(operation.write, Write::Put(_)))
}

/// Describes a transaction for the trace, without its history records. `+` means that a record is written,
/// `-` that a record is removed, and `=` that a record is only compared. `@` precedes the expected version of
/// the record, and `@0` means that the record must not exist.
fn text(operations: &[Operation]) -> String {
    let word = |operation: &Operation| {
        let sign = match operation.write {
            Write::Keep => '=',
            Write::Put(_) => '+',
            Write::Delete => '-',
        };
        let path = &operation.path;
        match operation.expect {
            Expect::Absent => format!("{sign}{path}@0"),
            Expect::Version(version) => format!("{sign}{path}@{version}"),
            Expect::Anything | Expect::Present => format!("{sign}{path}"),
        }
    };
    // Leave out history, because the names of its records contain nonces, which differ from run to run.
    let is_lease = |operation: &&Operation| {
        !["past/", "mark/"].iter().any(|kind| operation.path.starts_with(kind))
    };
    operations.iter().filter(is_lease).map(word).collect::<Vec<_>>().join(" ")
}

/// The process that uses a connection. A daemon keeps its connection, but each of its requests is a new
/// process.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The process of one command, or of one request of a daemon. The process may be killed at each call.
    pub process: Arc<Process>,
    pub run: Rc<RunFolder>,
    /// Whether the network is down, so that neither requests nor responses arrive.
    pub is_cut_off: bool,
}

/// A connection of one process to the server.
pub struct Connection {
    server: SimServer,
    caller: Rc<RefCell<Caller>>,
    note: Note,
}

impl Connection {
    /// Makes one call that only reads.
    fn read<T>(&self, read: impl FnOnce(&Records) -> T) -> Result<T, StoreError> {
        let caller = self.caller.borrow().clone();
        let done = caller.process.step(|| {
            let state = &mut *self.server.state.borrow_mut();
            let events = self.server.events;
            if caller.is_cut_off || state.is_electing() {
                return Err(state.trouble("no leader is reached"));
            }
            // etcd reports this error if it has compacted the revision of a listing.
            if events.failing_reads && state.random.one_in(200) {
                return Err(state.trouble("compacted"));
            }
            Ok(read(&state.records))
        });
        done.unwrap_or_else(|stop| Err(self.stopped(stop)))
    }

    fn in_transit(&self, operations: &[Operation]) -> InTransit {
        InTransit { sent: operations.to_vec(), sender: self.caller.borrow().process.clone() }
    }

    fn stopped(&self, stop: Stop) -> StoreError {
        let why = match stop {
            Stop::Killed => {
                self.caller.borrow().run.killed();
                "the process was killed"
            }
            Stop::Fails(_) => "the connection was refused",
        };
        self.server.state.borrow_mut().trouble(why)
    }

    /// Decides what happens to a transaction that the process has sent, and notes it in the trace. The
    /// network or the server may fail.
    fn receive(&self, operations: &[Operation]) -> Result<Commit, StoreError> {
        let done = self.decide(operations);
        (self.note)(match &done {
            Ok(Commit::Done(_)) => format!("commit: {}", text(operations)),
            Ok(Commit::Conflict(_)) => format!("conflict: {}", text(operations)),
            Ok(Commit::Full(_)) => format!("full: {}", text(operations)),
            Ok(Commit::Unknown(_)) => format!("no answer: {}", text(operations)),
            Err(error) => format!("not sent: {error}"),
        });
        done
    }

    fn decide(&self, operations: &[Operation]) -> Result<Commit, StoreError> {
        let state = &mut *self.server.state.borrow_mut();
        let events = self.server.events;
        let sent = || self.in_transit(operations);
        let is_cut_off = self.caller.borrow().is_cut_off;
        if is_cut_off || state.is_electing() {
            if state.random.one_in(2) {
                return Err(state.trouble("the connection was refused"));
            }
            match state.random.below(3) {
                0 if events.late_of_unanswered => state.in_transit.push(sent()),
                // The old leader may have replicated the transaction before a new leader was elected.
                1 if !is_cut_off && state.records.all_hold(operations) => {
                    state.records.apply(operations);
                }
                _ => {}
            }
            return Ok(state.unknown());
        }
        if state.is_full && writes(operations) {
            return Ok(Commit::Full(state.trouble("no space")));
        }
        let luck = state.random.below(40);
        match luck {
            0 if events.lost_requests => return Ok(state.unknown()),
            1 if events.late_of_unanswered => {
                state.in_transit.push(sent());
                return Ok(state.unknown());
            }
            3 if events.answered_duplicates => state.in_transit.push(sent()),
            _ => {}
        }
        if !state.records.all_hold(operations) {
            let conflict: Conflict = state.records.conflict(operations, state.is_etcd);
            return Ok(Commit::Conflict(conflict));
        }
        state.records.apply(operations);
        if luck == 2 && events.duplicates {
            state.in_transit.push(sent());
            return Ok(state.unknown());
        }
        if luck == 4 && events.lost_answers {
            return Ok(state.unknown());
        }
        Ok(Commit::Done(state.records.version))
    }
}

impl Server for Connection {
    fn place(&self) -> String {
        "the server".to_owned()
    }

    /// Simulates a wait without taking time. Transactions in transit may arrive, but suspended processes do
    /// not continue.
    fn pause(&self, _: Duration, _: Instant) {
        let mut random = self.server.state.borrow().random.clone();
        self.server.arrive(&mut random).into_iter().for_each(|note| (self.note)(note));
        self.server.state.borrow_mut().random = random;
    }

    fn max_operations(&self) -> usize {
        if self.server.state.borrow().is_etcd { 128 } else { 64 }
    }

    fn get(&self, paths: &[&str], _: Instant) -> Result<Entries, StoreError> {
        assert!(paths.len() <= self.max_operations());
        self.read(|records| records.get(paths))
    }

    fn list(&self, prefix: &str, _: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        self.read(|records| records.list(prefix))
    }

    fn count(&self, folder: &str, ranges: &[KeyRange], _: Instant) -> Result<Vec<u64>, StoreError> {
        self.read(|records| records.count(folder, ranges))
    }

    fn commit(&self, operations: &[Operation], _: Instant) -> Result<Commit, StoreError> {
        let count = operations.len();
        assert!(count <= self.max_operations(), "{count} operations");
        let process = self.caller.borrow().process.clone();
        let may_arrive = Cell::new(!process.is_dead() && self.server.events.late_of_killed);
        let done = process.step(|| {
            may_arrive.set(false);
            self.receive(operations)
        });
        if matches!(done, Err(Stop::Killed)) && may_arrive.get() {
            let state = &mut *self.server.state.borrow_mut();
            // The process was killed while it was waiting for the response, so its transaction may still
            // arrive.
            if state.random.one_in(2) {
                state.in_transit.push(self.in_transit(operations));
            }
        }
        done.unwrap_or_else(|stop| Err(self.stopped(stop)))
    }
}
