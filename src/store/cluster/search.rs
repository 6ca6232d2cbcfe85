//! The steps of the search for a free address. [`super::answers`] defines the order of the steps.
//!
//! Invariant: an address that the search returns is known or assumed to be free, and the commit compares the
//! record of the address. A command is refused because of full spans only after all spans of a set were
//! counted in one request.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::keys;
use super::server::KeyRange;
use super::view::ClusterView;
use crate::alloc::Order;
use crate::error::StoreError;
use crate::model::SetName;
use crate::net::{Addr, Span};

/// The maximum number of ranges that are counted in one etcd transaction.
const MAX_RANGES: u128 = 100;
/// After losing this many races against other clients, a command leases a random free address. Many clients
/// are then competing for the lowest or the next address.
pub const MAX_LOST_RACES: u32 = 2;
/// The number of addresses in a chunk.
const CHUNK: u128 = 256;

/// The state of the search during one command.
#[derive(Default)]
pub struct Search {
    /// Whether the search lists chunks. Set after an assumption was wrong.
    pub list_chunks: Cell<bool>,
    /// Whether the search counts the records in ranges. Set after a listed chunk was full.
    pub count_ranges: Cell<bool>,
    /// How often another client has leased the chosen address first.
    pub lost_races: Cell<u32>,
    /// Whether other clients recently competed for the lowest free address.
    pub is_contended: Cell<bool>,
    /// Whether the search starts after the address that was allocated last.
    pub round_robin: Cell<bool>,
    /// The spans that were found to be full, by set of leases.
    pub full: RefCell<BTreeMap<SetName, BTreeSet<Span>>>,
}

