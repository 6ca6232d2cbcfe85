//! `sublet import gipam`: Docker networks of gipam go on with subletd.
//!
//! Invariant: the file is read whole before anything is written, and importing it again adds nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;

use super::{Desk, Place, Terminal, World};
use crate::config::gipam;
use crate::engine;

#[derive(Debug, Args)]
pub struct Gipam {
    /// gipam's lease file; stop gipam first
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// subletd's local address space
    #[arg(long, value_name = "NAME", default_value = "sublet-local")]
    address_space: String,
}

impl Gipam {
    pub(super) fn run(
        &self,
        place: &Place,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        let file = read(&self.file, &self.address_space)
            .with_context(|| format!("cannot import {}", self.file.display()))?;
        let mut desk = Desk::of_pools(place, world)?;
        for pool in file.pools {
            let text = format!("{}: {} addresses of {}", pool.id, pool.addrs.len(), pool.subnet);
            engine::adopt_pool(&mut *desk.store, &pool, &desk.cx)?;
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
