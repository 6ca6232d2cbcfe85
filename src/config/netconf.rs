//! A decoded network configuration whose dialect and command have not been determined yet.
//!
//! This module reads only the top level of the configuration. The dialects read the keys inside `ipam`.

use super::Inputs;
use super::error::ConfigError;
use super::fields::Fields;
use super::json::{Json, is_spelling_of};
use super::runtime::{Attachments, VALID, prev_addresses};
use crate::model::{Attachment, ContainerId, IfName, NameError, NetworkName};
use crate::net::Addr;

/// The CNI version of a configuration that has no `cniVersion`.
const FIRST_VERSION: &str = "0.1.0";

/// A decoded network configuration.
#[derive(Clone, Debug)]
pub struct Netconf {
    pairs: Vec<(String, Json)>,
    version: String,
    pub(super) name: Option<String>,
    /// The attachments that a GC names as valid. They are not in `pairs`, because there may be very many of
    /// them.
    attachments: Attachments,
}

impl Netconf {
    /// Decodes JSON. Errors inside `ipam` are not reported here but by [`Netconf::config`], so that they
    /// cannot prevent a DEL.
    pub fn decode(bytes: &[u8]) -> Result<Netconf, ConfigError> {
        let mut attachments = Attachments::default();
        let mut take = |key: &str, item: Option<(usize, Json)>| attachments.take(key, item);
        match Json::parse_apart(bytes, &VALID, &mut take).map_err(|e| fail(&e))? {
            Json::Object(pairs) => Ok(Netconf { attachments, ..Netconf::from_pairs(pairs)? }),
            other => {
                let what = other.describe();
                Err(fail(&format!("the configuration must be an object, not {what}")))
            }
        }
    }

    /// Makes a configuration from keys and values.
    pub(super) fn from_pairs(pairs: Vec<(String, Json)>) -> Result<Netconf, ConfigError> {
        let root = Fields::root(&pairs);
        let version = root.text("cniVersion").map_err(|e| fail(&e).at("cniVersion"))?;
        let version = version.unwrap_or(FIRST_VERSION).to_owned();
        let name = root.text("name").map_err(|e| fail(&e).at("name"))?.map(str::to_owned);
        Ok(Netconf { pairs, version, name, attachments: Attachments::default() })
    }

    /// Returns `cniVersion`, or 0.1.0 if it is absent or empty.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Returns whether the configuration has no settings for addresses: it has no `ipam`, or an `ipam` that
    /// contains only `type`.
    pub fn is_bare(&self) -> bool {
        match self.root().object("ipam") {
            Ok(None) => true,
            Ok(Some(ipam)) => ipam.keys().all(|key| key.eq_ignore_ascii_case("type")),
            Err(_) => false,
        }
    }

    /// Returns a copy of the configuration, with `ipam` replaced.
    pub(super) fn with_ipam(&self, ipam: Vec<(String, Json)>) -> Netconf {
        let mut pairs = self.pairs.clone();
        pairs.retain(|(key, _)| !is_spelling_of(key, "ipam"));
        pairs.push(("ipam".to_owned(), Json::Object(ipam)));
        Netconf { pairs, ..self.clone() }
    }

    /// Returns the attachments that a GC names as valid, sorted. They are moved out of the configuration,
    /// because there may be many and they are used only once.
    pub fn take_valid_attachments(&mut self) -> Result<Vec<(ContainerId, IfName)>, ConfigError> {
        let valid = std::mem::take(&mut self.attachments).of(&self.root());
        self.pairs.retain(|(key, _)| !VALID.iter().any(|name| is_spelling_of(key, name)));
        valid
    }

    /// Returns the addresses of `prevResult` for CHECK, in the format of any CNI version; `None` if there is
    /// no `prevResult`.
    pub fn prev_addresses(&self) -> Result<Option<Vec<Addr>>, ConfigError> {
        prev_addresses(&self.root())
    }

