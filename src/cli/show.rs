//! `sublet show`: all that is known of a lease, of a container's, or of a network.

use anyhow::Result;
use clap::Args;

use super::output;
use super::output::{JsonArray, NetworkRow, visible};
use super::{Desk, Terminal, tables};
use crate::error::shown_network;
use crate::rows::{LeaseRow, Str};

/// Show everything known of an address, a container, a pod, or a network.
#[derive(Debug, Args)]
pub struct Show {
    /// An address; a container ID or the beginning of one; an ECS id; a pod as namespace/name; a
    /// network, or a pool of Docker's
    #[arg(value_name = "ADDRESS|CONTAINER|POD|NETWORK")]
    name: String,
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// An array of objects
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let leases = match desk.named(&self.name, self.network.as_deref()) {
            Ok(leases) => leases,
            Err(e) if self.network.is_none() => {
                return if self.whole(desk, terminal)? { Ok(()) } else { Err(e) };
            }
            Err(e) => return Err(e),
        };
        if self.json {
            let mut array = JsonArray::new(&mut *terminal.stdout);
            for lease in &leases {
                array.push(lease)?;
            }
            return Ok(array.end()?);
        }
        for (i, lease) in leases.iter().enumerate() {
            if i > 0 {
                writeln!(terminal.stdout)?;
            }
            for (name, value) in fields(&LeaseRow::new(lease)) {
                if !value.is_empty() {
                    writeln!(terminal.stdout, "{name:<10} {value}")?;
                }
            }
        }
        Ok(terminal.stdout.flush()?)
    }

    /// Shows a network or a pool; false if there is none of this name.
    fn whole(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<bool> {
        let usage = desk.usage(Some(&self.name))?;
        let ranges = desk.pool_rows(&usage)?;
        let leases = desk.leases(&|lease| shown_network(lease) == self.name)?.len();
        if ranges.is_empty() && leases == 0 {
            return Ok(false);
        }
        let set = ranges.first().and_then(|range| range.set.as_deref());
        if self.json {
            let row = NetworkRow { network: &self.name, set, leases, ranges: &ranges };
            output::json(terminal.stdout, &[row])?;
        } else {
            writeln!(terminal.stdout, "{:<10} {}", "network", visible(&self.name))?;
            if let Some(set) = set {
                writeln!(terminal.stdout, "{:<10} {}", "drawn from", visible(set))?;
            }
            writeln!(terminal.stdout, "{:<10} {leases}", "leases")?;
            write!(terminal.stdout, "{}", tables::usage(&ranges, &terminal.screen))?;
        }
        terminal.stdout.flush()?;
        Ok(true)
    }
}

/// The fields of a lease with their names, as `show` prints them; empty where absent.
fn fields(row: &LeaseRow<'_>) -> [(&'static str, String); 17] {
    let text = |text: &Option<Str<'_>>| visible(text.as_deref().unwrap_or_default());
    [
        ("network", row.network.to_string()),
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
