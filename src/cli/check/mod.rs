//! `sublet check`: what a configuration would do, before a container finds out.
//!
//! Owns: which files are looked at, what overlaps what, the report. Does not own: what is wrong in a
//! file (`config::inspect`).
//! Invariant: nothing is leased, written or made.

mod shape;

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use super::output::visible;
use super::screen::Tone;
use super::table::{Table, cell};
use super::tables::count;
use super::{Found, Place, Terminal, WAIT, World};
use crate::alloc::NetworkRanges;
use crate::config;
use crate::config::lint;
use crate::config::lint::{Finding, Inspection};
use crate::config::{Config, Position};
use crate::error::StoreError;
use crate::model::{History, Persist, StoreSpec};
use crate::net::{Range, RangeSet, Span};
use crate::store;
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
fn stores(place: &Place, files: &[File]) -> Result<Vec<StoreSpec>> {
    if let Some(json) = place.cluster() {
        return Ok(vec![config::store(json).context("--store")?.0]);
    }
    if let Some(path) = place.file()? {
        return Ok(vec![StoreSpec::Embedded {
            path,
            persist: Persist::Boot,
            wait: WAIT,
            history: History::Standing,
        }]);
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

/// The networks that a store has. There may be no store yet, which has none.
fn standing(
    spec: &StoreSpec,
    world: World<'_>,
) -> Result<(String, Vec<NetworkRanges>), StoreError> {
    let place = match spec {
        StoreSpec::Embedded { path, .. } => path.display().to_string(),
        _ => "the cluster".to_owned(),
    };
    let definitions = store::open(spec)?.networks(&world.facts.context())?;
    Ok((place, definitions))
}

/// Those of networks that are in no file: what a file says of a network is what will be.
fn add_standing(claims: &mut Vec<Claim>, place: &str, definitions: &[NetworkRanges]) {
    let asked: HashSet<String> = claims.iter().map(|claim| claim.network.clone()).collect();
    for definition in definitions.iter().filter(|d| !asked.contains(d.network.as_str())) {
        claims.extend(definition.bounds.iter().map(|bounds| Claim {
            place: place.to_owned(),
            network: definition.network.to_string(),
            set: definition.set.0.clone(),
            bounds: *bounds,
            asked: false,
        }));
    }
}

impl Check {
    pub(super) fn run(
        &self,
        place: &Place,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        let files = self.read()?;
        let mut claims = claims(&files);
        let mut unseen = Vec::new();
        for spec in stores(place, &files)? {
            match standing(&spec, world) {
                Ok((place, definitions)) => add_standing(&mut claims, &place, &definitions),
                Err(e) => unseen.push(e.to_string()),
            }
        }
        let overlaps = overlaps(&claims);
        let all = || files.iter().flat_map(|f| &f.found.findings);
        let errors = all().filter(|f| f.error).count();
        let warnings = all().count() - errors + overlaps.len() + unseen.len();
        if self.json {
            let checked = Checked::new(&files, &overlaps, &unseen, (errors, warnings));
            checked.write(terminal.stdout)?;
        } else {
            for (i, file) in files.iter().enumerate() {
                if i > 0 {
                    writeln!(terminal.stdout)?;
                }
                tell(file, terminal)?;
            }
            let odd = terminal.screen.paint(Tone::Odd, "warning:");
            for why in &unseen {
                writeln!(terminal.stdout, "{odd} not compared with what is leased: {why}")?;
            }
            for overlap in &overlaps {
                writeln!(terminal.stdout, "{odd} {overlap}")?;
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
                files.push(File { name: shown(), found: lint::bytes_of(&bytes) });
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
    let found = lint::file(path).with_context(|| name.clone())?;
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

fn tell(file: &File, terminal: &mut Terminal<'_>) -> Result<()> {
    let screen = terminal.screen;
    let name = visible(&file.name);
    writeln!(terminal.stdout, "{}", screen.paint(Tone::Head, &name))?;
    for part in &file.found.parts {
        let plugin = visible(&part.plugin);
        match (&part.config, part.ours) {
            (Some(config), _) => {
                let asks = visible(&part.ipam);
                writeln!(
                    terminal.stdout,
                    "network {}: {plugin} asks {asks}",
                    config.cleanup.network
                )?;
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
    let of_set = |(i, set)| RangeSet::ranges(set).iter().map(move |range| (i, range));
    let rows: Vec<(usize, &Range)> = config.sets.iter().enumerate().flat_map(of_set).collect();
    Table::of(&rows)
        .number("SET", |(set, _)| cell(set))
        .whole("SUBNET", |(_, range)| cell(range.subnet()))
        .whole("FIRST", |(_, range)| cell(range.bounds().first))
        .whole("LAST", |(_, range)| cell(range.bounds().last))
        .number("SIZE", |(_, range)| cell(count(size(range))))
        .whole("GATEWAY", |(_, range)| range.gateway().map_or_else(|| cell("none"), cell))
        .number("EXCLUDED", |(_, range)| cell(count(excluded(range))))
        .render(&terminal.screen)
}

/// How many addresses a range gives out; all of IPv6 and one more would not fit, and no range is that.
pub fn size(range: &Range) -> u128 {
    range.spans().iter().map(|span| span.size()).fold(0, u128::saturating_add)
}

/// How many of its addresses `exclude` leaves out, the gateway not counted.
pub fn excluded(range: &Range) -> u128 {
    let gateway = range.gateway().filter(|g| range.contains(*g));
    let kept = size(range).saturating_add(u128::from(gateway.is_some()));
    range.bounds().size().saturating_sub(kept)
}
