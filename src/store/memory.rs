//! The model: a store in memory, as plain as can be.
//!
//! Owns: what the other stores must be equal to. It looks at every lease for every question and
//! has no index that could disagree with another.

use std::collections::BTreeMap;

use super::Store;
use crate::alloc::{
    self, Change, Command, Context, Cooling, Definition, Holder, Order, Outcome, PodKey, View,
};
use crate::error::{Error, StoreError};
use crate::model::{Lease, NetworkName, Owner, SetName};
use crate::net::{Addr, Family, Span};

/// Leases in this process.
#[derive(Default)]
pub struct Memory {
    leases: BTreeMap<(SetName, Addr), Lease>,
    cooling: BTreeMap<(SetName, Addr), Cooling>,
    cursors: BTreeMap<(SetName, Addr), Addr>,
    sticky: BTreeMap<(SetName, PodKey, Addr), Addr>,
    definitions: BTreeMap<NetworkName, Definition>,
    adopted: BTreeMap<NetworkName, u64>,
}

impl View for Memory {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        let key = (set.clone(), addr);
        let lease = self.leases.get(&key).map(|l| Holder::Leased(Box::new(l.clone())));
        let cooling = self.cooling.get(&key).map(|c| Holder::Cooling(*c));
        Ok(lease.or(cooling).unwrap_or(Holder::Free))
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        Ok(self.leases.values().filter(|l| l.set == *set && l.owner == *owner).cloned().collect())
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError> {
        Ok(self.cursors.get(&(set.clone(), range)).copied())
    }

    fn next_free(&self, set: &SetName, span: Span, _: Order) -> Result<Option<Addr>, StoreError> {
        let mut at = Some(span.first);
        while let Some(addr) = at.filter(|a| span.contains(*a)) {
            if self.holder(set, addr)? == Holder::Free {
                return Ok(Some(addr));
            }
            at = addr.next();
        }
        Ok(None)
    }

    fn cooling(
        &self,
        set: &SetName,
        family: Family,
        limit: usize,
    ) -> Result<Vec<Cooling>, StoreError> {
        let of_set =
            |(key, _): &(&(SetName, Addr), &Cooling)| key.0 == *set && key.1.family() == family;
        let mut all: Vec<Cooling> = self.cooling.iter().filter(of_set).map(|(_, c)| *c).collect();
        all.sort_unstable();
        let last = all.last().copied();
        all.truncate(limit);
        all.extend(last.filter(|last| !all.contains(last)));
        Ok(all)
    }

    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        let all = self.cooling(set, family, usize::MAX)?;
        Ok(all.into_iter().find(|c| spans.iter().any(|s| s.contains(c.addr))))
    }

    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError> {
        Ok(self.sticky.get(&(set.clone(), pod.clone(), range)).copied())
    }

    fn adopted(&self, network: &NetworkName) -> Result<bool, StoreError> {
        Ok(self.adopted.contains_key(network))
    }

    fn defined(&self, definition: &Definition) -> Result<bool, StoreError> {
        Ok(self.definitions.get(&definition.network) == Some(definition))
    }

    fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        Ok(self.definitions.values().cloned().collect())
    }

    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        // Any order of owners will do, as long as it stays the same.
        let mut owners: BTreeMap<&Owner, Vec<Lease>> = BTreeMap::new();
        for lease in self.leases.values().filter(|l| l.set == *set) {
            if after.is_none_or(|after| lease.owner > *after) {
                owners.entry(&lease.owner).or_default().push(lease.clone());
            }
        }
        Ok(owners.into_values().take(limit).flatten().collect())
    }

    fn capacity(&self) -> usize {
        usize::MAX
    }
}

impl Memory {
    fn make(&mut self, change: Change, now: u64) {
        match change {
            Change::Put(lease) => {
                let key = (lease.set.clone(), lease.addr);
                let before = self.leases.insert(key.clone(), lease.clone());
                assert!(before.is_none_or(|b| b.owner == lease.owner), "{key:?} given twice");
                self.cooling.remove(&key);
            }
            Change::Free { lease, until } => {
                let key = (lease.set.clone(), lease.addr);
                assert_eq!(self.leases.remove(&key), Some(lease.clone()), "freed as it was read");
                if let Some(until) = until {
                    self.cooling.insert(key, Cooling { until, addr: lease.addr, freed: now });
                }
            }
            Change::Thaw(set, cooling) => {
                assert_eq!(self.cooling.remove(&(set, cooling.addr)), Some(cooling));
            }
            Change::Cursor(set, range, addr) => drop(self.cursors.insert((set, range), addr)),
            Change::Sticky(set, pod, range, addr) => {
                self.sticky.retain(|(s, ..), at| *s != set || *at != addr);
                self.sticky.insert((set, pod, range), addr);
            }
            Change::Define(d) => drop(self.definitions.insert(d.network.clone(), d)),
            Change::Adopted(network, time) => drop(self.adopted.insert(network, time)),
            Change::Released(network) => drop(self.adopted.remove(&network)),
        }
    }
}

impl Store for Memory {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        let plan = alloc::run(command, self, cx)?;
        for change in plan.changes {
            self.make(change, cx.now);
        }
        plan.outcome.map_err(Error::Refused)
    }

    fn list(&mut self, _: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        self.leases.values().cloned().for_each(each);
        Ok(())
    }
}
