//! `sublet network`: shows and changes the definition of a network that a cluster stores.
//!
//! This module reads a definition from a file. If existing leases lie outside the new ranges, it asks the
//! operator to confirm the change. [`crate::config`] validates definitions.
//! Invariant: a new definition replaces only the version that was read. If the definition has changed since
//! then, the command fails.

use std::fs::File;
use std::io::{self, Read};

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::screen::visible;
use super::tables::number_of;
use super::{Call, OpenStore, misuse, network_name};
use crate::alloc::DefineNetwork;
use crate::config::define;
use crate::engine;
use crate::error::shown_network;
use crate::model::Lease;
use crate::net::{RangeSet, describe};
use crate::rows::Time;

/// The maximum length of a definition, in bytes. This fits into a single value of etcd and of Consul.
const LONGEST: u64 = 256 << 10;
/// The maximum number of leases that are listed. The other leases are only counted.
const NAMED: usize = 10;

/// Show or change a network's definition in a cluster.
#[derive(Debug, Subcommand)]
pub enum Network {
    /// Show a network's definition; --json prints it in the form that `set` reads
    Show(Show),
    /// Define a network, or change its definition
    Set(Set),
}

#[derive(Debug, Args)]
pub struct Show {
    /// The network
    #[arg(value_name = "NAME")]
    name: String,
}

#[derive(Debug, Args)]
pub struct Set {
    /// The network
    #[arg(value_name = "NAME")]
    name: String,
    /// A network configuration, a plugin list, or the output of `show --json`; - for standard input
    #[arg(value_name = "FILE")]
    file: String,
    /// Replace only this version; 0: set only if none is stored [default: the version in FILE, otherwise
    /// the stored version]
    #[arg(long, value_name = "N", verbatim_doc_comment)]
    version: Option<u64>,
    /// Change the definition without asking, even if leases would be outside every range
    #[arg(long, short)]
    yes: bool,
}

impl Network {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        if !open.is_cluster() {
            return Err(misuse(format!(
                "{} is a lease file, which cannot store network definitions; name a cluster with `--store`",
                open.place
            )));
        }
        match self {
            Network::Show(show) => show.run(&mut open, call),
            Network::Set(set) => set.run(&mut open, call),
        }
    }
}

impl Show {
    fn run(&self, open: &mut OpenStore, call: &mut Call<'_>) -> Result<()> {
        let network = network_name(&self.name)?;
        let Some(record) = engine::definition(&mut *open.store, &network)? else {
            return Err(anyhow!(
                "no definition of network {network} in {}; create one with `sublet network set {network} \
                 FILE`, or with \"define\": true in the network configuration",
                open.place
            ));
        };
        let (version, by, time) = (record.version, &record.by, Time(record.time));
        let ipam: Value = serde_json::from_str(&record.text)
            .with_context(|| format!("the definition of network {network} is damaged"))?;
        if call.as_json {
            return call.json(&json!({
                "name": network.as_str(), "version": version, "by": by, "time": time, "ipam": ipam,
            }));
        }
        let by = visible(by);
        Ok(writeln!(
            call.stdout,
            "network    {network}\nversion    {version}\nby         {by}\nsince      {time}\n{ipam:#}"
        )?)
    }
}

impl Set {
    fn run(&self, open: &mut OpenStore, call: &mut Call<'_>) -> Result<()> {
        let network = network_name(&self.name)?;
        let bytes = read(&self.file)?;
        let (text, written) =
            define::from_file(&bytes, &network).with_context(|| self.file.clone())?;
        let config = define::read(&text, &network).with_context(|| self.file.clone())?;
        for warning in &config.warnings {
            writeln!(call.stderr, "sublet: {warning}")?;
        }
        let kept = engine::definition(&mut *open.store, &network)?.map(|record| record.version);
        let version = match self.version.or(written) {
            Some(version) => Some(version).filter(|version| *version > 0),
            None => kept,
        };
        if version == kept {
            let outside = open.leases(&|lease| {
                let of = shown_network(lease) == network.as_str() && lease.kind.collectable();
                of && !config.sets.iter().any(|set| set.range_of(lease.addr).is_some())
            })?;
            if !outside.is_empty() && !self.is_sure(&outside, &config.sets, call)? {
                return Ok(writeln!(
                    call.stderr,
                    "canceled; the definition of network {network} was not changed"
                )?);
            }
        }
        let define = DefineNetwork { network: network.clone(), text, version };
        let version = engine::define(&mut *open.store, define, &open.cx)?;
        if call.as_json {
            return call.json(&json!({"network": network.as_str(), "version": version}));
        }
        Ok(writeln!(call.stdout, "network {network}: wrote version {version} of the definition")?)
    }

    fn is_sure(&self, outside: &[Lease], sets: &[RangeSet], call: &mut Call<'_>) -> Result<bool> {
        for lease in outside.iter().take(NAMED) {
            let (addr, owner) = (lease.addr, &lease.owner);
            writeln!(
                call.stderr,
                "{addr}, leased to {owner} on node {}, is outside the new ranges",
                visible(&lease.node.name)
            )?;
        }
        let count = number_of(outside.len(), "address");
        let question = format!(
            "define network {} with {}, although {count} outside these ranges will stay leased until the \
             containers end",
            visible(&self.name),
            describe(sets)
        );
        Ok(self.yes || call.confirm(&question)?)
    }
}

fn read(file: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).context(file.to_owned())?)
    };
    source.take(LONGEST + 1).read_to_end(&mut bytes).with_context(|| file.to_owned())?;
    if bytes.len() as u64 > LONGEST {
        return Err(anyhow!("{file} is larger than {} KiB", LONGEST >> 10));
    }
    Ok(bytes)
}
