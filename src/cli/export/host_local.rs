//! Exports leases to host-local's folders, for `sublet export host-local` and `sublet uninstall`.
//!
//! Invariant: each lease is always in host-local's folder, in the store, or in both.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::alloc::ExportHostLocal;
use crate::cli::open::{OpenStore, WAIT};
use crate::cli::tables::number_of;
use crate::engine;
use crate::migrate::host_local_export::{Folder, Written};
use crate::model::{Attachment, Kind, Lease, NetworkName, Owner, SetName};
use crate::net::{Addr, Family};
use crate::rows::Text;

/// The leases to export, selected from one store.
#[derive(Default)]
pub struct Chosen {
    /// The networks with leases to export, by set of leases and network name.
    pub networks: BTreeMap<(SetName, NetworkName), Network>,
    /// Leases that host-local cannot represent.
    pub left: Vec<Lease>,
}

/// One network's leases to export.
pub struct Network {
    /// The network's folder, which has the network's name and is in `dataDir`.
    folder: PathBuf,
    leases: Vec<Lease>,
}

/// The result of exporting a network.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    dry_run: bool,
    folder: PathBuf,
    /// The last allocated addresses of the network.
    last: Vec<Text<Addr>>,
    network: String,
    /// Addresses that have a file in the folder but no lease in the store.
    others: Vec<Text<Addr>>,
    /// Addresses that already had a file with the right content.
    present: Vec<Text<Addr>>,
    written: Vec<Text<Addr>>,
}

/// Selects the leases of the networks for which `data_dir` returns host-local's `dataDir`.
pub fn choose(open: &mut OpenStore, data_dir: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Chosen> {
    let mut chosen = Chosen::default();
    for lease in open.leases(&|l| l.kind != Kind::Reserved && l.kind != Kind::Gateway)? {
        let Some(network) = attachment(&lease).map(|a| a.network.clone()) else {
            chosen.left.push(lease);
            continue;
        };
        let Some(dir) = data_dir(network.as_str()) else { continue };
        let folder = dir.join(network.as_str());
        let entry = chosen.networks.entry((lease.set.clone(), network));
        entry.or_insert(Network { folder, leases: Vec::new() }).leases.push(lease);
    }
    Ok(chosen)
}

/// Writes the leases to host-local's folders and then removes them from the store, network by network.
pub fn export(
    chosen: &Chosen,
    open: &mut OpenStore,
    dry_run: bool,
    stderr: &mut dyn Write,
) -> Result<Vec<Exported>> {
    let mut exported = Vec::new();
    for ((set, name), network) in &chosen.networks {
        if set.0 != name.as_str() {
            writeln!(
                stderr,
                "network {name} shares the leases of {set} with other networks; host-local does not support \
                 shared leases, and may lease an address that another network of {set} uses"
            )?;
        }
        exported.push(network.export(set, name, open, dry_run)?);
    }
    Ok(exported)
}

impl Chosen {
    /// Fails if the store still has leases of these networks. Such leases were added or changed during the
    /// export.
    pub fn check_is_empty(&self) -> Result<()> {
        if let Some(((_, name), network)) = self.networks.first_key_value() {
            bail!(
                "network {name} still has leases in sublet (for example {}), which were added or changed \
                 during the export; start no containers until host-local serves the network, and run the \
                 export again",
                network.leases[0].addr
            );
        }
        Ok(())
    }
}

impl Network {
    fn export(
        &self,
        set: &SetName,
        name: &NetworkName,
        open: &mut OpenStore,
        dry_run: bool,
    ) -> Result<Exported> {
        let leases = &self.leases;
        let folder = Folder::open(&self.folder, dry_run, WAIT)?;
        let held: Vec<(Addr, &Attachment)> =
            leases.iter().filter_map(|l| attachment(l).map(|a| (l.addr, a))).collect();
        let Written { written, present, others } = folder.write(&held)?;
        let texts = |addrs: Vec<Addr>| addrs.into_iter().map(Text).collect();
        let mut exported = Exported {
            dry_run,
            folder: self.folder.clone(),
            last: Vec::new(),
            network: name.to_string(),
            others: texts(others),
            present: texts(present),
            written: texts(written),
        };
        if dry_run {
            return Ok(exported);
        }
        let ranges: BTreeSet<Addr> = leases.iter().map(|l| l.range).collect();
        let ranges = ranges.into_iter().collect();
        let mut hand = ExportHostLocal { set: set.clone(), ranges, leases: Vec::new() };
        let cursors = engine::export_host_local(&mut *open.store, hand.clone(), &open.cx)?;
        let last = last(leases, cursors.into_iter().flatten().collect());
        folder.write_last(&last)?;
        folder.finish()?;
        // host-local's files now contain the leases. Remove the leases from the store only now, so that they
        // are never missing from both programs.
        hand.leases.clone_from(leases);
        engine::export_host_local(&mut *open.store, hand, &open.cx)?;
        exported.last = texts(last);
        Ok(exported)
    }
}

impl Exported {
    /// Prints the result as text.
    pub fn print(&self, out: &mut dyn Write) -> io::Result<()> {
        let verb = if self.dry_run { "would be written" } else { "written" };
        let leases = number_of(self.written.len(), "lease");
        writeln!(out, "{}: {leases} {verb}", self.folder.display())?;
        if !self.present.is_empty() {
            writeln!(out, "  already present: {}", self.present.len())?;
        }
        if !self.others.is_empty() {
            let files = number_of(self.others.len(), "lease file");
            writeln!(out, "  kept {files} without a lease in sublet")?;
        }
        Ok(())
    }
}

/// Returns the network, container and interface that own a lease. host-local cannot represent any other kind
/// of owner; for such a lease, returns `None`.
fn attachment(lease: &Lease) -> Option<&Attachment> {
    match &lease.owner {
        Owner::Attachment(attachment) => Some(attachment),
        _ => None,
    }
}

/// Returns the last allocated addresses (`cursors`), IPv4 first. For an address family without a cursor,
/// returns the address of the newest lease instead. This address may lie in no range of the network. That
/// does no harm, because host-local then starts at the beginning of the range.
fn last(leases: &[Lease], mut cursors: Vec<Addr>) -> Vec<Addr> {
    for family in [Family::V4, Family::V6] {
        if cursors.iter().all(|c| c.family() != family) {
            let of_family = leases.iter().filter(|l| l.addr.family() == family);
            cursors.extend(of_family.max_by_key(|l| (l.time, l.addr)).map(|l| l.addr));
        }
    }
    cursors.sort_unstable();
    cursors
}
