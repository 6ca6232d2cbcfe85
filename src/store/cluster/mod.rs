//! A store on a compare-and-set server: etcd, Consul, or the fake of the tests.
//!
//! Owns: the way from a command to a commit: guess, compare, try again with what was learned; what a
//! boot does once. Does not own: what becomes of a commit (`commit`), how a server is asked
//! ([`Server`]), which address (`alloc`).
//! Invariant: an outcome that changes something was compared by the server; any other rests on
//! nothing assumed. Tries and time are bounded. No lease outlives its pool.

pub mod backoff;
pub mod cache;
pub mod check;
pub mod commit;
pub mod consul;
pub mod etcd;
pub mod history;
pub mod http;
pub mod keys;
pub mod login;
pub mod node;
pub mod records;
pub mod search;
pub mod server;
pub mod transaction;
pub mod view;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use cache::LocalCache;
use commit::{Candidate, candidates, commit};
use node::NameClaim;
pub use server::{Commit, Conflict, Entries, Entry, Expect, KeyRange, Operation, Server, Write};
use view::{ClusterView, Old, Owners};

use self::backoff::step_aside;
use super::{
    Cluster, EachOccupied, EachRecord, EventFilter, OldKey, Problem, Repair, Store, StoreReader,
};
use crate::alloc;
use crate::alloc::{
    Add, Change, Collected, Command, Context, Del, Evict, Holder, Legacy, NetworkRanges, Outcome,
    Plan, View,
};
use crate::error::{Error, StoreError};
use crate::model::{
    Counter, Ending, Event, History, Lease, NetworkDefinition, NetworkName, NodeRecord, Persist,
    Pool, SetName,
};
use crate::net::Addr;

/// How often a command is tried: others can win that many times in a row before it gives up.
const TRIES: u32 = 64;

/// A store on such a server.
pub struct ClusterStore<S> {
    server: S,
    timeout: Duration,
    persist: Persist,
    notes: LocalCache,
    /// What a GC listed, for its further steps. It may be out of date: the commits compare.
    listing: Option<(Owners, Entries)>,
    /// Definitions that were looked at, for the command that rests on one.
    networks: Entries,
    /// A transaction was sent and may happen yet, though nobody waits for it any more.
    in_flight: Cell<bool>,
    /// How much of what happens is written down, and how many records of it this store has written.
    history: History,
    written: Cell<u64>,
}

impl<S: Server> ClusterStore<S> {
    /// A store on `engine`, which is given `timeout` for each command. It notes nothing.
    pub fn new(server: S, timeout: Duration) -> ClusterStore<S> {
        let notes = LocalCache::new(None, String::new());
        let (persist, networks) = (Persist::Boot, Entries::new());
        ClusterStore {
            server,
            timeout,
            persist,
            notes,
            listing: None,
            networks,
            in_flight: Cell::new(false),
            history: History::Standing,
            written: Cell::new(0),
        }
    }

    /// The same, with as much history.
    #[must_use]
    pub fn keeping(self, history: History) -> ClusterStore<S> {
        ClusterStore { history, ..self }
    }

    /// The same, with leases that live so long, and with notes.
    pub fn with(self, persist: Persist, notes: LocalCache) -> ClusterStore<S> {
        ClusterStore { persist, notes, ..self }
    }

    /// Nothing but what is told.
    fn view<'a>(&'a self, cx: &'a Context, known: Entries, until: Instant) -> ClusterView<'a> {
        ClusterView {
            in_flight: Some(&self.in_flight),
            history: Some(history::HistoryWriter::new(
                &self.notes,
                cx,
                self.history,
                &self.written,
            )),
            ..ClusterView::new(&self.server, cx, until, known)
        }
    }

    /// A server that was stopped with a transaction in hand may carry it out long after its client
    /// has gone: a lease for a container that is deleted by then, or the end of one that has been told
    /// to be there. So before the next thing is done for this node, whatever may be under way is made to
    /// fail.
    fn fence_in_flight(&self, cx: &Context, until: Instant) -> Result<(), StoreError> {
        let noted = self.notes.in_flight(cx);
        if noted.is_none() && !self.in_flight.get() {
            return Ok(());
        }
        if let Err(error) = node::fence(&self.view(cx, Entries::new(), until)) {
            if noted.is_none() {
                // Where nothing can be noted this very store remembers it, if it goes on.
                let _ = self.notes.mark_in_flight(cx);
            }
            return Err(error);
        }
        self.in_flight.set(false);
        if let Some(noted) = noted {
            self.notes.clear_in_flight(cx, &noted);
        }
        Ok(())
    }

