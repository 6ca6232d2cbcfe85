//! `sublet import gipam`: imports gipam's pools, so that subletd can serve the Docker networks of gipam.
//!
//! Invariant: the whole file is read before anything is written. A second import adds nothing.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde_json::json;

use super::Call;
use super::tables::number_of;
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
}

impl Gipam {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        call.args.file()?;
        let cannot = || format!("cannot import {}", self.file.display());
        let text = fs::read_to_string(&self.file).with_context(cannot)?;
        let file = gipam::read(&text, &self.address_space);
        let file = file.map_err(|e| anyhow!(e)).with_context(cannot)?;
        let mut open = call.open_pools()?;
        let mut rows = Vec::new();
        for pool in file.pools {
            let (id, subnet) = (pool.id.to_string(), pool.subnet.to_string());
            let count = pool.addrs.len();
            engine::adopt_pool(&mut *open.store, &pool, &open.cx)?;
            if call.as_json {
                rows.push(json!({"pool": id, "subnet": subnet, "addresses": count}));
            } else {
                writeln!(
                    call.stdout,
                    "imported pool {id}: {} of {subnet}",
                    number_of(count, "address")
                )?;
            }
        }
        if call.as_json {
            call.json_rows(&rows)?;
        }
        for block in file.blocks {
            let flag = if block.within.first().family() == Family::V4 { "v4" } else { "v6" };
            let (within, len) = (block.within, block.len);
            writeln!(
                call.stderr,
                "to continue with gipam's address blocks, start subletd with `--{flag} {within} \
                 --{flag}-block {len}`"
            )?;
        }
        Ok(())
    }
}
