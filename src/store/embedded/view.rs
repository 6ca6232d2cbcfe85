//! Answers the allocator's queries from a sorted table of bytes.
//!
//! The table records in two places which addresses are free: in the occupancy bits and in the leases. If the
//! two disagree, the file is damaged and no address is leased. Invariant: each query takes only a few
//! lookups, however many leases there are.

use std::cell::OnceCell;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::policy::{Policy, Reservation};
use super::{Result, keys, occupancy, pools};
use crate::alloc::{Addresses, Cooling, Draining, Holder, NetworkRanges, Order, PodKey, View};
use crate::error::StoreError;
use crate::model::{Kind, Lease, NetworkName, Owner, Pool, PoolId, SetName, StaticName};
use crate::net::{Addr, Family, Span, Subnet};
use crate::store::codec;
use crate::store::codec::Bad;

/// A function that is called with each entry of a scan. The scan ends as soon as the function returns
/// `false`.
pub type Each<'a> = dyn FnMut(&[u8], &[u8]) -> Result<bool> + 'a;

/// A function that is called with each entry whose key has a given prefix.
pub type EachOf<'a> = dyn FnMut(&[u8], &[u8]) -> Result<()> + 'a;

/// A sorted table that can be read.
pub trait Kv {
    /// Returns the value under a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Calls `each` with every entry whose key is in `from..to` (without `to`), in order, until `each`
    /// returns `false`.
    fn scan(&self, from: &[u8], to: &[u8], each: &mut Each<'_>) -> Result<()>;

    /// Returns the last key in `from..to` (without `to`).
    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Returns the first key in `from..to` (without `to`), and its value.
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let mut found = None;
        self.scan(from, to, &mut |key, value| {
            found = Some((key.to_vec(), value.to_vec()));
            Ok(false)
        })?;
        Ok(found)
    }

    /// Returns whether there is a key with this prefix.
    fn has(&self, prefix: &[u8]) -> Result<bool> {
        Ok(self.first(prefix, &keys::behind(prefix))?.is_some())
    }

    /// Calls `each` with every entry whose key has this prefix, in order.
    fn each(&self, prefix: &[u8], each: &mut EachOf<'_>) -> Result<()> {
        self.scan(prefix, &keys::behind(prefix), &mut |key, value| each(key, value).map(|()| true))
    }
}

/// A sorted table that can be written.
pub trait KvMut: Kv {
    /// Writes a value under a key.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()>;
    /// Removes a key and its value.
    fn remove(&mut self, key: &[u8]) -> Result<()>;
}

/// The records of a store, in a sorted table.
pub struct Tables<'a, K> {
    /// The sorted table.
    pub kv: K,
    /// The path of the file, for messages.
    pub path: &'a Path,
    /// The policy from the policy file, if it replaces the lease file's copy of the policy.
    policy: OnceCell<Policy>,
    /// The policy's reservations for the name of the command's container.
    named: OnceCell<Vec<Reservation>>,
    /// The draining ranges of the policy, if there are any.
    draining: OnceCell<Vec<Draining>>,
    /// Finds former addresses of pods in the files of earlier boots, if this file does not have them.
    pub earlier: Option<&'a Former<'a>>,
}

/// A function that returns a pod's former address in a range set.
pub type Former<'a> = dyn Fn(&SetName, &PodKey, Addr) -> Option<Addr> + 'a;

impl<'a, K> Tables<'a, K> {
    /// Makes a value for the records in the table `kv` of the file at `path`.
    pub fn new(kv: K, path: &'a Path) -> Tables<'a, K> {
        let (policy, named, draining) = Default::default();
        Tables { kv, path, policy, named, draining, earlier: None }
    }
}

impl<K: Kv> Tables<'_, K> {
    /// Makes the error that reports a damaged store.
    pub fn damaged(&self, what: &str) -> StoreError {
        StoreError::Damaged { path: self.path.to_owned(), what: what.to_owned() }
    }

    /// Returns the value of a decoded record. If decoding failed, returns the error that reports a damaged
    /// store.
    pub fn whole<T>(&self, read: Result<T, Bad>) -> Result<T> {
        read.map_err(|bad| match bad {
            codec::OTHER_VERSION => StoreError::other_version(self.path),
            Bad(what) => self.damaged(what),
        })
    }

