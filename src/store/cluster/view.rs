//! What one command knows, assumes and has used: the allocator's view of a cluster.
//!
//! Owns: which question is answered by an assumption and which by a look. Does not own: the search for
//! a free address (`search`), commits (`cas`), records (`codec`).
//! Invariant: what is answered without looking is in `assumed_absent` until it was compared or looked at;
//! what is known was true of one moment since the command began.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use super::history;
use super::history::HistoryWriter;
use super::keys;
use super::node;
use super::node::NameClaim;
use super::search::Search;
use super::server::{Entries, Entry, Server};
use crate::alloc::{Addresses, Context, Cooling, Holder, NetworkRanges, Order, PodKey, View};
use crate::error::StoreError;
use crate::model::{
    Lease, NetworkDefinition, NetworkName, NodeRecord, Owner, Pool, PoolId, SetName,
};
use crate::net::{Addr, Family, Span, Subnet};
use crate::store::codec;
use crate::store::codec::Bad;

/// All owners of a node in a set, in their order, with what they hold.
pub type Owners = Rc<Vec<(Owner, Vec<Lease>)>>;

/// What a command has to do with the leases that another program kept on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Old {
    /// Nothing: whether they were taken over makes no difference to it.
    No,
    /// They were taken over, most probably.
    Probably,
    /// That has to be looked at.
    Look,
}

/// What one command knows.
pub struct ClusterView<'a> {
    pub server: &'a dyn Server,
    pub cx: &'a Context,
    pub until: Instant,
    /// Read from the server, or told by a conflict.
    pub known: RefCell<Entries>,
    /// Answered without looking: as absent.
    pub assumed_absent: RefCell<BTreeSet<String>>,
    /// Answered without looking: as there.
    pub assumed_present: RefCell<BTreeSet<String>>,
    /// Where another program's leases may be, too.
    pub old: Old,
    /// Prefixes listed whole: what is not known below them is not there.
    pub listed: RefCell<BTreeSet<String>>,
    /// There is a record, and no more is known of it.
    pub taken: RefCell<BTreeSet<String>>,
    /// What GC listed.
    pub owners: RefCell<Option<Owners>>,
    /// Whether the node's record goes with every change.
    pub claim: NameClaim,
    /// Which boots nodes are in; looked at only before something is refused.
    pub nodes: RefCell<Option<Vec<(NodeRecord, Entry)>>>,
    /// Set when a lease was sent and may be made yet.
    pub in_flight: Option<&'a Cell<bool>>,
    /// Nothing of an earlier boot is left of the set.
    pub settled: bool,
    /// Where what happens is written down.
    pub history: Option<HistoryWriter<'a>>,
    /// Whether a network's ranges are written down as these.
    pub has_ranges: Option<&'a dyn Fn(&NetworkRanges) -> bool>,
    /// What the search for free addresses has met.
    pub search: Search,
    /// "What if these are held?" While this is asked, nothing is looked at.
    pub hypothetical: RefCell<Option<BTreeSet<String>>>,
}

impl<'a> ClusterView<'a> {
    /// Nothing but what is told.
    pub fn new(
        server: &'a dyn Server,
        cx: &'a Context,
        until: Instant,
        known: Entries,
    ) -> ClusterView<'a> {
        ClusterView {
            server,
            cx,
            until,
            known: RefCell::new(known),
            assumed_absent: RefCell::default(),
            assumed_present: RefCell::default(),
            old: Old::Look,
            listed: RefCell::default(),
            taken: RefCell::default(),
            owners: RefCell::default(),
            claim: NameClaim::NotNeeded,
            nodes: RefCell::default(),
            in_flight: None,
            settled: false,
            history: None,
            has_ranges: None,
            search: Search::default(),
            hypothetical: RefCell::default(),
        }
    }
}

