//! The model: a store in memory, as simple as possible, to which the other stores are compared.
//!
//! It looks at every lease for every question, and has no index that could disagree with another record.

use std::collections::BTreeMap;

use crate::alloc;
use crate::alloc::{
    Addresses, Change, Command, Context, Cooling, Holder, NetworkRanges, Order, Outcome, PodKey,
    Record, View,
};
use crate::error::{Error, StoreError};
use crate::model::{
    Counter, Ending, Event, Face, Lease, NetworkName, Owner, Persist, Pool, PoolId, SetName, Verb,
};
use crate::net::{Addr, Family, Span, Subnet};
use crate::store::{EachOccupied, EachRecord, EventFilter, Problem, Repair, Store, StoreReader};

/// A store in memory.
#[derive(Default)]
pub struct Memory {
    leases: BTreeMap<(SetName, Addr), Lease>,
    cooling: BTreeMap<(SetName, Addr), Cooling>,
    cursors: BTreeMap<(SetName, Addr), Addr>,
    sticky: BTreeMap<(SetName, PodKey, Addr), Addr>,
    ranges: BTreeMap<NetworkName, NetworkRanges>,
    adopted: BTreeMap<NetworkName, u64>,
    pools: BTreeMap<PoolId, Pool>,
    events: Vec<Event>,
    counters: BTreeMap<(SetName, Face, Verb, Ending), u64>,
}

impl Addresses for Memory {
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
}

impl View for Memory {
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError> {
        Ok(self.sticky.get(&(set.clone(), pod.clone(), range)).copied())
    }

    fn adopted(&self, _: &NetworkName) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError> {
        Ok(self.ranges.get(&ranges.network) == Some(ranges))
    }

    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError> {
        Ok(self.ranges.values().cloned().collect())
    }

    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        // The order of owners does not matter, as long as it stays the same.
        let mut owners: BTreeMap<&Owner, Vec<Lease>> = BTreeMap::new();
        for lease in self.leases.values().filter(|l| l.set == *set) {
            if after.is_none_or(|after| lease.owner > *after) {
                owners.entry(&lease.owner).or_default().push(lease.clone());
            }
        }
        Ok(owners.into_values().take(limit).flatten().collect())
    }

    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError> {
        Ok(self.pools.get(id).cloned())
    }

    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError> {
        let overlaps =
            |p: &&Pool| p.space == space && Span::from(p.subnet).overlaps(Span::from(subnet));
        Ok(self.pools.values().filter(overlaps).min_by_key(|p| p.subnet).cloned())
    }

    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>, StoreError> {
        let mut block = Subnet::masked(within.first(), len);
        while let Some(b) = block.filter(|b| within.contains(b.first())) {
            let taken = self.pools.values().any(|p| p.space == space && p.subnet == b);
            if b.first() >= from && !taken {
                return Ok(Some(b));
            }
            block = b.last().next().and_then(|next| Subnet::masked(next, len));
        }
        Ok(None)
    }

    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let is_of_pool = |l: &&Lease| {
            l.owner == Owner::Pool(pool.id.clone(), l.addr) && after.is_none_or(|a| l.addr > a)
        };
        Ok(self.leases.values().filter(is_of_pool).take(limit).cloned().collect())
    }

    fn capacity(&self) -> usize {
        usize::MAX
    }
}

