//! Plans an ADD, which leases one address from each range set, or no address at all.
//!
//! This module contains the rules for repeated ADDs, for requested addresses and for addresses that are
//! reserved for a name. It also warns about overlapping networks. [`super::choose`] finds a free address, and
//! [`super::takeover`] imports host-local's leases.

use std::collections::BTreeSet;

use super::change::{Change, NetworkRanges, PodKey};
use super::choose::{Ended, choose};
use super::command::{Add, Added, Legacy, OnDuplicate, Outcome, Requested, Strategy};
use super::define;
use super::drain::Draining;
use super::takeover::Takeover;
use super::view::{Addresses, Context, Holder, Plan, View, held};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Grant, Kind, Lease, Owner, StaticName};
use crate::net::{Addr, Range, RangeSet, describe};

/// Returns the plan for an ADD.
pub fn run(add: &Add, view: &dyn View, cx: &Context) -> Result<Plan, Error> {
    let adopted = view.adopted(&add.network)?;
    let mut changes = Vec::new();
    let mut addresses = Takeover::none(view);
    match &add.legacy {
        Legacy::Unread if !adopted => return Ok(Plan::only(Outcome::ReadLegacy)),
        Legacy::Absent | Legacy::Unread => {}
        // Another node has imported this network since the caller read the folder, so there is nothing left
        // to import.
        Legacy::Read(..) if adopted && view.has_other_nodes() => {}
        Legacy::Read(leases, cursors) => {
            addresses = Takeover::read(add, leases, cursors, view, cx)?;
            if !addresses.contested.is_empty() {
                return Ok(Plan::only(Outcome::Contested(addresses.contested)));
            }
            changes = addresses.changes(add, cx.now);
        }
    }
    if let Some(define) = &add.define {
        changes.extend(define::first(define, view, cx)?);
    }
    // `addresses` includes the leases that this plan imports, so `Ended` does not count their addresses as
    // free.
    let ended = Ended::find(add, &addresses, cx)?;
    let named = Named::default();
    let draining = Vec::new();
    let mut work = Work { add, view, cx, changes, addresses, ended, named, draining };
    let adopted = adopted || matches!(add.legacy, Legacy::Read(..));
    let held = held(&work.addresses, &add.set, &add.owner, &|_| Ok(adopted))?;
    let of_set = |set: &RangeSet| held.iter().find(|l| set.range_of(l.addr).is_some());
    let own: Vec<Option<&Lease>> = add.sets.iter().map(of_set).collect();
    if add.on_duplicate == OnDuplicate::Error
        && let Some(any) = held.first()
    {
        // Like host-local, report the first of the owner's leases that lies in a range set. If none does,
        // report any of the leases.
        let found = own.iter().enumerate().find_map(|(index, lease)| Some((index, (*lease)?)));
        let (index, lease) = found.unwrap_or((0, any));
        return Err(Refusal::Duplicate { index, lease: Box::new(lease.clone()) }.into());
    }
    let (requested, left) = assign(add, &held, &own)?;
    if own.contains(&None) {
        work.named = Named::find(add, view)?;
        work.draining = view.draining(&add.set)?;
    }
    let mut grants = Vec::new();
    let mut created = Vec::new();
    for (index, set) in add.sets.iter().enumerate() {
        work.claim_gateways(set)?;
        let lease = if let Some(lease) = own[index] {
            work.renew(set, lease, requested[index])?
        } else {
            let lease = work.lease(index, set, requested[index])?;
            created.push(lease.addr);
            lease
        };
        // `range_of` always returns a range here, because the range set contains the address of an existing
        // or a new lease.
        let gateway = set.range_of(lease.addr).and_then(Range::gateway);
        grants.push(Grant { addr: lease.addr, prefix: lease.prefix, gateway });
    }
    // This check comes last, as in host-local, so that errors about the range sets take precedence.
    if !left.is_empty() {
        return Err(Refusal::NotInRange { addrs: left, ranges: describe(&add.sets) }.into());
    }
    let warnings = if created.is_empty() { Vec::new() } else { work.put_ranges()? };
    Ok(Plan::new(work.finish(), Outcome::Added(Added { grants, created, warnings })))
}

