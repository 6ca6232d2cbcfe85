//! ADD: one address of each range set, all or none.
//!
//! Owns: what a repeated ADD gets, what may be asked for, and the warning about overlapping
//! networks. Does not own: which free address (`choose`), host-local's leases (`takeover`).

use std::collections::BTreeSet;

use super::change::{Change, NetworkRanges, PodKey};
use super::choose::{Choice, Ended, choose};
use super::command::{Add, Added, Legacy, OnDuplicate, Outcome, Strategy, Wanted, legacy_owner};
use super::define;
use super::takeover::{Takeover, WithTakeover};
use super::view::{Context, Holder, Plan, View};
use crate::error::{Refusal, StoreError};
use crate::model::{Grant, Kind, Lease, Owner};
use crate::net::{Addr, Range, RangeSet, describe};

/// A step's failure: the store's, or a refusal that ends the ADD.
enum Stop {
    Refused(Refusal),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Stop {
        Stop::Store(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// Decides an ADD.
pub fn run(add: &Add, view: &dyn View, cx: &Context) -> Result<Plan, StoreError> {
    match plan(add, view, cx) {
        Ok(plan) => Ok(plan),
        Err(Stop::Refused(refusal)) => Ok(Plan::refuse(refusal)),
        Err(Stop::Store(error)) => Err(error),
    }
}

fn plan(add: &Add, view: &dyn View, cx: &Context) -> Result<Plan, Stop> {
    let adopted = view.adopted(&add.network)?;
    let mut changes = Vec::new();
    let mut taken = Takeover::default();
    match &add.legacy {
        Legacy::Unread if !adopted => return Ok(Plan::only(Outcome::ReadLegacy)),
        Legacy::Absent | Legacy::Unread => {}
        // In a cluster old keys stay where they are: a record says that they were imported.
        Legacy::Read(..) if adopted && view.has_other_nodes() => {}
        Legacy::Read(leases, cursors) => {
            taken = Takeover::read(add, leases, cursors, view, cx)??;
            if !taken.contested.is_empty() {
                return Ok(Plan::only(Outcome::Contested(taken.contested)));
            }
            changes = taken.changes(add, cx.now);
        }
    }
    if let Some(define) = &add.define {
        changes.extend(define::first(define, view, cx)??);
    }
    // With the takeover in it: an address that it leases has ended no cooldown.
    let ended = Ended::find(add, &WithTakeover { taken: &taken, view }, cx)?;
    let mut work = Work { add, view, cx, changes, taken, ended };
    let kept = work.kept(adopted || matches!(add.legacy, Legacy::Read(..)))?;
    if add.on_duplicate == OnDuplicate::Error
        && let Some((index, lease)) = first_kept(&add.sets, &kept)
    {
        return Err(Refusal::Duplicate { index, lease: Box::new(lease.clone()) }.into());
    }
    let mut grants = Vec::new();
    let mut created = Vec::new();
    let (wanted, left) = work.assign(&kept)?;
    for (index, set) in add.sets.iter().enumerate() {
        work.claim_gateways(set)?;
        let own = kept.iter().find(|l| set.range_of(l.addr).is_some());
        let lease = if let Some(lease) = own {
            work.keep(set, lease, wanted[index])?
        } else {
            let lease = work.lease(index, set, wanted[index])?;
            created.push(lease.addr);
            lease
        };
        // `range_of` holds for both: a kept lease was found by it, a new one was drawn from it.
        let gateway = set.range_of(lease.addr).and_then(Range::gateway);
        grants.push(Grant { addr: lease.addr, prefix: lease.prefix, gateway });
    }
    // As in host-local, after what each set has to say.
    if !left.is_empty() {
        return Err(Refusal::NotInRange { addrs: left, ranges: describe(&add.sets) }.into());
    }
    let warnings = if created.is_empty() { Vec::new() } else { work.put_ranges()? };
    let changes = work.finish();
    Ok(Plan { changes, outcome: Ok(Outcome::Added(Added { grants, created, warnings })) })
}

/// The lease that host-local would come upon first, and in which set; any if all ranges are gone.
fn first_kept<'l>(sets: &[RangeSet], kept: &'l [Lease]) -> Option<(usize, &'l Lease)> {
    let of_set = |set: &RangeSet| kept.iter().find(|l| set.range_of(l.addr).is_some());
    let found = sets.iter().enumerate().find_map(|(index, set)| Some((index, of_set(set)?)));
    found.or_else(|| kept.first().map(|l| (0, l)))
}

struct Work<'a> {
    add: &'a Add,
    view: &'a dyn View,
    cx: &'a Context,
    changes: Vec<Change>,
    /// Leases taken over by this plan, which the view does not know yet.
    taken: Takeover,
    ended: Ended,
}

impl Work<'_> {
    /// What the owner holds before this call. What it holds under its container's name alone, from
    /// a host-local that wrote no interface, is the first interface's that asks.
    fn kept(&self, adopted: bool) -> Result<Vec<Lease>, Stop> {
        let mut owners = vec![self.add.owner.clone()];
        if adopted {
            owners.extend(legacy_owner(&self.add.owner));
        }
        let mut kept = Vec::new();
        for owner in &owners {
            if kept.is_empty() {
                kept.extend(self.view.of(&self.add.set, owner)?);
                kept.extend(self.taken.of(owner));
            }
        }
        Ok(kept)
    }

