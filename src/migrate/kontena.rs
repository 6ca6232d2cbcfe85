//! What kontena-ipam stored in etcd: `pools/NAME`, `pool-nodes/NAME/NODE`, `addresses/NAME/ADDRESS` and
//! `subnets/ADDRESS`, below a folder of the v2 API (`/v2/keys`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipnet::IpNet;
use serde_json::Value;

use crate::error::StoreError;
use crate::model::{Kind, Lease, Node, Origin, Owner, Pool, PoolId, StoreSpec, Timestamp};
use crate::net::{Addr, Subnet, parse_cidr};
use crate::store::http::{Client, Failure, Request};

/// Pools and addresses of kontena-ipam.
#[derive(Default)]
pub struct Content {
    /// The pools, by name.
    pub pools: BTreeMap<String, Pool>,
    /// The addresses of these pools.
    pub leases: Vec<Lease>,
    /// Subnets reserved for pools that do not exist: a race in kontena-ipam leaves them behind.
    pub orphans: Vec<String>,
}

/// Reads every key below `folder` (such as `/kontena/ipam`) and its value, by key. Returns none if the
/// folder does not exist.
pub fn keys(spec: &StoreSpec, folder: &str) -> Result<Vec<(String, String)>, StoreError> {
    let StoreSpec::Etcd(etcd) = spec else {
        let why = "it kept that in etcd; say --from http://HOST:PORT";
        return Err(StoreError::unavailable("find what kontena-ipam kept in", "this store", why));
    };
    let client = Client::new("etcd", None, &etcd.servers)?;
    // `quorum`: a single member may be behind.
    let path = format!("/v2/keys{folder}?recursive=true&quorum=true");
    let request = Request { method: "GET", path: &path, body: b"", secret: None, retryable: true };
    let reply = client.send(request, Instant::now() + etcd.servers.timeout).map_err(Failure::why);
    let found = reply.and_then(|reply| parse(reply.status, &reply.body, &reply.text()));
    found.map_err(|why| {
        StoreError::unavailable("read kontena-ipam's keys from", client.place(), why)
    })
}

fn parse(status: u16, body: &[u8], text: &str) -> Result<Vec<(String, String)>, String> {
    let answer: Value = serde_json::from_slice(body).map_err(|_| {
        format!("{status} {text}; etcd answers the old API only with --enable-v2=true")
    })?;
    // "Key not found".
    if answer["errorCode"] == 100 {
        return Ok(Vec::new());
    }
    if status != 200 {
        return Err(format!("{status} {text}"));
    }
    let mut found = Vec::new();
    let mut left = vec![&answer["node"]];
    while let Some(node) = left.pop() {
        left.extend(node["nodes"].as_array().into_iter().flatten());
        if let (Some(key), Some(value)) = (node["key"].as_str(), node["value"].as_str()) {
            found.push((key.to_owned(), value.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

impl Content {
    /// Parses the keys below `folder`. The pools belong to address space `space`; `now` becomes the time
    /// of pools and leases. An error names the key.
    pub fn parse<'k>(
        keys: &'k [(String, String)],
        folder: &str,
        space: &str,
        now: Timestamp,
    ) -> Result<Content, String> {
        let mut content = Content::default();
        let folder = folder.trim_end_matches('/');
        let parts = |key: &'k str| -> Vec<&'k str> {
            key.strip_prefix(folder).unwrap_or(key).split('/').skip(1).collect()
        };
        // Pools first: an address needs its pool.
        for (key, value) in keys {
            if let ["pools", name] = *parts(key) {
                let pool = pool(name, value, space, now).map_err(|why| format!("{key}: {why}"))?;
                content.pools.insert(name.to_owned(), pool);
            }
        }
        for (key, value) in keys {
            match *parts(key) {
                ["pool-nodes", name, node] => {
                    if let Some(pool) = content.pools.get_mut(name) {
                        let node = Node { name: node.to_owned(), machine: String::new() };
                        pool.users.push((node, 1));
                    }
                }
                ["addresses", name, _] => {
                    // An address of a pool that is gone has no owner.
                    if let Some(pool) = content.pools.get(name) {
                        let lease = lease(value, pool, now);
                        content.leases.push(lease.map_err(|why| format!("{key}: {why}"))?);
                    }
                }
                ["subnets", _] => {
                    let subnet = text(&object(value)?, "address").unwrap_or_default();
                    if content.pools.values().all(|p| p.subnet.to_string() != subnet) {
                        content.orphans.push(subnet);
                    }
                }
                _ => {}
            }
        }
        content.leases.sort_by(|a, b| (&a.set, a.addr).cmp(&(&b.set, b.addr)));
        content.add_missing_users();
        Ok(content)
    }
}

impl Content {
    /// Makes the nodes of a pool's addresses its users if no node is recorded: without a user a pool counts as
    /// released.
    fn add_missing_users(&mut self) {
        for pool in self.pools.values_mut().filter(|pool| pool.is_closed()) {
            let leases = self
                .leases
                .iter()
                .filter(|lease| matches!(&lease.owner, Owner::Pool(id, _) if *id == pool.id));
            let nodes: BTreeSet<&str> = leases.map(|lease| lease.node.name.as_str()).collect();
            let node = |name: &str| Node { name: name.to_owned(), machine: String::new() };
            pool.users = nodes.into_iter().map(|name| (node(name), 1)).collect();
        }
    }
}

fn object(value: &str) -> Result<Value, String> {
    serde_json::from_str(value).map_err(|_| format!("{value:?} is no JSON"))
}

fn text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

/// Returns the address and the prefix length of a field. kontena-ipam keeps host bits.
fn cidr(value: &Value, field: &str) -> Result<Option<IpNet>, String> {
    let Some(text) = text(value, field) else { return Ok(None) };
    let net = parse_cidr(&text);
    net.map(Some).ok_or_else(|| format!("{field} is {text:?}, no address with a prefix length"))
}

fn pool(name: &str, value: &str, space: &str, now: Timestamp) -> Result<Pool, String> {
    let value = object(value)?;
    let subnet = |field| Ok::<_, String>(cidr(&value, field)?.map(Subnet::from));
    let whole = subnet("subnet")?.ok_or("it names no subnet")?;
    let range = subnet("iprange")?.filter(|range| range.len() > whole.len());
    if range.is_some_and(|range| !whole.contains(range.first())) {
        return Err(format!("iprange lies outside of {whole}"));
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

fn lease(value: &str, pool: &Pool, now: Timestamp) -> Result<Lease, String> {
    let value = object(value)?;
    let net = cidr(&value, "address")?.ok_or("it names no address")?;
    let addr = Addr::from(net.addr());
    if !pool.subnet.contains(addr) {
        return Err(format!("{addr} lies outside of {}", pool.subnet));
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