/// Assigns each range set the first requested address that lies in it. Also returns the requested addresses
/// that are left over. Refuses the ADD if one of the owner's leases lies in no range set, or differs from the
/// address requested in the same range set.
fn assign(
    add: &Add,
    held: &[Lease],
    own: &[Option<&Lease>],
) -> Result<(Vec<Option<Requested>>, Vec<Addr>), Error> {
    let misfit = |lease: &Lease, asked| Refusal::Misfit { lease: Box::new(lease.clone()), asked };
    let in_a_set = |lease: &&Lease| add.sets.iter().any(|s| s.range_of(lease.addr).is_some());
    if let Some(outside) = held.iter().find(|lease| !in_a_set(lease)) {
        return Err(misfit(outside, None).into());
    }
    let mut left = add.requested.clone();
    let mut assigned = Vec::new();
    for set in &add.sets {
        let position = left.iter().position(|w| set.range_of(w.addr).is_some());
        assigned.push(position.map(|p| left.remove(p)));
    }
    for (own, requested) in own.iter().zip(&assigned) {
        if let (Some(lease), Some(requested)) = (own, requested)
            && lease.addr != requested.addr
        {
            return Err(misfit(lease, Some(requested.addr)).into());
        }
    }
    Ok((assigned, left.iter().map(|w| w.addr).collect()))
}

/// The addresses that are reserved for the name of an ADD's container.
#[derive(Default)]
struct Named {
    name: Option<StaticName>,
    addrs: Vec<(Addr, Kind)>,
}

impl Named {
    /// Finds the addresses that the configuration and the store reserve for the container's name.
    fn find(add: &Add, view: &dyn View) -> Result<Named, StoreError> {
        let Some(name) = StaticName::of(&add.origin) else { return Ok(Named::default()) };
        let reserved = view.of(&add.set, &Owner::Named(name.clone()))?;
        let mut addrs: Vec<_> = reserved.iter().map(|lease| (lease.addr, Kind::Named)).collect();
        for addr in &add.statics {
            if reserved.iter().all(|lease| lease.addr != *addr) {
                addrs.push((*addr, Kind::Static));
            }
        }
        Ok(Named { name: Some(name), addrs })
    }
}

struct Work<'a> {
    add: &'a Add,
    view: &'a dyn View,
    cx: &'a Context,
    changes: Vec<Change>,
    /// The addresses in the store, together with the leases that this plan imports.
    addresses: Takeover<'a>,
    ended: Ended,
    named: Named,
    draining: Vec<Draining>,
}

