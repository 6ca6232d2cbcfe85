//! `sublet show`: all that is known of a lease, of a container's, or of a network.

use anyhow::Result;
use clap::Args;

use super::output;
use super::output::{JsonArray, NetworkRow, Row, UsageRow, visible};
use super::{Desk, Terminal, tables};
use crate::error::shown_network;

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
            for (name, value) in Row::new(lease).fields() {
                if !value.is_empty() {
                    writeln!(terminal.stdout, "{name:<10} {value}")?;
                }
            }
        }
        Ok(terminal.stdout.flush()?)
    }

    /// Shows a network or a pool; false if there is none of this name.
    fn whole(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<bool> {
        let mut all = desk.usage()?;
        all.retain(|usage| usage.extent.network == self.name);
        let leases = desk.leases(&|lease| shown_network(lease) == self.name)?.len();
        if all.is_empty() && leases == 0 {
            return Ok(false);
        }
        let set = all.first().map_or(&*self.name, |usage| &usage.extent.set.0);
        if self.json {
            let ranges = all.iter().map(UsageRow::new).collect();
            output::json(
                terminal.stdout,
                &[NetworkRow { network: &self.name, set, leases, ranges }],
            )?;
        } else {
            writeln!(terminal.stdout, "{:<10} {}", "network", visible(&self.name))?;
            if set != self.name {
                writeln!(terminal.stdout, "{:<10} {}", "drawn from", visible(set))?;
            }
            writeln!(terminal.stdout, "{:<10} {leases}", "leases")?;
            write!(terminal.stdout, "{}", tables::usage(&all, &terminal.screen))?;
        }
        terminal.stdout.flush()?;
        Ok(true)
    }
}
