//! The responses of `/api/v1/status` and `/api/v1/stores`: the problems of a store that need attention,
//! errors first.
//!
//! Invariant: the state is `ok` only if the store was read recently and was recently searched for problems.
//! If this is not the case and no problem is known, the state is `unknown`.

use std::time::Duration;

use serde::Serialize;
use serde_with::skip_serializing_none;

use super::cache::{Cache, Problems};
use super::slot::{Fault, Seen};
use super::snapshot::{PoolsAnswer, Snapshot};
use crate::model::Timestamp;
use crate::rows::{PoolRow, Time};
use crate::trends::{Trends, about};

/// A range is nearly full if at least this percentage of it is not free. The alert rules in
/// packaging/prometheus use the same limit.
const NEARLY: u128 = 80;
/// A forecast is reported if the range will be full within this time, in seconds.
const SOON: u64 = 24 * 3600;
/// How long a response waits for the problems and the trends, which take longer to read than the snapshot. If
/// the problems are missing, the state is `unknown`.
pub const GLANCE: Duration = Duration::from_millis(300);
/// The age, in seconds, beyond which a snapshot or a search for problems no longer proves that the store is
/// ok.
const OLD: u64 = 180;

/// A problem that needs the operator's attention.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize)]
pub struct Item {
    /// `error` or `warning`.
    pub level: &'static str,
    /// `locked`, `unavailable`, `unreadable`; `damage`, `full`, `nearlyFull`, `filling`, `stale`, `problem`.
    pub kind: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: Option<String>,
    /// The network, if the problem is about a range.
    pub network: Option<String>,
    /// The first address of the range, if the problem is about a range.
    pub first: Option<String>,
}

/// The response of `/api/v1/status`.
#[skip_serializing_none]
#[derive(Serialize)]
pub struct Status<'a> {
    /// `ok`, `warning`, `error` or `unknown`.
    state: &'static str,
    attention: Vec<Item>,
    /// When the store was last read.
    read: Option<Time>,
    /// When problems were last searched for.
    looked: Option<Time>,
    store: String,
    /// The ranges and the lease counts of the last snapshot.
    #[serde(flatten)]
    pools: Option<PoolsAnswer<'a>>,
}

/// A store in the response of `/api/v1/stores`.
#[skip_serializing_none]
#[derive(Serialize)]
pub struct Brief {
    /// The store's name.
    store: String,
    /// `ok`, `warning`, `error` or `unknown`, as in [`Status`].
    state: &'static str,
    /// When the store was last read.
    read: Option<Time>,
    /// The number of leases in the store.
    leases: Option<u64>,
    attention: Vec<Item>,
}

/// A store's cached values at one time, from which a [`Status`] is computed.
pub struct Sight {
    snapshot: Seen<Snapshot>,
    problems: Seen<Problems>,
    trends: Seen<Trends>,
    now: Timestamp,
}

impl Sight {
    /// Gets the values of a store from its cache. Waits at most `patience` for the snapshot.
    pub fn take(cache: &Cache, now: Timestamp, patience: Duration) -> Sight {
        let snapshot = cache.snapshot(patience);
        let patience = if snapshot.fault.is_some() { Duration::ZERO } else { GLANCE };
        let problems = cache.problems(patience);
        // The trends are read after the problems. If the problems are missing, there is no point in waiting
        // for the trends.
        let patience = if problems.value.is_some() { patience } else { Duration::ZERO };
        Sight { trends: cache.trends(patience), snapshot, problems, now }
    }

    /// Returns why the store cannot be read; `None` if it can be read.
    pub fn fault(&self) -> Option<&Fault> {
        self.snapshot.fault.as_ref().or(self.problems.fault.as_ref())
    }

    /// Returns the store's entry for `/api/v1/stores`.
    pub fn brief(&self, cache: &Cache) -> Brief {
        let Status { state, attention, read, store, .. } = self.status(cache);
        let leases = self.snapshot.value.as_ref().map(|snapshot| snapshot.leases.total);
        Brief { store, state, read, leases, attention }
    }

