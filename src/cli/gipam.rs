//! `sublet import gipam`: Docker networks of gipam go on with subletd.
//!
//! Invariant: the file is read whole before anything is written, and importing it again adds nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::{Desk, Place, Terminal, World};
use crate::engine;
use crate::migrate::gipam;

#[derive(Debug, Args)]
pub struct Gipam {
    /// gipam's lease file; stop gipam first
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// subletd's local address space
    #[arg(long, value_name = "NAME", default_value = "sublet-local")]
    address_space: String,
    /// The pools, as an array of objects
    #[arg(long)]
    json: bool,
}

impl Gipam {
    pub(super) fn run(
        &self,
        place: &Place,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        place.file()?;
        let file = read(&self.file, &self.address_space)
            .with_context(|| format!("cannot import {}", self.file.display()))?;
        let mut desk = Desk::of_pools(place, world)?;
        let mut rows = Vec::new();
        for pool in file.pools {
            let (id, subnet) = (pool.id.to_string(), pool.subnet.to_string());
            let count = pool.addrs.len();
            engine::adopt_pool(&mut *desk.store, &pool, &desk.cx)?;
            if self.json {
                rows.push(json!({"pool": id, "subnet": subnet, "addresses": count}));
            } else {
                writeln!(terminal.stdout, "imported pool {id}: {count} addresses of {subnet}")?;
            }
        }
        if self.json {
            writeln!(terminal.stdout, "{:#}", Value::from(rows))?;
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
