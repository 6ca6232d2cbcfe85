//! Which address is free, in few trips, however full a set is.
//!
//! Owns: the steps of a search: guess an address; when guessing has not paid, list the chunk around it;
//! when chunks are full, count whole ranges and list a chunk that has room. Does not own: the order of
//! the search, which the allocator tells.
//! Invariant: what is found was known to be free or is assumed so, and compared by the commit. That a
//! span is full is concluded only from a look at all that was found full, at one moment.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use super::keys;
use super::view::ClusterView;
use crate::alloc::{Cooling, Holder, Order};
use crate::error::StoreError;
use crate::model::SetName;
use crate::net::{Addr, Family, Span};

/// Held addresses that a guess passes over before something is looked at.
const MAX_GUESSES: usize = 16;
/// Chunks listed before ranges are counted.
const MAX_CHUNKS: usize = 2;
/// How often a chunk is listed because it has room, though others fill it in the meantime.
const MAX_ROUNDS: usize = 4;
/// Windows counted at a time: the chunks of a /16.
const MAX_RANGES: u128 = 256;
/// Addresses of a chunk.
const CHUNK: u128 = 256;

/// Races that round robin loses before it takes any free address: those that all want the next one
/// would go on losing.
const MAX_LOST_RACES: u32 = 2;

/// What a search has met in one command.
#[derive(Default)]
pub struct Search {
    /// Guessing has not paid: addresses are looked at by the chunk.
    pub list_chunks: Cell<bool>,
    /// Listing chunks has not paid either: they are counted.
    pub count_ranges: Cell<bool>,
    /// How often others were faster to take an address.
    pub lost_races: Cell<u32>,
    /// It goes on behind the address given last.
    pub round_robin: Cell<bool>,
    /// Addresses that this run of the allocator found free.
    pub chosen: RefCell<Vec<String>>,
    /// Spans that it found full.
    pub full: RefCell<BTreeSet<(SetName, Span)>>,
    /// Spans that were seen to be full, all of them in one look.
    pub counted: RefCell<BTreeSet<(SetName, Span)>>,
}

impl Search {
    /// Before each run of the allocator: what the one before found is not part of its plan.
    pub fn begin(&self) {
        self.chosen.borrow_mut().clear();
        self.full.borrow_mut().clear();
    }
}

