//! `sublet export jsonl`, `sublet import jsonl`: a store as text.
//!
//! Owns: reading and writing line by line, and where a mistake is. Does not own: a line's form
//! (`lines`).
//! Invariant: a file is read whole before anything is written; only a few lines are in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::json;

use super::copy::{How, tell_clashes};
use super::{Desk, Terminal};
use crate::migrate::copy::Copier;
use crate::migrate::jsonl;
use crate::sys::files;

/// Longest line: a pool that many nodes use.
const LONGEST: u64 = 16 << 20;

#[derive(Debug, Args)]
pub struct Export {
    /// Where to; without one to standard output
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The report on FILE as JSON; without one there is nothing but JSON
    #[arg(long)]
    json: bool,
}

impl Export {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let Some(path) = &self.file else {
            let mut out = BufWriter::new(&mut *terminal.stdout);
            write(desk, &mut out)?;
            return Ok(out.flush()?);
        };
        // Whole under its name, or not there.
        let mut next = path.clone().into_os_string();
        next.push(".new");
        let next = PathBuf::from(next);
        let done = files::create(&next).map_err(Into::into).and_then(|file| {
            let mut out = BufWriter::new(file);
            let count = write(desk, &mut out)?;
            out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            std::fs::rename(&next, path)?;
            Ok::<usize, anyhow::Error>(count)
        });
        if done.is_err() {
            let _ = std::fs::remove_file(&next);
        }
        let count = done.with_context(|| format!("cannot write {}", path.display()))?;
        if self.json {
            writeln!(terminal.stdout, "{:#}", json!({"file": path, "records": count}))?;
        } else {
            writeln!(terminal.stdout, "{count} records are in {}", path.display())?;
        }
        Ok(terminal.stdout.flush()?)
    }
}

/// Writes all of a store; answers how many records.
fn write(desk: &mut Desk, out: &mut dyn Write) -> Result<usize> {
    writeln!(out, "{}", jsonl::head())?;
    let (mut count, mut failed) = (0, Ok(()));
    desk.store.records(&desk.cx, &mut |record, persist| {
        if failed.is_ok() {
            failed = writeln!(out, "{}", jsonl::write(&record, persist));
            count += 1;
        }
        Ok(())
    })?;
    failed?;
    Ok(count)
}

#[derive(Debug, Args)]
pub struct Import {
    /// What `sublet export jsonl` wrote; without one it is read from standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

impl Import {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let moved = if let Some(path) = &self.file {
            let open = |path: &Path| -> Result<BufReader<File>> {
                let file = File::open(path);
                Ok(BufReader::new(file.with_context(|| format!("cannot read {}", path.display()))?))
            };
            let name = path.display().to_string();
            let moved = self.pass(true, &name, &mut open(path)?, desk, terminal)?;
            if !self.how.dry_run {
                self.pass(false, &name, &mut open(path)?, desk, terminal)?;
            }
            moved
        } else {
            let mut input = io::stdin().lock();
            self.pass(self.how.dry_run, "standard input", &mut input, desk, terminal)?
        };
        if self.how.json {
            let report = json!({"dryRun": self.how.dry_run, "records": moved});
            writeln!(terminal.stdout, "{report:#}")?;
            return Ok(terminal.stdout.flush()?);
        }
        let verb = if self.how.dry_run { "would be" } else { "are" };
        writeln!(terminal.stdout, "{moved} records {verb} in {}", desk.place)?;
        Ok(terminal.stdout.flush()?)
    }

    /// Once over all lines.
    fn pass(
        &self,
        dry_run: bool,
        name: &str,
        input: &mut dyn BufRead,
        desk: &mut Desk,
        terminal: &mut Terminal<'_>,
    ) -> Result<usize> {
        let cx = desk.cx.clone();
        let mut copier = Copier::new(&mut *desk.store, &cx, dry_run);
        let mut number = 0_usize;
        while let Some(line) = next(input).with_context(|| format!("cannot read {name}"))? {
            number += 1;
            let place = || format!("{name}, line {number}");
            if number == 1 {
                jsonl::read_head(&line).map_err(|e| anyhow!(e)).with_context(place)?;
                continue;
            }
            let (record, persist) =
                jsonl::read(&line).map_err(|e| anyhow!(e)).with_context(place)?;
            copier.push(record, self.how.persist.unwrap_or(persist)).with_context(|| {
                format!("{name}, up to line {number}: mend it and import all of it again")
            })?;
        }
        if number == 0 {
            bail!("{name} is empty");
        }
        copier.flush()?;
        tell_clashes(&copier.clashes, terminal)?;
        Ok(copier.copied)
    }
}

/// The next line without its end; `None` at the end.
fn next(input: &mut dyn BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    io::Read::take(&mut *input, LONGEST).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        return Err(bad("it ends in the midst of a line: it was cut off"));
    }
    String::from_utf8(line).map(Some).map_err(|_| bad("a line is not UTF-8"))
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
