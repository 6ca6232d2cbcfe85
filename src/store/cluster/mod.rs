//! A store on a compare-and-set server: etcd, Consul, or the fake of the tests.
//!
//! A command runs on assumptions. The server compares them when the plan is committed, and if one is wrong, the
//! command runs again with what was learned. How a commit ends is decided in [`mod@commit`], how a server is asked
//! by [`Server`], and which address is leased by `alloc`.
//! Invariant: the server has compared every outcome that changes something, and no other outcome relies on an
//! assumption. Attempts and time are bounded.

pub mod answers;
pub mod backoff;
pub mod cache;
pub mod check;
pub mod commit;
pub mod consul;
pub mod etcd;
pub mod history;
pub mod http;
pub mod keys;
pub mod node;
pub mod records;
pub mod search;
pub mod segments;
pub mod server;
pub mod transaction;
pub mod view;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use cache::LocalCache;
use commit::{Candidate, candidates, commit};
use records::Decode;
pub use server::Server;
use server::{Entries, Expect};
use view::{ClusterView, NameClaim, Owners, Search};

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

/// Attempts of a command: it fails after so many lost races.
const ATTEMPTS: u32 = 64;

/// A store on a compare-and-set server.
pub struct ClusterStore<S> {
    server: S,
    timeout: Duration,
    persist: Persist,
    cache: LocalCache,
    /// What a GC listed, for its next steps. It may be out of date, because commits compare.
    listing: Option<(Owners, Entries)>,
    /// Network definitions that were read for the next command.
    networks: Entries,
    /// A transaction was sent that may still be applied although no process waits for it.
    in_flight: Cell<bool>,
    history: History,
    /// The number of history records that this store has written.
    serial: Cell<u64>,
}

impl<S: Server> ClusterStore<S> {
    /// A store on `server`, with `timeout` for each command.
    pub fn new(
        server: S,
        timeout: Duration,
        persist: Persist,
        cache: LocalCache,
    ) -> ClusterStore<S> {
        ClusterStore {
            server,
            timeout,
            persist,
            cache,
            listing: None,
            networks: Entries::new(),
            in_flight: Cell::new(false),
            history: History::Standing,
            serial: Cell::new(0),
        }
    }

    /// The same store with another history setting.
    #[must_use]
    pub fn keeping(self, history: History) -> ClusterStore<S> {
        ClusterStore { history, ..self }
    }

    /// The view of a command that knows only `known`.
    fn view<'a>(&'a self, cx: &'a Context, known: Entries, until: Instant) -> ClusterView<'a> {
        ClusterView {
            server: &self.server,
            cache: &self.cache,
            cx,
            until,
            known: RefCell::new(known),
            assumed: RefCell::default(),
            import_mark: Some(Expect::Absent),
            listed: RefCell::default(),
            present: RefCell::default(),
            owners: RefCell::default(),
            claim: NameClaim::NotNeeded,
            nodes: RefCell::default(),
            in_flight: &self.in_flight,
            is_clean: false,
            history: self.history,
            serial: &self.serial,
            segment: OnceCell::new(),
            search: Search::default(),
            hypothetical: RefCell::default(),
        }
    }

    /// Makes transactions of this node fail that may still be in flight. A server that was stopped may apply
    /// a transaction long after its client has ended. It would make a lease for a deleted container, or free
    /// a lease that was reported to its container. So this happens before the next change of this node.
    fn fence_in_flight(&self, cx: &Context, until: Instant) -> Result<(), StoreError> {
        let mark = self.cache.in_flight(cx);
        if mark.is_none() && !self.in_flight.get() {
            return Ok(());
        }
        if let Err(error) = node::fence(&self.view(cx, Entries::new(), until)) {
            if mark.is_none() {
                // If the cache cannot be written, only this store object remembers it.
                let _ = self.cache.mark_in_flight(cx);
            }
            return Err(error);
        }
        self.in_flight.set(false);
        if let Some(mark) = mark {
            self.cache.clear_in_flight(cx, &mark);
        }
        Ok(())
    }

