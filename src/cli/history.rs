//! `sublet history`: who held an address, and when.

use anyhow::Result;
use clap::Args;

use super::{Call, fit, misuse, tables};
use crate::config::duration;
use crate::model::{Event, Timestamp};
use crate::net::Addr;
use crate::rows::EventRow;

/// Tell who held an address when, or what a container held.
///
/// A lease file keeps the last 10,000 events of 30 days, or what the configuration says as "history";
/// the boot before this one is told of too. A cluster keeps 1,000 events of each node, or as many as
/// that node's configuration says.
#[derive(Debug, Args)]
pub struct History {
    /// An address; a container ID or the beginning of one; an ECS id; a pod as namespace/name
    #[arg(value_name = "ADDRESS|CONTAINER")]
    name: String,
    /// Nothing before this: so long ago (2h), or a time (2026-01-31T08:00:00Z)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

impl History {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let since = match &self.since {
            Some(text) => since(text, open.cx.now)?,
            None => 0,
        };
        let (name, network) = (&self.name, self.network.as_deref());
        let addr: Option<Addr> = name.parse().ok();
        let is_about = |event: &Event| {
            addr == Some(event.addr)
                || fit(name, &event.owner, &event.origin).is_some()
                || event.origin.endpoint.as_ref() == Some(name)
        };
        let events = open.store.history(&open.cx, &mut |event| {
            event.time >= since && network.is_none_or(|n| event.network() == n) && is_about(event)
        })?;
        if events.is_empty() {
            open.check_network(network)?;
        }
        let rows: Vec<EventRow<'_>> = events.iter().map(EventRow::new).collect();
        if call.as_json {
            return call.json_rows(&rows);
        }
        if rows.is_empty() {
            writeln!(call.stderr, "{name} has no history in {}", open.place)?;
        }
        Ok(write!(call.stdout, "{}", tables::events(&rows, &call.screen))?)
    }
}

/// So long ago, or a time.
fn since(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(ago) = duration::positive(text) {
        return Ok(now.saturating_sub(ago.as_secs()));
    }
    let time: Option<jiff::Timestamp> = text.parse().ok();
    time.map(|time| u64::try_from(time.as_second()).unwrap_or(0)).ok_or_else(|| {
        misuse(format!(
            "--since is {text:?}; say so long ago (90s, 2h), or a time (2026-01-31T08:00:00Z)"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_while_ago_or_a_time() {
        assert_eq!(since("2h", 10_000).unwrap(), 2_800);
        assert_eq!(since("2h", 10).unwrap(), 0);
        assert_eq!(since("1970-01-01T00:01:00Z", 10_000).unwrap(), 60);
        assert_eq!(since("1970-01-01T00:01:00+00:01", 10_000).unwrap(), 0);
        assert!(since("yesterday", 10_000).is_err());
    }
}
