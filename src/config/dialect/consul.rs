//! cni-ipam-consul's dialect: `consul_addr`, `consul_port`, `dc`.
//!
//! It differs from host-local's: host bits of a subnet are ignored, and the network's name may be missing.
//! Invariant: the store is Consul, whatever else the configuration contains. Nothing is stored in a file of
//! this node.

use crate::config::cluster;
use crate::config::error::ConfigError;
use crate::config::fields::Fields;

/// Checks the dialect's own keys. Called first, so that an error in these keys is the reported error.
pub fn check(ipam: &Fields) -> Result<(), ConfigError> {
    cluster::consul_endpoint(ipam)?;
    ipam.text("dc")?;
    if !ipam.has("subnet") && !ipam.has("ranges") {
        return Err(ConfigError::invalid(
            "missing field \"subnet\" in IPAM configuration; set ipam.subnet, as 203.0.113.0/24",
        ));
    }
    Ok(())
}
