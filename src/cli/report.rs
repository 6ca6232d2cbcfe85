//! Prints the result of an import, as text and as JSON.
//!
//! Invariant: text and JSON have the same content. Each entry that is not imported is reported with the
//! reason.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;
use serde_with::skip_serializing_none;

use super::Call;
use super::screen::visible;
use super::tables::number_of;
use crate::alloc::Imported;
use crate::net::Addr;
use crate::rows::Text;

/// The result of importing one source (a file, or the folder of a network).
#[skip_serializing_none]
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    source: PathBuf,
    store: PathBuf,
    dry_run: bool,
    taken: Vec<Text<Addr>>,
    present: Vec<Text<Addr>>,
    /// The entries of the source that are invalid, each with the reason.
    pub skipped: Vec<Skipped>,
    /// The last allocated addresses. Round robin continues after them.
    #[serde(rename = "last")]
    pub cursors: Vec<Text<Addr>>,
    /// Whether the source had already been imported before this run.
    pub before: bool,
    /// The path under which the original is kept.
    #[serde(rename = "keptAs")]
    pub kept: Option<PathBuf>,
}

/// An entry that was not imported because it is invalid.
#[derive(Serialize)]
pub struct Skipped {
    /// The entry that is invalid.
    pub what: String,
    /// The reason why it is invalid.
    pub why: String,
}

impl Report {
    /// Makes the report for an import that has not been run yet.
    pub fn new(source: &Path, store: &Path, dry_run: bool) -> Report {
        Report { source: source.into(), store: store.into(), dry_run, ..Report::default() }
    }

    /// Adds the result of the import.
    pub fn done(&mut self, imported: Imported) {
        let texts = |addrs: Vec<Addr>| addrs.into_iter().map(Text).collect();
        match imported {
            Imported::Done { taken, present } => {
                (self.taken, self.present) = (texts(taken), texts(present));
            }
            Imported::Before => self.before = true,
        }
    }

    /// Prints the report as text.
    pub fn print(&self, call: &mut Call<'_>) -> Result<()> {
        let out = &mut *call.stdout;
        let (source, store) = (self.source.display(), self.store.display());
        if self.before {
            return Ok(writeln!(out, "{source}: already imported; nothing was changed")?);
        }
        let verb = if self.dry_run { "would be imported" } else { "imported" };
        writeln!(out, "{source}: {} {verb} into {store}", number_of(self.taken.len(), "address"))?;
        if !self.present.is_empty() {
            writeln!(out, "  already present: {}", self.present.len())?;
        }
        for addr in &self.cursors {
            writeln!(out, "  round robin continues after {}", addr.0)?;
        }
        for Skipped { what, why } in &self.skipped {
            writeln!(out, "  {}: {}", visible(what), visible(why))?;
        }
        if let Some(kept) = &self.kept {
            let verb = if self.dry_run { "would be kept" } else { "is kept" };
            writeln!(out, "  the original {verb} as {}", kept.display())?;
        }
        Ok(())
    }
}
