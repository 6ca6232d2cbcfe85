//! `sublet pools`: how full each range is.

use anyhow::Result;
use clap::Args;

use super::{Call, Format, tables};

/// Tell how full each range is: size, leased, free, the longest free run, reserved, kept back.
///
/// Ranges are those of each network's last ADD, and Docker's pools.
#[derive(Debug, Args)]
pub struct Pools {
    /// Only this network's, or this pool
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

impl Pools {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let usage = open.usage(self.network.as_deref())?;
        if usage.is_empty() {
            open.check_network(self.network.as_deref())?;
        }
        let rows = open.pool_rows(&usage)?;
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
            writeln!(
                call.stderr,
                "no ranges are known in {}: a network's first ADD makes them known",
                open.place
            )?;
        }
        Ok(write!(call.stdout, "{}", tables::usage(&rows, &call.screen))?)
    }
}
