//! `sublet pools`: how full each range is.

use anyhow::Result;
use clap::Args;

use super::output;
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
        let usage = desk.usage(self.network.as_deref())?;
        let rows = desk.pool_rows(&usage)?;
        if self.json {
            output::json(terminal.stdout, &rows)?;
        } else if rows.is_empty() {
            writeln!(
                terminal.stderr,
                "no ranges are known in {}: a network's first ADD makes them known",
                desk.place
            )?;
        } else {
            write!(terminal.stdout, "{}", tables::usage(&rows, &terminal.screen))?;
        }
        Ok(terminal.stdout.flush()?)
    }
}
