//! Reads the results that libcni caches in `/var/lib/cni/results/<network>-<container>-<interface>`. There is
//! one record for each attachment, with the configuration of the ADD, its arguments and its result.
//!
//! If a store is lost or is restored from an older backup, these records make it possible to lease the same
//! addresses to the same containers again.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::config::{Inputs, Netconf};
use crate::model::{ContainerId, IfName};
use crate::net::{Addr, parse_addr};
use crate::sys::files;

/// The maximum length of a cached result, in bytes.
const LONGEST: u64 = 1 << 20;

/// The cached record of one attachment.
pub struct Cached {
    /// The name of the network.
    pub network: String,
    /// The container ID (`CNI_CONTAINERID`).
    pub container: String,
    /// The interface name (`CNI_IFNAME`).
    pub ifname: String,
    /// The value of `CNI_NETNS`; `None` if the cached result does not contain it.
    pub netns: Option<String>,
    /// The value of `CNI_ARGS`.
    args: String,
    /// The network configuration that libcni passed to the plugin.
    config: Vec<u8>,
    /// The addresses in the result.
    pub addrs: Vec<Addr>,
}

impl Cached {
    /// Returns the decoded configuration and the inputs of the cached ADD. The environment variables that
    /// locate the store come from `env`; the container, the interface and the arguments come from the record.
    pub fn netconf(&self, env: &Inputs) -> Result<(Netconf, Inputs), String> {
        let netconf = Netconf::decode(&self.config).map_err(|e| e.to_string())?;
        let id = |what, text| format!("invalid {what} {text:?}");
        let container = ContainerId::new(&self.container);
        let ifname = IfName::new(&self.ifname);
        let inputs = Inputs {
            container: Some(container.map_err(|_| id("container ID", &self.container))?),
            ifname: Some(ifname.map_err(|_| id("interface name", &self.ifname))?),
            args: self.args.clone(),
            ..env.clone()
        };
        Ok((netconf, inputs))
    }
}

/// The fields that this module reads from a record. The format is libcni's `cniCacheV1`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    kind: String,
    container_id: String,
    config: String,
    if_name: String,
    network_name: String,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    #[serde(default)]
    capability_args: Option<Map<String, Value>>,
    #[serde(default)]
    result: Value,
}

/// Reads the record of an attachment. Returns `None` if the IPAM plugin of the attachment is not `ipam`.
pub fn read(path: &Path, ipam: &str) -> Result<Option<Cached>, String> {
    let text = files::read(path, LONGEST).map_err(|e| format!("cannot read the file: {e}"))?;
    parse(&text, ipam)
}

fn parse(text: &str, ipam: &str) -> Result<Option<Cached>, String> {
    let raw: Raw = serde_json::from_str(text).map_err(|e| format!("not a cached result: {e}"))?;
    if raw.kind != "cniCacheV1" {
        return Err(format!("unknown format {:?}, expected cniCacheV1", raw.kind));
    }
    let list =
        BASE64.decode(&raw.config).map_err(|e| format!("invalid cached configuration: {e}"))?;
    let list =
        serde_json::from_slice(&list).map_err(|e| format!("invalid cached configuration: {e}"))?;
    let Some(config) = plugin(&list, ipam) else { return Ok(None) };
    let args = raw.cni_args.unwrap_or_default();
    let args: Vec<String> = args.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    // libcni before 1.2 does not record `netns`. The main plugins include the same path in their results, as
    // the `sandbox` of an interface.
    let interfaces = raw.result["interfaces"].as_array().into_iter().flatten();
    let sandboxes = interfaces.filter_map(|interface| interface["sandbox"].as_str());
    let netns = std::iter::once(raw.netns.as_str()).chain(sandboxes).find(|path| !path.is_empty());
    let netns = netns.map(str::to_owned);
    Ok(Some(Cached {
        config: injected(config, &list, &raw.network_name, raw.capability_args),
        addrs: addresses(&raw.result)?,
        network: raw.network_name,
        container: raw.container_id,
        ifname: raw.if_name,
        netns,
        args: args.join(";"),
    }))
}

/// Returns the configuration of the plugin that delegates to `ipam`: a plugin in a list, or the only plugin
/// of a configuration.
fn plugin(list: &Value, ipam: &str) -> Option<Map<String, Value>> {
    let plugins = list["plugins"].as_array().map_or(std::slice::from_ref(list), Vec::as_slice);
    let found = plugins.iter().find(|plugin| plugin["ipam"]["type"] == ipam)?;
    found.as_object().cloned()
}

