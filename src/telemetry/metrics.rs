//! Writes Prometheus' text format, version 0.0.4, and the metrics that `sublet stats` and the daemon's
//! `/metrics` have in common. Dashboards rely on the names of these metrics.
//!
//! Invariants: each metric family is written once, after its help and type lines. A label may contain any
//! text.

use std::fmt::{Display, Write as _};

use super::counters::{BOUNDS, Histogram};
use super::usage::Usage;
use crate::model::{Counter, words};
use crate::net::Span;

words! {
    /// The type of a metric family.
    pub enum Kind {
        /// The values only increase, until they restart at zero.
        Counter = "counter",
        /// The values increase and decrease.
        Gauge = "gauge",
        /// The values are distributions of durations.
        Histogram = "histogram",
    }
}

/// The metrics that have been written so far, in Prometheus' text format.
#[derive(Debug, Default)]
pub struct Text {
    /// The name and the lines of each family.
    families: Vec<(String, String)>,
    /// The index of the current family in `families`.
    at: usize,
    /// The label that is added to all samples that follow.
    label: Option<(&'static str, String)>,
}

impl Text {
    /// Makes a family the current family, and begins the family if it is new. The samples that are written
    /// next belong to this family.
    pub fn family(&mut self, name: &str, help: &str, kind: Kind) {
        if let Some(at) = self.families.iter().position(|(known, _)| known == name) {
            self.at = at;
            return;
        }
        let kind = kind.word();
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let lines = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
        self.at = self.families.len();
        self.families.push((name.to_owned(), lines));
    }

    /// Sets the label that is added to all samples that follow. `None` adds no label.
    pub fn label(&mut self, label: Option<(&'static str, String)>) {
        self.label = label;
    }

    /// Writes one sample of the current family.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let Some((_, lines)) = self.families.get_mut(self.at) else { return };
        lines.push_str(name);
        let first = self.label.as_ref().map(|(label, text)| (*label, text.as_str()));
        let all: Vec<(&str, &str)> = first.into_iter().chain(labels.iter().copied()).collect();
        for (i, (label, text)) in all.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let open = if i == 0 { '{' } else { ',' };
            // Writing to memory does not fail.
            let _ = write!(lines, "{open}{label}=\"{text}\"");
        }
        let close = if all.is_empty() { "" } else { "}" };
        let _ = writeln!(lines, "{close} {value}");
    }

    /// Writes one histogram of the current family.
    pub fn histogram(&mut self, name: &str, labels: &[(&str, &str)], histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        let ends = BOUNDS.map(|bound| bound.to_string());
        let ends = ends.iter().map(String::as_str).chain(["+Inf"]);
        // In Prometheus' format, a bucket also counts the durations in all lower buckets.
        let mut below = 0_u64;
        for (end, count) in ends.zip(histogram.buckets) {
            below = below.saturating_add(count);
            let labels: Vec<_> = labels.iter().copied().chain([("le", end)]).collect();
            self.sample(&bucket, &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, histogram.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), labels, below);
    }

    /// Returns the whole text.
    pub fn text(&self) -> String {
        self.families.iter().map(|(_, lines)| lines.as_str()).collect()
    }
}

const ADDRESSES: &str = "sublet_pool_addresses";
const GAP: &str = "sublet_pool_largest_gap_addresses";
const OUTSIDE: &str = "sublet_pool_outside_addresses";
const REQUESTS: &str = "sublet_requests_total";

/// Writes the metrics about the usage of ranges.
pub fn pools(text: &mut Text, usage: &[Usage]) {
    if usage.is_empty() {
        return;
    }
    let ranges: Vec<String> = usage.iter().map(|u| u.extent.range.brief()).collect();
    let all = || usage.iter().zip(&ranges);
    text.family(ADDRESSES, "Allocatable addresses of a range, by state.", Kind::Gauge);
    for (u, range) in all() {
        let states =
            [("used", u.used), ("reserved", u.reserved), ("cooling", u.cooling), ("free", u.free)];
        for (state, count) in states {
            let labels = [("network", &*u.extent.network), ("range", range), ("state", state)];
            text.sample(ADDRESSES, &labels, count);
        }
        if !u.drains.is_empty() {
            let network = &*u.extent.network;
            let labels = [("network", network), ("range", range), ("state", "draining")];
            text.sample(ADDRESSES, &labels, u.draining);
        }
    }
    let mut one = |name: &str, help: &str, value: &dyn Fn(&Usage) -> u128| {
        text.family(name, help, Kind::Gauge);
        for (u, range) in all() {
            text.sample(name, &[("network", &u.extent.network), ("range", range)], value(u));
        }
    };
    one(GAP, "Number of addresses in the longest free run of a range.", &|u| {
        u.gap.map_or(0, Span::size)
    });
    one(OUTSIDE, "Leased addresses in a range that are not allocatable.", &|u| u.outside);
}

/// Writes the store's request counters.
pub fn requests(text: &mut Text, counters: &[Counter]) {
    if counters.is_empty() {
        return;
    }
    text.family(REQUESTS, "Requests that changed the store or were refused.", Kind::Counter);
    for c in counters {
        let labels = [
            ("network", &*c.set.0),
            ("face", c.face.word()),
            ("command", c.verb.word()),
            ("outcome", c.ending.word()),
        ];
        text.sample(REQUESTS, &labels, c.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_holds_any_text() {
        let mut text = Text::default();
        text.family("a_total", "one\ntwo", Kind::Counter);
        text.sample("a_total", &[("l", "q\"\\\n"), ("m", "")], 7);
        text.sample("a_total", &[], u128::MAX);
        assert_eq!(
            text.text(),
            "# HELP a_total one\\ntwo\n# TYPE a_total counter\n\
             a_total{l=\"q\\\"\\\\\\n\",m=\"\"} 7\n\
             a_total 340282366920938463463374607431768211455\n"
        );
    }

    #[test]
    fn a_family_stays_together() {
        let mut text = Text::default();
        for store in ["a", "b"] {
            text.label(Some(("store", store.to_owned())));
            for family in ["one", "two"] {
                text.family(family, "h", Kind::Gauge);
                text.sample(family, &[("n", "x")], 1);
            }
        }
        let family = |name| {
            format!(
                "# HELP {name} h\n# TYPE {name} gauge\n{name}{{store=\"a\",n=\"x\"}} 1\n\
                 {name}{{store=\"b\",n=\"x\"}} 1\n"
            )
        };
        assert_eq!(text.text(), [family("one"), family("two")].concat());
    }
}
