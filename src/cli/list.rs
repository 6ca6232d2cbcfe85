//! `sublet list`: what is leased.

use anyhow::Result;
use clap::Args;

use super::{Call, JsonRows, tables};
use crate::error::shown_network;
use crate::model::Lease;
use crate::rows::LeaseRow;

/// List all leases, or one network's.
#[derive(Debug, Args)]
pub struct List {
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
}

impl List {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        let wanted = |l: &Lease| self.network.as_deref().is_none_or(|n| shown_network(l) == n);
        if call.as_json {
            // The store holds no lock while a row is printed, so that memory does not grow with the leases.
            let (mut rows, mut written) = (JsonRows::default(), Ok(()));
            open.store.list(&open.cx, &mut |lease| {
                if written.is_ok() && wanted(&lease) {
                    let pushed = rows.push(&LeaseRow::new(&lease)).map_err(anyhow::Error::from);
                    written = pushed.and_then(|()| Ok(rows.drain(call.stdout)?));
                }
            })?;
            written?;
            if !rows.is_begun {
                open.check_network(self.network.as_deref())?;
            }
            return Ok(call.stdout.write_all(&rows.finish())?);
        }
        let leases = open.leases(&wanted)?;
        if leases.is_empty() {
            open.check_network(self.network.as_deref())?;
            writeln!(call.stderr, "no leases in {}", open.place)?;
        }
        Ok(write!(
            call.stdout,
            "{}",
            tables::leases(leases.iter().map(LeaseRow::new), &call.screen)
        )?)
    }
}
