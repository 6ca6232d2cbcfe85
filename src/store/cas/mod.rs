//! A store on a compare-and-set server: etcd, Consul, or the fake of the tests.
//!
//! Owns: the way from a command to a commit: guess, compare, have a second plan for a guess that is
//! wrong, learn from a conflict, find a commit again whose answer was lost. Does not own: how a server is asked ([`Engine`]), which address
//! (`alloc`).
//! Invariant: an outcome that changes something was compared by the server; any other rests on
//! nothing assumed. Tries and time are bounded. No lease outlives its pool.

pub mod audit;
mod engine;
mod knowledge;
mod node;
mod notes;
mod paths;
mod search;
mod writes;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use engine::{Commit, Conflict, Engine, Entry, Expect, Step, Truths, Window, Write};
use knowledge::{Knowledge, Owners, bad_record};
use node::Claim;
pub use notes::Notes;

use super::codec::{self, Bad};
use super::pause::pause;
use super::{Problem, Repair, Store, Taken, Wanted};
use crate::alloc::{self, Command, Context, Definition, Evict, Holder, Outcome, Plan, View};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{
    Counter, Event, Lease, NetworkName, NetworkRecord, NodeRecord, Persist, Pool, SetName,
};
use crate::net::Addr;

/// How often a command is tried: others can win that many times in a row before it gives up.
const TRIES: u32 = 64;
/// Plans sent together, of which the server takes the first that it can: at first, when each further one
/// costs more than it saves, and after a lost race.
const PLANS: [usize; 2] = [2, 8];

/// A store on such a server.
pub struct Cas<E> {
    engine: E,
    timeout: Duration,
    persist: Persist,
    notes: Notes,
    /// What a GC listed, for its further steps. It may be out of date: the commits compare.
    listing: Option<(Owners, Truths)>,
    /// Definitions that were looked at, for the command that rests on one.
    networks: Truths,
}

impl<E: Engine> Cas<E> {
    /// A store on `engine`, which is given `timeout` for each command. It notes nothing.
    pub fn new(engine: E, timeout: Duration) -> Cas<E> {
        let notes = Notes::new(None, String::new());
        let (persist, networks) = (Persist::Boot, Truths::new());
        Cas { engine, timeout, persist, notes, listing: None, networks }
    }

    /// The same, with leases that live so long, and with notes.
    pub fn with(self, persist: Persist, notes: Notes) -> Cas<E> {
        Cas { persist, notes, ..self }
    }

    /// Nothing but what is told.
    fn knowledge<'a>(&'a self, cx: &'a Context, known: Truths) -> Knowledge<'a> {
        Knowledge::new(&self.engine, cx, Instant::now() + self.timeout, known)
    }

    fn carry_out(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        let (owners, mut truths) = match (command, self.listing.take()) {
            (Command::Gc(gc), Some((owners, truths))) if gc.after.is_some() => {
                (Some(owners), truths)
            }
            (Command::Evict(evict), Some((owners, truths))) if evict.after.is_some() => {
                (Some(owners), truths)
            }
            _ => (None, Truths::new()),
        };
        truths.append(&mut self.networks);
        let (path, set) = (paths::node(&cx.node.name), command.set());
        let leases = node::claims(command);
        let asks = leases || matches!(command, Command::Status(_));
        let note = if asks { self.notes.read(set, cx) } else { None };
        truths.extend(note.clone().map(|entry| (path.clone(), Some(entry))));
        let claim = match &note {
            _ if !leases => Claim::None,
            Some(_) => Claim::Noted,
            None => Claim::Now,
        };
        let knowledge = Knowledge {
            owners: RefCell::new(owners),
            claim,
            settled: note.is_some(),
            ..self.knowledge(cx, truths)
        };
        if asks
            && !leases
            && note.is_none()
            && let Some((_, record)) = node::look(&knowledge)?
        {
            node::check(&knowledge, &record)?;
        }
        // A lease that outlives its boot does not say which that was.
        let boot = cx.boot.clone().filter(|_| self.persist == Persist::Boot);
        let told = Context { boot, ..cx.clone() };
        let mut lost = 0;
        for _ in 0..TRIES {
            knowledge.begin();
            let plan = alloc::run(command, &knowledge, &told)?;
            let outcome = if plan.changes.is_empty() {
                if !verify(&knowledge, &plan)? {
                    continue;
                }
                plan.outcome
            } else {
                let mut tries = alternatives(command, plan, &knowledge, &told)?;
                let Some(done) = commit(&tries, &knowledge)? else {
                    lost += 1;
                    step_aside(lost, cx.seed, knowledge.until);
                    continue;
                };
                tries.swap_remove(done).outcome
            };
            let Knowledge { owners, known, .. } = knowledge;
            let known = known.into_inner();
            let noted = note.is_some() && known.get(&path) == Some(&note);
            self.listing = owners.into_inner().map(|owners| (owners, known));
            if leases && !noted && outcome.is_ok() {
                // What the command asked for is done; this is done again by the next one.
                let _ = self.settle(set, cx);
            }
            return outcome.map_err(Error::Refused);
        }
        Err(Error::Store(StoreError::Unavailable {
            doing: "win against the other clients of".to_owned(),
            place: self.engine.place(),
            source: format!("{TRIES} tries were lost").into(),
        }))
    }

