//! `sublet import`: take over what another program leased.
//!
//! Owns: where the leases come from and go to, and the report. Does not own: reading the other
//! program's files, what becomes of a lease.
//! Invariant: a second run changes nothing; what was left out is told with its reason.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::gipam::Gipam;
use super::kontena::Kontena;
use super::report::Report;
use super::screen::Progress;
use super::{Desk, Place, Terminal, WAIT, World, fail, jsonl, misuse};
use crate::alloc;
use crate::engine;
use crate::engine::HostLocalFolder;
use crate::migrate::ecs;
use crate::migrate::host_local_import;
use crate::model::{NetworkName, Persist, SetName};
use crate::store;

/// Take over what another program leased.
#[derive(Debug, Args)]
pub struct Import {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::doc_markdown, reason = "a person sees these texts as they stand here")]
enum From {
    /// The leases in the bolt file of the original ecs-ipam
    ///
    /// Without --store the new lease file takes the old one's name, and that is kept as FILE.bolt:
    /// the agent's IPAM_DB_PATH stays as it is. Stop the agent first.
    EcsIpam(EcsIpam),
    /// The leases in the folders of host-local
    ///
    /// Each network's first ADD does the same by itself; this does it beforehand, for all networks.
    /// Without --store they go where that ADD looks: DIR/leases.redb if DIR is given, for a network
    /// with that `dataDir`; else the standard file.
    HostLocal(HostLocal),
    /// The lease file of gipam, a Docker IPAM driver: Docker's networks of it go on with subletd
    Gipam(Gipam),
    /// The leases that cni-ipam-consul kept in a Consul, into the same
    ///
    /// The first ADD with such a configuration does the same by itself. Stop cni-ipam-consul on all
    /// nodes first: it overwrites without comparing. Its keys stay as they are.
    Consul(Consul),
    /// The pools and addresses that kontena-ipam kept in etcd: Docker's networks of it go on with
    /// subletd
    Kontena(Kontena),
    /// The JSON lines that `sublet export jsonl` wrote
    ///
    /// What is here already stays; an address with another holder refuses all of it. Stopped midway it
    /// is simply repeated.
    Jsonl(jsonl::Import),
}

#[derive(Debug, Args)]
struct EcsIpam {
    /// The file, such as /data/eni-ipam.db
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct Consul {
    /// The networks' names: what their keys begin with
    #[arg(value_name = "NETWORK", required = true)]
    networks: Vec<String>,
    /// What the networks' configurations say as `shared`
    #[arg(long, value_name = "NAME")]
    shared: Option<String>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

impl Consul {
    fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let mut reports = Vec::new();
        for name in &self.networks {
            let network = NetworkName::new(name.as_str())
                .map_err(|_| misuse(format!("{name:?} is no network's name")))?;
            let set = SetName(self.shared.as_ref().unwrap_or(name).clone());
            let done =
                engine::import_consul(&mut *desk.store, &set, &network, self.dry_run, &desk.cx)?;
            let source = PathBuf::from(format!("{name}/"));
            let mut report = Report::new(&source, Path::new(&desk.place), self.dry_run);
            report.done(done);
            if !self.json {
                report.write(terminal, false)?;
            }
            reports.push(report);
        }
        if self.json {
            let all: Vec<Value> = reports.iter().map(Report::json).collect();
            writeln!(terminal.stdout, "{:#}", Value::from(all))?;
        }
        Ok(terminal.stdout.flush()?)
    }
}

#[derive(Debug, Args)]
struct HostLocal {
    /// The folder that has a folder for each network
    #[arg(value_name = "DIR", default_value = HOST_LOCAL_DIR)]
    dir: PathBuf,
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// What the network's configuration says as `shared`
    #[arg(long, value_name = "NAME", requires = "network")]
    shared: Option<String>,
    #[command(flatten)]
    how: How,
}

/// host-local's default.
const HOST_LOCAL_DIR: &str = "/var/lib/cni/networks";

/// What all imports can be told.
#[derive(Debug, Args)]
pub struct How {
    /// How long the leases live: what the network's configuration says as `persist`
    #[arg(
        long,
        value_enum,
        default_value = "boot",
        value_name = "boot|disk",
        hide_possible_values = true
    )]
    persist: Word,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Word {
    Boot,
    Disk,
}

impl How {
    fn persist(&self) -> Persist {
        match self.persist {
            Word::Boot => Persist::Boot,
            Word::Disk => Persist::Disk,
        }
    }
}

