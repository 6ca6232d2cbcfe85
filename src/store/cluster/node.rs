//! A node's record: which machine owns the node name, and in which boot.
//!
//! This module decides who may lease under a name, claims the name once in a boot, fences it, and forgets it.
//! Which leases have ended, [`Context::has_ended`] decides.
//! Invariant: every change that leases compares the node's record. So from the moment another machine or a
//! later boot owns the name, the former owner leases nothing under it. A lease counts as ended only if this
//! record says that its boot is over, and whoever takes its address compares the record.

use super::server::{Commit, Entry, Expect, Operation, Write, Writes};
use super::view::{ClusterView, NameClaim};
use super::{keys, records};
use crate::alloc::{Command, Context};
use crate::error::StoreError;
use crate::model::NodeRecord;
use crate::store::codec;

/// Whether a command leases in the name of its node, or frees what other machines with that name may have
/// leased. A DEL frees what its owner holds, whoever owns the name. `Evict` and the release of pools also
/// free for other nodes.
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

/// The write of the node's record that goes with a change: none if this boot owns the name already. An
/// error if another machine or boot owns it.
pub fn claim_name(view: &ClusterView<'_>) -> Result<Writes, StoreError> {
    let cx = view.cx;
    if view.claim == NameClaim::NotNeeded {
        return Ok(Writes::new());
    }
    let mut ours = new_record(cx);
    if let Some((_, record)) = fetch(view)? {
        check_owner(view, &record)?;
        // A caller that cannot determine its machine or boot must not end the boot of another.
        let is_unsure = ours.node.machine.is_empty() && !record.node.machine.is_empty();
        if is_unsure || cx.boot.is_none() || record.boot == cx.boot {
            return Ok(Writes::new());
        }
        (ours.first, ours.turn) = (record.first, record.turn);
    }
    let path = keys::node(&cx.node.name);
    let value = codec::node(path.as_bytes(), &ours);
    Ok(Writes::from([(path, Some(value))]))
}

fn new_record(cx: &Context) -> NodeRecord {
    let (node, boot) = (cx.node.clone(), cx.boot.clone());
    NodeRecord { node, boot, first: cx.now, since: cx.now, turn: 0 }
}

/// How often a fence is sent if no answer arrives.
const FENCES: u32 = 8;

/// Makes every transaction of this node fail that is still in flight: they compare the node's record, and
/// this writes it again. If another client has changed the record, they fail as well.
pub fn fence(view: &ClusterView<'_>) -> Result<(), StoreError> {
    let path = keys::node(&view.cx.node.name);
    let before = fetch(view)?;
    let (expect, mut record) = match before.clone() {
        // The name has another owner, so the record has changed since.
        Some((_, record)) if check_owner(view, &record).is_err() => return Ok(()),
        Some((entry, record)) => (Expect::Version(entry.version), record),
        None => (Expect::Absent, new_record(view.cx)),
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

/// An error if another machine or boot owns the name. A machine without a machine-id may be any machine.
pub fn check_owner(view: &ClusterView<'_>, record: &NodeRecord) -> Result<(), StoreError> {
    let cx = view.cx;
    let machines = [&record.node.machine, &cx.node.machine];
    let is_other = machines[0] != machines[1] && !machines.iter().any(|m| m.is_empty());
    // A boot that owned the name and lost it is over, or another machine has the same machine-id.
    let is_lost = view.claim == NameClaim::Cached && record.boot != cx.boot;
    if is_other || is_lost {
        let (place, node) = (view.server.place(), cx.node.clone());
        return Err(StoreError::Claimed { place, node, by: Box::new(record.clone()) });
    }
    Ok(())
}

/// The node's record on the server.
pub fn fetch(view: &ClusterView<'_>) -> Result<Option<(Entry, NodeRecord)>, StoreError> {
    let path = keys::node(&view.cx.node.name);
    view.decoded(&path, |path, entry| Ok((entry.clone(), records::node(path, entry)?)))
}

/// Removes the node's record if it still is `record`: then the name is free.
pub fn forget(view: &ClusterView<'_>, record: &NodeRecord) -> Result<bool, StoreError> {
    let Some((entry, now)) = fetch(view)? else { return Ok(true) };
    if now != *record {
        return Ok(false);
    }
    let path = keys::node(&record.node.name);
    let expect = Expect::Version(entry.version);
    let operation = Operation { path, expect, write: Write::Delete };
    match view.server.commit(&[&[operation]], view.until)? {
        Commit::Done(_) => Ok(true),
        Commit::Conflict(_) => Ok(false),
        Commit::Unknown(error) => Err(error),
    }
}