impl Memory {
    fn apply_change(&mut self, change: Change, now: u64) {
        match change {
            Change::Put(lease) => {
                let key = (lease.set.clone(), lease.addr);
                let before = self.leases.insert(key.clone(), lease.clone());
                assert!(before.is_none_or(|b| b.owner == lease.owner), "{key:?} leased twice");
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
            Change::Cool(set, cooling) => {
                let before = self.cooling.insert((set, cooling.addr), cooling);
                assert!(before.is_none(), "{before:?} cools already");
            }
            Change::Cursor(set, range, addr) => drop(self.cursors.insert((set, range), addr)),
            Change::Sticky(set, pod, range, addr) => {
                self.sticky.retain(|(s, ..), at| *s != set || *at != addr);
                self.sticky.insert((set, pod, range), addr);
            }
            Change::PutRanges(r) => drop(self.ranges.insert(r.network.clone(), r)),
            Change::Adopted(network, time) => drop(self.adopted.insert(network, time)),
            Change::PutPool(pool) => drop(self.pools.insert(pool.id.clone(), pool)),
            Change::PutDefinition(_) => {}
            Change::DropPool(pool) => {
                assert!(self.of_pool(&pool, None, 1).is_ok_and(|left| left.is_empty()));
                assert!(self.pools.remove(&pool.id).is_some());
            }
        }
    }
}

impl Store for Memory {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        let plan = alloc::run(command, self, cx)?;
        if let Some(counted) = alloc::counted(command, &plan, cx, true) {
            *self.counters.entry(counted).or_default() += 1;
        }
        for change in plan.changes {
            let is_new = match &change {
                Change::Put(lease) => !self.leases.contains_key(&(lease.set.clone(), lease.addr)),
                Change::Free { .. } => true,
                _ => false,
            };
            let event = if is_new { alloc::event(&change, command, cx) } else { None };
            self.events.extend(event);
            self.apply_change(change, cx.now);
        }
        plan.outcome.map_err(Error::Refused)
    }

    fn repair(&mut self, _: &Context) -> Result<Repair, StoreError> {
        Ok(Repair::default())
    }
}

impl StoreReader for Memory {
    fn list(&mut self, _: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        self.leases.values().cloned().for_each(each);
        Ok(())
    }

    fn occupancy(&mut self, _: &Context, each: &mut EachOccupied<'_>) -> Result<(), StoreError> {
        let cooling = self.cooling.iter().map(|(key, c)| (key, Holder::Cooling(*c)));
        let leased = self.leases.iter().map(|(key, l)| (key, Holder::Leased(Box::new(l.clone()))));
        let all: BTreeMap<_, _> = cooling.chain(leased).collect();
        for ((set, addr), holder) in all {
            each(set, *addr, &holder);
        }
        Ok(())
    }

    fn networks(&mut self, _: &Context) -> Result<Vec<NetworkRanges>, StoreError> {
        View::networks(self)
    }

    fn history(
        &mut self,
        _: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError> {
        Ok(self.events.iter().filter(|event| filter(event)).cloned().collect())
    }

    fn problems(&mut self, _: &Context, _: &mut dyn FnMut(Problem)) -> Result<(), StoreError> {
        Ok(())
    }

    fn counters(&mut self, _: &Context) -> Result<Vec<Counter>, StoreError> {
        let counter = |((set, face, verb, ending), count): (&(SetName, _, _, _), &u64)| Counter {
            set: set.clone(),
            face: *face,
            verb: *verb,
            ending: *ending,
            count: *count,
        };
        Ok(self.counters.iter().map(counter).collect())
    }

    fn pools(&mut self) -> Result<Vec<Pool>, StoreError> {
        Ok(self.pools.values().cloned().collect())
    }

    fn records(&mut self, _: &Context, each: &mut EachRecord<'_>) -> Result<(), Error> {
        let keep = Persist::Disk;
        for (network, time) in &self.adopted {
            each(Record::Adopted(network.clone(), *time), keep)?;
        }
        for pool in self.pools.values() {
            each(Record::Pool(pool.clone()), keep)?;
        }
        for lease in self.leases.values() {
            each(Record::Lease(lease.clone()), keep)?;
        }
        for ((set, _), cooling) in &self.cooling {
            each(Record::Cooling(set.clone(), *cooling), keep)?;
        }
        for ((set, range), addr) in &self.cursors {
            each(Record::Cursor(set.clone(), *range, *addr), keep)?;
        }
        for ((set, pod, range), addr) in &self.sticky {
            each(Record::Sticky(set.clone(), pod.clone(), *range, *addr), keep)?;
        }
        Ok(())
    }
}
