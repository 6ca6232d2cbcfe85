//! `define`: the definition of a network that the cluster stores for all nodes.
//!
//! This module determines which keys of `ipam` belong to a definition, and how they are spelled. The module
//! `native` interprets the values.
//! Invariant: a definition that is inserted into a configuration is parsed by the same rules as a
//! configuration that an operator wrote.

use serde_json::{Map, Value};

use super::cidr::cidr;
use super::error::ConfigError;
use super::fields::{Fields, Node};
use super::json::{Json, is_spelling_of};
use super::netconf::Netconf;
use super::{Config, Dialect, Inputs, cluster, keys};
use crate::model::{NetworkName, StoreSpec};

/// The keys that belong to a definition, because they must be the same on all nodes of the network.
const KEYS: &[&str] =
    &["subnet", "rangeStart", "rangeEnd", "gateway", "ranges", "exclude", "routes", "dns"];

/// Returns the definition in this configuration; `None` if the configuration does not set `define`.
pub(super) fn requested(
    conf: &Netconf,
    dialect: Dialect,
    store: &StoreSpec,
) -> Result<Option<String>, ConfigError> {
    let ipam = conf.ipam()?;
    if !ipam.flag("define")? {
        return Ok(None);
    }
    if !store.is_cluster() {
        return Err(ConfigError::invalid(
            "ipam.define stores the network's definition in a cluster, but no cluster is configured; set \
             ipam.store, or remove ipam.define",
        ));
    }
    if conf.root().object("runtimeConfig")?.is_some_and(|r| r.get("ipRanges").is_some()) {
        return Err(ConfigError::invalid(
            "runtimeConfig.ipRanges applies to one container, but ipam.define stores one definition for all \
             containers; remove one of the two",
        ));
    }
    text(&ipam, dialect == Dialect::Consul).map(Some)
}

/// Returns the definition in `ipam` as a JSON object. With `mask`, host bits of subnets are cleared.
fn text(ipam: &Fields, mask: bool) -> Result<String, ConfigError> {
    Ok(Value::Object(pick(ipam, KEYS, mask)?).to_string())
}

/// Returns the values of the keys in `names`. The returned keys have sublet's spelling.
fn pick(fields: &Fields, names: &[&str], mask: bool) -> Result<Map<String, Value>, ConfigError> {
    let mut picked = Map::new();
    for name in names {
        if let Some(node) = fields.get(name) {
            let value = match *name {
                "ranges" => pick_nested(&node, keys::RANGE, mask)?,
                "routes" => pick_nested(&node, keys::ROUTE, mask)?,
                "subnet" if mask => Value::from(cidr(&node)?.net.trunc().to_string()),
                _ => node.json().value(),
            };
            picked.insert((*name).to_owned(), value);
        }
    }
    Ok(picked)
}

/// Applies [`pick`] to an object, or to every object in a list or in a list of lists.
fn pick_nested(node: &Node, names: &[&str], mask: bool) -> Result<Value, ConfigError> {
    Ok(match node.json() {
        Json::Array(_) => {
            let items = node.list()?;
            let items = items.iter().map(|item| pick_nested(item, names, mask));
            Value::Array(items.collect::<Result<_, _>>()?)
        }
        Json::Object(_) => Value::Object(pick(&node.clone().fields()?, names, mask)?),
        other => other.value(),
    })
}

impl Netconf {
    /// Returns a copy of the configuration, with the network's definition replaced by `text`.
    pub fn defined(&self, text: &str) -> Result<Netconf, ConfigError> {
        let Ok(Json::Object(definition)) = Json::parse(text.as_bytes()) else {
            return Err(ConfigError::invalid("the definition is not a JSON object"));
        };
        let mut ipam = self.ipam()?.pairs().to_vec();
        ipam.retain(|(key, _)| !KEYS.iter().any(|name| is_spelling_of(key, name)));
        ipam.extend(definition);
        Ok(self.with_ipam(ipam))
    }
}

