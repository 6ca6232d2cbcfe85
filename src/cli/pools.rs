//! `sublet pools`: how full each range is.

use anyhow::Result;
use clap::Args;

use super::output;
use super::output::UsageRow;
use super::{Desk, Terminal, tables};

/// Tell how full each range is: size, leased, free, the longest free run, reserved, kept back.
///
/// Ranges are those of each network's last ADD, and Docker's pools.
#[derive(Debug, Args)]
pub struct Pools {
    /// Only this network's, or this pool
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// An array of objects; `[]` if there is none
    #[arg(long)]
    json: bool,
}

impl Pools {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let mut all = desk.usage()?;
        if let Some(network) = &self.network {
            all.retain(|usage| usage.extent.network == *network);
        }
        if self.json {
            let rows: Vec<UsageRow<'_>> = all.iter().map(UsageRow::new).collect();
            output::json(terminal.stdout, &rows)?;
        } else if all.is_empty() {
            writeln!(
                terminal.stderr,
                "no ranges are known in {}: a network's first ADD makes them known",
                desk.place
            )?;
        } else {
            write!(terminal.stdout, "{}", tables::usage(&all, &terminal.screen))?;
        }
        Ok(terminal.stdout.flush()?)
    }
}
