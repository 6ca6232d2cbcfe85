//! How `sublet check --json` looks.
//!
//! Owns: the names and order of the fields, which scripts rely on.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;

use super::{File, excluded, size};
use crate::config::lint::{Finding, Part};
use crate::net::Range;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Checked<'a> {
    errors: usize,
    warnings: usize,
    files: Vec<Of<'a>>,
    overlaps: &'a [Overlap],
    /// Why networks that are in use could not be compared.
    unseen: &'a [String],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Of<'a> {
    file: &'a str,
    plugins: Vec<Plugin<'a>>,
    findings: Vec<Told<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "so the field is called in JSON")]
struct Plugin<'a> {
    plugin: &'a str,
    ipam: &'a str,
    ours: bool,
    network: Option<&'a str>,
    set: Option<&'a str>,
    ranges: Vec<Row>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    range_set: usize,
    subnet: String,
    first: String,
    last: String,
    size: u128,
    gateway: Option<String>,
    excluded: u128,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told<'a> {
    line: usize,
    column: usize,
    place: &'a str,
    level: &'static str,
    message: &'a str,
}

/// Ranges of two sets of leases that share addresses.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Overlap {
    pub(super) network: String,
    pub(super) range: String,
    pub(super) file: String,
    pub(super) with: String,
    pub(super) with_range: String,
    pub(super) with_file: String,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of network {} ({}) overlaps {} of network {} ({}): each gives the other's addresses \
             again, unless they are apart or say \"shared\"",
            self.range, self.network, self.file, self.with_range, self.with, self.with_file
        )
    }
}

impl<'a> Checked<'a> {
    pub(super) fn new(
        files: &'a [File],
        overlaps: &'a [Overlap],
        unseen: &'a [String],
        (errors, warnings): (usize, usize),
    ) -> Checked<'a> {
        let files = files.iter().map(|file| Of {
            file: &file.name,
            plugins: file.found.parts.iter().map(plugin).collect(),
            findings: file.found.findings.iter().map(told).collect(),
        });
        Checked { errors, warnings, files: files.collect(), overlaps, unseen }
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        // Not by way of a value: that has no 128 bits.
        serde_json::to_writer_pretty(&mut *out, self)?;
        writeln!(out)
    }
}

fn plugin(part: &Part) -> Plugin<'_> {
    let config = part.config.as_ref();
    let sets = config.map(|c| c.sets.as_slice()).unwrap_or_default();
    let rows =
        sets.iter().enumerate().flat_map(|(i, set)| set.ranges().iter().map(move |r| (i, r)));
    Plugin {
        plugin: &part.plugin,
        ipam: &part.ipam,
        ours: part.ours,
        network: config.map(|c| c.cleanup.network.as_str()),
        set: config.map(|c| c.cleanup.set.0.as_str()),
        ranges: rows.map(|(i, range)| row(i, range)).collect(),
    }
}

fn row(set: usize, range: &Range) -> Row {
    Row {
        range_set: set,
        subnet: range.subnet().to_string(),
        first: range.bounds().first.to_string(),
        last: range.bounds().last.to_string(),
        size: size(range),
        gateway: range.gateway().map(|g| g.to_string()),
        excluded: excluded(range),
    }
}

fn told(finding: &Finding) -> Told<'_> {
    Told {
        line: finding.at.line,
        column: finding.at.column,
        place: &finding.place,
        level: if finding.error { "error" } else { "warning" },
        message: &finding.text,
    }
}
