//! A node's name: one machine has it, in one boot.
//!
//! Owns: who may lease under it, and what a boot does once: claim the name, erase what the machine's
//! earlier boots left. Does not own: which lease has ended ([`Context::has_ended`]).
//! Invariant: whatever leases compares the node's record, so that from the moment another machine or
//! a later boot has the name, nothing is leased under it by the former one. Only a lease whose boot is
//! over by that record counts as free.

use super::super::codec;
use super::engine::Entry;
use super::knowledge::{Knowledge, Writes};
use super::paths;
use crate::alloc::{Command, Context};
use crate::error::StoreError;
use crate::model::NodeRecord;

/// What a command does to its node's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it frees, or looks.
    None,
    /// Compares it, and has the name if nobody does.
    Now,
    /// The same, and this boot has noted that it had the name.
    Noted,
}

/// Whether a command leases in the name of its node, or frees what others of that name may have
/// leased. A DEL frees what its owner holds, whatever has become of the name; `Evict` and pools are
/// let go for other nodes, too.
pub fn claims(command: &Command) -> bool {
    matches!(
        command,
        Command::Add(_)
            | Command::Gc(_)
            | Command::Reserve(_)
            | Command::Import(_)
            | Command::RequestPool(_)
            | Command::RequestAddress(_)
            | Command::AdoptPool(_)
            | Command::Sweep(_)
    )
}

/// What is written of the node with a change: nothing if this boot has the name. An error if it is
/// another's.
pub fn claim(known: &Knowledge<'_>) -> Result<Writes, StoreError> {
    let cx = known.cx;
    let path = paths::node(&cx.node.name);
    if known.claim == Claim::None {
        return Ok(Writes::new());
    }
    let record = known.guess(path.clone())?;
    let record = record.map(|entry| read(known, &path, &entry)).transpose()?;
    let mut ours =
        NodeRecord { node: cx.node.clone(), boot: cx.boot.clone(), first: cx.now, since: cx.now };
    if let Some(record) = record {
        check(known, &record)?;
        if cx.boot.is_none() || record.boot == cx.boot {
            return Ok(Writes::new());
        }
        ours.first = record.first;
        if ours.node.machine.is_empty() {
            ours.node.machine = record.node.machine;
        }
    }
    Ok(Writes::from([(path.clone(), Some(codec::node(path.as_bytes(), &ours)))]))
}

/// An error if the node's name is another's. A machine without a machine-id may be any.
pub fn check(known: &Knowledge<'_>, record: &NodeRecord) -> Result<(), StoreError> {
    let cx = known.cx;
    let machines = [&record.node.machine, &cx.node.machine];
    let other = machines[0] != machines[1] && !machines.iter().any(|m| m.is_empty());
    // A boot that has had the name and has lost it is over, or is not the only one of its kind.
    let later = known.claim == Claim::Noted && record.boot != cx.boot;
    if other || later {
        let (place, node) = (known.engine.place(), cx.node.clone());
        return Err(StoreError::Claimed { place, node, by: Box::new(record.clone()) });
    }
    Ok(())
}

/// The node's record as it is on the server.
pub fn look(known: &Knowledge<'_>) -> Result<Option<(Entry, NodeRecord)>, StoreError> {
    let path = paths::node(&known.cx.node.name);
    let Some(entry) = known.read(&path)? else { return Ok(None) };
    let record = read(known, &path, &entry)?;
    Ok(Some((entry, record)))
}

fn read(known: &Knowledge<'_>, path: &str, entry: &Entry) -> Result<NodeRecord, StoreError> {
    let record = codec::read_node(path.as_bytes(), &known.cx.node.name, &entry.value);
    known.whole(path, record)
}

/// Whether a record says that this very boot has the name.
pub fn is_ours(record: &NodeRecord, cx: &Context) -> bool {
    cx.boot.is_some() && record.boot == cx.boot && record.node == cx.node
}
