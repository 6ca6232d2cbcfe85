//! A store on a compare-and-set server: etcd, Consul, or the tests' fake server.
//!
//! # Records
//!
//! [`keys`] lists all keys. The decisions depend on three kinds of records:
//!
//! - `ip/<set>/<chunk>/<address>` names the holder of an address. This record is authoritative.
//! - `own/<node>/<set>/<owner>` lists all leases of an owner. A repeated ADD finds the owner's existing lease
//!   in this record, and a DEL finds the leases to free. Every transaction that writes the record of an
//!   address also writes the record of the address's owner, and vice versa. (An address of a Docker pool has
//!   no owner's record.)
//! - `node/<node>` records the machine and the boot that use a node name. Each write of this record begins a
//!   new *turn*. Every transaction of the node compares the record, so a transaction that was sent in an
//!   earlier turn fails.
//!
//! Every value begins with a *nonce*, which identifies the transaction that wrote the value. No two
//! transactions have the same nonce.
//!
//! # Order of events
//!
//! 1. [`node::Member::enter`] looks for in-flight notes of processes that have ended. An in-flight note
//!    ([`notes`]) is a file which shows that a process may have an unfinished transaction. If there is such a
//!    note, the command *fences*: it writes the node's record again, so that every transaction that those
//!    processes sent fails from now on. Once per boot, the command also claims the node name. Then it creates
//!    its own note.
//! 2. The allocator decides with a [`view::ClusterView`]. The view may assume that a record is absent,
//!    without reading the record from the server. The transaction compares each assumption. If the decision
//!    changes nothing, there is no transaction, so the assumptions are verified by reads.
//! 3. [`transaction::Transaction`] contains all changes. It compares every record that it changes or that was
//!    assumed to be absent or present. Some kinds of records
//!    ([`keys::COMPARED_ONCE_READ`]) are compared even if they were only read. History and hints are never
//!    compared.
//! 4. [`mod@commit`] sends the transaction. If a comparison fails, the current records are added to the view,
//!    and the command continues at step 2.
//! 5. If there is no response, the command fences its own transaction by writing the node's record again.
//!    From then on, the transaction can change nothing. The command then reads the records that the
//!    transaction was to write. If one of them has the nonce of the transaction, the transaction was applied.
//!    A transaction that only removes records was applied if the records are absent.
//! 6. The command removes its note and returns.
//!
//! # Why a crash or a late message is harmless
//!
//! - A crash before step 4: nothing was sent. The note remains, so the next command fences.
//! - A crash between steps 4 and 6: the note remains, but the lock of the note ends with the process. Until
//!   the next command of the node fences, the server may still apply the transaction, completely and with the
//!   same effect as without the delay. After the fence, the transaction fails, because it compares an earlier
//!   turn. So it never undoes a result that a later command of the node has returned.
//! - If a command cannot create its note, every command fences. If `/run` was emptied, the first command
//!   fences.
//! - A process in a container may have another `/run`, so other processes cannot see its note. The node's
//!   record therefore contains the ID of a folder: the folder with the notes of the process that last wrote
//!   the record. A process that uses another folder fences first.
//! - If the server applies a fence late, current transactions of the node fail. The commands then run again.
//! - If another machine or a later boot claims the name, the earlier turn is also over. Boot leases of
//!   earlier boots then count as ended. A lease that is newer than the boot that claimed the name does not
//!   count as ended: either a copy of the machine made it, or a clock was changed.
//! - A crash while leases of earlier boots are being removed: the flag `has_earlier` in the node's record
//!   stays set, and the next ADD starts the removal again. Other nodes look for ended leases only if
//!   `has_earlier` is set. A transaction that leases the address of an ended lease compares the record of
//!   that lease's node.
//! - History ([`history`]) and hints (cursor, sticky, ranges) are written without a comparison. They may be
//!   outdated, but correctness never depends on them.
//!
//! Invariant: except for history and hints, the server applies a change only after it has compared the
//! records that the change depends on. A result that changes nothing never depends on an unverified
//! assumption. The number of attempts and the time are limited.

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
pub mod known;
pub mod node;
pub mod notes;
pub mod recent;
pub mod records;
pub mod search;
pub mod server;
pub mod transaction;
pub mod view;