    /// Returns the response of `/api/v1/status`.
    pub fn status<'a>(&'a self, cache: &'a Cache) -> Status<'a> {
        let (snapshot, problems) = (self.snapshot.value.as_deref(), self.problems.value.as_deref());
        let mut attention: Vec<Item> = Vec::new();
        attention.extend(self.fault().map(unreadable));
        attention.extend(problems.into_iter().flat_map(of_problems));
        for (at, pool) in snapshot.iter().flat_map(|snapshot| &snapshot.pools).enumerate() {
            let full_in =
                self.trends.value.as_ref().and_then(|trends| trends.of(at, pool)?.full_in);
            attention.extend(of_pool(pool, full_in));
        }
        attention.sort_by_key(|item| item.level != "error");
        let is_recent = |time: Time| self.now.saturating_sub(time.0) <= OLD;
        let was_checked = snapshot.is_some_and(|snapshot| is_recent(snapshot.time))
            && problems.is_some_and(|problems| is_recent(problems.looked));
        let state = match attention.first() {
            Some(item) => item.level,
            None if was_checked => "ok",
            None => "unknown",
        };
        Status {
            state,
            attention,
            read: snapshot.map(|snapshot| snapshot.time),
            looked: problems.map(|problems| problems.looked),
            store: cache.place(),
            pools: snapshot.map(|snapshot| snapshot.pools(cache.node())),
        }
    }
}

/// Returns the item for a store that cannot be read.
fn unreadable(fault: &Fault) -> Item {
    let text = match fault.kind {
        "locked" => "the store is locked",
        "unavailable" => "the store does not respond",
        _ => "the store cannot be read",
    };
    let (text, advice) = (text.to_owned(), Some(fault.text.clone()));
    Item { level: "error", kind: fault.kind, text, advice, network: None, first: None }
}

fn of_problems(problems: &Problems) -> Vec<Item> {
    let item = |level, kind, count: usize, noun: &str, advice: &str| {
        let s = if count == 1 { "" } else { "s" };
        let (text, advice) = (format!("{count} {noun}{s}"), Some(advice.to_owned()));
        (count > 0).then_some(Item { level, kind, text, advice, network: None, first: None })
    };
    let repair = "run `sublet doctor --repair` to repair the damage";
    let gc = "run `sublet gc --netns` to free stale leases";
    let found = [
        item("error", "damage", problems.errors, "damaged record", repair),
        item("warning", "stale", problems.stale, "stale lease", gc),
        item(
            "warning",
            "problem",
            problems.others,
            "problem",
            "run `sublet doctor` to list the problems",
        ),
    ];
    found.into_iter().flatten().collect()
}

fn of_pool(pool: &PoolRow, full_in: Option<u64>) -> Option<Item> {
    let taken = pool.size.saturating_sub(pool.free);
    let range = pool.subnet.clone().unwrap_or_else(|| format!("{}-{}", pool.first.0, pool.last.0));
    let name = &pool.network;
    let (level, kind, text) = if pool.size == 0 {
        return None;
    } else if pool.free == 0 {
        ("error", "full", format!("range {range} of {name} is full"))
    } else if let Some(seconds) = full_in.filter(|seconds| *seconds <= SOON) {
        let text = format!("range {range} of {name} will be full in about {}", about(seconds));
        ("warning", "filling", text)
    } else if taken.saturating_mul(100) >= pool.size.saturating_mul(NEARLY) {
        let percent = taken.saturating_mul(100) / pool.size;
        ("warning", "nearlyFull", format!("range {range} of {name} is {percent} % full"))
    } else {
        return None;
    };
    let (network, first) = (Some(name.clone()), Some(pool.first.0.to_string()));
    Some(Item { level, kind, text, advice: None, network, first })
}
