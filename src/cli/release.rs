//! `sublet release`: frees a lease that its runtime forgot.
//!
//! Invariant: only a lease that was shown is freed, and only if it still has that owner. Leases in several
//! networks are never freed by one answer.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use clap::Args;

use super::Call;
use super::screen::visible;
use crate::alloc::Target;
use crate::error::shown_network;
use crate::net::Addr;
use crate::rows::{FreedRow, LeaseRow};

/// Free an address, or all of a container's.
#[derive(Debug, Args)]
pub struct Release {
    /// An address; a container ID or the beginning of one; an ECS id; a pod as namespace/name
    #[arg(value_name = "ADDRESS|CONTAINER")]
    name: String,
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Release {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let leases = open.named(&self.name, self.network.as_deref())?;
        let networks: BTreeSet<&str> = leases.iter().map(shown_network).collect();
        // A container may be asked for one by one; an address on several is several things.
        if networks.len() > 1 && (self.yes || self.name.parse::<Addr>().is_ok()) {
            let networks: Vec<&str> = networks.into_iter().collect();
            return Err(anyhow!(
                "{} has leases in several networks: {}; name one with --network",
                self.name,
                networks.join(", ")
            ));
        }
        let mut rows = Vec::new();
        for lease in &leases {
            let (addr, owner) = (lease.addr, &lease.owner);
            let what = format!("{addr} of network {}, held by {owner}", shown_network(lease));
            if !self.yes && !call.confirm(&format!("free {what}"))? {
                writeln!(call.stderr, "kept {what}")?;
                continue;
            }
            let freed = open.free(lease, Target::Some(owner.clone(), vec![addr]))?;
            if call.as_json {
                let lease = LeaseRow::new(lease);
                rows.push(FreedRow { lease, verdict: None, reason: None, freed });
                continue;
            }
            let word = if freed { "freed" } else { "was free already:" };
            writeln!(call.stdout, "{word} {}", visible(&what))?;
        }
        if call.as_json { call.json_rows(&rows) } else { Ok(()) }
    }
}