use std::time::{Duration, Instant};

pub use cache::LocalCache;
use commit::commit;
use node::{Member, Role};
pub use recent::Recent;
use records::Decode;
pub use server::Server;
use server::{Entries, Expect};
use transaction::Transaction;
use view::{ClusterView, Owners, Unresolved};

use super::{
    Cluster, EachOccupied, EachRecord, EventFilter, OldKey, Problem, Repair, Store, StoreReader,
};
use crate::alloc;
use crate::alloc::{
    Add, Change, Collected, Command, Context, Del, Draining, Evict, Holder, Legacy, NetworkRanges,
    Outcome, Plan, ReleaseAddress, RequestPool, View,
};
use crate::error::{Error, StoreError};
use crate::model::{
    Counter, Ending, Event, History, Lease, NetworkDefinition, NetworkName, NodeRecord, Persist,
    Pool, PoolId, SetName,
};
use crate::net::Addr;

/// The maximum time for a listing. It is enough for several hundred thousand leases.
const LISTING: Duration = Duration::from_secs(300);

fn listing_ends() -> Instant {
    Instant::now() + LISTING
}

/// The maximum number of attempts to commit a command. An attempt fails if another client changes the same
/// records first.
const ATTEMPTS: u32 = 64;

/// After a request has lost several races for the lowest address of a pool, this many later requests lease a
/// random free address instead of the lowest one.
const CONTENDED: u32 = 8;

/// A store on a compare-and-set server.
pub struct ClusterStore<S> {
    server: S,
    timeout: Duration,
    persist: Persist,
    cache: LocalCache,
    /// The records that a GC has listed. The next steps of the GC reuse them. The records may be outdated.
    /// That is safe, because each commit compares the records that it changes.
    listing: Option<(Owners, Entries)>,
    /// Network definitions that were read in advance for the next command.
    networks: Entries,
    recent: Recent,
    /// The number of further requests that lease any free address, because other clients compete for the
    /// lowest one.
    contended: u32,
    history: History,
}

impl<S: Server> ClusterStore<S> {
    /// Makes a store on `server`. `timeout` is the time limit of each command.
    pub fn new(
        server: S,
        timeout: Duration,
        persist: Persist,
        cache: LocalCache,
    ) -> ClusterStore<S> {
        let (networks, recent, history) = (Entries::new(), Recent::default(), History::Standing);
        let (listing, contended) = (None, 0);
        ClusterStore {
            server,
            timeout,
            persist,
            cache,
            listing,
            networks,
            recent,
            contended,
            history,
        }
    }

    /// Makes the store share `recent` with other stores of this process.
    #[must_use]
    pub fn sharing(self, recent: Recent) -> ClusterStore<S> {
        ClusterStore { recent, ..self }
    }

    /// Sets how much history the store keeps.
    #[must_use]
    pub fn keeping(self, history: History) -> ClusterStore<S> {
        ClusterStore { history, ..self }
    }

