//! A decoded network configuration, before it is known what it is wanted for.
//!
//! It reads the top level alone: the keys in `ipam` are the dialects'.

use super::error::ConfigError;
use super::fields::{Fields, is_spelling_of};
use super::json::Json;
use super::runtime::{Attachments, VALID};
use super::{Cleanup, Config, Dialect, Inputs};
use crate::model::{Attachment, NameError, NetworkName};

/// What `cniVersion` is when it is absent.
const FIRST_VERSION: &str = "0.1.0";

/// A network configuration as it was read.
#[derive(Clone, Debug)]
pub struct Netconf {
    pairs: Vec<(String, Json)>,
    version: String,
    pub(super) name: Option<String>,
    /// GC's, which are not in `pairs`.
    pub(super) attachments: Attachments,
}

/// One dialect: how it is told, and how it is read.
pub(super) struct DialectRules {
    pub(super) dialect: Dialect,
    /// Whether these keys of `ipam` are its own.
    pub(super) claims: fn(&Fields) -> bool,
    /// The network's name, from `name`.
    pub(super) name: fn(Option<&str>) -> Result<NetworkName, ConfigError>,
    pub(super) config: fn(&Netconf, &Inputs) -> Result<Config, ConfigError>,
    pub(super) cleanup: fn(&Netconf, &Inputs) -> Cleanup,
}

impl Netconf {
    /// Decodes JSON. What is wrong inside `ipam` is an error of [`Netconf::config`], so that it
    /// cannot stop a DEL.
    pub fn decode(bytes: &[u8]) -> Result<Netconf, ConfigError> {
        let mut attachments = Attachments::default();
        let mut take = |key: &str, item: Option<(usize, Json)>| attachments.take(key, item);
        match Json::parse_apart(bytes, &VALID, &mut take).map_err(|e| fail(&e))? {
            Json::Object(pairs) => Ok(Netconf { attachments, ..Netconf::from_pairs(pairs)? }),
            other => {
                let what = other.describe();
                Err(fail(&format!("it must be an object, not {what}")))
            }
        }
    }

    /// The same, of what was parsed.
    pub(super) fn from_pairs(pairs: Vec<(String, Json)>) -> Result<Netconf, ConfigError> {
        let root = Fields::root(&pairs);
        let version = root.text("cniVersion").map_err(|e| fail(&e).at("cniVersion"))?;
        let version = version.unwrap_or(FIRST_VERSION);
        let version = version.to_owned();
        let name = root.text("name").map_err(|e| fail(&e).at("name"))?.map(str::to_owned);
        Ok(Netconf { pairs, version, name, attachments: Attachments::default() })
    }

    /// `cniVersion`; absent or empty, it is 0.1.0.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Whether it says nothing about addresses: no `ipam`, or nothing but a `type` in it.
    pub fn is_bare(&self) -> bool {
        match self.root().object("ipam") {
            Ok(None) => true,
            Ok(Some(ipam)) => ipam.keys().all(|key| key.eq_ignore_ascii_case("type")),
            Err(_) => false,
        }
    }

    /// The same with another `ipam`.
    pub(super) fn with_ipam(&self, ipam: Vec<(String, Json)>) -> Netconf {
        let mut pairs = self.pairs.clone();
        pairs.retain(|(key, _)| !is_spelling_of(key, "ipam"));
        pairs.push(("ipam".to_owned(), Json::Object(ipam)));
        Netconf { pairs, ..self.clone() }
    }

    /// Drops these keys of the top level.
    pub(super) fn forget(&mut self, keys: &[&str]) {
        self.pairs.retain(|(key, _)| !keys.iter().any(|name| is_spelling_of(key, name)));
    }

    /// The top level.
    pub(super) fn root(&self) -> Fields<'_> {
        Fields::root(&self.pairs)
    }

    /// `ipam`.
    pub(super) fn ipam(&self) -> Result<Fields<'_>, ConfigError> {
        self.root()
            .object("ipam")?
            .ok_or_else(|| ConfigError::invalid("IPAM config missing 'ipam' key"))
    }

    /// `ipam`, without a key where it is none.
    pub(super) fn ipam_or_empty(&self) -> Fields<'_> {
        self.root().object("ipam").ok().flatten().unwrap_or_default()
    }
}

fn fail(e: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::decode(format!("error unmarshall network config: {e}"))
}

/// The network of this name, with the specification's messages.
pub(super) fn network_name(name: &str) -> Result<NetworkName, ConfigError> {
    NetworkName::new(name)
        .map_err(|e| match e {
            NameError::Empty => ConfigError::invalid("missing network name"),
            _ => {
                ConfigError::invalid("invalid characters found in network name").with_details(name)
            }
        })
        .map_err(|e| e.at("name"))
}

/// The attachment, where a container is named.
pub(super) fn attachment(network: &NetworkName, inputs: &Inputs) -> Option<Attachment> {
    inputs.container.clone().map(|container| Attachment {
        network: network.clone(),
        container,
        ifname: inputs.ifname.clone(),
    })
}
