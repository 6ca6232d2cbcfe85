//! Parses what a runtime adds to a configuration: the valid attachments and the previous result.
//!
//! A GC needs the valid attachments, whose key has two possible names. `prevResult` may have the format of
//! any CNI version.
//! Invariant: an absent or malformed list of attachments is an error. If it were treated as a shorter list, a
//! GC would free the leases of running containers.

use super::cidr::bad_cidr;
use super::error::ConfigError;
use super::fields::{Fields, Node};
use super::json::{Json, is_spelling_of, quote};
use crate::model::{ContainerId, IfName, NameError};
use crate::net::{Addr, parse_addr};

/// The two possible names of the key in which a runtime lists the valid attachments for GC. The first name is
/// in the current specification. The second name was in the specification's text when version 1.1.0 was
/// tagged.
pub(super) const VALID: [&str; 2] = ["cni.dev/valid-attachments", "cni.dev/attachments"];

/// The attachments under each name in [`VALID`], or the error about the first malformed attachment. A runtime
/// may list very many attachments, so each attachment is converted as soon as it is read. Its JSON would need
/// several times as much memory.
#[derive(Clone, Debug)]
pub(super) struct Attachments([Result<Vec<(ContainerId, IfName)>, ConfigError>; 2]);

impl Default for Attachments {
    fn default() -> Attachments {
        Attachments([Ok(Vec::new()), Ok(Vec::new())])
    }
}

impl Attachments {
    /// Adds an item of the list `key`. `None` starts the list again from empty: if a key occurs several
    /// times, only the last list takes effect.
    pub(super) fn take(&mut self, key: &str, item: Option<(usize, Json)>) {
        let Some(which) = VALID.iter().position(|name| is_spelling_of(key, name)) else { return };
        let list = &mut self.0[which];
        match (&mut *list, item) {
            (_, None) => *list = Ok(Vec::new()),
            (Ok(valid), Some((index, item))) => match attachment(key, index, &item) {
                Ok(attachment) => valid.push(attachment),
                Err(e) => *list = Err(e),
            },
            (Err(_), Some(_)) => {}
        }
    }

    /// Returns the sorted attachments under the first name in [`VALID`] that is a key of `root`. `null`
    /// counts as an empty list; it is an error if both keys are missing.
    pub(super) fn of(self, root: &Fields) -> Result<Vec<(ContainerId, IfName)>, ConfigError> {
        let found = VALID.iter().zip(self.0).find_map(|(key, list)| {
            let node = root.get_or_null(key)?;
            // Check that the value is a list. Its items have already been added to `list`.
            Some(if node.is_null() { list } else { node.list().and(list) })
        });
        let mut valid = found.unwrap_or_else(|| {
            Err(ConfigError::invalid(format!(
                "{} is missing, so nothing was released; the runtime must list the existing attachments, or \
                 [] if there are none",
                VALID[0]
            )))
        })?;
        valid.sort_unstable();
        valid.dedup();
        Ok(valid)
    }
}

fn attachment(key: &str, index: usize, item: &Json) -> Result<(ContainerId, IfName), ConfigError> {
    let fields = Node::new(format!("{key}[{index}]"), item).fields()?;
    let container = name(&fields, "containerID", ContainerId::new)?;
    Ok((container, name(&fields, "ifname", IfName::new)?))
}

/// The maximum number of addresses in `prevResult`, which may contain addresses of other plugins.
const MOST_ADDRESSES: usize = 4096;

/// Returns the addresses in `prevResult`, which may have the format of any version; `None` if there is no
/// `prevResult`.
pub(super) fn prev_addresses(root: &Fields) -> Result<Option<Vec<Addr>>, ConfigError> {
    let Some(result) = root.object("prevResult")? else {
        return Ok(None);
    };
    let mut addrs = Vec::new();
    let items = result.list("ips")?;
    ConfigError::bound(&result.path_of("ips"), "addresses", items.len(), MOST_ADDRESSES)?;
    for item in items {
        addrs.push(address(&item.fields()?, "address")?);
    }
    for key in ["ip4", "ip6"] {
        if let Some(half) = result.object(key)? {
            addrs.push(address(&half, "ip")?);
        }
    }
    Ok(Some(addrs))
}

fn name<T>(
    fields: &Fields,
    key: &str,
    new: fn(String) -> Result<T, NameError>,
) -> Result<T, ConfigError> {
    let text = fields.text(key)?.unwrap_or_default();
    new(text.to_owned()).map_err(|_| {
        ConfigError::invalid(format!(
            "{}.{key} is {}; nothing was released",
            fields.path(),
            if text.is_empty() {
                "missing".to_owned()
            } else {
                format!("{}, which is not a valid name", quote(text))
            }
        ))
    })
}

fn address(fields: &Fields, key: &str) -> Result<Addr, ConfigError> {
    let text = fields.text(key)?.unwrap_or_default();
    parse_addr(text).ok_or_else(|| bad_cidr(text, &format!("{}.{key}", fields.path())))
}
