//! The last day of each range: how full it was, what was allocated and released, and when it will be full.
//!
//! All of it is computed from the store's history, backwards from now: no number is kept for it.
//! Invariant: a time that the history does not reach has no value.

use serde::Serialize;
use serde_with::skip_serializing_none;

use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::{Event, Timestamp};
use crate::net::Addr;
use crate::rows::{PoolRow, Text, Time};
use crate::store::StoreReader;
use crate::telemetry::usage::Usage;

/// Seconds of a step.
const STEP: u64 = 900;
/// Steps of a day.
const STEPS: usize = 96;
const STEPS_PER_HOUR: usize = 4;
/// Steps that a forecast rests on.
const WINDOW: usize = 12;
/// In at least so many of them the use has to rise.
const LEAST: usize = 3;
/// A forecast rests on at least this many addresses more.
const RISE: i128 = 3;
/// Further ahead nothing is forecast: 7 days, in seconds.
const HORIZON: f64 = 7.0 * 86_400.0;

/// The last day of all ranges.
pub struct Trends {
    /// Until when.
    pub time: Time,
    /// In the order of the usage that they were made from.
    pub rows: Vec<TrendRow>,
}

/// The last day of a range. Each list has one value for each step, the oldest first.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrendRow {
    /// Name of the network, or ID of the pool.
    pub network: String,
    /// First address of the range.
    pub first: Text<Addr>,
    /// Addresses that were leased or reserved at the end of the step; `null` before the history begins.
    pub used: Vec<Option<i128>>,
    /// Allocations in the step.
    pub allocated: Vec<u32>,
    /// Releases in the step.
    pub released: Vec<u32>,
    /// The oldest event of the network's history.
    pub oldest: Option<Time>,
    /// Seconds until the range is full, if it goes on as in the last three hours.
    pub full_in: Option<u64>,
}

impl Trends {
    /// Reads the history of these ranges.
    pub fn take(
        store: &mut dyn StoreReader,
        cx: &Context,
        usage: &[Usage],
    ) -> Result<Trends, StoreError> {
        let begin = cx.now.saturating_sub(STEP * STEPS as u64);
        let mut all: Vec<Trend> = usage.iter().map(|_| Trend::new()).collect();
        store.history(cx, &mut |event| {
            for (trend, usage) in all.iter_mut().zip(usage) {
                trend.take(event, usage, begin);
            }
            false
        })?;
        let rows =
            all.into_iter().zip(usage).map(|(trend, usage)| trend.done(usage, begin)).collect();
        Ok(Trends { time: Time(cx.now), rows })
    }

    /// The trend of a range; `at` is its probable index.
    pub fn of(&self, at: usize, pool: &PoolRow) -> Option<&TrendRow> {
        let is_it = |row: &&TrendRow| row.network == pool.network && row.first == pool.first;
        self.rows.get(at).filter(is_it).or_else(|| self.rows.iter().find(is_it))
    }
}

impl TrendRow {
    /// The number of allocations and of releases in the last hour; `None` if there is no history of it.
    pub fn last_hour(&self) -> Option<(u32, u32)> {
        self.used[STEPS - STEPS_PER_HOUR]?;
        let sum = |counts: &[u32]| counts.iter().rev().take(STEPS_PER_HOUR).sum();
        Some((sum(&self.allocated), sum(&self.released)))
    }
}

/// A duration as `40 min` or `3 h`; `seconds` is an estimate.
pub fn about(seconds: u64) -> String {
    if seconds < 5400 {
        format!("{} min", (seconds / 60).max(1))
    } else {
        format!("{} h", (seconds + 1800) / 3600)
    }
}

/// The events of a range.
struct Trend {
    allocated: Vec<u32>,
    released: Vec<u32>,
    /// The oldest event of the range's set.
    oldest: Option<Timestamp>,
}

impl Trend {
    fn new() -> Trend {
        Trend { allocated: vec![0; STEPS], released: vec![0; STEPS], oldest: None }
    }