impl ClusterView<'_> {
    /// Whether the server may be asked.
    pub fn check_not_hypothetical(&self) -> Result<(), StoreError> {
        if self.hypothetical.borrow().is_none() {
            return Ok(());
        }
        Err(StoreError::unavailable("ask", self.server.place(), "this is about what might be"))
    }

    /// The record, or the assumption that there is none.
    pub fn assume_absent(&self, path: String) -> Result<Option<Entry>, StoreError> {
        if self.taken.borrow().contains(&path) {
            return self.read(&path);
        }
        if let Some(entry) = self.known.borrow().get(&path) {
            return Ok(entry.clone());
        }
        if !self.is_listed(&path) {
            self.assumed_absent.borrow_mut().insert(path);
        }
        Ok(None)
    }

    /// Whether the record is there; yes, as long as nothing else is known.
    fn assume_present(&self, path: String) -> bool {
        if let Some(entry) = self.known.borrow().get(&path) {
            return entry.is_some();
        }
        self.assumed_present.borrow_mut().insert(path);
        true
    }

    fn is_listed(&self, path: &str) -> bool {
        self.listed.borrow().iter().any(|prefix| path.starts_with(prefix.as_str()))
    }

    /// The record, looked at if it is not known.
    pub fn read(&self, path: &str) -> Result<Option<Entry>, StoreError> {
        if !self.known.borrow().contains_key(path) && !self.is_listed(path) {
            self.fetch(&[path.to_owned()])?;
        }
        Ok(self.known.borrow().get(path).cloned().flatten())
    }

    /// Looks at these paths, in as few trips as there is room for.
    pub fn fetch(&self, paths: &[String]) -> Result<(), StoreError> {
        self.check_not_hypothetical()?;
        for some in paths.chunks(self.server.max_operations().max(1)) {
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            self.remember(self.server.get(&some, self.until)?);
        }
        Ok(())
    }

    /// Keeps what the server said.
    pub fn remember(&self, entries: Entries) {
        let (mut assumed_absent, mut taken) =
            (self.assumed_absent.borrow_mut(), self.taken.borrow_mut());
        for (path, entry) in entries {
            assumed_absent.remove(&path);
            self.assumed_present.borrow_mut().remove(&path);
            taken.remove(&path);
            self.known.borrow_mut().insert(path, entry);
        }
    }

    /// Forgets everything: a commit may or may not have happened.
    pub fn forget(&self) {
        self.known.borrow_mut().clear();
        self.assumed_absent.borrow_mut().clear();
        self.assumed_present.borrow_mut().clear();
        self.listed.borrow_mut().clear();
        self.taken.borrow_mut().clear();
        self.owners.borrow_mut().take();
        self.search.counted.borrow_mut().clear();
    }

    /// Looks at everything below a prefix.
    pub fn list(&self, prefix: String) -> Result<(), StoreError> {
        if self.is_listed(&prefix) {
            return Ok(());
        }
        self.check_not_hypothetical()?;
        let found = self.server.list(&prefix, self.until)?;
        let mut known = self.known.borrow_mut();
        known.retain(|path, _| !path.starts_with(&prefix));
        known.extend(found.into_iter().map(|(path, entry)| (path, Some(entry))));
        self.assumed_absent.borrow_mut().retain(|path| !path.starts_with(&prefix));
        self.taken.borrow_mut().retain(|path| !path.starts_with(&prefix));
        self.listed.borrow_mut().insert(prefix);
        Ok(())
    }

    /// What is listed below a prefix is out of date.
    pub fn invalidate(&self, prefix: &str) {
        self.listed.borrow_mut().retain(|listed| !listed.starts_with(prefix));
    }

    /// The known records below a prefix.
    pub fn entries_below(&self, prefix: &str) -> Vec<(String, Entry)> {
        let known = self.known.borrow();
        let below = known.range(prefix.to_owned()..).take_while(|(p, _)| p.starts_with(prefix));
        below.filter_map(|(path, entry)| Some((path.clone(), entry.clone()?))).collect()
    }

    /// What an address's record says.
    pub fn slot(&self, set: &SetName, addr: Addr, entry: &Entry) -> Result<Holder, StoreError> {
        let path = keys::address(set, addr);
        self.checked(&path, codec::read_slot(path.as_bytes(), set, addr, &entry.value))
    }

    /// What a record of a cooling address says.
    pub fn kept_back(
        &self,
        path: &str,
        set: &SetName,
        addr: Addr,
        entry: &Entry,
    ) -> Result<Holder, StoreError> {
        self.checked(path, codec::read_slot(path.as_bytes(), set, addr, &entry.value))
    }

    /// Learns which boots all nodes are in; `false`: that was known, or none had another boot before.
    pub fn fetch_nodes(&self) -> Result<bool, StoreError> {
        if self.nodes.borrow().is_some() {
            return Ok(false);
        }
        let nodes = node::list_entries(self.server, self.until)?;
        let rebooted = nodes.iter().any(|(record, _)| record.since != record.first);
        *self.nodes.borrow_mut() = Some(nodes);
        Ok(rebooted)
    }

    /// Whether a lease has ended with its boot.
    pub fn has_ended(&self, lease: &Lease) -> bool {
        let record = self.node_of(lease).map(|(record, _)| record);
        node::has_ended(lease, self.cx, record.as_slice())
    }

    /// The record of a lease's node, once all are known: as a conflict told it since, if one did.
    fn node_of(&self, lease: &Lease) -> Option<(NodeRecord, Entry)> {
        let nodes = self.nodes.borrow();
        let listed = nodes.as_ref()?.iter().find(|(record, _)| record.node == lease.node)?;
        let path = keys::node(&lease.node.name);
        let known = self.known.borrow();
        let Some(entry) = known.get(&path) else { return Some(listed.clone()) };
        let entry = entry.clone()?;
        let record = codec::read_node(path.as_bytes(), &lease.node.name, &entry.value).ok()?;
        Some((record, entry))
    }

    /// What is written rests on it that this lease has ended: its node's record is compared. Since that
    /// was looked at, the node may have booted again, and this be a lease of its new boot.
    pub fn compare_node_of(&self, lease: &Lease) {
        if let Some((_, entry)) = self.node_of(lease) {
            let path = keys::node(&lease.node.name);
            self.known.borrow_mut().entry(path).or_insert(Some(entry));
        }
    }

    /// Who has an address: nobody, if that has ended.
    pub fn living_holder(
        &self,
        set: &SetName,
        addr: Addr,
        entry: &Entry,
    ) -> Result<Holder, StoreError> {
        Ok(match self.slot(set, addr, entry)? {
            Holder::Leased(lease) if self.has_ended(&lease) => Holder::Free,
            other => other,
        })
    }

    /// What an owner's record says.
    pub fn owned(
        &self,
        path: &str,
        set: &SetName,
        entry: &Entry,
    ) -> Result<Vec<Lease>, StoreError> {
        self.checked(path, codec::read_owned(path.as_bytes(), set, &entry.value))
    }

    /// The value, or the damage.
    pub fn checked<T>(&self, path: &str, read: Result<T, Bad>) -> Result<T, StoreError> {
        read.map_err(|Bad(what)| bad_record(self.server, path, what))
    }

    /// Whether a known record keeps an address from being chosen.
    pub fn is_held(&self, set: &SetName, addr: Addr) -> Result<bool, StoreError> {
        let path = keys::address(set, addr);
        let hypothetical = self.hypothetical.borrow().as_ref().is_some_and(|s| s.contains(&path));
        if hypothetical || self.taken.borrow().contains(&path) {
            return Ok(true);
        }
        let entry = self.known.borrow().get(&path).cloned().flatten();
        Ok(match entry.map(|entry| self.living_holder(set, addr, &entry)).transpose()? {
            Some(Holder::Leased(_)) => true,
            // Nobody clears away what has cooled down: whoever comes upon it takes it.
            Some(Holder::Cooling(c)) => !c.over(self.cx.now),
            Some(Holder::Free) | None => false,
        })
    }

    /// Takes the word of an owner's record for an address's: they are always written together.
    /// `false`: the address's own record is known, and says something else.
    pub fn derive_address(&self, lease: &Lease, version: u64) -> Result<bool, StoreError> {
        let path = keys::address(&lease.set, lease.addr);
        let entry = self.known.borrow().get(&path).cloned();
        match entry {
            Some(Some(entry)) => Ok(matches!(
                self.slot(&lease.set, lease.addr, &entry)?,
                Holder::Leased(held) if held.owner == lease.owner
            )),
            Some(None) => Ok(false),
            None if self.is_listed(&path) => Ok(false),
            None => {
                self.taken.borrow_mut().remove(&path);
                let holder = Holder::Leased(Box::new(lease.clone()));
                let value = codec::slot(path.as_bytes(), &holder).unwrap_or_default();
                self.known.borrow_mut().insert(path, Some(Entry { version, value }));
                Ok(true)
            }
        }
    }

    /// Every owner of this node, looked at once in a command.
    pub fn owners(&self, set: &SetName) -> Result<Owners, StoreError> {
        if let Some(owners) = self.owners.borrow().as_ref() {
            return Ok(owners.clone());
        }
        let prefix = keys::node_owners(set, &self.cx.node);
        self.invalidate(&prefix);
        self.list(prefix.clone())?;
        let mut owners = Vec::new();
        let known = self.known.borrow();
        for (path, entry) in
            known.range(prefix.clone()..).take_while(|(p, _)| p.starts_with(&prefix))
        {
            let Some(entry) = entry else { continue };
            let leases = self.owned(path, set, entry)?;
            owners.extend(leases.first().map(|l| l.owner.clone()).map(|owner| (owner, leases)));
        }
        owners.sort_by(|(a, _), (b, _)| a.cmp(b));
        let owners = Rc::new(owners);
        *self.owners.borrow_mut() = Some(owners.clone());
        Ok(owners)
    }
}

