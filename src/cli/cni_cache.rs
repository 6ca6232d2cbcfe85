//! `sublet import cni-cache`: leases the addresses of running containers again, as recorded in libcni's
//! cached results.
//!
//! Each cached record contains the configuration of its ADD. Without `--store`, this configuration names the
//! store. To import a record, the command runs an ordinary ADD that requests the addresses in the record.
//! Invariant: if a record's network namespace is gone, nothing is leased. If another container holds an
//! address, that container keeps the address, and the conflict is reported.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde::Serialize;
use serde_with::skip_serializing_none;

use super::Call;
use super::screen::visible;
use crate::alloc::{Check, OnDuplicate, Requested};
use crate::config::{Config, Inputs};
use crate::engine;
use crate::engine::HostLocalFolder;
use crate::error::{Error, Refusal};
use crate::liveness;
use crate::liveness::stale::Namespaces;
use crate::migrate::cni_cache;
use crate::migrate::cni_cache::Cached;
use crate::model::{StoreSpec, short};
use crate::net::Addr;
use crate::rows::Text;
use crate::store;

#[derive(Debug, Args)]
pub struct CniCache {
    /// The folder of the cached results
    #[arg(value_name = "DIR", default_value = "/var/lib/cni/results")]
    dir: PathBuf,
    /// Import only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The `ipam` type in the cached configurations, such as host-local if sublet has replaced that plugin
    #[arg(long = "type", value_name = "NAME", default_value = "sublet")]
    ipam: String,
    /// Print what would be imported without importing it
    #[arg(long)]
    dry_run: bool,
}

/// A cached record, and the result of importing it.
#[skip_serializing_none]
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    file: String,
    network: Option<String>,
    container: Option<String>,
    addresses: Vec<Text<Addr>>,
    outcome: Outcome,
    reason: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Outcome {
    /// The import leased the addresses to the container.
    Imported,
    /// The container already held the addresses.
    Present,
    /// The container's network namespace is gone.
    Gone,
    /// The record was not imported: another container holds an address, or the record is invalid.
    Refused,
}

impl CniCache {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        if call.args.store.is_some() {
            call.open()?;
        }
        let names = fs::read_dir(&self.dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let names = names.with_context(|| format!("cannot read {}", self.dir.display()))?;
        let mut files: Vec<PathBuf> = names.into_iter().map(|entry| entry.path()).collect();
        files.sort();
        let mut records = Vec::new();
        for file in files {
            let record = cni_cache::read(&file, &self.ipam).transpose();
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            records.extend(record.map(|record| (name, record)));
        }
        if let Some(only) = &self.network {
            records.retain(|(_, record)| record.as_ref().is_ok_and(|r| r.network == *only));
            if records.is_empty() {
                return Err(anyhow!(
                    "no cached result of network {only} in {}",
                    self.dir.display()
                ));
            }
        }
        let found = records.iter().filter_map(|(_, record)| record.as_ref().ok()?.netns.as_deref());
        let namespaces = liveness::namespaces(found);
        let rows: Vec<Row> = records
            .into_iter()
            .map(|(file, record)| self.row(file, record, &namespaces, call))
            .collect();
        self.print(&rows, call)?;
        if !rows.is_empty() && rows.iter().all(|row| row.outcome == Outcome::Gone) {
            writeln!(
                call.stderr,
                "no network namespace of these containers is visible here; if some of the containers are \
                 running, run this command in the host's mount namespace"
            )?;
        }
        match rows.iter().filter(|row| row.outcome == Outcome::Refused).count() {
            0 => Ok(()),
            refused => Err(anyhow!("could not import {refused} of {} cached results", rows.len())),
        }
    }

    fn row(
        &self,
        file: String,
        record: Result<Cached, String>,
        namespaces: &Namespaces,
        call: &mut Call<'_>,
    ) -> Row {
        let mut row = Row {
            file,
            network: None,
            container: None,
            addresses: Vec::new(),
            outcome: Outcome::Refused,
            reason: None,
        };
        let done = record.map_err(|why| anyhow!(why)).and_then(|record| {
            row.network = Some(record.network.clone());
            row.container = Some(record.container.clone());
            row.addresses = record.addrs.iter().copied().map(Text).collect();
            if let Some(why) = record.netns.as_ref().and_then(|netns| namespaces.gone(netns)) {
                row.reason = Some(why);
                return Ok(Outcome::Gone);
            }
            self.import(&record, call)
        });
        match done {
            Ok(outcome) => row.outcome = outcome,
            Err(e) => row.reason = Some(format!("{e:#}")),
        }
        row
    }

