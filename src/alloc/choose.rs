//! Chooses a free address in a range set.
//!
//! Each strategy searches the spans of a range set in its own order. Round robin works as in host-local
//! (`allocator.go`): it starts after the address that was allocated last, follows the ranges in order, and
//! tries the last allocated address at the end. Addresses that are cooling down are used only if no other
//! address is free.

use super::change::Cooling;
use super::command::{Add, Strategy};
use super::drain::{Draining, without};
use super::view::{Addresses, Context, Order};
use crate::error::{Error, Refusal, StoreError};
use crate::model::Owner;
use crate::net::{Addr, Family, Range, RangeSet, Span};

/// The maximum number of ended cooldown records that one ADD removes for each address family. A DEL adds at
/// most one record for each range set, so ended records do not accumulate.
const THAW: usize = 32;

/// Addresses whose cooldown has ended. They are free, although their cooldown records still exist. For each
/// of these addresses, a plan either leases the address or removes the record.
#[derive(Default)]
pub struct Ended(Vec<Cooling>);

impl Ended {
    /// Finds the ended cooldowns in the address families that `add` uses. Finds none if `add` has no
    /// cooldown.
    pub fn find(add: &Add, view: &dyn Addresses, cx: &Context) -> Result<Ended, StoreError> {
        let mut ended = Vec::new();
        for family in [Family::V4, Family::V6] {
            if add.cooldown.seconds > 0 && add.sets.iter().any(|s| s.family() == family) {
                ended.extend(view.cooling(&add.set, family, THAW)?);
            }
        }
        ended.retain(|c| c.over(cx.now));
        Ok(Ended(ended))
    }

    /// Returns the lowest address in a span, among the addresses whose cooldown has ended.
    fn within(&self, span: Span) -> Option<Addr> {
        self.0.iter().map(|c| c.addr).filter(|a| span.contains(*a)).min()
    }

    /// Returns the ended cooldowns of the addresses that the plan does not lease. `leased` returns whether
    /// the plan leases an address.
    pub fn left(self, leased: impl Fn(Addr) -> bool) -> impl Iterator<Item = Cooling> {
        self.0.into_iter().filter(move |c| !leased(c.addr))
    }
}

/// Chooses an address in one range set of `add`, or refuses if no address is free.
pub fn choose(
    add: &Add,
    index: usize,
    ended: &Ended,
    draining: &[Draining],
    addresses: &dyn Addresses,
    cx: &Context,
) -> Result<Addr, Error> {
    let set = &add.sets[index];
    let (walk, order) = walk(add, set, draining, addresses, cx)?;
    for span in &walk {
        let free = addresses.next_free(&add.set, *span, order)?;
        if let Some(addr) = [free, ended.within(*span)].into_iter().flatten().min() {
            return Ok(addr);
        }
    }
    let first = addresses.first_cooling(&add.set, set.family(), &walk)?;
    let free = first.filter(|c| c.over(cx.now) || !add.cooldown.strict);
    free.map(|c| c.addr).ok_or_else(|| {
        let (ranges, cooling) = (set.to_string(), first.is_some());
        let (network, draining) = (add.network.clone(), is_draining(set, draining));
        Refusal::Exhausted { index, network, ranges, cooling, draining }.into()
    })
}

/// Returns whether a part of a range set is draining.
pub fn is_draining(set: &RangeSet, draining: &[Draining]) -> bool {
    set.spans().iter().any(|span| draining.iter().any(|range| range.span.overlaps(*span)))
}

/// Returns the spans to search, in search order, and the order of the search inside each span. No address is
/// in two spans.
fn walk(
    add: &Add,
    set: &RangeSet,
    draining: &[Draining],
    view: &dyn Addresses,
    cx: &Context,
) -> Result<(Vec<Span>, Order), StoreError> {
    let spans = without(set.spans(), draining);
    Ok(match add.strategy {
        Strategy::Lowest => (spans, Order::Ascending),
        Strategy::RoundRobin => {
            let last = view.cursor(&add.set, set.key())?;
            let walk = match last.filter(|last| set.range_of(*last).is_some()) {
                Some(last) => without(behind(set, last), draining),
                None => spans,
            };
            (walk, Order::Ascending)
        }
        Strategy::Random => (from_place(&spans, mix(cx.seed)), Order::Any),
        Strategy::Hash => (from_place(&spans, hash(&add.owner)), Order::Any),
    })
}

/// Returns the spans of the range set in this order: from the address after `last` to the end, then from the
/// beginning up to and including `last`.
fn behind(set: &RangeSet, last: Addr) -> Vec<Span> {
    let at = set.ranges().iter().position(|r| r.contains(last)).unwrap_or(0);
    let (before, from) = set.ranges().split_at(at);
    let rest = |r: &[Range]| -> Vec<Span> { r.iter().flat_map(Range::spans).copied().collect() };
    let here: Vec<Span> = from.first().map(|r| r.spans().to_vec()).unwrap_or_default();
    let mut walk: Vec<Span> =
        last.next().map_or_else(Vec::new, |n| here.iter().filter_map(|s| s.starting(n)).collect());
    walk.extend(rest(from.get(1..).unwrap_or_default()));
    walk.extend(rest(before));
    walk.extend(here.iter().filter_map(|s| s.up_to(last)));
    walk
}

/// Returns the spans in this order: from a position to the end, then from the beginning to that position.
/// `place` is the number of addresses before this position, modulo the total number of addresses.
fn from_place(spans: &[Span], place: u128) -> Vec<Span> {
    // The sum saturates only if the range set is as large as all of IPv6. The position is then slightly
    // wrong, which does no harm.
    let total = spans.iter().fold(0_u128, |sum, s| sum.saturating_add(s.size()));
    let mut skip = if total == 0 { 0 } else { place % total };
    for (i, span) in spans.iter().enumerate() {
        if skip < span.size() {
            let at = Addr::from_bits(span.first.family(), span.first.bits() + skip)
                .unwrap_or(span.first);
            let mut walk: Vec<Span> = span.starting(at).into_iter().collect();
            walk.extend(&spans[i + 1..]);
            walk.extend(&spans[..i]);
            walk.extend(at.prev().and_then(|p| span.up_to(p)));
            return walk;
        }
        skip -= span.size();
    }
    spans.to_vec()
}

/// Spreads a seed over 128 bits, by running splitmix64 twice.
fn mix(seed: u64) -> u128 {
    let step = |x: u64| {
        let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let high = step(seed);
    (u128::from(high) << 64) | u128::from(step(high))
}

/// Returns a hash of the owner's name (FNV-1a, mixed). No stored record depends on this hash: if the hash
/// function changes, searches merely start elsewhere.
fn hash(owner: &Owner) -> u128 {
    let text = match owner {
        Owner::Attachment(a) => format!(
            "{}\0{}\0{}",
            a.network,
            a.container,
            a.ifname.as_ref().map_or("", |i| i.as_str())
        ),
        Owner::Id(id) => id.clone(),
        Owner::Gateway(addr) | Owner::Reservation(addr) | Owner::Pool(_, addr) => addr.to_string(),
        Owner::Named(name) => name.to_string(),
    };
    let sum = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    mix(sum)
}
