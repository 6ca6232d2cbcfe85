//! `sublet check`: what a configuration would do, before a container finds out.
//!
//! Owns: which files are looked at, what overlaps what, the report. Does not own: what is wrong in a
//! file (`config::inspect`).
//! Invariant: nothing is leased, written or made.

mod shape;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use super::output::visible;
use super::screen::Tone;
use super::table::{self, Cell, Column, number, whole};
use super::{Found, Place, Terminal};
use crate::config::inspect::{self, Finding, Inspection};
use crate::config::{Config, Position};
use crate::net::{Range, RangeSet, Span};
use shape::{Checked, Overlap};

/// Look at network configurations without leasing anything.
///
/// Tells each error with its line and column, the ranges that would result, and what overlaps what.
#[derive(Debug, Args)]
pub struct Check {
    /// A network configuration or a list of plugins; a folder of them; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

/// What a runtime reads in a folder of configurations.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// One file, as it was named, and what is in it.
struct File {
    name: String,
    found: Inspection,
}

/// One network's ranges, from wherever they are known.
struct Claim<'a> {
    /// Who says so.
    place: String,
    network: &'a str,
    set: &'a str,
    bounds: Span,
}

impl Check {
    pub(super) fn run(&self, place: &Place, terminal: &mut Terminal<'_>) -> Result<()> {
        let _ = place;
        let files = self.read()?;
        let overlaps = overlaps(&claims(&files));
        let all = || files.iter().flat_map(|f| &f.found.findings);
        let errors = all().filter(|f| f.error).count();
        let warnings = all().count() - errors + overlaps.len();
        if self.json {
            let checked = Checked::new(&files, &overlaps, errors, warnings);
            checked.write(terminal.stdout)?;
        } else {
            for (i, file) in files.iter().enumerate() {
                if i > 0 {
                    writeln!(terminal.stdout)?;
                }
                tell(file, terminal)?;
            }
            let word = terminal.screen.paint(Tone::Odd, "warning:");
            for overlap in &overlaps {
                writeln!(terminal.stdout, "{word} {overlap}")?;
            }
            let ending = |n| if n == 1 { "" } else { "s" };
            writeln!(
                terminal.stderr,
                "{errors} error{}, {warnings} warning{}",
                ending(errors),
                ending(warnings)
            )?;
        }
        terminal.stdout.flush()?;
        if errors > 0 { Err(Found.into()) } else { Ok(()) }
    }

    fn read(&self) -> Result<Vec<File>> {
        let mut files = Vec::new();
        for path in &self.files {
            let shown = || path.display().to_string();
            if path.as_os_str() == "-" {
                // One more than is looked at, so that what is too long is told as that.
                let mut bytes = Vec::new();
                io::stdin()
                    .take((16 << 20) + 1)
                    .read_to_end(&mut bytes)
                    .context("standard input")?;
                files.push(File { name: shown(), found: inspect::bytes_of(&bytes) });
            } else if path.is_dir() {
                let names = folder(path).with_context(shown)?;
                if names.is_empty() {
                    return Err(anyhow!("{}: no *.conf, *.conflist or *.json in it", shown()));
                }
                for path in names {
                    files.push(one(&path)?);
                }
            } else {
                files.push(one(path)?);
            }
        }
        Ok(files)
    }
}

fn one(path: &Path) -> Result<File> {
    let name = path.display().to_string();
    let found = inspect::file(path).with_context(|| name.clone())?;
    Ok(File { name, found })
}

fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if ENDINGS.contains(&ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn claims(files: &[File]) -> Vec<Claim<'_>> {
    let mut claims = Vec::new();
    for file in files {
        for config in file.found.parts.iter().filter_map(|part| part.config.as_ref()) {
            let ranges = config.sets.iter().flat_map(RangeSet::ranges);
            claims.extend(ranges.map(|range| Claim {
                place: file.name.clone(),
                network: config.network.as_str(),
                set: &config.set.0,
                bounds: range.bounds(),
            }));
        }
    }
    claims
}