    /// The same before this command's own end is told, if it has left something under way itself: what
    /// others have noted meanwhile is for the next one.
    fn fence_own(&self, cx: &Context, until: Instant) -> Result<(), StoreError> {
        if self.in_flight.get() { self.fence_in_flight(cx, until) } else { Ok(()) }
    }

    fn run(&mut self, command: &Command, cx: &Context, until: Instant) -> Result<Outcome, Error> {
        let (owners, mut entries) = match (command, self.listing.take()) {
            (Command::Gc(gc), Some((owners, entries))) if gc.after.is_some() => {
                (Some(owners), entries)
            }
            (Command::Evict(evict), Some((owners, entries))) if evict.after.is_some() => {
                (Some(owners), entries)
            }
            _ => (None, Entries::new()),
        };
        entries.append(&mut self.networks);
        let (path, set) = (keys::node(&cx.node.name), command.set());
        let leases = node::needs_name(command);
        let asks = leases || matches!(command, Command::Status(_));
        // A DEL compares it as well, where that costs no look: so it can be made to fail later.
        let notes = asks || matches!(command, Command::Del(_));
        let mark = if notes { self.notes.node_entry(set, cx) } else { None };
        entries.extend(mark.clone().map(|entry| (path.clone(), Some(entry))));
        let claim = match &mark {
            _ if !leases => NameClaim::NotNeeded,
            Some(_) => NameClaim::Cached,
            None => NameClaim::Needed,
        };
        let has_ranges = |ranges: &NetworkRanges| self.notes.has_ranges(ranges, cx);
        let view = ClusterView {
            owners: RefCell::new(owners),
            has_ranges: Some(&has_ranges),
            old: old(command),
            claim,
            settled: mark.is_some(),
            ..self.view(cx, entries, until)
        };
        if asks
            && !leases
            && mark.is_none()
            && let Some((_, record)) = node::fetch(&view)?
        {
            node::check(&view, &record)?;
        }
        // A lease that outlives its boot does not say which that was.
        let boot = cx.boot.clone().filter(|_| self.persist == Persist::Boot);
        let told = Context { boot, ..cx.clone() };
        let mut lost = 0;
        for _ in 0..TRIES {
            view.search.begin();
            let plan = alloc::run(command, &view, &told)?;
            let counted = alloc::counted(command, &plan, cx, true);
            let ranges = plan.changes.iter().find_map(ranges).cloned();
            let outcome = if plan.changes.is_empty() {
                if !verify(&view, &plan)? || is_refused_for_holders(&plan) && view.fetch_nodes()? {
                    continue;
                }
                plan.outcome
            } else {
                let mut tries = candidates(command, plan, &view, &told)?;
                let Some(done) = commit(&tries, &view)? else {
                    lost += 1;
                    step_aside(lost, cx.seed, view.until);
                    continue;
                };
                tries.swap_remove(done).outcome
            };
            if let Some(ranges) = ranges {
                self.notes.note_ranges(&ranges, cx);
            }
            if let Some(counted) = counted.filter(|_| is_first_step(command)) {
                self.notes.count(&counted, cx);
            }
            let ClusterView { owners, known, .. } = view;
            let known = known.into_inner();
            let record = known.get(&path).cloned();
            let settled = mark.is_some() && record.as_ref() == Some(&mark);
            self.listing = owners.into_inner().map(|owners| (owners, known));
            // A GC takes many steps, and frees the same.
            let gc = matches!(command, Command::Gc(_) | Command::Sweep(_));
            if leases && !gc && !settled && outcome.is_ok() {
                // What the command asked for is done; this is done again by the next one.
                let known = record.map(|entry| (path, entry)).into_iter().collect();
                let _ = self.erase_earlier_boots(set, cx, known, until);
            }
            return outcome.map_err(Error::Refused);
        }
        let why = format!("{TRIES} tries were lost");
        let doing = "win against the other clients of";
        Err(StoreError::unavailable(doing, self.server.place(), why).into())
    }

