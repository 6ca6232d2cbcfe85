//! A plan's changes as records, and what they rest on as comparisons.
//!
//! Invariant: an address's record and its owner's change in one transaction, each compared; a lease
//! is removed only where the address's record is known to be that owner's. No lease outlives its
//! pool: each one writes the pool's record anew. An address that cools is known twice, in one
//! transaction: by its record, which is compared, and among those that cool.

use std::collections::BTreeMap;

use super::keys;
use super::server::{Expect, Operation, Write};
use super::view::{ClusterView, Writes, bad_record};
use crate::alloc;
use crate::alloc::{Change, Command, Cooling, Holder, PodKey};
use crate::error::StoreError;
use crate::model::{Event, Lease, Owner, Pool, SetName, What};
use crate::net::Addr;
use crate::store::codec;

/// A plan's records, and what it is in the eyes of history.
pub fn records(
    changes: Vec<Change>,
    command: &Command,
    view: &ClusterView<'_>,
) -> Result<(Writes, Vec<Event>), StoreError> {
    let (writes, owned, events) = (Writes::new(), BTreeMap::new(), Vec::new());
    let mut draft = Draft { view, writes, owned, events };
    for change in changes {
        let event = alloc::event(&change, command, view.cx);
        match change {
            Change::Put(lease) => {
                let is_new = draft.put(lease)?;
                draft.events.extend(event.filter(|_| is_new));
            }
            Change::Free { lease, until } => {
                draft.free(&lease, until)?;
                draft.events.extend(event);
            }
            Change::Thaw(set, cooling) => {
                draft.writes.insert(keys::address(&set, cooling.addr), None);
                draft.writes.insert(keys::cooling(&set, cooling.addr), None);
            }
            Change::Cool(set, cooling) => {
                // It is known twice, as when it is freed.
                for path in [keys::address(&set, cooling.addr), keys::cooling(&set, cooling.addr)] {
                    let value = codec::slot(path.as_bytes(), &Holder::Cooling(cooling));
                    draft.writes.insert(path, value);
                }
            }
            Change::Cursor(set, range, addr) => draft.hint(keys::cursor(&set, range), addr),
            Change::Sticky(set, pod, range, addr) => draft.stick(&set, &pod, range, addr)?,
            Change::Adopted(network, time) => {
                let path = keys::adopted(&network);
                let value = codec::number(path.as_bytes(), time);
                draft.writes.insert(path, Some(value));
            }
            Change::Exported(network) => {
                draft.writes.insert(keys::adopted(&network), None);
            }
            Change::PutRanges(ranges) => {
                let path = keys::ranges(&ranges.network);
                let value = codec::ranges(path.as_bytes(), &ranges);
                draft.writes.insert(path, Some(value));
            }
            Change::PutPool(pool) => draft.pool(&pool, true)?,
            Change::DropPool(pool) => draft.pool(&pool, false)?,
            Change::PutDefinition(record) => {
                let path = keys::definition(&record.network);
                let value = codec::definition(path.as_bytes(), &record);
                draft.writes.insert(path, Some(value));
            }
        }
    }
    let mut writes = draft.writes;
    for (path, leases) in draft.owned {
        let value = (!leases.is_empty()).then(|| codec::owned(path.as_bytes(), &leases));
        writes.insert(path, value);
    }
    Ok((writes, draft.events))
}

struct Draft<'a, 'k> {
    view: &'a ClusterView<'k>,
    writes: Writes,
    /// Owners' records as they will be.
    owned: BTreeMap<String, Vec<Lease>>,
    events: Vec<Event>,
}

