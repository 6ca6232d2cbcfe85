//! The model: an in-memory store that is as simple as possible. Tests compare the real stores with the model.
//!
//! The model reads every lease for every query, so it has no index that could contradict a lease. [`Memory`]
//! is the model of one lease file. [`Machine`] is the model of a host with two lease files, a policy file and
//! reboots.

use std::collections::{BTreeMap, BTreeSet};

use super::delegate::{delegate_reads, delegate_repairs};
use crate::alloc;
use crate::alloc::{
    Add, Added, Addresses, Change, Collected, Command, Context, Cooling, Del, Draining, Holder,
    NetworkRanges, Order, Outcome, PodKey, Record, Reserve, Status, Target, View,
};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{
    Counter, Ending, Event, Face, Lease, NetworkName, Node, Owner, Persist, Pool, PoolId, SetName,
    Verb,
};
use crate::net::{Addr, Family, Span, Subnet};
use crate::store::{EachOccupied, EachRecord, EventFilter, Problem, Repair, Store, StoreReader};

/// The model of one lease file: an in-memory store without indexes.
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
    /// The reservations for pod names. If the file belongs to a [`Machine`], all of the machine's
    /// reservations.
    reserved: BTreeMap<(SetName, Addr), Lease>,
    /// The addresses that sticky pods (pods that return to their former addresses) had in earlier boots.
    earlier: BTreeMap<(SetName, PodKey, Addr), Addr>,
    draining: BTreeMap<SetName, Vec<Draining>>,
}

impl Addresses for Memory {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        let key = (set.clone(), addr);
        let lease = self.leases.get(&key).or_else(|| self.reserved.get(&key));
        let lease = lease.map(|l| Holder::Leased(Box::new(l.clone())));
        let cooling = self.cooling.get(&key).map(|c| Holder::Cooling(*c));
        Ok(lease.or(cooling).unwrap_or(Holder::Free))
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        let all = self.leases.values().chain(self.reserved.values());
        Ok(all.filter(|l| l.set == *set && l.owner == *owner).cloned().collect())
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
        let of_set = |(key, _): &(&(SetName, Addr), &Cooling)| {
            key.0 == *set && key.1.family() == family && !self.reserved.contains_key(key)
        };
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
        let key = (set.clone(), pod.clone(), range);
        Ok(self.sticky.get(&key).or_else(|| self.earlier.get(&key)).copied())
    }

    fn adopted(&self, _: &NetworkName) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn draining(&self, set: &SetName) -> Result<Vec<Draining>, StoreError> {
        Ok(self.draining.get(set).cloned().unwrap_or_default())
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
        // Owners may be returned in any order, as long as the order does not change between pages.
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
            Change::Put(lease) if matches!(lease.owner, Owner::Named(_)) => {
                self.reserved.insert((lease.set.clone(), lease.addr), lease);
            }
            Change::Free { lease, .. } if matches!(lease.owner, Owner::Named(_)) => {
                assert!(self.reserved.remove(&(lease.set.clone(), lease.addr)).is_some());
            }
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
            Change::PutDraining(set, ranges) => drop(self.draining.insert(set, ranges)),
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
        let mut all = self.reserved.clone();
        all.extend(self.leases.clone());
        all.into_values().for_each(each);
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

    fn draining(&mut self, _: &Context) -> Result<Vec<Draining>, StoreError> {
        Ok(self.draining.values().flatten().cloned().collect())
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
        for lease in self.reserved.values() {
            each(Record::Lease(lease.clone()), keep)?;
        }
        for range in self.draining.values().flatten() {
            each(Record::Draining(range.clone()), keep)?;
        }
        Ok(())
    }
}

/// The model of a host: its durable leases, its boot leases (which end when it reboots), and its
/// reservations.
#[derive(Default)]
pub struct Machine {
    /// The `persist` setting of the network that makes the next call.
    pub persist: Persist,
    durable: Memory,
    boot: Memory,
    /// Whether the current boot has a boot file.
    begun: bool,
    policy: BTreeMap<(SetName, Addr), Lease>,
}

impl Machine {
    /// Starts a new boot. If `power_cut` is set, the boot file of the previous boot is lost.
    pub fn reboot(&mut self, power_cut: bool) {
        let old = std::mem::take(&mut self.boot);
        let was_whole = self.begun && !power_cut;
        self.boot.earlier = if was_whole { old.sticky } else { old.earlier };
        self.begun = false;
    }