    fn run(&mut self, command: &Command, cx: &Context, until: Instant) -> Result<Outcome, Error> {
        let is_first = is_first_step(command);
        let (owners, mut entries) = match self.listing.take().filter(|_| !is_first) {
            Some((owners, entries)) => (Some(owners), entries),
            None => (None, Entries::new()),
        };
        entries.append(&mut self.networks);
        let (path, set) = (keys::node(&cx.node.name), command.set());
        let leases = node::needs_name(command);
        let checks_name = leases || matches!(command, Command::Status(_));
        // A DEL compares the node's record if that costs no read, so that the DEL can be fenced later.
        let uses_cache = checks_name || matches!(command, Command::Del(_));
        let cached = if uses_cache { self.cache.node_entry(set, cx) } else { None };
        entries.extend(cached.clone().map(|entry| (path.clone(), Some(entry))));
        let view = ClusterView {
            owners: RefCell::new(owners),
            import_mark: import_mark(command),
            claim: match &cached {
                _ if !leases => NameClaim::NotNeeded,
                Some(_) => NameClaim::Cached,
                None => NameClaim::Needed,
            },
            is_clean: cached.is_some(),
            ..self.view(cx, entries, until)
        };
        if checks_name
            && !leases
            && cached.is_none()
            && let Some((_, record)) = node::fetch(&view)?
        {
            node::check_owner(&view, &record)?;
        }
        // A durable lease has no boot.
        let boot = cx.boot.clone().filter(|_| self.persist == Persist::Boot);
        let lease_cx = Context { boot, ..cx.clone() };
        let mut lost_races = 0;
        for _ in 0..ATTEMPTS {
            view.search.begin();
            let plan = alloc::run(command, &view, &lease_cx)?;
            let counted = alloc::counted(command, &plan, cx, true);
            let ranges = plan.changes.iter().find_map(|change| match change {
                Change::PutRanges(ranges) => Some(ranges.clone()),
                _ => None,
            });
            let outcome = if plan.changes.is_empty() {
                if !verify(&view, &plan)? || is_refused_for_holders(&plan) && view.fetch_nodes()? {
                    continue;
                }
                plan.outcome
            } else {
                let mut candidates = candidates(command, plan, &view, &lease_cx)?;
                let Some(applied) = commit(&candidates, &view)? else {
                    lost_races += 1;
                    backoff::after_lost_races(lost_races, cx.seed, view.until);
                    continue;
                };
                candidates.swap_remove(applied).outcome
            };
            if let Some(ranges) = ranges {
                self.cache.set_ranges(&ranges, cx);
            }
            if let Some(counted) = counted.filter(|_| is_first) {
                self.cache.count(&counted, cx);
            }
            let ClusterView { owners, known, .. } = view;
            let known = known.into_inner();
            let record = known.get(&path).cloned();
            let is_clean = cached.is_some() && record.as_ref() == Some(&cached);
            self.listing = owners.into_inner().map(|owners| (owners, known));
            // A GC takes many steps, and frees these leases itself.
            let is_gc = matches!(command, Command::Gc(_) | Command::Sweep(_));
            if leases && !is_gc && !is_clean && outcome.is_ok() {
                // The command itself is done. If this fails, the next command repeats it.
                let known = record.map(|entry| (path, entry)).into_iter().collect();
                let _ = self.erase_earlier_boots(set, cx, known, until);
            }
            return outcome.map_err(Error::Refused);
        }
        let why = format!("{ATTEMPTS} tries were lost");
        let doing = "win against the other clients of";
        Err(StoreError::unavailable(doing, self.server.place(), why).into())
    }

    /// Removes the leases of this machine's earlier boots from a set, and caches that this is done. If it
    /// loses a race, another client is doing the same.
    fn erase_earlier_boots(
        &self,
        set: Option<&SetName>,
        cx: &Context,
        known: Entries,
        until: Instant,
    ) -> Result<(), Error> {
        let view = ClusterView { claim: NameClaim::Needed, ..self.view(cx, known, until) };
        let Some((entry, record)) = node::fetch(&view)? else { return Ok(()) };
        if !cache::is_ours(&record, cx) {
            return Ok(());
        }
        if let Some(set) = set {
            let mut evict = Evict { set: set.clone(), only_ended: true, after: None };
            loop {
                let command = Command::Evict(evict.clone());
                let plan = alloc::run(&command, &view, cx)?;
                let is_done = plan.changes.is_empty();
                let candidate = [Candidate::new(plan, &command, &view)?];
                if !is_done && commit(&candidate, &view)?.is_none() {
                    return Ok(());
                }
                let [candidate] = candidate;
                match candidate.outcome {
                    Ok(Outcome::Collected(Collected { after, done: false, .. })) => {
                        evict.after = after;
                    }
                    _ => break,
                }
            }
        }
        view.find_earlier_history()?;
        // If this fails, the next command looks again.
        let _ = self.cache.write_node_entry(set, cx, &entry);
        Ok(())
    }
}

