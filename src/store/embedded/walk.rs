//! What an embedded store answers to those who read all of it: leases, history, counters.
//!
//! A reader holds a lock for one page of records, [`PAGE`] at most, and never while its consumer works:
//! it resumes behind the last key. So an allocation waits for a page at most, however slow the
//! consumer is. Leases that change between two pages are seen before or after the change; no address
//! appears twice.

#![allow(clippy::redundant_closure, reason = "the functions are not general enough over lifetimes")]

use std::collections::{BTreeMap, BTreeSet};

use super::fs::FileSystem;
use super::policy::{Policy, Reservation};
use super::reserve::addresses;
use super::view::{Kv, Tables};
use super::{Embedded, LeaseFile, history, keys};
use crate::alloc::{Context, Holder, NetworkRanges};
use crate::error::StoreError;
use crate::model::{Counter, Event, Lease, Persist, SetName};
use crate::net::Addr;
use crate::store::codec::Bad;
use crate::store::{EachOccupied, EventFilter, codec};

/// How many records a reader takes in one hold of the lock: some milliseconds.
pub const PAGE: usize = 10_000;

/// One page of addresses in use, in the order of set and address.
struct Page {
    holders: Vec<(SetName, Addr, Holder)>,
    /// Where the next page begins; `None`: there is none.
    next: Option<Vec<u8>>,
}

impl<F: FileSystem> Embedded<F> {
    /// Every lease, reservations among them.
    pub(super) fn walk_leases(
        &self,
        cx: &Context,
        each: &mut dyn FnMut(Lease),
    ) -> Result<(), StoreError> {
        self.walk(false, cx, &mut |_, _, holder| {
            if let Holder::Leased(lease) = holder {
                each(*lease);
            }
        })
    }

    /// Every address that is not free.
    pub(super) fn walk_taken(
        &self,
        cx: &Context,
        each: &mut EachOccupied<'_>,
    ) -> Result<(), StoreError> {
        self.walk(true, cx, &mut |set, addr, holder| each(set, addr, &holder))
    }

    fn walk(
        &self,
        cooling: bool,
        cx: &Context,
        each: &mut dyn FnMut(&SetName, Addr, Holder),
    ) -> Result<(), StoreError> {
        self.patience.renew();
        let mut reserved = Reserved::new(Policy::read(&self.fs, &self.names.policy())?);
        let mut seen = BTreeSet::new();
        let files = self.lease_files_own_first(cx)?;
        let homes = self.homes(&files)?;
        for file in &files {
            let mut current: Option<SetName> = None;
            let mut from = Some(Vec::new());
            while let Some(after) = from {
                let page = self.read_page(file, |tables| page(tables, &after, cooling))?;
                let Some(page) = page else { break };
                for (set, addr, holder) in page.holders {
                    // What a file keeps of a set with another home (cooling addresses, a gateway) is
                    // out of date. A set whose home changed since is not listed once more.
                    if homes.get(&set).is_some_and(|home| *home != file.persist)
                        || seen.contains(&set)
                    {
                        continue;
                    }
                    if let Some(last) = current.replace(set.clone()).filter(|last| *last != set) {
                        reserved.end(&last, each);
                        seen.insert(last);
                    }
                    reserved.until(&set, addr, each);
                    each(&set, addr, holder);
                }
                from = page.next;
            }
            if let Some(last) = current {
                reserved.end(&last, each);
                seen.insert(last);
            }
        }
        reserved.rest(each);
        Ok(())
    }

    /// Which file has the leases of a set, where more than one may have something of it.
    fn homes(&self, files: &[LeaseFile]) -> Result<BTreeMap<SetName, Persist>, StoreError> {
        let mut homes = BTreeMap::new();
        for file in files.iter().filter(|_| files.len() > 1) {
            self.read_page(file, |tables| {
                for set in tables.sets()? {
                    if tables.is_home(&set)? {
                        homes.insert(set, file.persist);
                    }
                }
                Ok(())
            })?;
        }
        Ok(homes)
    }