/// Returns a plugin's configuration together with the keys that libcni adds to it for an ADD.
fn injected(
    mut config: Map<String, Value>,
    list: &Value,
    network: &str,
    capability_args: Option<Map<String, Value>>,
) -> Vec<u8> {
    config.insert("name".to_owned(), network.into());
    if let Some(version) = list.get("cniVersion") {
        config.insert("cniVersion".to_owned(), version.clone());
    }
    if let Some(args) = capability_args {
        config.insert("runtimeConfig".to_owned(), args.into());
    }
    Value::Object(config).to_string().into_bytes()
}

/// Returns the addresses in a result of any CNI version. They are in `ips` or, before 0.3.0, in `ip4` and
/// `ip6`.
fn addresses(result: &Value) -> Result<Vec<Addr>, String> {
    let ips = result["ips"].as_array().into_iter().flatten().map(|ip| &ip["address"]);
    let old = [&result["ip4"]["ip"], &result["ip6"]["ip"]].into_iter().filter(|ip| !ip.is_null());
    let addr = |ip: &Value| {
        let text = ip.as_str().unwrap_or_default();
        parse_addr(text).ok_or_else(|| format!("invalid address {ip} in the cached result"))
    };
    ips.chain(old).map(addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(config: &Value, result: &Value) -> String {
        let config = BASE64.encode(config.to_string());
        json!({
            "kind": "cniCacheV1", "containerId": "c1", "config": config, "ifName": "eth0",
            "networkName": "pods", "netns": "/run/netns/a", "cniArgs": [["K8S_POD_NAME", "web"]],
            "capabilityArgs": {"mac": "02:00:00:00:00:01"}, "result": result,
        })
        .to_string()
    }

    #[test]
    fn the_configuration_is_what_the_plugin_was_given() {
        let list = json!({"cniVersion": "1.1.0", "name": "pods", "plugins": [
            {"type": "bridge", "ipam": {"type": "sublet", "subnet": "10.77.0.0/24"}},
            {"type": "portmap"},
        ]});
        let result = json!({"ips": [{"address": "10.77.0.2/24"}, {"address": "fd77::2/64"}]});
        let cached = parse(&record(&list, &result), "sublet").unwrap().unwrap();
        assert_eq!(cached.args, "K8S_POD_NAME=web");
        assert_eq!(
            cached.addrs,
            [parse_addr("10.77.0.2"), parse_addr("fd77::2")].map(Option::unwrap)
        );
        let config: Value = serde_json::from_slice(&cached.config).unwrap();
        assert_eq!(
            config,
            json!({
                "cniVersion": "1.1.0", "name": "pods", "type": "bridge",
                "ipam": {"type": "sublet", "subnet": "10.77.0.0/24"},
                "runtimeConfig": {"mac": "02:00:00:00:00:01"},
            })
        );
        assert!(parse(&record(&list, &result), "host-local").unwrap().is_none());
        // The configuration has a single plugin, and the result has an old CNI version.
        let one = json!({"name": "pods", "type": "bridge", "ipam": {"type": "sublet"}});
        let old = json!({"ip4": {"ip": "10.77.0.9/24"}});
        let cached = parse(&record(&one, &old), "sublet").unwrap().unwrap();
        assert_eq!(cached.addrs, [parse_addr("10.77.0.9").unwrap()]);
        assert_eq!(cached.netns.as_deref(), Some("/run/netns/a"));
        // This is a record as libcni wrote it before 1.2.
        let result =
            json!({"interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/netns/b"}]});
        let old = record(&one, &result).replace(r#""netns":"/run/netns/a","#, "");
        let netns = |text: &str| parse(text, "sublet").unwrap().unwrap().netns;
        assert_eq!(netns(&old).as_deref(), Some("/run/netns/b"));
        assert_eq!(netns(&record(&one, &json!({})).replace("/run/netns/a", "")), None);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let one = json!({"ipam": {"type": "sublet"}});
        let good = record(&one, &json!({}));
        for bad in [
            String::new(),
            "[]".to_owned(),
            good.replace("cniCacheV1", "cniCacheV2"),
            good.replace("\"config\":\"", "\"config\":\"!"),
            record(&one, &json!({"ips": [{"address": "x"}]})),
        ] {
            assert!(parse(&bad, "sublet").is_err(), "{bad}");
        }
        assert!(parse(&good, "sublet").unwrap().unwrap().addrs.is_empty());
    }
}
