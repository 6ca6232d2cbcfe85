//! `sublet release`: free a lease that its runtime forgot.
//!
//! Invariant: only a lease that was shown is freed; its owner is looked at again inside the
//! transaction. Leases in several networks are never freed at one word.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use clap::Args;

use super::output;
use super::output::visible;
use super::{Desk, Terminal, confirm};
use crate::alloc::{Del, Target};
use crate::engine;
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
    /// What was freed, as an array of objects
    #[arg(long)]
    json: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Release {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let leases = desk.named(&self.name, self.network.as_deref())?;
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
            let network = shown_network(lease);
            let what = format!("{addr} of network {network}, held by {owner}");
            if !self.yes && !confirm(terminal, &format!("free {what}"))? {
                writeln!(terminal.stderr, "kept {what}")?;
                continue;
            }
            let target = Target::Some(owner.clone(), vec![addr]);
            let del =
                Del { set: lease.set.clone(), target, rewind: false, undo: false, legacy: None };
            let cx = desk.cx_for(lease);
            let freed = engine::del(&mut *desk.store, del, None, &cx)?;
            if self.json {
                let lease = LeaseRow::new(lease);
                rows.push(FreedRow {
                    lease,
                    verdict: None,
                    reason: None,
                    freed: !freed.is_empty(),
                });
                continue;
            }
            let word = if freed.is_empty() { "was free already:" } else { "freed" };
            writeln!(terminal.stdout, "{word} {}", visible(&what))?;
        }
        if self.json {
            output::json(terminal.stdout, &rows)?;
        }
        Ok(terminal.stdout.flush()?)
    }
}
