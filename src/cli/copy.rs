//! `sublet copy`: a store moves.
//!
//! Owns: the order (look, write, compare) and the report. Does not own: what a record does to the one
//! that is there already.
//! Invariant: nothing is written where an address has another holder; the store that is copied from is
//! never changed; it is a success only if both agree at the end.

use std::ffi::OsString;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use super::output::visible;
use super::{Desk, Place, Terminal, World, misuse};
use crate::error::Refusal;
use crate::migrate::copy;
use crate::migrate::copy::{Comparison, Copier};
use crate::model::Persist;

/// Move everything into another store: leases, pools, reservations, rotation, pods' addresses
///
/// Start and end no container meanwhile, on no node of either store. Stopped midway it is simply
/// repeated. The store that is copied from stays as it is.
#[derive(Debug, Args)]
pub struct Copy {
    /// The store to be copied: as --store
    #[arg(long, value_name = "PATH|JSON")]
    from: OsString,
    /// Where to
    #[arg(long, value_name = "PATH|JSON")]
    to: OsString,
    #[command(flatten)]
    how: How,
}

/// What `import jsonl` takes too.
#[derive(Debug, Args)]
pub struct How {
    /// How long leases of a network live in a lease file: what the networks' configurations say as
    /// `persist` [default: as they did]
    #[arg(long, value_name = "boot|disk", value_parser = persist)]
    pub persist: Option<Persist>,
    /// Only tell what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// The report as JSON
    #[arg(long)]
    pub json: bool,
}

fn persist(text: &str) -> Result<Persist, String> {
    match text {
        "boot" => Ok(Persist::Boot),
        "disk" => Ok(Persist::Disk),
        _ => Err("say boot or disk".to_owned()),
    }
}

/// How many of a long list are shown.
const SHOWN: usize = 20;

impl Copy {
    pub(super) fn run(
        &self,
        place: &Place,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        if place.store.is_some() {
            return Err(misuse("copy takes two stores, --from and --to, and no --store"));
        }
        if self.from == self.to {
            return Err(misuse("--from and --to are the same store"));
        }
        let mut from = Desk::on(&self.from, "--from", world, terminal)?;
        let mut to = Desk::on(&self.to, "--to", world, terminal)?;
        let moved = self.pass(true, &mut from, &mut to, terminal)?;
        if self.how.dry_run {
            if self.how.json {
                writeln!(terminal.stdout, "{:#}", json!({"dryRun": true, "records": moved}))?;
            } else {
                writeln!(terminal.stdout, "{moved} records would be copied")?;
            }
            return Ok(terminal.stdout.flush()?);
        }
        self.pass(false, &mut from, &mut to, terminal)?;
        let comparison =
            copy::compare(&mut *from.store, &mut *to.store, self.how.persist, &from.cx)?;
        report(&comparison, self.how.json, terminal)
    }

    /// Once over all records; an error if something stands in the way.
    fn pass(
        &self,
        dry_run: bool,
        from: &mut Desk,
        to: &mut Desk,
        terminal: &mut Terminal<'_>,
    ) -> Result<usize> {
        let cx = to.cx.clone();
        let mut copier = Copier::new(&mut *to.store, &cx, dry_run);
        from.store.records(&from.cx, &mut |record, persist| {
            copier.push(record, self.how.persist.unwrap_or(persist))
        })?;
        copier.flush()?;
        tell_clashes(&copier.clashes, terminal)?;
        Ok(copier.copied)
    }
}

/// Names what stands in the way, and fails if anything does.
pub fn tell_clashes(clashes: &[Refusal], terminal: &mut Terminal<'_>) -> Result<()> {
    for clash in clashes.iter().take(SHOWN) {
        writeln!(terminal.stderr, "{}", visible(&clash.to_string()))?;
    }
    match clashes.len() {
        0 => Ok(()),
        n => Err(anyhow!("{n} records have another in their place; nothing was written")),
    }
}

fn report(comparison: &Comparison, json: bool, terminal: &mut Terminal<'_>) -> Result<()> {
    let Comparison { same, missing, different, more, left_out } = comparison;
    if json {
        let report = json!({
            "dryRun": false, "same": same, "before": more, "missing": missing,
            "different": different, "leftOut": left_out,
        });
        writeln!(terminal.stdout, "{report:#}")?;
    } else {
        writeln!(terminal.stdout, "{same} records are the same in both")?;
        if *more > 0 {
            writeln!(terminal.stdout, "  {more} were there before")?;
        }
    }
    terminal.stdout.flush()?;
    for name in left_out {
        writeln!(terminal.stderr, "left out: {}: a lease file keeps none", visible(name))?;
    }
    for (names, word) in [(missing, "missing"), (different, "different")] {
        for name in names.iter().take(SHOWN) {
            writeln!(terminal.stderr, "{word}: {}", visible(name))?;
        }
    }
    match missing.len() + different.len() {
        0 => Ok(()),
        n => Err(anyhow!("{n} records differ: something changed meanwhile; copy again")),
    }
}