/// Reads a network's definition from a file: a network configuration, a plugin list, or the output of `sublet
/// network show --json`. Also returns the value of the key `version`, if present: the version of the stored
/// definition from which the file was made.
pub fn from_file(
    bytes: &[u8],
    network: &NetworkName,
) -> Result<(String, Option<u64>), ConfigError> {
    let Json::Object(pairs) = Json::parse(bytes)
        .map_err(|e| ConfigError::decode(format!("the file is not valid JSON: {e}")))?
    else {
        return Err(ConfigError::decode("the definition is not a JSON object"));
    };
    let root = Fields::root(&pairs);
    if let Some(name) = root.text("name")?.filter(|name| *name != network.as_str()) {
        return Err(ConfigError::invalid(format!(
            "the file defines network {name}, not {network}"
        )));
    }
    let mut found = root.object("ipam")?;
    for plugin in root.list("plugins")? {
        found = found.or(plugin.fields()?.object("ipam")?);
    }
    let Some(ipam) = found else {
        return Err(ConfigError::invalid(
            "the file has no \"ipam\"; write a definition such as {\"ipam\": {\"subnet\": \"10.1.0.0/16\"}}",
        ));
    };
    let version = root.integer("version")?.and_then(|n| u64::try_from(n).ok());
    Ok((text(&ipam, cluster::has_consul_keys(&ipam))?, version))
}

/// Parses a definition by the same rules as a configuration.
pub fn read(text: &str, network: &NetworkName) -> Result<Config, ConfigError> {
    let name = Value::from(network.as_str());
    let conf = Netconf::decode(format!(r#"{{"name":{name},"ipam":{{}}}}"#).as_bytes())?;
    conf.defined(text)?.config(&Inputs::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NET: &str = r#"{"cniVersion":"1.0.0","name":"net","ipam":{"type":"sublet","define":true,
        "store":{"etcd":{}},"SUBNET":"10.1.0.0/16","range-start":"10.1.0.5","sticky":true,
        "ranges":[[{"subnet":"10.2.0.0/24","Gateway":"10.2.0.9","x":1}]],"routes":[{"dst":"0.0.0.0/0"}]}}"#;

    fn config(text: &str) -> Result<Config, ConfigError> {
        Netconf::decode(text.as_bytes()).unwrap().config(&Inputs::default())
    }

    #[test]
    fn a_definition_is_spelled_one_way() {
        let text = config(NET).unwrap().define.unwrap();
        assert_eq!(
            text,
            r#"{"rangeStart":"10.1.0.5","ranges":[[{"gateway":"10.2.0.9","subnet":"10.2.0.0/24"}]],"routes":[{"dst":"0.0.0.0/0"}],"subnet":"10.1.0.0/16"}"#
        );
        let network = NetworkName::new("net").unwrap();
        assert_eq!(from_file(NET.as_bytes(), &network).unwrap(), (text.clone(), None));
        let list = format!(r#"{{"name":"net","version":7,"plugins":[{{"type":"x"}},{NET}]}}"#);
        assert_eq!(from_file(list.as_bytes(), &network).unwrap(), (text.clone(), Some(7)));
        assert_eq!(read(&text, &network).unwrap().sets, config(NET).unwrap().sets);
    }

    #[test]
    fn another_definition_takes_the_place_of_ours_and_of_nothing_else() {
        let ours = Netconf::decode(NET.as_bytes()).unwrap();
        let theirs = ours.defined(r#"{"subnet":"10.9.0.0/24"}"#).unwrap();
        let theirs = theirs.config(&Inputs::default()).unwrap();
        assert_eq!(theirs.sets.len(), 1);
        assert!(theirs.routes.is_empty() && theirs.sticky && theirs.cleanup.store.is_cluster());
        for bad in ["", "[]", "{"] {
            assert!(ours.defined(bad).is_err(), "{bad}");
        }
        let gone = ours.defined("{}").unwrap().config(&Inputs::default());
        assert!(gone.unwrap_err().to_string().contains("no IP ranges"));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let file = NET.replace(r#""store":{"etcd":{}},"#, "");
        assert!(config(&file).unwrap_err().to_string().contains("set ipam.store"));
        let ranges =
            NET.replacen('{', r#"{"runtimeConfig":{"ipRanges":[[{"subnet":"10.3.0.0/24"}]]},"#, 1);
        assert!(config(&ranges).unwrap_err().to_string().contains("runtimeConfig.ipRanges"));
        let network = NetworkName::new("net").unwrap();
        for (bad, why) in [
            ("", "not valid JSON"),
            ("[]", "not a JSON object"),
            (r#"{"name":"other","ipam":{}}"#, "network other"),
            ("{}", "has no \"ipam\""),
        ] {
            let error = from_file(bad.as_bytes(), &network).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn host_bits_of_a_consul_configuration_are_left_out() {
        let text =
            config(r#"{"name":"net","ipam":{"dc":"dc1","subnet":"203.0.113.5/29","define":true}}"#);
        assert_eq!(text.unwrap().define.unwrap(), r#"{"subnet":"203.0.113.0/29"}"#);
    }
}
