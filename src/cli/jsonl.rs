//! `sublet export jsonl` and `sublet import jsonl`: convert a store to text and back.
//!
//! This module reads and writes lines. [`crate::migrate::jsonl`] defines the content of a line.
//! Invariant: an import from a file reads the file twice, once to check the records and once to write them.
//! An import from standard input writes the records as it reads them. The whole text is never in memory.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::json;

use super::copy::How;
use super::tables::number_of;
use super::{Call, OpenStore, write_file};
use crate::migrate::copy::Copier;
use crate::migrate::jsonl;
use crate::sys::files;

/// The maximum length of a line, in bytes. The longest lines describe pools that many nodes use.
const LONGEST: u64 = 16 << 20;

#[derive(Debug, Args)]
pub struct Export {
    /// The file to write [default: standard output]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Export {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let Some(path) = &self.file else {
            let mut out = BufWriter::new(&mut *call.stdout);
            write(&mut open, &mut out)?;
            return Ok(out.flush()?);
        };
        let count = write_file(path, files::create, |out| write(&mut open, out))?;
        if call.as_json {
            return call.json(&json!({"file": path, "records": count}));
        }
        Ok(writeln!(call.stdout, "wrote {} to {}", number_of(count, "record"), path.display())?)
    }
}

/// Writes all records of a store, and returns their number.
fn write(open: &mut OpenStore, out: &mut dyn Write) -> Result<usize> {
    writeln!(out, "{}", jsonl::head())?;
    let (mut count, mut failed) = (0, Ok(()));
    open.store.records(&open.cx, &mut |record, persist| {
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
    /// The file to read [default: standard input]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    how: How,
}

impl Import {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open_or_create()?;
        let moved = if let Some(path) = &self.file {
            let name = path.display().to_string();
            open.restore(self.how.dry_run, call, |copier| {
                let file = File::open(path).with_context(|| format!("cannot read {name}"))?;
                self.push(&name, &mut BufReader::new(file), copier)
            })?
        } else {
            open.pass(self.how.dry_run, call, |copier| {
                self.push("standard input", &mut io::stdin().lock(), copier)
            })?
        };
        if call.as_json {
            return call.json(&json!({"dryRun": self.how.dry_run, "records": moved}));
        }
        let verb = if self.how.dry_run { "would import" } else { "imported" };
        Ok(writeln!(call.stdout, "{verb} {} into {}", number_of(moved, "record"), open.place)?)
    }

    /// Passes the record in each line to `copier`.
    fn push(&self, name: &str, input: &mut dyn BufRead, copier: &mut Copier<'_>) -> Result<()> {
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
                format!("cannot import {name}, at or before line {number}: correct the file, then import the whole file again")
            })?;
        }
        if number == 0 {
            bail!("{name} is empty; pass a file that `sublet export jsonl` wrote");
        }
        Ok(())
    }
}

/// Returns the next line without its newline; `None` at the end of the input.
fn next(input: &mut dyn BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    io::Read::take(&mut *input, LONGEST).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        return Err(bad("the last line is incomplete: the file was truncated"));
    }
    String::from_utf8(line).map(Some).map_err(|_| bad("a line is not valid UTF-8"))
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
