//! The JSON report of `sublet check`.

use std::fmt;

use serde::Serialize;

use super::{File, excluded, size};
use crate::config::lint::{Finding, Part};
use crate::net::{Addr, Range};
use crate::rows::Text;

#[derive(Serialize)]
pub(super) struct Report<'a> {
    errors: usize,
    warnings: usize,
    files: Vec<FileRow<'a>>,
    overlaps: &'a [Overlap],
    /// Why networks that are in use could not be compared.
    unseen: &'a [String],
}

#[derive(Serialize)]
struct FileRow<'a> {
    file: &'a str,
    plugins: Vec<Plugin<'a>>,
    findings: Vec<FindingRow<'a>>,
}

#[derive(Serialize)]
#[allow(clippy::struct_field_names, reason = "so the field is called in JSON")]
struct Plugin<'a> {
    plugin: &'a str,
    ipam: &'a str,
    ours: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<&'a str>,
    ranges: Vec<RangeRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RangeRow {
    range_set: usize,
    subnet: String,
    first: Text<Addr>,
    last: Text<Addr>,
    size: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<Text<Addr>>,
    excluded: u128,
}

#[derive(Serialize)]
struct FindingRow<'a> {
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

impl<'a> Report<'a> {
    pub(super) fn new(
        files: &'a [File],
        overlaps: &'a [Overlap],
        unseen: &'a [String],
        (errors, warnings): (usize, usize),
    ) -> Report<'a> {
        let files = files.iter().map(|file| FileRow {
            file: &file.name,
            plugins: file.found.parts.iter().map(plugin).collect(),
            findings: file.found.findings.iter().map(finding).collect(),
        });
        Report { errors, warnings, files: files.collect(), overlaps, unseen }
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

fn row(range_set: usize, range: &Range) -> RangeRow {
    RangeRow {
        range_set,
        subnet: range.subnet().to_string(),
        first: Text(range.bounds().first),
        last: Text(range.bounds().last),
        size: size(range),
        gateway: range.gateway().map(Text),
        excluded: excluded(range),
    }
}

fn finding(finding: &Finding) -> FindingRow<'_> {
    FindingRow {
        line: finding.at.line,
        column: finding.at.column,
        place: &finding.place,
        level: if finding.error { "error" } else { "warning" },
        message: &finding.text,
    }
}
