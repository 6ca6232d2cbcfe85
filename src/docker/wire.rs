//! The request and response bodies. Field names are exactly those of Docker's `ipamapi` and `plugins`.
//!
//! Tolerates what dockerd sends: no body, `null` for a map, unknown fields.
//! Invariant: [`read`] never panics, whatever the bytes are.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::names::GATEWAY;
use crate::model::{Lease, Pool};

/// The body of any request. Each method reads its own fields.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Request {
    #[serde(rename = "PoolID")]
    pub pool_id: Option<String>,
    pub address: Option<String>,
    pub address_space: Option<String>,
    pub pool: Option<String>,
    pub sub_pool: Option<String>,
    pub options: Option<Options>,
    pub v6: Option<bool>,
}

/// `--ipam-opt`, and the options that dockerd adds.
pub type Options = BTreeMap<String, String>;

/// Reads a body. An empty body, white space and `null` mean an empty object.
pub fn read(body: &[u8]) -> Result<Request, String> {
    match body.trim_ascii() {
        b"" | b"null" => Ok(Request::default()),
        // A derived deserializer would accept an array as the fields of an object.
        text if text.starts_with(b"{") => {
            serde_json::from_slice(text).map_err(|e| format!("Invalid request body: {e}"))
        }
        _ => Err("Invalid request body: not a JSON object".to_owned()),
    }
}

/// `Plugin.Activate`.
pub fn activated() -> String {
    json!({ "Implements": ["IpamDriver"] }).to_string()
}

/// `IpamDriver.GetCapabilities`.
pub fn capabilities(mac: bool) -> String {
    json!({ "RequiresMACAddress": mac, "RequiresRequestReplay": false }).to_string()
}

/// `IpamDriver.GetDefaultAddressSpaces`.
pub fn spaces(local: &str, global: &str) -> String {
    json!({ "LocalDefaultAddressSpace": local, "GlobalDefaultAddressSpace": global }).to_string()
}

/// A pool, with its gateway if it has one.
pub fn pool(pool: &Pool) -> String {
    let mut data = Options::new();
    if let Some(gateway) = pool.gateway {
        data.insert(GATEWAY.to_owned(), format!("{gateway}/{}", pool.subnet.len()));
    }
    json!({ "PoolID": pool.id.0, "Pool": pool.subnet.to_string(), "Data": data }).to_string()
}

/// An address with its prefix.
pub fn address(lease: &Lease) -> String {
    json!({ "Address": format!("{}/{}", lease.addr, lease.prefix), "Data": {} }).to_string()
}

/// A failure.
pub fn failure(text: &str) -> String {
    json!({ "Err": text, "Error": text }).to_string()
}
