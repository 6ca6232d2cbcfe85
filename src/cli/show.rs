//! `sublet show`: shows everything that is known about a lease, a container's leases, or a network.

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_with::skip_serializing_none;

use super::screen::visible;
use super::{Call, OpenStore, UNIQUE, tables};
use crate::error::shown_network;
use crate::rows::{LeaseRow, PoolRow, Str};

/// Show details of an address, a container, a pod or a network.
#[derive(Debug, Args)]
pub struct Show {
    /// An address; a container ID or a prefix of an ID; an ECS id; a pod as namespace/name; a network or a
    /// Docker pool
    #[arg(value_name = "ADDRESS|CONTAINER|POD|NETWORK")]
    name: String,
    /// Search only this network
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

impl Show {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let network = self.network.as_deref();
        let leases = match open.named(&self.name, UNIQUE, network) {
            Ok(leases) => leases,
            Err(_) if network.is_none() && self.show_network(&mut open, call)? => return Ok(()),
            // No network has this name, so it may be a prefix of a container ID, however short.
            Err(_) => open.named(&self.name, 1, network)?,
        };
        if call.as_json {
            return call.json_rows(leases.iter().map(LeaseRow::new));
        }
        for (i, lease) in leases.iter().enumerate() {
            if i > 0 {
                writeln!(call.stdout)?;
            }
            for (name, value) in fields(&LeaseRow::new(lease)) {
                if !value.is_empty() {
                    writeln!(call.stdout, "{name:<10} {value}")?;
                }
            }
        }
        Ok(())
    }

    /// Shows a network or a pool. Returns false if no network or pool has this name.
    fn show_network(&self, open: &mut OpenStore, call: &mut Call<'_>) -> Result<bool> {
        let usage = open.usage(Some(&self.name))?;
        let ranges = open.pool_rows(&usage)?;
        let leases = open.leases(&|lease| shown_network(lease) == self.name)?.len();
        if ranges.is_empty() && leases == 0 {
            return Ok(false);
        }
        let set = ranges.first().and_then(|range| range.set.as_deref());
        if call.as_json {
            let row = NetworkRow { network: &self.name, set, leases, ranges: &ranges };
            call.json(&[row])?;
        } else {
            writeln!(call.stdout, "{:<10} {}", "network", visible(&self.name))?;
            if let Some(set) = set {
                writeln!(call.stdout, "{:<10} {}", "lease set", visible(set))?;
            }
            writeln!(call.stdout, "{:<10} {leases}", "leases")?;
            write!(call.stdout, "{}", tables::usage(&ranges, &call.screen))?;
        }
        Ok(true)
    }
}

/// A network with its ranges, for JSON.
#[skip_serializing_none]
#[derive(Serialize)]
struct NetworkRow<'a> {
    network: &'a str,
    set: Option<&'a str>,
    leases: usize,
    ranges: &'a [PoolRow],
}

/// Returns the fields of a lease with the names that `show` prints. The value of an absent field is empty.
fn fields(row: &LeaseRow<'_>) -> [(&'static str, String); 17] {
    let text = |text: &Option<Str<'_>>| visible(text.as_deref().unwrap_or_default());
    [
        ("network", visible(&row.network)),
        ("address", row.cidr()),
        ("kind", row.kind.to_string()),
        ("container", text(&row.container_id)),
        ("interface", text(&row.ifname)),
        ("id", text(&row.id)),
        ("pool", text(&row.pool)),
        ("endpoint", text(&row.endpoint)),
        ("pod", visible(&row.pod().unwrap_or_default())),
        ("pod UID", text(&row.pod_uid)),
        ("MAC", text(&row.mac)),
        ("note", text(&row.note)),
        ("owner", text(&row.holder)),
        ("netns", text(&row.netns)),
        ("node", text(&row.node)),
        ("boot", text(&row.boot_id)),
        ("since", row.time.to_string()),
    ]
}
