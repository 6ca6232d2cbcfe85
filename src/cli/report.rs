//! What an import did, for a person and for a program.
//!
//! Invariant: both forms tell the same; what was left out is told with its reason.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::{Value, json};

use super::Terminal;
use super::output::visible;
use crate::alloc::Imported;
use crate::net::Addr;

/// What came of one source.
pub struct Report {
    source: PathBuf,
    store: PathBuf,
    dry_run: bool,
    taken: Vec<Addr>,
    present: Vec<Addr>,
    /// What was not understood, and why.
    pub skipped: Vec<(String, String)>,
    /// The addresses given last.
    pub cursors: Vec<Addr>,
    /// It was done at another time.
    pub before: bool,
    /// What the source is called now.
    pub kept: Option<PathBuf>,
}

impl Report {
    /// Nothing was done yet.
    pub fn new(source: &Path, store: &Path, dry_run: bool) -> Report {
        Report {
            source: source.to_owned(),
            store: store.to_owned(),
            dry_run,
            taken: Vec::new(),
            present: Vec::new(),
            skipped: Vec::new(),
            cursors: Vec::new(),
            before: false,
            kept: None,
        }
    }

    /// The import was carried out.
    pub fn done(&mut self, imported: Imported) {
        match imported {
            Imported::Done { taken, present } => (self.taken, self.present) = (taken, present),
            Imported::Before => self.before = true,
        }
    }

    /// For a program.
    pub fn json(&self) -> Value {
        let texts = |addrs: &[Addr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        let skipped = self.skipped.iter().map(|(what, why)| json!({"what": what, "why": why}));
        json!({
            "source": self.source,
            "store": self.store,
            "dryRun": self.dry_run,
            "before": self.before,
            "taken": texts(&self.taken),
            "present": texts(&self.present),
            "skipped": skipped.collect::<Vec<_>>(),
            "last": texts(&self.cursors),
            "keptAs": self.kept,
        })
    }

    /// Writes it.
    pub fn write(&self, terminal: &mut Terminal<'_>, json: bool) -> Result<()> {
        if json {
            writeln!(terminal.stdout, "{:#}", self.json())?;
        } else {
            self.tell(terminal)?;
        }
        Ok(terminal.stdout.flush()?)
    }

    fn tell(&self, terminal: &mut Terminal<'_>) -> Result<()> {
        let out = &mut *terminal.stdout;
        let (source, store) = (self.source.display(), self.store.display());
        if self.before {
            writeln!(out, "{source}: taken over before; nothing was done")?;
            return Ok(());
        }
        let verb = if self.dry_run { "would be taken over" } else { "taken over" };
        writeln!(out, "{source}: {} addresses {verb} into {store}", self.taken.len())?;
        if !self.present.is_empty() {
            writeln!(out, "  {} were there already", self.present.len())?;
        }
        for addr in &self.cursors {
            writeln!(out, "  the rotation goes on behind {addr}")?;
        }
        for (what, why) in &self.skipped {
            writeln!(out, "  {}: {}", visible(what), visible(why))?;
        }
        if let Some(kept) = &self.kept {
            let verb = if self.dry_run { "would be kept" } else { "is kept" };
            writeln!(out, "  the original {verb} as {}", kept.display())?;
        }
        Ok(())
    }
}