impl Draft<'_, '_> {
    /// Whether the address was not the owner's.
    fn put(&mut self, lease: Lease) -> Result<bool, StoreError> {
        let path = keys::address(&lease.set, lease.addr);
        if let Owner::Pool(id, _) = &lease.owner {
            self.touch(keys::pool(id));
        }
        self.unseat(&lease)?;
        let mut is_new = true;
        if let Some(own) = self.owner_of(&lease)? {
            own.retain(|l| {
                is_new &= l.addr != lease.addr;
                l.addr != lease.addr
            });
            own.push(lease.clone());
            own.sort_by_key(|l| l.addr);
        }
        let before = self.view.known.borrow().get(&path).cloned().flatten();
        let before = before.map(|entry| self.view.slot(&lease.set, lease.addr, &entry));
        match before.transpose()? {
            Some(Holder::Cooling(_)) => {
                self.writes.insert(keys::cooling(&lease.set, lease.addr), None);
            }
            Some(Holder::Leased(before)) => {
                is_new &= before.owner != lease.owner || self.view.has_ended(&before);
            }
            Some(Holder::Free) | None => {}
        }
        let value = codec::slot(path.as_bytes(), &Holder::Leased(Box::new(lease)));
        self.writes.insert(path, value);
        Ok(is_new)
    }

    fn free(&mut self, lease: &Lease, until: Option<u64>) -> Result<(), StoreError> {
        let path = keys::address(&lease.set, lease.addr);
        if let Some(own) = self.owner_of(lease)? {
            own.retain(|l| l.addr != lease.addr);
        }
        let own = keys::owner(&lease.set, &lease.node, &lease.owner);
        let version = self.version(own.as_deref().unwrap_or(&path));
        if let Some(version) = version
            && !self.view.derive_address(lease, version)?
        {
            return Err(bad_record(self.view.server, &path, "it is not the owner's who frees it"));
        }
        let (addr, freed) = (lease.addr, self.view.cx.now);
        let left =
            until.map_or(Holder::Free, |until| Holder::Cooling(Cooling { until, addr, freed }));
        let value = codec::slot(path.as_bytes(), &left);
        self.writes.insert(path, value);
        if let Holder::Cooling(_) = left {
            let path = keys::cooling(&lease.set, addr);
            let value = codec::slot(path.as_bytes(), &left);
            self.writes.insert(path, value);
        }
        Ok(())
    }

    fn version(&self, path: &str) -> Option<u64> {
        let known = self.view.known.borrow();
        known.get(path).and_then(|entry| entry.as_ref().map(|e| e.version))
    }

    /// What the owner of a lease holds, as far as is known and changed by now. An owner nobody has
    /// looked at holds nothing; the commit compares that. `None`: it has no record.
    fn owner_of(&mut self, lease: &Lease) -> Result<Option<&mut Vec<Lease>>, StoreError> {
        let Some(path) = keys::owner(&lease.set, &lease.node, &lease.owner) else {
            return Ok(None);
        };
        self.load(&path, &lease.set)?;
        Ok(Some(self.owned.entry(path).or_default()))
    }

    /// Takes in an owner's record, once. What of it has ended with its boot goes, and its address with
    /// it.
    fn load(&mut self, path: &str, set: &SetName) -> Result<(), StoreError> {
        let entry = self.view.known.borrow().get(path).cloned().flatten();
        let Some(entry) = entry.filter(|_| !self.owned.contains_key(path)) else {
            return Ok(());
        };
        let mut living = self.view.owned(path, set, &entry)?;
        for lease in living.extract_if(.., |l| self.view.has_ended(l)) {
            self.view.compare_node_of(&lease);
            let cx = self.view.cx;
            self.events.push(Event::of(&lease, What::BootEnded, cx.face, cx.now));
            if self.view.derive_address(&lease, entry.version)? {
                self.writes.entry(keys::address(set, lease.addr)).or_insert(None);
            }
        }
        self.owned.insert(path.to_owned(), living);
        Ok(())
    }

    /// Who had this address in an earlier boot has it no more.
    fn unseat(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let (set, addr) = (&lease.set, lease.addr);
        let entry = self.view.known.borrow().get(&keys::address(set, addr)).cloned().flatten();
        let before = entry.map(|entry| self.view.slot(set, addr, &entry)).transpose()?;
        if let Some(Holder::Leased(ended)) = before
            && self.view.has_ended(&ended)
            && let Some(path) = keys::owner(set, &ended.node, &ended.owner)
        {
            self.view.compare_node_of(&ended);
            self.view.read(&path)?;
            self.load(&path, set)?;
        }
        Ok(())
    }

