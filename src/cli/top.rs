//! `sublet top`: repeatedly shows how full ranges are and how fast they fill up, the fullest range first.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::pools::none_known;
use super::screen::{Tone, visible};
use super::tables::number_of;
use super::watch::{interval, wait};
use super::{Call, OpenStore, tables};
use crate::rows::{PoolRow, Time};
use crate::sys::host;

/// Show how fast ranges fill up
///
/// The fullest range comes first. ADDED/H counts the addresses that were leased or reserved in the last hour,
/// FREED/H the addresses that were freed. FULL IN estimates when the range will be full, from the last three
/// hours. These three columns come from the history, and are missing if "history" is "off".
/// On a terminal, the table is updated until Ctrl-C. Otherwise the table is printed once.
#[derive(Debug, Args)]
pub struct Top {
    /// Only this network or pool
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Time between two updates of the table
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = interval)]
    interval: Duration,
    /// Number of tables to print. With --json, each table is a line [default: 1; endless on a terminal]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

impl Top {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let on_terminal = call.screen.height.is_some() && !call.as_json;
        let most = self.count.unwrap_or(if on_terminal { u64::MAX } else { 1 });
        for n in 1..=most {
            // Use the current time for each table, because the command may run for days.
            open.cx.now = if n == 1 { open.cx.now } else { host::now() };
            let rows = self.rows(&mut open)?;
            if call.as_json {
                call.json_line(&rows)?;
            } else {
                print(&rows, &open, on_terminal && most > 1, call)?;
            }
            call.stdout.flush()?;
            if n == most || !wait(self.interval)? {
                break;
            }
        }
        Ok(())
    }

    /// Returns the rows of the ranges, fullest first.
    fn rows(&self, open: &mut OpenStore) -> Result<Vec<PoolRow>> {
        let usage = open.usage(self.network.as_deref())?;
        if usage.is_empty() {
            open.check_network(self.network.as_deref())?;
        }
        let mut rows = open.pool_trends(&usage)?;
        rows.sort_by_key(|row| row.free.saturating_mul(1_000) / row.size.max(1));
        Ok(rows)
    }
}

/// Prints the table. With `renews`, the table replaces the previous one on the screen.
fn print(rows: &[PoolRow], open: &OpenStore, renews: bool, call: &mut Call<'_>) -> Result<()> {
    let screen = call.screen;
    let table = tables::rates(rows, &screen);
    if rows.is_empty() && !renews {
        none_known(open, call)?;
    }
    if !renews {
        return Ok(write!(call.stdout, "{table}")?);
    }
    let ranges = number_of(rows.len(), "range");
    let title = format!("{ranges} in {}, {}", open.place, Time(open.cx.now));
    // Move the cursor to the top left, and erase the rest of the screen (ECMA-48). The title and the prompt
    // need one line each.
    writeln!(call.stdout, "\u{1b}[H\u{1b}[J{}", screen.paint(Tone::Dim, &visible(&title)))?;
    let lines = screen.height.unwrap_or(usize::MAX).saturating_sub(2);
    for line in table.lines().take(lines) {
        writeln!(call.stdout, "{line}")?;
    }
    Ok(())
}
