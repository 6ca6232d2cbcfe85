//! The allocator's questions over a sorted table of bytes.
//!
//! Owns: which key answers which question, and the cross-check of occupancy and leases: what is
//! free is known twice, and where the two disagree the store is damaged and gives no address.
//! Invariant: a question costs a few look-ups, whatever the number of leases.

use std::cell::OnceCell;
use std::path::Path;

use super::policy::{Policy, Reservation};
use super::{keys, occupancy, pools};
use crate::alloc::{Addresses, Cooling, Holder, NetworkRanges, Order, PodKey, View};
use crate::error::StoreError;
use crate::model::{Kind, Lease, NetworkName, Owner, Pool, PoolId, SetName};
use crate::net::{Addr, Family, Span, Subnet};
use crate::store::codec;
use crate::store::codec::Bad;

/// What is done with each entry of a scan; `false` ends it.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError> + 'a;

/// A sorted table that can be read.
pub trait Kv {
    /// The value under a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Calls `each` with the entries from `from` to before `to`, in order, until it answers
    /// `false`.
    fn scan(&self, from: &[u8], to: &[u8], each: &mut Each<'_>) -> Result<(), StoreError>;

    /// The last key from `from` to before `to`.
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;
}

/// A sorted table that can be written.
pub trait KvMut: Kv {
    /// Writes one entry.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;
    /// Removes one entry.
    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError>;
}

/// The store's records over such a table.
pub struct Tables<'a, K> {
    /// The table.
    pub kv: K,
    /// The file, for messages.
    pub path: &'a Path,
    /// The policy, where the file's copy of it is not used.
    policy: OnceCell<Policy>,
    /// Finds what this file does not know of a pod in the files of earlier boots.
    pub earlier: Option<&'a Former<'a>>,
}

/// Finds a pod's former address of a range set.
pub type Former<'a> = dyn Fn(&SetName, &PodKey, Addr) -> Option<Addr> + 'a;

