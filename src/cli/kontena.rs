//! `sublet import kontena`: Docker networks of kontena-ipam go on with subletd.
//!
//! Owns: kontena's layout (`pools/NAME`, `pool-nodes/NAME/NODE`, `addresses/NAME/ADDRESS`). Does not own:
//! how etcd is asked.
//! Invariant: all keys are read and understood before anything is written; once done it is done: a
//! second time changes nothing.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use serde_json::{Value, json};

use super::copy::tell_clashes;
use super::{Desk, Place, Terminal, World, misuse};
use crate::alloc::{Import, Record};
use crate::config;
use crate::engine;
use crate::engine::Imported;
use crate::migrate::copy::Mover;
use crate::model::{
    Kind, Lease, NetworkName, Node, Origin, Owner, Persist, Pool, PoolId, SetName, StoreSpec,
    Timestamp,
};
use crate::net::{Addr, Subnet, parse_cidr};
use crate::store;

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
        let mut etcd = store::open(&self.source(place)?)?;
        let keys = etcd.kontena_keys(self.prefix.trim_end_matches('/'))?;
        let found = Found::read(&keys, &self.prefix, &self.address_space, world.facts.now)?;
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
fn pass(dry_run: bool, found: &Found, desk: &mut Desk, terminal: &mut Terminal<'_>) -> Result<()> {
    let mut mover = Mover::new(&mut *desk.store, &desk.cx, dry_run);
    for pool in found.pools.values() {
        mover.push(Record::Pool(pool.clone()), Persist::Disk)?;
    }
    for lease in &found.leases {
        mover.push(Record::Lease(lease.clone()), Persist::Disk)?;
    }
    mover.flush()?;
    tell_clashes(&mover.clashes, terminal)
}

/// Records that all is here, or asks for that.
fn done(desk: &mut Desk, dry_run: bool) -> Result<Imported> {
    let name = NetworkName::new("kontena-ipam")
        .map_err(|_| anyhow!("kontena-ipam is no network's name"))?;
    let (set, adopts) = (SetName(name.to_string()), Some(name));
    let import = Import { set, leases: Vec::new(), cursors: Vec::new(), adopts, dry_run };
    Ok(engine::import(&mut *desk.store, import, &desk.cx)?)
}

/// What kontena-ipam knew.
#[derive(Default)]
struct Found {
    pools: BTreeMap<String, Pool>,
    leases: Vec<Lease>,
    /// Reserved for pools that are not there: a race of kontena's leaves them.
    orphans: Vec<String>,
}

impl Found {
    fn read(keys: &[(String, String)], prefix: &str, space: &str, now: Timestamp) -> Result<Found> {
        let mut found = Found::default();
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
                    // Those of a pool that is gone are nobody's.
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
fn cidr(value: &Value, field: &str) -> Result<Option<ipnet::IpNet>> {
    let Some(text) = text(value, field) else { return Ok(None) };
    parse_cidr(&text)
        .map(Some)
        .ok_or_else(|| anyhow!("{field} is {text:?}, no address with a prefix length"))
}

fn pool(name: &str, value: &str, space: &str, now: Timestamp) -> Result<Pool> {
    let value = object(value)?;
    let subnet = |field| anyhow::Ok(cidr(&value, field)?.map(Subnet::from));
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
        gateway: cidr(&value, "gateway")?.map(|net| net.addr().into()),
        users: Vec::new(),
        time: now,
    })
}

fn lease(value: &str, pool: &Pool, now: Timestamp) -> Result<Lease> {
    let value = object(value)?;
    let addr = cidr(&value, "address")?.ok_or_else(|| anyhow!("it names no address"))?;
    let addr = Addr::from(addr.addr());
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
