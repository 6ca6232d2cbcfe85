//! Reads the networks and endpoints of the local dockerd, through the API on its unix socket.
//!
//! Only cleanup uses this module. A request handler must not use it: while dockerd waits for the handler's
//! response, it holds its locks and would not respond.
//! Invariant: [`list`] returns either a complete listing or an error.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::liveness::runtimes;
use crate::model::Timestamp;
use crate::net::{Addr, Subnet, parse_addr, parse_cidr};
use crate::sys::host;

/// dockerd's networks. No part of this data is older than `started`.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The time just before the networks were read.
    pub started: Timestamp,
    /// The networks whose IPAM driver is not built into dockerd.
    pub networks: Vec<Network>,
}

/// A network of dockerd.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// The subnets of the network, each with its sub-pool.
    pub pools: Vec<(Subnet, Option<Subnet>)>,
    /// The value of kontena-ipam's option `network=`.
    pub shared: Option<String>,
    /// The gateways, auxiliary addresses and addresses of endpoints.
    pub addrs: Vec<Addr>,
    /// Whether the network belongs to a swarm. dockerd does not list all addresses of a swarm network.
    pub swarm: bool,
}

/// The maximum time to wait for dockerd's response to begin, and then for each further part of it.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the networks of the dockerd that listens on `socket`.
pub fn list(socket: &Path) -> Result<Listing> {
    let started = host::now();
    let all = get(socket, "/networks")?;
    let mut networks = Vec::new();
    for network in all.as_array().context("dockerd's response is not a list of networks")? {
        let driver = network["IPAM"]["Driver"].as_str().unwrap_or_default();
        if matches!(driver, "default" | "null" | "") {
            continue;
        }
        let id = network["Id"].as_str().filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric()));
        let id = id.context("dockerd's response contains a network without a valid ID")?;
        let whole = get(socket, &format!("/networks/{id}"))?;
        ensure!(
            whole["Id"] == network["Id"],
            "dockerd's response describes a network other than {id}"
        );
        networks.push(read(&whole).with_context(|| format!("network {id}"))?);
    }
    Ok(Listing { started, networks })
}

fn get(socket: &Path, path: &str) -> Result<Value> {
    let what = || format!("cannot request {path} from dockerd at {}", socket.display());
    let answer = runtimes::ask(socket, path, TIMEOUT).with_context(what)?;
    runtimes::read(&answer).with_context(what)
}

/// Parses one network. A malformed value is an error, because it may stand for an address in use.
fn read(raw: &Value) -> Result<Network> {
    let mut network = Network {
        shared: raw["IPAM"]["Options"]["network"].as_str().map(str::to_owned),
        swarm: raw["Scope"] == "swarm",
        ..Network::default()
    };
    for config in raw["IPAM"]["Config"].as_array().into_iter().flatten() {
        let subnet =
            prefix(&config["Subnet"])?.context("an address pool of the network has no subnet")?;
        network.pools.push((subnet, prefix(&config["IPRange"])?));
        network.addrs.extend(addr(&config["Gateway"])?);
        for (_, aux) in config["AuxiliaryAddresses"].as_object().into_iter().flatten() {
            network.addrs.extend(addr(aux)?);
        }
    }
    for (_, container) in raw["Containers"].as_object().into_iter().flatten() {
        network.addrs.extend(addr(&container["IPv4Address"])?);
        network.addrs.extend(addr(&container["IPv6Address"])?);
    }
    Ok(network)
}

fn text(value: &Value) -> Result<Option<&str>> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) => Ok(Some(text)),
        other => bail!("{other} is not a string"),
    }
}

/// Parses an address, with or without a prefix length.
fn addr(value: &Value) -> Result<Option<Addr>> {
    let Some(text) = text(value)? else { return Ok(None) };
    parse_addr(text).map(Some).with_context(|| format!("{text:?} is not an address"))
}

fn prefix(value: &Value) -> Result<Option<Subnet>> {
    let Some(text) = text(value)? else { return Ok(None) };
    let net = parse_cidr(text).with_context(|| format!("{text:?} is not a prefix"))?;
    Ok(Some(net.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_network_is_read_whole_or_not() {
        let mut raw = json!({
            "Scope": "local",
            "IPAM": {
                "Driver": "sublet",
                "Options": {"network": "web"},
                "Config": [{
                    "Subnet": "10.2.0.0/16", "IPRange": "10.2.5.0/24", "Gateway": "10.2.0.1",
                    "AuxiliaryAddresses": {"a": "10.2.5.5"},
                }, {"Subnet": "fd00::/64", "Gateway": "fd00::1/64"}],
            },
            "Containers": {"x": {"IPv4Address": "10.2.5.0/16", "IPv6Address": ""}},
        });
        let network = read(&raw).unwrap();
        assert_eq!((network.pools.len(), network.addrs.len()), (2, 4));
        assert_eq!(network.shared.as_deref(), Some("web"));
        raw["Containers"]["x"]["IPv4Address"] = json!("somewhere");
        assert!(read(&raw).is_err());
        raw["Containers"]["x"]["IPv4Address"] = json!(7);
        assert!(read(&raw).is_err());
    }
}