    fn import(&self, record: &Cached, call: &mut Call<'_>) -> Result<Outcome> {
        // A variable that is not valid UTF-8 is an error. If it were ignored, the command could use the wrong
        // store.
        let variable = |name| match (call.world.env)(name).map(OsString::into_string) {
            Some(Err(_)) => Err(anyhow!("the value of {name} is not valid UTF-8")),
            found => Ok(found.and_then(Result::ok)),
        };
        let env = Inputs {
            db_path: variable("IPAM_DB_PATH")?,
            db_timeout: variable("IPAM_DB_CONNECTION_TIMEOUT")?,
            ..Inputs::default()
        };
        let (netconf, inputs) = record.netconf(&env).map_err(|why| anyhow!(why))?;
        let mut config = netconf.config(&inputs)?;
        let facts = call.world.facts;
        let (mut store, cx) = match (call.args.store.is_some(), &config.cleanup.store) {
            (true, StoreSpec::Embedded { persist, .. }) if call.args.cluster().is_none() => {
                let path = call.args.file()?.unwrap_or_default();
                let open = call.open_file(path, *persist)?;
                (open.store, open.cx)
            }
            (true, _) => {
                let open = call.open()?;
                (open.store, open.cx)
            }
            (false, spec) => (store::open(spec)?, facts.context_of(spec)),
        };
        let owner =
            config.cleanup.owner.take().context("the cached configuration names no container")?;
        let network = config.cleanup.network.clone();
        let addrs = restrict(&mut config, &record.addrs)?;
        if self.dry_run {
            let (set, sets) = (config.cleanup.set.clone(), config.sets.clone());
            let check = Check { set, owner, sets, expected: Some(addrs) };
            return match engine::check(&mut *store, check, &cx) {
                Ok(()) => Ok(Outcome::Present),
                Err(Error::Refused(Refusal::Missing { .. } | Refusal::Different { .. })) => {
                    Ok(Outcome::Imported)
                }
                Err(error) => Err(error.into()),
            };
        }
        let add = config.take_add(owner, record.netns.clone().map(|path| facts.netns(path)), None);
        let host_local = HostLocalFolder::of(&config.cleanup);
        let added = engine::add(&mut *store, add, host_local, &cx)
            .with_context(|| format!("network {network}"))?;
        Ok(if added.created.is_empty() { Outcome::Present } else { Outcome::Imported })
    }

    fn print(&self, rows: &[Row], call: &mut Call<'_>) -> Result<()> {
        if call.as_json {
            return call.json_rows(rows);
        }
        for row in rows {
            let what = match (row.outcome, self.dry_run) {
                (Outcome::Imported, false) => "imported",
                (Outcome::Imported, true) => "would be imported",
                (Outcome::Present, _) => "present",
                (Outcome::Gone, _) => "skipped",
                (Outcome::Refused, _) => "refused",
            };
            let reason = row.reason.as_ref().map(|why| format!(": {}", visible(why)));
            let (file, reason) = (visible(&row.file), reason.unwrap_or_default());
            let addresses: Vec<String> = row.addresses.iter().map(|a| a.0.to_string()).collect();
            match (&row.network, &row.container) {
                (Some(network), Some(container)) => writeln!(
                    call.stdout,
                    "{what}: {} of network {}, container {}{reason}",
                    addresses.join(" and "),
                    visible(network),
                    visible(&short(container)),
                )?,
                _ => writeln!(call.stdout, "{what}: {file}{reason}")?,
            }
        }
        let count = |outcome| rows.iter().filter(|row| row.outcome == outcome).count();
        Ok(writeln!(
            call.stderr,
            "{} imported{}, {} already present, {} skipped (container gone), {} refused",
            count(Outcome::Imported),
            if self.dry_run { " (dry run)" } else { "" },
            count(Outcome::Present),
            count(Outcome::Gone),
            count(Outcome::Refused),
        )?)
    }
}

/// Changes the configuration so that its ADD requests exactly these addresses. Removes the range sets that
/// contain none of these addresses. Returns the addresses that lie in a range; fails if there are none.
fn restrict(config: &mut Config, addrs: &[Addr]) -> Result<Vec<Addr>> {
    let holds = |addr: &Addr| config.sets.iter().any(|set| set.range_of(*addr).is_some());
    let addrs: Vec<Addr> = addrs.iter().copied().filter(holds).collect();
    if addrs.is_empty() {
        return Err(anyhow!(
            "none of the container's addresses is in a range of its network configuration"
        ));
    }
    config.sets.retain(|set| addrs.iter().any(|addr| set.range_of(*addr).is_some()));
    config.wanted = addrs.iter().map(|&addr| Requested { addr, prefix: None }).collect();
    config.on_duplicate = OnDuplicate::Same;
    Ok(addrs)
}
