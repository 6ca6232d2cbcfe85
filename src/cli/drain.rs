//! `sublet drain`: empties a range of a network without stopping a container.
//!
//! Invariant: the leases in the range stay until their containers end. The command only changes whether new
//! addresses are leased from the range.

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;

use super::screen::visible;
use super::tables::number_of;
use super::watch::wait;
use super::{Call, Format, OpenStore, ProblemsFound, reserve, tables};
use crate::alloc;
use crate::engine;
use crate::model::{Lease, SetName};
use crate::net::{Addr, Span};
use crate::rows::{LeaseRow, Text};
use crate::sys::host;

/// The time between two checks of `--wait`.
const INTERVAL: Duration = Duration::from_secs(1);

/// The period in which freed leases are counted, in seconds: the last hour.
const HOUR: u64 = 3600;

/// Stop leasing new addresses from a range.
///
/// Containers keep their addresses in the range. Prints the leases that remain. Exits with 0 if there are
/// none, otherwise with 1; `--undo` exits with 0. The range is draining until `--undo`, even after a reboot.
/// Running the command again is harmless. If networks share a set of leases (`shared`), the range is draining
/// for all of them.
#[derive(Debug, Args)]
pub struct Drain {
    /// The network's name in its configuration
    #[arg(value_name = "NETWORK")]
    network: String,
    /// A prefix, FIRST-LAST, or an address
    #[arg(value_name = "RANGE")]
    range: String,
    /// End the draining, so that addresses of the range can be leased again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    /// Wait until no lease remains in the range
    #[arg(long)]
    wait: bool,
}

/// The result of the command, for JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    network: &'a str,
    first: Text<Addr>,
    last: Text<Addr>,
    /// Whether the range is draining now.
    draining: bool,
    /// The number of leases in the range that were freed in the last hour, according to the history. Absent
    /// if the history has no events for the range.
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_last_hour: Option<usize>,
    /// The containers' leases in the range.
    leases: Vec<LeaseRow<'a>>,
}

impl Drain {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let span = reserve::span(&self.range)?;
        if !self.undo {
            open.check_network(Some(&self.network))?;
        }
        let set = reserve::set_of(&self.network, &[(&self.range, span)], !self.undo, &mut open)?;
        let drain = alloc::Drain { set: set.clone(), span, undo: self.undo };
        let changed = engine::drain(&mut *open.store, drain, &open.cx)?;
        let place = format!("{} of network {}", span.brief(), visible(&self.network));
        if self.undo && !changed {
            return Err(anyhow!(
                "{place} is not draining; run `sublet pools` to list draining ranges"
            ));
        }
        let mut left = remaining(&mut open, &set, span)?;
        if self.wait {
            self.wait(&mut open, &set, span, &mut left, call)?;
        }
        let freed = freed_last_hour(&mut open, &set, span)?;
        if call.as_json {
            let (first, last) = (Text(span.first), Text(span.last));
            let leases = left.iter().map(LeaseRow::new).collect();
            let (network, draining) = (&*self.network, !self.undo);
            let report = Report { network, first, last, draining, freed_last_hour: freed, leases };
            call.json(&report)?;
        } else if self.undo {
            writeln!(call.stdout, "{place} is no longer draining")?;
        } else if left.is_empty() {
            writeln!(call.stdout, "{place} is drained: no lease remains")?;
        } else {
            let (now, wide) = (open.cx.now, call.format == Format::Wide);
            let (screen, widths) = (&call.screen, &mut Vec::new());
            write!(call.stdout, "{}", tables::leases(&left, &[], now, wide, screen, widths))?;
            let freed = freed.map_or_else(String::new, |n| format!(", {n} freed in the last hour"));
            let remain = number_of(left.len(), "lease");
            writeln!(call.stdout, "{place} is draining: {remain} left{freed}")?;
        }
        if self.undo || left.is_empty() { Ok(()) } else { Err(ProblemsFound.into()) }
    }

    /// Waits until no lease remains, or until standard output has no reader. Each time the number of leases
    /// changes, prints it on standard error.
    fn wait(
        &self,
        open: &mut OpenStore,
        set: &SetName,
        span: Span,
        left: &mut Vec<Lease>,
        call: &mut Call<'_>,
    ) -> Result<()> {
        let (mut version, mut reported) = (None, 0);
        while !left.is_empty() {
            if left.len() != reported {
                reported = left.len();
                let remain = number_of(reported, "lease");
                writeln!(
                    call.stderr,
                    "waiting: {remain} left in {} of network {}",
                    self.range, self.network
                )?;
            }
            if !wait(INTERVAL)? {
                return Ok(());
            }
            open.cx.now = host::now();
            let now = open.store.version(&open.cx)?;
            if now.is_none() || now != version {
                version = now;
                *left = remaining(open, set, span)?;
            }
        }
        Ok(())
    }
}

/// Returns the leases of containers in a range.
fn remaining(open: &mut OpenStore, set: &SetName, span: Span) -> Result<Vec<Lease>> {
    let is_left =
        |lease: &Lease| lease.set == *set && span.contains(lease.addr) && lease.kind.collectable();
    open.leases(&is_left)
}

/// Returns how many containers' leases in a range were freed in the last hour; `None` if the history has no
/// events for the range.
fn freed_last_hour(open: &mut OpenStore, set: &SetName, span: Span) -> Result<Option<usize>> {
    let events = open.store.history(&open.cx, &mut |event| {
        event.set == *set && span.contains(event.addr) && event.kind.collectable()
    })?;
    let from = open.cx.now.saturating_sub(HOUR);
    let freed = events.iter().filter(|event| !event.what.gives() && event.time >= from).count();
    Ok((!events.is_empty()).then_some(freed))
}