    /// Decodes the record under a key with `read`; `None` if there is no record.
    pub fn read<T>(
        &self,
        key: &[u8],
        read: impl FnOnce(&[u8], &[u8]) -> Result<T, Bad>,
    ) -> Result<Option<T>> {
        let bytes = self.kv.get(key)?;
        bytes.map(|bytes| self.whole(read(key, &bytes))).transpose()
    }

    /// Decodes the value under a key.
    pub fn value<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>> {
        self.read(key, |key, bytes| codec::unseal(key, bytes))
    }

    /// Returns the lease of an address.
    pub fn lease(&self, set: &SetName, addr: Addr) -> Result<Option<Lease>> {
        self.read(&keys::lease(set, addr), codec::read_lease)
    }

    /// Returns the addresses in an owner's index.
    pub fn addrs(&self, key: &[u8]) -> Result<Vec<Addr>> {
        Ok(self.value(key)?.unwrap_or_default())
    }

    /// Returns the cooldown of an address.
    pub fn cooling_of(&self, set: &SetName, addr: Addr) -> Result<Option<Cooling>> {
        let key = keys::at(keys::COOLING, set, addr);
        self.read(&key, |key, bytes| codec::read_cooling(key, addr, bytes))
    }

    /// Calls `each` with every lease of one set, or of all sets, until `each` returns `false`.
    pub fn leases(&self, set: Option<&SetName>, each: &mut dyn FnMut(Lease) -> bool) -> Result<()> {
        let from = set.map_or_else(|| vec![keys::LEASE], |set| keys::of_set(keys::LEASE, set));
        self.kv.scan(&from, &keys::behind(&from), &mut |key, value| {
            Ok(each(self.whole(codec::read_lease(key, value))?))
        })
    }

    /// Returns whether this file has a lease of a container in the set. If so, this file is the set's home:
    /// the file that new leases of the set are written to.
    pub fn is_home(&self, set: &SetName) -> Result<bool> {
        let mut found = false;
        self.leases(Some(set), &mut |lease| {
            found = lease.kind.collectable();
            !found
        })?;
        Ok(found)
    }

    /// Returns whether this file has a lease of the network for a container, in the given set.
    pub fn has_network(&self, set: &SetName, network: &NetworkName) -> Result<bool> {
        self.kv.has(&keys::of_network(set, network))
    }

    /// Returns the set that contains the network's leases in this file. This is `likely`, or a set that the
    /// network used before its `shared` setting was changed. `None` if the network has no leases in this
    /// file.
    pub fn set_of_network(
        &self,
        likely: &SetName,
        network: &NetworkName,
    ) -> Result<Option<SetName>> {
        let others = self.sets()?.into_iter().filter(|set| set != likely && !set.is_pools());
        for set in std::iter::once(likely.clone()).chain(others) {
            if self.has_network(&set, network)? {
                return Ok(Some(set));
            }
        }
        Ok(None)
    }

    /// Returns the sets that have a lease in this file.
    pub fn sets(&self) -> Result<Vec<SetName>> {
        let mut sets = Vec::new();
        let mut from = vec![keys::LEASE];
        let end = keys::behind(&from);
        while let Some((key, _)) = self.kv.first(&from, &end)? {
            let set = self.whole(
                keys::read_set(keys::LEASE, &key)
                    .ok_or(Bad("a lease is stored under an invalid key")),
            )?;
            from = keys::behind(&keys::of_set(keys::LEASE, &set));
            sets.push(set);
        }
        Ok(sets)
    }

    /// Returns the nonce of the policy that was copied into this file.
    pub fn policy_nonce(&self) -> Result<u64> {
        Ok(self.value(keys::POLICY)?.unwrap_or_default())
    }

    /// Uses this policy instead of the copy in the file.
    pub fn use_policy(&self, policy: Policy) {
        // Only the code that opened the file sets the policy, and only once.
        let _ = self.policy.set(policy);
    }

    /// Sets the reservations for the name of the command's container, and the policy's draining ranges.
    pub fn use_named(&self, entries: Vec<Reservation>, draining: Vec<Draining>) {
        // Only the code that opened the file sets these values, and only once.
        let _ = self.named.set(entries);
        let _ = self.draining.set(draining);
    }

    /// Returns the set's reservations for the container name `name`, ordered by address.
    fn named(&self, set: &SetName, name: &StaticName) -> Vec<Lease> {
        let entries = match self.policy.get() {
            Some(policy) => &policy.entries,
            None => self.named.get().map_or([].as_slice(), Vec::as_slice),
        };
        let of_name = entries.iter().filter(|e| e.set == *set && e.name.as_ref() == Some(name));
        of_name.flat_map(|e| e.span.addresses().map(|addr| e.lease(addr))).collect()
    }

