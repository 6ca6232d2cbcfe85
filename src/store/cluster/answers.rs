//! Answers the allocator's queries ([`Addresses`] and [`View`]) in a cluster. Decides which queries are
//! answered with an assumption, and which require a read.
//!
//! A search for a free address takes only a few round trips, even in a full set. It first assumes that one
//! address is free. If the assumption is wrong, the search lists the chunk (/24 or /120) that contains the
//! address. If the chunk is full, the search counts the records in whole ranges and lists a chunk that is not
//! full. The allocator decides in which order addresses are tried.

use std::collections::BTreeSet;

use super::records::{bad_record, checked};
use super::server::Expect;
use super::view::ClusterView;
use super::{keys, records};
use crate::alloc::{Addresses, Cooling, Draining, Holder, NetworkRanges, Order, PodKey, View};
use crate::error::StoreError;
use crate::model::{Lease, NetworkDefinition, NetworkName, Owner, Pool, PoolId, SetName};
use crate::net::{Addr, Family, Span, Subnet};

/// The maximum number of chunks that one search lists. A limit is needed, because other clients may fill
/// every chunk in the time between the count of its records and its listing.
const MAX_CHUNKS: usize = 5;

impl ClusterView<'_> {
    /// Returns the leases in an owner's record. If the record is not known, assumes that it is absent. Fails
    /// if the records of the addresses contradict the owner's record.
    fn leases_at(&self, path: &str, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        for may_repeat in [true, false] {
            let Some(entry) = self.assume_absent(path.to_owned()) else {
                return Ok(Vec::new());
            };
            let leases = self.leases_in(path, &entry)?;
            if matches!(owner, Owner::Named(_)) {
                // Do not compare the records of the addresses: they may contain other leases, because the
                // container for which an address is reserved may have leased it.
                return Ok(leases);
            }
            let mut agree = true;
            for lease in &leases {
                agree &= lease.owner == *owner && self.derive_address(lease, &entry)?;
            }
            if agree {
                return Ok(leases.into_iter().filter(|l| !self.has_ended(l)).collect());
            }
            if may_repeat {
                // The records may have been read at different moments. Read them again in one request:
                // records of the same moment must agree.
                let addresses = leases.iter().map(|l| keys::address(&l.set, l.addr));
                self.fetch(&addresses.chain([path.to_owned()]).collect::<Vec<_>>())?;
            }
        }
        Err(bad_record(
            self.server,
            path,
            "the owner record lists an address that a different owner holds",
        ))
    }

    /// Finds a free address in the span, with few round trips.
    fn find_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError> {
        // Assume that the first address of the span is free, unless the search is for the lowest address,
        // which is probably in use. In round robin, the span starts after the address that was allocated
        // last, so its first address is probably free.
        let guess = order == Order::Any || self.search.round_robin.get();
        if guess && !self.search.list_chunks.get() && !self.is_held(set, span.first)? {
            return Ok(Some(self.choose(set, span.first)));
        }
        let is_counted = self.search.count_ranges.get();
        let mut from = if is_counted { self.find_room(set, span)? } else { Some(span.first) };
        for _ in 0..MAX_CHUNKS {
            let Some(rest) = from.and_then(|from| span.starting(from)) else { break };
            if let Some(addr) = self.pick_in_chunk(set, rest, order)? {
                return Ok(Some(addr));
            }
            if keys::chunk_of(span.first).contains(span.last) {
                // The chunk that was just listed contains the whole span.
                break;
            }
            self.search.count_ranges.set(true);
            from = self.find_room(set, span)?;
        }
        Ok(None)
    }
}

