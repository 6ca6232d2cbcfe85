//! `sublet export`: the way back.
//!
//! Owns: which leases another program can go on with, and the report. Does not own: that program's
//! files. Invariant: a second run changes nothing; what is left out is told with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Desk, Terminal, WAIT, jsonl};
use crate::alloc::ExportHostLocal;
use crate::engine;
use crate::migrate::host_local_export::{Folder, Written};
use crate::model::{Attachment, Kind, Lease, NetworkName, Owner, SetName};
use crate::net::{Addr, Family};

/// Write the leases where another program finds them.
#[derive(Debug, Args)]
pub struct Export {
    #[command(subcommand)]
    to: To,
}

#[derive(Debug, Subcommand)]
enum To {
    /// Into folders from which host-local goes on
    ///
    /// Start and end no container meanwhile, and name host-local in the configuration right after.
    /// The leases stay here too; should sublet serve the network again, its first ADD looks at the
    /// folder as it did the first time.
    HostLocal(HostLocal),
    /// As JSON lines: every record of the store, for `sublet import jsonl`
    ///
    /// Start and end no container meanwhile: the records are not of one moment.
    Jsonl(jsonl::Export),
}

#[derive(Debug, Args)]
struct HostLocal {
    /// The folder for the networks' folders: host-local's `dataDir`, by default
    /// /var/lib/cni/networks
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The folders were taken over and host-local has not served them since: replace their leases
    #[arg(long)]
    replace: bool,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

/// One network's leases, in the set that it draws from.
type Networks = BTreeMap<(SetName, NetworkName), Vec<Lease>>;

impl Export {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        match &self.to {
            To::HostLocal(host_local) => host_local.run(desk, terminal),
            To::Jsonl(jsonl) => jsonl.run(desk, terminal),
        }
    }

    /// host-local's leases are.
    pub(super) fn is_of_one_host(&self) -> bool {
        matches!(self.to, To::HostLocal(_))
    }
}

impl HostLocal {
    fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let (networks, left) = self.choose(desk)?;
        let mut reports = Vec::new();
        for ((set, network), leases) in &networks {
            if set.0 != network.as_str() {
                writeln!(
                    terminal.stderr,
                    "network {network} shares the leases of {set}: host-local cannot, and may give \
                     an address that another network of {set} has"
                )?;
            }
            let (done, last) = self.one(set, network, leases, desk)?;
            reports.push(self.report(network, &done, &last, terminal)?);
        }
        if self.json {
            writeln!(terminal.stdout, "{:#}", Value::from(reports))?;
        }
        for lease in &left {
            let (addr, owner) = (lease.addr, &lease.owner);
            writeln!(
                terminal.stderr,
                "{addr} left out: host-local knows no such holder as {owner}"
            )?;
        }
        if networks.is_empty() {
            writeln!(terminal.stderr, "no leases to export in {}", desk.place)?;
        }
        Ok(terminal.stdout.flush()?)
    }

    /// The leases of containers, and those that host-local cannot have.
    fn choose(&self, desk: &mut Desk) -> Result<(Networks, Vec<Lease>)> {
        let mut networks = Networks::new();
        let mut left = Vec::new();
        for lease in desk.leases(&|l| l.kind != Kind::Reserved && l.kind != Kind::Gateway)? {
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
        desk: &mut Desk,
    ) -> Result<(Written, Vec<Addr>)> {
        let dir = self.dir.join(network.as_str());
        let folder = Folder::open(&dir, self.replace, self.dry_run, WAIT)?;
        let held: Vec<(Addr, &Attachment)> =
            leases.iter().filter_map(|l| attachment(l).map(|a| (l.addr, a))).collect();
        let done = folder.write(&held)?;
        if self.dry_run {
            return Ok((done, Vec::new()));
        }
        let ranges: BTreeSet<Addr> = leases.iter().map(|l| l.range).collect();
        let hand = ExportHostLocal {
            set: set.clone(),
            network: network.clone(),
            ranges: ranges.into_iter().collect(),
        };
        let cursors = engine::export_host_local(&mut *desk.store, hand, &desk.cx)?;
        let last = last(leases, cursors.into_iter().flatten().collect());
        folder.write_last(&last)?;
        folder.finish()?;
        Ok((done, last))
    }

    fn report(
        &self,
        network: &NetworkName,
        done: &Written,
        last: &[Addr],
        terminal: &mut Terminal<'_>,
    ) -> Result<Value> {
        let dir = self.dir.join(network.as_str());
        let texts = |addrs: &[Addr]| addrs.iter().map(ToString::to_string).collect::<Vec<_>>();
        if !self.json {
            let verb = if self.dry_run { "would be written" } else { "written" };
            let (dir, out) = (dir.display(), &mut *terminal.stdout);
            writeln!(out, "{dir}: {} leases {verb}", done.written.len())?;
            if !done.present.is_empty() {
                writeln!(out, "  {} were there already", done.present.len())?;
            }
            if !done.others.is_empty() {
                let verb = if self.replace { "removed" } else { "kept" };
                writeln!(out, "  {} that are not leased here {verb}", done.others.len())?;
            }
        }
        Ok(json!({
            "network": network.as_str(),
            "folder": dir,
            "dryRun": self.dry_run,
            "written": texts(&done.written),
            "present": texts(&done.present),
            "others": texts(&done.others),
            "last": texts(last),
        }))
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
