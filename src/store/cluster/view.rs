//! The cluster view: what one command knows and assumes, and how it learns more.
//!
//! The answers to the allocator are in [`super::answers`], the search for a free address is in
//! [`super::search`], commits are in [`mod@super::commit`].
//! Invariant: an answer without a read is in [`ClusterView::assumed`] until it is compared or read. Every known
//! record existed at some moment since the command began.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use super::cache::LocalCache;
use super::records::bad_record;
use super::server::{Entries, Entry, Expect, Server};
use super::{keys, records};
use crate::alloc::{Context, Holder};
use crate::error::StoreError;
use crate::model::{History, Lease, NodeRecord, Owner, Pool, SetName, Timestamp};
use crate::net::{Addr, Span};
use crate::store::codec;
use crate::store::codec::Bad;

/// All owners of a node in a set with their leases, sorted by owner.
pub type Owners = Rc<Vec<(Owner, Vec<Lease>)>>;

/// Whether a command needs its node's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameClaim {
    /// No: the command only frees or reads.
    NotNeeded,
    /// Yes: it compares the node's record, and claims the name if it is free.
    Needed,
    /// The same, and the local cache says that this boot owns the name.
    Cached,
}

/// The start of the segment of history that a command writes to, and those of the expired segments.
pub type OpenSegment = (Timestamp, Vec<Timestamp>);

/// The state of the search in one command.
#[derive(Default)]
pub struct Search {
    /// An assumption was wrong: chunks are listed.
    pub list_chunks: Cell<bool>,
    /// The listed chunks were full: ranges are counted.
    pub count_ranges: Cell<bool>,
    /// How often another client leased the address first.
    pub lost_races: Cell<u32>,
    /// The search starts behind the address that was allocated last.
    pub round_robin: Cell<bool>,
    /// The paths of the addresses that this run of the allocator found free.
    pub chosen: RefCell<Vec<String>>,
    /// The spans that this run found full.
    pub full: RefCell<BTreeSet<(SetName, Span)>>,
    /// The spans that were counted as full, all at one moment.
    pub counted: RefCell<BTreeSet<(SetName, Span)>>,
}

impl Search {
    /// Resets the results of a run of the allocator before the next run.
    pub fn begin(&self) {
        self.chosen.borrow_mut().clear();
        self.full.borrow_mut().clear();
    }
}

/// What one command knows.
pub struct ClusterView<'a> {
    pub server: &'a dyn Server,
    pub cache: &'a LocalCache,
    pub cx: &'a Context,
    pub until: Instant,
    /// Records that were read from the server or reported by a conflict.
    pub known: RefCell<Entries>,
    /// Answers without a read: [`Expect::Absent`] or [`Expect::Present`].
    pub assumed: RefCell<BTreeMap<String, Expect>>,
    /// What is assumed about the mark that another program's leases were imported: present, which is compared, or
    /// absent. `None` if it makes no difference to the command.
    pub import_mark: Option<Expect>,
    /// Prefixes that were listed: a path below them that is not known is absent.
    pub listed: RefCell<BTreeSet<String>>,
    /// Paths that have a record, of which nothing else is known.
    pub present: RefCell<BTreeSet<String>>,
    /// The owners that GC listed.
    pub owners: RefCell<Option<Owners>>,
    pub claim: NameClaim,
    /// All nodes. They are only read before a command is refused.
    pub nodes: RefCell<Option<Vec<(NodeRecord, Entry)>>>,
    /// Set when a transaction was sent that may still be applied.
    pub in_flight: &'a Cell<bool>,
    /// No leases of this machine's earlier boots are left in the set.
    pub is_clean: bool,
    pub history: History,
    /// Distinguishes the history records that one process writes in one second.
    pub serial: &'a Cell<u64>,
    /// Read from the cache when it is first needed; `None` means that no history is written.
    pub segment: OnceCell<Option<OpenSegment>>,
    pub search: Search,
    /// The addresses that are assumed to be held while an alternative plan is made. Meanwhile, the server is
    /// not asked.
    pub hypothetical: RefCell<Option<BTreeSet<String>>>,
}

