//! A plan as a transaction, and what comes of sending it.
//!
//! Owns: what is sent together, what a lost race teaches, and finding a commit again whose answer was
//! lost. Does not own: what a plan writes (`writes`), how often it is tried (`cas`).
//! Invariant: what is told to be done was done whole; a transaction that may be done yet, by nobody
//! waited for, is in doubt.

use std::collections::BTreeSet;

use super::server::{Commit, Conflict, Expect, Operation, Write};
use super::view::ClusterView;
use super::{keys, node, transaction};
use crate::alloc;
use crate::alloc::{Command, Context, Outcome, Plan};
use crate::error::{Refusal, StoreError};
use crate::telemetry::counters;

/// After so many lost races for its addresses a chunk is listed anew.
const RELIST_AFTER: u32 = 4;

/// Plans sent together, of which the server takes the first that it can: at first, when each further one
/// costs more than it saves, and after a lost race.
const MAX_CANDIDATES: [usize; 2] = [2, 8];

/// A plan as a transaction.
pub struct Candidate {
    operations: Vec<Operation>,
    events: usize,
    /// What it comes to.
    pub outcome: Result<Outcome, Refusal>,
}

impl Candidate {
    /// The plan of a command.
    pub fn new(
        plan: Plan,
        command: &Command,
        view: &ClusterView<'_>,
    ) -> Result<Candidate, StoreError> {
        let (mut writes, events) = transaction::records(plan.changes, command, view)?;
        writes.extend(node::claim_name(view)?);
        let mut operations = transaction::operations(writes, view);
        if let Some(history) = &view.history {
            operations.extend(history.operations(&events));
        }
        Ok(Candidate { operations, events: events.len(), outcome: plan.outcome })
    }
}

/// The plan, and what to do instead if the addresses that it takes for free are held, as far as that can
/// be told without a look.
pub fn candidates(
    command: &Command,
    plan: Plan,
    view: &ClusterView<'_>,
    cx: &Context,
) -> Result<Vec<Candidate>, StoreError> {
    let server = view.server;
    let mut tries = vec![Candidate::new(plan, command, view)?];
    let mut room = server.max_operations() / 2;
    let most =
        MAX_CANDIDATES[usize::from(view.search.list_chunks.get())].min(server.max_candidates());
    // Where no owner's record tells them apart, it could not be told which was done.
    let told_apart = tries[0].operations.iter().any(|operation| keys::is_owner(&operation.path));
    let mut held = BTreeSet::new();
    while told_apart && tries.len() < most {
        // Each has its comparisons in one branch, and all of them are read if none holds.
        let last = tries.last().map_or(0, |last| last.operations.len());
        let chosen = view.search.chosen.take();
        if chosen.is_empty() || room < 2 * last {
            break;
        }
        room -= last;
        held.extend(chosen);
        view.hypothetical.replace(Some(held.clone()));
        view.assumed_absent.borrow_mut().clear();
        view.search.begin();
        let next = alloc::run(command, view, cx);
        let next = next.ok().filter(|plan| !plan.changes.is_empty());
        let next = next.and_then(|plan| Candidate::new(plan, command, view).ok());
        view.hypothetical.replace(None);
        let Some(next) = next else { break };
        tries.push(next);
    }
    Ok(tries)
}

/// Has one of these done, and tells which; `None` if others were faster, which has been learned.
pub fn commit(tries: &[Candidate], view: &ClusterView<'_>) -> Result<Option<usize>, StoreError> {
    let done = send(tries, view)?;
    if let (Some(done), Some(history)) = (done, &view.history) {
        history.done(tries[done].events);
    }
    Ok(done)
}

