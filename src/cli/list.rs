//! `sublet list`: what is leased.

use anyhow::Result;
use clap::Args;

use super::output::JsonArray;
use super::{Desk, Terminal, tables};
use crate::error::shown_network;
use crate::rows::LeaseRow;

/// List all leases, or one network's.
#[derive(Debug, Args)]
pub struct List {
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// An array of objects instead of a table; `[]` if there is none
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let network = self.network.as_deref();
        let wanted = |l: &_| network.is_none_or(|n| shown_network(l) == n);
        if !self.json {
            let leases = desk.leases(&wanted)?;
            if leases.is_empty() {
                writeln!(terminal.stderr, "no leases in {}", desk.place)?;
                return Ok(());
            }
            let rows: Vec<LeaseRow<'_>> = leases.iter().map(LeaseRow::new).collect();
            write!(terminal.stdout, "{}", tables::leases(&rows, &terminal.screen))?;
            return Ok(terminal.stdout.flush()?);
        }
        // Nothing is printed while the store is read: half an array is no answer, and a slow consumer
        // holds nobody up. As text many leases take less memory.
        let (mut text, mut written) = (Vec::new(), Ok(()));
        let mut array = JsonArray::new(&mut text);
        desk.store.list(&desk.cx, &mut |lease| {
            if written.is_ok() && wanted(&lease) {
                written = array.push(&lease);
            }
        })?;
        written?;
        array.end()?;
        terminal.stdout.write_all(&text)?;
        Ok(terminal.stdout.flush()?)
    }
}
