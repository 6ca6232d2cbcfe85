//! `sublet history`: shows who held an address, and when.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use clap::Args;
use jiff::civil;
use jiff::tz::TimeZone;

use super::{Call, UNIQUE, fit, misuse, tables};
use crate::config::duration;
use crate::model::{Event, Timestamp};
use crate::net::Addr;
use crate::rows::EventRow;

/// Show who held an address, or what a container held
///
/// Without an argument, the latest events are shown. A lease file keeps the last 10,000 events of 30 days,
/// and the events of the previous boot. A cluster keeps the last 1,000 transactions of each network. The key
/// "history" of a network's configuration changes these limits.
#[derive(Debug, Args)]
pub struct History {
    /// An address; a container ID or its first four characters or more; an ECS id; a pod as namespace/name; a
    /// network
    #[arg(value_name = "ADDRESS|CONTAINER|POD|NETWORK")]
    name: Option<String>,
    /// Only events since this time: an age (2h, 7d), 2026-01-31, "2026-01-31 08:00" (UTC) or RFC 3339
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only events before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show who held each address at this time
    #[arg(long, value_name = "TIME", conflicts_with_all = ["since", "until"])]
    at: Option<String>,
    /// Only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Print only the last N events [default: 50, or all if a name, --since, --until or --at is given]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// The number of events that are printed if neither an argument nor a time is given.
const LATEST: usize = 50;

impl History {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let now = open.cx.now;
        let moment = |option: &str, text: &Option<String>| {
            text.as_ref().map(|text| time(option, text, now)).transpose()
        };
        let since = moment("--since", &self.since)?.unwrap_or(0);
        let at = moment("--at", &self.at)?;
        let until = moment("--until", &self.until)?.or(at.map(|at| at.saturating_add(1)));
        let network = self.network.as_deref();
        let addr: Option<Addr> = self.name.as_ref().and_then(|name| name.parse().ok());
        let is_about = |event: &Event, name: &String| {
            addr == Some(event.addr)
                || fit(name, UNIQUE, &event.owner, &event.origin).is_some()
                || event.origin.endpoint.as_ref() == Some(name)
                || event.network() == name
        };
        let mut events = open.store.history(&open.cx, &mut |event| {
            event.time >= since
                && until.is_none_or(|until| event.time < until)
                && network.is_none_or(|n| event.network() == n)
                && self.name.as_ref().is_none_or(|name| is_about(event, name))
        })?;
        if at.is_some() {
            events = held(events);
        }
        if events.is_empty() {
            open.check_network(network)?;
        }
        let is_filtered = self.name.is_some() || since > 0 || until.is_some();
        let limit = self.limit.unwrap_or(if is_filtered { usize::MAX } else { LATEST });
        events.drain(..events.len().saturating_sub(limit));
        let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::new).collect();
        if rows.is_empty()
            && let Some(name) = &self.name
            && addr.is_none()
            && open.named(name, UNIQUE, network).is_err()
            && open.unknown(name)?.is_some()
        {
            return Err(anyhow!(
                "{name} does not occur in {}; run `sublet history` to list the latest events",
                open.place
            ));
        }
        if call.as_json {
            return call.json_rows(&rows);
        }
        if rows.is_empty() {
            let what = self.name.as_deref().unwrap_or("the requested time");
            writeln!(call.stderr, "no history for {what} in {}", open.place)?;
        }
        Ok(write!(call.stdout, "{}", tables::events(&rows, &call.screen))?)
    }
}

/// Returns the last event of each address, but only if the address has a holder after that event.
fn held(events: Vec<Event>) -> Vec<Event> {
    let mut last = BTreeMap::new();
    for event in events {
        last.insert((event.set.clone(), event.addr), event);
    }
    last.into_values().filter(|event| event.what.gives()).collect()
}

/// Parses a time: an age, a date, a date and time in UTC, or RFC 3339.
fn time(option: &str, text: &str, now: Timestamp) -> Result<Timestamp> {
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    if let Some(days) = days {
        return Ok(now.saturating_sub(days.saturating_mul(86_400)));
    }
    if let Ok(ago) = duration::positive(text) {
        return Ok(now.saturating_sub(ago.as_secs()));
    }
    let in_utc = || text.parse::<civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    let time = text.parse::<jiff::Timestamp>().ok().or_else(|| Some(in_utc()?.timestamp()));
    time.map(|time| u64::try_from(time.as_second()).unwrap_or(0)).ok_or_else(|| {
        misuse(format!(
            "invalid {option} {text:?}: use an age such as 90s, 2h or 7d, a date such as 2026-01-31, a time \
             such as \"2026-01-31 08:00\" (UTC), or RFC 3339"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_while_ago_a_date_or_a_moment() {
        let read = |text| time("--since", text, 10_000);
        assert_eq!(read("2h").unwrap(), 2_800);
        assert_eq!(time("--since", "7d", 1_000_000).unwrap(), 395_200);
        assert_eq!(time("--since", "2h", 10).unwrap(), 0);
        assert_eq!(read("1970-01-01T00:01:00Z").unwrap(), 60);
        assert_eq!(read("1970-01-01T00:01:00+00:01").unwrap(), 0);
        assert_eq!(read("1970-01-02").unwrap(), 86_400);
        assert_eq!(read("1970-01-02 03:00").unwrap(), 97_200);
        assert!(read("yesterday").is_err());
    }
}
