//! `sublet check`: what a configuration would do, before a container finds out.
//!
//! Finds ranges that overlap; [`crate::config::lint`] finds what is wrong in a file.
//! Invariant: nothing is leased, written or created.

mod shape;

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use super::screen::{Screen, Tone, visible};
use super::table::{Table, cell};
use super::tables::count;
use super::{Call, ProblemsFound, StoreArgs, World, lease_file};
use crate::config;
use crate::config::lint;
use crate::config::lint::{Finding, Inspection};
use crate::config::{Config, Position};
use crate::error::StoreError;
use crate::model::{Persist, StoreSpec};
use crate::net::{RangeSet, Span};
use crate::store;
use crate::sys::files;
use shape::{Overlap, RangeRow, Report};

/// Look at network configurations without leasing anything.
///
/// Tells each error with its line and column, the ranges that would result, and what overlaps what.
#[derive(Debug, Args)]
pub struct Check {
    /// A network configuration or a list of plugins; a folder of them; - for standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

/// What a runtime reads in a folder of configurations.
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// One file, as it was named, and what is in it.
struct File {
    name: String,
    found: Inspection,
}

/// One network's range, from wherever it is known.
struct Claim {
    /// Who says so.
    place: String,
    network: String,
    set: String,
    bounds: Span,
    /// It is of a file; else it is what a store has.
    asked: bool,
}

/// The stores whose networks are compared: the one that is named, else those of the files.
fn stores(args: &StoreArgs, files: &[File]) -> Result<Vec<StoreSpec>> {
    if let Some(json) = args.cluster() {
        return Ok(vec![config::store(json).context("--store")?.0]);
    }
    if let Some(path) = args.file()? {
        return Ok(vec![lease_file(path, Persist::Boot)]);
    }
    let parts = files.iter().flat_map(|file| &file.found.parts);
    let mut specs: Vec<StoreSpec> = Vec::new();
    for config in parts.filter_map(|part| part.config.as_ref()) {
        if !specs.contains(&config.cleanup.store) {
            specs.push(config.cleanup.store.clone());
        }
    }
    Ok(specs)
}

/// Adds the networks that a store has and no file: what a file says of a network is what will be. There may be
/// no store yet, which has none.
fn add_standing(
    claims: &mut Vec<Claim>,
    spec: &StoreSpec,
    world: World<'_>,
) -> Result<(), StoreError> {
    let place = match spec {
        StoreSpec::Embedded { path, .. } => path.display().to_string(),
        _ => "the cluster".to_owned(),
    };
    let asked: HashSet<String> = claims.iter().map(|claim| claim.network.clone()).collect();
    for known in store::open(spec)?.networks(&world.facts.context_of(spec))? {
        if !asked.contains(known.network.as_str()) {
            claims.extend(known.bounds.iter().map(|bounds| Claim {
                place: place.clone(),
                network: known.network.to_string(),
                set: known.set.0.clone(),
                bounds: *bounds,
                asked: false,
            }));
        }
    }
    Ok(())
}

impl Check {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let files = self.read()?;
        let mut claims = claims(&files);
        let mut unseen = Vec::new();
        for spec in stores(call.args, &files)? {
            if let Err(e) = add_standing(&mut claims, &spec, call.world) {
                unseen.push(e.to_string());
            }
        }
        let overlaps = overlaps(&claims);
        let all = || files.iter().flat_map(|f| &f.found.findings);
        let errors = all().filter(|f| f.error).count();
        let warnings = all().count() - errors + overlaps.len() + unseen.len();
        if call.as_json {
            call.json(&Report::new(&files, &overlaps, &unseen, (errors, warnings)))?;
        } else {
            for (i, file) in files.iter().enumerate() {
                if i > 0 {
                    writeln!(call.stdout)?;
                }
                print(file, call)?;
            }
            let odd = call.screen.paint(Tone::Odd, "warning:");
            for why in &unseen {
                writeln!(call.stdout, "{odd} not compared with what is leased: {why}")?;
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
            let shown = || path.display().to_string();
            let is_folder = path.is_dir();
            let paths =
                if is_folder { folder(path).with_context(shown)? } else { vec![path.clone()] };
            if paths.is_empty() {
                return Err(anyhow!("{}: no *.conf, *.conflist or *.json in it", shown()));
            }
            for path in paths {
                let name = path.display().to_string();
                let found = match &*name {
                    "-" => lint::read(io::stdin()),
                    _ => files::open(&path).and_then(lint::read),
                };
                read.push(File { found: found.with_context(|| name.clone())?, name });
            }
        }
        Ok(read)
    }
}

fn folder(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
    let mut found: Vec<PathBuf> = entries.collect::<io::Result<_>>()?;
    found
        .retain(|path| path.extension().is_some_and(|e| ENDINGS.iter().any(|ending| e == *ending)));
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
                asked: true,
            }));
        }
    }
    claims
}

/// Ranges of different sets of leases that share addresses: each with one that begins before it and
/// reaches into it, so that there are never more of them than ranges.
fn overlaps(claims: &[Claim]) -> Vec<Overlap> {
    let mut sorted: Vec<&Claim> = claims.iter().collect();
    sorted.sort_by_key(|c| (c.bounds.first, c.bounds.last));
    let mut found = Vec::new();
    // For the farthest two sets: one of them is another than the next claim's.
    let mut far: Vec<&Claim> = Vec::new();
    for claim in sorted {
        far.retain(|f| f.bounds.last >= claim.bounds.first);
        let other = |f: &&&Claim| f.set != claim.set && (f.asked || claim.asked);
        if let Some(other) = far.iter().find(other) {
            found.push(Overlap {
                network: claim.network.clone(),
                range: claim.bounds.to_string(),
                file: claim.place.clone(),
                with: other.network.clone(),
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

fn print(file: &File, call: &mut Call<'_>) -> Result<()> {
    let (screen, out) = (&call.screen, &mut *call.stdout);
    let name = visible(&file.name);
    writeln!(out, "{}", screen.paint(Tone::Head, &name))?;
    for part in &file.found.parts {
        let (plugin, ipam) = (visible(&part.plugin), visible(&part.ipam));
        match (&part.config, part.ours) {
            (Some(config), _) => {
                writeln!(out, "network {}: {plugin} asks {ipam}", config.cleanup.network)?;
                write!(out, "{}", ranges(config, screen))?;
            }
            (None, true) => {}
            (None, false) if ipam.is_empty() => {
                writeln!(out, "{plugin}: asks nobody for addresses")?;
            }
            (None, false) => writeln!(out, "{plugin}: asks {ipam}, not sublet")?,
        }
    }
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
