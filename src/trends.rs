//! Computes how full each range was in the last day, what was allocated and released, and when the range will
//! be full.
//!
//! The values are computed backwards from the current usage and the store's history, so nothing else has to
//! be stored.
//! Invariant: a trend has no value for a time before the history begins.

use serde::Serialize;
use serde_with::skip_serializing_none;

use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::{Event, Timestamp};
use crate::net::Addr;
use crate::rows::{PoolRow, Text, Time};
use crate::store::StoreReader;
use crate::telemetry::usage::Usage;

/// The length of the steps into which a day is divided, in seconds.
const STEP: u64 = 900;
/// The number of steps in a day.
const STEPS: usize = 96;
const STEPS_PER_HOUR: usize = 4;
/// The maximum number of steps from which a forecast is made.
const WINDOW: usize = 12;
/// A forecast requires that the usage rises in at least this many steps.
const LEAST: usize = 3;
/// A forecast requires that the usage rises by at least this many addresses in total.
const RISE: i128 = 3;
/// The furthest time that is forecast: 7 days, in seconds.
const HORIZON: f64 = 7.0 * 86_400.0;

/// The trends of all ranges in the last day.
pub struct Trends {
    /// The end of the day that the trends cover.
    pub time: Time,
    /// The trends, in the order of the usage from which they were made.
    pub rows: Vec<TrendRow>,
}

/// How the usage of a range changed in the last day. Each list has one value for each step, oldest first.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TrendRow {
    /// Name of the network, or ID of the pool.
    pub network: String,
    /// First address of the range.
    pub first: Text<Addr>,
    /// The number of addresses that were leased or reserved at the end of the step; `null` before the
    /// beginning of the history.
    pub used: Vec<Option<i128>>,
    /// The number of allocations in the step.
    pub allocated: Vec<u32>,
    /// The number of releases in the step.
    pub released: Vec<u32>,
    /// The time of the oldest event in the network's history.
    pub oldest: Option<Time>,
    /// Seconds until the range is full if the trend of the last three hours continues.
    pub full_in: Option<u64>,
}

impl Trends {
    /// Reads the history of these ranges, and computes their trends.
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

    /// Returns the trend of the range in `pool`. Looks at index `at` first, where the trend probably is.
    pub fn of(&self, at: usize, pool: &PoolRow) -> Option<&TrendRow> {
        let is_it = |row: &&TrendRow| row.network == pool.network && row.first == pool.first;
        self.rows.get(at).filter(is_it).or_else(|| self.rows.iter().find(is_it))
    }
}

impl TrendRow {
    /// Returns the number of allocations and of releases in the last hour; `None` if the history does not
    /// cover the whole hour.
    pub fn last_hour(&self) -> Option<(u32, u32)> {
        self.used[STEPS - STEPS_PER_HOUR]?;
        let sum = |counts: &[u32]| counts.iter().rev().take(STEPS_PER_HOUR).sum();
        Some((sum(&self.allocated), sum(&self.released)))
    }
}

/// Formats an estimated number of seconds, such as `40 min` or `3 h`.
pub fn about(seconds: u64) -> String {
    if seconds < 5400 {
        format!("{} min", (seconds / 60).max(1))
    } else {
        format!("{} h", (seconds + 1800) / 3600)
    }
}

/// The events of a range, counted by step.
struct Trend {
    allocated: Vec<u32>,
    released: Vec<u32>,
    /// The time of the oldest event in the set of the range.
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
            // The value of a step is known if the history covers the end of the step, or if nothing was in
            // use then.
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

/// Returns the seconds until `free` addresses are in use, along a straight line through the newest steps.
/// Returns `None` if the newest value is not the highest, or if the usage rises too little for a forecast.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, in bounds that are checked"
)]
fn forecast(used: &[Option<i128>], free: u128) -> Option<u64> {
    let window: Vec<i128> = used.iter().rev().map_while(|level| *level).take(WINDOW).collect();
    let (newest, oldest) = (*window.first()?, *window.last()?);
    // A single burst is not a trend.
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
        // Ten more addresses in each quarter of an hour: the remaining 80 last for two hours.
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