    fn take(&mut self, event: &Event, usage: &Usage, begin: Timestamp) {
        let extent = &usage.extent;
        if event.set != extent.set {
            return;
        }
        self.oldest = Some(self.oldest.map_or(event.time, |oldest| oldest.min(event.time)));
        let at = event.time.checked_sub(begin).and_then(|after| usize::try_from(after / STEP).ok());
        let Some(at) = at.map(|at| at.min(STEPS - 1)) else { return };
        if extent.gives.iter().any(|span| span.contains(event.addr)) {
            let counts = if event.what.gives() { &mut self.allocated } else { &mut self.released };
            counts[at] += 1;
        }
    }

    fn done(self, usage: &Usage, begin: Timestamp) -> TrendRow {
        let now = i128::try_from(usage.used.saturating_add(usage.reserved)).unwrap_or(i128::MAX);
        let mut used = vec![None; STEPS];
        let mut level = now;
        for at in (0..STEPS).rev() {
            // A step is known if the history reaches its end, or if it began with nothing in use.
            let end = begin + STEP * (at as u64 + 1);
            let is_known =
                at + 1 == STEPS || level == 0 || self.oldest.is_some_and(|oldest| oldest <= end);
            used[at] = is_known.then_some(level.max(0));
            level -= i128::from(self.allocated[at]) - i128::from(self.released[at]);
        }
        TrendRow {
            network: usage.extent.network.clone(),
            first: Text(usage.extent.range.first),
            oldest: self.oldest.map(Time),
            full_in: forecast(&used, usage.free),
            used,
            allocated: self.allocated,
            released: self.released,
        }
    }
}

/// Seconds until `free` addresses are used up, by a straight line through the newest steps. `None`: they are
/// not rising to their highest value, or too slowly to say.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, in bounds that are checked"
)]
fn forecast(used: &[Option<i128>], free: u128) -> Option<u64> {
    let window: Vec<i128> = used.iter().rev().map_while(|level| *level).take(WINDOW).collect();
    let (newest, oldest) = (*window.first()?, *window.last()?);
    // One burst is no trend.
    let rises = window.windows(2).filter(|pair| pair[0] > pair[1]).count();
    let is_rising =
        rises >= LEAST && newest - oldest >= RISE && window.iter().all(|level| *level <= newest);
    if free == 0 || !is_rising {
        return None;
    }
    let count = window.len() as f64;
    let middle = (count - 1.0) / 2.0;
    let mean = window.iter().sum::<i128>() as f64 / count;
    let (mut above, mut below) = (0.0, 0.0);
    for (age, level) in window.iter().enumerate() {
        let x = middle - age as f64;
        above += x * (*level as f64 - mean);
        below += x * x;
    }
    let seconds = free as f64 / (above / below) * STEP as f64;
    (0.0..=HORIZON).contains(&seconds).then_some(seconds as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_followed_and_noise_is_not() {
        let known = |levels: &[i128]| levels.iter().map(|level| Some(*level)).collect::<Vec<_>>();
        // Ten addresses each quarter of an hour: 80 last two hours.
        let rising = known(&[0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]);
        assert_eq!(forecast(&rising, 80), Some(2 * 3600));
        assert_eq!(forecast(&rising, 0), None, "it is full");
        assert_eq!(forecast(&rising, 1 << 64), None, "too far ahead");
        assert_eq!(forecast(&known(&[50, 50, 50, 50]), 80), None);
        assert_eq!(forecast(&known(&[50, 90, 40, 60]), 80), None, "it was fuller");
        assert_eq!(forecast(&known(&[50, 51, 51, 52]), 80), None, "too little to say");
        assert_eq!(forecast(&known(&[0, 0, 0, 0, 0, 0, 90]), 10), None, "a burst");
        let begun = [None, Some(0), Some(10), Some(20), Some(30)];
        assert_eq!(forecast(&begun[..4], 80), None, "two steps");
        assert_eq!(forecast(&begun, 80), Some(2 * 3600));
    }
}
