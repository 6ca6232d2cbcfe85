//! `sublet export`: leases for another program.
//!
//! Invariant: a second run changes nothing; what is left out is named with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

use super::tables::number_of;
use super::{Call, OpenStore, WAIT, jsonl};
use crate::alloc::ExportHostLocal;
use crate::engine;
use crate::migrate::host_local_export::{Folder, Written};
use crate::model::{Attachment, Kind, Lease, NetworkName, Owner, SetName};
use crate::net::{Addr, Family};
use crate::rows::Text;

/// Write the leases where another program finds them.
#[derive(Debug, Subcommand)]
pub enum Export {
    /// Into folders from which host-local goes on
    ///
    /// Do not start or stop containers from the start of the export until host-local is in the network's
    /// configuration. The exported leases then belong to host-local and are removed from sublet. If sublet
    /// serves the network again, its first ADD takes them over, as it did the first time.
    HostLocal(HostLocal),
    /// As JSON lines: every record of the store, for `sublet import jsonl`
    ///
    /// Start and end no container meanwhile: the records are not of one moment.
    Jsonl(jsonl::Export),
}

#[derive(Debug, Args)]
pub struct HostLocal {
    /// The folder for the networks' folders: host-local's `dataDir`, by default
    /// /var/lib/cni/networks
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
}

/// One network's leases, in the set that it draws from.
type Networks = BTreeMap<(SetName, NetworkName), Vec<Lease>>;

impl Export {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        match self {
            Export::HostLocal(host_local) => host_local.run(call),
            Export::Jsonl(jsonl) => jsonl.run(call),
        }
    }
}

impl HostLocal {
    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        // host-local's leases are of one host.
        call.args.file()?;
        let mut open = call.open()?;
        let (networks, left) = self.choose(&mut open)?;
        if networks.is_empty() {
            open.check_network(self.network.as_deref())?;
        }
        let mut reports = Vec::new();
        for ((set, network), leases) in &networks {
            if set.0 != network.as_str() {
                writeln!(
                    call.stderr,
                    "network {network} shares the leases of {set}: host-local cannot, and may give \
                     an address that another network of {set} has"
                )?;
            }
            let (done, last) = self.one(set, network, leases, &mut open)?;
            let dir = self.dir.join(network.as_str());
            let Written { written, present, others } = done;
            if call.as_json {
                let texts = |addrs: Vec<Addr>| addrs.into_iter().map(Text).collect::<Vec<_>>();
                reports.push(json!({
                    "network": network.as_str(),
                    "folder": dir,
                    "dryRun": self.dry_run,
                    "written": texts(written),
                    "present": texts(present),
                    "others": texts(others),
                    "last": texts(last),
                }));
                continue;
            }
            let verb = if self.dry_run { "would be written" } else { "written" };
            let leases = number_of(written.len(), "lease");
            writeln!(call.stdout, "{}: {leases} {verb}", dir.display())?;
            if !present.is_empty() {
                writeln!(call.stdout, "  present before: {}", present.len())?;
            }
            if !others.is_empty() {
                writeln!(call.stdout, "  {} that are not leased here kept", others.len())?;
            }
        }
        if call.as_json {
            call.json(&reports)?;
        }
        for lease in &left {
            let (addr, owner) = (lease.addr, &lease.owner);
            writeln!(call.stderr, "{addr} left out: host-local knows no such holder as {owner}")?;
        }
        if networks.is_empty() {
            writeln!(call.stderr, "no leases to export in {}", open.place)?;
            return Ok(());
        }
        if !self.dry_run
            && let Some(((_, network), new)) = self.choose(&mut open)?.0.first_key_value()
        {
            bail!(
                "network {network} still has leases in sublet (such as {}): they were added or changed \
                 during the export; set host-local in the network's configuration, then run the export \
                 again",
                new[0].addr
            );
        }
        Ok(())
    }

    /// The leases of containers, and those that host-local cannot have.
    fn choose(&self, open: &mut OpenStore) -> Result<(Networks, Vec<Lease>)> {
        let mut networks = Networks::new();
        let mut left = Vec::new();
        for lease in open.leases(&|l| l.kind != Kind::Reserved && l.kind != Kind::Gateway)? {
            match attachment(&lease).map(|a| a.network.clone()) {
                Some(network) if self.network.as_deref().is_none_or(|n| n == network.as_str()) => {
                    networks.entry((lease.set.clone(), network)).or_default().push(lease);
                }
                Some(_) => {}
                None => left.push(lease),
            }
        }
        Ok((networks, left))
    }

    fn one(
        &self,
        set: &SetName,
        network: &NetworkName,
        leases: &[Lease],
        open: &mut OpenStore,
    ) -> Result<(Written, Vec<Addr>)> {
        let dir = self.dir.join(network.as_str());
        let folder = Folder::open(&dir, self.dry_run, WAIT)?;
        let held: Vec<(Addr, &Attachment)> =
            leases.iter().filter_map(|l| attachment(l).map(|a| (l.addr, a))).collect();
        let done = folder.write(&held)?;
        if self.dry_run {
            return Ok((done, Vec::new()));
        }
        let ranges: BTreeSet<Addr> = leases.iter().map(|l| l.range).collect();
        let ranges = ranges.into_iter().collect();
        let mut hand = ExportHostLocal { set: set.clone(), ranges, leases: Vec::new() };
        let cursors = engine::export_host_local(&mut *open.store, hand.clone(), &open.cx)?;
        let last = last(leases, cursors.into_iter().flatten().collect());
        folder.write_last(&last)?;
        folder.finish()?;
        // Both programs have the leases until here, and one of them always has.
        hand.leases = leases.to_vec();
        engine::export_host_local(&mut *open.store, hand, &open.cx)?;
        Ok((done, last))
    }
}

/// What host-local knows an owner by.
fn attachment(lease: &Lease) -> Option<&Attachment> {
    match &lease.owner {
        Owner::Attachment(attachment) => Some(attachment),
        _ => None,
    }
}

/// The address given last of each range set, IPv4 first: where no cursor is known, the youngest.
/// host-local starts over where one is of another range set than it looks in.
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