    /// Erases what this machine's earlier boots left of a set, and notes that this is done. Whoever
    /// loses against another client leaves it to that one.
    fn erase_earlier_boots(
        &self,
        set: Option<&SetName>,
        cx: &Context,
        known: Entries,
        until: Instant,
    ) -> Result<(), Error> {
        let view = ClusterView { claim: NameClaim::Needed, ..self.view(cx, known, until) };
        let Some((entry, record)) = node::fetch(&view)? else { return Ok(()) };
        if !node::is_ours(&record, cx) {
            return Ok(());
        }
        if let Some(set) = set {
            let mut evict = Evict { set: set.clone(), only_ended: true, after: None };
            loop {
                let command = Command::Evict(evict.clone());
                let plan = alloc::run(&command, &view, cx)?;
                let is_done = plan.changes.is_empty();
                let operation = Candidate::new(plan, &command, &view)?;
                let operations = std::slice::from_ref(&operation);
                if !is_done && commit(operations, &view)?.is_none() {
                    return Ok(());
                }
                match operation.outcome {
                    Ok(Outcome::Collected(Collected { after, done: false, .. })) => {
                        evict.after = after;
                    }
                    _ => break,
                }
            }
        }
        history::find_earlier(&self.server, &self.notes, cx, until)?;
        // Without a note the next call looks again.
        let _ = self.notes.write_node_entry(set, cx, &entry);
        Ok(())
    }

    /// A request that the servers did not carry out, for all that is known.
    fn count_failure(&self, command: &Command, cx: &Context) {
        if let (Some(verb), Some(set)) = (alloc::verb(command), command.set()) {
            let counted = (set.clone(), cx.face, verb, Ending::Failed);
            self.notes.count(&counted, cx);
        }
    }
}

fn ranges(change: &Change) -> Option<&NetworkRanges> {
    match change {
        Change::PutRanges(ranges) => Some(ranges),
        _ => None,
    }
}

/// Whether it is a request, and not a further step of one.
fn is_first_step(command: &Command) -> bool {
    match command {
        Command::Gc(gc) => gc.after.is_none(),
        Command::Evict(evict) => evict.after.is_none(),
        _ => true,
    }
}

/// What a command has to do with another program's leases: an ADD and a DEL whose configuration is
/// that program's; else a DEL finds what was taken over elsewhere and copied here.
fn old(command: &Command) -> Old {
    match command {
        Command::Add(Add { legacy: Legacy::Absent, .. }) => Old::No,
        Command::Add(_) | Command::Del(Del { legacy: Some(_), .. }) => Old::Probably,
        _ => Old::Look,
    }
}

/// Whether it is refused for what others hold: their boots may be over.
fn is_refused_for_holders(plan: &Plan) -> bool {
    use crate::error::Refusal::{Exhausted, GatewayHeld, Held};
    matches!(&plan.outcome, Err(Exhausted { .. } | Held { .. } | GatewayHeld { .. }))
}

/// Looks at what was assumed or added up, for nothing else guards a conclusion without a change; `true`
/// if it holds.
fn verify(view: &ClusterView<'_>, plan: &Plan) -> Result<bool, StoreError> {
    let mut assumed_absent: Vec<String> = view.assumed_absent.borrow().iter().cloned().collect();
    assumed_absent.extend(view.assumed_present.borrow().iter().cloned());
    if assumed_absent.is_empty() {
        return if plan.outcome.is_err() { view.confirm_full() } else { Ok(true) };
    }
    view.fetch(&assumed_absent)?;
    let known = view.known.borrow();
    if assumed_absent.iter().any(|path| known.get(path).is_some_and(Option::is_some)) {
        view.search.list_chunks.set(true);
    }
    Ok(false)
}

