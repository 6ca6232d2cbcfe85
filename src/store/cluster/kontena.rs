//! Reading what kontena-ipam left in etcd, by the old API (`/v2/keys`) that it used.
//!
//! Owns: the request. Does not own: what a key means.

use std::time::Instant;

use serde_json::Value;

use super::http::{Client, Failure, Request};

/// Every key below `prefix` (as `/kontena/ipam`) that has a value, with it, by key; empty if there is
/// no such folder.
pub fn keys(
    client: &Client,
    prefix: &str,
    until: Instant,
) -> Result<Vec<(String, String)>, String> {
    // Of a majority: one member alone may be behind.
    let path = format!("/v2/keys{prefix}?recursive=true&quorum=true");
    let request = Request { method: "GET", path: &path, body: b"", secret: None, retryable: true };
    let reply = client.send(request, until).map_err(Failure::why)?;
    let told = || format!("{} {}", reply.status, reply.text());
    let answer: Value = serde_json::from_slice(&reply.body)
        .map_err(|_| format!("{}; etcd answers the old API only with --enable-v2=true", told()))?;
    // "Key not found".
    if answer["errorCode"] == 100 {
        return Ok(Vec::new());
    }
    if reply.status != 200 {
        return Err(told());
    }
    let mut found = Vec::new();
    let mut left = vec![&answer["node"]];
    while let Some(node) = left.pop() {
        left.extend(node["nodes"].as_array().into_iter().flatten());
        if let (Some(key), Some(value)) = (node["key"].as_str(), node["value"].as_str()) {
            found.push((key.to_owned(), value.to_owned()));
        }
    }
    found.sort();
    Ok(found)
}
