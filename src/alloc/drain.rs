//! Plans a DRAIN, which begins or ends the draining of a range. No new address is leased from a draining
//! range, but containers keep the addresses that they have.
//!
//! Invariant: the draining ranges of a set never overlap.

use super::change::Change;
use super::command::{Drain, Outcome};
use super::view::{Context, Plan, View};
use crate::error::StoreError;
use crate::model::{SetName, Timestamp};
use crate::net::{Addr, Span};

/// A draining range: containers keep their addresses in it, but no new address is leased from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The set of leases to which the range belongs.
    pub set: SetName,
    /// The first and the last address.
    pub span: Span,
    /// When the draining began.
    pub since: Timestamp,
}

impl Draining {
    /// Returns the draining range that contains an address of a set.
    pub fn find<'a>(all: &'a [Draining], set: &SetName, addr: Addr) -> Option<&'a Draining> {
        all.iter().find(|range| range.set == *set && range.span.contains(addr))
    }
}

/// Returns the plan for a DRAIN.
pub fn drain(drain: &Drain, view: &dyn View, cx: &Context) -> Result<Plan, StoreError> {
    let before = view.draining(&drain.set)?;
    let after = after(&before, drain, cx.now);
    let changed = after != before;
    let change = changed.then(|| Change::PutDraining(drain.set.clone(), after));
    Ok(Plan::new(change.into_iter().collect(), Outcome::Drained { changed }))
}

/// Returns what the draining ranges of the command's set are after the command, in ascending order. `before`
/// contains only ranges of this set. Without `undo`, the command's span and the ranges that overlap it become
/// one range. With `undo`, the span is removed from every range.
pub fn after(before: &[Draining], drain: &Drain, now: Timestamp) -> Vec<Draining> {
    let (overlapping, mut after): (Vec<Draining>, Vec<Draining>) =
        before.iter().cloned().partition(|range| range.span.overlaps(drain.span));
    if drain.undo {
        for range in overlapping {
            let rest = range.span.without(drain.span);
            after.extend(rest.map(|span| Draining { span, ..range.clone() }));
        }
    } else {
        let new = Draining { set: drain.set.clone(), span: drain.span, since: now };
        after.push(overlapping.into_iter().fold(new, |new, range| Draining {
            span: Span {
                first: new.span.first.min(range.span.first),
                last: new.span.last.max(range.span.last),
            },
            since: new.since.min(range.since),
            ..new
        }));
    }
    after.sort_by_key(|range| range.span);
    after
}

/// Returns the parts of these spans that are not draining, in the same order.
pub fn without(spans: Vec<Span>, draining: &[Draining]) -> Vec<Span> {
    draining.iter().fold(spans, |spans, range| {
        spans.into_iter().flat_map(|span| span.without(range.span)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_become_one_range() {
        let span = |first: u128, last: u128| {
            let at = |n| Addr::from_bits(crate::net::Family::V4, n).unwrap();
            Span { first: at(first), last: at(last) }
        };
        let set = SetName("s".to_owned());
        let mut ranges = Vec::new();
        let steps: [(_, _, &[(Span, u64)]); 7] = [
            (span(10, 19), false, &[(span(10, 19), 0)]),
            (span(30, 39), false, &[(span(10, 19), 0), (span(30, 39), 1)]),
            (span(12, 15), false, &[(span(10, 19), 0), (span(30, 39), 1)]),
            (span(15, 30), false, &[(span(10, 39), 0)]),
            (span(20, 24), true, &[(span(10, 19), 0), (span(25, 39), 0)]),
            (span(50, 60), true, &[(span(10, 19), 0), (span(25, 39), 0)]),
            (span(0, 60), true, &[]),
        ];
        for (now, (span, undo, expected)) in (0..).zip(steps) {
            ranges = after(&ranges, &Drain { set: set.clone(), span, undo }, now);
            let found: Vec<_> = ranges.iter().map(|range| (range.span, range.since)).collect();
            assert_eq!(found, expected);
        }
        let draining = after(&[], &Drain { set, span: span(5, 7), undo: false }, 0);
        let left = without(vec![span(6, 9), span(0, 5), span(5, 7)], &draining);
        assert_eq!(left, [span(8, 9), span(0, 4)]);
    }
}
