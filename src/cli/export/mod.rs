//! `sublet export`: writes leases for another program.
//!
//! Invariant: a second run changes nothing. Each lease that is not exported is reported with the reason.

pub mod host_local;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::{Call, jsonl};

/// Export leases to another program.
#[derive(Debug, Subcommand)]
pub enum Export {
    /// Move leases to host-local's folders
    ///
    /// From the start of the export until the network's configuration names host-local, do not start or stop
    /// containers. The exported leases then belong to host-local and are removed from sublet. If sublet
    /// serves the network again later, its first ADD imports the leases again.
    HostLocal(HostLocal),
    /// Write every record as JSON lines, for `sublet import jsonl`
    ///
    /// Do not start or stop containers during the export, because the records are not all read at the same
    /// moment.
    Jsonl(jsonl::Export),
}

#[derive(Debug, Args)]
pub struct HostLocal {
    /// host-local's `dataDir`, which contains the networks' folders; usually /var/lib/cni/networks
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Export only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Print what would be done without doing it
    #[arg(long)]
    dry_run: bool,
}

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
        // host-local's leases belong to one host, so the leases of a cluster cannot be exported.
        call.args.file()?;
        let mut open = call.open()?;
        let wanted = |network: &str| self.network.as_deref().is_none_or(|name| name == network);
        let chosen = host_local::choose(&mut open, &|name| wanted(name).then(|| self.dir.clone()))?;
        if chosen.networks.is_empty() {
            open.check_network(self.network.as_deref())?;
        }
        let exported = host_local::export(&chosen, &mut open, self.dry_run, call.stderr)?;
        if call.as_json {
            call.json(&exported)?;
        } else {
            exported.iter().try_for_each(|exported| exported.print(call.stdout))?;
        }
        for lease in &chosen.left {
            let (addr, owner) = (lease.addr, &lease.owner);
            writeln!(
                call.stderr,
                "{addr} left out: host-local's format cannot represent the holder ({owner})"
            )?;
        }
        if chosen.networks.is_empty() {
            writeln!(call.stderr, "no leases to export in {}", open.place)?;
            return Ok(());
        }
        if self.dry_run {
            return Ok(());
        }
        let now = host_local::choose(&mut open, &|name| wanted(name).then(|| self.dir.clone()))?;
        now.check_is_empty()
    }
}
