//! Reads whole lease files: leases, history, counters, and all other records except indexes. Apart from
//! history and counters, an unreadable record is never skipped, because it means that the file is damaged.
//!
//! A reader holds the lock while it reads one page of at most [`PAGE`] records, and releases the lock before
//! it passes the records on. It continues after the page's last key. So an allocation waits for at most one
//! page, even if the consumer of the records is slow. If a lease changes while the reader is between two
//! pages, the reader returns the lease as it was either before or after the change. No address is returned
//! twice.

#![allow(
    clippy::redundant_closure,
    reason = "function paths fail here, because their lifetimes are not general enough"
)]

use std::collections::{BTreeMap, BTreeSet};

use super::fs::FileSystem;
use super::policy::{self, Policy, Reservation};
use super::view::{Kv, Tables};
use super::{Embedded, LeaseFile, Result, backend, check, history, keys, pools};
use crate::alloc::{Context, Draining, Holder, NetworkRanges, Record, View};
use crate::error::Error;
use crate::model::{Counter, Event, Lease, Persist, Pool, SetName};
use crate::net::Addr;
use crate::store::{EachOccupied, EachRecord, EventFilter, Problem, StoreReader, codec};

/// The number of records that a reader reads while it holds the lock. Reading them takes a few milliseconds.
const PAGE: usize = 10_000;

/// One page of records. The keys lack their first byte, which determines the kind of the record.
struct Page {
    records: Vec<(Vec<u8>, Record)>,
    /// The last key of this page; `None` if there are no records after this page.
    next: Option<Vec<u8>>,
}

/// The kinds of records that a reader reads, except pools.
const KINDS: [u8; 4] = [keys::LEASE, keys::COOLING, keys::CURSOR, keys::STICKY];

impl<F: FileSystem> StoreReader for Embedded<F> {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<()> {
        self.walk(false, cx, &mut |_, _, holder| {
            if let Holder::Leased(lease) = holder {
                each(*lease);
            }
        })
    }

    fn occupancy(&mut self, cx: &Context, each: &mut EachOccupied<'_>) -> Result<()> {
        self.walk(true, cx, &mut |set, addr, holder| each(set, addr, &holder))
    }

