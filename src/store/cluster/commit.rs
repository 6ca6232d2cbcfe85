//! A plan as a transaction, and what comes of sending it.
//!
//! Owns: what is sent together, what a lost race teaches, and finding a commit again whose answer was
//! lost. Does not own: what a plan writes (`writes`), how often it is tried (`cas`).
//! Invariant: what is told to be done was done whole; a transaction that may be done yet, by nobody
//! waited for, is in doubt.

use std::collections::BTreeSet;

use super::server::{Commit, Conflict, Expect, Step, Write};
use super::view::Knowledge;
use super::{keys, node, transaction};
use crate::alloc;
use crate::alloc::{Command, Context, Outcome, Plan};
use crate::error::{Refusal, StoreError};
use crate::telemetry::counters;

/// After so many lost races for its addresses a chunk is listed anew.
const STALE: u32 = 4;

/// Plans sent together, of which the server takes the first that it can: at first, when each further one
/// costs more than it saves, and after a lost race.
const PLANS: [usize; 2] = [2, 8];

/// A plan as a transaction.
pub struct Try {
    steps: Vec<Step>,
    events: usize,
    /// What it comes to.
    pub outcome: Result<Outcome, Refusal>,
}

impl Try {
    /// The plan of a command.
    pub fn new(
        plan: Plan,
        command: &Command,
        knowledge: &Knowledge<'_>,
    ) -> Result<Try, StoreError> {
        let (mut writes, events) = transaction::records(plan.changes, command, knowledge)?;
        writes.extend(node::claim(knowledge)?);
        let mut steps = transaction::steps(writes, knowledge);
        if let Some(chronicle) = &knowledge.chronicle {
            steps.extend(chronicle.steps(&events));
        }
        Ok(Try { steps, events: events.len(), outcome: plan.outcome })
    }
}

/// The plan, and what to do instead if the addresses that it takes for free are held, as far as that can
/// be told without a look.
pub fn alternatives(
    command: &Command,
    plan: Plan,
    knowledge: &Knowledge<'_>,
    cx: &Context,
) -> Result<Vec<Try>, StoreError> {
    let engine = knowledge.engine;
    let mut tries = vec![Try::new(plan, command, knowledge)?];
    let mut room = engine.room() / 2;
    let most = PLANS[usize::from(knowledge.search.careful.get())].min(engine.alternatives());
    // Where no owner's record tells them apart, it could not be told which was done.
    let told_apart = tries[0].steps.iter().any(|step| keys::is_own(&step.path));
    let mut held = BTreeSet::new();
    while told_apart && tries.len() < most {
        // Each has its comparisons in one branch, and all of them are read if none holds.
        let last = tries.last().map_or(0, |last| last.steps.len());
        let chosen = knowledge.search.chosen.take();
        if chosen.is_empty() || room < 2 * last {
            break;
        }
        room -= last;
        held.extend(chosen);
        knowledge.supposed.replace(Some(held.clone()));
        knowledge.assumed.borrow_mut().clear();
        knowledge.search.begin();
        let next = alloc::run(command, knowledge, cx);
        let next = next.ok().filter(|plan| !plan.changes.is_empty());
        let next = next.and_then(|plan| Try::new(plan, command, knowledge).ok());
        knowledge.supposed.replace(None);
        let Some(next) = next else { break };
        tries.push(next);
    }
    Ok(tries)
}

/// Has one of these done, and tells which; `None` if others were faster, which has been learned.
pub fn commit(tries: &[Try], knowledge: &Knowledge<'_>) -> Result<Option<usize>, StoreError> {
    let done = send(tries, knowledge)?;
    if let (Some(done), Some(chronicle)) = (done, &knowledge.chronicle) {
        chronicle.done(tries[done].events);
    }
    Ok(done)
}

