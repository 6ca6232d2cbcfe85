//! `sublet stats`: shows the usage of ranges, and the counters of requests.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::screen::visible;
use super::{Call, tables, write_file};
use crate::model::SetName;
use crate::rows::{CounterRow, PoolRow};
use crate::telemetry::metrics;
use crate::telemetry::metrics::Text;

/// Show how full each range is, and count requests by outcome
///
/// A request is counted only if it changes leases, so commands that only read and a DEL of an unknown
/// container are not counted. A refused ADD is counted only for boot leases, because for durable leases the
/// count would cost a flush. The counters of boot leases restart with each boot. In a cluster, each node
/// counts its own requests since its boot; this command shows the counters of the node that it runs on.
#[derive(Debug, Args)]
pub struct Stats {
    /// Only this network or pool. The requests include those of all networks in the same set of leases
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Print Prometheus' text format, or write it to FILE for node_exporter's textfile collector. FILE is
    /// replaced in one step
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-", conflicts_with = "json")]
    #[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
    prometheus: Option<PathBuf>,
}

impl Stats {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let usage = open.usage(self.network.as_deref())?;
        if usage.is_empty() {
            open.check_network(self.network.as_deref())?;
        }
        let mut counters = open.store.counters(&open.cx)?;
        if let Some(network) = &self.network {
            let drawn = |set: &SetName| usage.iter().any(|usage| usage.extent.set == *set);
            counters.retain(|counter| counter.set.0 == *network || drawn(&counter.set));
        }
        if let Some(file) = &self.prometheus {
            let mut text = Text::default();
            metrics::pools(&mut text, &usage);
            metrics::requests(&mut text, &counters);
            if file == Path::new("-") {
                return Ok(call.stdout.write_all(text.text().as_bytes())?);
            }
            // node_exporter runs as another user, so the file must be readable by all users.
            let create = |path: &Path| File::create(path);
            return write_file(file, create, |out| Ok(out.write_all(text.text().as_bytes())?));
        }
        let pools = open.pool_rows(&usage)?;
        let requests: Vec<CounterRow<'_>> = counters.iter().map(CounterRow::new).collect();
        if call.as_json {
            return call.json(&Report { pools, requests });
        }
        if pools.is_empty() && requests.is_empty() {
            let network = self.network.as_ref();
            let of = network.map(|network| format!("network {} in ", visible(network)));
            writeln!(call.stderr, "no statistics for {}{}", of.unwrap_or_default(), open.place)?;
        }
        let screen = &call.screen;
        for table in [tables::usage(&pools, screen), tables::counters(&requests, screen)] {
            if !table.is_empty() {
                writeln!(call.stdout, "{table}")?;
            }
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Report<'a> {
    pools: Vec<PoolRow>,
    requests: Vec<CounterRow<'a>>,
}
