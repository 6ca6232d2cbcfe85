//! Commits transactions. If another client has changed the same records first, adds the current records to
//! the view. If the server does not respond, determines whether the transaction was applied.
//!
//! Invariant: if a command is reported as done, it was applied completely. If a command is reported as failed
//! or runs again, then either none of its transactions can be applied any more, or its in-flight note is left
//! for the next command.

use super::node::Member;
use super::server::{Commit, Conflict, Expect, Operation, Write};
use super::transaction::Transaction;
use super::view::{ClusterView, Unresolved};
use super::{backoff, keys};
use crate::error::StoreError;
use crate::telemetry::counters;

/// Commits a transaction. Returns `false` if the transaction was not applied and the allocator must decide
/// again. All outdated records have then been removed from the view.
pub fn commit(
    mut transaction: Transaction,
    view: &ClusterView<'_>,
    member: &mut Member<'_>,
) -> Result<bool, StoreError> {
    let (size, most) = (transaction.operations.len(), view.server.max_operations());
    if size > most {
        let why =
            format!("the change has {size} records, but at most {most} fit into one transaction");
        let doing = "commit the change to";
        return Err(StoreError::unavailable(doing, view.server.place(), why));
    }
    // Leave out the history record if the transaction only fits without it.
    let history = transaction.history.take().filter(|_| size < most);
    let has_history = history.is_some();
    transaction.operations.extend(history);
    let operations = &mut transaction.operations;
    // If the process ends before the outcome is known, the in-flight note of the command must stay.
    member.is_in_flight = true;
    let mut outcome = view.server.commit(operations, view.until);
    if matches!(outcome, Ok(Commit::Full(_))) && has_history {
        operations.pop();
        view.warn(format!(
            "{} is full, so the history event was not written; free space in the cluster",
            view.server.place()
        ));
        outcome = view.server.commit(operations, view.until);
    }
    member.is_in_flight = matches!(outcome, Ok(Commit::Unknown(_)));
    let is_applied = match outcome? {
        Commit::Done(version) => {
            view.known.borrow_mut().remember_written(operations, version);
            true
        }
        Commit::Full(error) => {
            // The server rejected the transaction before it compared any record. Read the records about which
            // an assumption was made, because these records may exist.
            let assumed = view.assumed();
            view.fetch(&assumed)?;
            if assumed.is_empty() {
                return Err(error);
            }
            false
        }
        Commit::Conflict(conflict) => {
            learn(conflict, operations, view)?;
            member.learn_from(view)?;
            false
        }
        Commit::Unknown(error) => resolve(&transaction, view, member, error)?,
    };
    if !is_applied {
        let lost = view.lost_commits.get() + 1;
        view.lost_commits.set(lost);
        backoff::after_lost_races(view.server, lost, view.cx.seed, view.until);
    }
    Ok(is_applied)
}

/// Determines whether a transaction without a response was applied. First fences the transaction (makes it
/// fail from now on), because the server might still apply it later, or a proxy might send it again.
fn resolve(
    transaction: &Transaction,
    view: &ClusterView<'_>,
    member: &mut Member<'_>,
    error: StoreError,
) -> Result<bool, StoreError> {
    let written: Vec<&Operation> =
        transaction.operations.iter().filter(|o| o.write != Write::Keep).collect();
    let paths: Vec<String> = written.iter().map(|o| o.path.clone()).collect();
    view.forget_all();
    if member.fence().and_then(|()| view.fetch(&paths)).is_err() {
        let path = paths.into_iter().find(|path| path.starts_with(keys::ADDRESS));
        let nonce = transaction.nonce;
        *view.unresolved.borrow_mut() = path.map(|path| Unresolved { path, nonce });
        return Err(error);
    }
    member.is_in_flight = false;
    let now = |o: &Operation| view.known_entry(&o.path);
    let is_by_it = written.iter().any(|o| now(o).is_some_and(|e| e.is_by(&transaction.nonce)));
    // A transaction that only removes records writes no nonce. It was applied if all of these records are
    // gone.
    let only_removes =
        written.iter().all(|o| o.write == Write::Delete || o.path.starts_with(keys::HISTORY));
    let mut removed = written.iter().filter(|o| o.write == Write::Delete);
    let is_applied = is_by_it || only_removes && removed.all(|o| now(o).is_none());
    view.known.borrow_mut().remember([member.known()].into());
    Ok(is_applied)
}

/// Removes outdated records and assumptions from the view after a comparison has failed, and adds the current
/// records.
fn learn(
    conflict: Conflict,
    operations: &[Operation],
    view: &ClusterView<'_>,
) -> Result<(), StoreError> {
    counters::conflict();
    view.search.list_chunks.set(true);
    view.known.borrow_mut().assumed.clear();
    view.owners.take();
    let is_lost = |path: &String| match &conflict {
        Conflict::Current(entries) => entries.get(path).is_some_and(Option::is_some),
        Conflict::Stale(paths) => paths.contains(path),
    };
    // Other clients have leased addresses that were assumed to be free. The listings of the chunks with these
    // addresses are outdated.
    let free = operations.iter().filter(|o| o.expect == Expect::Absent);
    let free = free.map(|o| &o.path).filter(|path| path.starts_with(keys::ADDRESS));
    let lost: Vec<&String> = free.filter(|path| is_lost(path)).collect();
    let chunks = lost.iter().filter_map(|path| path.get(..=path.rfind('/')?));
    let chunks: Vec<String> = chunks.map(str::to_owned).collect();
    if !chunks.is_empty() {
        view.search.lost_races.set(view.search.lost_races.get() + 1);
        for chunk in &chunks {
            view.known.borrow_mut().invalidate(chunk);
        }
    }
    match conflict {
        Conflict::Current(entries) => view.known.borrow_mut().remember(entries),
        Conflict::Stale(paths) if paths.len() == chunks.len() => {
            chunks.into_iter().try_for_each(|chunk| view.list(chunk))?;
        }
        // Read all compared records again, in one request, so that they are from the same moment.
        Conflict::Stale(_) => {
            let compared = operations.iter().filter(|o| o.expect != Expect::Anything);
            view.fetch(&compared.map(|o| o.path.clone()).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}
