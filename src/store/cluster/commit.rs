//! Commits of a plan: the candidate transactions, their outcome, what a lost race teaches, and whether a
//! commit without an answer was applied.
//!
//! Invariant: a command that is reported as done was applied completely. A transaction that no process waits
//! for, but that may still be applied, is marked as in flight.

use std::collections::BTreeSet;

use super::server::{Commit, Conflict, Expect, Operation, Write};
use super::view::ClusterView;
use super::{keys, node, transaction};
use crate::alloc;
use crate::alloc::{Command, Context, Outcome, Plan};
use crate::error::{Refusal, StoreError};
use crate::telemetry::counters;

/// After so many lost races for its addresses, a chunk is listed again.
const RELIST_AFTER: u32 = 4;

/// Candidates that are sent together, at first and after a lost race. Without a race each further candidate
/// costs more than it saves.
const MAX_CANDIDATES: [usize; 2] = [2, 8];

/// A plan as a transaction.
pub struct Candidate {
    operations: Vec<Operation>,
    events: usize,
    /// The outcome of the command if this candidate is applied.
    pub outcome: Result<Outcome, Refusal>,
}

impl Candidate {
    /// The transaction of a plan.
    pub fn new(
        plan: Plan,
        command: &Command,
        view: &ClusterView<'_>,
    ) -> Result<Candidate, StoreError> {
        let (mut writes, events) = transaction::writes(plan.changes, command, view)?;
        writes.extend(node::claim_name(view)?);
        let mut operations = transaction::operations(writes, view);
        operations.extend(view.history_operations(&events));
        Ok(Candidate { operations, events: events.len(), outcome: plan.outcome })
    }
}

/// The transaction of a plan, and those of alternative plans in case the chosen addresses are held, as far
/// as they can be made without asking the server.
pub fn candidates(
    command: &Command,
    plan: Plan,
    view: &ClusterView<'_>,
    cx: &Context,
) -> Result<Vec<Candidate>, StoreError> {
    let server = view.server;
    let mut candidates = vec![Candidate::new(plan, command, view)?];
    let mut room = server.max_operations() / 2;
    let most = MAX_CANDIDATES[usize::from(view.search.list_chunks.get())];
    let most = most.min(server.max_candidates());
    // Without an owner's record, nobody could find out which candidate was applied.
    let is_owner = |operation: &Operation| operation.path.starts_with(keys::OWNER);
    let has_owner = candidates[0].operations.iter().any(is_owner);
    let mut held = BTreeSet::new();
    while has_owner && candidates.len() < most {
        // Each candidate has one branch for its comparisons, and all compared records are read if none holds.
        let last = candidates.last().map_or(0, |last| last.operations.len());
        let chosen = view.search.chosen.take();
        if chosen.is_empty() || room < 2 * last {
            break;
        }
        room -= last;
        held.extend(chosen);
        view.hypothetical.replace(Some(held.clone()));
        view.assumed.borrow_mut().clear();
        view.search.begin();
        let next = alloc::run(command, view, cx);
        let next = next.ok().filter(|plan| !plan.changes.is_empty());
        let next = next.and_then(|plan| Candidate::new(plan, command, view).ok());
        view.hypothetical.replace(None);
        let Some(next) = next else { break };
        candidates.push(next);
    }
    Ok(candidates)
}

/// Commits one of the candidates and returns its index. `None` if other clients were faster; then the view
/// knows the current records.
pub fn commit(
    candidates: &[Candidate],
    view: &ClusterView<'_>,
) -> Result<Option<usize>, StoreError> {
    let all: Vec<&[Operation]> = candidates.iter().map(|one| &*one.operations).collect();
    let first = all[0];
    let (size, most) = (first.len(), view.server.max_operations());
    if size > most {
        let why = format!("it changes {size} records, and {most} fit");
        let doing = "do that in one transaction of";
        return Err(StoreError::unavailable(doing, view.server.place(), why));
    }
    let applied = match view.server.commit(&all, view.until)? {
        Commit::Done(which) => {
            // The record of the node may have a new version, which the answer does not contain.
            let is_written_node = |operation: &&Operation| {
                operation.write != Write::Keep && operation.path.starts_with(keys::NODE)
            };
            for operation in all[which].iter().filter(is_written_node) {
                view.known.borrow_mut().remove(&operation.path);
            }
            Some(which)
        }
        Commit::Conflict(conflict) => {
            learn(conflict, first, view)?;
            None
        }
        Commit::Unknown(error) => {
            let found = find_applied(&all, view, error);
            let node = keys::node(&view.cx.node.name);
            let mut operations = all.iter().flat_map(|operations| operations.iter());
            if !matches!(found, Ok(Some(_))) && operations.any(|operation| operation.path == node) {
                view.in_flight.set(true);
            }
            found?
        }
    };
    if let Some(which) = applied {
        view.history_applied(candidates[which].events);
    }
    Ok(applied)
}

