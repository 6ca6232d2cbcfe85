//! `sublet import`: imports another program's leases.
//!
//! Invariant: a second run changes nothing. Each lease that is not imported is reported with the reason.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};

use super::cni_cache::CniCache;
use super::copy::How;
use super::gipam::Gipam;
use super::kontena::Kontena;
use super::open::DEFAULT;
use super::report::{Report, Skipped};
use super::screen::Progress;
use super::{Call, OpenStore, WAIT, jsonl, network_name, report_error};
use crate::alloc;
use crate::config::HOST_LOCAL_DIR;
use crate::engine;
use crate::engine::HostLocalFolder;
use crate::migrate::ecs;
use crate::migrate::host_local_import;
use crate::model::{NetworkName, SetName};
use crate::rows::Text;
use crate::store;

/// Import leases from another program.
#[derive(Debug, Subcommand)]
#[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
pub enum Import {
    /// Import the bolt file of the original ecs-ipam
    ///
    /// Without --store, the new lease file gets the path of the bolt file, so the agent's IPAM_DB_PATH need
    /// not change. The bolt file is kept as FILE.bolt. Stop the agent first.
    EcsIpam(EcsIpam),
    /// Import the folders of host-local
    ///
    /// The first ADD of each network imports its folder automatically. This command does the same at once,
    /// for all networks. Without --store, the leases go into the lease file that such an ADD uses: the
    /// standard file or, if DIR is given, DIR/leases.redb (for networks with that `dataDir`).
    HostLocal(HostLocal),
    /// Import gipam's lease file, so that subletd can serve its Docker networks
    Gipam(Gipam),
    /// Import leases that cni-ipam-consul stored in Consul
    ///
    /// The leases are written to the same Consul. Before the import, ADDs with a configuration of
    /// cni-ipam-consul fail. Stop cni-ipam-consul on all nodes first, because it overwrites keys without
    /// comparing them. Its keys are not changed.
    Consul(Consul),
    /// Lease the addresses of running containers again, from libcni's cached results
    ///
    /// Run this on each node after a store was lost or an older backup was restored. Without --store, the
    /// cached configurations name the store. Containers whose network namespace is gone are skipped. If
    /// another container holds an address, the conflict is reported.
    CniCache(CniCache),
    /// Import the pools and addresses that kontena-ipam stored in etcd, so that subletd can serve its Docker
    /// networks
    Kontena(Kontena),
    /// Import the JSON lines of `sublet export jsonl`
    ///
    /// Existing records stay. If an address has another holder, nothing is imported. If the import was
    /// interrupted, run it again.
    Jsonl(jsonl::Import),
}

#[derive(Debug, Args)]
pub struct EcsIpam {
    /// The bolt file, such as /data/eni-ipam.db
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
pub struct Consul {
    /// The networks' names, which are the first part of their keys in Consul
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
    /// The value of `shared` in the networks' configurations
    #[arg(long, value_name = "NAME")]
    shared: Option<String>,
    /// Print what would be done without doing it
    #[arg(long)]
    dry_run: bool,
}

impl Consul {
    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open_or_create()?;
        let mut reports = Vec::new();
        for name in &self.networks {
            let network = network_name(name)?;
            let set = SetName(self.shared.as_ref().unwrap_or(name).clone());
            let store = &mut *open.store;
            let done = engine::import_consul(store, &set, &network, self.dry_run, &open.cx)?;
            let source = PathBuf::from(format!("{name}/"));
            let mut report = Report::new(&source, Path::new(&open.place), self.dry_run);
            report.done(done);
            if !call.as_json {
                report.print(call)?;
            }
            reports.push(report);
        }
        if call.as_json { call.json(&reports) } else { Ok(()) }
    }
}

#[derive(Debug, Args)]
pub struct HostLocal {
    /// The folder that contains a folder for each network
    #[arg(value_name = "DIR", default_value = HOST_LOCAL_DIR)]
    dir: PathBuf,
    /// Import only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The value of `shared` in the network's configuration
    #[arg(long, value_name = "NAME", requires = "network")]
    shared: Option<String>,
    #[command(flatten)]
    how: How,
}