/// A record that is not what was written.
pub fn bad_record(server: &dyn Server, path: &str, what: &str) -> StoreError {
    let place = server.place();
    if what == codec::OTHER_VERSION.0 {
        return StoreError::OtherVersion { place: format!("the record {path} in {place}") };
    }
    StoreError::BadRecord { place, key: path.to_owned(), what: what.to_owned() }
}

impl Addresses for ClusterView<'_> {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        match self.assume_absent(keys::address(set, addr))? {
            Some(entry) => self.living_holder(set, addr, &entry),
            None => Ok(Holder::Free),
        }
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        let Some(path) = keys::owner(set, &self.cx.node, owner) else {
            return Ok(Vec::new());
        };
        for look_again in [true, false] {
            let Some(entry) = self.assume_absent(path.clone())? else {
                return Ok(Vec::new());
            };
            let leases = self.owned(&path, set, &entry)?;
            let mut agree = true;
            for lease in &leases {
                agree &= lease.owner == *owner && self.derive_address(lease, entry.version)?;
            }
            if agree {
                return Ok(leases.into_iter().filter(|l| !self.has_ended(l)).collect());
            }
            if look_again {
                // Learned at two moments, perhaps; at one they must agree.
                let ips = leases.iter().map(|l| keys::address(set, l.addr));
                self.fetch(&ips.chain([path.clone()]).collect::<Vec<_>>())?;
            }
        }
        Err(bad_record(self.server, &path, "it names an address that is not this owner's"))
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError> {
        let last = self.hint(&keys::cursor(set, range))?;
        self.search.round_robin.set(last.is_some());
        Ok(last)
    }

    fn next_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError> {
        self.find_free(set, span, order)
    }

    fn cooling(&self, _: &SetName, _: Family, _: usize) -> Result<Vec<Cooling>, StoreError> {
        // What has cooled down is taken where it is met, not searched for.
        Ok(Vec::new())
    }

    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        self.find_first_cooling(set, family, spans)
    }
}