impl ClusterView<'_> {
    /// Returns an address in the span whose lease has ended with its boot. (When records are counted, such an
    /// address counts as in use.) Reads the leases of a node only if some of them may have ended. Starts with
    /// the leases of this node, and continues with the other known nodes, one after the other.
    pub fn find_ended(&self, set: &SetName, span: Span) -> Result<Option<Addr>, StoreError> {
        let here = &self.cx.node.name;
        let mut nodes = Vec::from_iter(self.has_earlier.get().then(|| here.clone()));
        if let Some(all) = self.nodes.borrow().as_ref() {
            let others =
                all.iter().filter(|(name, (record, _))| record.has_earlier && *name != here);
            nodes.extend(others.map(|(name, _)| name.clone()));
        }
        for node in nodes {
            let prefix = keys::node_owners(&node, set);
            self.list(prefix.clone())?;
            for (path, entry) in self.below(&prefix) {
                let leases = self.leases_in(&path, &entry)?.into_iter();
                for lease in leases.filter(|l| span.contains(l.addr) && self.has_ended(l)) {
                    // Read the record of the address, which is authoritative. It may have changed since the
                    // owner's record was read.
                    self.read(&keys::address(set, lease.addr))?;
                    if !self.is_held(set, lease.addr)? {
                        return Ok(Some(lease.addr));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Returns a free address of the span, from the chunk that contains the span's first address. Chooses
    /// either the lowest free address in that chunk or a random one. A random choice makes clients with
    /// similar searches lease different addresses.
    pub fn pick_in_chunk(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError> {
        self.list(keys::chunk(set, span.first))?;
        let chunk = keys::chunk_of(span.first);
        let mut free = Vec::new();
        for addr in span.up_to(chunk.last).unwrap_or(span).addresses() {
            if !self.is_held(set, addr)? {
                free.push(addr);
            }
        }
        let lowest = match order {
            // The span starts at the address that the hash of the owner selects. Choose this address if it is
            // free, and otherwise a random one.
            Order::Any => free.first() == Some(&span.first),
            Order::Ascending => {
                self.search.lost_races.get() < MAX_LOST_RACES && !self.search.is_contended.get()
            }
        };
        let chance = self.cx.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let chance = usize::try_from(chance).unwrap_or(0) % free.len().max(1);
        let place = if lowest { 0 } else { chance };
        Ok(free.get(place).map(|addr| self.choose(set, *addr)))
    }

    pub fn choose(&self, set: &SetName, addr: Addr) -> Addr {
        // The commit verifies that the address is still free.
        self.assume_absent(keys::address(set, addr));
        addr
    }

    /// Counts records to find a part of the span that has free addresses. Returns the first address of that
    /// part; `None` if every address in the span has a record.
    pub fn find_room(&self, set: &SetName, span: Span) -> Result<Option<Addr>, StoreError> {
        let mut within = span;
        loop {
            let parts = parts(within);
            let Some((part, n)) = self.first_with_room(set, &parts)? else {
                // The previous count found free addresses in this part. Other clients have leased them since
                // then.
                return Ok((within != span).then_some(within.first));
            };
            if n == 0 || keys::chunk_of(part.first).contains(part.last) {
                // Discard an earlier listing of the chunk. It showed no free address, so it is outdated.
                self.known.borrow_mut().invalidate(&keys::chunk(set, part.first));
                return Ok(Some(part.first));
            }
            within = part;
        }
    }

    /// Returns the first of these spans that has fewer records than addresses, and the number of its records.
    /// All spans are counted in one request.
    fn first_with_room(
        &self,
        set: &SetName,
        spans: &[Span],
    ) -> Result<Option<(Span, u64)>, StoreError> {
        let path = |addr| keys::address(set, addr);
        let range = |span: &Span| KeyRange { first: path(span.first), last: path(span.last) };
        let ranges: Vec<KeyRange> = spans.iter().map(range).collect();
        let counts = self.server.count(&keys::of_set(keys::ADDRESS, set), &ranges, self.until)?;
        let mut counted = spans.iter().copied().zip(counts);
        Ok(counted.find(|(span, n)| u128::from(*n) < span.size()))
    }

    /// Repeats the count for all spans that were found to be full, in one request per set. Returns whether
    /// all of them are still full. If a span is no longer full, discards all listings of its set's addresses,
    /// because they are outdated.
    pub fn confirm_full(&self) -> Result<bool, StoreError> {
        let full = self.search.full.borrow().clone();
        for (set, spans) in full {
            if self.first_with_room(&set, &Vec::from_iter(spans))?.is_some() {
                self.known.borrow_mut().invalidate(&keys::of_set(keys::ADDRESS, &set));
                self.search.full.take();
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Divides a span into at most [`MAX_RANGES`] parts, at the boundaries of chunks.
fn parts(span: Span) -> Vec<Span> {
    let chunks = span.last.bits() / CHUNK - span.first.bits() / CHUNK;
    let width = (chunks / (MAX_RANGES - 1)).saturating_add(1).saturating_mul(CHUNK);
    let mut parts = Vec::new();
    let mut left = Some(span);
    while let Some(rest) = left {
        let next = (rest.first.bits() / width + 1).checked_mul(width);
        let last = next.and_then(|next| Addr::from_bits(span.first.family(), next - 1));
        let last = last.unwrap_or(rest.last);
        parts.push(rest.up_to(last).unwrap_or(rest));
        left = last.next().and_then(|next| rest.starting(next));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_divided_at_chunk_boundaries() {
        for (first, last) in [
            ("10.0.0.2", "10.0.255.254"),
            ("10.0.7.9", "10.0.7.9"),
            ("0.0.0.0", "255.255.255.255"),
            ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("fd00::fe", "fd00::1:1"),
        ] {
            let addr = |text: &str| text.parse::<Addr>().unwrap();
            let mut span = Span { first: addr(first), last: addr(last) };
            let mut depth = 0;
            loop {
                let parts = parts(span);
                assert!(parts.len() as u128 <= MAX_RANGES + 1, "{}", parts.len());
                assert_eq!((parts[0].first, parts.last().unwrap().last), (span.first, span.last));
                for two in parts.windows(2) {
                    assert_eq!(two[0].last.next(), Some(two[1].first));
                    assert_ne!(
                        keys::chunk_of(two[0].last).first,
                        keys::chunk_of(two[1].first).first
                    );
                }
                span = *parts.last().unwrap();
                depth += 1;
                if keys::chunk_of(span.first).contains(span.last) {
                    break;
                }
            }
            assert!(depth <= 16, "{depth}");
        }
    }
}