impl ClusterView<'_> {
    /// [`crate::alloc::View::next_free`].
    pub fn find_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError> {
        // The lowest of all is held, most likely; the next in turn is not.
        let guess = order == Order::Any || self.search.round_robin.get();
        if guess
            && !self.search.list_chunks.get()
            && let Some(addr) = self.first_unheld(set, span)?
        {
            return Ok(Some(addr));
        }
        let any = order == Order::Any
            || self.search.round_robin.get() && self.search.lost_races.get() >= MAX_LOST_RACES;
        let mut left = Some(span).filter(|_| !self.search.count_ranges.get());
        for _ in 0..MAX_CHUNKS {
            let Some(rest) = left else { break };
            if let Some(addr) = self.pick_in_chunk(set, rest, any)? {
                return Ok(Some(addr));
            }
            left = keys::chunk_of(rest.first).last.next().and_then(|next| rest.starting(next));
        }
        if left.is_some() {
            self.search.count_ranges.set(true);
        }
        // A small span was seen whole by now.
        let rounds = if self.search.count_ranges.get() { MAX_ROUNDS } else { 0 };
        for _ in 0..rounds {
            let Some(from) = self.find_room(set, span)? else { break };
            let Some(rest) = span.starting(from) else { break };
            if let Some(addr) = self.pick_in_chunk(set, rest, any)? {
                return Ok(Some(addr));
            }
        }
        if let Some(addr) = self.find_ended(set, span)? {
            return self.choose(set, addr).map(Some);
        }
        self.search.full.borrow_mut().insert((set.clone(), span));
        Ok(None)
    }

    /// An address that an earlier boot has left: of this machine, unless all of them are erased, and of
    /// the others once it is known which boots they are in. Counting does not tell it from one that is
    /// held.
    fn find_ended(&self, set: &SetName, span: Span) -> Result<Option<Addr>, StoreError> {
        let mut leases = Vec::new();
        if !self.settled {
            leases.extend(self.owners(set)?.iter().flat_map(|(_, leases)| leases).cloned());
        }
        let nodes = self.nodes.borrow().clone().unwrap_or_default();
        let others = nodes
            .iter()
            .map(|(record, _)| record)
            .filter(|record| record.node.name != self.cx.node.name);
        // Of a machine that has leased in one boot alone nothing has ended.
        for record in others.filter(|record| record.since != record.first) {
            let prefix = keys::node_owners(set, &record.node);
            self.list(prefix.clone())?;
            for (path, entry) in self.entries_below(&prefix) {
                leases.extend(self.owned(&path, set, &entry)?);
            }
        }
        for lease in leases.iter().filter(|l| span.contains(l.addr) && self.has_ended(l)) {
            // Its own record decides: it may have been taken since.
            self.read(&keys::address(set, lease.addr))?;
            if !self.is_held(set, lease.addr)? {
                return Ok(Some(lease.addr));
            }
        }
        Ok(None)
    }

    /// The span's first address, or one close behind it.
    fn first_unheld(&self, set: &SetName, span: Span) -> Result<Option<Addr>, StoreError> {
        let mut at = Some(span.first);
        for _ in 0..MAX_GUESSES {
            let Some(addr) = at.filter(|a| span.contains(*a)) else { break };
            if !self.is_held(set, addr)? {
                return self.choose(set, addr).map(Some);
            }
            at = addr.next();
        }
        Ok(None)
    }

    /// A free address of the span within the chunk of its first.
    fn pick_in_chunk(
        &self,
        set: &SetName,
        span: Span,
        any: bool,
    ) -> Result<Option<Addr>, StoreError> {
        let chunk = keys::chunk_of(span.first);
        self.list(keys::chunk(set, span.first))?;
        self.pick(set, span.up_to(chunk.last).unwrap_or(span), any)
    }

    /// A free address of a part of a listed chunk: its first, the lowest, or (neighbours shall not want
    /// the same) any.
    fn pick(&self, set: &SetName, part: Span, any: bool) -> Result<Option<Addr>, StoreError> {
        let mut free = Vec::new();
        let mut at = Some(part.first);
        while let Some(addr) = at.filter(|a| part.contains(*a)) {
            if !self.is_held(set, addr)? {
                free.push(addr);
            }
            at = addr.next();
        }
        // The place that an owner's name gives is its own, if it can be had.
        let lowest = !any || !self.search.round_robin.get() && free.first() == Some(&part.first);
        let chance = self.cx.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let chance = usize::try_from(chance).unwrap_or(0) % free.len().max(1);
        let place = if lowest { 0 } else { chance };
        free.get(place).map(|addr| self.choose(set, *addr)).transpose()
    }

    fn choose(&self, set: &SetName, addr: Addr) -> Result<Addr, StoreError> {
        let path = keys::address(set, addr);
        // Free as far as is known; the commit compares.
        self.assume_absent(path.clone())?;
        self.search.chosen.borrow_mut().push(path);
        Ok(addr)
    }

    /// From where on the span has room, as far as counting tells; `None`: all has a record.
    fn find_room(&self, set: &SetName, span: Span) -> Result<Option<Addr>, StoreError> {
        let mut counted = self.search.counted.borrow_mut();
        if counted.contains(&(set.clone(), span)) {
            return Ok(None);
        }
        let mut within = span;
        loop {
            // What was full before is looked at again: then all is seen at one moment.
            let mut spans = parts(within);
            let here = spans.len();
            spans.extend(counted.iter().filter(|(s, _)| s == set).map(|(_, span)| *span));
            let counts = self.count(set, &spans)?;
            let has_room = |(span, n): &(&Span, &u64)| u128::from(**n) < span.size();
            let Some((part, n)) = spans.iter().zip(&counts).take(here).find(has_room) else {
                if within != span {
                    // Others have filled it between two looks.
                    return Ok(Some(within.first));
                }
                if spans.iter().zip(&counts).any(|pair| has_room(&pair)) {
                    counted.clear();
                }
                counted.insert((set.clone(), span));
                return Ok(None);
            };
            if *n == 0 || keys::chunk_of(part.first).contains(part.last) {
                // What was listed of it before is out of date, or it would have been taken.
                self.invalidate(&keys::chunk(set, part.first));
                return Ok(Some(part.first));
            }
            within = *part;
        }
    }

    fn count(&self, set: &SetName, spans: &[Span]) -> Result<Vec<u64>, StoreError> {
        self.check_not_hypothetical()?;
        let ranges: Vec<_> = spans.iter().map(|span| keys::key_range(set, *span)).collect();
        self.server.count(&keys::addresses(set), &ranges, self.until)
    }

    /// Whether all that was found full is so at one moment. If not, what was listed is forgotten.
    pub fn confirm_full(&self) -> Result<bool, StoreError> {
        let full = self.search.full.take();
        if full.is_subset(&self.search.counted.borrow()) {
            return Ok(true);
        }
        let sets: BTreeSet<&SetName> = full.iter().map(|(set, _)| set).collect();
        for set in sets {
            let spans: Vec<Span> =
                full.iter().filter(|(s, _)| s == set).map(|(_, span)| *span).collect();
            let counts = self.count(set, &spans)?;
            if spans.iter().zip(counts).any(|(span, n)| u128::from(n) < span.size()) {
                self.invalidate(&keys::addresses(set));
                self.search.counted.borrow_mut().clear();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The address within the spans that is kept back for the shortest time yet, from the server.
    pub fn find_first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        let folder = keys::set_cooling(set);
        self.list(folder.clone())?;
        let mut found = Vec::new();
        for (path, entry) in self.entries_below(&folder) {
            let Some(addr) = keys::read_cooling(set, &path) else { continue };
            let here = addr.family() == family && spans.iter().any(|s| s.contains(addr));
            if here && let Holder::Cooling(cooling) = self.kept_back(&path, set, addr, &entry)? {
                found.push(cooling);
            }
        }
        found.sort();
        for cooling in found {
            // Its own record decides: it may have been taken since.
            let entry = self.read(&keys::address(set, cooling.addr))?;
            if let Some(entry) = entry
                && let Holder::Cooling(cooling) = self.slot(set, cooling.addr, &entry)?
            {
                return Ok(Some(cooling));
            }
        }
        Ok(None)
    }
}

/// A span in at most [`MAX_RANGES`] parts, divided where chunks are.
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
    fn a_span_is_divided_where_chunks_are() {
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