    /// Returns the top level of the configuration.
    pub(super) fn root(&self) -> Fields<'_> {
        Fields::root(&self.pairs)
    }

    /// Returns the object `ipam`.
    pub(super) fn ipam(&self) -> Result<Fields<'_>, ConfigError> {
        self.root()
            .object("ipam")?
            .ok_or_else(|| ConfigError::invalid("IPAM config missing 'ipam' key"))
    }

    /// Returns the object `ipam`, or an empty object if `ipam` is not an object.
    pub(super) fn ipam_or_empty(&self) -> Fields<'_> {
        self.root().object("ipam").ok().flatten().unwrap_or_default()
    }
}

fn fail(e: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::decode(format!("error unmarshall network config: {e}"))
}

/// Makes a network name. The error messages are libcni's.
pub(super) fn network_name(name: &str) -> Result<NetworkName, ConfigError> {
    NetworkName::new(name).map_err(|why| {
        let error = match why {
            NameError::Empty => ConfigError::invalid("missing network name"),
            _ => {
                ConfigError::invalid("invalid characters found in network name").with_details(name)
            }
        };
        error.at("name")
    })
}

/// Returns the attachment (network, container and interface); `None` if the call names no container.
pub(super) fn attachment(network: &NetworkName, inputs: &Inputs) -> Option<Attachment> {
    inputs.container.clone().map(|container| Attachment {
        network: network.clone(),
        container,
        ifname: inputs.ifname.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn valid(json: &str) -> Result<Vec<String>, String> {
        let mut conf = Netconf::decode(json.as_bytes()).unwrap();
        let valid = conf.take_valid_attachments();
        let again = conf.take_valid_attachments().unwrap_err().to_string();
        assert!(again.contains("is missing, so nothing was released"), "{again}");
        let names = valid.map(|valid| valid.iter().map(|(c, i)| format!("{c}/{i}")).collect());
        names.map_err(|e| e.to_string())
    }

    #[test]
    fn the_last_list_of_the_first_key_counts() {
        let (a, b) =
            (r#"{"containerID":"a","ifname":"eth0"}"#, r#"{"containerID":"b","ifname":"eth0"}"#);
        let damaged = r#"{"containerID":"c"}"#;
        for (json, expected) in [
            (
                format!(r#"{{"cni.dev/valid-attachments":[{b},{a},{b}]}}"#),
                &["a/eth0", "b/eth0"][..],
            ),
            (format!(r#"{{"CNI.dev/Valid-Attachments":[{a}]}}"#), &["a/eth0"]),
            (format!(r#"{{"cni.dev/attachments":[{a}],"cni.dev/valid-attachments":[]}}"#), &[]),
            (format!(r#"{{"cni.dev/attachments":[{a}],"cni.dev/valid-attachments":null}}"#), &[]),
            (
                format!(r#"{{"cni.dev/valid-attachments":[{a}],"cni.dev/attachments":7}}"#),
                &["a/eth0"],
            ),
            (
                format!(
                    r#"{{"cni.dev/valid-attachments":[{a},{damaged}],"cni.dev/valid-attachments":[{b}]}}"#
                ),
                &["b/eth0"],
            ),
            (
                format!(r#"{{"cni.dev/valid-attachments":[{a}],"cni.dev/valid-attachments":[]}}"#),
                &[],
            ),
        ] {
            assert_eq!(valid(&json).unwrap(), expected, "{json}");
        }
        for (json, why) in [
            (
                format!(r#"{{"cni.dev/valid-attachments":[{a},{damaged},{b}]}}"#),
                "cni.dev/valid-attachments[1].ifname is missing",
            ),
            (
                format!(r#"{{"cni.dev/valid-attachments":{a}}}"#),
                "cni.dev/valid-attachments must be a list, not an object",
            ),
            (
                format!(r#"{{"cni.dev/valid-attachments":[{a},[]]}}"#),
                "cni.dev/valid-attachments[1] must be an object, not a list",
            ),
            ("{}".to_owned(), "cni.dev/valid-attachments is missing"),
        ] {
            let error = valid(&json).unwrap_err();
            assert!(error.starts_with(why), "{json}: {error}");
        }
    }
}
