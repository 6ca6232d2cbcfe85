//! A node's name: one machine has it, in one boot.
//!
//! Owns: who may lease under it, and what a boot does once: claim the name, erase what the machine's
//! earlier boots left; forgetting it. Does not own: which lease has ended ([`Context::has_ended`]).
//! Invariant: whatever leases compares the node's record, so that from the moment another machine or
//! a later boot has the name, nothing is leased under it by the former one. Only a lease whose boot is
//! over by that record counts as free, and whoever takes its address compares that record.

use std::time::Instant;

use super::server::{Commit, Entry, Expect, Operation, Server, Write};
use super::view::{ClusterView, Writes};
use super::{keys, records};
use crate::alloc::{Command, Context};
use crate::error::StoreError;
use crate::model::{Lease, NodeRecord};
use crate::store::codec;

/// What a command does to its node's record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameClaim {
    /// Nothing: it frees, or looks.
    NotNeeded,
    /// Compares it, and has the name if nobody does.
    Needed,
    /// The same, and this boot has noted that it had the name.
    Cached,
}

/// Whether a command leases in the name of its node, or frees what others of that name may have
/// leased. A DEL frees what its owner holds, whatever has become of the name; `Evict` and pools are
/// let go for other nodes, too.
pub fn needs_name(command: &Command) -> bool {
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
pub fn claim_name(view: &ClusterView<'_>) -> Result<Writes, StoreError> {
    let cx = view.cx;
    let path = keys::node(&cx.node.name);
    if view.claim == NameClaim::NotNeeded {
        return Ok(Writes::new());
    }
    let record = view.read(&path)?;
    let record = record.map(|entry| read(view, &path, &entry)).transpose()?;
    let mut ours = new(cx);
    if let Some(record) = record {
        check(view, &record)?;
        // Who cannot tell its machine or its boot does not say that another's has ended.
        let unsure = ours.node.machine.is_empty() && !record.node.machine.is_empty();
        if unsure || cx.boot.is_none() || record.boot == cx.boot {
            return Ok(Writes::new());
        }
        (ours.first, ours.turn) = (record.first, record.turn);
    }
    Ok(Writes::from([(path.clone(), Some(codec::node(path.as_bytes(), &ours)))]))
}

fn new(cx: &Context) -> NodeRecord {
    let (node, boot) = (cx.node.clone(), cx.boot.clone());
    NodeRecord { node, boot, first: cx.now, since: cx.now, turn: 0 }
}

/// How often that is tried where no answer comes.
const FENCES: u32 = 8;

/// Makes everything fail that was sent in the name of this node and is under way still: it compares the
/// node's record, which is written anew. Where somebody else was faster with that, it fails too.
pub fn fence(view: &ClusterView<'_>) -> Result<(), StoreError> {
    let path = keys::node(&view.cx.node.name);
    let before = fetch(view)?;
    let (expect, mut record) = match before.clone() {
        // Another machine's: it has changed since.
        Some((_, record)) if check(view, &record).is_err() => return Ok(()),
        Some((entry, record)) => (Expect::Version(entry.version), record),
        None => (Expect::Absent, new(view.cx)),
    };
    record.turn += 1;
    let write = Write::Put(codec::node(path.as_bytes(), &record));
    let operation = [Operation { path: path.clone(), expect, write }];
    let mut left = FENCES;
    loop {
        let Commit::Unknown(error) = view.server.commit(&[&operation], view.until)? else {
            return Ok(());
        };
        view.known.borrow_mut().remove(&path);
        if fetch(view)? != before {
            return Ok(());
        }
        left -= 1;
        if left == 0 {
            return Err(error);
        }
    }
}

/// An error if the node's name is another's. A machine without a machine-id may be any.
pub fn check(view: &ClusterView<'_>, record: &NodeRecord) -> Result<(), StoreError> {
    let cx = view.cx;
    let machines = [&record.node.machine, &cx.node.machine];
    let other = machines[0] != machines[1] && !machines.iter().any(|m| m.is_empty());
    // A boot that has had the name and has lost it is over, or is not the only one of its kind.
    let later = view.claim == NameClaim::Cached && record.boot != cx.boot;
    if other || later {
        let (place, node) = (view.server.place(), cx.node.clone());
        return Err(StoreError::Claimed { place, node, by: Box::new(record.clone()) });
    }
    Ok(())
}

/// The node's record as it is on the server.
pub fn fetch(view: &ClusterView<'_>) -> Result<Option<(Entry, NodeRecord)>, StoreError> {
    let path = keys::node(&view.cx.node.name);
    let Some(entry) = view.read(&path)? else { return Ok(None) };
    let record = read(view, &path, &entry)?;
    Ok(Some((entry, record)))
}

/// Removes the record that the node has, if it is still this one: then nobody has the name.
pub fn forget(view: &ClusterView<'_>, record: &NodeRecord) -> Result<bool, StoreError> {
    let Some((entry, now)) = fetch(view)? else { return Ok(true) };
    if now != *record {
        return Ok(false);
    }
    let operation = Operation {
        path: keys::node(&record.node.name),
        expect: Expect::Version(entry.version),
        write: Write::Delete,
    };
    match view.server.commit(&[&[operation]], view.until)? {
        Commit::Done(_) => Ok(true),
        Commit::Conflict(_) => Ok(false),
        Commit::Unknown(error) => Err(error),
    }
}

fn read(view: &ClusterView<'_>, path: &str, entry: &Entry) -> Result<NodeRecord, StoreError> {
    let record = codec::read_node(path.as_bytes(), &view.cx.node.name, &entry.value);
    view.checked(path, record)
}

/// All records, by name.
pub fn list(server: &dyn Server, until: Instant) -> Result<Vec<NodeRecord>, StoreError> {
    Ok(list_entries(server, until)?.into_iter().map(|(record, _)| record).collect())
}

/// The same, as they are on the server.
pub fn list_entries(
    server: &dyn Server,
    until: Instant,
) -> Result<Vec<(NodeRecord, Entry)>, StoreError> {
    let read = |path: &str, entry: &Entry| Ok((records::node(path, entry)?, entry.clone()));
    records::list(server, keys::NODES, until, read)
}

/// Whether a lease has ended, by what this boot knows of itself and what is known of nodes. Who does
/// not know its own boot takes nothing for ended.
pub fn has_ended(lease: &Lease, cx: &Context, nodes: &[NodeRecord]) -> bool {
    let by = |record: &NodeRecord| {
        let (node, boot) = (record.node.clone(), record.boot.clone());
        Context { boot, node, ..cx.clone() }.has_ended(lease)
    };
    let known = nodes.iter().find(|record| record.node == lease.node);
    cx.boot.is_some() && (cx.has_ended(lease) || known.is_some_and(by))
}

/// Whether a record says that this very boot has the name.
pub fn is_ours(record: &NodeRecord, cx: &Context) -> bool {
    cx.boot.is_some() && record.boot == cx.boot && record.node == cx.node
}
