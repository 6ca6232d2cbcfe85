//! `sublet pools`: shows the usage of each range, or the number of addresses of each network, namespace or
//! node.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::{Call, Format, OpenStore, tables};
use crate::error::shown_network;
use crate::model::Lease;
use crate::net::{Addr, Family};
use crate::rows::{GroupRow, PoolRow};

/// Show how full each range is
///
/// Prints the size, the used and free addresses, the longest run of free addresses, reservations and cooling
/// addresses. If the history of the last three hours shows a trend, prints when a range will be full. The
/// table contains the ranges of each network's last ADD, and Docker's pools.
#[derive(Debug, Args)]
pub struct Pools {
    /// Only this network or pool
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Sum up by network and family, or count the leases of each pod namespace or node
    #[arg(long, value_enum, value_name = "GROUP")]
    by: Option<By>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    Network,
    Namespace,
    Node,
}

impl Pools {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        if let Some(by @ (By::Namespace | By::Node)) = self.by {
            let rows = self.holders(by, &mut open)?;
            return print_groups(&rows, by, &open, call);
        }
        let usage = open.usage(self.network.as_deref())?;
        if usage.is_empty() {
            open.check_network(self.network.as_deref())?;
        }
        let rows = open.pool_trends(&usage)?;
        if self.by == Some(By::Network) {
            return print_groups(&networks(&rows), By::Network, &open, call);
        }
        if call.as_json {
            return call.json_rows(&rows);
        }
        if call.format == Format::Name {
            for row in &rows {
                writeln!(call.stdout, "{}", row.network)?;
            }
            return Ok(());
        }
        if rows.is_empty() {
            none_known(&open, call)?;
        }
        Ok(write!(call.stdout, "{}", tables::usage(&rows, &call.screen))?)
    }

    /// Counts the leases of each pod namespace or node. Leases without a namespace or node come first.
    fn holders(&self, by: By, open: &mut OpenStore) -> Result<Vec<GroupRow>> {
        let mut counts: BTreeMap<Option<String>, u128> = BTreeMap::new();
        let name = |lease: &Lease| match by {
            By::Namespace => lease.origin.pod.as_ref().map(|pod| pod.namespace.clone()),
            _ => Some(lease.node.name.clone()).filter(|name| !name.is_empty()),
        };
        let network = self.network.as_deref();
        open.store.list(&open.cx, &mut |lease| {
            if lease.kind.collectable() && network.is_none_or(|n| n == shown_network(&lease)) {
                *counts.entry(name(&lease)).or_default() += 1;
            }
        })?;
        if counts.is_empty() {
            open.check_network(network)?;
        }
        let row = |(name, used)| match by {
            By::Namespace => GroupRow { namespace: name, used, ..GroupRow::default() },
            _ => GroupRow { node: name, used, ..GroupRow::default() },
        };
        Ok(counts.into_iter().map(row).collect())
    }
}

/// Adds up the ranges of each network and family. The families are separate, because a sum of IPv4 and IPv6
/// would hide that an IPv4 range is full.
fn networks(rows: &[PoolRow]) -> Vec<GroupRow> {
    let mut sums: BTreeMap<(&str, Family), GroupRow> = BTreeMap::new();
    for row in rows {
        let family = Addr::family(row.first.0);
        let sum = sums.entry((&row.network, family)).or_default();
        sum.network = Some(row.network.clone());
        sum.family = Some(if family == Family::V4 { "ipv4" } else { "ipv6" });
        let add = |sum: &mut Option<u128>, n| *sum = Some(sum.unwrap_or(0).saturating_add(n));
        sum.used = sum.used.saturating_add(row.used);
        add(&mut sum.size, row.size);
        add(&mut sum.free, row.free);
        add(&mut sum.reserved, row.reserved);
        add(&mut sum.cooling, row.cooling);
        if let Some(draining) = row.draining {
            add(&mut sum.draining, draining);
        }
    }
    sums.into_values().collect()
}

fn print_groups(rows: &[GroupRow], by: By, open: &OpenStore, call: &mut Call<'_>) -> Result<()> {
    if call.as_json {
        return call.json_rows(rows);
    }
    if call.format == Format::Name {
        let mut names: Vec<&str> = rows.iter().filter_map(GroupRow::name).collect();
        names.dedup();
        for name in names {
            writeln!(call.stdout, "{name}")?;
        }
        return Ok(());
    }
    if rows.is_empty() && by == By::Network {
        none_known(open, call)?;
    } else if rows.is_empty() {
        writeln!(call.stderr, "no leases in {}", open.place)?;
    }
    let title = match by {
        By::Network => "NETWORK",
        By::Namespace => "NAMESPACE",
        By::Node => "NODE",
    };
    Ok(write!(call.stdout, "{}", tables::groups(rows, title, &call.screen))?)
}

/// Reports that no range is known.
pub(super) fn none_known(open: &OpenStore, call: &mut Call<'_>) -> Result<()> {
    Ok(writeln!(
        call.stderr,
        "no ranges in {} yet; the first ADD of a network records the network's ranges",
        open.place
    )?)
}
