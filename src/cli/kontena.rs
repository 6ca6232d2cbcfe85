//! `sublet import kontena`: Docker networks of kontena-ipam continue with subletd.
//!
//! Knows kontena's keys: `pools/NAME`, `pool-nodes/NAME/NODE`, `addresses/NAME/ADDRESS`.
//! Invariant: all keys are read and understood before anything is written; a second import changes nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};

use super::{Call, OpenStore, StoreArgs, misuse};
use crate::alloc::{Import, Record};
use crate::config;
use crate::engine;
use crate::engine::Imported;
use crate::model::{
    Kind, Lease, NetworkName, Node, Origin, Owner, Persist, Pool, PoolId, SetName, StoreSpec,
    Timestamp,
};
use crate::net::{Addr, Subnet};

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
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut etcd = (call.world.open)(&self.source(call.args)?, None)?;
        let keys = etcd.kontena_keys(self.prefix.trim_end_matches('/'))?;
        let now = call.world.facts.now;
        let contents = Contents::read(&keys, &self.prefix, &self.address_space, now)?;
        let mut open = call.open_pools()?;
        if matches!(mark(&mut open, true)?, Imported::Before) {
            if self.json {
                return call.json(&json!({"before": true, "pools": []}));
            }
            let prefix = &self.prefix;
            return Ok(writeln!(call.stdout, "{prefix}: taken over before; nothing was done")?);
        }
        write(true, &contents, &mut open, call)?;
        if !self.dry_run {
            write(false, &contents, &mut open, call)?;
            mark(&mut open, false)?;
        }
        let leases = |pool: &Pool| contents.leases.iter().filter(|l| l.set == pool.set()).count();
        if self.json {
            let row = |pool: &Pool| {
                let (id, subnet) = (pool.id.to_string(), pool.subnet.to_string());
                json!({"pool": id, "subnet": subnet, "addresses": leases(pool)})
            };
            let pools: Vec<Value> = contents.pools.values().map(row).collect();
            return call.json(&json!({
                "before": false, "dryRun": self.dry_run, "pools": pools,
                "leftOut": contents.orphans,
            }));
        }
        let verb = if self.dry_run { "would be taken over" } else { "taken over" };
        for pool in contents.pools.values() {
            let (id, subnet, leases) = (&pool.id, pool.subnet, leases(pool));
            writeln!(call.stdout, "pool {id} ({subnet}): {leases} addresses {verb}")?;
        }
        if contents.pools.is_empty() {
            writeln!(call.stdout, "{}: there is no pool", self.prefix)?;
        }
        for subnet in &contents.orphans {
            writeln!(call.stderr, "subnet {subnet} left out: no pool has it")?;
        }
        Ok(())
    }

    fn source(&self, args: &StoreArgs) -> Result<StoreSpec> {
        let json = match (&self.from, args.cluster()) {
            (Some(url), _) => json!({ "etcd": { "endpoints": [url] } }).to_string(),
            (None, Some(json)) => json.to_owned(),
            (None, None) => {
                return Err(misuse("say --from http://HOST:PORT: where kontena's etcd is"));
            }
        };
        Ok(config::store(&json).context("--from")?.0)
    }
}

/// Writes everything.
fn write(
    dry_run: bool,
    contents: &Contents,
    open: &mut OpenStore,
    call: &mut Call<'_>,
) -> Result<()> {
    let pools = contents.pools.values().cloned().map(Record::Pool);
    let leases = contents.leases.iter().cloned().map(Record::Lease);
    let mut records = pools.chain(leases);
    open.restore(dry_run, call, |mover| {
        Ok(records.try_for_each(|record| mover.push(record, Persist::Disk))?)
    })?;
    Ok(())
}

/// Records that everything is imported, or in a dry run asks for that.
fn mark(open: &mut OpenStore, dry_run: bool) -> Result<Imported> {
    let name = NetworkName::new("kontena-ipam")
        .map_err(|_| anyhow!("kontena-ipam is no network's name"))?;
    let (set, adopts) = (SetName(name.to_string()), Some(name));
    let import = Import { set, leases: Vec::new(), cursors: Vec::new(), adopts, dry_run };
    Ok(engine::import(&mut *open.store, import, &open.cx)?)
}

