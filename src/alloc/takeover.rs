//! Imports the leases and cursors of a host-local folder, as part of the first ADD that finds the folder.
//!
//! One plan imports either the whole folder or nothing. [`crate::migrate::host_local_import`] reads the
//! folder. A cursor is the address that was allocated last in a range set.

use std::collections::BTreeMap;

use super::change::{Change, Cooling};
use super::command::{Add, Contested, ForeignLease, LegacyCursor};
use super::view::{Addresses, Context, Holder, Order, View};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Kind, Lease, Owner, SetName, Timestamp};
use crate::net::{Addr, Family, RangeSet, Span};

/// The addresses in the store, together with the leases and cursors that this plan imports.
pub struct Takeover<'a> {
    view: &'a dyn View,
    /// Leases in host-local's folder that cannot be imported, because this store has leased the same
    /// addresses to other owners.
    pub contested: Vec<Contested>,
    leases: BTreeMap<Addr, Lease>,
    /// The imported cursors, each under the key of its range set.
    cursors: BTreeMap<Addr, Addr>,
}

impl<'a> Takeover<'a> {
    /// Makes a takeover that imports nothing.
    pub fn none(view: &'a dyn View) -> Takeover<'a> {
        Takeover { view, contested: Vec::new(), leases: BTreeMap::new(), cursors: BTreeMap::new() }
    }

    /// Converts host-local's files to leases and cursors. If this store has leased an address to another
    /// owner, the lease in the folder becomes `contested`; in a cluster, the whole folder is refused instead.
    pub fn read(
        add: &Add,
        leases: &[ForeignLease],
        cursors: &[LegacyCursor],
        view: &'a dyn View,
        cx: &Context,
    ) -> Result<Takeover<'a>, Error> {
        let mut taken = Takeover::none(view);
        for legacy in leases {
            let lease = lease(add, legacy, cx);
            if let Holder::Leased(holder) = view.holder(&add.set, legacy.addr)? {
                // There are two ways in which the store can already have this lease: a process died between
                // importing the lease and replacing the folder, or the lease was exported to host-local
                // later.
                if holder.owner == lease.owner {
                    continue;
                }
                if !view.has_other_nodes() {
                    // A reservation is not a conflict, because no container uses a reserved address.
                    if holder.kind != Kind::Reserved {
                        taken.contested.push(Contested { lease: *holder, claimant: lease.owner });
                    }
                    continue;
                }
                let why = format!("{} is leased to {}", legacy.addr, holder.owner);
                return Err(Refusal::Takeover { network: add.network.clone(), why }.into());
            }
            taken.leases.insert(legacy.addr, lease);
        }
        for cursor in cursors {
            if let Some(set) = add.sets.get(cursor.index) {
                taken.cursors.insert(set.key(), cursor.addr);
            }
        }
        Ok(taken)
    }

    /// Returns the changes that store the imported leases and cursors, and the change that records the
    /// import. (A lease file ignores the latter change, because the text file that replaces the folder
    /// already marks it as imported.)
    pub fn changes(&self, add: &Add, now: Timestamp) -> Vec<Change> {
        let leases = self.leases.values().cloned().map(Change::Put);
        let cursors =
            self.cursors.iter().map(|(key, at)| Change::Cursor(add.set.clone(), *key, *at));
        leases.chain(cursors).chain([Change::Adopted(add.network.clone(), now)]).collect()
    }
}

fn lease(add: &Add, legacy: &ForeignLease, cx: &Context) -> Lease {
    let bare = cx.reservation(add.set.clone(), legacy.addr);
    let set = add.sets.iter().find(|s| s.range_of(legacy.addr).is_some());
    let range = set.and_then(|s| s.range_of(legacy.addr));
    Lease {
        kind: legacy.kind,
        prefix: range.map_or(bare.prefix, |r| r.subnet().len()),
        range: set.map_or(bare.range, RangeSet::key),
        origin: legacy.origin(),
        owner: legacy.owner.clone(),
        cooldown: add.cooldown.seconds,
        ..bare
    }
}

impl Addresses for Takeover<'_> {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        match self.leases.get(&addr) {
            Some(lease) => Ok(Holder::Leased(Box::new(lease.clone()))),
            None => self.view.holder(set, addr),
        }
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        let taken = self.leases.values().filter(|l| l.owner == *owner).cloned();
        Ok(self.view.of(set, owner)?.into_iter().chain(taken).collect())
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError> {
        match self.cursors.get(&range) {
            Some(at) => Ok(Some(*at)),
            None => self.view.cursor(set, range),
        }
    }

    fn next_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError> {
        let mut rest = Some(span);
        while let Some(span) = rest {
            let Some(addr) = self.view.next_free(set, span, order)? else {
                return Ok(None);
            };
            if !self.leases.contains_key(&addr) {
                return Ok(Some(addr));
            }
            rest = addr.next().and_then(|next| span.starting(next));
        }
        Ok(None)
    }

    fn cooling(
        &self,
        set: &SetName,
        family: Family,
        limit: usize,
    ) -> Result<Vec<Cooling>, StoreError> {
        let mut cooling = self.view.cooling(set, family, limit)?;
        cooling.retain(|c| !self.leases.contains_key(&c.addr));
        Ok(cooling)
    }

    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        let free = |c: &Cooling| !self.leases.contains_key(&c.addr);
        match self.view.first_cooling(set, family, spans)? {
            // An imported address is rarely cooling down in this store, so searching all cooling addresses is
            // acceptable here.
            Some(first) if !free(&first) => {
                let all = self.view.cooling(set, family, usize::MAX)?;
                let within = |c: &Cooling| spans.iter().any(|s| s.contains(c.addr));
                Ok(all.into_iter().find(|c| free(c) && within(c)))
            }
            first => Ok(first),
        }
    }
}
