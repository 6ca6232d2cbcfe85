//! `sublet doctor`: finds and repairs problems in a store.
//!
//! The store finds and repairs damaged records. In addition, this command finds leases whose container is
//! gone, which the store cannot detect.
//! Invariant: without `--repair`, nothing changes. With `--repair`, a copy of the damaged file is kept.

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::astray::Astray;
use super::screen::{Progress, visible, wrapped};
use super::tables::{named, number_of};
use super::{Call, OpenStore};
use crate::alloc::NetworkRanges;
use crate::liveness;
use crate::model::{Kind, Lease, NetworkName};
use crate::rows::ProblemRow;
use crate::store::{Problem, Repair};
use crate::telemetry::usage::Usage;

/// Check the store for damage, stale leases and overlapping networks.
///
/// Exits with 0 if there is no problem, otherwise with 1. Changes nothing without --repair.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Rewrite a damaged lease file from its readable records. The damaged file is kept beside the new one.
    /// If the lease of an address cannot be read, the address is reserved, so it is never leased
    #[arg(long)]
    repair: bool,
    /// Repair without asking
    #[arg(long, short)]
    yes: bool,
}

impl Doctor {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let (mut problems, mut checked) = examine(&mut open)?;
        let mut repair = None;
        let repairable = problems.iter().filter(|p| p.repairable).count();
        if self.repair && repairable > 0 {
            if !call.as_json {
                print(&problems, true, call)?;
            }
            if !self.yes
                && !call.confirm(&format!("repair {}", number_of(repairable, "problem")))?
            {
                return Err(anyhow!("canceled; nothing was changed"));
            }
            let busy = Progress::new(None, "rewriting the lease file");
            let done = open.store.repair(&open.cx)?;
            drop(busy);
            (problems, checked) = examine(&mut open)?;
            if !call.as_json {
                for copy in &done.copies {
                    writeln!(call.stdout, "kept the damaged file as {}", copy.display())?;
                }
                for note in &done.notes {
                    writeln!(call.stdout, "{}", visible(note))?;
                }
                if !done.copies.is_empty() {
                    writeln!(call.stdout, "recovered {}", number_of(done.kept, "lease"))?;
                }
            }
            repair = Some(done);
        }
        if call.as_json {
            let rows: Vec<ProblemRow> = problems.iter().cloned().map(ProblemRow::new).collect();
            let mut report = json!({ "checked": checked, "problems": rows });
            if let Some(Repair { copies, kept, notes }) = repair {
                report["repair"] = json!({ "copies": copies, "leases": kept, "notes": notes });
            }
            call.json(&report)?;
        } else if problems.is_empty() {
            let Checked { leases, ranges } = checked;
            writeln!(
                call.stdout,
                "no problems found in {}: checked all records ({}, {}) and the network namespaces of this \
                 host",
                open.place,
                number_of(leases, "lease"),
                number_of(ranges, "range")
            )?;
        } else {
            print(&problems, false, call)?;
        }
        match problems.len() {
            0 => Ok(()),
            1 => Err(anyhow!("1 problem in {}", open.place)),
            n => Err(anyhow!("{n} problems in {}", open.place)),
        }
    }
}

/// The number of records that were examined.
#[derive(Clone, Copy, Default, Serialize)]
struct Checked {
    leases: usize,
    ranges: usize,
}

/// The usage at which a range is reported as nearly full, in percent.
const NEARLY_FULL: u128 = 80;

fn examine(open: &mut OpenStore) -> Result<(Vec<Problem>, Checked)> {
    let busy = Progress::new(None, "examining the store");
    let mut problems = Vec::new();
    liveness::problems(&mut *open.store, &open.cx, &mut |problem, _| problems.push(problem))?;
    drop(busy);
    if problems.iter().any(|problem| problem.damage) {
        // The leases of a damaged store may not be readable, so they are not counted.
        return Ok((problems, Checked::default()));
    }
    let usage = open.usage(None)?;
    problems.extend(usage.iter().filter_map(nearly_full));
    let (moved, leases) = moved_away(open)?;
    problems.extend(moved);
    Ok((problems, Checked { leases, ranges: usage.len() }))
}

/// Returns a problem for each network that has leases outside the ranges of its last ADD. Also returns the
/// total number of leases, not counting reservations.
fn moved_away(open: &mut OpenStore) -> Result<(Vec<Problem>, usize)> {
    // Skip the network of ECS tasks. Each task has its own configuration, with or without IPv6, so the last
    // ADD does not describe the ranges of the other tasks.
    let is_ecs = |ranges: &NetworkRanges| ranges.network == NetworkName::ecs();
    let networks = open.store.networks(&open.cx)?.into_iter().filter(|ranges| !is_ecs(ranges));
    let mut astray = Astray::new(networks.map(|n| (n.set, n.network.to_string(), n.bounds)));
    let mut all = 0;
    open.store.list(&open.cx, &mut |lease| {
        all += usize::from(lease.kind != Kind::Reserved);
        astray.take(&lease);
    })?;
    let problem = |(network, leases, first): (&str, usize, &Lease)| {
        Problem {
        place: format!("network {network}"),
        what: format!(
            "{} outside the ranges of the network's last ADD, for example {}",
            number_of(leases, "lease"),
            named(first, "")
        ),
        advice:
            "if the ranges were moved on purpose, delete and recreate the containers with these leases; \
             otherwise correct the configuration"
                .to_owned(),
        repairable: false,
        damage: false,
        }
    };
    Ok((astray.found().map(problem).collect(), all))
}

fn nearly_full(usage: &Usage) -> Option<Problem> {
    let taken = usage.size.saturating_sub(usage.free);
    let percent = taken.checked_mul(100)?.checked_div(usage.size)?;
    let (network, range) = (&usage.extent.network, usage.extent.range.brief());
    let what = match usage.free {
        0 => format!("all addresses ({}) are in use, reserved or cooling down", usage.size),
        free => format!("{percent} % in use ({free} free)"),
    };
    (percent >= NEARLY_FULL).then(|| Problem {
        place: format!("range {range} of network {network}"),
        what,
        advice: "enlarge the range, or look for stale leases with `sublet gc --dry-run`".to_owned(),
        repairable: false,
        damage: false,
    })
}

/// Prints the problems, each with advice, except for the problems that this run repairs.
fn print(problems: &[Problem], repairs: bool, call: &mut Call<'_>) -> Result<()> {
    for Problem { place, what, advice, repairable, .. } in problems {
        let mut text = format!("{}: {}", visible(place), visible(what));
        if !(repairs && *repairable) {
            text = format!("{text}; {}", visible(advice));
        }
        writeln!(call.stdout, "{}", wrapped(&text, call.screen.width))?;
    }
    Ok(())
}
