//! A range set: the ranges from which a container gets one address.
//!
//! The rules inside a range set, and between range sets, are those of host-local (`range_set.go`,
//! `config.go`). Invariant: a range set has at least one range and one allocatable address. All of its
//! addresses have the same family, and its ranges do not overlap.

use std::fmt;

use super::{Addr, Family, Range, Span};

/// The reason why ranges cannot form a range set. The texts are host-local's, except the text of
/// `NothingToGive`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no range.
    #[error("empty range set")]
    Empty,
    /// There are both IPv4 and IPv6 ranges.
    #[error("mixed address families")]
    MixedFamilies,
    /// Two ranges have addresses in common.
    #[error("subnets {0} and {1} overlap")]
    Overlap(String, String),
    /// The gateways and the excluded addresses leave no allocatable address.
    #[error(
        "no allocatable address is left in {0} after the gateway and the excluded addresses; enlarge the \
         range, or exclude fewer addresses"
    )]
    NothingToGive(String),
}

/// One or more ranges of the same family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

impl RangeSet {
    /// Makes a range set. An ADD tries the ranges in the order of `ranges`.
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
        // A range may consist only of its gateway, if another range of the set has an allocatable address.
        let empty = ranges.iter().all(|r| r.spans().is_empty());
        let set = RangeSet(ranges);
        if empty {
            return Err(SetError::NothingToGive(set.to_string()));
        }
        Ok(set)
    }

    /// Returns the ranges, in order.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// Returns the family of the addresses.
    pub fn family(&self) -> Family {
        self.key().family()
    }

    /// Returns the key of the range set in the store: the first address of its first range. The key stays the
    /// same if other bounds of the range set change, or if its position in the configuration changes.
    pub fn key(&self) -> Addr {
        self.0[0].bounds().first
    }

    /// Returns the allocatable spans, range by range.
    pub fn spans(&self) -> Vec<Span> {
        self.0.iter().flat_map(Range::spans).copied().collect()
    }

    /// Returns the range that contains `addr`.
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

/// Returns pairs of indexes of overlapping range sets, in ascending order. For each range set that overlaps
/// an earlier one, there is one pair: the first range set that it overlaps, and the range set itself.
pub fn overlaps(sets: &[RangeSet]) -> Vec<(usize, usize)> {
    let with = |(j, set): (usize, &RangeSet)| {
        Some((sets[..j].iter().position(|other| other.overlaps(set))?, j))
    };
    let mut pairs: Vec<(usize, usize)> = sets.iter().enumerate().filter_map(with).collect();
    pairs.sort_unstable();
    pairs
}

/// Returns all range sets as one text, for messages: `10.0.0.1-10.0.0.9; fd00::1-fd00::9`.
pub fn describe(sets: &[RangeSet]) -> String {
    sets.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
