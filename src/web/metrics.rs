//! `/metrics`: the metrics of `sublet stats` ([`crate::telemetry::metrics`]) and of this process.
//!
//! Invariant: if a store cannot be read, its `sublet_store_readable` is 0, and its ranges, leases and
//! requests are missing. The metrics of other stores and of this process are complete.

use std::fmt::Display;

use super::cache::{Cache, Problems};
use super::slot::Seen;
use super::snapshot::Snapshot;
use crate::model::Timestamp;
use crate::telemetry::counters::Counters;
use crate::telemetry::metrics;
use crate::telemetry::metrics::{Kind, Text};
use crate::trends::Trends;

const FULL_IN: &str = "sublet_pool_full_in_seconds";

/// The values of a store for `/metrics`.
pub struct Scrape {
    /// The store's name.
    place: String,
    snapshot: Seen<Snapshot>,
    problems: Seen<Problems>,
    trends: Seen<Trends>,
}

impl Scrape {
    /// Gets the values of a store from its cache, without waiting for the lock of a lease file.
    pub fn take(cache: &Cache) -> Scrape {
        let patience = cache.scrape_patience();
        Scrape {
            place: cache.place(),
            snapshot: cache.snapshot(patience),
            problems: cache.problems(patience),
            trends: cache.trends(patience),
        }
    }

    /// Writes the metrics of the store.
    fn write(&self, text: &mut Text, now: Timestamp) {
        let is_readable = self.snapshot.fault.is_none();
        let snapshot = self.snapshot.value.as_ref().filter(|_| is_readable);
        let mut one = |name: &str, help: &str, value: &dyn Display| {
            text.family(name, help, Kind::Gauge);
            text.sample(name, &[], value);
        };
        let readable = u8::from(snapshot.is_some());
        one(
            "sublet_store_readable",
            "Whether the lease store is readable (1) or not (0).",
            &readable,
        );
        if let Some(snapshot) = snapshot {
            one(
                "sublet_store_look_seconds",
                "Duration of the last complete read of the store, in seconds.",
                &snapshot.took.as_secs_f64(),
            );
            one("sublet_leases", "Leases in the store.", &snapshot.leases.total);
            one(
                "sublet_store_look_age_seconds",
                "Time since the last complete read of the store, in seconds.",
                &now.saturating_sub(snapshot.time.0),
            );
        }
        let name = "sublet_problems";
        text.family(name, "Problems found by the last check of all records.", Kind::Gauge);
        if let Some(found) = &self.problems.value {
            let unreadable = usize::from(!is_readable);
            text.sample(name, &[("level", "error")], found.errors + unreadable);
            text.sample(name, &[("level", "warning")], found.stale + found.others);
        }
        let Some(snapshot) = snapshot else { return };
        metrics::pools(text, &snapshot.usage);
        text.family(
            FULL_IN,
            "Estimated time until a range is full at the current rate, in seconds.",
            Kind::Gauge,
        );
        for (at, (usage, pool)) in snapshot.usage.iter().zip(&snapshot.pools).enumerate() {
            let trends = self.trends.value.as_ref();
            let full_in = trends.and_then(|trends| trends.of(at, pool)?.full_in);
            let (network, range) = (&*usage.extent.network, usage.extent.range.brief());
            let labels = [("network", network), ("range", &*range)];
            if let Some(seconds) = full_in {
                text.sample(FULL_IN, &labels, seconds);
            }
        }
        metrics::requests(text, &snapshot.counters);
    }
}

/// Returns the text of `/metrics` at the time `now`. If there are several stores, each of their metrics has a
/// label that names the store.
pub fn text(stores: &[Scrape], counters: &Counters, now: Timestamp) -> String {
    let mut text = Text::default();
    for store in stores {
        text.label((stores.len() > 1).then(|| ("store", store.place.clone())));
        store.write(&mut text, now);
    }
    text.label(None);
    let mut one = |name: &str, help: &str, value: u64| {
        text.family(name, help, Kind::Counter);
        text.sample(name, &[], value);
    };
    one(
        "sublet_store_errors_total",
        "Requests and status reads that failed because of the lease store since subletd started.",
        counters.failures,
    );
    one(
        "sublet_store_conflicts_total",
        "Commands of subletd that failed because another client changed the cluster first.",
        counters.conflicts,
    );
    let name = "sublet_build_info";
    text.family(name, "The version of subletd.", Kind::Gauge);
    text.sample(name, &[("version", env!("CARGO_PKG_VERSION"))], 1);
    let name = "sublet_lock_wait_seconds";
    text.family(
        name,
        "Time that subletd waited for a lock held by another process, in seconds.",
        Kind::Histogram,
    );
    text.histogram(name, &[], &counters.waits);
    if !counters.requests.is_empty() {
        let name = "sublet_request_duration_seconds";
        text.family(
            name,
            "Duration of requests to subletd, including waiting time, in seconds.",
            Kind::Histogram,
        );
        for ((face, command, outcome), histogram) in &counters.requests {
            let labels = [("face", *face), ("command", *command), ("outcome", *outcome)];
            text.histogram(name, &labels, histogram);
        }
    }
    text.text()
}
