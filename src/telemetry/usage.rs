//! How full pools are: the numbers behind `pools`, the map, the status page and the metrics.
//!
//! Owns: the computation, in one walk over what is taken, for a /29 and a /64 alike. Does not own:
//! where the addresses come from (`store`), how the numbers look.
//! Invariant: of what a range gives, each address is counted once: `size` is the sum of `used`,
//! `reserved`, `cooling` and `free`.

use std::collections::BTreeMap;

use crate::alloc::{Holder, NetworkRanges};
use crate::model::{Kind, Pool, SetName};
use crate::net::{Addr, Span};

/// A range that addresses are given out of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The network as it is listed, or the pool's name.
    pub network: String,
    /// The set of its leases.
    pub set: SetName,
    /// First to last address.
    pub range: Span,
    /// What is given out of it, ascending: without the gateway and exclusions.
    pub gives: Vec<Span>,
}

impl Extent {
    /// The ranges of networks and pools, in the order of networks.
    pub fn all(networks: &[NetworkRanges], pools: &[Pool]) -> Vec<Extent> {
        let mut all = Vec::new();
        for network in networks {
            for range in &network.bounds {
                let within = |span: &Span| span.starting(range.first)?.up_to(range.last);
                let mut gives: Vec<Span> = network.assignable.iter().filter_map(within).collect();
                gives.sort_unstable();
                all.push(Extent {
                    network: network.network.to_string(),
                    set: network.set.clone(),
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

/// How full a range is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Which range.
    pub extent: Extent,
    /// How many addresses it gives.
    pub size: u128,
    /// Of these, how many are leased.
    pub used: u128,
    /// How many are set aside.
    pub reserved: u128,
    /// How many are kept back for a while.
    pub cooling: u128,
    /// How many are left.
    pub free: u128,
    /// Leased or set aside between the bounds, and not given out: recorded gateways, addresses that
    /// were excluded since.
    pub outside: u128,
    /// The longest run of free addresses, the lowest of several; `None`: there is none.
    pub gap: Option<Span>,
}

/// Counts what is taken, address by address.
#[derive(Debug, Default)]
pub struct Meter {
    all: Vec<Gauge>,
    /// Of each set: its ranges by first address, with the highest address of any up to there.
    sets: BTreeMap<SetName, Vec<(Addr, Addr, usize)>>,
}

#[derive(Debug)]
struct Gauge {
    usage: Usage,
    /// Which of the spans is looked at, and from where on nothing was seen yet.
    span: usize,
    from: Option<Addr>,
}

impl Meter {
    /// A meter of these ranges, which may overlap.
    pub fn new(extents: Vec<Extent>) -> Meter {
        let mut meter = Meter::default();
        for (index, extent) in extents.into_iter().enumerate() {
            let range = extent.range;
            let ranges = meter.sets.entry(extent.set.clone()).or_default();
            ranges.push((range.first, range.last, index));
            let size =
                extent.gives.iter().fold(0_u128, |sum, span| sum.saturating_add(span.size()));
            let from = extent.gives.first().map(|span| span.first);
            let usage = Usage {
                extent,
                size,
                used: 0,
                reserved: 0,
                cooling: 0,
                free: size,
                outside: 0,
                gap: None,
            };
            meter.all.push(Gauge { usage, span: 0, from });
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

    /// One address that nobody else can have, in the order of addresses within its set.
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

    /// The numbers, in the order of the ranges.
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
        if !self.reach(addr) {
            self.usage.outside += u128::from(kind.is_some());
            return;
        }
        let usage = &mut self.usage;
        *match kind {
            None => &mut usage.cooling,
            Some(Kind::Reserved) => &mut usage.reserved,
            Some(_) => &mut usage.used,
        } += 1;
        usage.free = usage.free.saturating_sub(1);
    }

    /// Goes up to an address, over runs that are free; whether it is given out.
    fn reach(&mut self, addr: Addr) -> bool {
        while let Some(span) = self.usage.extent.gives.get(self.span).copied() {
            if span.first > addr {
                return false;
            }
            if span.contains(addr) {
                let run = addr.prev().and_then(|to| Span::new(self.from?, to));
                self.run(run);
                self.from = addr.next();
                return true;
            }
            self.run(self.from.and_then(|from| span.starting(from)));
            self.next();
        }
        false
    }

    fn next(&mut self) {
        self.span += 1;
        self.from = self.usage.extent.gives.get(self.span).map(|span| span.first);
    }

    fn run(&mut self, run: Option<Span>) {
        let longest = self.usage.gap.map_or(0, Span::size);
        if let Some(run) = run.filter(|run| run.size() > longest) {
            self.usage.gap = Some(run);
        }
    }

    fn done(mut self) -> Usage {
        while let Some(span) = self.usage.extent.gives.get(self.span).copied() {
            self.run(self.from.and_then(|from| span.starting(from)));
            self.next();
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
    fn a_large_range_costs_as_much_as_is_taken() {
        let all = span("10.0.0.1", "10.255.255.254");
        let huge = span("fd00::", "fd00::ffff:ffff:ffff:ffff");
        let whole = Span::from(crate::net::Subnet::masked(addr("::"), 1).unwrap());
        let mut meter = Meter::new(vec![
            extent(all, vec![all]),
            extent(huge, vec![huge]),
            extent(whole, vec![whole]),
        ]);
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
    fn another_set_s_addresses_are_another_s() {
        let range = span("10.0.0.1", "10.0.0.6");
        let mut meter = Meter::new(vec![extent(range, vec![range])]);
        meter.take(&SetName("t".into()), addr("10.0.0.2"), &cooling(addr("10.0.0.2")));
        meter.take(&SetName("s".into()), addr("10.0.0.7"), &cooling(addr("10.0.0.7")));
        assert_eq!(meter.done()[0].free, 6);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        /// Against counting address by address; ranges overlap as those of shared networks do.
        #[test]
        fn the_numbers_are_right(
            ranges in prop::collection::vec((0..40_u128, 1..30_u128, prop::collection::vec(0..70_u128, 0..5)), 1..5),
            taken in prop::collection::btree_set(0..70_u128, 0..50),
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
            let mut meter = Meter::new(extents.clone());
            for n in &taken {
                meter.take(&set, at(*n), &cooling(at(*n)));
            }
            for (usage, extent) in meter.done().iter().zip(&extents) {
                let gives = |n: u128| extent.gives.iter().any(|s| s.contains(at(n)));
                let free: Vec<u128> = (0..80).filter(|n| gives(*n) && !taken.contains(n)).collect();
                let cooling = taken.iter().filter(|n| gives(**n)).count();
                prop_assert_eq!(usage.free, free.len() as u128);
                prop_assert_eq!(usage.cooling, cooling as u128);
                prop_assert_eq!(usage.size, usage.free + usage.cooling);
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
