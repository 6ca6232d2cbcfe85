//! Translates a plan into a transaction. The changes of the plan become writes, and the records that the plan
//! depends on become comparisons.
//!
//! Every record that a transaction writes begins with the transaction's nonce. The nonce later shows which
//! transaction wrote the record.
//! Invariant: the record of an address and the record of its owner change in the same transaction, and both
//! are compared. A lease is removed only if the record of its address names the same owner. A cooling address
//! has two records, its own and an entry in the index of cooling addresses. Both change in one transaction.
//! No lease survives its pool, for two reasons. First, a transaction that leases an address compares the
//! record of the pool, which changes when the pool is closed. Second, a pool is closed first, then its leases
//! are listed, and only then is the pool removed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::records::bad_record;
use super::server::{Expect, Nonce, Operation, Write};
use super::view::ClusterView;
use super::{history, keys, records};
use crate::alloc;
use crate::alloc::{Change, Command, Cooling, Holder, PodKey};
use crate::error::StoreError;
use crate::model::{Event, History, Lease, Owner, Persist, Pool, SetName, What};
use crate::net::Addr;
use crate::store::codec;

/// The transaction for a plan.
pub struct Transaction {
    pub operations: Vec<Operation>,
    /// The record with the history events. No other operation depends on it.
    pub history: Option<Operation>,
    pub nonce: Nonce,
}

impl Transaction {
    /// Makes the transaction for a plan. The transaction compares every address record and owner record that
    /// it writes or about which an assumption was made. It also compares every pool, address space, node,
    /// network, reservation, import mark and list of draining ranges that was read. It does not compare
    /// hints.
    pub fn new(
        changes: &[Change],
        command: &Command,
        view: &ClusterView<'_>,
        history: History,
    ) -> Result<Transaction, StoreError> {
        let (mut writes, events) = writes(changes, command, view)?;
        let nonce = new_nonce(view.cx.seed);
        if writes.keys().any(|path| path.starts_with(keys::POOL)) {
            mark(&mut writes, view, &nonce)?;
        }
        let operations = operations(writes, view, &nonce);
        let history = history::write(history, &events, view.cx, &nonce);
        Ok(Transaction { operations, history, nonce })
    }
}

/// Makes a nonce that no other attempt of this process has. Processes have different seeds, so no other
/// process has it either.
pub fn new_nonce(seed: u64) -> Nonce {
    static ATTEMPTS: AtomicU64 = AtomicU64::new(0);
    let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
    (u128::from(seed) << 64 | u128::from(attempt)).to_be_bytes()
}

/// Returns a record that begins with the nonce of the transaction that writes it.
pub fn stamped(nonce: &Nonce, record: Vec<u8>) -> Vec<u8> {
    [nonce.to_vec(), record].concat()
}

/// The records to write, without the nonce. `None` removes the record.
type Writes = BTreeMap<String, Option<Vec<u8>>>;