    /// Returns the reservation that contains an address.
    fn reservation(&self, set: &SetName, addr: Addr) -> Result<Option<Reservation>> {
        if let Some(policy) = self.policy.get() {
            return Ok(policy.find(set, addr).cloned());
        }
        let end = keys::behind(&keys::of_family(keys::RESERVED, set, addr.family()));
        // A reservation is stored under its last address. So only the first entry at or after `addr` can
        // contain `addr`.
        let first = self.kv.first(&keys::at(keys::RESERVED, set, addr), &end)?;
        let Some((key, value)) = first else { return Ok(None) };
        let json: Vec<u8> = self.whole(codec::unseal(&key, &value))?;
        let entry = serde_json::from_slice(&json).map_err(|_| Bad("a reservation"));
        Ok(Some(self.whole(entry)?).filter(|entry: &Reservation| entry.span.contains(addr)))
    }

    /// Returns the leases of these addresses, which an owner's index lists. Fails if one of the leases does
    /// not exist, because the file is then damaged.
    fn indexed(&self, set: &SetName, addrs: &[Addr]) -> Result<Vec<Lease>> {
        let find = |addr: &Addr| {
            self.lease(set, *addr)?
                .ok_or_else(|| self.damaged("the owner index lists a lease that does not exist"))
        };
        addrs.iter().map(find).collect()
    }

    /// Returns the addresses of the owners whose keys have this prefix, starting after the key `after`. Stops
    /// when `more` returns false for the addresses found so far.
    fn addrs_of(
        &self,
        prefix: &[u8],
        after: Option<Vec<u8>>,
        more: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Addr>> {
        let from = after.map_or_else(|| prefix.to_vec(), |key| [&key[..], &[0]].concat());
        let mut addrs = Vec::new();
        self.kv.scan(&from, &keys::behind(prefix), &mut |key, value| {
            addrs.extend(self.whole(codec::unseal::<Vec<Addr>>(key, value))?);
            Ok(more(addrs.len()))
        })?;
        Ok(addrs)
    }

    fn queue(
        &self,
        set: &SetName,
        family: Family,
        each: &mut dyn FnMut(Cooling) -> Result<bool>,
    ) -> Result<()> {
        let from = keys::of_family(keys::QUEUE, set, family);
        self.kv.scan(&from, &keys::behind(&from), &mut |key, _| each(self.queued(set, key)?))
    }

    /// Returns the cooldown that a key of the queue refers to.
    fn queued(&self, set: &SetName, key: &[u8]) -> Result<Cooling> {
        let (_, _, addr) = keys::read_queued(key)
            .ok_or_else(|| self.damaged("a cooling address is stored under a wrong key"))?;
        self.cooling_of(set, addr)?
            .ok_or_else(|| self.damaged("a cooling address is missing from one of two tables"))
    }
}

impl<K: KvMut> Tables<'_, K> {
    /// Copies the policy into this file.
    pub fn refresh_reservations(&mut self, policy: &Policy) -> Result<()> {
        let mut old = Vec::new();
        self.kv.each(&[keys::RESERVED], &mut |key, _| {
            old.push(key.to_vec());
            Ok(())
        })?;
        for key in old {
            self.kv.remove(&key)?;
        }
        for entry in &policy.entries {
            let key = keys::at(keys::RESERVED, &entry.set, entry.span.last);
            let json = serde_json::to_vec(entry)
                .map_err(|e| StoreError::io("copy the policy into", self.path, e.into()))?;
            self.kv.put(&key, &codec::seal(&key, &json))?;
        }
        self.kv.put(keys::POLICY, &codec::seal(keys::POLICY, &policy.nonce))
    }
}

