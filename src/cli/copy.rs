//! `sublet copy`: copies the records of one store to another store, and compares the two stores.
//!
//! Invariant: if an address has a different holder at the destination, nothing is written. The source never
//! changes. The command succeeds only if both stores agree at the end.

use std::ffi::OsString;

use anyhow::{Result, anyhow};
use clap::Args;
use serde_json::json;

use super::screen::visible;
use super::tables::number_of;
use super::{Call, OpenStore, misuse};
use crate::migrate::copy;
use crate::migrate::copy::{Comparison, Copier};
use crate::model::Persist;

/// Copy a store: leases, pools, reservations, rotation
///
/// Do not start or stop containers during the copy, on any node of either store. If the copy was interrupted,
/// run it again. The source stays unchanged.
#[derive(Debug, Args)]
pub struct Copy {
    /// The source store, in the form of --store
    #[arg(long, value_name = "PATH|JSON")]
    from: OsString,
    /// The destination store
    #[arg(long, value_name = "PATH|JSON")]
    to: OsString,
    #[command(flatten)]
    how: How,
}

/// The options that `sublet copy` and imports have in common.
#[derive(Debug, Args)]
pub struct How {
    /// Lifetime of the copied leases in a lease file: the `persist` of the networks' configurations [default:
    /// as in the source store; boot for another program's leases]
    #[arg(long, value_name = "boot|disk", value_parser = persist)]
    pub persist: Option<Persist>,
    /// Print what would be done without doing it
    #[arg(long)]
    pub dry_run: bool,
}

/// Parses `boot` or `disk` on the command line.
pub fn persist(text: &str) -> Result<Persist, String> {
    match text {
        "boot" => Ok(Persist::Boot),
        "disk" => Ok(Persist::Disk),
        _ => Err("use `boot` or `disk`".to_owned()),
    }
}

/// The maximum number of entries to print from each list.
const SHOWN: usize = 20;

impl Copy {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        if call.args.store.is_some() {
            return Err(misuse("`sublet copy` takes `--from` and `--to` instead of `--store`"));
        }
        if self.from == self.to {
            return Err(misuse(
                "`--from` and `--to` name the same store; name two different stores",
            ));
        }
        let mut from = call.open_named(&self.from, "--from")?;
        if !from.exists()? {
            return Err(from.missing());
        }
        let mut to = call.open_named(&self.to, "--to")?;
        let moved = to.restore(self.how.dry_run, call, |copier| {
            let mut each =
                |record, persist| copier.push(record, self.how.persist.unwrap_or(persist));
            Ok(from.store.records(&from.cx, &mut each)?)
        })?;
        if self.how.dry_run && call.as_json {
            return call.json(&json!({"dryRun": true, "records": moved}));
        }
        if self.how.dry_run {
            return Ok(writeln!(call.stdout, "would copy {}", number_of(moved, "record"))?);
        }
        let Comparison { same, missing, different, more, left_out } =
            copy::compare(&mut *from.store, &mut *to.store, self.how.persist, &from.cx)?;
        if call.as_json {
            call.json(&json!({
                "dryRun": false, "same": same, "before": more, "missing": missing,
                "different": different, "leftOut": left_out,
            }))?;
        } else {
            writeln!(call.stdout, "{}, identical in both stores", number_of(same, "record"))?;
            if more > 0 {
                writeln!(call.stdout, "  already present: {more}")?;
            }
        }
        for name in left_out {
            writeln!(
                call.stderr,
                "left out: {}: a lease file cannot contain a record of this kind",
                visible(&name)
            )?;
        }
        for (names, word) in [(&missing, "missing"), (&different, "different")] {
            for name in names.iter().take(SHOWN) {
                writeln!(call.stderr, "{word}: {}", visible(name))?;
            }
        }
        match missing.len() + different.len() {
            0 => Ok(()),
            n => Err(anyhow!(
                "{} missing or different, because a store changed during the copy; run the copy again",
                number_of(n, "record")
            )),
        }
    }
}

impl OpenStore {
    /// Calls `push` twice: first to check whether its records can be written, and then to write them. In a
    /// dry run, only checks the records. Returns the number of records in the first pass.
    pub(super) fn restore(
        &mut self,
        dry_run: bool,
        call: &mut Call<'_>,
        mut push: impl FnMut(&mut Copier<'_>) -> Result<()>,
    ) -> Result<usize> {
        let moved = self.pass(true, call, &mut push)?;
        if !dry_run {
            self.pass(false, call, &mut push)?;
        }
        Ok(moved)
    }

    /// Writes the records that `push` supplies (in a dry run, only checks them), and returns their number. If
    /// an address has a different holder, prints the conflicts and fails.
    pub(super) fn pass(
        &mut self,
        dry_run: bool,
        call: &mut Call<'_>,
        push: impl FnOnce(&mut Copier<'_>) -> Result<()>,
    ) -> Result<usize> {
        let mut copier = Copier::new(&mut *self.store, &self.cx, dry_run);
        push(&mut copier)?;
        copier.flush()?;
        for clash in copier.clashes.iter().take(SHOWN) {
            writeln!(call.stderr, "{}", visible(&clash.to_string()))?;
        }
        match copier.clashes.len() {
            0 => Ok(copier.copied),
            n => Err(anyhow!(
                "cannot write {}, because conflicting records already exist in the store; nothing was written",
                number_of(n, "record")
            )),
        }
    }
}