    fn run(&mut self, command: &Command, cx: &Context, until: Instant) -> Result<Outcome, Error> {
        let (role, is_first) = (Role::of(command), is_first_step(command));
        let (owners, entries) = self.listing.take().filter(|_| !is_first).unzip();
        let mut entries = entries.unwrap_or_default();
        entries.append(&mut self.networks);
        let recent = pool_of_address(command).map(|pool| (pool, self.recent.at(cx.now)));
        let mut is_verified = false;
        let (server, cache) = (&self.server, &self.cache);
        let mut member = Member::enter(server, cache, role, cx, until)?;
        entries.extend([member.known()]);
        let cx = &member.cx.clone();
        let view = ClusterView {
            import_mark: import_mark(command),
            in_all_sets: is_in_all_sets(command),
            owners: owners.into(),
            ..ClusterView::new(server, cache, cx, entries, until)
        };
        if let Some((pool, recent)) = &recent {
            recent.add_to(&mut view.known.borrow_mut(), pool);
        }
        let is_request =
            matches!(command, Command::RequestAddress(r) if r.requested.is_none() && !r.serial);
        view.search.is_contended.set(is_request && self.contended > 0);
        if member.is_blind {
            view.warn(format!(
                "cannot write the local cache {}, so every command sends an additional request; \
                 make the folder writable",
                cache.place()
            ));
        }
        if let Command::RequestPool(request) = command {
            fetch_pools(&view, request)?;
        }
        let history = history::setting(self.history, command.set(), cache, cx);
        // A durable lease records no boot.
        let boot = cx.boot.clone().filter(|_| self.persist == Persist::Boot);
        let lease_cx = Context { boot, ..cx.clone() };
        for _ in 0..ATTEMPTS {
            let plan = attempt(command, &view, &mut member, &lease_cx, history);
            if let (Some(unresolved), Command::RequestAddress(r)) =
                (view.unresolved.take(), command)
            {
                self.recent.unresolved().push((r.pool.clone(), unresolved));
            }
            let Some(plan) = plan? else { continue };
            if plan.changes.is_empty()
                && let Some((_, recent)) = recent.as_ref().filter(|_| !is_verified)
            {
                // No commit has compared the recent records, so decide again without them.
                recent.remove_from(&mut view.known.borrow_mut());
                view.search.full.take();
                is_verified = true;
                continue;
            }
            if let Some(ranges) = plan.ranges() {
                cache.set_ranges(ranges, cx);
            }
            if let Some(counted) = alloc::counted(command, &plan, cx, true).filter(|_| is_first) {
                cache.count(&counted, cx);
            }
            // A GC frees the leases of earlier boots itself, in several steps.
            let is_gc = matches!(command, Command::Gc(_) | Command::Sweep(_));
            if role == Role::Leases && !is_gc && plan.outcome.is_ok() && member.has_earlier() {
                // The command itself has succeeded. If this removal fails, the next command repeats it.
                let _ = self.erase_earlier_boots(&mut member, &view);
            }
            let prunes = plan.changes.iter().any(|change| matches!(change, Change::Free { .. }))
                || matches!(command, Command::Import(_) | Command::Restore(_));
            if let Some(set) = command.set().or(plan.set()).filter(|_| prunes) {
                // If the history cannot be pruned now, a later command prunes it.
                let _ = history::prune(history, server, set, cx, until);
            }
            let mut outcome = plan.outcome;
            if let Ok(Outcome::Added(added)) = &mut outcome {
                added.warnings.append(&mut view.warnings.take());
            }
            if is_request {
                let is_lost = view.search.lost_races.get() >= search::MAX_LOST_RACES;
                self.contended = if is_lost { CONTENDED } else { self.contended.saturating_sub(1) };
            }
            let known = view.known.into_inner();
            if let Some((_, recent)) = recent {
                self.recent.learn(&recent, &known, cx.now);
            } else {
                self.listing = view.owners.take().map(|owners| (owners, known.entries));
            }
            return outcome.map_err(Error::Refused);
        }
        let why = format!(
            "{ATTEMPTS} attempts failed because other clients changed the same records first; try \
             again"
        );
        let doing = "commit to";
        Err(StoreError::unavailable(doing, self.server.place(), why).into())
    }

    /// Frees the addresses that failed requests of this `subletd` have leased after all. Docker does not
    /// release such an address, because it received an error instead of the address.
    fn undo_failed_requests(&self, cx: &Context, until: Instant) {
        let failed = std::mem::take(&mut *self.recent.unresolved());
        for (pool, failed) in failed {
            if self.undo_request(&pool, &failed, cx, until).is_err() {
                // The server does not respond. The next request tries again.
                self.recent.unresolved().push((pool, failed));
            }
        }
    }

