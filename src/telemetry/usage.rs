//! Computes the usage of ranges, for `pools`, the map, the status page and the metrics. One pass over the
//! addresses in use is enough, regardless of the size of the ranges.
//!
//! Invariant: each allocatable address of a range is counted exactly once, so `size` is the sum of `used`,
//! `reserved`, `cooling`, `draining` and `free`.

use std::collections::BTreeMap;

use crate::alloc::{Draining, Holder, NetworkRanges, without_draining as without};
use crate::model::{Kind, Pool, SetName};
use crate::net::{Addr, Span};

/// A range of a network or of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The name of the network as it is listed, or the ID of the pool.
    pub network: String,
    /// The set of leases to which the range belongs.
    pub set: SetName,
    /// The span from the first to the last address.
    pub range: Span,
    /// The allocatable spans in ascending order, without the gateway and excluded addresses.
    pub gives: Vec<Span>,
}

impl Extent {
    /// Returns the ranges of all networks and pools, in the order of the networks.
    pub fn all(definitions: &[NetworkRanges], pools: &[Pool]) -> Vec<Extent> {
        let mut all = Vec::new();
        for definition in definitions {
            for range in &definition.bounds {
                let within = |span: &Span| span.starting(range.first)?.up_to(range.last);
                let mut gives: Vec<Span> =
                    definition.assignable.iter().filter_map(within).collect();
                gives.sort_unstable();
                all.push(Extent {
                    network: definition.network.to_string(),
                    set: definition.set.clone(),
                    range: *range,
                    gives,
                });
            }
        }
        for pool in pools {
            all.push(Extent {
                network: pool.id.to_string(),
                set: pool.set(),
                range: pool.subnet.into(),
                gives: pool.draws().into_iter().collect(),
            });
        }
        all.sort_by(|a, b| (&a.network, a.range).cmp(&(&b.network, b.range)));
        all
    }
}

/// The usage of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The range.
    pub extent: Extent,
    /// The number of allocatable addresses.
    pub size: u128,
    /// The number of allocatable addresses that are leased.
    pub used: u128,
    /// The number of allocatable addresses that are reserved.
    pub reserved: u128,
    /// The number of allocatable addresses that are cooling down.
    pub cooling: u128,
    /// The number of allocatable addresses in draining ranges that are neither leased nor reserved.
    pub draining: u128,
    /// The draining ranges that overlap the range.
    pub drains: Vec<Span>,
    /// The number of allocatable addresses that are free, and not in a draining range.
    pub free: u128,
    /// The number of addresses that are leased or reserved but not allocatable: recorded gateways, and
    /// addresses that were excluded after they were leased.
    pub outside: u128,
    /// The longest run of free addresses. If several runs are equally long, this is the lowest. `None` if no
    /// address is free.
    pub gap: Option<Span>,
}

/// Counts the addresses in use in each range. The caller passes the addresses one by one.
#[derive(Debug, Default)]
pub struct Meter {
    all: Vec<Gauge>,
    /// For each set, its ranges in the order of their first addresses. Each entry has the first address, the
    /// highest last address of this and all previous ranges, and the index of the range in `all`.
    sets: BTreeMap<SetName, Vec<(Addr, Addr, usize)>>,
}

/// The counters of one range.
#[derive(Debug)]
struct Gauge {
    usage: Usage,
    /// The allocatable spans that come after the last counted address, highest first.
    rest: Vec<Span>,
}