impl Work<'_> {
    /// Returns the changes of the plan. If an address's cooldown has ended and the plan does not lease the
    /// address, the changes also remove its cooldown record.
    fn finish(self) -> Vec<Change> {
        let put = |change: &Change| match change {
            Change::Put(lease) => Some(lease.addr),
            _ => None,
        };
        let leased: BTreeSet<Addr> = self.changes.iter().filter_map(put).collect();
        let left = self.ended.left(|addr| leased.contains(&addr));
        let thaw: Vec<Change> = left.map(|c| Change::Thaw(self.add.set.clone(), c)).collect();
        [self.changes, thaw].concat()
    }

    /// Returns the owner's existing lease, updated to the present configuration and container. Stores the
    /// lease again if anything in it has changed, because a lease with an old network namespace or boot would
    /// look stale, and an imported lease would still lack the owner's full name.
    fn renew(
        &mut self,
        set: &RangeSet,
        lease: &Lease,
        requested: Option<Requested>,
    ) -> Result<Lease, Error> {
        let range = set.range_of(lease.addr);
        if range.and_then(Range::gateway) == Some(lease.addr) {
            return Err(Refusal::NowGateway { lease: Box::new(lease.clone()) }.into());
        }
        let subnet = range.map_or(lease.prefix, |r| r.subnet().len());
        let current = Lease {
            owner: self.add.owner.clone(),
            prefix: requested.and_then(|w| w.prefix).unwrap_or(subnet),
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

    /// Leases a new address from one range set.
    fn lease(
        &mut self,
        index: usize,
        set: &RangeSet,
        requested: Option<Requested>,
    ) -> Result<Lease, Error> {
        let add = self.add;
        let pod = add.origin.pod.as_ref().filter(|_| add.sticky);
        let pod = pod.map(|p| PodKey { namespace: p.namespace.clone(), name: p.name.clone() });
        let former = match &pod {
            Some(pod) => self.view.former(&add.set, pod, set.key())?,
            None => None,
        };
        let named = self.take_named(index, set, requested)?;
        let (addr, kind) = if let Some(named) = named {
            self.refuse_draining(index, named.0)?;
            named
        } else if let Some(requested) = requested {
            self.check_requested(index, set, requested.addr)?;
            (requested.addr, Kind::Static)
        } else if let Some(addr) = self.free_former(set, former)? {
            (addr, Kind::Dynamic)
        } else {
            let chosen = choose(add, index, &self.ended, &self.draining, &self.addresses, self.cx)?;
            (chosen, Kind::Dynamic)
        };
        let bare = self.cx.reservation(add.set.clone(), addr);
        let subnet = set.range_of(addr).map_or(bare.prefix, |r| r.subnet().len());
        let lease = Lease {
            prefix: requested.and_then(|w| w.prefix).unwrap_or(subnet),
            kind,
            owner: add.owner.clone(),
            range: set.key(),
            origin: add.origin.clone(),
            // Only containers of the same name get this address, so it needs no cooldown.
            cooldown: if kind == Kind::Named { 0 } else { add.cooldown.seconds },
            ..bare
        };
        self.changes.push(Change::Put(lease.clone()));
        // Round robin continues after this address. An address that is reserved for a name does not count,
        // because it was not found by a search.
        if add.strategy == Strategy::RoundRobin && named.is_none() {
            self.changes.push(Change::Cursor(add.set.clone(), set.key(), addr));
        }
        if let Some(pod) = pod
            && former != Some(addr)
        {
            self.changes.push(Change::Sticky(add.set.clone(), pod, set.key(), addr));
        }
        Ok(lease)
    }

    /// Returns an address in the range set that is reserved for this container's name; `None` if there is
    /// none. If the container requests an address, only that address is considered. Otherwise returns the
    /// first reserved address that no earlier container with the same name holds. The address may be cooling
    /// down. Refuses the ADD if the address is the gateway, or if every reserved address is held by other
    /// containers.
    fn take_named(
        &mut self,
        index: usize,
        set: &RangeSet,
        requested: Option<Requested>,
    ) -> Result<Option<(Addr, Kind)>, Error> {
        let Some(name) = &self.named.name else { return Ok(None) };
        let mut held = None;
        let is_asked = |addr: Addr| requested.is_none_or(|requested| requested.addr == addr);
        for (addr, kind) in self.named.addrs.iter().copied().filter(|(addr, _)| is_asked(*addr)) {
            let Some(range) = set.range_of(addr) else { continue };
            if range.gateway() == Some(addr) {
                return Err(Refusal::IsGateway { index, addr }.into());
            }
            match self.addresses.holder(&self.add.set, addr)? {
                Holder::Leased(lease) if lease.owner == Owner::Named(name.clone()) => {}
                Holder::Leased(lease) if self.add.gone.contains(&lease) => {
                    self.changes.push(Change::Free { lease: *lease, until: None });
                }
                Holder::Leased(lease) if name.is_of(&lease.origin) => {
                    held = held.or(Some(lease));
                    continue;
                }
                Holder::Leased(holder) => {
                    return Err(Refusal::Held { index, ranges: set.to_string(), holder }.into());
                }
                Holder::Free | Holder::Cooling(_) => {}
            }
            return Ok(Some((addr, kind)));
        }
        let Some(holder) = held else { return Ok(None) };
        Err(Refusal::Predecessor { index, name: name.clone(), holder, why: String::new() }.into())
    }

    /// Refuses a requested address that cannot be leased: the gateway, or an address that is excluded,
    /// draining or leased. An address that is cooling down is refused only if the cooldown is strict.
    fn check_requested(&self, index: usize, set: &RangeSet, addr: Addr) -> Result<(), Error> {
        let range = set.range_of(addr);
        if range.is_some_and(|r| r.gateway() == Some(addr)) {
            return Err(Refusal::IsGateway { index, addr }.into());
        }
        if !range.is_some_and(|r| r.gives(addr)) {
            return Err(Refusal::Excluded { index, addr }.into());
        }
        self.refuse_draining(index, addr)?;
        match self.addresses.holder(&self.add.set, addr)? {
            Holder::Free => Ok(()),
            Holder::Cooling(c) if c.over(self.cx.now) || !self.add.cooldown.strict => Ok(()),
            Holder::Cooling(c) => {
                let seconds = c.until.saturating_sub(self.cx.now);
                Err(Refusal::Cooling { index, addr, seconds }.into())
            }
            Holder::Leased(holder) => {
                Err(Refusal::Held { index, ranges: set.to_string(), holder }.into())
            }
        }
    }

    /// Refuses a draining address. Only a reserved or a requested address needs this check, because a search
    /// skips draining ranges.
    fn refuse_draining(&self, index: usize, addr: Addr) -> Result<(), Error> {
        let Some(range) = Draining::find(&self.draining, &self.add.set, addr) else {
            return Ok(());
        };
        let network = self.add.network.clone();
        Err(Refusal::Draining { index, addr, network, range: range.span }.into())
    }

    /// Returns a pod's former address if it is free. The address may be cooling down, because the cooldown
    /// only keeps the address from other pods.
    fn free_former(&self, set: &RangeSet, former: Option<Addr>) -> Result<Option<Addr>, Error> {
        let assignable = |addr: &Addr| {
            set.range_of(*addr).is_some_and(|r| r.gives(*addr))
                && Draining::find(&self.draining, &self.add.set, *addr).is_none()
        };
        let Some(addr) = former.filter(assignable) else { return Ok(None) };
        let holder = self.addresses.holder(&self.add.set, addr)?;
        Ok((!matches!(holder, Holder::Leased(_))).then_some(addr))
    }

    fn claim_gateways(&mut self, set: &RangeSet) -> Result<(), Error> {
        let ranges = if self.add.claim_gateways { set.ranges() } else { &[] };
        for range in ranges {
            let Some(addr) = range.gateway() else { continue };
            match self.addresses.holder(&self.add.set, addr)? {
                Holder::Leased(l) if l.kind == Kind::Gateway => {}
                Holder::Leased(holder) => return Err(Refusal::GatewayHeld { holder }.into()),
                Holder::Free | Holder::Cooling(_) => {
                    self.changes.push(Change::Put(Lease {
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

    /// Stores the network's ranges if they have changed. Returns one warning for every other network whose
    /// ranges overlap them.
    fn put_ranges(&mut self) -> Result<Vec<String>, StoreError> {
        let add = self.add;
        let all = || add.sets.iter().flat_map(RangeSet::ranges);
        let ranges = NetworkRanges {
            set: add.set.clone(),
            network: add.network.clone(),
            bounds: all().map(Range::bounds).collect(),
            assignable: add.sets.iter().flat_map(RangeSet::spans).collect(),
        };
        if self.view.has_ranges(&ranges)? {
            return Ok(Vec::new());
        }
        let mut warnings = Vec::new();
        let is_other =
            |other: &&NetworkRanges| other.set != ranges.set && other.network != ranges.network;
        for other in self.view.networks()?.iter().filter(is_other) {
            let mut pairs =
                ranges.bounds.iter().flat_map(|a| other.bounds.iter().map(move |b| (a, b)));
            if let Some((a, b)) = pairs.find(|(a, b)| a.overlaps(**b)) {
                warnings.push(format!(
                    "network {} ({a}) overlaps network {} ({b}), and the two networks keep separate leases, \
                     so both can lease the same address; if the networks share a segment, set the same \
                     \"shared\" in both configurations",
                    ranges.network, other.network
                ));
            }
        }
        self.changes.push(Change::PutRanges(ranges));
        Ok(warnings)
    }
}