/// Translates a plan into the records and history events to write.
fn writes(
    changes: &[Change],
    command: &Command,
    view: &ClusterView<'_>,
) -> Result<(Writes, Vec<Event>), StoreError> {
    let (writes, owners, events) = (Writes::new(), BTreeMap::new(), Vec::new());
    let mut draft = Draft { view, writes, owners, events };
    // In a cluster, a durable lease records no boot.
    let is_durable = matches!(command, Command::Restore(to) if to.persist == Persist::Disk);
    for change in changes {
        let event = alloc::event(change, command, view.cx);
        match change {
            Change::Put(lease) => {
                let mut lease = lease.clone();
                if is_durable && lease.ends_with_boot() {
                    lease.boot = None;
                }
                let is_new = draft.put(lease)?;
                draft.events.extend(event.filter(|_| is_new));
            }
            Change::Free { lease, until } => {
                draft.free(lease, *until)?;
                draft.events.extend(event);
            }
            Change::Thaw(set, cooling) => {
                draft.remove(keys::address(set, cooling.addr));
                draft.remove(keys::of_address(keys::COOLING, set, cooling.addr));
            }
            Change::Cool(set, cooling) => draft.cool(set, *cooling),
            Change::Cursor(set, range, addr) => {
                let path = keys::of_address(keys::CURSOR, set, *range);
                draft.write(path, |path| codec::seal(path, addr));
            }
            Change::Sticky(set, pod, range, addr) => draft.stick(set, pod, *range, *addr)?,
            Change::Adopted(network, time) => {
                let path = keys::named(keys::ADOPTED, network.as_str());
                draft.write(path, |path| codec::seal(path, time));
            }
            Change::PutDraining(set, ranges) => {
                let path = keys::named(keys::DRAINING, &set.0);
                if ranges.is_empty() {
                    draft.remove(path);
                } else {
                    draft.write(path, |path| codec::draining(path, ranges));
                }
            }
            Change::PutRanges(ranges) => {
                let path = keys::named(keys::RANGES, ranges.network.as_str());
                draft.write(path, |path| codec::ranges(path, ranges));
            }
            Change::PutPool(pool) => draft.pool(pool, true)?,
            Change::DropPool(pool) => draft.pool(pool, false)?,
            Change::PutDefinition(record) => {
                let path = keys::named(keys::NETWORK, record.network.as_str());
                draft.write(path, |path| codec::definition(path, record));
            }
        }
    }
    for (path, leases) in std::mem::take(&mut draft.owners) {
        if leases.is_empty() {
            draft.remove(path);
        } else {
            draft.write(path, |path| codec::owned(path, &leases));
        }
    }
    Ok((draft.writes, draft.events))
}

/// How long a mark (a record which shows that a transaction was applied) is kept, in seconds. No command
/// takes that long.
const MARK_AGE: u64 = 3600;
/// The maximum number of expired marks that a transaction removes.
const MAX_EXPIRED: usize = 8;

/// Adds a mark to a transaction that changes a pool. The mark is a record that only this transaction writes,
/// so it shows later whether the transaction was applied. The record of the pool cannot show this: the next
/// client may overwrite it before this client has determined the outcome. Also removes expired marks.
fn mark(writes: &mut Writes, view: &ClusterView<'_>, nonce: &Nonce) -> Result<(), StoreError> {
    let (node, now) = (&view.cx.node.name, view.cx.now);
    let marks = keys::named(keys::MARK, node) + "/";
    view.list(marks.clone())?;
    let oldest = keys::timed(keys::MARK, node, now.saturating_sub(MARK_AGE), &Nonce::default());
    let expired = view.below(&marks).into_iter().filter(|(path, _)| *path < oldest);
    writes.extend(expired.take(MAX_EXPIRED).map(|(path, _)| (path, None)));
    writes.insert(keys::timed(keys::MARK, node, now, nonce), Some(Vec::new()));
    Ok(())
}

struct Draft<'a, 'k> {
    view: &'a ClusterView<'k>,
    writes: Writes,
    /// For each path of an owner's record, the owner's leases after the changes so far.
    owners: BTreeMap<String, Vec<Lease>>,
    events: Vec<Event>,
}

impl Draft<'_, '_> {
    fn write(&mut self, path: String, encode: impl FnOnce(&[u8]) -> Vec<u8>) {
        let value = encode(path.as_bytes());
        self.writes.insert(path, Some(value));
    }

    fn remove(&mut self, path: String) {
        self.writes.insert(path, None);
    }

    fn write_holder(&mut self, path: String, holder: &Holder) {
        let value = codec::slot(path.as_bytes(), holder, &self.view.cx.node.name);
        self.writes.insert(path, value);
    }

    fn cool(&mut self, set: &SetName, cooling: Cooling) {
        for path in
            [keys::address(set, cooling.addr), keys::of_address(keys::COOLING, set, cooling.addr)]
        {
            self.write_holder(path, &Holder::Cooling(cooling));
        }
    }