/// Whether a command is a request of its own, and not a further step of a GC.
fn is_first_step(command: &Command) -> bool {
    match command {
        Command::Gc(gc) => gc.after.is_none(),
        Command::Evict(evict) => evict.after.is_none(),
        _ => true,
    }
}

/// How a command treats the mark that another program's leases were imported. An ADD and a DEL with that
/// program's configuration assume it. Any other DEL finds leases that were imported elsewhere and copied here.
fn import_mark(command: &Command) -> Option<Expect> {
    match command {
        Command::Add(Add { legacy: Legacy::Absent, .. }) => None,
        Command::Add(_) | Command::Del(Del { legacy: Some(_), .. }) => Some(Expect::Present),
        _ => Some(Expect::Absent),
    }
}

/// Whether a command is refused because of leases of others, whose boots may have ended.
fn is_refused_for_holders(plan: &Plan) -> bool {
    use crate::error::Refusal::{Exhausted, GatewayHeld, Held};
    matches!(&plan.outcome, Err(Exhausted { .. } | Held { .. } | GatewayHeld { .. }))
}

/// Reads what an outcome without changes assumed or counted, because no comparison verifies it. Returns whether
/// the outcome stands.
fn verify(view: &ClusterView<'_>, plan: &Plan) -> Result<bool, StoreError> {
    let assumed: Vec<String> = view.assumed.borrow().keys().cloned().collect();
    if assumed.is_empty() {
        return if plan.outcome.is_err() { view.confirm_full() } else { Ok(true) };
    }
    view.fetch(&assumed)?;
    if assumed.iter().any(|path| view.known_entry(path).is_some()) {
        view.search.list_chunks.set(true);
    }
    Ok(false)
}

impl<S: Server> ClusterStore<S> {
    /// All records of a kind.
    fn list_records<T>(&self, kind: &str, decode: Decode<T>) -> Result<Vec<T>, StoreError> {
        records::list(&self.server, kind, Instant::now() + self.timeout, decode)
    }

    /// The holders of all addresses. Leases that have ended with their boot are omitted.
    fn holders(&mut self, cx: &Context) -> Result<BTreeMap<(SetName, Addr), Holder>, StoreError> {
        let found = self.list_records(keys::ADDRESS, records::address)?;
        // The nodes are read after the leases, so no lease is of a boot that is not known.
        let nodes = self.nodes()?;
        let has_ended = |holder: &Holder| match holder {
            Holder::Leased(lease) => {
                view::has_ended(lease, cx, nodes.iter().find(|record| record.node == lease.node))
            }
            _ => false,
        };
        Ok(found.into_iter().filter(|(_, holder)| !has_ended(holder)).collect())
    }
}

impl<S: Server> Store for ClusterStore<S> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        // In a cluster, durable leases have no boot.
        let durable = match command {
            Command::Restore(restore) if restore.persist == Persist::Disk => {
                Some(Command::Restore(records::without_boots(restore)))
            }
            _ => None,
        };
        let command = durable.as_ref().unwrap_or(command);
        let until = Instant::now() + self.timeout;
        if !command.only_looks() {
            self.fence_in_flight(cx, until)?;
        }
        let done = self.run(command, cx, until);
        if matches!(done, Err(Error::Store(_)))
            && let (Some(verb), Some(set)) = (alloc::verb(command), command.set())
        {
            self.cache.count(&(set.clone(), cx.face, verb, Ending::Failed), cx);
        }
        // Marks of other processes are for the next command.
        let left_in_flight = self.in_flight.get();
        let fenced = if left_in_flight { self.fence_in_flight(cx, until) } else { Ok(()) };
        match (fenced, done) {
            // The command itself was applied.
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
        self.list_records(keys::RANGES, records::ranges)
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
        Ok(self.cache.counters(cx))
    }

    fn pools(&mut self) -> Result<Vec<Pool>, StoreError> {
        let mut pools: Vec<Pool> = self.list_records(keys::POOL, records::plain)?;
        pools.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(pools)
    }

    fn records(&mut self, _: &Context, each: &mut EachRecord<'_>) -> Result<(), Error> {
        records::export(&self.server, self.timeout, each)
    }
}

impl<S: Server> Cluster for ClusterStore<S> {
    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError> {
        self.list_records(keys::NODE, records::node)
    }

    fn forget(&mut self, record: &NodeRecord, cx: &Context) -> Result<bool, StoreError> {
        let cx = Context { node: record.node.clone(), ..cx.clone() };
        let until = Instant::now() + self.timeout;
        let is_forgotten = node::forget(&self.view(&cx, Entries::new(), until), record)?;
        if is_forgotten {
            // If this fails, the next call repeats it.
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
