//! Records that only a cluster has: of its nodes, its networks' definitions, and what a boot notes of
//! them in a file of its own.

use super::{Bad, seal, unseal};
use crate::model::{NetworkDefinition, NetworkName, Node, NodeRecord};

/// A node as the record under `key`.
pub fn node(key: &[u8], record: &NodeRecord) -> Vec<u8> {
    let NodeRecord { node, boot, first, since, turn } = record;
    seal(key, &(&node.machine, boot, first, since, turn))
}

/// The node of this name, in the record under `key`.
pub fn read_node(key: &[u8], name: &str, bytes: &[u8]) -> Result<NodeRecord, Bad> {
    let (machine, boot, first, since, turn) = unseal(key, bytes)?;
    Ok(NodeRecord { node: Node { name: name.to_owned(), machine }, boot, first, since, turn })
}

/// A network's definition as the record under `key`.
pub fn definition(key: &[u8], record: &NetworkDefinition) -> Vec<u8> {
    seal(key, &(record.version, &record.text, &record.by, record.time))
}

/// The definition of this network, in the record under `key`.
pub fn read_definition(
    key: &[u8],
    network: NetworkName,
    bytes: &[u8],
) -> Result<NetworkDefinition, Bad> {
    let (version, text, by, time) = unseal(key, bytes)?;
    Ok(NetworkDefinition { network, version, text, by, time })
}

/// A record of a server with its version there, noted under `key`, which says which server.
pub fn note(key: &[u8], version: u64, value: &[u8]) -> Vec<u8> {
    seal(key, &(version, value))
}

/// The record that was noted, with its version.
pub fn read_note(key: &[u8], bytes: &[u8]) -> Result<(u64, Vec<u8>), Bad> {
    unseal(key, bytes)
}
