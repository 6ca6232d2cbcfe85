//! The cluster view: the records and assumptions on which the allocator bases its decision about one command.
//!
//! [`super::answers`] answers the allocator's queries, [`super::search`] searches for a free address, and
//! [`super::known`] stores the known records and the assumptions.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use super::cache::LocalCache;
use super::known::Known;
use super::records::checked;
use super::search::Search;
use super::server::{Entries, Entry, Expect, Nonce, Server};
use super::{keys, records};
use crate::alloc::{Context, Holder};
use crate::error::StoreError;
use crate::model::{Kind, Lease, NodeRecord, Owner, Pool, SetName, StaticName, Timestamp};
use crate::net::Addr;
use crate::store::codec;
use crate::store::codec::Bad;

/// The owners on a node in sorted order, each with its leases in all sets.
pub type Owners = Rc<Vec<(Owner, Vec<Lease>)>>;

/// The records and assumptions on which the allocator bases its decision about one command in a cluster.
pub struct ClusterView<'a> {
    pub server: &'a dyn Server,
    pub cache: &'a LocalCache,
    /// The context of the command. It contains this machine's node name in the cluster.
    pub cx: &'a Context,
    pub until: Instant,
    pub known: RefCell<Known>,
    /// What the command assumes about the import mark (the record which states that another program's leases
    /// were imported). `None` if the command does not depend on the mark.
    pub import_mark: Option<Expect>,
    /// Whether an owner's leases are looked up in all sets instead of only in the command's set.
    pub in_all_sets: bool,
    /// Whether leases of this machine's earlier boots may still exist.
    pub has_earlier: Cell<bool>,
    /// The owners on this node, once they have been listed. A GC passes them on to its next step.
    pub owners: RefCell<Option<Owners>>,
    /// The records of all nodes, by node name. A command that changes something reads them only when it would
    /// otherwise be refused.
    pub nodes: RefCell<Option<BTreeMap<String, (NodeRecord, Entry)>>>,
    pub search: Search,
    /// The number of this command's commits that were not applied.
    pub lost_commits: Cell<u32>,
    /// A transaction of this command whose outcome could not be determined.
    pub unresolved: RefCell<Option<Unresolved>>,
    pub warnings: RefCell<Vec<String>>,
}

/// A transaction whose command has failed, but which the server may have applied nevertheless.
pub struct Unresolved {
    /// The path of the address record that the transaction writes.
    pub path: String,
    pub nonce: Nonce,
}