impl<'a, K> Tables<'a, K> {
    /// The records in `kv`, which is the file `path`.
    pub fn new(kv: K, path: &'a Path) -> Tables<'a, K> {
        Tables { kv, path, policy: OnceCell::new(), earlier: None }
    }
}

impl<K: Kv> Tables<'_, K> {
    /// This store is damaged.
    pub fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged { path: self.path.to_owned(), what: what.to_owned() }
    }

    /// The value, or the damage.
    pub fn whole<T>(&self, read: Result<T, Bad>) -> Result<T, StoreError> {
        read.map_err(|bad| match bad {
            codec::OTHER_VERSION => StoreError::other_version(self.path),
            Bad(what) => self.damaged(what),
        })
    }

    /// The lease of an address.
    pub fn lease(&self, set: &SetName, addr: Addr) -> Result<Option<Lease>, StoreError> {
        let key = keys::lease(set, addr);
        let bytes = self.kv.get(&key)?;
        bytes.map(|bytes| self.whole(codec::read_lease(&key, &bytes))).transpose()
    }

    /// The addresses of an owner.
    pub fn addrs(&self, key: &[u8]) -> Result<Vec<Addr>, StoreError> {
        match self.kv.get(key)? {
            None => Ok(Vec::new()),
            Some(bytes) => self.whole(codec::unseal(key, &bytes)),
        }
    }

    /// An address's cooling.
    pub fn cooling_of(&self, set: &SetName, addr: Addr) -> Result<Option<Cooling>, StoreError> {
        let key = keys::cooling(set, addr);
        let bytes = self.kv.get(&key)?;
        bytes.map(|bytes| self.whole(codec::read_cooling(&key, addr, &bytes))).transpose()
    }

    /// Calls `each` with every lease of a set, or of all sets.
    pub fn leases(
        &self,
        set: Option<&SetName>,
        each: &mut dyn FnMut(Lease) -> bool,
    ) -> Result<(), StoreError> {
        let from = keys::leases(set);
        self.kv.scan(&from, &keys::behind(&from), &mut |key, value| {
            Ok(each(self.whole(codec::read_lease(key, value))?))
        })
    }

    /// Whether a set has a lease of a container here: then the file is the set's home.
    pub fn is_home(&self, set: &SetName) -> Result<bool, StoreError> {
        let mut found = false;
        self.leases(Some(set), &mut |lease| {
            found = lease.kind.collectable();
            !found
        })?;
        Ok(found)
    }

    /// Whether a network has a lease of a container in a set here.
    pub fn has_network(&self, set: &SetName, network: &NetworkName) -> Result<bool, StoreError> {
        let (from, mut found) = (keys::of_network(set, network), false);
        self.kv.scan(&from, &keys::behind(&from), &mut |_, _| {
            found = true;
            Ok(false)
        })?;
        Ok(found)
    }

    /// The set that a network has leases in here: `likely`, or another that it drew from before its
    /// `shared` was changed.
    pub fn set_of_network(
        &self,
        likely: &SetName,
        network: &NetworkName,
    ) -> Result<Option<SetName>, StoreError> {
        let others = self.sets()?.into_iter().filter(|set| set != likely && !set.is_pools());
        for set in std::iter::once(likely.clone()).chain(others) {
            if self.has_network(&set, network)? {
                return Ok(Some(set));
            }
        }
        Ok(None)
    }

    /// The sets that have a lease here.
    pub fn sets(&self) -> Result<Vec<SetName>, StoreError> {
        let mut sets = Vec::new();
        let mut from = keys::leases(None);
        let end = keys::behind(&from);
        loop {
            let mut next = None;
            self.kv.scan(&from, &end, &mut |key, _| {
                let (set, _) = self.whole(keys::read_lease(key).ok_or(Bad("a lease's key")))?;
                next = Some(set);
                Ok(false)
            })?;
            let Some(set) = next else { return Ok(sets) };
            from = keys::behind(&keys::leases(Some(&set)));
            sets.push(set);
        }
    }

    /// The nonce of the policy that the file has a copy of.
    pub fn policy_nonce(&self) -> Result<u64, StoreError> {
        let bytes = self.kv.get(keys::POLICY)?;
        bytes.map_or(Ok(0), |bytes| self.whole(codec::unseal(keys::POLICY, &bytes)))
    }

    /// Uses this policy in the place of the file's copy.
    pub fn use_policy(&self, policy: Policy) {
        // It is set once, by whoever opened the file.
        let _ = self.policy.set(policy);
    }

    /// The reservation of an address.
    fn reservation(&self, set: &SetName, addr: Addr) -> Result<Option<Reservation>, StoreError> {
        if let Some(policy) = self.policy.get() {
            return Ok(policy.find(set, addr).cloned());
        }
        let mut found = None;
        let end = keys::behind(&keys::reserved_of(set, addr.family()));
        // Entries lie under their last address: the first one from `addr` on is the only candidate.
        self.kv.scan(&keys::reserved(set, addr), &end, &mut |key, value| {
            found = Some(self.whole(codec::unseal::<Vec<u8>>(key, value).and_then(|json| {
                serde_json::from_slice(&json).map_err(|_| Bad("a reservation"))
            }))?);
            Ok(false)
        })?;
        Ok(found.filter(|entry: &Reservation| entry.span.contains(addr)))
    }

    /// The leases at these addresses, which an index says are this set's.
    fn indexed(&self, set: &SetName, addrs: &[Addr]) -> Result<Vec<Lease>, StoreError> {
        let find = |addr: &Addr| {
            self.lease(set, *addr)?.ok_or_else(|| {
                self.damaged("an owner's index that names a lease which is not there")
            })
        };
        addrs.iter().map(find).collect()
    }

    fn queue(
        &self,
        set: &SetName,
        family: Family,
        each: &mut dyn FnMut(Cooling) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let from = keys::queue(set, family);
        self.kv.scan(&from, &keys::behind(&from), &mut |key, _| each(self.queued(set, key)?))
    }

    /// The cooling that a queue's key stands for.
    fn queued(&self, set: &SetName, key: &[u8]) -> Result<Cooling, StoreError> {
        let (_, addr) = keys::read_queued(key)
            .ok_or_else(|| self.damaged("a cooling address under a wrong key"))?;
        self.cooling_of(set, addr)?
            .ok_or_else(|| self.damaged("a cooling address that is in one table only"))
    }
}

impl<K: KvMut> Tables<'_, K> {
    /// Copies the policy into the file.
    pub fn refresh_reservations(&mut self, policy: &Policy) -> Result<(), StoreError> {
        let all = keys::all_reserved();
        let mut old = Vec::new();
        self.kv.scan(&all, &keys::behind(&all), &mut |key, _| {
            old.push(key.to_vec());
            Ok(true)
        })?;
        for key in old {
            self.kv.remove(&key)?;
        }
        for entry in &policy.entries {
            let key = keys::reserved(&entry.set, entry.span.last);
            let json = serde_json::to_vec(entry)
                .map_err(|e| StoreError::io("copy the policy into", self.path, e.into()))?;
            self.kv.put(&key, &codec::seal(&key, &json))?;
        }
        self.kv.put(keys::POLICY, &codec::seal(keys::POLICY, &policy.nonce))
    }
}