/// Ranges of different sets of leases that share addresses: each with one that begins before it and
/// reaches into it, so that there are never more of them than ranges.
fn overlaps(claims: &[Claim<'_>]) -> Vec<Overlap> {
    let mut sorted: Vec<&Claim<'_>> = claims.iter().collect();
    sorted.sort_by_key(|c| (c.bounds.first, c.bounds.last));
    let mut found = Vec::new();
    // For the farthest two sets: one of them is another than the next claim's.
    let mut far: Vec<&Claim<'_>> = Vec::new();
    for claim in sorted {
        far.retain(|f| f.bounds.last >= claim.bounds.first);
        if let Some(other) =
            far.iter().find(|f| f.set != claim.set && f.bounds.overlaps(claim.bounds))
        {
            found.push(Overlap {
                network: claim.network.to_owned(),
                range: claim.bounds.to_string(),
                file: claim.place.clone(),
                with: other.network.to_owned(),
                with_range: other.bounds.to_string(),
                with_file: other.place.clone(),
            });
        }
        match far.iter_mut().find(|f| f.set == claim.set) {
            Some(f) if f.bounds.last < claim.bounds.last => *f = claim,
            Some(_) => {}
            None => far.push(claim),
        }
        far.sort_by_key(|f| std::cmp::Reverse(f.bounds.last));
        far.truncate(2);
    }
    found
}

fn tell(file: &File, terminal: &mut Terminal<'_>) -> Result<()> {
    let screen = terminal.screen;
    let name = visible(&file.name);
    writeln!(terminal.stdout, "{}", screen.paint(Tone::Head, &name))?;
    for part in &file.found.parts {
        let plugin = visible(&part.plugin);
        match (&part.config, part.ours) {
            (Some(config), _) => {
                let asks = visible(&part.ipam);
                writeln!(terminal.stdout, "network {}: {plugin} asks {asks}", config.network)?;
                write!(terminal.stdout, "{}", ranges(config, terminal))?;
            }
            (None, true) => {}
            (None, false) if part.ipam.is_empty() => {
                writeln!(terminal.stdout, "{plugin}: asks nobody for addresses")?;
            }
            (None, false) => {
                writeln!(terminal.stdout, "{plugin}: asks {}, not sublet", visible(&part.ipam))?;
            }
        }
    }
    for Finding { at: Position { line, column }, error, text, .. } in &file.found.findings {
        let (word, tone) = if *error { ("error:", Tone::Bad) } else { ("warning:", Tone::Odd) };
        let word = screen.paint(tone, word);
        writeln!(terminal.stdout, "{name}:{line}:{column}: {word} {}", visible(text))?;
    }
    Ok(())
}

fn ranges(config: &Config, terminal: &Terminal<'_>) -> String {
    const COLUMNS: &[Column] = &[
        number("SET"),
        whole("SUBNET"),
        whole("FIRST"),
        whole("LAST"),
        number("SIZE"),
        whole("GATEWAY"),
        number("EXCLUDED"),
    ];
    let mut rows = Vec::new();
    for (i, set) in config.sets.iter().enumerate() {
        for range in set.ranges() {
            rows.push(vec![
                Cell::from(i.to_string()),
                range.subnet().to_string().into(),
                range.bounds().first.to_string().into(),
                range.bounds().last.to_string().into(),
                count(size(range)).into(),
                range.gateway().map_or_else(|| "none".to_owned(), |g| g.to_string()).into(),
                count(excluded(range)).into(),
            ]);
        }
    }
    table::render(COLUMNS, &rows, &terminal.screen)
}

/// A number of addresses for a person: what has no exact place in a mind is a power of two.
pub fn count(n: u128) -> String {
    match n {
        0..=0xffff_ffff_ffff => n.to_string(),
        // 2^64 - 2 is 2^64 as well.
        _ => format!("~2^{}", 128 - (n - (n >> 8)).leading_zeros()),
    }
}

/// How many addresses a range gives out; all of IPv6 and one more would not fit, and no range is that.
pub fn size(range: &Range) -> u128 {
    range.spans().iter().map(|span| length(*span)).fold(0, u128::saturating_add)
}

/// How many of its addresses `exclude` leaves out, the gateway not counted.
pub fn excluded(range: &Range) -> u128 {
    let gateway = range.gateway().filter(|g| range.contains(*g));
    let kept = size(range).saturating_add(u128::from(gateway.is_some()));
    length(range.bounds()).saturating_sub(kept)
}

fn length(span: Span) -> u128 {
    (span.last.bits() - span.first.bits()).saturating_add(1)
}
