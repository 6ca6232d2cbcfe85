//! Leases and cursors of a host-local folder, as part of the ADD that finds them.
//!
//! Owns: their translation, and a view in which they are leased already. Does not own: reading the
//! folder (`crate::migrate::host_local_import`).
//! Invariant: all of the folder is taken over in one plan, or the plan is refused.

use std::collections::BTreeMap;

use super::change::{Change, Cooling, NetworkRanges, PodKey};
use super::command::{Add, Contested, LegacyCursor, LegacyLease};
use super::view::{Context, Holder, Order, View};
use crate::error::{Refusal, StoreError};
use crate::model::{
    Attachment, Kind, Lease, NetworkName, Origin, Owner, Pool, PoolId, SetName, Timestamp,
};
use crate::net::{Addr, Family, RangeSet, Span, Subnet};

/// What this plan takes over.
#[derive(Default)]
pub struct Takeover {
    /// What it cannot: the store has leased the address to another owner.
    pub contested: Vec<Contested>,
    leases: BTreeMap<Addr, Lease>,
    /// By the key of the range set.
    cursors: BTreeMap<Addr, Addr>,
}

impl Takeover {
    /// Translates host-local's files; refused if an address among them has another holder here.
    pub fn read(
        add: &Add,
        leases: &[LegacyLease],
        cursors: &[LegacyCursor],
        view: &dyn View,
        cx: &Context,
    ) -> Result<Result<Takeover, Refusal>, StoreError> {
        let mut taken = Takeover::default();
        for legacy in leases {
            let lease = lease(add, legacy, cx);
            if let Holder::Leased(holder) = view.holder(&add.set, legacy.addr)? {
                // Adopted before, by a process that died before it was done; or exported since.
                if holder.owner == lease.owner {
                    continue;
                }
                if !view.has_other_nodes() {
                    // Nobody leases a reserved address.
                    if holder.kind != Kind::Reserved {
                        taken.contested.push(Contested { lease: *holder, claimant: lease.owner });
                    }
                    continue;
                }
                let why = format!("{} is leased to {}", legacy.addr, holder.owner);
                return Ok(Err(Refusal::Takeover { network: add.network.clone(), why }));
            }
            taken.leases.insert(legacy.addr, lease);
        }
        for cursor in cursors {
            if let Some(set) = add.sets.get(cursor.index) {
                taken.cursors.insert(set.key(), cursor.addr);
            }
        }
        Ok(Ok(taken))
    }

    /// What an owner holds of it.
    pub fn of<'a>(&'a self, owner: &'a Owner) -> impl Iterator<Item = Lease> + 'a {
        self.leases.values().filter(move |l| l.owner == *owner).cloned()
    }

    /// The changes that keep it, and (where the store keeps one) the record that it was done.
    pub fn changes(&self, add: &Add, now: Timestamp) -> Vec<Change> {
        let leases = self.leases.values().cloned().map(Change::Put);
        let cursors =
            self.cursors.iter().map(|(key, at)| Change::Cursor(add.set.clone(), *key, *at));
        leases.chain(cursors).chain([Change::Adopted(add.network.clone(), now)]).collect()
    }
}

fn lease(add: &Add, legacy: &LegacyLease, cx: &Context) -> Lease {
    let attachment = Attachment {
        network: add.network.clone(),
        container: legacy.container.clone(),
        ifname: legacy.ifname.clone(),
    };
    let bare = cx.reservation(add.set.clone(), legacy.addr);
    let set = add.sets.iter().find(|s| s.range_of(legacy.addr).is_some());
    let range = set.and_then(|s| s.range_of(legacy.addr));
    Lease {
        kind: Kind::Dynamic,
        prefix: range.map_or(bare.prefix, |r| r.subnet().len()),
        range: set.map_or(bare.range, RangeSet::key),
        owner: Owner::Attachment(attachment.clone()),
        origin: Origin { attachment: Some(attachment), ..Origin::default() },
        cooldown: add.cooldown.seconds,
        ..bare
    }
}

/// The store's view with this plan's takeover in it.
pub struct WithTakeover<'a> {
    pub taken: &'a Takeover,
    pub view: &'a dyn View,
}

impl View for WithTakeover<'_> {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        match self.taken.leases.get(&addr) {
            Some(lease) => Ok(Holder::Leased(Box::new(lease.clone()))),
            None => self.view.holder(set, addr),
        }
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        self.view.of(set, owner)
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError> {
        match self.taken.cursors.get(&range) {
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
            if !self.taken.leases.contains_key(&addr) {
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
        cooling.retain(|c| !self.taken.leases.contains_key(&c.addr));
        Ok(cooling)
    }

    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        let free = |c: &Cooling| !self.taken.leases.contains_key(&c.addr);
        match self.view.first_cooling(set, family, spans)? {
            // Given here before host-local had it: as good as never, and then looked up the long way.
            Some(first) if !free(&first) => {
                let all = self.view.cooling(set, family, usize::MAX)?;
                let within = |c: &Cooling| spans.iter().any(|s| s.contains(c.addr));
                Ok(all.into_iter().find(|c| free(c) && within(c)))
            }
            first => Ok(first),
        }
    }

    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError> {
        self.view.former(set, pod, range)
    }

    fn adopted(&self, network: &NetworkName) -> Result<bool, StoreError> {
        self.view.adopted(network)
    }

    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError> {
        self.view.has_ranges(ranges)
    }

    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError> {
        self.view.networks()
    }

    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        self.view.page(set, after, limit)
    }

    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError> {
        self.view.pool(id)
    }

    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError> {
        self.view.overlapping(space, subnet)
    }

    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>, StoreError> {
        self.view.next_block(space, within, len, from)
    }

    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        self.view.of_pool(pool, after, limit)
    }

    fn capacity(&self) -> usize {
        self.view.capacity()
    }
}