impl<K: Kv> Addresses for Tables<'_, K> {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        let holder = match self.lease(set, addr)? {
            Some(lease) => Holder::Leased(Box::new(lease)),
            None => self.cooling_of(set, addr)?.map_or(Holder::Free, Holder::Cooling),
        };
        if occupancy::taken(self, set, addr)? == (holder == Holder::Free) {
            return Err(self.damaged("occupancy and leases that disagree"));
        }
        if matches!(holder, Holder::Leased(_)) {
            return Ok(holder);
        }
        let reserved = self.reservation(set, addr)?;
        Ok(reserved.map_or(holder, |entry| Holder::Leased(Box::new(entry.lease(addr)))))
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        let leases = self.indexed(set, &self.addrs(&keys::owner(set, owner))?)?;
        if leases.iter().any(|l| l.owner != *owner) {
            return Err(self.damaged("an owner's index that names another's lease"));
        }
        Ok(leases)
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError> {
        let key = keys::cursor(set, range);
        let bytes = self.kv.get(&key)?;
        bytes.map(|bytes| self.whole(codec::unseal(&key, &bytes))).transpose()
    }

    fn next_free(&self, set: &SetName, span: Span, _: Order) -> Result<Option<Addr>, StoreError> {
        let mut rest = Some(span);
        while let Some(span) = rest {
            let Some(addr) = occupancy::next_free(self, set, span)? else { return Ok(None) };
            // The second opinion: nothing is leased on the word of a bit alone.
            match self.holder(set, addr)? {
                Holder::Free => return Ok(Some(addr)),
                Holder::Leased(lease) if lease.kind == Kind::Reserved => {}
                _ => return Err(self.damaged("occupancy and leases that disagree")),
            }
            let end = self.reservation(set, addr)?.map_or(addr, |entry| entry.span.last);
            rest = end.next().and_then(|next| span.starting(next));
        }
        Ok(None)
    }

    fn cooling(
        &self,
        set: &SetName,
        family: Family,
        limit: usize,
    ) -> Result<Vec<Cooling>, StoreError> {
        let mut found = Vec::new();
        self.queue(set, family, &mut |cooling| {
            if self.reservation(set, cooling.addr)?.is_none() {
                found.push(cooling);
            }
            Ok(found.len() < limit)
        })?;
        let all = keys::queue(set, family);
        if let Some(last) = self.kv.last(&all, &keys::behind(&all))? {
            let last = self.queued(set, &last)?;
            let reserved = self.reservation(set, last.addr)?.is_some();
            found.extend((!reserved && !found.contains(&last)).then_some(last));
        }
        Ok(found)
    }

    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        let mut first = None;
        self.queue(set, family, &mut |cooling| {
            let asked = spans.iter().any(|s| s.contains(cooling.addr));
            if asked && self.reservation(set, cooling.addr)?.is_none() {
                first = Some(cooling);
            }
            Ok(first.is_none())
        })?;
        Ok(first)
    }
}

impl<K: Kv> View for Tables<'_, K> {
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError> {
        let key = keys::sticky(set, pod, range);
        match self.kv.get(&key)? {
            Some(bytes) => self.whole(codec::unseal(&key, &bytes)).map(Some),
            None => Ok(self.earlier.and_then(|earlier| earlier(set, pod, range))),
        }
    }

    /// A folder of host-local is adopted as long as it is a folder: the store records none. So leases
    /// that host-local made may be here at any time.
    fn adopted(&self, _: &NetworkName) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError> {
        let key = keys::ranges(&ranges.network);
        match self.kv.get(&key)? {
            None => Ok(false),
            Some(bytes) => {
                let network = ranges.network.clone();
                Ok(self.whole(codec::read_ranges(&key, network, &bytes))? == *ranges)
            }
        }
    }

    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError> {
        let from = keys::all_ranges();
        let mut found = Vec::new();
        self.kv.scan(&from, &keys::behind(&from), &mut |key, value| {
            let network = self.whole(keys::read_ranges(key).ok_or(Bad("a network's name")))?;
            found.push(self.whole(codec::read_ranges(key, network, value))?);
            Ok(true)
        })?;
        Ok(found)
    }

    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let all = keys::owners(set);
        let from = after.map_or_else(
            || all.clone(),
            |owner| {
                // The smallest key behind the owner's own.
                let mut key = keys::owner(set, owner);
                key.push(0);
                key
            },
        );
        let mut addrs = Vec::new();
        let mut owners = 0;
        self.kv.scan(&from, &keys::behind(&all), &mut |key, value| {
            addrs.extend(self.whole(codec::unseal::<Vec<Addr>>(key, value))?);
            owners += 1;
            Ok(owners < limit)
        })?;
        self.indexed(set, &addrs)
    }

    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError> {
        pools::get(self, id)
    }

    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError> {
        pools::overlapping(self, space, subnet)
    }

    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>, StoreError> {
        pools::next_block(self, space, within, len, from)
    }

    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let set = pool.set();
        let all = keys::of_pool(&set, &pool.id);
        let mut from = all.clone();
        if let Some(after) = after {
            from = keys::owner(&set, &Owner::Pool(pool.id.clone(), after));
            from.push(0);
        }
        let mut addrs = Vec::new();
        self.kv.scan(&from, &keys::behind(&all), &mut |key, value| {
            addrs.extend(self.whole(codec::unseal::<Vec<Addr>>(key, value))?);
            Ok(addrs.len() < limit)
        })?;
        self.indexed(&set, &addrs)
    }

    fn capacity(&self) -> usize {
        // A transaction has no limit of its own; it is filled in steps, so that memory has one.
        1024
    }
}