    /// Frees the address that the transaction of a failed request has leased. Changes nothing if another
    /// transaction has written the address's record since then.
    fn undo_request(
        &self,
        pool: &PoolId,
        failed: &Unresolved,
        cx: &Context,
        until: Instant,
    ) -> Result<(), Error> {
        let (server, cache) = (&self.server, &self.cache);
        let mut member = Member::enter(server, cache, Role::FreesOwn, cx, until)?;
        let cx = &member.cx.clone();
        let view = ClusterView::new(server, cache, cx, [member.known()].into(), until);
        view.fetch(&[failed.path.clone(), keys::named(keys::POOL, &pool.0)])?;
        for _ in 0..ATTEMPTS {
            let entry = view.known_entry(&failed.path).filter(|e| e.is_by(&failed.nonce));
            let Some(entry) = entry else { break };
            let holder = records::address(&failed.path, &entry);
            let Ok(((set, addr), Holder::Leased(lease))) = holder else { break };
            let release = ReleaseAddress { pool: pool.clone(), addr, only: Some(lease) };
            let history = history::setting(self.history, Some(&set), cache, cx);
            if attempt(&Command::ReleaseAddress(release), &view, &mut member, cx, history)?
                .is_some()
            {
                break;
            }
        }
        Ok(())
    }

    /// Removes the leases of this machine's earlier boots, and records that none of them is left. Stops
    /// without an error if another client changes the same records first, because that client is removing the
    /// same leases.
    fn erase_earlier_boots(
        &self,
        member: &mut Member<'_>,
        of_command: &ClusterView<'_>,
    ) -> Result<(), Error> {
        let (cx, known) = (of_command.cx, [member.known()].into());
        let view = ClusterView::new(&self.server, &self.cache, cx, known, of_command.until);
        let of_owner = |(_, leases): &(_, Vec<Lease>)| leases.first().map(|l| l.set.clone());
        // One EVICT command frees the owners of all sets.
        if let Some(set) = view.owners()?.iter().find_map(of_owner) {
            let history = history::setting(History::Standing, Some(&set), &self.cache, cx);
            let mut command = Command::Evict(Evict { set, only_ended: true, after: None });
            loop {
                let plan = attempt(&command, &view, member, cx, history)?;
                match plan.map(|plan| plan.outcome) {
                    Some(Ok(Outcome::Collected(Collected { after, done: false, .. }))) => {
                        command.resume(after);
                    }
                    Some(_) => break,
                    None => return Ok(()),
                }
            }
        }
        view.warnings.take().into_iter().for_each(|warning| of_command.warn(warning));
        Ok(member.forget_earlier_boots()?)
    }
}

/// Runs the allocator once, and commits its plan. Returns `None` if the allocator must decide again.
fn attempt(
    command: &Command,
    view: &ClusterView<'_>,
    member: &mut Member<'_>,
    cx: &Context,
    history: History,
) -> Result<Option<Plan>, Error> {
    view.has_earlier.set(member.has_earlier());
    view.known.borrow_mut().is_refuted = false;
    let plan = alloc::run(command, view, cx)?;
    let is_done = if plan.changes.is_empty() {
        verify(view, &plan, member)? && !(is_refused_for_holders(&plan) && view.fetch_nodes()?)
    } else {
        let transaction = Transaction::new(&plan.changes, command, view, history)?;
        !view.known.borrow().is_refuted && commit(transaction, view, member)?
    };
    Ok(is_done.then_some(plan))
}

/// Returns whether the leases that a command looks for may be in any set. The network's `shared` setting
/// selects the set, and may have been changed since the container was started.
fn is_in_all_sets(command: &Command) -> bool {
    matches!(command, Command::Check(_) | Command::Del(Del { undo: false, .. }))
}

