//! `sublet node`: the machines that share a cluster.
//!
//! Owns: the rows of the list, and what is asked before a node's leases are freed. Does not own: how
//! they are freed (`engine`).
//! Invariant: nothing of the machine that this runs on is freed without `--force`.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;

use super::output;
use super::{Desk, Terminal, confirm, misuse, tables};
use crate::alloc::Context;
use crate::engine;
use crate::rows::{NodeRow, Nodes};

/// Look at the machines that share a cluster, and free what a dead one held.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List them, with what each has leased
    List(List),
    /// Free all that a machine leased which is gone for good, and its name for another machine
    Release(Release),
}

#[derive(Debug, Args)]
pub struct List {
    /// An array of objects instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct Release {
    /// Its name, as `sublet node list` shows it
    #[arg(value_name = "NODE")]
    name: String,
    /// Only tell what would be freed
    #[arg(long)]
    dry_run: bool,
    /// The report as JSON
    #[arg(long)]
    json: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Even if it is the machine that this runs on: its containers keep using what is freed
    #[arg(long)]
    force: bool,
}

impl Node {
    pub(super) fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        match self {
            Node::List(list) => list.run(desk, terminal),
            Node::Release(release) => release.run(desk, terminal),
        }
    }
}

/// All nodes that are known, or that have something.
fn rows(desk: &mut Desk, cx: &Context) -> Result<Vec<NodeRow>> {
    let mut nodes = Nodes::default();
    desk.store.list(cx, &mut |lease| nodes.lease(&lease))?;
    Ok(nodes.rows(&desk.store.pools()?, engine::nodes(&mut *desk.store)?, &cx.node))
}

impl List {
    fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let cx = desk.cx.clone();
        let rows = rows(desk, &cx)?;
        if self.json {
            output::json(terminal.stdout, &rows)?;
        } else if rows.is_empty() {
            writeln!(terminal.stderr, "no nodes in {}", desk.place)?;
        } else {
            write!(terminal.stdout, "{}", tables::nodes(&rows, &terminal.screen))?;
        }
        Ok(terminal.stdout.flush()?)
    }
}

impl Release {
    fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let name = &self.name;
        if !desk.cluster {
            return Err(misuse(format!(
                "{} is of this machine alone; name the cluster with --store, or see `sublet release` \
                 and `sublet gc`",
                desk.place
            )));
        }
        // What has ended with a boot of it is freed as well, so it is counted.
        let cx = Context { boot: None, ..desk.cx.clone() };
        let Some(row) = rows(desk, &cx)?.into_iter().find(|row| row.node == *name) else {
            return Err(anyhow!(
                "there is no node {name} in {}; see `sublet node list`",
                desk.place
            ));
        };
        if row.here && !self.force {
            return Err(anyhow!(
                "{name} is the machine that this runs on: others would get the addresses that its \
                 containers use; delete those, or say --force"
            ));
        }
        let what = told(&row);
        if self.dry_run {
            if self.json {
                let report = json!({"node": name, "dryRun": true, "leases": row.leases});
                writeln!(terminal.stdout, "{report:#}")?;
            } else {
                writeln!(terminal.stdout, "would free {what}")?;
            }
            return Ok(terminal.stdout.flush()?);
        }
        let question = format!("free {what}; is that machine gone");
        if !self.yes && !confirm(terminal, &question)? {
            writeln!(terminal.stderr, "kept {what}")?;
            return Ok(());
        }
        let left = engine::release_node(&mut *desk.store, name, &desk.cx)?;
        if self.json {
            let report = json!({
                "node": name, "dryRun": false, "freed": left.freed, "forgotten": left.forgotten,
            });
            writeln!(terminal.stdout, "{report:#}")?;
        } else {
            writeln!(terminal.stdout, "freed {} addresses of node {name}", left.freed)?;
        }
        terminal.stdout.flush()?;
        if left.forgotten {
            return Ok(());
        }
        Err(anyhow!("a machine or a boot has taken the name {name} meanwhile, and keeps it"))
    }
}

fn told(row: &NodeRow) -> String {
    let networks: Vec<String> =
        row.networks.iter().map(|(name, count)| format!("{count} of {name}")).collect();
    let of = match &networks[..] {
        [] => String::new(),
        networks => format!(" ({})", networks.join(", ")),
    };
    let parts = [
        Some(format!("{} addresses of node {}{of}", row.leases, row.node)),
        (row.pools > 0).then(|| format!("its part in {} pools", row.pools)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