    /// Writes a lease. Returns whether the address previously belonged to another owner or was free.
    fn put(&mut self, lease: Lease) -> Result<bool, StoreError> {
        let (set, addr) = (lease.set.clone(), lease.addr);
        let before = self.view.known_entry(&keys::address(&set, addr));
        let before = before.map(|entry| self.view.holder_in(&set, addr, &entry)).transpose()?;
        let mut is_new = true;
        match &before {
            Some(Holder::Cooling(_)) => self.remove(keys::of_address(keys::COOLING, &set, addr)),
            Some(Holder::Leased(before)) if self.view.has_ended(before) => {
                self.remove_ended(before)?;
            }
            Some(Holder::Leased(before)) => is_new = before.owner != lease.owner,
            Some(Holder::Free) | None => {}
        }
        if let Some(own) = self.leases_of(&lease)? {
            let others = own.extract_if(.., |l| l.addr == addr).count();
            is_new &= others == 0;
            own.push(lease.clone());
            own.sort_by_key(|l| l.addr);
        }
        self.write_holder(keys::address(&set, addr), &Holder::Leased(Box::new(lease)));
        Ok(is_new)
    }

    /// Removes an ended lease from the record of the lease's owner.
    fn remove_ended(&mut self, lease: &Lease) -> Result<(), StoreError> {
        if let Some(path) = keys::owner(&lease.set, &lease.node, &lease.owner) {
            self.view.compare_node_of(lease);
            // If this plan has assumed that the owner has no record, do not read the record now, because the
            // commit compares the assumption.
            if !self.owners.contains_key(&path) {
                self.view.read(&path)?;
                self.load_owner(&path)?;
            }
        }
        Ok(())
    }

    fn free(&mut self, lease: &Lease, until: Option<u64>) -> Result<(), StoreError> {
        let path = keys::address(&lease.set, lease.addr);
        if let Some(own) = self.leases_of(lease)? {
            own.retain(|l| l.addr != lease.addr);
        }
        let own = keys::owner(&lease.set, &lease.node, &lease.owner);
        let entry = self.view.known_entry(own.as_deref().unwrap_or(&path));
        // The container for which an address is reserved may have a lease of that address.
        let is_under_a_lease = matches!(lease.owner, Owner::Named(_));
        if is_under_a_lease && let Some(entry) = self.view.known_entry(&path) {
            let holder = self.view.holder_in(&lease.set, lease.addr, &entry)?;
            if let Holder::Leased(tenant) = holder
                && self.view.has_ended(&tenant)
            {
                self.remove_ended(&tenant)?;
            }
        }
        if let Some(entry) = entry.filter(|_| !is_under_a_lease)
            && !self.view.derive_address(lease, &entry)?
        {
            return Err(bad_record(
                self.view.server,
                &path,
                "the address record belongs to a different owner",
            ));
        }
        if let Some(until) = until {
            let (addr, freed) = (lease.addr, self.view.cx.now);
            self.cool(&lease.set, Cooling { until, addr, freed });
        } else {
            let left = self.left_by(lease)?;
            self.writes.insert(path, left);
        }
        Ok(())
    }

