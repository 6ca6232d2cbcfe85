//! Reads the data that kontena-ipam stored in etcd. The keys are `pools/NAME`, `pool-nodes/NAME/NODE`,
//! `addresses/NAME/ADDRESS` and `subnets/ADDRESS`, below a folder of etcd's v2 API (`/v2/keys`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipnet::IpNet;
use serde_json::Value;

use crate::error::StoreError;
use crate::model::{Kind, Lease, Node, Origin, Owner, Pool, PoolId, StoreSpec, Timestamp};
use crate::net::{Addr, Subnet, parse_cidr};
use crate::store::http::{Client, Failure, Request};

/// The node name for pools and addresses whose host kontena-ipam did not record. An operator removes this
/// node with `sublet node release`.
pub const UNRECORDED: &str = "kontena-ipam";

/// The pools and addresses of kontena-ipam.
#[derive(Default)]
pub struct Content {
    /// The pools, by name.
    pub pools: BTreeMap<String, Pool>,
    /// The names of the pools whose hosts kontena-ipam did not record.
    pub unrecorded: Vec<String>,
    /// The leases in these pools.
    pub leases: Vec<Lease>,
    /// Reserved subnets whose pools do not exist. kontena-ipam leaves such a reservation behind if one host
    /// removes a pool while another host creates it.
    pub orphans: Vec<String>,
}

