//! The dialect of cni-ipam-consul: `consul_addr`, `consul_port`, `dc`.
//!
//! Unlike in host-local's dialect, host bits of a subnet are ignored, and the network's name may be missing.
//! Invariant: the store is always Consul, regardless of the other keys. Leases are never stored in a file of
//! this node.

use crate::config::cluster;
use crate::config::error::ConfigError;
use crate::config::fields::Fields;

/// Checks the keys that only this dialect has, and that a subnet is configured. The caller runs this check
/// first, so that these errors are reported before all others.
pub fn check(ipam: &Fields) -> Result<(), ConfigError> {
    cluster::consul_endpoint(ipam)?;
    ipam.text("dc")?;
    if !ipam.has("subnet") && !ipam.has("ranges") {
        return Err(ConfigError::invalid(
            "missing field \"subnet\" in IPAM configuration; set ipam.subnet, for example to 203.0.113.0/24",
        ));
    }
    Ok(())
}
