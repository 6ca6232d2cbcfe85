//! The bodies, as they are written: field names exactly as in Docker's `ipamapi` and `plugins`.
//!
//! Owns: JSON in and out. Tolerates what dockerd sends: no body, `null` for a map, unknown fields.
//! Invariant: [`read`] never panics, whatever the bytes are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `IpamDriver.RequestPool`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestPool {
    pub address_space: Option<String>,
    pub pool: Option<String>,
    pub sub_pool: Option<String>,
    pub options: Option<Options>,
    pub v6: Option<bool>,
}

/// `IpamDriver.RequestAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestAddress {
    #[serde(rename = "PoolID")]
    pub pool_id: Option<String>,
    pub address: Option<String>,
    pub options: Option<Options>,
}

/// `IpamDriver.ReleasePool` and `IpamDriver.ReleaseAddress`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Release {
    #[serde(rename = "PoolID")]
    pub pool_id: Option<String>,
    pub address: Option<String>,
}

/// `--ipam-opt` and what dockerd adds.
pub type Options = BTreeMap<String, String>;

/// Reads a body; none at all, white space and `null` are an empty object.
pub fn read<'a, T: Default + Deserialize<'a>>(body: &'a [u8]) -> Result<T, String> {
    match body.trim_ascii() {
        b"" | b"null" => Ok(T::default()),
        // A derived reader would take an array for an object's fields in order.
        text if text.starts_with(b"{") => {
            serde_json::from_slice(text).map_err(|e| format!("Invalid request body: {e}"))
        }
        _ => Err("Invalid request body: not a JSON object".to_owned()),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Activated {
    implements: [&'static str; 1],
}

#[derive(Serialize)]
struct Capabilities {
    #[serde(rename = "RequiresMACAddress")]
    mac: bool,
    #[serde(rename = "RequiresRequestReplay")]
    replay: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Spaces<'a> {
    local_default_address_space: &'a str,
    global_default_address_space: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Made<'a> {
    #[serde(rename = "PoolID")]
    pool_id: &'a str,
    pool: String,
    data: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Address {
    address: String,
    data: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Failure<'a> {
    err: &'a str,
    error: &'a str,
}

fn json(value: &impl Serialize) -> String {
    // Fails for no type of this file: their keys are text.
    serde_json::to_string(value).unwrap_or_else(|_| "{}".to_owned())
}

/// `Plugin.Activate`.
pub fn activated() -> String {
    json(&Activated { implements: ["IpamDriver"] })
}

/// `IpamDriver.GetCapabilities`.
pub fn capabilities(mac: bool) -> String {
    json(&Capabilities { mac, replay: false })
}

/// `IpamDriver.GetDefaultAddressSpaces`.
pub fn spaces(local: &str, global: &str) -> String {
    json(&Spaces { local_default_address_space: local, global_default_address_space: global })
}

/// A pool; `gateway` with its prefix, if the pool brings one along.
pub fn pool(id: &str, subnet: String, gateway: Option<String>) -> String {
    let data = gateway.into_iter().map(|g| (super::names::GATEWAY, g)).collect();
    json(&Made { pool_id: id, pool: subnet, data })
}

/// An address with its prefix.
pub fn address(address: String) -> String {
    json(&Address { address, data: BTreeMap::new() })
}

/// A failure.
pub fn failure(text: &str) -> String {
    json(&Failure { err: text, error: text })
}
