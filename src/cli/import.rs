//! `sublet import`: take over what another program has leased.
//!
//! Invariant: a file is read whole before anything is written, and importing it again adds nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};

use super::{Desk, Terminal};
use crate::config::gipam;
use crate::engine;
use crate::model::{Persist, StoreSpec};
use crate::store;

/// Take over what another program has leased.
#[derive(Debug, Args)]
pub struct Import {
    #[command(subcommand)]
    from: From,
}

#[derive(Debug, Subcommand)]
enum From {
    /// The lease file of gipam, a Docker IPAM driver: Docker's networks of it go on with subletd
    Gipam(Gipam),
}

#[derive(Debug, Args)]
struct Gipam {
    /// gipam's lease file; stop gipam first
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// subletd's local address space
    #[arg(long, value_name = "NAME", default_value = "sublet-local")]
    address_space: String,
}

impl Import {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let From::Gipam(import) = &self.from;
        let file = read(&import.file, &import.address_space)
            .with_context(|| format!("cannot import {}", import.file.display()))?;
        // Docker's pools outlive a boot.
        let path = desk.place.clone();
        let spec = StoreSpec::Embedded { path, persist: Persist::Disk, wait: super::WAIT };
        let mut store = store::open(&spec)?;
        for pool in file.pools {
            let text = format!("{}: {} addresses of {}", pool.id, pool.addrs.len(), pool.subnet);
            engine::adopt_pool(&mut *store, pool, &desk.cx)?;
            writeln!(terminal.stdout, "imported pool {text}")?;
        }
        for block in file.blocks {
            let flag =
                if block.within.first().family() == crate::net::Family::V4 { "v4" } else { "v6" };
            let (within, len) = (block.within, block.len);
            writeln!(terminal.stderr, "start subletd with --{flag} {within} --{flag}-block {len}")?;
        }
        Ok(terminal.stdout.flush()?)
    }
}

fn read(path: &Path, space: &str) -> Result<gipam::LeaseFile> {
    let text = std::fs::read_to_string(path)?;
    gipam::read(&text, space).map_err(|e| anyhow!(e))
}