    /// The changes, with what has cooled down and was not taken let go.
    fn finish(self) -> Vec<Change> {
        let put = |change: &Change| match change {
            Change::Put(lease) => Some(lease.addr),
            _ => None,
        };
        let taken: BTreeSet<Addr> = self.changes.iter().filter_map(put).collect();
        let left = self.ended.left(|addr| taken.contains(&addr));
        let thaw: Vec<Change> = left.map(|c| Change::Thaw(self.add.set.clone(), c)).collect();
        [self.changes, thaw].concat()
    }

    /// Gives each set the first wanted address in it, and tells what is left over; refuses what
    /// does not fit the kept leases.
    fn assign(&self, kept: &[Lease]) -> Result<(Vec<Option<Wanted>>, Vec<Addr>), Stop> {
        let sets = &self.add.sets;
        if let Some(lost) = kept.iter().find(|l| !sets.iter().any(|s| s.range_of(l.addr).is_some()))
        {
            return Err(Refusal::Misfit { lease: Box::new(lost.clone()), asked: None }.into());
        }
        let mut left = self.add.wanted.clone();
        let mut assigned = Vec::new();
        for set in sets {
            let position = left.iter().position(|w| set.range_of(w.addr).is_some());
            assigned.push(position.map(|p| left.remove(p)));
        }
        for (set, wanted) in sets.iter().zip(&assigned) {
            let own = kept.iter().find(|l| set.range_of(l.addr).is_some());
            if let (Some(lease), Some(wanted)) = (own, wanted)
                && lease.addr != wanted.addr
            {
                let lease = Box::new(lease.clone());
                return Err(Refusal::Misfit { lease, asked: Some(wanted.addr) }.into());
            }
        }
        Ok((assigned, left.iter().map(|w| w.addr).collect()))
    }

    /// The lease that the owner has, with the prefix that the configuration says now. Rewritten if
    /// the container moved to another namespace or boot, so that nobody takes a living lease for a
    /// dead one; given the owner's full name if it was adopted without.
    fn keep(
        &mut self,
        set: &RangeSet,
        lease: &Lease,
        wanted: Option<Wanted>,
    ) -> Result<Lease, Stop> {
        let range = set.range_of(lease.addr);
        if range.and_then(Range::gateway) == Some(lease.addr) {
            return Err(Refusal::NowGateway { lease: Box::new(lease.clone()) }.into());
        }
        let subnet = range.map_or(lease.prefix, |r| r.subnet().len());
        let current = Lease {
            owner: self.add.owner.clone(),
            prefix: wanted.and_then(|w| w.prefix).unwrap_or(subnet),
            range: set.key(),
            node: self.cx.node.clone(),
            boot: self.cx.boot.clone(),
            origin: self.add.origin.clone(),
            ..lease.clone()
        };
        if current.owner != lease.owner {
            self.changes.push(Change::Free { lease: lease.clone(), until: None });
        }
        if current != *lease {
            self.changes.push(Change::Put(current.clone()));
        }
        Ok(current)
    }

    /// A new lease from one set.
    fn lease(
        &mut self,
        index: usize,
        set: &RangeSet,
        wanted: Option<Wanted>,
    ) -> Result<Lease, Stop> {
        let add = self.add;
        let pod = add
            .origin
            .pod
            .as_ref()
            .filter(|_| add.sticky)
            .map(|p| PodKey { namespace: p.namespace.clone(), name: p.name.clone() });
        let former = match &pod {
            Some(pod) => self.view.former(&add.set, pod, set.key())?,
            None => None,
        };
        let (addr, kind) = if let Some(wanted) = wanted {
            self.asked(index, set, wanted.addr)?;
            (wanted.addr, Kind::Static)
        } else if let Some(addr) = self.former(set, former)? {
            (addr, Kind::Dynamic)
        } else {
            (self.chosen(index, set)?, Kind::Dynamic)
        };
        let subnet = set.range_of(addr).map_or(addr.family().bits(), |r| r.subnet().len());
        let lease = Lease {
            set: add.set.clone(),
            addr,
            prefix: wanted.and_then(|w| w.prefix).unwrap_or(subnet),
            kind,
            owner: add.owner.clone(),
            range: set.key(),
            node: self.cx.node.clone(),
            boot: self.cx.boot.clone(),
            origin: add.origin.clone(),
            time: self.cx.now,
            cooldown: add.cooldown.seconds,
        };
        self.changes.push(Change::Put(lease.clone()));
        if add.strategy == Strategy::RoundRobin {
            self.changes.push(Change::Cursor(add.set.clone(), set.key(), addr));
        }
        if let Some(pod) = pod
            && former != Some(addr)
        {
            self.changes.push(Change::Sticky(add.set.clone(), pod, set.key(), addr));
        }
        Ok(lease)
    }

