//! `sublet check`: reports the errors and the effects of a configuration, before a container uses it.
//!
//! This module finds overlapping ranges. [`crate::config::lint`] finds the errors in a file, and [`standing`]
//! finds conflicts with existing leases.
//! Invariant: nothing is leased, written or created.

pub mod plan;
mod shape;
mod standing;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use super::screen::{Screen, Tone, visible};
use super::table::{Table, cell};
use super::tables::count;
use super::{Call, ProblemsFound, explained};
use crate::config::lint;
use crate::config::lint::{Finding, Inspection};
use crate::config::{Config, Position};
use crate::net::{RangeSet, Span};
use crate::sys::files;
use shape::{FileRow, Overlap, RangeRow, Report};
use standing::{compare, stores};

/// Check network configurations without leasing anything.
///
/// Reports each error with its line and column, the resulting ranges, and overlapping networks.
#[derive(Debug, Args)]
pub struct Check {
    /// A network configuration, a list of plugins, or a folder of them; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// The file name extensions that a container runtime reads.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// A file that was checked, and the result of the check.
pub struct File {
    /// The path of the file.
    pub name: String,
    /// The result of checking the content.
    pub found: Inspection,
}

/// A network's range, as defined in a file or in a store.
struct Claim {
    /// The path of the file or store.
    place: String,
    network: String,
    set: String,
    bounds: Span,
    /// Whether a file defines the range, as opposed to a store.
    is_from_file: bool,
}

impl Check {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let files = self.read()?;
        let mut claims = claims(&files);
        let mut unseen = Vec::new();
        let mut conflicts = Vec::new();
        for (spec, configs) in stores(call.args, call.world, &files)? {
            match compare(&mut claims, &spec, &configs, call.world) {
                Ok(found) => conflicts.extend(found),
                Err(e) => unseen.push(explained(&e.into())),
            }
        }
        let overlaps = overlaps(&claims);
        let all = || files.iter().flat_map(|f| &f.found.findings);
        let held = conflicts.iter().filter(|conflict| conflict.is_error()).count();
        let errors = all().filter(|f| f.error).count() + held;
        let found = all().count() + conflicts.len() + overlaps.len() + unseen.len();
        let warnings = found - errors;
        if call.as_json {
            let (overlaps, conflicts, unseen) = (&*overlaps, &*conflicts, &*unseen);
            let files = files.iter().map(FileRow::new).collect();
            call.json(&Report { errors, warnings, files, overlaps, conflicts, unseen })?;
        } else {
            for (i, file) in files.iter().enumerate() {
                if i > 0 {
                    writeln!(call.stdout)?;
                }
                print(file, call)?;
            }
            let odd = call.screen.paint(Tone::Odd, "warning:");
            for why in &unseen {
                writeln!(
                    call.stdout,
                    "{odd} cannot compare the configuration with existing leases: {why}"
                )?;
            }
            for conflict in &conflicts {
                let bad = call.screen.paint(Tone::Bad, "error:");
                let word = if conflict.is_error() { &bad } else { &odd };
                writeln!(call.stdout, "{word} {}", visible(&conflict.to_string()))?;
            }
            for overlap in &overlaps {
                writeln!(call.stdout, "{odd} {overlap}")?;
            }
            let ending = |n| if n == 1 { "" } else { "s" };
            writeln!(
                call.stderr,
                "{errors} error{}, {warnings} warning{}",
                ending(errors),
                ending(warnings)
            )?;
        }
        if errors > 0 { Err(ProblemsFound.into()) } else { Ok(()) }
    }

    fn read(&self) -> Result<Vec<File>> {
        let mut read = Vec::new();
        for path in &self.files {
            if !path.is_dir() {
                read.push(file(path)?);
                continue;
            }
            let found = files_in(path)?;
            if found.is_empty() {
                return Err(anyhow!("no *.conf, *.conflist or *.json file in {}", path.display()));
            }
            read.extend(found);
        }
        Ok(read)
    }
}

/// Reads and checks a file, or standard input.
fn file(path: &Path) -> Result<File> {
    let name = path.display().to_string();
    let found = match &*name {
        "-" => lint::read(io::stdin()),
        _ => files::open(path).and_then(lint::read),
    };
    Ok(File { found: found.with_context(|| name.clone())?, name })
}

