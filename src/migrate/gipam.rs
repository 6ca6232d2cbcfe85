//! Reads gipam's lease file: the pools and addresses of the Docker networks that use gipam.
//!
//! gipam allocated the next block of its main pool to each network. There is one main pool for each address
//! family. The blocks in `free` belong to no network.
//! Invariant: if any part of the file is invalid, nothing is imported.

use serde_json::Value;

use crate::alloc::{AdoptPool, Block};
use crate::model::PoolId;
use crate::net::{Addr, Family, Subnet, parse_cidr};

/// The content of gipam's lease file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFile {
    /// The pools of existing networks, with the IDs under which Docker stores them.
    pub pools: Vec<AdoptPool>,
    /// The main pools, and the sizes of their blocks.
    pub blocks: Vec<Block>,
}

/// Parses the content of the file. The pools are assigned to the address space `space`.
pub fn read(text: &str, space: &str) -> Result<LeaseFile, String> {
    let root: Value =
        serde_json::from_str(text).map_err(|e| format!("the file is not valid JSON: {e}"))?;
    if !root.is_object() {
        return Err("the file is not a JSON object".to_owned());
    }
    let mut blocks = Vec::new();
    for (key, size, family) in [("v4", "v4ab", Family::V4), ("v6", "v6ab", Family::V6)] {
        let text = root[key].as_str().unwrap_or_default();
        if text.is_empty() {
            continue;
        }
        let within =
            subnet(text, family).ok_or(format!("invalid \"{key}\" {text:?}: not a prefix"))?;
        let len = root[size].as_u64().and_then(|len| u8::try_from(len).ok());
        let len = len.filter(|len| (within.len()..=family.bits()).contains(len));
        let len =
            len.ok_or(format!("invalid \"{size}\" {}: not a block size in {within}", root[size]))?;
        blocks.push(Block { within, len });
    }
    let mut pools = Vec::new();
    for (at, raw) in list(&root, "allocated")?.iter().enumerate() {
        let pool = pool(raw, space).map_err(|e| format!("allocated[{at}]: {e}"))?;
        if pools.iter().any(|p: &AdoptPool| p.id == pool.id) {
            return Err(format!("allocated[{at}]: duplicate \"id\" {}", pool.id));
        }
        pools.push(pool);
    }
    Ok(LeaseFile { pools, blocks })
}

/// Returns the list at `key`. gipam leaves out an empty list.
fn list<'v>(value: &'v Value, key: &str) -> Result<&'v [Value], String> {
    match &value[key] {
        Value::Null => Ok(&[]),
        Value::Array(items) => Ok(items),
        other => Err(format!("invalid \"{key}\" {other}: not a list")),
    }
}

/// Parses a prefix. gipam kept the host bits of a prefix that the operator configured as, for example,
/// 10.0.0.1/24.
fn subnet(text: &str, family: Family) -> Option<Subnet> {
    parse_cidr(text).map(Subnet::from).filter(|s| s.family() == family)
}

fn pool(raw: &Value, space: &str) -> Result<AdoptPool, String> {
    let id = raw["id"].as_str().filter(|id| !id.is_empty()).ok_or("\"id\" is missing")?;
    let text = raw["pool"].as_str().unwrap_or_default();
    let family = match raw["v"].as_u64() {
        Some(4) => Family::V4,
        Some(6) => Family::V6,
        _ => return Err(format!("invalid \"v\" {}: use 4 or 6", raw["v"])),
    };
    let subnet = subnet(text, family)
        .ok_or(format!("invalid \"pool\" {text:?}: not an IPv{} prefix", raw["v"]))?;
    let mut addrs = Vec::new();
    for addr in list(raw, "allocated")? {
        let text = addr.as_str().unwrap_or_default();
        let parsed: Option<Addr> = text.parse().ok();
        let within = parsed.filter(|a| subnet.contains(*a));
        addrs.push(within.ok_or(format!("{addr} is not an address in {subnet}"))?);
    }
    addrs.sort_unstable();
    addrs.dedup();
    Ok(AdoptPool { id: PoolId(id.to_owned()), space: space.to_owned(), subnet, addrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
      "v6": "2001:db8::/56", "v6ab": 64, "v6idx": 1,
      "v4": "192.168.0.0/16", "v4ab": 24, "v4idx": 2,
      "allocated": [
        {"id": "a1b2c3d4e5f6g7h8", "v": 4, "pool": "192.168.0.0/24", "idx": 4,
         "allocated": ["192.168.0.1", "192.168.0.3"], "free": ["192.168.0.2"]},
        {"id": "0123456789abcdef", "v": 6, "pool": "2001:db8::/64", "idx": 2,
         "allocated": ["2001:db8::1"]}
      ],
      "free": [{"id": "unused", "v": 4, "pool": "192.168.1.0/24"}]
    }"#;

    #[test]
    fn blocks_that_networks_have_are_pools() {
        let file = read(FILE, "l").unwrap();
        assert_eq!(file.blocks.len(), 2);
        let shown: Vec<String> =
            file.pools.iter().map(|p| format!("{} {} {:?}", p.id, p.subnet, p.addrs)).collect();
        assert_eq!(
            shown,
            [
                "a1b2c3d4e5f6g7h8 192.168.0.0/24 [192.168.0.1, 192.168.0.3]",
                "0123456789abcdef 2001:db8::/64 [2001:db8::1]"
            ]
        );
        // This file has a configuration but no leases.
        assert!(read(r#"{"v6":"","v4":"10.0.0.0/8","v4ab":16}"#, "l").unwrap().pools.is_empty());
    }

    #[test]
    fn a_file_that_makes_no_sense_says_where() {
        for (from, to, word) in [
            ("\"192.168.0.3\"", "\"10.0.0.1\"", "allocated[0]: \"10.0.0.1\""),
            ("0123456789abcdef", "a1b2c3d4e5f6g7h8", "duplicate"),
            ("\"v\": 6", "\"v\": 4", "not an IPv4 prefix"),
            ("\"v4ab\": 24", "\"v4ab\": 8", "not a block size"),
            ("\"allocated\": [\"2001", "\"allocated\": 7, \"x\": [\"2001", "not a list"),
            ("{\n", "", "not valid JSON"),
        ] {
            let error = read(&FILE.replacen(from, to, 1), "l").unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