    /// Whether an address that was asked for can be had.
    fn asked(&self, index: usize, set: &RangeSet, addr: Addr) -> Result<(), Stop> {
        let ranges = set.to_string();
        let range = set.range_of(addr);
        if range.is_some_and(|r| r.gateway() == Some(addr)) {
            return Err(Refusal::IsGateway { index, addr }.into());
        }
        if !range.is_some_and(|r| r.gives(addr)) {
            return Err(Refusal::Excluded { index, addr }.into());
        }
        match self.holder(addr)? {
            Holder::Free => Ok(()),
            Holder::Cooling(c) if c.over(self.cx.now) || !self.add.cooldown.strict => Ok(()),
            Holder::Cooling(c) => {
                let seconds = c.until.saturating_sub(self.cx.now);
                Err(Refusal::Cooling { index, addr, seconds }.into())
            }
            Holder::Leased(holder) => Err(Refusal::Held { index, ranges, holder }.into()),
        }
    }

    /// A pod's former address, if nobody else has got it. Cooling does not matter: it keeps an
    /// address from strangers.
    fn former(&self, set: &RangeSet, former: Option<Addr>) -> Result<Option<Addr>, Stop> {
        let Some(addr) = former else { return Ok(None) };
        let gives = set.range_of(addr).is_some_and(|r| r.gives(addr));
        Ok((gives && !matches!(self.holder(addr)?, Holder::Leased(_))).then_some(addr))
    }

    fn chosen(&self, index: usize, set: &RangeSet) -> Result<Addr, Stop> {
        let view = WithTakeover { taken: &self.taken, view: self.view };
        match choose(self.add, set, &self.ended, &view, self.cx)? {
            Choice::Found(addr) => Ok(addr),
            Choice::Nothing { cooling } => {
                let ranges = set.to_string();
                Err(Refusal::Exhausted { index, ranges, cooling }.into())
            }
        }
    }

    /// Who has an address, leases taken over by this plan included.
    fn holder(&self, addr: Addr) -> Result<Holder, StoreError> {
        WithTakeover { taken: &self.taken, view: self.view }.holder(&self.add.set, addr)
    }

    fn claim_gateways(&mut self, set: &RangeSet) -> Result<(), Stop> {
        if !self.add.claim_gateways {
            return Ok(());
        }
        for range in set.ranges() {
            let Some(addr) = range.gateway() else {
                continue;
            };
            match self.view.holder(&self.add.set, addr)? {
                Holder::Leased(l) if l.kind == Kind::Gateway => {}
                Holder::Leased(holder) => return Err(Refusal::GatewayHeld { holder }.into()),
                Holder::Free | Holder::Cooling(_) => {
                    self.changes.push(Change::Put(Lease {
                        addr,
                        prefix: range.subnet().len(),
                        kind: Kind::Gateway,
                        owner: Owner::Gateway(addr),
                        range: set.key(),
                        ..self.cx.reservation(self.add.set.clone(), addr)
                    }));
                }
            }
        }
        Ok(())
    }

    /// Stores the network's ranges if they changed. Returns a warning for each network that they overlap.
    fn put_ranges(&mut self) -> Result<Vec<String>, StoreError> {
        let add = self.add;
        let all = || add.sets.iter().flat_map(RangeSet::ranges);
        let ranges = NetworkRanges {
            set: add.set.clone(),
            network: add.network.clone(),
            bounds: all().map(Range::bounds).collect(),
            assignable: all().flat_map(Range::spans).copied().collect(),
        };
        if self.view.has_ranges(&ranges)? {
            return Ok(Vec::new());
        }
        let mut warnings = Vec::new();
        for other in self.view.networks()? {
            if other.set == ranges.set {
                continue;
            }
            let overlap = ranges
                .bounds
                .iter()
                .find_map(|a| other.bounds.iter().find(|b| a.overlaps(**b)).map(|b| (a, b)));
            if let Some((a, b)) = overlap {
                warnings.push(format!(
                    "network {} ({a}) overlaps network {} ({b}); each has its own leases, so both can \
                     give the same address: set \"shared\" in both if they share a segment",
                    ranges.network, other.network
                ));
            }
        }
        self.changes.push(Change::PutRanges(ranges));
        Ok(warnings)
    }
}
