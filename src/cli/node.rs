//! `sublet node`: the machines that share a cluster.
//!
//! Owns: the rows of the list, and what is asked before a node's leases are freed. Does not own: how
//! they are freed (`engine`).
//! Invariant: nothing of the machine that this runs on is freed without `--force`.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::output::{time, visible};
use super::table;
use super::table::{Cell, Column, number, text, whole};
use super::{Desk, Terminal, confirm, misuse};
use crate::alloc::Context;
use crate::engine;
use crate::error::shown_network;
use crate::model::{Kind, Lease, NodeRecord, Owner};

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

/// One node, as it is shown.
#[derive(Default)]
struct Row {
    record: Option<NodeRecord>,
    machine: String,
    leases: usize,
    reserved: usize,
    pools: usize,
    last: Option<u64>,
    /// Addresses by network.
    networks: BTreeMap<String, usize>,
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
fn rows(desk: &mut Desk, cx: &Context) -> Result<BTreeMap<String, Row>> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    desk.store.list(cx, &mut |lease| count(&mut rows, &lease))?;
    for pool in desk.store.pools()? {
        for (user, _) in pool.users {
            let row = rows.entry(user.name).or_default();
            row.pools += 1;
            row.machine = user.machine;
        }
    }
    for record in engine::nodes(&mut *desk.store)? {
        let row = rows.entry(record.node.name.clone()).or_default();
        row.machine.clone_from(&record.node.machine);
        row.record = Some(record);
    }
    Ok(rows)
}

fn count(rows: &mut BTreeMap<String, Row>, lease: &Lease) {
    // A shared pool's gateway is the pool's, whichever node made it.
    if lease.kind == Kind::Gateway && matches!(lease.owner, Owner::Pool(..)) {
        return;
    }
    let row = rows.entry(lease.node.name.clone()).or_default();
    row.machine.clone_from(&lease.node.machine);
    row.last = row.last.max(Some(lease.time));
    if lease.kind == Kind::Reserved {
        row.reserved += 1;
    } else {
        row.leases += 1;
        *row.networks.entry(shown_network(lease).to_owned()).or_default() += 1;
    }
}

impl Row {
    fn json(&self, name: &str) -> Value {
        let record = self.record.as_ref();
        let boot = record.and_then(|r| r.boot.as_ref()).map_or("", |b| &*b.0);
        json!({
            "node": name,
            "machineID": self.machine,
            "bootID": boot,
            "bootSince": record.map_or(String::new(), |r| time(r.since)),
            "first": record.map_or(String::new(), |r| time(r.first)),
            "leases": self.leases,
            "reserved": self.reserved,
            "pools": self.pools,
            "lastLease": self.last.map_or(String::new(), time),
        })
    }
}

const COLUMNS: &[Column] = &[
    text("NODE", 8),
    text("MACHINE-ID", 12),
    number("LEASES"),
    number("POOLS"),
    whole("BOOT SINCE"),
    whole("LAST LEASE"),
];

impl List {
    fn run(&self, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
        let cx = desk.cx.clone();
        let rows = rows(desk, &cx)?;
        if self.json {
            let rows: Vec<Value> = rows.iter().map(|(name, row)| row.json(name)).collect();
            writeln!(terminal.stdout, "{:#}", Value::from(rows))?;
            return Ok(terminal.stdout.flush()?);
        }
        if rows.is_empty() {
            writeln!(terminal.stderr, "no nodes in {}", desk.place)?;
            return Ok(());
        }
        let cells = |(name, row): (&String, &Row)| -> Vec<Cell> {
            vec![
                visible(name).into(),
                visible(&row.machine).into(),
                row.leases.to_string().into(),
                row.pools.to_string().into(),
                row.record.as_ref().map_or(String::new(), |record| time(record.since)).into(),
                row.last.map_or(String::new(), time).into(),
            ]
        };
        let cells: Vec<Vec<Cell>> = rows.iter().map(cells).collect();
        write!(terminal.stdout, "{}", table::render(COLUMNS, &cells, &terminal.screen))?;
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
        let Some(row) = rows(desk, &cx)?.remove(name) else {
            return Err(anyhow!(
                "there is no node {name} in {}; see `sublet node list`",
                desk.place
            ));
        };
        let here = &desk.cx.node;
        if *name == here.name && row.machine == here.machine && !self.force {
            return Err(anyhow!(
                "{name} is the machine that this runs on: others would get the addresses that its \
                 containers use; delete those, or say --force"
            ));
        }
        let what = row.told(name);
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

impl Row {
    fn told(&self, name: &str) -> String {
        let networks: Vec<String> =
            self.networks.iter().map(|(n, count)| format!("{count} of {n}")).collect();
        let of = match &networks[..] {
            [] => String::new(),
            networks => format!(" ({})", networks.join(", ")),
        };
        let parts = [
            Some(format!("{} addresses of node {name}{of}", self.leases)),
            (self.pools > 0).then(|| format!("its part in {} pools", self.pools)),
            (self.reserved > 0).then(|| format!("not the {} reserved from there", self.reserved)),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}
