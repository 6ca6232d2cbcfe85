//! `sublet release`: frees leases whose DEL was lost.
//!
//! Invariant: a lease is freed only if its owner has not changed since the command read the lease. A single
//! "y" never frees leases in several networks. A reservation is freed only with `--reservation`.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow};
use clap::Args;

use super::tables::named;
use super::{Call, UNIQUE};
use crate::alloc::{Target, Unreserve};
use crate::engine;
use crate::error::shown_network;
use crate::liveness;
use crate::liveness::stale::{self, Liveness};
use crate::model::{Kind, Lease};
use crate::net::Addr;
use crate::rows::{FreedRow, LeaseRow};

/// Free addresses, or all addresses of containers
#[derive(Debug, Args)]
pub struct Release {
    /// An address; a container ID or its first four characters or more; an ECS id; a pod as namespace/name
    #[arg(value_name = "ADDRESS|CONTAINER", required = true)]
    names: Vec<String>,
    /// Search only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Free reserved addresses too, as `sublet unreserve` does
    #[arg(long)]
    reservation: bool,
    /// Free without asking
    #[arg(long, short)]
    yes: bool,
}

impl Release {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let mut leases: Vec<Lease> = Vec::new();
        for name in &self.names {
            let found = open.named(name, UNIQUE, self.network.as_deref())?;
            self.check(name, &found)?;
            for lease in found {
                if !leases.contains(&lease) {
                    leases.push(lease);
                }
            }
        }
        // All names are checked before any lease is freed.
        let evidence = liveness::evidence(&leases, &open.cx, 0, true, Vec::new());
        let alive = stale::assess(&leases, &evidence);
        let mut rows = Vec::new();
        for (lease, liveness) in leases.iter().zip(&alive) {
            let what = describe(lease, liveness);
            if !self.yes && !call.confirm(&format!("release {what}"))? {
                writeln!(call.stderr, "kept {what}")?;
                continue;
            }
            let freed = if lease.kind == Kind::Reserved {
                let unreserve = Unreserve { set: lease.set.clone(), addrs: vec![lease.addr] };
                !engine::unreserve(&mut *open.store, unreserve, &open.cx)?.is_empty()
            } else {
                open.free(lease, Target::Some(lease.owner.clone(), vec![lease.addr]))?
            };
            if call.as_json {
                let lease = LeaseRow::new(lease);
                rows.push(FreedRow { lease, verdict: None, reason: None, freed });
                continue;
            }
            let word = if freed { "freed" } else { "already free:" };
            writeln!(call.stdout, "{word} {what}")?;
        }
        if call.as_json { call.json_rows(&rows) } else { Ok(()) }
    }

    /// Fails if the leases found for `name` are in several networks, and `name` is an address or `--yes` is
    /// set. Also fails if one of the leases is a reservation, and `--reservation` is not set.
    fn check(&self, name: &str, found: &[Lease]) -> Result<()> {
        let networks: BTreeSet<&str> = found.iter().map(shown_network).collect();
        // A container may have leases in several networks: without `--yes`, the command asks about each of
        // these leases. An address that is leased in several networks is ambiguous.
        if networks.len() > 1 && (self.yes || name.parse::<Addr>().is_ok()) {
            let networks: Vec<&str> = networks.into_iter().collect();
            return Err(anyhow!(
                "{name} has leases in several networks ({}); name one of them with `--network`",
                networks.join(", ")
            ));
        }
        let reserved = found.iter().find(|lease| lease.kind == Kind::Reserved);
        match reserved.filter(|_| !self.reservation) {
            Some(lease) => Err(anyhow!(
                "{} of network {} is reserved; to end the reservation, run `sublet unreserve {} {}`",
                lease.addr,
                shown_network(lease),
                shown_network(lease),
                lease.addr
            )),
            None => Ok(()),
        }
    }
}

/// Describes a lease and its holder. If the holder is still running, adds the evidence for this.
fn describe(lease: &Lease, liveness: &Liveness) -> String {
    match liveness {
        Liveness::Alive(why) => named(lease, &format!(", still running: {why}")),
        Liveness::Stale(_) | Liveness::Unknown(_) => named(lease, ""),
    }
}