impl Meter {
    /// Makes a meter for these ranges, which may overlap, and for the draining ranges of all sets.
    pub fn new(extents: Vec<Extent>, draining: &[Draining]) -> Meter {
        let mut meter = Meter::default();
        for (index, extent) in extents.into_iter().enumerate() {
            let range = extent.range;
            let ranges = meter.sets.entry(extent.set.clone()).or_default();
            ranges.push((range.first, range.last, index));
            let size =
                extent.gives.iter().fold(0_u128, |sum, span| sum.saturating_add(span.size()));
            let is_here = |d: &&Draining| d.set == extent.set && d.span.overlaps(extent.range);
            let here: Vec<Draining> = draining.iter().filter(is_here).cloned().collect();
            let mut rest = without(extent.gives.clone(), &here);
            rest.reverse();
            let free = rest.iter().fold(0_u128, |sum, span| sum.saturating_add(span.size()));
            let drains = here.into_iter().map(|range| range.span).collect();
            let usage = Usage {
                extent,
                size,
                used: 0,
                reserved: 0,
                cooling: 0,
                draining: size.saturating_sub(free),
                drains,
                free,
                outside: 0,
                gap: None,
            };
            meter.all.push(Gauge { usage, rest });
        }
        for ranges in meter.sets.values_mut() {
            ranges.sort_unstable();
            let mut reach = None;
            for (_, last, _) in ranges {
                reach = reach.max(Some(*last));
                *last = reach.unwrap_or(*last);
            }
        }
        meter
    }

    /// Counts an address in use. The addresses of a set must be passed in ascending order.
    pub fn take(&mut self, set: &SetName, addr: Addr, holder: &Holder) {
        let Some(ranges) = self.sets.get(set) else { return };
        let behind = ranges.partition_point(|(first, ..)| *first <= addr);
        for (_, reach, index) in ranges[..behind].iter().rev() {
            if *reach < addr {
                break;
            }
            let gauge = &mut self.all[*index];
            if gauge.usage.extent.range.contains(addr) {
                gauge.take(addr, holder);
            }
        }
    }

    /// Returns the usage of each range, in the order in which the ranges were passed to [`Meter::new`].
    pub fn done(self) -> Vec<Usage> {
        self.all.into_iter().map(Gauge::done).collect()
    }
}

impl Gauge {
    fn take(&mut self, addr: Addr, holder: &Holder) {
        let kind = match holder {
            Holder::Free => return,
            Holder::Cooling(_) => None,
            Holder::Leased(lease) => Some(lease.kind),
        };
        while let Some(run) = self.rest.pop_if(|span| span.last < addr) {
            self.free_run(run);
        }
        let has_addr = |span: &Span| span.contains(addr);
        if self.usage.drains.iter().any(has_addr) && self.usage.extent.gives.iter().any(has_addr) {
            let usage = &mut self.usage;
            match kind {
                None => return,
                Some(Kind::Reserved) => usage.reserved += 1,
                Some(_) => usage.used += 1,
            }
            usage.draining = usage.draining.saturating_sub(1);
            return;
        }
        let Some(span) = self.rest.pop_if(|span| span.first <= addr) else {
            self.usage.outside += u128::from(kind.is_some());
            return;
        };
        if let Some(run) = addr.prev().and_then(|to| span.up_to(to)) {
            self.free_run(run);
        }
        if let Some(rest) = addr.next().and_then(|from| span.starting(from)) {
            self.rest.push(rest);
        }
        let usage = &mut self.usage;
        *match kind {
            None => &mut usage.cooling,
            Some(Kind::Reserved) => &mut usage.reserved,
            Some(_) => &mut usage.used,
        } += 1;
        usage.free = usage.free.saturating_sub(1);
    }

    fn free_run(&mut self, run: Span) {
        if run.size() > self.usage.gap.map_or(0, Span::size) {
            self.usage.gap = Some(run);
        }
    }

