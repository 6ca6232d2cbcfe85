//! `sublet node`: shows and releases the machines that share a cluster.
//!
//! This module asks before a node's leases are freed. The engine frees them.
//! Invariant: without `--force`, no lease of this machine is freed.

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::json;

use super::tables::number_of;
use super::{Call, OpenStore, misuse, tables};
use crate::alloc::Context;
use crate::engine;
use crate::rows::{NodeRow, Nodes};

/// List the nodes of a cluster, or release a lost node.
#[derive(Debug, Subcommand)]
pub enum Node {
    /// List the nodes with the number of their leases
    List,
    /// Free the leases and the name of a lost machine
    Release(Release),
}

#[derive(Debug, Args)]
pub struct Release {
    /// Name of the node, as in `sublet node list`
    #[arg(value_name = "NODE")]
    name: String,
    /// Print what would be freed without freeing it
    #[arg(long)]
    dry_run: bool,
    /// Free without asking
    #[arg(long, short)]
    yes: bool,
    /// Release this machine, although its containers keep using the freed addresses
    #[arg(long)]
    force: bool,
}

impl Node {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        match self {
            Node::List => list(call),
            Node::Release(release) => release.run(call),
        }
    }
}

/// Returns a row for each node that has a record or leases.
fn rows(open: &mut OpenStore, cx: &Context) -> Result<Vec<NodeRow>> {
    let mut nodes = Nodes::default();
    open.store.list(cx, &mut |lease| nodes.lease(&lease))?;
    Ok(nodes.rows(&open.store.pools()?, engine::nodes(&mut *open.store)?, &cx.node))
}

fn list(call: &mut Call<'_>) -> Result<()> {
    let mut open = call.open()?;
    let cx = open.cx.clone();
    let rows = rows(&mut open, &cx)?;
    if call.as_json {
        return call.json_rows(&rows);
    }
    if rows.is_empty() {
        writeln!(call.stderr, "no nodes in {}", open.place)?;
    }
    Ok(write!(call.stdout, "{}", tables::nodes(&rows, &call.screen))?)
}

impl Release {
    fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let (mut open, name) = (call.open()?, &self.name);
        if !open.is_cluster() {
            return Err(misuse(format!(
                "{} is a lease file of this machine, which has no other nodes; name a cluster with `--store`, \
                 or free leases with `sublet release` or `sublet gc`",
                open.place
            )));
        }
        // Leave out the boot ID, so that leases of earlier boots are counted too: the release also frees
        // them.
        let cx = Context { boot: None, ..open.cx.clone() };
        let Some(row) = rows(&mut open, &cx)?.into_iter().find(|row| row.node == *name) else {
            return Err(anyhow!(
                "unknown node {name} in {}; run `sublet node list` to list the nodes",
                open.place
            ));
        };
        if row.here && !self.force {
            return Err(anyhow!(
                "{name} is this machine, and sublet would lease the addresses of its running containers to \
                 other containers; delete the containers of this machine first, or pass `--force`"
            ));
        }
        let what = describe(&row);
        if self.dry_run && call.as_json {
            return call.json(&json!({"node": name, "dryRun": true, "leases": row.leases}));
        }
        if self.dry_run {
            return Ok(writeln!(call.stdout, "would free {what}")?);
        }
        if !self.yes && !call.confirm(&format!("free {what}, assuming that the machine is gone"))? {
            return Ok(writeln!(call.stderr, "kept {what}")?);
        }
        let left = engine::release_node(&mut *open.store, name, &open.cx)?;
        if call.as_json {
            let (freed, forgotten) = (left.freed, left.forgotten);
            call.json(&json!({
                "node": name, "dryRun": false, "freed": freed, "forgotten": forgotten,
            }))?;
        } else {
            writeln!(call.stdout, "freed {} of node {name}", number_of(left.freed, "address"))?;
        }
        if left.forgotten {
            return Ok(());
        }
        Err(anyhow!(
            "the node name {name} was not freed, because a machine claimed the name again during \
             the release"
        ))
    }
}

/// Describes the leases and pools of a node, for messages and questions.
fn describe(row: &NodeRow) -> String {
    let networks: Vec<String> =
        row.networks.iter().map(|(name, count)| format!("{count} of {name}")).collect();
    let of = match &networks[..] {
        [] => String::new(),
        networks => format!(" ({})", networks.join(", ")),
    };
    let pools = match row.pools {
        0 => String::new(),
        pools => format!(", and its use of {}", number_of(pools, "pool")),
    };
    format!("{} of node {}{of}{pools}", number_of(row.leases, "address"), row.node)
}
