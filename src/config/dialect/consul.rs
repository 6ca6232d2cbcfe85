//! cni-ipam-consul's dialect: `consul_addr`, `consul_port`, `dc`.
//!
//! Owns: those keys, and what differs from host-local's: host bits of a subnet are ignored, the
//! network's name may be absent, nothing is ever kept in a file of this node.
//! Invariant: the store is Consul, whatever else the configuration says.

use super::native;
use crate::config::error::ConfigError;
use crate::config::netconf::{DialectRules, Netconf, network_name};
use crate::config::{Cleanup, Config, Dialect, Inputs, cluster};
use crate::model::NetworkName;

/// Claimed by any of its three keys.
pub const RULES: DialectRules = DialectRules {
    dialect: Dialect::Consul,
    claims: cluster::has_consul_keys,
    name: |name| match name {
        None | Some("") => Ok(NetworkName::unnamed()),
        Some(name) => network_name(name),
    },
    config,
    cleanup,
};

fn config(conf: &Netconf, inputs: &Inputs) -> Result<Config, ConfigError> {
    let ipam = conf.ipam()?;
    // Looked at first, so that a slip here is what is told of.
    cluster::consul_endpoint(&ipam)?;
    ipam.text("dc")?;
    if !ipam.has("subnet") && !ipam.has("ranges") {
        return Err(ConfigError::invalid(
            "missing field \"subnet\" in IPAM configuration; give ipam.subnet, as 203.0.113.0/24",
        ));
    }
    native::config(conf, inputs, Dialect::Consul)
}

fn cleanup(conf: &Netconf, inputs: &Inputs) -> Cleanup {
    native::cleanup(conf, inputs, Dialect::Consul)
}