impl<'a> ClusterView<'a> {
    /// Makes a view that starts with the records in `known`.
    pub fn new(
        server: &'a dyn Server,
        cache: &'a LocalCache,
        cx: &'a Context,
        known: Entries,
        until: Instant,
    ) -> ClusterView<'a> {
        ClusterView {
            server,
            cache,
            cx,
            until,
            known: RefCell::new(Known::of(known)),
            import_mark: Some(Expect::Absent),
            in_all_sets: false,
            has_earlier: Cell::new(false),
            owners: RefCell::default(),
            nodes: RefCell::default(),
            search: Search::default(),
            lost_commits: Cell::default(),
            unresolved: RefCell::default(),
            warnings: RefCell::default(),
        }
    }

    /// Returns the record at a path, if it is known.
    pub fn known_entry(&self, path: &str) -> Option<Entry> {
        self.known.borrow().entry(path).cloned()
    }

    /// Returns the record at a path. If nothing is known about the path, assumes that there is no record.
    pub fn assume_absent(&self, path: String) -> Option<Entry> {
        let mut known = self.known.borrow_mut();
        if let Some(entry) = known.get(&path) {
            return entry.clone();
        }
        known.assumed.insert(path, Expect::Absent);
        None
    }

    /// Returns whether there is a record at a path. If nothing is known about the path, assumes that there is
    /// a record.
    pub fn assume_present(&self, path: String) -> bool {
        let mut known = self.known.borrow_mut();
        if let Some(entry) = known.get(&path) {
            return entry.is_some();
        }
        known.assumed.insert(path, Expect::Present);
        true
    }

    /// Returns the record at a path. Reads the record from the server if nothing is known about the path.
    pub fn read(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        if self.known.borrow().get(path).is_none() {
            self.fetch(&[path.to_owned()])?;
        }
        Ok(self.known_entry(path))
    }

    /// Returns the decoded record at a path. Reads the record from the server if nothing is known about the
    /// path.
    pub fn decoded<T>(
        &self,
        path: &str,
        decode: impl FnOnce(&str, &Entry) -> Result<T, Bad>,
    ) -> Result<Option<T>, StoreError> {
        let entry = self.read(path)?;
        entry.map(|entry| checked(self.server, path, decode(path, &entry))).transpose()
    }

    /// Reads the records at these paths, in as few round trips as possible.
    pub fn fetch(&self, paths: &[String]) -> Result<(), StoreError> {
        for some in paths.chunks(self.server.max_operations().max(1)) {
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            let found = self.server.get(&some, self.until)?;
            self.known.borrow_mut().remember(found);
        }
        Ok(())
    }

    /// Returns the paths about which an assumption was made.
    pub fn assumed(&self) -> Vec<String> {
        self.known.borrow().assumed.keys().cloned().collect()
    }

    /// Discards all known records, because they may be outdated: a transaction may have been applied.
    pub fn forget_all(&self) {
        self.known.take();
        self.owners.take();
    }

    /// Reads all records below a prefix, unless they have been listed already.
    pub fn list(&self, prefix: String) -> Result<(), StoreError> {
        if !self.known.borrow().is_listed(&prefix) {
            let found = self.server.list(&prefix, self.until)?;
            self.known.borrow_mut().remember_list(prefix, found);
        }
        Ok(())
    }

    /// Returns the known records below a prefix.
    pub fn below(&self, prefix: &str) -> Vec<(String, Entry)> {
        let known = self.known.borrow();
        known.below(prefix).map(|(path, entry)| (path.clone(), entry.clone())).collect()
    }

    /// Decodes the holder in the record of an address.
    pub fn holder_in(
        &self,
        set: &SetName,
        addr: Addr,
        entry: &Entry,
    ) -> Result<Holder, StoreError> {
        let path = keys::address(set, addr);
        let holder = records::holder(&path, set, addr, entry, Some(&self.cx.node));
        checked(self.server, &path, holder)
    }

    /// Reads the records of all nodes, unless they are already known. Returns true if this call has read the
    /// records and at least one node may have leases of an earlier boot.
    pub fn fetch_nodes(&self) -> Result<bool, StoreError> {
        if self.nodes.borrow().is_some() {
            return Ok(false);
        }
        let decode = |path: &str, entry: &Entry| Ok((records::node(path, entry)?, entry.clone()));
        let nodes = records::list(self.server, keys::NODE, self.until, decode)?;
        let has_ended = nodes.iter().any(|(record, _)| record.has_earlier);
        let by_name = nodes.into_iter().map(|node| (node.0.node.name.clone(), node));
        *self.nodes.borrow_mut() = Some(by_name.collect());
        Ok(has_ended)
    }

    /// Returns whether a lease has ended because its node has rebooted. The answer is based on this machine's
    /// current boot, and on the record of the lease's node if that record has been read. If the context has
    /// no boot ID, no lease counts as ended.
    pub fn has_ended(&self, lease: &Lease) -> bool {
        let ends_by = |(record, _): (NodeRecord, Entry)| {
            let (node, boot) = (record.node, record.boot);
            Context { boot, node, ..self.cx.clone() }.has_ended(lease)
                && !is_newer(lease, record.booted)
        };
        let has_ended = self.cx.has_ended(lease) && !is_newer(lease, self.cx.booted);
        self.cx.boot.is_some() && (has_ended || self.node_of(lease).is_some_and(ends_by))
    }

    /// Returns whether the holder of an address is a lease that has ended.
    pub fn is_of_ended(&self, holder: &Holder) -> bool {
        matches!(holder, Holder::Leased(lease) if self.has_ended(lease))
    }

    /// Returns the record of a lease's node, if the nodes have been read. If a conflict has reported a newer
    /// record of the node, returns the newer record.
    fn node_of(&self, lease: &Lease) -> Option<(NodeRecord, Entry)> {
        let nodes = self.nodes.borrow();
        let listed = nodes.as_ref()?.get(&lease.node.name)?;
        if listed.0.node != lease.node {
            return None;
        }
        let path = keys::node(&lease.node.name);
        let known = self.known.borrow();
        let Some(entry) = known.get(&path) else { return Some(listed.clone()) };
        let entry = entry.clone()?;
        Some((records::node(&path, &entry).ok()?, entry))
    }

    /// Makes the transaction compare the record of a lease's node. This is needed if a transaction depends on
    /// the lease having ended: the node may have rebooted since its record was read, and the lease may belong
    /// to the new boot.
    pub fn compare_node_of(&self, lease: &Lease) {
        if let Some((_, entry)) = self.node_of(lease) {
            self.known.borrow_mut().derive(keys::node(&lease.node.name), entry);
        }
    }

    /// Returns the reservation under a lease: the reservation of the same address for the name of the lease's
    /// container. This reservation holds the address once the lease has been freed or has ended.
    pub fn reservation_under(&self, lease: &Lease) -> Result<Option<Lease>, StoreError> {
        let name = StaticName::of(&lease.origin).filter(|_| lease.kind == Kind::Named);
        let path = name.and_then(|name| keys::owner(&lease.set, &lease.node, &Owner::Named(name)));
        let Some(path) = path else { return Ok(None) };
        let Some(entry) = self.read(&path)? else { return Ok(None) };
        Ok(self.leases_in(&path, &entry)?.into_iter().find(|l| l.addr == lease.addr))
    }

    /// Decodes the holder in the record of an address. If the lease has ended, the address counts as free, or
    /// as reserved if there is a reservation under the lease.
    pub fn living_holder(
        &self,
        set: &SetName,
        addr: Addr,
        entry: &Entry,
    ) -> Result<Holder, StoreError> {
        let holder = self.holder_in(set, addr, entry)?;
        self.without_ended(holder)
    }

    /// Returns `holder`, unless it is a lease that has ended. In that case, returns the reservation under the
    /// lease, or [`Holder::Free`] if there is none.
    pub fn without_ended(&self, holder: Holder) -> Result<Holder, StoreError> {
        match holder {
            Holder::Leased(lease) if self.has_ended(&lease) => {
                let reserved = self.reservation_under(&lease)?;
                Ok(reserved.map_or(Holder::Free, |lease| Holder::Leased(Box::new(lease))))
            }
            living => Ok(living),
        }
    }

    /// Decodes the leases in an owner's record.
    pub fn leases_in(&self, path: &str, entry: &Entry) -> Result<Vec<Lease>, StoreError> {
        Ok(checked(self.server, path, records::owner(path, entry))?.1)
    }

    /// Returns whether an address cannot be leased, according to its known record.
    pub fn is_held(&self, set: &SetName, addr: Addr) -> Result<bool, StoreError> {
        let entry = self.known_entry(&keys::address(set, addr));
        Ok(match entry.map(|entry| self.living_holder(set, addr, &entry)).transpose()? {
            Some(Holder::Leased(_)) => true,
            // When a cooldown ends, its record stays until a command leases the address.
            Some(Holder::Cooling(c)) => !c.over(self.cx.now),
            Some(Holder::Free) | None => false,
        })
    }

    /// Derives the record of a lease's address from the record of the lease's owner, `of_owner`. This saves a
    /// read, and is possible because both records are always written together. If the record of the address
    /// is already known, returns whether it names the same owner; otherwise returns true.
    pub fn derive_address(&self, lease: &Lease, of_owner: &Entry) -> Result<bool, StoreError> {
        let path = keys::address(&lease.set, lease.addr);
        let entry = self.known.borrow().get(&path).cloned();
        match entry {
            Some(Some(entry)) => Ok(matches!(
                self.holder_in(&lease.set, lease.addr, &entry)?,
                Holder::Leased(held) if held.owner == lease.owner
            )),
            Some(None) => Ok(false),
            None => {
                let holder = Holder::Leased(Box::new(lease.clone()));
                let mut value = of_owner.value.clone();
                value.truncate(of_owner.value.len() - of_owner.record().len());
                value.extend(codec::slot(path.as_bytes(), &holder, "").unwrap_or_default());
                let entry = Entry { version: of_owner.version, value };
                self.known.borrow_mut().derive(path, entry);
                Ok(true)
            }
        }
    }

    /// Returns the owners on this node and their leases in all sets. The owners are listed only once per
    /// command. Leaves out leases that a copy of this machine has made since this machine booted.
    pub fn owners(&self) -> Result<Owners, StoreError> {
        if let Some(owners) = self.owners.borrow().as_ref() {
            return Ok(owners.clone());
        }
        let prefix = keys::all_owners(&self.cx.node.name);
        self.known.borrow_mut().invalidate(&prefix);
        self.list(prefix.clone())?;
        let mut owners = BTreeMap::<Owner, Vec<Lease>>::new();
        for (path, entry) in self.below(&prefix) {
            let leases = self.leases_in(&path, &entry)?;
            for lease in leases.into_iter().filter(|lease| !self.is_of_copy(lease)) {
                owners.entry(lease.owner.clone()).or_default().push(lease);
            }
        }
        let owners = Rc::new(owners.into_iter().collect::<Vec<_>>());
        *self.owners.borrow_mut() = Some(owners.clone());
        Ok(owners)
    }

    /// Returns whether a lease of this node was made in another boot, but after the current boot began. The
    /// reason is either a copy of this machine or a clock that was changed. Such a lease counts as in use.
    fn is_of_copy(&self, lease: &Lease) -> bool {
        let is_of_copy = self.cx.has_ended(lease) && is_newer(lease, self.cx.booted);
        if is_of_copy {
            self.warn(format!(
                "{} was leased in a different boot of this machine, but after the current boot began, so the \
                 address stays in use; check whether a copy of this machine has the same machine-id, or \
                 whether the clock was changed",
                lease.addr
            ));
        }
        is_of_copy
    }

    /// Adds a warning that is returned with the outcome of the command.
    pub fn warn(&self, text: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Returns the pools of a Docker address space, as they were when they were created.
    pub fn pools(&self, space: &str) -> Result<Vec<Pool>, StoreError> {
        let pools = self.decoded(&keys::named(keys::SPACE, space), records::plain)?;
        Ok(pools.unwrap_or_default())
    }

    /// Returns the address in a hint (a record that may be outdated, such as a cursor). Ignores a
    /// hint that cannot be decoded, because a later command overwrites it.
    pub fn hint(&self, path: &str) -> Result<Option<Addr>, StoreError> {
        Ok(self.read(path)?.and_then(|entry| records::plain(path, &entry).ok()))
    }
}

/// Returns whether a lease was made after the time `booted`, at which a boot began. Returns false if this
/// time is unknown.
fn is_newer(lease: &Lease, booted: Option<Timestamp>) -> bool {
    booted.is_some_and(|booted| lease.time > booted)
}
