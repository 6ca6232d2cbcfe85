//! The JSON output of `sublet check`.

use std::fmt;

use serde::Serialize;
use serde_with::skip_serializing_none;

use super::File;
use super::standing::Conflict;
use crate::config::lint::{Finding, Part};
use crate::net::{Addr, Range, RangeSet};
use crate::rows::Text;

#[derive(Serialize)]
pub(super) struct Report<'a> {
    pub(super) errors: usize,
    pub(super) warnings: usize,
    pub(super) files: Vec<FileRow<'a>>,
    pub(super) overlaps: &'a [Overlap],
    /// Contradictions between the configuration and existing leases.
    pub(super) conflicts: &'a [Conflict],
    /// The reasons why some stores could not be compared.
    pub(super) unseen: &'a [String],
}

#[derive(Serialize)]
pub(super) struct FileRow<'a> {
    file: &'a str,
    plugins: Vec<Plugin<'a>>,
    findings: &'a [Finding],
}

#[skip_serializing_none]
#[derive(Serialize)]
#[allow(clippy::struct_field_names, reason = "the field has this name in JSON")]
struct Plugin<'a> {
    plugin: &'a str,
    ipam: &'a str,
    ours: bool,
    network: Option<&'a str>,
    set: Option<&'a str>,
    ranges: Vec<RangeRow>,
}

#[skip_serializing_none]
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RangeRow {
    pub(super) range_set: usize,
    pub(super) subnet: String,
    pub(super) first: Text<Addr>,
    pub(super) last: Text<Addr>,
    /// The number of allocatable addresses.
    pub(super) size: u128,
    pub(super) gateway: Option<Text<Addr>>,
    /// The number of addresses that `exclude` removes, not counting the gateway.
    pub(super) excluded: u128,
}

/// Two overlapping ranges that belong to different sets of leases.
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
            "{} of network {} ({}) overlaps {} of network {} ({}), so both networks can lease the same \
             address; if the networks share a link, set the same \"shared\" in both configurations",
            self.range, self.network, self.file, self.with_range, self.with, self.with_file
        )
    }
}

impl<'a> FileRow<'a> {
    pub(super) fn new(file: &'a File) -> FileRow<'a> {
        FileRow {
            file: &file.name,
            plugins: file.found.parts.iter().map(plugin).collect(),
            findings: &file.found.findings,
        }
    }
}

fn plugin(part: &Part) -> Plugin<'_> {
    let config = part.config.as_ref();
    Plugin {
        plugin: &part.plugin,
        ipam: &part.ipam,
        ours: part.ours,
        network: config.map(|c| c.cleanup.network.as_str()),
        set: config.map(|c| c.cleanup.set.0.as_str()),
        ranges: config.map(|c| RangeRow::all(&c.sets)).unwrap_or_default(),
    }
}

impl RangeRow {
    pub(super) fn all(sets: &[RangeSet]) -> Vec<RangeRow> {
        let of_set = |(i, set)| RangeSet::ranges(set).iter().map(move |r| RangeRow::new(i, r));
        sets.iter().enumerate().flat_map(of_set).collect()
    }

    fn new(range_set: usize, range: &Range) -> RangeRow {
        let bounds = range.bounds();
        let size = range.spans().iter().map(|span| span.size()).fold(0, u128::saturating_add);
        let gateway = range.gateway().filter(|g| range.contains(*g));
        let kept = size.saturating_add(u128::from(gateway.is_some()));
        RangeRow {
            range_set,
            subnet: range.subnet().to_string(),
            first: Text(bounds.first),
            last: Text(bounds.last),
            size,
            gateway: range.gateway().map(Text),
            excluded: bounds.size().saturating_sub(kept),
        }
    }
}
