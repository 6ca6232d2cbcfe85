//! A range set: the ranges from which a container gets one address.
//!
//! The rules inside a set and between sets are host-local's (`range_set.go`, `config.go`).
//! Invariant: a set has at least one range, one family, no overlap, and an allocatable address.

use std::fmt;

use super::{Addr, Family, Range, Span};

/// Why ranges do not form a set. The texts are host-local's, except the last.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No range at all.
    #[error("empty range set")]
    Empty,
    /// IPv4 and IPv6 in one set.
    #[error("mixed address families")]
    MixedFamilies,
    /// Two ranges share addresses.
    #[error("subnets {0} and {1} overlap")]
    Overlap(String, String),
    /// The gateways and the exclusions leave no address.
    #[error(
        "no address is left of {0} after the gateway and the excluded ones: widen the range or \
         exclude less"
    )]
    NothingToGive(String),
}

/// One or more ranges of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// A set of these ranges, tried in this order.
    pub fn new(ranges: Vec<Range>) -> Result<RangeSet, SetError> {
        let family = ranges.first().ok_or(SetError::Empty)?.subnet().family();
        if ranges.iter().any(|r| r.subnet().family() != family) {
            return Err(SetError::MixedFamilies);
        }
        for (i, a) in ranges.iter().enumerate() {
            if let Some(b) = ranges[i + 1..].iter().find(|b| a.bounds().overlaps(b.bounds())) {
                return Err(SetError::Overlap(a.to_string(), b.to_string()));
            }
        }
        // One range of several may contain only its gateway, if another one has an allocatable address.
        let empty = ranges.iter().all(|r| r.spans().is_empty());
        let set = RangeSet(ranges);
        if empty {
            return Err(SetError::NothingToGive(set.to_string()));
        }
        Ok(set)
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// The family of all of them.
    pub fn family(&self) -> Family {
        self.key().family()
    }

    /// The key of the set in the store: the first address of its first range. It survives changes of the
    /// other bounds and of the set's position.
    pub fn key(&self) -> Addr {
        self.0[0].bounds().first
    }

    /// The addresses that may be leased, range by range.
    pub fn spans(&self) -> Vec<Span> {
        self.0.iter().flat_map(Range::spans).copied().collect()
    }

    /// The range whose bounds contain `addr`.
    pub fn range_of(&self, addr: Addr) -> Option<&Range> {
        self.0.iter().find(|r| r.contains(addr))
    }

    fn overlaps(&self, other: &RangeSet) -> bool {
        self.0.iter().any(|a| other.0.iter().any(|b| a.bounds().overlaps(b.bounds())))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&ranges.join(","))
    }
}

/// The pairs of sets that overlap, by index: each set with the first one that it overlaps.
pub fn overlaps(sets: &[RangeSet]) -> Vec<(usize, usize)> {
    let with = |(j, set): (usize, &RangeSet)| {
        Some((sets[..j].iter().position(|other| other.overlaps(set))?, j))
    };
    let mut pairs: Vec<(usize, usize)> = sets.iter().enumerate().filter_map(with).collect();
    pairs.sort_unstable();
    pairs
}

/// All sets as one text for messages: `10.0.0.1-10.0.0.9; fd00::1-fd00::9`.
pub fn describe(sets: &[RangeSet]) -> String {
    sets.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
