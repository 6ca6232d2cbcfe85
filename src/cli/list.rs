//! `sublet list`: what is leased.

use std::io;

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
        // Looked through before the first byte is written: half an array is no answer, and all of a
        // large store in memory is too much. The second look may see other leases.
        desk.store.list(&desk.cx, &mut |_| {})?;
        let mut buffered = io::BufWriter::new(&mut *terminal.stdout);
        let mut array = JsonArray::new(&mut buffered);
        let mut written = Ok(());
        desk.store.list(&desk.cx, &mut |lease| {
            if written.is_ok() && wanted(&lease) {
                written = array.push(&lease);
            }
        })?;
        written?;
        Ok(array.end()?)
    }
}
