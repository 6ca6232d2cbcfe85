//! The bodies of requests and responses. The fields have the same names as in Docker's packages `ipamapi` and
//! `plugins`.
//!
//! This module accepts everything that dockerd sends: an empty body, `null` for a map, unknown fields.
//! Invariant: [`read`] does not panic for any input.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;

use super::names::GATEWAY;
use crate::model::{Lease, Pool};

/// The body of a request. Each method uses only some of the fields.
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

/// The options of a request: those that the operator passed with `--ipam-opt`, and those that dockerd adds.
pub type Options = BTreeMap<String, String>;

/// Parses a body. An empty body, white space and `null` count as an empty object.
pub fn read(body: &[u8]) -> Result<Request, String> {
    match body.trim_ascii() {
        b"" | b"null" => Ok(Request::default()),
        // Without this check, the derived deserializer would also accept an array of field values.
        text if text.starts_with(b"{") => {
            serde_json::from_slice(text).map_err(|e| format!("Invalid request body: {e}"))
        }
        _ => Err("Invalid request body: not a JSON object".to_owned()),
    }
}

/// Makes the response to `Plugin.Activate`.
pub fn activated() -> String {
    json!({ "Implements": ["IpamDriver"] }).to_string()
}

/// Makes the response to `IpamDriver.GetCapabilities`.
pub fn capabilities(mac: bool) -> String {
    json!({ "RequiresMACAddress": mac, "RequiresRequestReplay": false }).to_string()
}

/// Makes the response to `IpamDriver.GetDefaultAddressSpaces`.
pub fn spaces(local: &str, global: &str) -> String {
    json!({ "LocalDefaultAddressSpace": local, "GlobalDefaultAddressSpace": global }).to_string()
}

/// Makes the response to `IpamDriver.RequestPool`. It includes the pool's gateway, if the pool has one.
pub fn pool(pool: &Pool) -> String {
    let mut data = Options::new();
    if let Some(gateway) = pool.gateway {
        data.insert(GATEWAY.to_owned(), format!("{gateway}/{}", pool.subnet.len()));
    }
    json!({ "PoolID": pool.id.0, "Pool": pool.subnet.to_string(), "Data": data }).to_string()
}

/// Makes the response to `IpamDriver.RequestAddress`: the address and its prefix length.
pub fn address(lease: &Lease) -> String {
    json!({ "Address": format!("{}/{}", lease.addr, lease.prefix), "Data": {} }).to_string()
}

/// Makes the response for a failure.
pub fn failure(text: &str) -> String {
    json!({ "Err": text, "Error": text }).to_string()
}