impl Import {
    pub(super) fn run(
        &self,
        place: &Place,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        match &self.from {
            From::EcsIpam(ecs) => {
                let report = ecs.run(place.file()?.as_deref(), world)?;
                report.write(terminal, ecs.how.json)
            }
            From::Gipam(gipam) => gipam.run(place, world, terminal),
            From::Consul(consul) => consul.run(&mut Desk::open(place, world, terminal)?, terminal),
            From::Kontena(kontena) => kontena.run(place, world, terminal),
            From::Jsonl(jsonl) => jsonl.run(&mut Desk::open(place, world, terminal)?, terminal),
            From::HostLocal(host_local) => host_local.run(place.named(world.env)?, world, terminal),
        }
    }
}

impl EcsIpam {
    fn run(&self, store: Option<&Path>, world: World<'_>) -> Result<Report> {
        let in_place = store.is_none_or(|store| store == self.file);
        let store_path = store.unwrap_or(&self.file);
        let mut report = Report::new(&self.file, store_path, self.how.dry_run);
        if in_place && store::is_converted(&self.file)? {
            report.before = true;
            return Ok(report);
        }
        // Its lock is held until the leases are ours.
        let old = ecs::read(&self.file, WAIT)?;
        let import = alloc::Import {
            set: SetName(NetworkName::ecs().to_string()),
            leases: old.leases.clone(),
            cursors: old.cursors.clone(),
            adopts: None,
            partial: false,
            dry_run: self.how.dry_run,
        };
        report.cursors.clone_from(&old.cursors);
        report.skipped.clone_from(&old.skipped);
        let done = if in_place {
            let (done, kept) = engine::convert(&self.file, WAIT, import, &world.facts.context())?;
            report.kept = kept;
            done
        } else {
            let mut desk = Desk::at(store_path.to_owned(), self.how.persist(), world)?;
            engine::import(&mut *desk.store, import, &desk.cx)?
        };
        report.done(done);
        Ok(report)
    }
}

impl HostLocal {
    fn run(
        &self,
        named: Option<PathBuf>,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        let mut desk = Desk::at(self.store(named), self.how.persist(), world)?;
        let host_local_import::Networks { found: mut networks, mut skipped } =
            host_local_import::networks(&self.dir)?;
        if let Some(only) = &self.network {
            networks.retain(|n| n.as_str() == only);
            skipped.clear();
            if networks.is_empty() {
                return Err(anyhow!("{} has no folder {only} of host-local", self.dir.display()));
            }
        }
        let mut reports = Vec::new();
        let mut failed = 0;
        let progress = Progress::of(networks.len(), "taking over networks");
        let done: Vec<_> = networks
            .iter()
            .map(|network| {
                let done = self.one(network, &mut desk);
                progress.step();
                done
            })
            .collect();
        drop(progress);
        for done in done {
            match done {
                Ok(report) => reports.push(report),
                // One that cannot be taken over keeps no other from it.
                Err(e) => failed += fail(terminal, &e),
            }
        }
        if self.how.json {
            let all: Vec<Value> = reports.iter().map(Report::json).collect();
            writeln!(terminal.stdout, "{:#}", Value::from(all))?;
        } else {
            for report in &reports {
                report.write(terminal, false)?;
            }
            for (what, why) in &skipped {
                let place = self.dir.join(what);
                writeln!(terminal.stderr, "{}: left out: {why}", place.display())?;
            }
        }
        terminal.stdout.flush()?;
        match failed {
            0 => Ok(()),
            _ => Err(anyhow!("{failed} of {} networks could not be taken over", networks.len())),
        }
    }

    fn one(&self, network: &NetworkName, desk: &mut Desk) -> Result<Report> {
        let dir = self.dir.join(network.as_str());
        let mut report = Report::new(&dir, Path::new(&desk.place), self.how.dry_run);
        let set = SetName(self.shared.clone().unwrap_or_else(|| network.to_string()));
        let legacy = HostLocalFolder { dir: &dir, network, wait: WAIT };
        let dry_run = self.how.dry_run;
        let (done, cursors) =
            engine::import_host_local(&mut *desk.store, legacy, set, dry_run, &desk.cx)?;
        report.cursors = cursors;
        report.done(done);
        Ok(report)
    }

    /// The file that an ADD with this `dataDir` uses.
    fn store(&self, named: Option<PathBuf>) -> PathBuf {
        named.unwrap_or_else(|| {
            if self.dir == Path::new(HOST_LOCAL_DIR) {
                PathBuf::from(super::DEFAULT)
            } else {
                self.dir.join("leases.redb")
            }
        })
    }
}
