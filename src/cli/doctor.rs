//! `sublet doctor`: what is wrong with a store, and mending it.
//!
//! Owns: the order of looking, mending and looking again, and the report; and leases whose container
//! is gone, which the store cannot see. Does not own: what is wrong with a file or a cluster (`store`).
//! Invariant: without --repair nothing is changed; with it the damaged file is kept.

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use super::output;
use super::output::visible;
use super::screen::Progress;
use super::{Desk, Terminal, confirm};
use crate::liveness;
use crate::model::Lease;
use crate::rows::ProblemRow;
use crate::store::{Problem, Repair};
use crate::sys::host::Facts;

/// Look for damage, leases of containers that are gone, networks that overlap, and more.
///
/// Exits with 0 if all is well, with 1 if something is not. It changes nothing without --repair.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Write a damaged lease file anew from what can be read of it. The damaged one is kept beside it;
    /// an address whose lease cannot be read is reserved, never given
    #[arg(long)]
    repair: bool,
    /// The findings as JSON
    #[arg(long)]
    json: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Doctor {
    pub(super) fn run(
        &self,
        desk: &mut Desk,
        facts: &Facts,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        let mut problems = examine(desk, facts)?;
        let mut repair = None;
        let mendable = problems.iter().filter(|p| p.mendable).count();
        if self.repair && mendable > 0 {
            if !self.json {
                problems.iter().try_for_each(|p| tell(p, terminal))?;
                terminal.stdout.flush()?;
            }
            if !self.yes && !confirm(terminal, &format!("mend {mendable} of these"))? {
                return Err(anyhow!("nothing was changed"));
            }
            let busy = Progress::busy("writing the lease file anew");
            let done = desk.store.repair(&desk.cx)?;
            drop(busy);
            problems = examine(desk, facts)?;
            if !self.json {
                report(&done, terminal)?;
            }
            repair = Some(done);
        }
        if self.json {
            let rows: Vec<ProblemRow> = problems.iter().cloned().map(ProblemRow::new).collect();
            let mut report = json!({ "problems": rows });
            if let Some(Repair { copies, kept, notes }) = repair {
                report["repair"] = json!({ "copies": copies, "leases": kept, "notes": notes });
            }
            output::json(terminal.stdout, &report)?;
        } else {
            problems.iter().try_for_each(|p| tell(p, terminal))?;
            if problems.is_empty() {
                writeln!(terminal.stdout, "{}: nothing is wrong", desk.place)?;
            }
        }
        terminal.stdout.flush()?;
        match problems.len() {
            0 => Ok(()),
            1 => Err(anyhow!("1 problem in {}", desk.place)),
            n => Err(anyhow!("{n} problems in {}", desk.place)),
        }
    }
}

fn examine(desk: &mut Desk, facts: &Facts) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let busy = Progress::busy("looking at the store");
    desk.store.problems(&desk.cx, &mut |problem| problems.push(problem))?;
    drop(busy);
    // A damaged store does not tell its leases.
    if !problems.iter().any(|p| p.mendable) {
        let leases = desk.leases(&|lease: &Lease| lease.kind.collectable())?;
        problems.extend(liveness::problems(&leases, &facts.context()));
    }
    Ok(problems)
}

fn tell(problem: &Problem, terminal: &mut Terminal<'_>) -> Result<()> {
    let Problem { place, what, advice, .. } = problem;
    let (place, what) = (visible(place), visible(what));
    Ok(writeln!(terminal.stdout, "{place}: {what}; {}", visible(advice))?)
}

fn report(repair: &Repair, terminal: &mut Terminal<'_>) -> Result<()> {
    for copy in &repair.copies {
        writeln!(terminal.stdout, "kept the damaged file as {}", copy.display())?;
    }
    for note in &repair.notes {
        writeln!(terminal.stdout, "{}", visible(note))?;
    }
    if !repair.copies.is_empty() {
        writeln!(terminal.stdout, "{} leases were read", repair.kept)?;
    }
    Ok(())
}