    /// Erases what this machine's earlier boots left of a set, and notes that this is done. Whoever
    /// loses against another client leaves it to that one.
    fn settle(&self, set: Option<&SetName>, cx: &Context) -> Result<(), Error> {
        let knowledge = Knowledge { claim: Claim::Now, ..self.knowledge(cx, Truths::new()) };
        let Some((entry, record)) = node::look(&knowledge)? else { return Ok(()) };
        if !node::is_ours(&record, cx) {
            return Ok(());
        }
        if let Some(set) = set {
            let mut evict = Evict { set: set.clone(), only_ended: true, after: None };
            loop {
                let plan = alloc::run(&Command::Evict(evict.clone()), &knowledge, cx)?;
                let is_done = plan.changes.is_empty();
                let step = Try::new(plan, &knowledge)?;
                let steps = std::slice::from_ref(&step);
                if !is_done && commit(steps, &knowledge)?.is_none() {
                    return Ok(());
                }
                match step.outcome {
                    Ok(Outcome::Collected { after, done: false, .. }) => evict.after = after,
                    _ => break,
                }
            }
        }
        // Without a note the next call looks again.
        let _ = self.notes.write(set, cx, &entry);
        Ok(())
    }
}

/// A plan as a transaction.
struct Try {
    steps: Vec<Step>,
    outcome: Result<Outcome, Refusal>,
}

impl Try {
    fn new(plan: Plan, knowledge: &Knowledge<'_>) -> Result<Try, StoreError> {
        let mut writes = writes::records(plan.changes, knowledge)?;
        writes.extend(node::claim(knowledge)?);
        Ok(Try { steps: writes::steps(writes, knowledge), outcome: plan.outcome })
    }
}

/// The plan, and what to do instead if the addresses that it takes for free are held, as far as that can
/// be told without a look.
fn alternatives(
    command: &Command,
    plan: Plan,
    knowledge: &Knowledge<'_>,
    cx: &Context,
) -> Result<Vec<Try>, StoreError> {
    let engine = knowledge.engine;
    let mut tries = vec![Try::new(plan, knowledge)?];
    let mut room = engine.room() / 2;
    let most = PLANS[usize::from(knowledge.careful.get())].min(engine.alternatives());
    // Where no owner's record tells them apart, it could not be told which was done.
    let told_apart = tries[0].steps.iter().any(|step| paths::is_own(&step.path));
    let mut held = BTreeSet::new();
    while told_apart && tries.len() < most {
        // Each has its comparisons in one branch, and all of them are read if none holds.
        let last = tries.last().map_or(0, |last| last.steps.len());
        let chosen = knowledge.chosen.take();
        if chosen.is_empty() || room < 2 * last {
            break;
        }
        room -= last;
        held.extend(chosen);
        knowledge.supposed.replace(Some(held.clone()));
        knowledge.assumed.borrow_mut().clear();
        knowledge.begin();
        let next = alloc::run(command, knowledge, cx);
        let next = next.ok().filter(|plan| !plan.changes.is_empty());
        let next = next.and_then(|plan| Try::new(plan, knowledge).ok());
        knowledge.supposed.replace(None);
        let Some(next) = next else { break };
        tries.push(next);
    }
    Ok(tries)
}