    /// One hold of a file's lock, for one page.
    pub(super) fn read_page<T>(
        &self,
        file: &LeaseFile,
        work: impl FnOnce(&super::database::Looked<'_>) -> Result<T, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        self.patience.renew();
        let lock = self.lock_to_read(file)?;
        self.read(file, &lock, work)
    }

    /// The networks' ranges. Where both files have a network's, the home of its leases counts.
    pub(super) fn walk_networks(&self, cx: &Context) -> Result<Vec<NetworkRanges>, StoreError> {
        use crate::alloc::View;
        let mut all = BTreeMap::new();
        for file in self.lease_files_own_first(cx)? {
            self.read_page(&file, |tables| {
                for definition in tables.networks()? {
                    let here = tables.is_home(&definition.set)?;
                    if here || !all.contains_key(&definition.network) {
                        all.insert(definition.network.clone(), definition);
                    }
                }
                Ok(())
            })?;
        }
        Ok(all.into_values().collect())
    }

    /// What happened.
    pub(super) fn walk_history(
        &self,
        cx: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError> {
        let mut all = Vec::new();
        for file in self.lease_files(cx)? {
            let found = self.read_page(&file, |tables| history::events(tables, filter))?;
            all.extend(found.unwrap_or_default());
        }
        let current = cx.boot.as_ref().map(|boot| self.names.boot(boot));
        let begun =
            current.and_then(|path| self.read_earlier(&path, |tables| history::begun(tables)));
        for boot in self.earlier_boots(begun.flatten().unwrap_or(cx.now), cx) {
            // Nothing of it was flushed: a power cut may have torn it.
            let found = self.read_earlier(&boot.path, |tables| {
                history::of_ended_boot(tables, boot.ended, cx, filter)
            });
            all.extend(found.unwrap_or_default());
        }
        all.sort_by_key(|event| event.time);
        Ok(all)
    }

    /// How often what was asked for.
    pub(super) fn walk_counters(&self, cx: &Context) -> Result<Vec<Counter>, StoreError> {
        let mut all: BTreeMap<_, Counter> = BTreeMap::new();
        for file in self.lease_files(cx)? {
            for c in self.read_page(&file, |t| history::counters(t))?.unwrap_or_default() {
                let key = (c.set.clone(), c.face, c.verb, c.ending);
                all.entry(key)
                    .and_modify(|all| all.count = all.count.saturating_add(c.count))
                    .or_insert(c);
            }
        }
        Ok(all.into_values().collect())
    }
}

/// The addresses in use whose keys are behind `after`, at most [`PAGE`] of each kind. Leases and cooling
/// addresses have keys that differ in their first byte alone.
fn page<K: Kv>(tables: &Tables<'_, K>, after: &[u8], cooling: bool) -> Result<Page, StoreError> {
    let mut found: Vec<(Vec<u8>, (SetName, Addr, Holder))> = Vec::new();
    let mut next: Option<Vec<u8>> = None;
    let kinds: &[Vec<u8>] = &[keys::leases(None), keys::coolings()];
    for (kind, prefix) in kinds[..if cooling { 2 } else { 1 }].iter().enumerate() {
        let mut count = 0;
        let from = if after.is_empty() { prefix.clone() } else { [prefix, after, &[0]].concat() };
        tables.kv.scan(&from, &keys::behind(prefix), &mut |key, value| {
            let place = key[prefix.len()..].to_vec();
            if count == PAGE {
                // The page ends where the first of the kinds does.
                let last = found.last().map(|(place, _)| place.clone());
                next = [next.take(), last].into_iter().flatten().min();
                return Ok(false);
            }
            count += 1;
            let (set, addr, holder) = if kind == 0 {
                let lease = tables.whole(codec::read_lease(key, value))?;
                (lease.set.clone(), lease.addr, Holder::Leased(Box::new(lease)))
            } else {
                let at = keys::read_cooling(key).ok_or(Bad("a cooling address' key"));
                let (set, addr) = tables.whole(at)?;
                let cooling = tables.whole(codec::read_cooling(key, addr, value))?;
                (set, addr, Holder::Cooling(cooling))
            };
            found.push((place, (set, addr, holder)));
            Ok(true)
        })?;
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    if let Some(end) = &next {
        found.retain(|(place, _)| place <= end);
    }
    Ok(Page { holders: found.into_iter().map(|(_, holder)| holder).collect(), next })
}

/// The reservations that were not listed yet, by set and first address.
struct Reserved(BTreeMap<SetName, BTreeMap<Addr, Reservation>>);

impl Reserved {
    fn new(policy: Policy) -> Reserved {
        let mut all: BTreeMap<SetName, BTreeMap<Addr, Reservation>> = BTreeMap::new();
        for entry in policy.entries {
            all.entry(entry.set.clone()).or_default().insert(entry.span.first, entry);
        }
        Reserved(all)
    }

    /// Lists those of the set before `addr`, and leaves `addr` itself out.
    fn until(&mut self, set: &SetName, addr: Addr, each: &mut dyn FnMut(&SetName, Addr, Holder)) {
        let Some(of_set) = self.0.get_mut(set) else { return };
        while let Some(first) = of_set.first_entry().filter(|first| *first.key() <= addr) {
            let entry = first.remove();
            if let Some(span) = addr.prev().and_then(|last| entry.span.up_to(last)) {
                list(&Reservation { span, ..entry.clone() }, each);
            }
            if let Some(span) = addr.next().and_then(|next| entry.span.starting(next)) {
                of_set.insert(span.first, Reservation { span, ..entry });
            }
        }
    }

    /// Lists what is left of a set.
    fn end(&mut self, set: &SetName, each: &mut dyn FnMut(&SetName, Addr, Holder)) {
        for entry in self.0.remove(set).unwrap_or_default().values() {
            list(entry, each);
        }
    }

    fn rest(self, each: &mut dyn FnMut(&SetName, Addr, Holder)) {
        for entry in self.0.values().flat_map(BTreeMap::values) {
            list(entry, each);
        }
    }
}

fn list(entry: &Reservation, each: &mut dyn FnMut(&SetName, Addr, Holder)) {
    for addr in addresses(entry.span) {
        each(&entry.set, addr, Holder::Leased(Box::new(entry.lease(addr))));
    }
}