fn send(tries: &[Candidate], view: &ClusterView<'_>) -> Result<Option<usize>, StoreError> {
    let server = view.server;
    let all: Vec<&[Operation]> = tries.iter().map(|one| &*one.operations).collect();
    if all[0].len() > server.max_operations() {
        return Err(StoreError::Unavailable {
            doing: "do that in one transaction of".to_owned(),
            place: server.place(),
            source: format!(
                "it changes {} records, and {} fit",
                all[0].len(),
                server.max_operations()
            )
            .into(),
        });
    }
    match server.commit(&all, view.until)? {
        Commit::Done(which) => {
            for operation in all[which].iter().filter(|operation| operation.write != Write::Keep) {
                // Written, but nobody said under which version.
                if keys::is_node(&operation.path) {
                    view.known.borrow_mut().remove(&operation.path);
                }
            }
            Ok(Some(which))
        }
        Commit::Conflict(conflict) => {
            counters::conflict();
            view.search.list_chunks.set(true);
            view.assumed_absent.borrow_mut().clear();
            view.assumed_present.borrow_mut().clear();
            view.owners.borrow_mut().take();
            match conflict {
                Conflict::Current(entries) => view.remember(entries),
                Conflict::Stale(paths) => refresh_stale(&paths, all[0], view)?,
            }
            let lost = all[0].iter().filter(|operation| lost_address(operation, view));
            let chunks: Vec<&str> = lost
                .filter_map(|operation| operation.path.rsplit_once('/'))
                .map(|(chunk, _)| chunk)
                .collect();
            if !chunks.is_empty() {
                let raced = view.search.lost_races.get() + 1;
                view.search.lost_races.set(raced);
                // Others fill the chunk: what was listed of it is out of date by now.
                if raced.is_multiple_of(RELIST_AFTER) {
                    for chunk in chunks {
                        view.invalidate(chunk);
                    }
                }
            }
            Ok(None)
        }
        Commit::Unknown(error) => {
            let found = find_applied(&all, view, error);
            let node = keys::node(&view.cx.node.name);
            let is_ours = |operation: &Operation| operation.path == node;
            if let Some(in_flight) = view.in_flight
                && all.iter().any(|operations| operations.iter().any(is_ours))
                && !matches!(found, Ok(Some(_)))
            {
                in_flight.set(true);
            }
            found
        }
    }
}

/// Whether a step was to lease an address that somebody has.
fn lost_address(operation: &Operation, view: &ClusterView<'_>) -> bool {
    let there = || matches!(view.known.borrow().get(&operation.path), Some(Some(_)));
    operation.expect == Expect::Absent
        && keys::is_address(&operation.path)
        && (view.taken.borrow().contains(&operation.path) || there())
}

/// An address that was taken for free and is not is held: no look will help. Whatever else has changed
/// is looked at, with all that was compared, at one moment.
fn refresh_stale(
    stale: &[String],
    operations: &[Operation],
    view: &ClusterView<'_>,
) -> Result<(), StoreError> {
    let is_held = |operation: &Operation| {
        operation.expect == Expect::Absent && keys::is_address(&operation.path)
    };
    let is_stale = |operation: &&Operation| stale.contains(&operation.path);
    if operations.iter().filter(is_stale).all(is_held) {
        view.known.borrow_mut().retain(|path, _| !stale.contains(path));
        view.taken.borrow_mut().extend(stale.iter().cloned());
        return Ok(());
    }
    let compared = operations.iter().filter(|operation| operation.expect != Expect::Anything);
    view.fetch(&compared.map(|operation| operation.path.clone()).collect::<Vec<_>>())
}

/// Which commit whose answer was lost has happened: then what it wrote is there. (If somebody has
/// changed that since, the allocator runs again, over what is there now.)
fn find_applied(
    tries: &[&[Operation]],
    view: &ClusterView<'_>,
    lost: StoreError,
) -> Result<Option<usize>, StoreError> {
    // A pool that was only touched tells nothing.
    let is_touch = |operation: &Operation| {
        let known = view.known.borrow();
        let before = known.get(&operation.path).and_then(|e| e.as_ref().map(|e| &e.value));
        let same = matches!(&operation.write, Write::Put(value) if before == Some(value));
        same && keys::is_pool_or_space(&operation.path)
    };
    let telling = |operations: &&'_ [Operation]| -> Vec<Operation> {
        let tells =
            |operation: &&Operation| keys::is_compared(&operation.path) && !is_touch(operation);
        operations.iter().filter(tells).cloned().collect()
    };
    // Where there are hints alone, they tell.
    let or_all = |operations: &&[Operation]| match telling(operations) {
        none if none.is_empty() => operations.to_vec(),
        some => some,
    };
    let telling: Vec<Vec<Operation>> = tries.iter().map(or_all).collect();
    view.forget();
    let told_of = |operation: &&Operation| operation.write != Write::DeleteTree;
    let touched = tries.iter().flat_map(|operations| operations.iter()).filter(told_of);
    let touched: Vec<String> = touched.map(|operation| operation.path.clone()).collect();
    if view.fetch(&touched).is_err() {
        return Err(lost);
    }
    let known = view.known.borrow();
    let is_there = |operation: &Operation| {
        let value = known.get(&operation.path).and_then(|e| e.as_ref().map(|e| &e.value));
        match &operation.write {
            Write::Put(written) => value == Some(written),
            Write::Delete => value.is_none(),
            Write::Keep | Write::DeleteTree => true,
        }
    };
    Ok(telling.iter().position(|operations| operations.iter().all(is_there)))
}