/// Looks at what was assumed or added up, for nothing else guards a conclusion without a change; `true`
/// if it holds.
fn verify(knowledge: &Knowledge<'_>, plan: &Plan) -> Result<bool, StoreError> {
    let assumed: Vec<String> = knowledge.assumed.borrow().iter().cloned().collect();
    if assumed.is_empty() {
        return if plan.outcome.is_err() { knowledge.is_full_still() } else { Ok(true) };
    }
    knowledge.learn(&assumed)?;
    let known = knowledge.known.borrow();
    if assumed.iter().any(|path| known.get(path).is_some_and(Option::is_some)) {
        knowledge.careful.set(true);
    }
    Ok(false)
}

/// Has one of these done, and tells which; `None` if others were faster, which has been learned.
fn commit(tries: &[Try], knowledge: &Knowledge<'_>) -> Result<Option<usize>, StoreError> {
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
                if paths::is_node(&step.path) {
                    knowledge.known.borrow_mut().remove(&step.path);
                }
            }
            Ok(Some(which))
        }
        Commit::Conflict(conflict) => {
            knowledge.careful.set(true);
            knowledge.assumed.borrow_mut().clear();
            knowledge.owners.borrow_mut().take();
            match conflict {
                Conflict::Seen(truths) => knowledge.take_in(truths),
                Conflict::Stale(paths) => learn_of_stale(&paths, all[0], knowledge)?,
            }
            if all[0].iter().any(|step| takes_held(step, knowledge)) {
                knowledge.raced.set(knowledge.raced.get() + 1);
            }
            Ok(None)
        }
        Commit::Lost(error) => find_again(&all, knowledge, error),
    }
}

/// Whether a step was to lease an address that somebody has.
fn takes_held(step: &Step, knowledge: &Knowledge<'_>) -> bool {
    let there = || matches!(knowledge.known.borrow().get(&step.path), Some(Some(_)));
    step.expect == Expect::Absent
        && paths::is_ip(&step.path)
        && (knowledge.taken.borrow().contains(&step.path) || there())
}

/// An address that was taken for free and is not is held: no look will help. Whatever else has changed
/// is looked at, with all that was compared, at one moment.
fn learn_of_stale(
    stale: &[String],
    steps: &[Step],
    knowledge: &Knowledge<'_>,
) -> Result<(), StoreError> {
    let is_held = |step: &Step| step.expect == Expect::Absent && paths::is_ip(&step.path);
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
        same && paths::is_of_pools(&step.path)
    };
    let telling = |steps: &&'_ [Step]| -> Vec<Step> {
        let tells = |step: &&Step| paths::is_truth(&step.path) && !is_touch(step);
        steps.iter().filter(tells).cloned().collect()
    };
    let telling: Vec<Vec<Step>> = tries.iter().map(telling).collect();
    knowledge.forget();
    let touched: Vec<String> =
        tries.iter().flat_map(|steps| steps.iter()).map(|step| step.path.clone()).collect();
    if knowledge.learn(&touched).is_err() {
        return Err(lost);
    }
    let known = knowledge.known.borrow();
    let is_there = |step: &Step| {
        let value = known.get(&step.path).and_then(|e| e.as_ref().map(|e| &e.value));
        match &step.write {
            Write::Put(written) => value == Some(written),
            Write::Delete => value.is_none(),
            Write::Keep => true,
        }
    };
    Ok(telling.iter().position(|steps| steps.iter().all(is_there)))
}

/// Lets the others go first, for a while that differs from client to client and grows: those that
/// retry at once meet again.
fn step_aside(lost: u32, seed: u64, until: Instant) {
    const LONGEST: u64 = 64;
    // The first loss is chance: the truth is known now, and another try will do.
    let Some(doublings) = lost.checked_sub(2) else { return };
    let most = 1_000 * (1 << doublings.min(6)).min(LONGEST);
    let chance = seed.rotate_left(lost).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    pause(Duration::from_micros(chance % most), until);
}

