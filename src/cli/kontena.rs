//! `sublet import kontena`: Docker networks of kontena-ipam go on with subletd.
//!
//! Invariant: all keys are read and understood before anything is written; once done it is done: a
//! second time changes nothing.

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::copy::tell_clashes;
use super::{Desk, Place, Terminal, World, misuse};
use crate::alloc::{Import, Imported, Record};
use crate::config;
use crate::engine;
use crate::migrate::copy::Copier;
use crate::migrate::kontena;
use crate::migrate::kontena::Content;
use crate::model::{NetworkName, Persist, Pool, SetName, StoreSpec};

#[derive(Debug, Args)]
pub struct Kontena {
    /// kontena's etcd, which answers its old API (--enable-v2=true) [default: that of --store]
    #[arg(long, value_name = "http://HOST:PORT")]
    from: Option<String>,
    /// What its keys begin with
    #[arg(long, value_name = "FOLDER", default_value = "/kontena/ipam")]
    prefix: String,
    /// subletd's local address space
    #[arg(long, value_name = "NAME", default_value = "kontenalocal")]
    address_space: String,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// The pools, as JSON
    #[arg(long)]
    json: bool,
}

impl Kontena {
    pub(super) fn run(
        &self,
        place: &Place,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<()> {
        let keys = kontena::keys(&self.source(place)?, self.prefix.trim_end_matches('/'))?;
        let found = Content::parse(&keys, &self.prefix, &self.address_space, world.facts.now);
        let found = found.map_err(|e| anyhow!(e))?;
        let mut desk = if place.cluster().is_some() {
            Desk::open(place, world, terminal)?
        } else {
            Desk::of_pools(place, world)?
        };
        let before = matches!(done(&mut desk, true)?, Imported::Before);
        if before && self.json {
            writeln!(terminal.stdout, "{:#}", json!({"before": true, "pools": []}))?;
            return Ok(terminal.stdout.flush()?);
        }
        if before {
            writeln!(terminal.stdout, "{}: taken over before; nothing was done", self.prefix)?;
            return Ok(terminal.stdout.flush()?);
        }
        pass(true, &found, &mut desk, terminal)?;
        if !self.dry_run {
            pass(false, &found, &mut desk, terminal)?;
            done(&mut desk, false)?;
        }
        let leases = |pool: &Pool| found.leases.iter().filter(|l| l.set == pool.set()).count();
        if self.json {
            let row = |pool: &Pool| {
                let (id, subnet) = (pool.id.to_string(), pool.subnet.to_string());
                json!({"pool": id, "subnet": subnet, "addresses": leases(pool)})
            };
            let pools: Vec<Value> = found.pools.values().map(row).collect();
            let orphans: Vec<String> = found.orphans.iter().map(ToString::to_string).collect();
            let report = json!({
                "before": false, "dryRun": self.dry_run, "pools": pools, "leftOut": orphans,
            });
            writeln!(terminal.stdout, "{report:#}")?;
            return Ok(terminal.stdout.flush()?);
        }
        let verb = if self.dry_run { "would be taken over" } else { "taken over" };
        for pool in found.pools.values() {
            let (id, subnet, leases) = (&pool.id, pool.subnet, leases(pool));
            writeln!(terminal.stdout, "pool {id} ({subnet}): {leases} addresses {verb}")?;
        }
        if found.pools.is_empty() {
            writeln!(terminal.stdout, "{}: there is no pool", self.prefix)?;
        }
        for subnet in &found.orphans {
            writeln!(terminal.stderr, "subnet {subnet} left out: no pool has it")?;
        }
        Ok(terminal.stdout.flush()?)
    }

    fn source(&self, place: &Place) -> Result<StoreSpec> {
        let json = match (&self.from, place.cluster()) {
            (Some(url), _) => json!({ "etcd": { "endpoints": [url] } }).to_string(),
            (None, Some(json)) => json.to_owned(),
            (None, None) => {
                return Err(misuse("say --from http://HOST:PORT: where kontena's etcd is"));
            }
        };
        Ok(config::store(&json).context("--from")?.0)
    }
}

/// Once over all that was found.
fn pass(
    dry_run: bool,
    found: &Content,
    desk: &mut Desk,
    terminal: &mut Terminal<'_>,
) -> Result<()> {
    let mut copier = Copier::new(&mut *desk.store, &desk.cx, dry_run);
    for pool in found.pools.values() {
        copier.push(Record::Pool(pool.clone()), Persist::Disk)?;
    }
    for lease in &found.leases {
        copier.push(Record::Lease(lease.clone()), Persist::Disk)?;
    }
    copier.flush()?;
    tell_clashes(&copier.clashes, terminal)
}

/// Records that all is here, or asks for that.
fn done(desk: &mut Desk, dry_run: bool) -> Result<Imported> {
    let name = NetworkName::new("kontena-ipam")
        .map_err(|_| anyhow!("kontena-ipam is no network's name"))?;
    let (set, adopts) = (SetName(name.to_string()), Some(name));
    let import =
        Import { set, leases: Vec::new(), cursors: Vec::new(), adopts, partial: false, dry_run };
    Ok(engine::import(&mut *desk.store, import, &desk.cx)?)
}