impl Addresses for ClusterView<'_> {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        match self.assume_absent(keys::address(set, addr)) {
            Some(entry) => self.living_holder(set, addr, &entry),
            None => Ok(Holder::Free),
        }
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        let Some(path) = keys::owner(set, &self.cx.node, owner) else {
            return Ok(Vec::new());
        };
        let all = keys::all_owners(&self.cx.node.name);
        if !self.in_all_sets || !path.starts_with(&all) {
            return self.leases_at(&path, owner);
        }
        self.list(all.clone())?;
        let mut leases = Vec::new();
        for (path, _) in self.below(&all) {
            let set = keys::read_owner_set(&path);
            if set.and_then(|set| keys::owner(&set, &self.cx.node, owner)).as_ref() == Some(&path) {
                leases.extend(self.leases_at(&path, owner)?);
            }
        }
        Ok(leases)
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError> {
        let last = self.hint(&keys::of_address(keys::CURSOR, set, range))?;
        self.search.round_robin.set(last.is_some());
        Ok(last)
    }

    fn next_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError> {
        // A span that was found to be full is not searched again. Before an ADD is refused, all these spans
        // are counted again.
        let is_full = self.search.full.borrow().get(set).is_some_and(|full| full.contains(&span));
        if !is_full && let Some(addr) = self.find_free(set, span, order)? {
            return Ok(Some(addr));
        }
        if let Some(addr) = self.find_ended(set, span)? {
            return Ok(Some(self.choose(set, addr)));
        }
        self.search.full.borrow_mut().entry(set.clone()).or_default().insert(span);
        Ok(None)
    }

    fn cooling(&self, _: &SetName, _: Family, _: usize) -> Result<Vec<Cooling>, StoreError> {
        // A cluster does not look for addresses whose cooldown has ended. Such an address is leased when a
        // search for a free address finds it.
        Ok(Vec::new())
    }

    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        let folder = keys::of_set(keys::COOLING, set);
        self.list(folder.clone())?;
        let mut found = Vec::new();
        for (path, entry) in self.below(&folder) {
            let Some((_, addr)) = keys::read_of_address(keys::COOLING, &path) else { continue };
            let here = addr.family() == family && spans.iter().any(|s| s.contains(addr));
            let holder = records::holder(&path, set, addr, &entry, Some(&self.cx.node));
            if here && let Holder::Cooling(cooling) = checked(self.server, &path, holder)? {
                found.push(cooling);
            }
        }
        found.sort();
        for cooling in found {
            // Read the record of the address, which is authoritative. It may have changed since the index of
            // cooling addresses was read.
            let entry = self.read(&keys::address(set, cooling.addr))?;
            if let Some(entry) = entry
                && let Holder::Cooling(cooling) = self.holder_in(set, cooling.addr, &entry)?
            {
                return Ok(Some(cooling));
            }
        }
        Ok(None)
    }
}

impl View for ClusterView<'_> {
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError> {
        self.hint(&keys::sticky(set, pod, range))
    }

    fn adopted(&self, network: &NetworkName) -> Result<bool, StoreError> {
        let path = keys::named(keys::ADOPTED, network.as_str());
        match self.import_mark {
            None => Ok(false),
            Some(Expect::Present) => Ok(self.assume_present(path)),
            Some(_) => Ok(self.assume_absent(path).is_some()),
        }
    }

    fn draining(&self, set: &SetName) -> Result<Vec<Draining>, StoreError> {
        let path = keys::named(keys::DRAINING, &set.0);
        let Some(entry) = self.assume_absent(path.clone()) else { return Ok(Vec::new()) };
        checked(self.server, &path, records::draining(&path, &entry))
    }

    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError> {
        Ok(self.cache.has_ranges(ranges, self.cx))
    }

    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError> {
        // An ADD needs the networks only for a warning, which is not worth a round trip.
        Ok(Vec::new())
    }

    /// Returns a page of leases for a GC or an EVICT. Includes only owners of this node, because a container
    /// runtime knows only the containers of its own node. Includes the owners of all sets, because the
    /// `shared` setting of the network, which selects the set, may have been changed.
    fn page(
        &self,
        _: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let owners = self.owners()?;
        let from = after.map_or(0, |after| owners.partition_point(|(o, _)| o <= after));
        Ok(owners[from..].iter().take(limit).flat_map(|(_, leases)| leases.clone()).collect())
    }

    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError> {
        self.decoded(&keys::named(keys::POOL, &id.0), records::plain)
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

    /// Returns a page of a pool's leases, for all nodes. Before the first page, the pool's addresses are
    /// listed again, because a conflict may have reported a lease that is missing from an earlier listing.
    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let set = pool.set();
        let prefix = keys::of_set(keys::ADDRESS, &set);
        if after.is_none() {
            self.known.borrow_mut().invalidate(&prefix);
            self.list(prefix.clone())?;
        }
        let mut leases = Vec::new();
        let known = self.known.borrow();
        let after = after.map_or_else(|| prefix.clone(), |after| keys::address(&set, after));
        for (path, entry) in known.below_from(&prefix, &after) {
            if leases.len() == limit {
                break;
            }
            if let Some((_, addr)) = keys::read_address(path)
                && let Holder::Leased(lease) = self.holder_in(&set, addr, entry)?
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
        self.decoded(&keys::named(keys::NETWORK, name.as_str()), records::definition)
    }

    fn capacity(&self) -> usize {
        // Each freed lease takes at most three operations: the records of the address and of the owner, and
        // the entry in the index of cooling addresses. Each transaction also compares the node's record and
        // writes history.
        self.server.max_operations().saturating_sub(2) / 3
    }
}