impl<E: Engine> Cas<E> {
    /// Who has which address; of what has ended with its boot, nobody.
    fn slots(&mut self, cx: &Context) -> Result<BTreeMap<(SetName, Addr), Holder>, StoreError> {
        let found = self.engine.list(paths::IPS, Instant::now() + self.timeout)?;
        // Read after the leases: of a boot that begins in between, none is there yet.
        let nodes = self.nodes()?;
        let ended = |lease: &Lease| {
            let node = nodes.iter().find(|record| record.node == lease.node);
            let boot = node.and_then(|record| record.boot.clone());
            let there = Context { boot, node: lease.node.clone(), ..cx.clone() };
            cx.has_ended(lease) || there.has_ended(lease)
        };
        let mut slots = BTreeMap::new();
        for (path, entry) in found {
            let slot = paths::read_ip(&path).ok_or(Bad("a key of another form")).and_then(|key| {
                let slot = codec::read_slot(path.as_bytes(), &key.0, key.1, &entry.value)?;
                Ok((key, slot))
            });
            let slot = slot.map_err(|Bad(what)| bad_record(&self.engine, &path, what))?;
            if !matches!(&slot.1, Holder::Leased(lease) if ended(lease)) {
                slots.extend([slot]);
            }
        }
        Ok(slots)
    }
}

impl<E: Engine> Store for Cas<E> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.carry_out(command, cx)
    }

    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        for holder in self.slots(cx)?.into_values() {
            if let Holder::Leased(lease) = holder {
                each(*lease);
            }
        }
        Ok(())
    }

    fn taken(&mut self, cx: &Context, each: &mut Taken<'_>) -> Result<(), StoreError> {
        for ((set, addr), holder) in self.slots(cx)? {
            each(&set, addr, &holder);
        }
        Ok(())
    }

    fn definitions(&mut self, _: &Context) -> Result<Vec<Definition>, StoreError> {
        Ok(Vec::new())
    }

    fn history(&mut self, _: &Context, _: &mut Wanted<'_>) -> Result<Vec<Event>, StoreError> {
        Ok(Vec::new())
    }

    fn problems(&mut self, _: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError> {
        audit::audit(&self.engine, Instant::now() + self.timeout, each)
    }

    fn repair(&mut self, _: &Context) -> Result<Repair, StoreError> {
        Err(StoreError::Unavailable {
            doing: "repair".to_owned(),
            place: self.engine.place(),
            source: "a cluster's records are mended one by one, as `sublet doctor` says".into(),
        })
    }

    fn counters(&mut self, _: &Context) -> Result<Vec<Counter>, StoreError> {
        Ok(Vec::new())
    }

    fn pools(&mut self) -> Result<Vec<Pool>, StoreError> {
        let found = self.engine.list(paths::POOLS, Instant::now() + self.timeout)?;
        let mut pools = BTreeMap::new();
        for (path, entry) in found {
            let id = paths::read_pool(&path).ok_or(Bad("a key of another form"));
            let read = id.and_then(|id| codec::read_pool_of(path.as_bytes(), id, &entry.value));
            let pool = read.map_err(|Bad(what)| bad_record(&self.engine, &path, what))?;
            pools.insert(pool.id.clone(), pool);
        }
        Ok(pools.into_values().collect())
    }

    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError> {
        let found = self.engine.list(paths::NODES, Instant::now() + self.timeout)?;
        let read = |(path, entry): (String, Entry)| {
            let name = paths::read_node(&path).ok_or(Bad("a key of another form"));
            let read = name.and_then(|name| codec::read_node(path.as_bytes(), &name, &entry.value));
            read.map_err(|Bad(what)| bad_record(&self.engine, &path, what))
        };
        found.into_iter().map(read).collect()
    }

    fn forget(&mut self, record: &NodeRecord, cx: &Context) -> Result<bool, StoreError> {
        let cx = Context { node: record.node.clone(), ..cx.clone() };
        let knowledge = self.knowledge(&cx, Truths::new());
        let Some((entry, now)) = node::look(&knowledge)? else { return Ok(true) };
        if now != *record {
            return Ok(false);
        }
        let step = Step {
            path: paths::node(&record.node.name),
            expect: Expect::Version(entry.version),
            write: Write::Delete,
        };
        match self.engine.commit(&[&[step]], knowledge.until)? {
            Commit::Done(_) => Ok(true),
            Commit::Conflict(_) => Ok(false),
            Commit::Lost(error) => Err(error),
        }
    }

    fn network(&mut self, name: &NetworkName) -> Result<Option<NetworkRecord>, StoreError> {
        let cx = Context::default();
        let knowledge = self.knowledge(&cx, Truths::new());
        let record = knowledge.network(name)?;
        self.networks = knowledge.known.into_inner();
        Ok(record)
    }
}