/// Updates the view after a lost race of `first` and its alternatives.
fn learn(
    conflict: Conflict,
    first: &[Operation],
    view: &ClusterView<'_>,
) -> Result<(), StoreError> {
    counters::conflict();
    view.search.list_chunks.set(true);
    view.assumed.borrow_mut().clear();
    view.owners.borrow_mut().take();
    match conflict {
        Conflict::Current(entries) => view.remember(entries),
        Conflict::Stale(paths) => refresh(&paths, first, view)?,
    }
    let is_held =
        |path: &String| view.present.borrow().contains(path) || view.known_entry(path).is_some();
    let lost = first.iter().filter(|operation| leases_free(operation) && is_held(&operation.path));
    let chunks = lost.filter_map(|operation| operation.path.rsplit_once('/'));
    let chunks: Vec<&str> = chunks.map(|(chunk, _)| chunk).collect();
    if !chunks.is_empty() {
        let lost_races = view.search.lost_races.get() + 1;
        view.search.lost_races.set(lost_races);
        // Other clients fill the chunk, so its listing is out of date.
        if lost_races.is_multiple_of(RELIST_AFTER) {
            for chunk in chunks {
                view.invalidate(chunk);
            }
        }
    }
    Ok(())
}

/// Whether an operation leases an address that was expected to be free.
fn leases_free(operation: &Operation) -> bool {
    operation.expect == Expect::Absent && operation.path.starts_with(keys::ADDRESS)
}

/// Updates the view where comparisons failed. An address that was expected to be free is held, and its record
/// does not matter. If anything else has changed, all compared records are read, at one moment.
fn refresh(
    stale: &[String],
    operations: &[Operation],
    view: &ClusterView<'_>,
) -> Result<(), StoreError> {
    let is_stale = |operation: &&Operation| stale.contains(&operation.path);
    if operations.iter().filter(is_stale).all(leases_free) {
        view.known.borrow_mut().retain(|path, _| !stale.contains(path));
        view.present.borrow_mut().extend(stale.iter().cloned());
        return Ok(());
    }
    let compared = operations.iter().filter(|operation| operation.expect != Expect::Anything);
    view.fetch(&compared.map(|operation| operation.path.clone()).collect::<Vec<_>>())
}

/// Finds the candidate that was applied although no answer arrived: the records that it wrote are there. If
/// another client has changed them since, none is found, and the allocator runs again on the current records.
fn find_applied(
    candidates: &[&[Operation]],
    view: &ClusterView<'_>,
    error: StoreError,
) -> Result<Option<usize>, StoreError> {
    let value_of = |path: &str| view.known_entry(path).map(|entry| entry.value);
    // The record of a pool that was written unchanged proves nothing.
    let is_unchanged = |operation: &Operation| {
        let is_pool = [keys::POOL, keys::SPACE].iter().any(|kind| operation.path.starts_with(kind));
        is_pool
            && matches!(&operation.write, Write::Put(new) if value_of(&operation.path).as_ref() == Some(new))
    };
    let is_proof =
        |operation: &&Operation| keys::is_compared(&operation.path) && !is_unchanged(operation);
    let proofs_of = |operations: &&'_ [Operation]| -> Vec<Operation> {
        let proofs: Vec<Operation> = operations.iter().filter(is_proof).cloned().collect();
        // A transaction that only writes hints is proved by its hints.
        if proofs.is_empty() { operations.to_vec() } else { proofs }
    };
    let proofs: Vec<Vec<Operation>> = candidates.iter().map(proofs_of).collect();
    view.forget_all();
    let operations = candidates.iter().flat_map(|operations| operations.iter());
    let paths = operations.filter(|operation| operation.write != Write::DeleteTree);
    if view.fetch(&paths.map(|operation| operation.path.clone()).collect::<Vec<_>>()).is_err() {
        return Err(error);
    }
    let is_applied = |operation: &Operation| match &operation.write {
        Write::Put(written) => value_of(&operation.path).as_ref() == Some(written),
        Write::Delete => value_of(&operation.path).is_none(),
        Write::Keep | Write::DeleteTree => true,
    };
    Ok(proofs.iter().position(|operations| operations.iter().all(is_applied)))
}