impl Import {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        match self {
            Import::EcsIpam(ecs) => ecs.run(call),
            Import::Gipam(gipam) => gipam.run(call),
            Import::Consul(consul) => consul.run(call),
            Import::CniCache(cache) => cache.run(call),
            Import::Kontena(kontena) => kontena.run(call),
            Import::Jsonl(jsonl) => jsonl.run(call),
            Import::HostLocal(host_local) => host_local.run(call),
        }
    }
}

impl EcsIpam {
    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let report = self.import(call)?;
        if call.as_json { call.json(&report) } else { report.print(call) }
    }

    fn import(&self, call: &Call<'_>) -> Result<Report> {
        let store = call.args.file()?.unwrap_or_else(|| self.file.clone());
        let in_place = store == self.file;
        let mut report = Report::new(&self.file, &store, self.how.dry_run);
        if in_place && store::is_converted(&self.file)? {
            report.before = true;
            return Ok(report);
        }
        // `old` holds the lock of the bolt file until the leases have been imported.
        let old = ecs::read(&self.file, WAIT)?;
        let import = alloc::Import {
            set: SetName(NetworkName::ecs().to_string()),
            leases: old.leases.clone(),
            cursors: old.cursors.clone(),
            adopts: None,
            partial: false,
            dry_run: self.how.dry_run,
        };
        report.cursors = old.cursors.iter().copied().map(Text).collect();
        let skipped = old.skipped.iter().cloned();
        report.skipped = skipped.map(|(what, why)| Skipped { what, why }).collect();
        let done = if in_place {
            let cx = call.world.facts.context();
            let (done, kept) = engine::convert(&self.file, WAIT, import, &cx)?;
            report.kept = kept;
            done
        } else {
            let mut open = call.open_file(store, self.how.persist.unwrap_or_default())?;
            engine::import(&mut *open.store, import, &open.cx)?
        };
        report.done(done);
        Ok(report)
    }
}

impl HostLocal {
    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let named = call.args.named(call.world.env)?;
        let is_default = self.dir == Path::new(HOST_LOCAL_DIR);
        // This is the lease file that an ADD uses for a network with `dataDir` DIR.
        let usual = || if is_default { DEFAULT.into() } else { self.dir.join("leases.redb") };
        let mut open =
            call.open_file(named.unwrap_or_else(usual), self.how.persist.unwrap_or_default())?;
        let host_local_import::Networks { found: mut networks, mut skipped } =
            host_local_import::networks(&self.dir)?;
        if let Some(only) = &self.network {
            networks.retain(|n| n.as_str() == only);
            skipped.clear();
            if networks.is_empty() {
                return Err(anyhow!(
                    "no host-local folder for network {only} in {}",
                    self.dir.display()
                ));
            }
        }
        let progress = Progress::new(Some(networks.len()), "importing networks");
        let import = |network| {
            let done = self.one(network, &mut open);
            progress.step();
            done
        };
        let done: Vec<Result<Report>> = networks.iter().map(import).collect();
        drop(progress);
        let mut reports = Vec::new();
        for done in done {
            match done {
                Ok(report) => reports.push(report),
                // If one network fails, the others are still imported.
                Err(e) => report_error(call.stderr, &call.screen, &e),
            }
        }
        if call.as_json {
            call.json(&reports)?;
        } else {
            for report in &reports {
                report.print(call)?;
            }
            for (what, why) in &skipped {
                let place = self.dir.join(what);
                writeln!(call.stderr, "{}: left out: {why}", place.display())?;
            }
        }
        match (networks.len() - reports.len(), networks.len()) {
            (0, _) => Ok(()),
            (failed, all) => Err(anyhow!("could not import {failed} of {all} networks")),
        }
    }

    fn one(&self, network: &NetworkName, open: &mut OpenStore) -> Result<Report> {
        let dir = self.dir.join(network.as_str());
        let mut report = Report::new(&dir, Path::new(&open.place), self.how.dry_run);
        let set = SetName(self.shared.clone().unwrap_or_else(|| network.to_string()));
        let legacy = HostLocalFolder { dir: &dir, network, wait: WAIT };
        let dry_run = self.how.dry_run;
        let (done, cursors) =
            engine::import_host_local(&mut *open.store, legacy, set, dry_run, &open.cx)?;
        report.cursors = cursors.into_iter().map(Text).collect();
        report.done(done);
        Ok(report)
    }
}