/// Reads the records of all pools on which a request depends, at one moment. If they were read at two
/// moments, another node could create a shared pool in between. The pool could then be missing under its own
/// ID, but count as an overlapping pool.
fn fetch_pools(view: &ClusterView<'_>, request: &RequestPool) -> Result<(), StoreError> {
    let shared = request.shared.as_ref().map(|shared| keys::named(keys::POOL, &shared.id.0));
    let space = keys::named(keys::SPACE, &request.space);
    view.fetch(&shared.into_iter().chain([space]).collect::<Vec<_>>())
}

/// Returns whether a command is a new request instead of a later step of a GC.
fn is_first_step(command: &Command) -> bool {
    match command {
        Command::Gc(gc) => gc.after.is_none(),
        Command::Evict(evict) => evict.after.is_none(),
        _ => true,
    }
}

/// Returns the pool of a command that leases or frees one address of a pool, without changing the pool.
fn pool_of_address(command: &Command) -> Option<&PoolId> {
    match command {
        Command::RequestAddress(request) => Some(&request.pool),
        Command::ReleaseAddress(release) => Some(&release.pool),
        _ => None,
    }
}

/// Returns what a command assumes about the import mark: the record which states that host-local's leases of
/// the network were imported. If host-local still has a folder for the network, the command assumes that the
/// mark is present, so that it need not read the folder. An ADD that imports the folder writes the mark, so
/// it assumes that the mark is absent. If host-local has no folder for the network, an ADD does not depend on
/// the mark. A DEL then assumes that the mark is absent. This assumption is verified, so the DEL also finds
/// leases that were imported elsewhere and copied into this store.
fn import_mark(command: &Command) -> Option<Expect> {
    match command {
        Command::Add(Add { legacy: Legacy::Absent, .. }) => None,
        Command::Add(Add { legacy: Legacy::Unread, .. })
        | Command::Del(Del { legacy: Some(_), .. }) => Some(Expect::Present),
        _ => Some(Expect::Absent),
    }
}

/// Returns whether a plan refuses a command because other owners hold leases. These leases may have ended
/// with the boots of other nodes, so the caller must read the records of the nodes before it reports the
/// refusal.
fn is_refused_for_holders(plan: &Plan) -> bool {
    use crate::error::Refusal::{Exhausted, GatewayHeld, Held, Predecessor};
    let held = &plan.outcome;
    matches!(held, Err(Exhausted { .. } | Held { .. } | Predecessor { .. } | GatewayHeld { .. }))
}

/// Verifies a plan without changes, because no commit compares the records that the plan depends on. Reads
/// the records about which an assumption was made, and counts full ranges again. Returns whether the outcome
/// is verified; if not, the allocator must decide again.
fn verify(
    view: &ClusterView<'_>,
    plan: &Plan,
    member: &mut Member<'_>,
) -> Result<bool, StoreError> {
    let assumed = view.assumed();
    let mut read = assumed.clone();
    let reads_node = member.is_from_cache || !assumed.is_empty();
    read.extend((member.changes() && reads_node).then(|| member.path()));
    view.fetch(&read)?;
    if member.changes() && member.learn_from(view)? {
        // A transaction may have been applied before the fence, so all records that were read are outdated.
        view.forget_all();
        view.known.borrow_mut().remember([member.known()].into());
        return Ok(false);
    }
    if assumed.is_empty() {
        return if plan.outcome.is_err() { view.confirm_full() } else { Ok(true) };
    }
    if assumed.iter().any(|path| view.known_entry(path).is_some()) {
        view.search.list_chunks.set(true);
    }
    Ok(false)
}

impl<S: Server> ClusterStore<S> {
    /// Returns all records of a kind.
    fn list_records<T>(&self, kind: &str, decode: Decode<T>) -> Result<Vec<T>, StoreError> {
        records::list(&self.server, kind, listing_ends(), decode)
    }