    /// Both files may have ranges of a network. The valid ranges are in the file that has the network's
    /// leases.
    fn networks(&mut self, cx: &Context) -> Result<Vec<NetworkRanges>> {
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

    fn history(&mut self, cx: &Context, filter: &mut EventFilter<'_>) -> Result<Vec<Event>> {
        let mut all = Vec::new();
        for file in self.lease_files(cx)? {
            self.events(&file, filter, &mut all)?;
        }
        let current = cx.boot.as_ref().map(|boot| self.names.boot(boot));
        let begun =
            current.and_then(|path| self.read_earlier(&path, |tables| history::begun(tables)));
        for boot in self.earlier_boots(begun.flatten().unwrap_or(cx.now), cx) {
            // A boot file is never flushed, so a power cut may have damaged the file. Skip a file that cannot
            // be read.
            let found = self.read_earlier(&boot.path, |tables| {
                history::of_ended_boot(tables, boot.ended, cx, filter)
            });
            all.extend(found.unwrap_or_default());
        }
        all.sort_by_key(|event| event.time);
        Ok(all)
    }

    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>> {
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

    /// Returns the header of each lease file, which changes with every commit, and the policy's nonce.
    fn version(&mut self, cx: &Context) -> Result<Option<Vec<u8>>> {
        let mut version = Vec::new();
        for file in self.lease_files(cx)? {
            let Some(header) = backend::header(&self.fs, &file.path)? else { return Ok(None) };
            version.extend(header);
        }
        let header = policy::header(&self.fs, &self.names.policy());
        Ok(header.ok().map(|header| [version, header.nonce.to_le_bytes().to_vec()].concat()))
    }

    fn draining(&mut self, _: &Context) -> Result<Vec<Draining>> {
        Ok(Policy::read(&self.fs, &self.names.policy())?.draining)
    }

    fn problems(&mut self, cx: &Context, each: &mut dyn FnMut(Problem)) -> Result<()> {
        self.examine(cx, each)
    }

    fn pools(&mut self) -> Result<Vec<Pool>> {
        let file = self.durable();
        if !self.is_there(&file.path)? {
            return Ok(Vec::new());
        }
        Ok(self.read_page(&file, |tables| pools::all(tables))?.unwrap_or_default())
    }

    fn records(&mut self, cx: &Context, each: &mut EachRecord<'_>) -> Result<(), Error> {
        self.patience.renew();
        let mut seen = BTreeSet::new();
        let files = self.lease_files_own_first(cx)?;
        let homes = self.homes(&files)?;
        for file in files {
            let pools = self.read_page(&file, |tables| pools::all(tables))?;
            for pool in pools.unwrap_or_default() {
                each(Record::Pool(pool), file.persist)?;
            }
            let mut here = BTreeSet::new();
            for kind in KINDS {
                let mut from = Some(Vec::new());
                while let Some(after) = from {
                    let page = self.read_page(&file, |tables| page(tables, kind, &after))?;
                    let Some(page) = page else { break };
                    for (_, record) in page.records {
                        let set = record.set();
                        // If the leases of a set are in the other file, this file's records of the set (a
                        // cursor, a gateway) are outdated.
                        let is_home = |set| homes.get(set).is_none_or(|home| *home == file.persist);
                        if set.as_ref().is_none_or(|set| !seen.contains(set) && is_home(set)) {
                            here.extend(set);
                            each(record, file.persist)?;
                        }
                    }
                    from = page.next;
                }
            }
            seen.extend(here);
        }
        let policy = Policy::read(&self.fs, &self.names.policy())?;
        for entry in policy.entries {
            for addr in entry.span.addresses() {
                each(Record::Lease(entry.lease(addr)), Persist::Disk)?;
            }
        }
        for range in policy.draining {
            each(Record::Draining(range), Persist::Disk)?;
        }
        Ok(())
    }
}

impl<F: FileSystem> Embedded<F> {
    fn walk(
        &self,
        cooling: bool,
        cx: &Context,
        each: &mut dyn FnMut(&SetName, Addr, Holder),
    ) -> Result<()> {
        self.patience.renew();
        let mut reserved = Reserved::new(Policy::read(&self.fs, &self.names.policy())?);
        let mut seen = BTreeSet::new();
        let files = self.lease_files_own_first(cx)?;
        let homes = self.homes(&files)?;
        for file in &files {
            let mut here = BTreeSet::new();
            let mut from = Some(Vec::new());
            while let Some(after) = from {
                let page = self.read_page(file, |tables| in_use(tables, &after, cooling))?;
                let Some(page) = page else { break };
                for (_, record) in page.records {
                    let (set, addr, holder) = match record {
                        Record::Lease(lease) => {
                            (lease.set.clone(), lease.addr, Holder::Leased(Box::new(lease)))
                        }
                        Record::Cooling(set, cooling) => {
                            (set, cooling.addr, Holder::Cooling(cooling))
                        }
                        _ => continue,
                    };
                    // If the leases of a set are in the other file, this file's records of the set (cooling
                    // addresses, a gateway) are outdated. If the home of a set changes while the files are
                    // read, the set is not listed twice.
                    if homes.get(&set).is_some_and(|home| *home != file.persist)
                        || seen.contains(&set)
                    {
                        continue;
                    }
                    if here.last() != Some(&set) {
                        // The records are ordered by set, so all records of the previous set have been
                        // listed.
                        here.last().inspect(|before| reserved.rest(Some(before), each));
                        here.insert(set.clone());
                    }
                    reserved.until(&set, addr, each);
                    each(&set, addr, holder);
                }
                from = page.next;
            }
            here.last().inspect(|last| reserved.rest(Some(last), each));
            seen.extend(here);
        }
        reserved.rest(None, each);
        Ok(())
    }

    /// Reads a file's events, and appends to `all` the events that `filter` selects. Unreadable events are
    /// skipped; `doctor` reports them.
    fn events(
        &self,
        file: &LeaseFile,
        filter: &mut EventFilter<'_>,
        all: &mut Vec<Event>,
    ) -> Result<()> {
        let (mut last, mut more) = (None::<Vec<u8>>, true);
        while more {
            let page = self.read_page(file, |t| history::page(t, last.as_deref(), PAGE))?;
            let Some((stored, is_more)) = page else { break };
            // Decoding takes longer than reading, so the lock is not held while events are decoded.
            for (key, value) in &stored {
                if let Ok(Some(event)) = codec::read_event(key, value) {
                    all.extend(filter(&event).then_some(event));
                }
            }
            (last, more) = (stored.into_iter().next_back().map(|(key, _)| key), is_more);
        }
        Ok(())
    }

    /// If there are two lease files, returns which file has the leases of each set. A set without leases of
    /// containers is left out. If there is only one file, returns an empty map.
    fn homes(&self, files: &[LeaseFile]) -> Result<BTreeMap<SetName, Persist>> {
        let mut homes = BTreeMap::new();
        for file in files.iter().filter(|_| files.len() > 1) {
            self.read_page(file, |tables| {
                for set in tables.sets()? {
                    if !set.is_pools() && tables.is_home(&set)? {
                        homes.insert(set, file.persist);
                    }
                }
                Ok(())
            })?;
        }
        Ok(homes)
    }

    /// Reads one page. Takes the lock of the file, and releases it after the page.
    pub(super) fn read_page<T>(
        &self,
        file: &LeaseFile,
        work: impl FnOnce(&super::database::Looked<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.patience.renew();
        let lock = self.lock_to_read(file)?;
        self.read(file, &lock, work)
    }
}

/// Returns up to [`PAGE`] records of one kind whose keys come after `after`.
fn page<K: Kv>(tables: &Tables<'_, K>, kind: u8, after: &[u8]) -> Result<Page> {
    let mut page = Page { records: Vec::new(), next: None };
    let from = if after.is_empty() { vec![kind] } else { [&[kind], after, &[0]].concat() };
    tables.kv.scan(&from, &keys::behind(&[kind]), &mut |key, value| {
        if page.records.len() == PAGE {
            page.next = page.records.last().map(|(key, _)| key.clone());
            return Ok(false);
        }
        let record = tables.whole(check::read(key, value))?;
        page.records.extend(record.map(|record| (key[1..].to_vec(), record)));
        Ok(true)
    })?;
    Ok(page)
}

/// Returns the leases whose keys come after `after`, ordered by set and address. If `cooling` is set, cooling
/// addresses are included; their keys differ from the keys of leases only in the kind.
fn in_use<K: Kv>(tables: &Tables<'_, K>, after: &[u8], cooling: bool) -> Result<Page> {
    let mut all = page(tables, keys::LEASE, after)?;
    if cooling {
        let more = page(tables, keys::COOLING, after)?;
        all.records.extend(more.records);
        all.records.sort_by(|(one, _), (other, _)| one.cmp(other));
        // Each of the two pages may end before all records have been read. So the combined page ends at the
        // lower of the two last keys.
        all.next = [all.next, more.next].into_iter().flatten().min();
        if let Some(end) = &all.next {
            all.records.retain(|(key, _)| key <= end);
        }
    }
    Ok(all)
}

/// The reservations that have not been listed yet, ordered by set and address.
struct Reserved(BTreeMap<SetName, BTreeMap<Addr, Reservation>>);

impl Reserved {
    fn new(policy: Policy) -> Reserved {
        let mut all: BTreeMap<SetName, BTreeMap<Addr, Reservation>> = BTreeMap::new();
        for entry in policy.entries {
            all.entry(entry.set.clone()).or_default().insert(entry.span.first, entry);
        }
        Reserved(all)
    }

    /// Lists the set's reserved addresses below `addr`. If `addr` itself is reserved, removes it without
    /// listing it, because the caller lists its holder.
    fn until(&mut self, set: &SetName, addr: Addr, each: &mut dyn FnMut(&SetName, Addr, Holder)) {
        let Some(of_set) = self.0.get_mut(set) else { return };
        while let Some((first, mut entry)) = of_set.pop_first() {
            if first > addr {
                of_set.insert(first, entry);
                break;
            }
            let before = entry.span.addresses().take_while(|reserved| *reserved < addr);
            before.for_each(|reserved| each(set, reserved, entry.holder(reserved)));
            let behind = addr.next().and_then(|next| entry.span.starting(next));
            if let Some(rest) = behind {
                entry.span = rest;
                of_set.insert(rest.first, entry);
            }
        }
    }

    /// Lists the remaining reservations of a set, or of all sets if `set` is `None`.
    fn rest(&mut self, set: Option<&SetName>, each: &mut dyn FnMut(&SetName, Addr, Holder)) {
        let sets: Vec<SetName> =
            set.map_or_else(|| self.0.keys().cloned().collect(), |set| vec![set.clone()]);
        for set in sets {
            for entry in self.0.remove(&set).unwrap_or_default().into_values() {
                entry.span.addresses().for_each(|addr| each(&set, addr, entry.holder(addr)));
            }
        }
    }
}

impl Reservation {
    fn holder(&self, addr: Addr) -> Holder {
        Holder::Leased(Box::new(self.lease(addr)))
    }
}
