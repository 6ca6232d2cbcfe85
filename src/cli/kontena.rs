//! `sublet import kontena`: imports the pools of kontena-ipam, so that subletd can serve the Docker networks
//! of kontena-ipam.
//!
//! Invariant: all keys are read and checked before anything is written. A second import changes nothing.

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde_json::{Value, json};

use super::tables::number_of;
use super::{Call, OpenStore, misuse};
use crate::alloc::{Import, Imported, Record};
use crate::config;
use crate::engine;
use crate::migrate::kontena;
use crate::migrate::kontena::Content;
use crate::model::{NetworkName, Persist, Pool, SetName};

#[derive(Debug, Args)]
pub struct Kontena {
    /// The etcd with kontena's keys, started with --enable-v2=true [default: the etcd of --store]
    #[arg(long, value_name = "http://HOST:PORT")]
    from: Option<String>,
    /// The prefix of kontena's keys
    #[arg(long, value_name = "FOLDER", default_value = "/kontena/ipam")]
    prefix: String,
    /// subletd's local address space
    #[arg(long, value_name = "NAME", default_value = "kontenalocal")]
    address_space: String,
    /// Print what would be done without doing it
    #[arg(long)]
    dry_run: bool,
}

impl Kontena {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let etcd = match (&self.from, call.args.cluster()) {
            (Some(url), _) => json!({ "etcd": { "endpoints": [url] } }).to_string(),
            (None, Some(json)) => json.to_owned(),
            (None, None) => {
                return Err(misuse(
                    "the address of kontena's etcd is missing; pass `--from http://HOST:PORT`",
                ));
            }
        };
        let (etcd, _) = config::store(&etcd).context("--from")?;
        let keys = kontena::keys(&etcd, self.prefix.trim_end_matches('/'))?;
        let now = call.world.facts.now;
        let contents = Content::parse(&keys, &self.prefix, &self.address_space, now);
        let contents = contents.map_err(|e| anyhow!(e))?;
        let mut open = call.open_pools()?;
        if matches!(mark(&mut open, true)?, Imported::Before) {
            if call.as_json {
                return call.json(&json!({"before": true, "pools": []}));
            }
            let prefix = &self.prefix;
            return Ok(writeln!(call.stdout, "{prefix}: already imported; nothing was changed")?);
        }
        open.restore(self.dry_run, call, |copier| {
            let pools = contents.pools.values().cloned().map(Record::Pool);
            let mut records = pools.chain(contents.leases.iter().cloned().map(Record::Lease));
            Ok(records.try_for_each(|record| copier.push(record, Persist::Disk))?)
        })?;
        if !self.dry_run {
            mark(&mut open, false)?;
        }
        let leases = |pool: &Pool| contents.leases.iter().filter(|l| l.set == pool.set()).count();
        if call.as_json {
            let row = |pool: &Pool| {
                let (id, subnet) = (pool.id.to_string(), pool.subnet.to_string());
                json!({"pool": id, "subnet": subnet, "addresses": leases(pool)})
            };
            let pools: Vec<Value> = contents.pools.values().map(row).collect();
            return call.json(&json!({
                "before": false, "dryRun": self.dry_run, "pools": pools,
                "unrecorded": contents.unrecorded, "leftOut": contents.orphans,
            }));
        }
        let verb = if self.dry_run { "would be imported" } else { "imported" };
        for pool in contents.pools.values() {
            let (id, subnet, leases) = (&pool.id, pool.subnet, leases(pool));
            writeln!(call.stdout, "pool {id} ({subnet}): {} {verb}", number_of(leases, "address"))?;
        }
        if contents.pools.is_empty() {
            writeln!(call.stdout, "no pool found in {}", self.prefix)?;
        }
        for name in &contents.unrecorded {
            let node = kontena::UNRECORDED;
            writeln!(
                call.stderr,
                "pool {name}: the hosts that use the pool are not recorded; when no host has a network that \
                 uses the pool, run `sublet node release {node}`"
            )?;
        }
        for subnet in &contents.orphans {
            writeln!(call.stderr, "subnet {subnet} left out: no pool uses this subnet")?;
        }
        Ok(())
    }
}

/// Records that the import is complete. Returns [`Imported::Before`] if an earlier import has already
/// recorded this. In a dry run, records nothing.
fn mark(open: &mut OpenStore, dry_run: bool) -> Result<Imported> {
    let name = NetworkName::new("kontena-ipam")
        .map_err(|_| anyhow!("kontena-ipam is not a valid network name"))?;
    let (set, adopts) = (SetName(name.to_string()), Some(name));
    let import =
        Import { set, leases: Vec::new(), cursors: Vec::new(), adopts, partial: false, dry_run };
    Ok(engine::import(&mut *open.store, import, &open.cx)?)
}
