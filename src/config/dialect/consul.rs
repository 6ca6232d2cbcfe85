//! cni-ipam-consul's dialect: `consul_addr`, `consul_port`, `dc`.
//!
//! Owns: those keys, and what differs from host-local's: host bits of a subnet are ignored, the
//! network's name may be absent, nothing is ever kept in a file of this node.
//! Invariant: the store is Consul, whatever else the configuration says.

use crate::config::cluster;
use crate::config::error::ConfigError;
use crate::config::fields::Fields;

/// Refuses what is wrong with the dialect's own keys. It is looked for first, so that a slip here is what
/// is reported.
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