    /// Writes a pool, or removes it; in its space's record too if it comes or goes.
    fn pool(&mut self, pool: &Pool, there: bool) -> Result<(), StoreError> {
        let path = keys::pool(&pool.id);
        let value = there.then(|| codec::pool(path.as_bytes(), pool));
        self.writes.insert(path, value);
        let mut pools = self.view.pools(&pool.space)?;
        if there && pools.iter().any(|p| p.id == pool.id) {
            return Ok(());
        }
        pools.retain(|p| p.id != pool.id);
        pools.extend(there.then(|| pool.clone()));
        let path = keys::space(&pool.space);
        let value = (!pools.is_empty()).then(|| codec::pools(path.as_bytes(), &pools));
        self.writes.insert(path, value);
        Ok(())
    }

    /// Writes a pool as it is: whoever lets it go meanwhile has not seen this lease, and must look
    /// again.
    fn touch(&mut self, path: String) {
        let entry = self.view.known.borrow().get(&path).cloned().flatten();
        if let Some(entry) = entry {
            self.writes.entry(path).or_insert(Some(entry.value));
        }
    }

    fn hint(&mut self, path: String, addr: Addr) {
        let value = codec::addr(path.as_bytes(), addr);
        self.writes.insert(path, Some(value));
    }

    /// Remembers a pod's address. An address is remembered for one pod, the last, so there are never
    /// more records than addresses, however many pods come and go.
    fn stick(
        &mut self,
        set: &SetName,
        pod: &PodKey,
        range: Addr,
        addr: Addr,
    ) -> Result<(), StoreError> {
        let path = keys::sticky(set, pod, range);
        let before = self.view.read(&path)?;
        let before = before.and_then(|e| codec::read_addr(path.as_bytes(), &e.value).ok());
        if let Some(before) = before {
            self.writes.insert(keys::sticky_of(set, before), None);
        }
        let stuck = keys::sticky_of(set, addr);
        let other = self.view.read(&stuck)?;
        let other = other.and_then(|e| codec::read_key(stuck.as_bytes(), &e.value).ok());
        if let Some(other) = other.and_then(|key| String::from_utf8(key).ok()) {
            self.writes.insert(other, None);
        }
        let value = codec::key(stuck.as_bytes(), path.as_bytes());
        self.writes.insert(stuck, Some(value));
        self.hint(path, addr);
        Ok(())
    }
}

/// The transaction: what the plan writes, and that every lease and owner which it writes or assumed
/// is what it took it for, and every pool, space, node, network and takeover what it was seen to be. A hint is
/// compared with nothing.
pub fn operations(writes: Writes, view: &ClusterView<'_>) -> Vec<Operation> {
    let entries = view.known.borrow();
    let expect = |path: &str| match entries.get(path) {
        _ if !keys::is_compared(path) => Expect::Anything,
        Some(Some(entry)) => Expect::Version(entry.version),
        Some(None) | None => Expect::Absent,
    };
    let assumed_absent = view.assumed_absent.borrow();
    // Of all that a GC has listed, these few are found without going over it.
    let guards = keys::ALWAYS_COMPARED.iter().flat_map(|prefix| {
        let from = entries.range((*prefix).to_owned()..);
        from.map(|(path, _)| path).take_while(move |path| path.starts_with(prefix))
    });
    let only: Vec<Operation> = assumed_absent
        .iter()
        .chain(guards)
        .filter(|path| !writes.contains_key(*path))
        .map(|path| Operation { expect: expect(path), path: path.clone(), write: Write::Keep })
        .collect();
    let assumed_present = view.assumed_present.borrow();
    let there = assumed_present
        .iter()
        .filter(|path| !writes.contains_key(*path))
        .map(|path| Operation { path: path.clone(), expect: Expect::Present, write: Write::Keep });
    let only: Vec<Operation> = only.into_iter().chain(there).collect();
    let written = writes.into_iter().map(|(path, value)| Operation {
        expect: expect(&path),
        path,
        write: value.map_or(Write::Delete, Write::Put),
    });
    written.chain(only).collect()
}