    /// Returns the models of both files. The file that `persist` selects comes first.
    fn files(&mut self) -> [&mut Memory; 2] {
        match self.persist {
            Persist::Boot => [&mut self.boot, &mut self.durable],
            Persist::Disk => [&mut self.durable, &mut self.boot],
        }
    }

    /// Returns where an ADD leases: in which file (true for the file that `persist` selects, false for the
    /// other file), and in which set. If the network has leases, they determine the file and the set.
    /// Otherwise, the leases of `set` determine the file.
    fn home(&mut self, set: &SetName, network: Option<&NetworkName>) -> (bool, SetName) {
        let [own, other] = self.files();
        if let Some(network) = network {
            for (file, is_own) in [(&own, true), (&other, false)] {
                let sets = file.sets_of(network);
                if let Some(home) = sets.get(set).or_else(|| sets.first()) {
                    return (is_own, home.clone());
                }
            }
        }
        (own.is_home(set) || !other.is_home(set), set.clone())
    }

    fn add(&mut self, command: &Command, set: &SetName, cx: &Context) -> Result<Outcome, Error> {
        let (is_own, home_set) = self.home(set, command.network());
        let (persist, policy) = (self.persist, self.policy.clone());
        self.boot.draining.clone_from(&self.durable.draining);
        let file = match self.files() {
            [own, _] if is_own => own,
            [_, other] => other,
        };
        file.reserved = policy;
        let command = match command {
            Command::Add(_) => command.clone().in_set(home_set.clone()),
            other => other.clone(),
        };
        let mut outcome = file.apply(&command, cx);
        if let (Command::Add(add), Ok(Outcome::Added(added))) = (&command, &mut outcome) {
            file.remember(add, added);
            let (home, other) = match persist {
                Persist::Boot => ("disk", "boot"),
                Persist::Disk => ("boot", "disk"),
            };
            added.warnings.extend((!is_own).then(|| {
                format!(
                    "network {home_set} has leases with \"persist\": \"{home}\", so this lease is stored \
                     in the same file; \"{other}\" takes effect when the network has no leases"
                )
            }));
            added.warnings.extend((home_set != *set).then(|| {
                format!(
                    "the network has leases under the name {home_set}, so this lease is stored under the same \
                     name; the new \"shared\" ({set}) takes effect when the network has no leases"
                )
            }));
        }
        self.begun |= matches!(command, Command::Add(_)) && persist == Persist::Boot && is_own;
        outcome
    }

    fn reserve(
        &mut self,
        asked: &Reserve,
        contested: bool,
        cx: &Context,
    ) -> Result<Outcome, Error> {
        let key = |addr: &Addr| (asked.set.clone(), *addr);
        let mut new: Vec<Addr> =
            asked.addrs.iter().filter(|a| !self.policy.contains_key(&key(a))).copied().collect();
        new.sort_unstable();
        let of_other = |l: &&Lease| !asked.name.as_ref().is_some_and(|name| name.is_of(&l.origin));
        let named = |addr: &Addr| match &self.policy.get(&key(addr))?.owner {
            Owner::Named(name) if asked.name.as_ref().is_some_and(|new| new != name) => {
                self.policy.get(&key(addr))
            }
            _ => None,
        };
        if let Some(holder) = asked.addrs.iter().find_map(named) {
            let (index, ranges, holder) = (0, holder.addr.to_string(), Box::new(holder.clone()));
            return Err(Error::Refused(Refusal::Held { index, ranges, holder }));
        }
        for file in [&self.durable, &self.boot] {
            let mut holders =
                new.iter().filter_map(|addr| file.leases.get(&key(addr))).filter(of_other);
            if let Some(holder) = holders.next().filter(|_| !contested) {
                let (index, ranges, holder) = (0, holder.addr.to_string(), holder.clone());
                let holder = Box::new(holder);
                return Err(Error::Refused(Refusal::Held { index, ranges, holder }));
            }
        }
        for addr in &asked.addrs {
            let bare = Lease {
                node: Node::default(),
                boot: None,
                ..cx.reservation(asked.set.clone(), *addr)
            };
            let entry = self.policy.entry(key(addr)).or_insert(bare);
            entry.origin.note = asked.note.clone().or_else(|| entry.origin.note.take());
            if let Some(name) = &asked.name {
                entry.owner = Owner::Named(name.clone());
            }
        }
        Ok(Outcome::Reserved(new))
    }