    /// Calls `each` with the holder of every address, one page of records at a time. Leaves out leases that
    /// have ended with their boot.
    fn holders(
        &mut self,
        cx: &Context,
        each: &mut dyn FnMut(&SetName, Addr, Holder),
    ) -> Result<(), StoreError> {
        let (server, until) = (&self.server, listing_ends());
        let view = ClusterView::new(server, &self.cache, cx, Entries::new(), until);
        view.fetch_nodes()?;
        for page in records::pages(server, keys::ADDRESS, until, records::address) {
            let page = page?;
            // The node may have rebooted since its record was read, so the lease may belong to the node's new
            // boot.
            if page.iter().any(|(_, holder)| view.is_of_ended(holder)) {
                view.nodes.take();
                view.fetch_nodes()?;
            }
            for ((set, addr), holder) in page {
                match view.without_ended(holder)? {
                    Holder::Free => {}
                    living => each(&set, addr, living),
                }
            }
        }
        Ok(())
    }
}

impl<S: Server> Store for ClusterStore<S> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        let until = Instant::now() + self.timeout;
        self.undo_failed_requests(cx, until);
        let done = self.run(command, cx, until);
        if matches!(done, Err(Error::Store(_)))
            && let (Some(verb), Some(set)) = (alloc::verb(command), command.set())
        {
            self.cache.count(&(set.clone(), cx.face, verb, Ending::Failed), cx);
        }
        done
    }

    fn repair(&mut self, _: &Context) -> Result<Repair, StoreError> {
        let why = "only lease files can be repaired automatically; run `sublet doctor` to see what \
                   to do with each record";
        Err(StoreError::unavailable("repair", self.server.place(), why))
    }

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(self)
    }
}

impl<S: Server> StoreReader for ClusterStore<S> {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        self.holders(cx, &mut |_, _, holder| {
            if let Holder::Leased(lease) = holder {
                each(*lease);
            }
        })
    }

    fn occupancy(&mut self, cx: &Context, each: &mut EachOccupied<'_>) -> Result<(), StoreError> {
        self.holders(cx, &mut |set, addr, holder| each(set, addr, &holder))
    }

    fn networks(&mut self, _: &Context) -> Result<Vec<NetworkRanges>, StoreError> {
        self.list_records(keys::RANGES, records::ranges)
    }

    fn draining(&mut self, _: &Context) -> Result<Vec<Draining>, StoreError> {
        Ok(self.list_records(keys::DRAINING, records::draining)?.into_iter().flatten().collect())
    }

    fn history(
        &mut self,
        cx: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError> {
        let age = Some(self.history).filter(|history| *history != History::Off);
        let age = age.unwrap_or_default().age();
        let mut all = history::events(&self.server, age, cx.now, listing_ends())?;
        all.retain(|event| filter(event));
        Ok(all)
    }

    fn problems(&mut self, _: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError> {
        check::check(&self.server, listing_ends(), each)
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
        records::export(&self.server, listing_ends(), each)
    }
}

impl<S: Server> Cluster for ClusterStore<S> {
    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError> {
        self.list_records(keys::NODE, records::node)
    }

    fn forget(&mut self, record: &NodeRecord, _: &Context) -> Result<bool, StoreError> {
        node::forget(&self.server, record, Instant::now() + self.timeout)
    }

    fn definition(&mut self, name: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError> {
        let cx = Context::default();
        let until = Instant::now() + self.timeout;
        let view = ClusterView::new(&self.server, &self.cache, &cx, Entries::new(), until);
        let record = view.definition(name)?;
        self.networks = view.known.into_inner().entries;
        Ok(record)
    }

    fn old_keys(&mut self, network: &NetworkName) -> Result<Vec<OldKey>, StoreError> {
        self.server.old_keys(network, Instant::now() + self.timeout)
    }
}
