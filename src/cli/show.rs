//! `sublet show`: all that is known of one lease.

use anyhow::Result;
use clap::Args;

use super::output::{JsonArray, Row};
use super::{Desk, Terminal};

/// Show everything known of one address, or of one container's addresses.
#[derive(Debug, Args)]
pub struct Show {
    /// An address; a container ID or the beginning of one; an ECS id; a pod as namespace/name
    #[arg(value_name = "ADDRESS|CONTAINER")]
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
        let leases = desk.named(&self.name, self.network.as_deref())?;
        if self.json {
            let mut array = JsonArray::new(&mut *terminal.stdout)?;
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
}