impl View for ClusterView<'_> {
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError> {
        self.hint(&keys::sticky(set, pod, range))
    }

    fn adopted(&self, network: &NetworkName) -> Result<bool, StoreError> {
        let path = keys::adopted(network);
        match self.old {
            Old::No => Ok(false),
            Old::Look => Ok(self.assume_absent(path)?.is_some()),
            Old::Probably => Ok(self.assume_present(path)),
        }
    }

    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError> {
        Ok(self.has_ranges.is_none_or(|has_ranges| has_ranges(ranges)))
    }

    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError> {
        // No trip for a warning.
        Ok(Vec::new())
    }

    /// This node's owners alone: a runtime knows of no other node's containers.
    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let owners = self.owners(set)?;
        let from = after.map_or(0, |after| owners.partition_point(|(o, _)| o <= after));
        Ok(owners[from..].iter().take(limit).flat_map(|(_, leases)| leases.clone()).collect())
    }

    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError> {
        let path = keys::pool(id);
        let read = |entry: Entry| codec::read_pool(path.as_bytes(), &entry.value);
        self.read(&path)?.map(|entry| self.checked(&path, read(entry))).transpose()
    }

    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError> {
        let mut pools = self.pools(space)?;
        pools.retain(|p| Span::from(p.subnet).overlaps(Span::from(subnet)));
        Ok(pools.into_iter().min_by_key(|p| p.subnet))
    }

    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>, StoreError> {
        let taken: BTreeSet<Subnet> = self.pools(space)?.iter().map(|p| p.subnet).collect();
        let mut block = Subnet::masked(from.max(within.first()), len);
        while let Some(b) = block.filter(|b| within.contains(b.first())) {
            if b.first() >= from && !taken.contains(&b) {
                return Ok(Some(b));
            }
            block = b.last().next().and_then(|next| Subnet::masked(next, len));
        }
        Ok(None)
    }

    /// Of all nodes, and each time anew: a conflict may have told of a lease that was not listed.
    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let set = pool.set();
        let prefix = keys::addresses(&set);
        if after.is_none() {
            self.invalidate(&prefix);
            self.list(prefix.clone())?;
        }
        let mut leases = Vec::new();
        let known = self.known.borrow();
        for (path, entry) in
            known.range(prefix.clone()..).take_while(|(p, _)| p.starts_with(&prefix))
        {
            let (Some(entry), Some((_, addr))) = (entry, keys::read_address(path)) else {
                continue;
            };
            if leases.len() < limit
                && after.is_none_or(|after| addr > after)
                && let Holder::Leased(lease) = self.slot(&set, addr, entry)?
                && matches!(&lease.owner, Owner::Pool(id, _) if *id == pool.id)
            {
                leases.push(*lease);
            }
        }
        Ok(leases)
    }

    fn has_other_nodes(&self) -> bool {
        true
    }

    fn definition(&self, name: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError> {
        let path = keys::definition(name);
        let read = |e: Entry| codec::read_definition(path.as_bytes(), name.clone(), &e.value);
        self.read(&path)?.map(|entry| self.checked(&path, read(entry))).transpose()
    }

    fn capacity(&self) -> usize {
        // A freed lease is at most three records: its address's, its owner's, and that it cools. The
        // node's is compared; what happened is written down.
        self.server.max_operations().saturating_sub(1 + history::OPERATIONS) / 3
    }
}

impl ClusterView<'_> {
    /// The pools of a space, as they were made.
    pub fn pools(&self, space: &str) -> Result<Vec<Pool>, StoreError> {
        let path = keys::space(space);
        let read = |entry: Entry| codec::read_pools(path.as_bytes(), &entry.value);
        Ok(self.read(&path)?.map(|e| self.checked(&path, read(e))).transpose()?.unwrap_or_default())
    }

    /// An address kept as a hint. One that cannot be read tells nothing, and is written anew.
    fn hint(&self, path: &str) -> Result<Option<Addr>, StoreError> {
        let entry = self.read(path)?;
        Ok(entry.and_then(|entry| codec::read_addr(path.as_bytes(), &entry.value).ok()))
    }
}

/// Records to be written; `None`: removed.
pub type Writes = BTreeMap<String, Option<Vec<u8>>>;
