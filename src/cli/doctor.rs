//! `sublet doctor`: finds and repairs what is wrong with a store.
//!
//! The store examines and repairs itself; this adds the leases whose container is gone, which the store
//! cannot see.
//! Invariant: without `--repair` nothing changes; with it a copy of the damaged file stays.

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use super::screen::{Progress, visible};
use super::{Call, OpenStore};
use crate::liveness;
use crate::rows::ProblemRow;
use crate::store::{Problem, Repair};

/// Look for damage, leases of containers that are gone, networks that overlap, and more.
///
/// Exits with 0 if all is well, with 1 if something is not. It changes nothing without --repair.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Write a damaged lease file anew from what can be read of it. The damaged one is kept beside it;
    /// an address whose lease cannot be read is reserved, never given
    #[arg(long)]
    repair: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Doctor {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let mut problems = examine(&mut open)?;
        let mut repair = None;
        let repairable = problems.iter().filter(|p| p.mendable).count();
        if self.repair && repairable > 0 {
            if !call.as_json {
                print(&problems, call)?;
            }
            if !self.yes && !call.confirm(&format!("repair {repairable} of these"))? {
                return Err(anyhow!("nothing was changed"));
            }
            let busy = Progress::new(None, "writing the lease file anew");
            let done = open.store.repair(&open.cx)?;
            drop(busy);
            problems = examine(&mut open)?;
            if !call.as_json {
                for copy in &done.copies {
                    writeln!(call.stdout, "kept the damaged file as {}", copy.display())?;
                }
                for note in &done.notes {
                    writeln!(call.stdout, "{}", visible(note))?;
                }
                if !done.copies.is_empty() {
                    writeln!(call.stdout, "{} leases were read", done.kept)?;
                }
            }
            repair = Some(done);
        }
        if call.as_json {
            let rows: Vec<ProblemRow> = problems.iter().cloned().map(ProblemRow::new).collect();
            let mut report = json!({ "problems": rows });
            if let Some(Repair { copies, kept, notes }) = repair {
                report["repair"] = json!({ "copies": copies, "leases": kept, "notes": notes });
            }
            call.json(&report)?;
        } else if problems.is_empty() {
            writeln!(call.stdout, "{}: nothing is wrong", open.place)?;
        } else {
            print(&problems, call)?;
        }
        match problems.len() {
            0 => Ok(()),
            1 => Err(anyhow!("1 problem in {}", open.place)),
            n => Err(anyhow!("{n} problems in {}", open.place)),
        }
    }
}

fn examine(open: &mut OpenStore) -> Result<Vec<Problem>> {
    let _busy = Progress::new(None, "looking at the store");
    Ok(liveness::problems(&mut *open.store, &open.cx)?)
}

fn print(problems: &[Problem], call: &mut Call<'_>) -> Result<()> {
    for Problem { place, what, advice, .. } in problems {
        let (place, what, advice) = (visible(place), visible(what), visible(advice));
        writeln!(call.stdout, "{place}: {what}; {advice}")?;
    }
    Ok(())
}