/// The contents of kontena-ipam's keys.
#[derive(Default)]
struct Contents {
    pools: BTreeMap<String, Pool>,
    leases: Vec<Lease>,
    /// Reserved for pools that are not there: a race of kontena's leaves them.
    orphans: Vec<String>,
}

impl Contents {
    fn read(
        keys: &[(String, String)],
        prefix: &str,
        space: &str,
        now: Timestamp,
    ) -> Result<Contents> {
        let mut found = Contents::default();
        let parts = |key: &str| -> Vec<String> {
            let rest = key.strip_prefix(prefix.trim_end_matches('/')).unwrap_or(key);
            rest.split('/').skip(1).map(str::to_owned).collect()
        };
        // Pools first: an address is nothing without one.
        for (key, value) in keys {
            if let [kind, name] = &*parts(key)
                && kind == "pools"
            {
                let pool = pool(name, value, space, now);
                found.pools.insert(name.clone(), pool.with_context(|| key.clone())?);
            }
        }
        for (key, value) in keys {
            match &*parts(key).iter().map(String::as_str).collect::<Vec<_>>() {
                ["pool-nodes", name, node] => {
                    if let Some(pool) = found.pools.get_mut(*name) {
                        let node = Node { name: (*node).to_owned(), machine: String::new() };
                        pool.users.push((node, 1));
                    }
                }
                ["addresses", name, _] => {
                    // Addresses of a pool that is gone are free.
                    if let Some(pool) = found.pools.get(*name) {
                        found.leases.push(lease(value, pool, now).with_context(|| key.clone())?);
                    }
                }
                ["subnets", _] => {
                    let subnet = text(&object(value)?, "address").unwrap_or_default();
                    if found.pools.values().all(|p| p.subnet.to_string() != subnet) {
                        found.orphans.push(subnet);
                    }
                }
                _ => {}
            }
        }
        found.leases.sort_by(|a, b| (&a.set, a.addr).cmp(&(&b.set, b.addr)));
        Ok(found)
    }
}

fn object(value: &str) -> Result<Value> {
    serde_json::from_str(value).map_err(|_| anyhow!("{value:?} is no JSON"))
}

fn text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

/// Address and prefix length; kontena keeps host bits.
fn address(value: &Value, field: &str) -> Result<Option<(Addr, u8)>> {
    let Some(text) = text(value, field) else { return Ok(None) };
    let parsed = super::cidr(&text).map(Some);
    parsed.ok_or_else(|| anyhow!("{field} is {text:?}, no address with a prefix length"))
}

fn pool(name: &str, value: &str, space: &str, now: Timestamp) -> Result<Pool> {
    let value = object(value)?;
    let subnet = |field| -> Result<Option<Subnet>> {
        let Some((addr, len)) = address(&value, field)? else { return Ok(None) };
        Ok(Some(Subnet::masked(addr, len).ok_or_else(|| anyhow!("{field} is no prefix"))?))
    };
    let whole = subnet("subnet")?.ok_or_else(|| anyhow!("it names no subnet"))?;
    let range = subnet("iprange")?.filter(|range| range.len() > whole.len());
    if range.is_some_and(|range| !whole.contains(range.first())) {
        bail!("iprange lies outside of {whole}");
    }
    Ok(Pool {
        id: PoolId(name.to_owned()),
        space: space.to_owned(),
        subnet: whole,
        sub: range,
        shared: Some(name.to_owned()),
        gateway: address(&value, "gateway")?.map(|(addr, _)| addr),
        users: Vec::new(),
        time: now,
    })
}

fn lease(value: &str, pool: &Pool, now: Timestamp) -> Result<Lease> {
    let value = object(value)?;
    let (addr, _) = address(&value, "address")?.ok_or_else(|| anyhow!("it names no address"))?;
    if !pool.subnet.contains(addr) {
        bail!("{addr} lies outside of {}", pool.subnet);
    }
    Ok(Lease {
        set: pool.set(),
        addr,
        prefix: pool.subnet.len(),
        kind: if pool.gateway == Some(addr) { Kind::Gateway } else { Kind::Dynamic },
        owner: Owner::Pool(pool.id.clone(), addr),
        range: pool.sub.unwrap_or(pool.subnet).first(),
        node: Node { name: text(&value, "node").unwrap_or_default(), machine: String::new() },
        boot: None,
        origin: Origin::default(),
        time: now,
        cooldown: 0,
    })
}
