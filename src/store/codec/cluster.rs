//! Records that only a cluster has: of its nodes, its networks' definitions, and what a boot notes of
//! them in a file of its own.

use super::{Bad, seal, unseal};
use crate::model::{BootId, NetworkDefinition, NetworkName, Node, NodeRecord};

/// A node as the record under `key`.
pub fn node(key: &[u8], record: &NodeRecord) -> Vec<u8> {
    let boot = record.boot.as_ref().map(|boot| &*boot.0);
    seal(key, &(&*record.node.machine, boot, record.first, record.since, record.turn))
}

/// The node of this name, in the record under `key`.
pub fn read_node(key: &[u8], name: &str, bytes: &[u8]) -> Result<NodeRecord, Bad> {
    let (machine, boot, first, since, turn): (&str, Option<&str>, _, _, _) = unseal(key, bytes)?;
    Ok(NodeRecord {
        node: Node { name: name.to_owned(), machine: machine.to_owned() },
        boot: boot.map(|boot| BootId(boot.to_owned())),
        first,
        since,
        turn,
    })
}

/// A network's definition as the record under `key`.
pub fn definition(key: &[u8], record: &NetworkDefinition) -> Vec<u8> {
    seal(key, &(record.version, &*record.text, &*record.by, record.time))
}

/// The definition of this network, in the record under `key`.
pub fn read_definition(
    key: &[u8],
    network: NetworkName,
    bytes: &[u8],
) -> Result<NetworkDefinition, Bad> {
    let (version, text, by, time): (_, &str, &str, _) = unseal(key, bytes)?;
    Ok(NetworkDefinition { network, version, text: text.to_owned(), by: by.to_owned(), time })
}

/// A record of a server with its version there, noted under `key`, which says which server.
pub fn note(key: &[u8], version: u64, value: &[u8]) -> Vec<u8> {
    seal(key, &(version, value))
}

/// The record that was noted, with its version.
pub fn read_note(key: &[u8], bytes: &[u8]) -> Result<(u64, Vec<u8>), Bad> {
    let (version, value): (u64, &[u8]) = unseal(key, bytes)?;
    Ok((version, value.to_owned()))
}
