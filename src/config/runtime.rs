//! What a runtime puts beside a configuration: the attachments that live, the former result.
//!
//! Owns: both spellings of GC's key, and the shapes of `prevResult` in all versions. Does not own:
//! what is done with them.
//! Invariant: a list of attachments that is absent or damaged is never taken for a short one.

use super::cidr::bad_cidr;
use super::error::ConfigError;
use super::fields::Fields;
use super::json::quote;
use super::netconf::Netconf;
use crate::model::{ContainerId, IfName, NameError};
use crate::net::{Addr, parse_addr};

/// The specification's key, and the one that its text had when 1.1.0 was tagged.
const VALID: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

impl Netconf {
    /// GC: the attachments that live, sorted. `null` is an empty list; absence is an error. They are
    /// taken out: as JSON they need much memory, and are asked for once.
    pub fn take_valid_attachments(&mut self) -> Result<Vec<(ContainerId, IfName)>, ConfigError> {
        let valid = self.valid_attachments();
        self.forget(&VALID);
        valid
    }

    fn valid_attachments(&self) -> Result<Vec<(ContainerId, IfName)>, ConfigError> {
        let root = self.root();
        let Some(node) = VALID.iter().find_map(|key| root.get_or_null(key)) else {
            return Err(ConfigError::invalid(format!(
                "{} is missing: nothing was released; a runtime lists the attachments that live \
                 there, [] if there are none",
                VALID[0]
            )));
        };
        let items = if node.is_null() { Vec::new() } else { node.list()? };
        let mut valid = Vec::with_capacity(items.len());
        for item in items {
            let fields = item.fields()?;
            let container = name(&fields, "containerID", ContainerId::new)?;
            let ifname = name(&fields, "ifname", IfName::new)?;
            valid.push((container, ifname));
        }
        valid.sort_unstable();
        valid.dedup();
        Ok(valid)
    }

    /// CHECK: the addresses of `prevResult`, of any version; `None` where there is none.
    pub fn prev_addresses(&self) -> Result<Option<Vec<Addr>>, ConfigError> {
        let Some(result) = self.root().object("prevResult")? else {
            return Ok(None);
        };
        let mut addrs = Vec::new();
        for item in result.list("ips")? {
            addrs.push(address(&item.fields()?, "address")?);
        }
        for key in ["ip4", "ip6"] {
            if let Some(half) = result.object(key)? {
                addrs.push(address(&half, "ip")?);
            }
        }
        Ok(Some(addrs))
    }
}

fn name<T>(
    fields: &Fields,
    key: &str,
    new: fn(String) -> Result<T, NameError>,
) -> Result<T, ConfigError> {
    let text = fields.text(key)?.unwrap_or_default();
    new(text.to_owned()).map_err(|_| {
        ConfigError::invalid(format!(
            "{}.{key} is {}, not a valid name: nothing was released",
            fields.path(),
            if text.is_empty() { "missing".to_owned() } else { quote(text) }
        ))
    })
}

fn address(fields: &Fields, key: &str) -> Result<Addr, ConfigError> {
    let text = fields.text(key)?.unwrap_or_default();
    parse_addr(text).ok_or_else(|| bad_cidr(text, &format!("{}.{key}", fields.path())))
}