fn send(tries: &[Try], knowledge: &Knowledge<'_>) -> Result<Option<usize>, StoreError> {
    let engine = knowledge.engine;
    let all: Vec<&[Step]> = tries.iter().map(|one| &*one.steps).collect();
    if all[0].len() > engine.room() {
        return Err(StoreError::Unavailable {
            doing: "do that in one transaction of".to_owned(),
            place: engine.place(),
            source: format!("it changes {} records, and {} fit", all[0].len(), engine.room())
                .into(),
        });
    }
    match engine.commit(&all, knowledge.until)? {
        Commit::Done(which) => {
            for step in all[which].iter().filter(|step| step.write != Write::Keep) {
                // Written, but nobody said under which version.
                if keys::is_node(&step.path) {
                    knowledge.known.borrow_mut().remove(&step.path);
                }
            }
            Ok(Some(which))
        }
        Commit::Conflict(conflict) => {
            counters::conflict();
            knowledge.search.careful.set(true);
            knowledge.assumed.borrow_mut().clear();
            knowledge.presumed.borrow_mut().clear();
            knowledge.owners.borrow_mut().take();
            match conflict {
                Conflict::Seen(truths) => knowledge.take_in(truths),
                Conflict::Stale(paths) => learn_of_stale(&paths, all[0], knowledge)?,
            }
            let lost = all[0].iter().filter(|step| takes_held(step, knowledge));
            let chunks: Vec<&str> = lost
                .filter_map(|step| step.path.rsplit_once('/'))
                .map(|(chunk, _)| chunk)
                .collect();
            if !chunks.is_empty() {
                let raced = knowledge.search.raced.get() + 1;
                knowledge.search.raced.set(raced);
                // Others fill the chunk: what was listed of it is out of date by now.
                if raced.is_multiple_of(STALE) {
                    for chunk in chunks {
                        knowledge.unlist(chunk);
                    }
                }
            }
            Ok(None)
        }
        Commit::Lost(error) => {
            let found = find_again(&all, knowledge, error);
            let node = keys::node(&knowledge.cx.node.name);
            let is_ours = |step: &Step| step.path == node;
            if let Some(doubt) = knowledge.doubt
                && all.iter().any(|steps| steps.iter().any(is_ours))
                && !matches!(found, Ok(Some(_)))
            {
                doubt.set(true);
            }
            found
        }
    }
}

/// Whether a step was to lease an address that somebody has.
fn takes_held(step: &Step, knowledge: &Knowledge<'_>) -> bool {
    let there = || matches!(knowledge.known.borrow().get(&step.path), Some(Some(_)));
    step.expect == Expect::Absent
        && keys::is_ip(&step.path)
        && (knowledge.taken.borrow().contains(&step.path) || there())
}

/// An address that was taken for free and is not is held: no look will help. Whatever else has changed
/// is looked at, with all that was compared, at one moment.
fn learn_of_stale(
    stale: &[String],
    steps: &[Step],
    knowledge: &Knowledge<'_>,
) -> Result<(), StoreError> {
    let is_held = |step: &Step| step.expect == Expect::Absent && keys::is_ip(&step.path);
    let is_stale = |step: &&Step| stale.contains(&step.path);
    if steps.iter().filter(is_stale).all(is_held) {
        knowledge.known.borrow_mut().retain(|path, _| !stale.contains(path));
        knowledge.taken.borrow_mut().extend(stale.iter().cloned());
        return Ok(());
    }
    let compared = steps.iter().filter(|step| step.expect != Expect::Anything);
    knowledge.learn(&compared.map(|step| step.path.clone()).collect::<Vec<_>>())
}

/// Which commit whose answer was lost has happened: then what it wrote is there. (If somebody has
/// changed that since, the allocator runs again, over what is there now.)
fn find_again(
    tries: &[&[Step]],
    knowledge: &Knowledge<'_>,
    lost: StoreError,
) -> Result<Option<usize>, StoreError> {
    // A pool that was only touched tells nothing.
    let is_touch = |step: &Step| {
        let known = knowledge.known.borrow();
        let before = known.get(&step.path).and_then(|e| e.as_ref().map(|e| &e.value));
        let same = matches!(&step.write, Write::Put(value) if before == Some(value));
        same && keys::is_of_pools(&step.path)
    };
    let telling = |steps: &&'_ [Step]| -> Vec<Step> {
        let tells = |step: &&Step| keys::is_truth(&step.path) && !is_touch(step);
        steps.iter().filter(tells).cloned().collect()
    };
    // Where there are hints alone, they tell.
    let or_all = |steps: &&[Step]| match telling(steps) {
        none if none.is_empty() => steps.to_vec(),
        some => some,
    };
    let telling: Vec<Vec<Step>> = tries.iter().map(or_all).collect();
    knowledge.forget();
    let told_of = |step: &&Step| step.write != Write::DeleteTree;
    let touched = tries.iter().flat_map(|steps| steps.iter()).filter(told_of);
    let touched: Vec<String> = touched.map(|step| step.path.clone()).collect();
    if knowledge.learn(&touched).is_err() {
        return Err(lost);
    }
    let known = knowledge.known.borrow();
    let is_there = |step: &Step| {
        let value = known.get(&step.path).and_then(|e| e.as_ref().map(|e| &e.value));
        match &step.write {
            Write::Put(written) => value == Some(written),
            Write::Delete => value.is_none(),
            Write::Keep | Write::DeleteTree => true,
        }
    };
    Ok(telling.iter().position(|steps| steps.iter().all(is_there)))
}
