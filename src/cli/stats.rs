//! `sublet stats`: how full the pools are, and what was asked for.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use super::output;
use super::output::{Stats as Report, visible};
use super::{Desk, Terminal, tables};
use crate::model::SetName;
use crate::rows::CounterRow;
use crate::telemetry::metrics;
use crate::telemetry::metrics::Text;

/// Show how full each range is, and count requests by outcome
///
/// Requests are counted with the change that they make: what only looks, and a DEL of nothing, is not.
/// A refused ADD is counted in a file of boot leases alone; elsewhere it would cost a flush. The
/// counters of boot leases begin anew with each boot. In a cluster each node counts for itself, since its
/// boot: these are this node's.
#[derive(Debug, Args)]
pub struct Stats {
    /// Only this network's, or this pool; what was asked for is counted for all that share its leases
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// One object
    #[arg(long, conflicts_with = "prometheus")]
    json: bool,
    /// Prometheus' text format; with FILE written there, whole or not at all, as node_exporter's
    /// textfile collector wants it
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "-")]
    #[allow(clippy::doc_markdown, reason = "a person sees these texts as they stand here")]
    prometheus: Option<PathBuf>,
}

impl Stats {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let usage = desk.usage(self.network.as_deref())?;
        let mut counters = desk.store.counters(&desk.cx)?;
        if let Some(network) = &self.network {
            let drawn = |set: &SetName| usage.iter().any(|usage| usage.extent.set == *set);
            counters.retain(|counter| counter.set.0 == *network || drawn(&counter.set));
        }
        if let Some(file) = &self.prometheus {
            let mut text = Text::default();
            metrics::pools(&mut text, &usage);
            metrics::requests(&mut text, &counters);
            if file == Path::new("-") {
                terminal.stdout.write_all(text.as_str().as_bytes())?;
            } else {
                write(file, text.as_str())?;
            }
            return Ok(terminal.stdout.flush()?);
        }
        let (pools, screen) = (desk.pool_rows(&usage)?, &terminal.screen);
        let requests: Vec<CounterRow<'_>> = counters.iter().map(CounterRow::new).collect();
        if self.json {
            output::json(terminal.stdout, &Report { pools: &pools, requests: &requests })?;
        } else {
            if pools.is_empty() && requests.is_empty() {
                let of = match &self.network {
                    Some(network) => format!("network {} in ", visible(network)),
                    None => String::new(),
                };
                writeln!(terminal.stderr, "nothing is known of {of}{}", desk.place)?;
            }
            for table in [tables::usage(&pools, screen), tables::counters(&requests, screen)] {
                if !table.is_empty() {
                    writeln!(terminal.stdout, "{table}")?;
                }
            }
        }
        Ok(terminal.stdout.flush()?)
    }
}

/// Under another name in the same folder first: nobody reads half of it.
fn write(file: &Path, text: &str) -> Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, file));
    if written.is_err() {
        // Best effort: the next one overwrites it.
        let _ = std::fs::remove_file(&new);
    }
    written.with_context(|| format!("cannot write {}", file.display()))
}