    /// Runs a command that searches for a container in both files and in all sets.
    fn everywhere(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        let of_container =
            !matches!(command, Command::Del(Del { target: Target::Addresses(_), .. }));
        let asked: Vec<SetName> = command.set().cloned().into_iter().collect();
        let mut missing = None;
        let (mut freed, mut collected) =
            (Vec::new(), Collected { done: true, ..Collected::default() });
        for file in self.files() {
            let others = file.leases.keys().map(|(set, _)| set).filter(|set| !asked.contains(set));
            let mut sets: Vec<SetName> =
                if of_container { others.cloned().collect() } else { vec![] };
            sets.dedup();
            for set in asked.iter().chain(&sets) {
                let mut command = command.clone().in_set(set.clone());
                if let Command::Gc(gc) = &mut command {
                    gc.set = set.clone();
                }
                match file.apply(&command, cx) {
                    Ok(Outcome::Freed(more)) => freed.extend(more),
                    Ok(Outcome::Collected(step)) => collected.freed.extend(step.freed),
                    Err(Error::Refused(refusal @ Refusal::Missing { .. })) => {
                        missing = Some(refusal);
                    }
                    other => return other,
                }
            }
            if !freed.is_empty() {
                break;
            }
        }
        match command {
            Command::Check(_) => Err(Error::Refused(missing.expect("a CHECK has an answer"))),
            Command::Gc(_) => Ok(Outcome::Collected(collected)),
            _ => Ok(Outcome::Freed(freed)),
        }
    }

    /// Reads each set's records from only one file: the file that has leases of the set or, if neither has
    /// any, the first file that has a record of the set.
    fn of_each_set<T: Clone>(
        &mut self,
        records: impl Fn(&Memory) -> BTreeMap<(SetName, Addr), T>,
    ) -> BTreeMap<(SetName, Addr), T> {
        let [own, other] = self.files();
        let (mut all, others) = (records(own), records(other));
        all.retain(|(set, _), _| !other.is_home(set));
        let sets: BTreeSet<SetName> = all.keys().map(|(set, _)| set.clone()).collect();
        all.extend(others.into_iter().filter(|((set, _), _)| !sets.contains(set)));
        all
    }
}

impl Memory {
    fn is_home(&self, set: &SetName) -> bool {
        self.leases.values().any(|lease| lease.set == *set && lease.kind.collectable())
    }

    /// Returns the sets in which a network has leases.
    fn sets_of(&self, network: &NetworkName) -> BTreeSet<SetName> {
        let of_network = |lease: &&Lease| match &lease.owner {
            Owner::Attachment(attachment) => attachment.network == *network,
            _ => false,
        };
        self.leases.values().filter(of_network).map(|lease| lease.set.clone()).collect()
    }

    /// Records a pod's former address from an earlier boot in the current boot's file, if an ADD has just
    /// leased this address to the pod again.
    fn remember(&mut self, add: &Add, added: &Added) {
        let carried: Vec<_> = self
            .earlier
            .iter()
            .filter(|((set, pod, range), addr)| {
                let of_pod = add
                    .origin
                    .pod
                    .as_ref()
                    .is_some_and(|p| (&p.namespace, &p.name) == (&pod.namespace, &pod.name));
                let in_range = add.sets.iter().any(|s| s.key() == *range);
                add.sticky && of_pod && *set == add.set && in_range && added.created.contains(addr)
            })
            .map(|(key, addr)| (key.clone(), *addr))
            .collect();
        for ((set, pod, range), addr) in carried {
            self.apply_change(Change::Sticky(set, pod, range, addr), 0);
        }
    }
}

impl Store for Machine {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        match command {
            Command::Reserve(asked) => self.reserve(asked, false, cx),
            Command::ReserveContested(asked) => self.reserve(asked, true, cx),
            Command::Unreserve(asked) => {
                let mut addrs = asked.addrs.clone();
                addrs.sort_unstable();
                let free = |addr| self.policy.remove(&(asked.set.clone(), addr));
                Ok(Outcome::Freed(addrs.into_iter().filter_map(free).collect()))
            }
            Command::Drain(_) => self.durable.apply(command, cx),
            Command::Add(Add { set, .. }) | Command::Status(Status { set, .. }) => {
                self.add(command, set, cx)
            }
            _ => self.everywhere(command, cx),
        }
    }

    delegate_repairs!(self => self.durable);
}

impl StoreReader for Machine {
    fn list(&mut self, _: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        let mut all = self.policy.clone();
        all.extend(self.of_each_set(|file| file.leases.clone()));
        all.into_values().for_each(each);
        Ok(())
    }

    delegate_reads!(self => (&mut self.durable));
}
