//! `sublet import gipam`: Docker networks of gipam continue with subletd.
//!
//! Invariant: the whole file is read before anything is written; importing it again adds nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde_json::json;

use super::Call;
use crate::engine;
use crate::migrate::gipam;
use crate::net::Family;

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
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        call.args.file()?;
        let file = read(&self.file, &self.address_space)
            .with_context(|| format!("cannot import {}", self.file.display()))?;
        let mut open = call.open_pools()?;
        let mut rows = Vec::new();
        for pool in file.pools {
            let (id, subnet) = (pool.id.to_string(), pool.subnet.to_string());
            let count = pool.addrs.len();
            engine::adopt_pool(&mut *open.store, &pool, &open.cx)?;
            if self.json {
                rows.push(json!({"pool": id, "subnet": subnet, "addresses": count}));
            } else {
                writeln!(call.stdout, "imported pool {id}: {count} addresses of {subnet}")?;
            }
        }
        if self.json {
            call.json_rows(&rows)?;
        }
        for block in file.blocks {
            let flag = if block.within.first().family() == Family::V4 { "v4" } else { "v6" };
            let (within, len) = (block.within, block.len);
            writeln!(call.stderr, "start subletd with --{flag} {within} --{flag}-block {len}")?;
        }
        Ok(())
    }
}

fn read(path: &Path, space: &str) -> Result<gipam::LeaseFile> {
    let text = std::fs::read_to_string(path)?;
    gipam::read(&text, space).map_err(|e| anyhow!(e))
}