/// Checks the files in a folder that a runtime would read. A file that cannot be read is included, with its
/// error.
pub fn files_in(folder: &Path) -> Result<Vec<File>> {
    let paths = paths_in(folder).with_context(|| folder.display().to_string())?;
    let read = |path: PathBuf| {
        let found = files::open(&path).and_then(lint::read);
        let found = found.unwrap_or_else(|e| Inspection::unreadable(&e));
        File { name: path.display().to_string(), found }
    };
    Ok(paths.into_iter().map(read).collect())
}

fn paths_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path()));
    let mut found: Vec<PathBuf> = entries.collect::<io::Result<_>>()?;
    let is_read = |path: &PathBuf| {
        path.extension().is_some_and(|e| ENDINGS.iter().any(|ending| e == *ending))
            && !path.is_dir()
    };
    found.retain(is_read);
    found.sort();
    Ok(found)
}

fn claims(files: &[File]) -> Vec<Claim> {
    let mut claims = Vec::new();
    for file in files {
        for config in file.found.parts.iter().filter_map(|part| part.config.as_ref()) {
            let ranges = config.sets.iter().flat_map(RangeSet::ranges);
            claims.extend(ranges.map(|range| Claim {
                place: file.name.clone(),
                network: config.cleanup.network.to_string(),
                set: config.cleanup.set.0.clone(),
                bounds: range.bounds(),
                is_from_file: true,
            }));
        }
    }
    claims
}

/// Returns the overlaps between ranges that belong to different sets of leases. Each range is reported at
/// most once, with one range that begins before it and overlaps it. So there are never more overlaps than
/// ranges.
fn overlaps(claims: &[Claim]) -> Vec<Overlap> {
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by_key(|c| (c.bounds.first, c.bounds.last));
    let mut found = Vec::new();
    // The ranges that reach farthest so far: up to two from the stores, then up to two from the files. The
    // two belong to different sets, so at least one of them does not belong to the next range's set.
    let mut farthest: [Vec<&Claim>; 2] = [Vec::new(), Vec::new()];
    for claim in sorted {
        for far in &mut farthest {
            far.retain(|f| f.bounds.last >= claim.bounds.first);
        }
        let other = |f: &&&Claim| f.set != claim.set && (f.is_from_file || claim.is_from_file);
        if let Some(other) = farthest.iter().flatten().find(other) {
            found.push(Overlap {
                network: claim.network.clone(),
                range: claim.bounds.brief(),
                file: claim.place.clone(),
                with: other.network.clone(),
                with_range: other.bounds.brief(),
                with_file: other.place.clone(),
            });
        }
        let far = &mut farthest[usize::from(claim.is_from_file)];
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

fn print(file: &File, call: &mut Call<'_>) -> Result<()> {
    let (screen, out) = (&call.screen, &mut *call.stdout);
    let name = visible(&file.name);
    writeln!(out, "{}", screen.paint(Tone::Head, &name))?;
    for part in &file.found.parts {
        let (plugin, ipam) = (visible(&part.plugin), visible(&part.ipam));
        match (&part.config, part.ours) {
            (Some(config), _) => {
                writeln!(out, "network {}: {plugin} uses {ipam}", config.cleanup.network)?;
                write!(out, "{}", ranges(config, screen))?;
            }
            (None, true) => {}
            (None, false) if ipam.is_empty() => {
                writeln!(out, "{plugin}: uses no IPAM plugin")?;
            }
            (None, false) => writeln!(out, "{plugin}: uses {ipam}, not sublet")?,
        }
    }
    print_findings(file, call)
}

/// Prints the errors and warnings about a file.
fn print_findings(file: &File, call: &mut Call<'_>) -> Result<()> {
    let (screen, out, name) = (&call.screen, &mut *call.stdout, visible(&file.name));
    for Finding { at: Position { line, column }, error, text, .. } in &file.found.findings {
        let (word, tone) = if *error { ("error:", Tone::Bad) } else { ("warning:", Tone::Odd) };
        let word = screen.paint(tone, word);
        writeln!(out, "{name}:{line}:{column}: {word} {}", visible(text))?;
    }
    Ok(())
}

fn ranges(config: &Config, screen: &Screen) -> String {
    Table::of(RangeRow::all(&config.sets))
        .number("SET", |row| cell(row.range_set))
        .whole("SUBNET", |row| cell(&row.subnet))
        .whole("FIRST", |row| cell(row.first.0))
        .whole("LAST", |row| cell(row.last.0))
        .number("SIZE", |row| cell(count(row.size)))
        .whole("GATEWAY", |row| row.gateway.map_or_else(|| cell("none"), |addr| cell(addr.0)))
        .number("EXCLUDED", |row| cell(count(row.excluded)))
        .render(screen)
}