impl<S: Server> ClusterStore<S> {
    /// Who has which address; of what has ended with its boot, nobody.
    fn holders(&mut self, cx: &Context) -> Result<BTreeMap<(SetName, Addr), Holder>, StoreError> {
        let until = Instant::now() + self.timeout;
        let found = records::list(&self.server, keys::ADDRESSES, until, records::holder)?;
        // Read after the leases: of a boot that begins in between, none is there yet.
        let nodes = self.nodes()?;
        let ended =
            |h: &Holder| matches!(h, Holder::Leased(lease) if node::has_ended(lease, cx, &nodes));
        Ok(found.into_iter().filter(|(_, holder)| !ended(holder)).collect())
    }
}

impl<S: Server> Store for ClusterStore<S> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        // What outlives a boot does not say here which that was.
        let lasting = match command {
            Command::Restore(restore) if restore.persist == Persist::Disk => {
                Some(Command::Restore(records::without_boots(restore)))
            }
            _ => None,
        };
        let command = lasting.as_ref().unwrap_or(command);
        let until = Instant::now() + self.timeout;
        if !command.only_looks() {
            self.fence_in_flight(cx, until)?;
        }
        let done = self.run(command, cx, until);
        if let Err(Error::Store(_)) = done {
            self.count_failure(command, cx);
        }
        match (self.fence_own(cx, until), done) {
            // What it was to do it has done.
            (Err(_), Ok(outcome)) => Ok(outcome),
            (Err(error), Err(Error::Refused(_))) => Err(error.into()),
            (_, done) => done,
        }
    }

    fn repair(&mut self, _: &Context) -> Result<Repair, StoreError> {
        let why = "a cluster's records are mended one by one, as `sublet doctor` says";
        Err(StoreError::unavailable("repair", self.server.place(), why))
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(self)
    }
}

impl<S: Server> StoreReader for ClusterStore<S> {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        for holder in self.holders(cx)?.into_values() {
            if let Holder::Leased(lease) = holder {
                each(*lease);
            }
        }
        Ok(())
    }

    fn occupancy(&mut self, cx: &Context, each: &mut EachOccupied<'_>) -> Result<(), StoreError> {
        for ((set, addr), holder) in self.holders(cx)? {
            each(&set, addr, &holder);
        }
        Ok(())
    }

    fn networks(&mut self, _: &Context) -> Result<Vec<NetworkRanges>, StoreError> {
        let until = Instant::now() + self.timeout;
        records::list(&self.server, keys::RANGES, until, records::ranges)
    }

    fn history(
        &mut self,
        _: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError> {
        let mut all = history::events(&self.server, Instant::now() + self.timeout)?;
        all.retain(|event| filter(event));
        Ok(all)
    }

    fn problems(&mut self, _: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError> {
        check::check(&self.server, Instant::now() + self.timeout, each)
    }

    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>, StoreError> {
        Ok(self.notes.counters(cx))
    }

    fn pools(&mut self) -> Result<Vec<Pool>, StoreError> {
        let until = Instant::now() + self.timeout;
        let mut pools = records::list(&self.server, keys::POOLS, until, records::pool)?;
        pools.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(pools)
    }

    fn records(&mut self, _: &Context, each: &mut EachRecord<'_>) -> Result<(), Error> {
        records::export(&self.server, self.timeout, each)
    }
}

impl<S: Server> Cluster for ClusterStore<S> {
    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError> {
        node::list(&self.server, Instant::now() + self.timeout)
    }

    fn forget(&mut self, record: &NodeRecord, cx: &Context) -> Result<bool, StoreError> {
        let cx = Context { node: record.node.clone(), ..cx.clone() };
        let until = Instant::now() + self.timeout;
        let is_forgotten = node::forget(&self.view(&cx, Entries::new(), until), record)?;
        if is_forgotten {
            // Not done, the next one does it.
            let _ = history::prune(&self.server, cx.now, until);
        }
        Ok(is_forgotten)
    }

    fn definition(&mut self, name: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError> {
        let cx = Context::default();
        let until = Instant::now() + self.timeout;
        let view = self.view(&cx, Entries::new(), until);
        let record = view.definition(name)?;
        self.networks = view.known.into_inner();
        Ok(record)
    }
    fn old_keys(&mut self, network: &NetworkName) -> Result<Vec<OldKey>, StoreError> {
        self.server.old_keys(network, Instant::now() + self.timeout)
    }
}