    /// Returns what remains in an address's record when the lease is removed: the reservation under the lease
    /// (a reservation of the same address for the lease's container). Returns `None` if there is no such
    /// reservation; the record is then removed.
    fn left_by(&self, lease: &Lease) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(reserved) = self.view.reservation_under(lease)? else { return Ok(None) };
        let path = keys::address(&lease.set, lease.addr);
        Ok(codec::slot(path.as_bytes(), &Holder::Leased(Box::new(reserved)), ""))
    }

    /// Returns all leases of the owner of `lease`, after the changes so far. If the owner's record is not
    /// known, assumes that the owner has no leases; the commit compares this assumption. Returns `None` for
    /// an address of a Docker pool, which has no owner's record.
    fn leases_of(&mut self, lease: &Lease) -> Result<Option<&mut Vec<Lease>>, StoreError> {
        let Some(path) = keys::owner(&lease.set, &lease.node, &lease.owner) else {
            return Ok(None);
        };
        self.load_owner(&path)?;
        Ok(Some(self.owners.entry(path).or_default()))
    }

    /// Loads the record of an owner, if the record is known and was not loaded before. Removes leases that
    /// have ended with their boot, together with the records of their addresses.
    fn load_owner(&mut self, path: &str) -> Result<(), StoreError> {
        let entry = self.view.known_entry(path);
        let Some(entry) = entry.filter(|_| !self.owners.contains_key(path)) else {
            return Ok(());
        };
        let mut living = self.view.leases_in(path, &entry)?;
        for lease in living.extract_if(.., |l| self.view.has_ended(l)) {
            self.view.compare_node_of(&lease);
            self.events.push(alloc::happened(&lease, What::BootEnded, self.view.cx));
            if self.view.derive_address(&lease, &entry)? {
                let left = self.left_by(&lease)?;
                self.writes.entry(keys::address(&lease.set, lease.addr)).or_insert(left);
            }
        }
        self.owners.insert(path.to_owned(), living);
        Ok(())
    }

    /// Writes or removes the record of a pool. If the pool is created or removed, also changes the record of
    /// its address space.
    fn pool(&mut self, pool: &Pool, exists: bool) -> Result<(), StoreError> {
        let path = keys::named(keys::POOL, &pool.id.0);
        let value = exists.then(|| codec::seal(path.as_bytes(), pool));
        self.writes.insert(path, value);
        let mut pools = self.view.pools(&pool.space)?;
        if exists && pools.iter().any(|p| p.id == pool.id) {
            return Ok(());
        }
        pools.retain(|p| p.id != pool.id);
        pools.extend(exists.then(|| pool.clone()));
        let path = keys::named(keys::SPACE, &pool.space);
        let value = (!pools.is_empty()).then(|| codec::seal(path.as_bytes(), &pools));
        self.writes.insert(path, value);
        Ok(())
    }

    /// Stores a pod's former address. Each address is stored only for the last pod that had it, so the number
    /// of these records never exceeds the number of addresses.
    fn stick(
        &mut self,
        set: &SetName,
        pod: &PodKey,
        range: Addr,
        addr: Addr,
    ) -> Result<(), StoreError> {
        let path = keys::sticky(set, pod, range);
        if let Some(before) = self.view.hint(&path)? {
            self.remove(keys::of_address(keys::STICKY_OWNER, set, before));
        }
        let owner = keys::of_address(keys::STICKY_OWNER, set, addr);
        let other = self.view.read(&owner)?;
        let other = other.and_then(|entry| records::plain::<Vec<u8>>(&owner, &entry).ok());
        if let Some(other) = other.and_then(|key| String::from_utf8(key).ok()) {
            self.remove(other);
        }
        self.write(owner, |owner| codec::seal(owner, &path.as_bytes()));
        self.write(path, |path| codec::seal(path, &addr));
        Ok(())
    }
}

/// Makes the operations for these writes, including their comparisons.
fn operations(writes: Writes, view: &ClusterView<'_>, nonce: &Nonce) -> Vec<Operation> {
    let known = view.known.borrow();
    let expect = |path: &str| match known.entry(path) {
        _ if !keys::is_compared(path) => Expect::Anything,
        Some(entry) => Expect::Version(entry.version),
        None => Expect::Absent,
    };
    let assumed = known.assumed.iter().map(|(path, assumed)| match assumed {
        Expect::Present => (path, Expect::Present),
        _ => (path, expect(path)),
    });
    // A GC may have read thousands of records. Look up only the kinds of records that are compared, instead
    // of searching all records.
    let read = keys::COMPARED_ONCE_READ.iter().flat_map(|kind| known.paths(kind));
    let read = read.map(|path| (path, expect(path)));
    let compared = assumed.chain(read).filter(|(path, _)| !writes.contains_key(*path));
    let compared: Vec<Operation> =
        compared.map(|(path, expect)| Operation::compare(path, expect)).collect();
    let written = writes.into_iter().map(|(path, record)| Operation {
        expect: expect(&path),
        path,
        write: record.map_or(Write::Delete, |record| Write::Put(stamped(nonce, record))),
    });
    written.chain(compared).collect()
}