/// Returns every key below `folder` (such as `/kontena/ipam`), with its value. Returns an empty list if the
/// folder does not exist.
pub fn keys(spec: &StoreSpec, folder: &str) -> Result<Vec<(String, String)>, StoreError> {
    let StoreSpec::Etcd(etcd) = spec else {
        let why = "kontena-ipam stores pools in etcd; pass `--from http://HOST:PORT`";
        return Err(StoreError::unavailable("read kontena-ipam's keys from", "this store", why));
    };
    let client = Client::new("etcd", None, &etcd.servers)?;
    // Without `quorum`, a member could return stale data.
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
        format!("{status} {text}; start etcd with `--enable-v2=true` to enable the old API")
    })?;
    // This is etcd's code for "Key not found".
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
    /// Parses the keys below `folder`. The pools get the address space `space`. `now` becomes the time of the
    /// pools and leases. An error names the key.
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
        // Parse the pools first, because an address refers to its pool.
        for (key, value) in keys {
            if let ["pools", name] = *parts(key) {
                let pool = pool(name, value, space, now).map_err(|why| format!("{key}: {why}"))?;
                content.pools.insert(name.to_owned(), pool);
            }
        }
        for (key, value) in keys {
            match *parts(key) {
                ["pool-nodes", name, host] => {
                    if let Some(pool) = content.pools.get_mut(name) {
                        pool.users.push((node(host), 1));
                    }
                }
                ["addresses", name, _] => {
                    // Leave out an address whose pool was removed, because no Docker network can use it.
                    if let Some(pool) = content.pools.get(name) {
                        let lease = address(value, pool, now);
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
        content.add_what_is_missing(now);
        content.leases.sort_by(|a, b| (&a.set, a.addr).cmp(&(&b.set, b.addr)));
        Ok(content)
    }

    /// Adds what earlier versions of kontena-ipam did not record: the hosts that use a pool, and the lease of
    /// the pool's gateway. A host that has one of a pool's addresses counts as a user of the pool. If no host
    /// is recorded for a pool, the pool gets an additional user that stands for unknown hosts. The pool then
    /// stays even after all known hosts have released it.
    fn add_what_is_missing(&mut self, now: Timestamp) {
        for (name, pool) in &mut self.pools {
            let leases = self.leases.iter().filter(|lease| lease.set == pool.set());
            let gateways = leases.clone().filter(|lease| lease.kind == Kind::Gateway).count();
            // The gateway's lease does not make its host a user, because that host may have released the pool
            // since.
            let others = leases.filter(|lease| lease.kind != Kind::Gateway);
            let mut hosts: BTreeSet<&str> = others.map(|lease| lease.node.name.as_str()).collect();
            if pool.is_closed() {
                self.unrecorded.push(name.clone());
                hosts.insert(UNRECORDED);
            }
            hosts.retain(|host| pool.users.iter().all(|(node, _)| node.name != *host));
            pool.users.extend(hosts.into_iter().map(|host| (node(host), 1)));
            if let (0, Some(gateway)) = (gateways, pool.gateway) {
                self.leases.push(lease(gateway, node(UNRECORDED), pool, now));
            }
        }
    }
}

fn node(name: &str) -> Node {
    Node { name: name.to_owned(), machine: String::new() }
}

fn object(value: &str) -> Result<Value, String> {
    serde_json::from_str(value).map_err(|_| format!("{value:?} is not valid JSON"))
}

fn text(value: &Value, field: &str) -> Option<String> {
    value[field].as_str().map(str::to_owned)
}

/// Parses a field that contains an address and a prefix length. kontena-ipam keeps the host bits.
fn cidr(value: &Value, field: &str) -> Result<Option<IpNet>, String> {
    let Some(text) = text(value, field) else { return Ok(None) };
    let net = parse_cidr(&text);
    net.map(Some)
        .ok_or_else(|| format!("invalid \"{field}\" {text:?}: not an address with a prefix length"))
}

fn pool(name: &str, value: &str, space: &str, now: Timestamp) -> Result<Pool, String> {
    let value = object(value)?;
    let subnet = |field| Ok::<_, String>(cidr(&value, field)?.map(Subnet::from));
    let whole = subnet("subnet")?.ok_or("\"subnet\" is missing")?;
    let range = subnet("iprange")?.filter(|range| range.len() > whole.len());
    if range.is_some_and(|range| !whole.contains(range.first())) {
        return Err(format!("invalid \"iprange\": outside the subnet {whole}"));
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

fn address(value: &str, pool: &Pool, now: Timestamp) -> Result<Lease, String> {
    let value = object(value)?;
    let net = cidr(&value, "address")?.ok_or("\"address\" is missing")?;
    let addr = Addr::from(net.addr());
    if !pool.subnet.contains(addr) {
        return Err(format!("{addr} is outside the subnet {}", pool.subnet));
    }
    let host = text(&value, "node").filter(|host| !host.is_empty());
    Ok(lease(addr, node(host.as_deref().unwrap_or(UNRECORDED)), pool, now))
}

fn lease(addr: Addr, node: Node, pool: &Pool, now: Timestamp) -> Lease {
    Lease {
        set: pool.set(),
        addr,
        prefix: pool.subnet.len(),
        kind: if pool.gateway == Some(addr) { Kind::Gateway } else { Kind::Dynamic },
        owner: Owner::Pool(pool.id.clone(), addr),
        range: pool.sub.unwrap_or(pool.subnet).first(),
        node,
        boot: None,
        origin: Origin::default(),
        time: now,
        cooldown: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: &str = r#"{"subnet": "10.81.0.0/16", "gateway": "10.81.0.1/16"}"#;

    fn content(keys: &[(&str, &str)]) -> Content {
        let key = |(key, value): &(&str, &str)| (format!("/f/{key}"), (*value).to_owned());
        let keys: Vec<_> = keys.iter().map(key).collect();
        Content::parse(&keys, "/f/", "local", 1).unwrap()
    }

    fn users(content: &Content) -> Vec<&str> {
        content.pools["web"].users.iter().map(|(node, _)| node.name.as_str()).collect()
    }

    #[test]
    fn a_host_that_has_an_address_uses_the_pool() {
        let address = r#"{"address": "10.81.0.9/16", "node": "n2"}"#;
        // The host that leased the gateway has released the pool.
        let gateway = r#"{"address": "10.81.0.1/16", "node": "n3"}"#;
        let content = content(&[
            ("pools/web", POOL),
            ("pool-nodes/web/n1", "{}"),
            ("addresses/web/10.81.0.9", address),
            ("addresses/web/10.81.0.1", gateway),
        ]);
        assert_eq!(users(&content), ["n1", "n2"]);
        assert!(content.unrecorded.is_empty());
        assert_eq!(content.leases.len(), 2);
    }

    #[test]
    fn a_pool_without_recorded_hosts_is_in_use() {
        let content = content(&[("pools/web", POOL)]);
        assert_eq!(users(&content), [UNRECORDED]);
        assert_eq!(content.unrecorded, ["web"]);
        let leases: Vec<_> = content.leases.iter().map(|l| (l.addr.to_string(), l.kind)).collect();
        assert_eq!(leases, [("10.81.0.1".to_owned(), Kind::Gateway)]);
    }
}