impl<K: Kv> Addresses for Tables<'_, K> {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder> {
        let holder = match self.lease(set, addr)? {
            Some(lease) => Holder::Leased(Box::new(lease)),
            None => self.cooling_of(set, addr)?.map_or(Holder::Free, Holder::Cooling),
        };
        if occupancy::taken(self, set, addr)? == (holder == Holder::Free) {
            return Err(self.damaged("the occupancy index does not match the leases"));
        }
        if matches!(holder, Holder::Leased(_)) {
            return Ok(holder);
        }
        let reserved = self.reservation(set, addr)?;
        Ok(reserved.map_or(holder, |entry| Holder::Leased(Box::new(entry.lease(addr)))))
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>> {
        if let Owner::Named(name) = owner {
            return Ok(self.named(set, name));
        }
        let leases = self.indexed(set, &self.addrs(&keys::owner(set, owner))?)?;
        if leases.iter().any(|l| l.owner != *owner) {
            return Err(self.damaged("the owner index lists a lease of a different owner"));
        }
        Ok(leases)
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>> {
        self.value(&keys::at(keys::CURSOR, set, range))
    }

    fn next_free(&self, set: &SetName, span: Span, _: Order) -> Result<Option<Addr>> {
        let mut rest = Some(span);
        while let Some(span) = rest {
            let Some(addr) = occupancy::next_free(self, set, span)? else { return Ok(None) };
            // Check the lease record as well, so that an address is never leased because of a bit alone.
            match self.holder(set, addr)? {
                Holder::Free => return Ok(Some(addr)),
                Holder::Leased(lease) if lease.kind == Kind::Reserved => {}
                _ => return Err(self.damaged("the occupancy index does not match the leases")),
            }
            let end = self.reservation(set, addr)?.map_or(addr, |entry| entry.span.last);
            rest = end.next().and_then(|next| span.starting(next));
        }
        Ok(None)
    }

    fn cooling(&self, set: &SetName, family: Family, limit: usize) -> Result<Vec<Cooling>> {
        let mut found = Vec::new();
        self.queue(set, family, &mut |cooling| {
            if self.reservation(set, cooling.addr)?.is_none() {
                found.push(cooling);
            }
            Ok(found.len() < limit)
        })?;
        let all = keys::of_family(keys::QUEUE, set, family);
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
    ) -> Result<Option<Cooling>> {
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
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>> {
        let here = self.value(&keys::sticky(set, pod, range))?;
        Ok(here.or_else(|| self.earlier?(set, pod, range)))
    }

    /// Always returns true. An ADD imports a host-local folder whenever the folder exists, and the store does
    /// not record the import. So this store may have leases from host-local at any time.
    fn adopted(&self, _: &NetworkName) -> Result<bool> {
        Ok(true)
    }

    fn draining(&self, set: &SetName) -> Result<Vec<Draining>> {
        let all = match self.policy.get() {
            Some(policy) => &policy.draining,
            None => self.draining.get().map_or([].as_slice(), Vec::as_slice),
        };
        Ok(all.iter().filter(|range| range.set == *set).cloned().collect())
    }

    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool> {
        let found = self.read(&keys::ranges(&ranges.network), read_ranges)?;
        Ok(found.as_ref() == Some(ranges))
    }

    fn networks(&self) -> Result<Vec<NetworkRanges>> {
        let mut found = Vec::new();
        self.kv.each(&[keys::RANGES], &mut |key, value| {
            found.push(self.whole(read_ranges(key, value))?);
            Ok(())
        })?;
        Ok(found)
    }

    fn page(&self, set: &SetName, after: Option<&Owner>, limit: usize) -> Result<Vec<Lease>> {
        let all = keys::of_set(keys::OWNER, set);
        let mut owners = 0;
        let addrs = self.addrs_of(&all, after.map(|owner| keys::owner(set, owner)), &mut |_| {
            owners += 1;
            owners < limit
        })?;
        self.indexed(set, &addrs)
    }

    fn pool(&self, id: &PoolId) -> Result<Option<Pool>> {
        pools::get(self, id)
    }

    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>> {
        pools::overlapping(self, space, subnet)
    }

    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>> {
        pools::next_block(self, space, within, len, from)
    }

    fn of_pool(&self, pool: &Pool, after: Option<Addr>, limit: usize) -> Result<Vec<Lease>> {
        let set = pool.set();
        let all = keys::of_pool(&set, &pool.id);
        let after = after.map(|addr| keys::owner(&set, &Owner::Pool(pool.id.clone(), addr)));
        let addrs = self.addrs_of(&all, after, &mut |found| found < limit)?;
        self.indexed(&set, &addrs)
    }

    fn capacity(&self) -> usize {
        // redb does not limit the size of a transaction. The limit only bounds the memory that one
        // transaction uses.
        1024
    }
}

/// Decodes the ranges of a network. The key contains the network's name.
pub fn read_ranges(key: &[u8], value: &[u8]) -> Result<NetworkRanges, Bad> {
    let network = keys::read_ranges(key).ok_or(Bad("a network has an invalid name"))?;
    codec::read_ranges(key, network, value)
}