impl ClusterView<'_> {
    /// An error while an alternative plan is made: then the server must not be asked.
    pub fn check_not_hypothetical(&self) -> Result<(), StoreError> {
        if self.hypothetical.borrow().is_none() {
            return Ok(());
        }
        Err(StoreError::unavailable("ask", self.server.place(), "this is about what might be"))
    }

    /// The record, if it is known.
    pub fn known_entry(&self, path: &str) -> Option<Entry> {
        self.known.borrow().get(path).cloned().flatten()
    }

    /// The record, or the assumption that it is absent.
    pub fn assume_absent(&self, path: String) -> Result<Option<Entry>, StoreError> {
        if self.present.borrow().contains(&path) {
            return self.read(&path);
        }
        if let Some(entry) = self.known.borrow().get(&path) {
            return Ok(entry.clone());
        }
        if !self.is_listed(&path) {
            self.assumed.borrow_mut().insert(path, Expect::Absent);
        }
        Ok(None)
    }

    /// Whether the record exists. It is assumed to exist unless it is known.
    pub fn assume_present(&self, path: String) -> bool {
        if let Some(entry) = self.known.borrow().get(&path) {
            return entry.is_some();
        }
        self.assumed.borrow_mut().insert(path, Expect::Present);
        true
    }

    fn is_listed(&self, path: &str) -> bool {
        self.listed.borrow().iter().any(|prefix| path.starts_with(prefix.as_str()))
    }

    /// The record. It is read from the server if it is not known.
    pub fn read(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        if !self.known.borrow().contains_key(path) && !self.is_listed(path) {
            self.fetch(&[path.to_owned()])?;
        }
        Ok(self.known_entry(path))
    }

    /// The same, decoded.
    pub fn decoded<T>(
        &self,
        path: &str,
        decode: impl FnOnce(&str, &Entry) -> Result<T, Bad>,
    ) -> Result<Option<T>, StoreError> {
        let entry = self.read(path)?;
        entry.map(|entry| self.checked(path, decode(path, &entry))).transpose()
    }

    /// Reads these paths in as few round trips as possible.
    pub fn fetch(&self, paths: &[String]) -> Result<(), StoreError> {
        self.check_not_hypothetical()?;
        for some in paths.chunks(self.server.max_operations().max(1)) {
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            self.remember(self.server.get(&some, self.until)?);
        }
        Ok(())
    }

    /// Adds what the server reported.
    pub fn remember(&self, entries: Entries) {
        for path in entries.keys() {
            self.assumed.borrow_mut().remove(path);
            self.present.borrow_mut().remove(path);
        }
        self.known.borrow_mut().extend(entries);
    }

    /// Forgets everything, because a transaction may have been applied.
    pub fn forget_all(&self) {
        self.known.borrow_mut().clear();
        self.assumed.borrow_mut().clear();
        self.listed.borrow_mut().clear();
        self.present.borrow_mut().clear();
        self.owners.borrow_mut().take();
        self.search.counted.borrow_mut().clear();
    }

    /// Reads all records below a prefix.
    pub fn list(&self, prefix: String) -> Result<(), StoreError> {
        if self.is_listed(&prefix) {
            return Ok(());
        }
        self.check_not_hypothetical()?;
        let found = self.server.list(&prefix, self.until)?;
        let mut known = self.known.borrow_mut();
        known.retain(|path, _| !path.starts_with(&prefix));
        known.extend(found.into_iter().map(|(path, entry)| (path, Some(entry))));
        self.assumed.borrow_mut().retain(|path, _| !path.starts_with(&prefix));
        self.present.borrow_mut().retain(|path| !path.starts_with(&prefix));
        self.listed.borrow_mut().insert(prefix);
        Ok(())
    }

    /// Marks what was listed below a prefix as out of date.
    pub fn invalidate(&self, prefix: &str) {
        self.listed.borrow_mut().retain(|listed| !listed.starts_with(prefix));
    }

    /// The known records below a prefix.
    pub fn entries_below(&self, prefix: &str) -> Vec<(String, Entry)> {
        let known = self.known.borrow();
        let below = known.range(prefix.to_owned()..).take_while(|(p, _)| p.starts_with(prefix));
        below.filter_map(|(path, entry)| Some((path.clone(), entry.clone()?))).collect()
    }

    /// The holder in the record of an address.
    pub fn holder_in(
        &self,
        set: &SetName,
        addr: Addr,
        entry: &Entry,
    ) -> Result<Holder, StoreError> {
        let path = keys::address(set, addr);
        self.checked(&path, codec::read_slot(path.as_bytes(), set, addr, &entry.value))
    }

    /// Reads all nodes. `false` if they are known already, or if none of them has rebooted.
    pub fn fetch_nodes(&self) -> Result<bool, StoreError> {
        if self.nodes.borrow().is_some() {
            return Ok(false);
        }
        let decode = |path: &str, entry: &Entry| Ok((records::node(path, entry)?, entry.clone()));
        let nodes = records::list(self.server, keys::NODE, self.until, decode)?;
        let has_rebooted = nodes.iter().any(|(record, _)| record.since != record.first);
        *self.nodes.borrow_mut() = Some(nodes);
        Ok(has_rebooted)
    }

    /// Whether a lease has ended with its boot.
    pub fn has_ended(&self, lease: &Lease) -> bool {
        let node = self.node_of(lease);
        has_ended(lease, self.cx, node.as_ref().map(|(record, _)| record))
    }

    /// The record of a lease's node, once all nodes are known. A conflict may have reported a newer record.
    fn node_of(&self, lease: &Lease) -> Option<(NodeRecord, Entry)> {
        let nodes = self.nodes.borrow();
        let listed = nodes.as_ref()?.iter().find(|(record, _)| record.node == lease.node)?;
        let path = keys::node(&lease.node.name);
        let known = self.known.borrow();
        let Some(entry) = known.get(&path) else { return Some(listed.clone()) };
        let entry = entry.clone()?;
        Some((records::node(&path, &entry).ok()?, entry))
    }

    /// Makes the transaction compare the record of a lease's node, because the transaction relies on the end
    /// of the lease. The node may have rebooted since it was read, and this may be a lease of its new boot.
    pub fn compare_node_of(&self, lease: &Lease) {
        if let Some((_, entry)) = self.node_of(lease) {
            let path = keys::node(&lease.node.name);
            self.known.borrow_mut().entry(path).or_insert(Some(entry));
        }
    }

    /// The holder in the record of an address; free if the lease has ended.
    pub fn living_holder(
        &self,
        set: &SetName,
        addr: Addr,
        entry: &Entry,
    ) -> Result<Holder, StoreError> {
        Ok(match self.holder_in(set, addr, entry)? {
            Holder::Leased(lease) if self.has_ended(&lease) => Holder::Free,
            other => other,
        })
    }

    /// The leases in an owner's record.
    pub fn leases_in(&self, path: &str, entry: &Entry) -> Result<Vec<Lease>, StoreError> {
        Ok(self.checked(path, records::owner(path, entry))?.1)
    }

    /// The decoded record, or the error that names the damaged record.
    pub fn checked<T>(&self, path: &str, decoded: Result<T, Bad>) -> Result<T, StoreError> {
        decoded.map_err(|Bad(what)| bad_record(self.server, path, what))
    }

    /// Whether the known record of an address keeps the address from being leased.
    pub fn is_held(&self, set: &SetName, addr: Addr) -> Result<bool, StoreError> {
        let path = keys::address(set, addr);
        let is_hypothetical =
            self.hypothetical.borrow().as_ref().is_some_and(|h| h.contains(&path));
        if is_hypothetical || self.present.borrow().contains(&path) {
            return Ok(true);
        }
        let entry = self.known_entry(&path);
        Ok(match entry.map(|entry| self.living_holder(set, addr, &entry)).transpose()? {
            Some(Holder::Leased(_)) => true,
            // An ended cooldown is not removed. Whoever finds the address leases it.
            Some(Holder::Cooling(c)) => !c.over(self.cx.now),
            Some(Holder::Free) | None => false,
        })
    }

    /// Takes the record of an address as known because its owner's record names it: both are always written
    /// together. `false` if the known record of the address disagrees.
    pub fn derive_address(&self, lease: &Lease, version: u64) -> Result<bool, StoreError> {
        let path = keys::address(&lease.set, lease.addr);
        let entry = self.known.borrow().get(&path).cloned();
        match entry {
            Some(Some(entry)) => Ok(matches!(
                self.holder_in(&lease.set, lease.addr, &entry)?,
                Holder::Leased(held) if held.owner == lease.owner
            )),
            Some(None) => Ok(false),
            None if self.is_listed(&path) => Ok(false),
            None => {
                self.present.borrow_mut().remove(&path);
                let holder = Holder::Leased(Box::new(lease.clone()));
                let value = codec::slot(path.as_bytes(), &holder).unwrap_or_default();
                self.known.borrow_mut().insert(path, Some(Entry { version, value }));
                Ok(true)
            }
        }
    }

    /// Every owner of this node, listed once in a command.
    pub fn owners(&self, set: &SetName) -> Result<Owners, StoreError> {
        if let Some(owners) = self.owners.borrow().as_ref() {
            return Ok(owners.clone());
        }
        let prefix = keys::node_owners(set, &self.cx.node);
        self.invalidate(&prefix);
        self.list(prefix.clone())?;
        let mut owners = Vec::new();
        for (path, entry) in self.entries_below(&prefix) {
            let leases = self.leases_in(&path, &entry)?;
            owners.extend(leases.first().map(|l| l.owner.clone()).map(|owner| (owner, leases)));
        }
        owners.sort_by(|(a, _), (b, _)| a.cmp(b));
        let owners = Rc::new(owners);
        *self.owners.borrow_mut() = Some(owners.clone());
        Ok(owners)
    }

    /// The pools of an address space, as they were created.
    pub fn pools(&self, space: &str) -> Result<Vec<Pool>, StoreError> {
        let pools = self.decoded(&keys::named(keys::SPACE, space), records::plain)?;
        Ok(pools.unwrap_or_default())
    }

    /// The address in a hint. A hint that cannot be decoded is ignored, and written again.
    pub fn hint(&self, path: &str) -> Result<Option<Addr>, StoreError> {
        Ok(self.read(path)?.and_then(|entry| records::plain(path, &entry).ok()))
    }
}

/// Whether a lease has ended, according to this boot and to the record of the lease's node. A caller that
/// does not know its own boot takes no lease as ended.
pub fn has_ended(lease: &Lease, cx: &Context, record: Option<&NodeRecord>) -> bool {
    let ends_by = |record: &NodeRecord| {
        let (node, boot) = (record.node.clone(), record.boot.clone());
        Context { boot, node, ..cx.clone() }.has_ended(lease)
    };
    cx.boot.is_some() && (cx.has_ended(lease) || record.is_some_and(ends_by))
}