    fn done(mut self) -> Usage {
        while let Some(run) = self.rest.pop() {
            self.free_run(run);
        }
        self.usage
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::alloc::Cooling;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn span(first: &str, last: &str) -> Span {
        Span::new(addr(first), addr(last)).unwrap()
    }

    fn cooling(at: Addr) -> Holder {
        Holder::Cooling(Cooling { until: 9, addr: at, freed: 1 })
    }

    fn extent(range: Span, gives: Vec<Span>) -> Extent {
        Extent { network: "n".into(), set: SetName("s".into()), range, gives }
    }

    #[test]
    fn a_large_range_costs_as_much_as_its_addresses_in_use() {
        let all = span("10.0.0.1", "10.255.255.254");
        let huge = span("fd00::", "fd00::ffff:ffff:ffff:ffff");
        let whole = Span::from(crate::net::Subnet::masked(addr("::"), 1).unwrap());
        let extents =
            vec![extent(all, vec![all]), extent(huge, vec![huge]), extent(whole, vec![whole])];
        let mut meter = Meter::new(extents, &[]);
        let set = SetName("s".into());
        for at in ["10.0.0.1", "10.128.0.0", "fd00::1"] {
            meter.take(&set, addr(at), &cooling(addr(at)));
        }
        let [all, huge, whole] = &meter.done()[..] else { panic!() };
        assert_eq!((all.size, all.cooling, all.free), ((1 << 24) - 2, 2, (1 << 24) - 4));
        assert_eq!(all.gap, Some(span("10.0.0.2", "10.127.255.255")));
        assert_eq!((huge.size, huge.free), (1 << 64, (1 << 64) - 1));
        assert_eq!(huge.gap, Some(span("fd00::2", "fd00::ffff:ffff:ffff:ffff")));
        assert_eq!((whole.size, whole.cooling), (1 << 127, 0));
    }

    #[test]
    fn addresses_of_another_set_are_not_counted() {
        let range = span("10.0.0.1", "10.0.0.6");
        let mut meter = Meter::new(vec![extent(range, vec![range])], &[]);
        meter.take(&SetName("t".into()), addr("10.0.0.2"), &cooling(addr("10.0.0.2")));
        meter.take(&SetName("s".into()), addr("10.0.0.7"), &cooling(addr("10.0.0.7")));
        assert_eq!(meter.done()[0].free, 6);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Compares the result with a count that goes through all addresses one by one. Some of the ranges
        /// overlap, as those of networks with a common set may.
        #[test]
        fn the_numbers_are_right(
            ranges in prop::collection::vec((0..40_u128, 1..30_u128, prop::collection::vec(0..70_u128, 0..5)), 1..5),
            taken in prop::collection::btree_set(0..70_u128, 0..50),
            (first, last) in (0..70_u128, 0..70_u128),
        ) {
            let at = |n: u128| Addr::from_bits(crate::net::Family::V4, n).unwrap();
            let set = SetName("s".into());
            let mut extents = Vec::new();
            for (first, len, holes) in &ranges {
                let range = Span::new(at(*first), at(first + len)).unwrap();
                let given: Vec<u128> = (*first..=first + len).filter(|n| !holes.contains(n)).collect();
                let runs = given.chunk_by(|a, b| a + 1 == *b);
                let gives = runs.map(|r| Span::new(at(r[0]), at(r[r.len() - 1])).unwrap()).collect();
                extents.push(extent(range, gives));
            }
            let drains = Span::new(at(first), at(last));
            let draining = drains.map(|span| Draining { set: set.clone(), span, since: 0 });
            let mut meter = Meter::new(extents.clone(), draining.as_slice());
            for n in &taken {
                meter.take(&set, at(*n), &cooling(at(*n)));
            }
            for (usage, extent) in meter.done().iter().zip(&extents) {
                let gives = |n: u128| extent.gives.iter().any(|s| s.contains(at(n)));
                let drains = |n: u128| drains.is_some_and(|span| span.contains(at(n)));
                let is_free = |n: &u128| gives(*n) && !drains(*n) && !taken.contains(n);
                let free: Vec<u128> = (0..80).filter(is_free).collect();
                let cooling = taken.iter().filter(|n| gives(**n) && !drains(**n)).count();
                let draining = (0..80).filter(|n| gives(*n) && drains(*n)).count();
                prop_assert_eq!(usage.free, free.len() as u128);
                prop_assert_eq!(usage.cooling, cooling as u128);
                prop_assert_eq!(usage.draining, draining as u128);
                prop_assert_eq!(usage.size, usage.free + usage.cooling + usage.draining);
                let mut runs: BTreeMap<usize, u128> = BTreeMap::new();
                for run in free.chunk_by(|a, b| a + 1 == *b) {
                    runs.entry(run.len()).or_insert(run[0]);
                }
                let longest = runs.last_key_value().map(|(n, from)| (at(*from), *n as u128));
                prop_assert_eq!(usage.gap.map(|g| (g.first, g.size())), longest);
            }
        }
    }
}
