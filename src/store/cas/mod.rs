//! A store on a compare-and-set server: etcd, Consul, or the fake of the tests.
//!
//! Owns: the way from a command to a commit: guess, compare, have a second plan for a guess that is
//! wrong, learn from a conflict, find a commit again whose answer was lost. Does not own: how a server
//! is asked ([`Engine`]), which address (`alloc`).
//! Invariant: an outcome that changes something was compared by the server; any other rests on
//! nothing assumed. Tries and time are bounded. No lease outlives its pool.

pub mod audit;
mod engine;
mod knowledge;
mod node;
mod notes;
mod old;
mod past;
mod paths;
mod records;
mod search;
mod writes;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub use engine::{Commit, Conflict, Engine, Entry, Expect, OldKey, Step, Truths, Window, Write};
use knowledge::{Knowledge, Old, Owners, bad_record};
use node::Claim;
pub use notes::Notes;

use super::pause::step_aside;
use super::{Each, Problem, Repair, Store, Taken, Wanted, changes};
use crate::alloc::{
    self, Add, Change, Command, Context, Definition, Del, Evict, Holder, Legacy, Outcome, Plan,
    View,
};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{
    Counter, Ending, Event, History, Lease, NetworkName, NetworkRecord, NodeRecord, Persist, Pool,
    SetName,
};
use crate::net::Addr;
use crate::tally;

/// After so many lost races for its addresses a chunk is listed anew.
const STALE: u32 = 4;

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
    /// What is taken over portion by portion, as long as nobody has noted this to be done.
    unless: Option<String>,
    /// A transaction was sent and may happen yet, though nobody waits for it any more.
    doubt: Cell<bool>,
    /// How much of what happens is written down, and how many records of it this store has written.
    history: History,
    written: Cell<u64>,
}

impl<E: Engine> Cas<E> {
    /// A store on `engine`, which is given `timeout` for each command. It notes nothing.
    pub fn new(engine: E, timeout: Duration) -> Cas<E> {
        let notes = Notes::new(None, String::new());
        let (persist, networks) = (Persist::Boot, Truths::new());
        Cas {
            engine,
            timeout,
            persist,
            notes,
            listing: None,
            networks,
            unless: None,
            doubt: Cell::new(false),
            history: History::Standing,
            written: Cell::new(0),
        }
    }

    /// The same, with as much history.
    #[must_use]
    pub fn keeping(self, history: History) -> Cas<E> {
        Cas { history, ..self }
    }

    /// The same, with leases that live so long, and with notes.
    pub fn with(self, persist: Persist, notes: Notes) -> Cas<E> {
        Cas { persist, notes, ..self }
    }

    /// Nothing but what is told.
    fn knowledge<'a>(&'a self, cx: &'a Context, known: Truths, until: Instant) -> Knowledge<'a> {
        Knowledge {
            doubt: Some(&self.doubt),
            chronicle: Some(past::Chronicle::new(&self.notes, cx, self.history, &self.written)),
            ..Knowledge::new(&self.engine, cx, until, known)
        }
    }

    /// A server that was stopped with a transaction in hand may carry it out long after its client
    /// has gone: a lease for a container that is deleted by then, or the end of one that has been told
    /// to be there. So before the next thing is done for this node, whatever may be under way is made to
    /// fail.
    fn dispel(&self, cx: &Context, until: Instant) -> Result<(), StoreError> {
        let noted = self.notes.doubt(cx);
        if noted.is_none() && !self.doubt.get() {
            return Ok(());
        }
        if let Err(error) = node::fence(&self.knowledge(cx, Truths::new(), until)) {
            if noted.is_none() {
                // Where nothing can be noted this very store remembers it, if it goes on.
                let _ = self.notes.note_doubt(cx);
            }
            return Err(error);
        }
        self.doubt.set(false);
        if let Some(noted) = noted {
            self.notes.clear_doubt(cx, &noted);
        }
        Ok(())
    }

    /// The same before this command's own end is told, if it has left something under way itself: what
    /// others have noted meanwhile is for the next one.
    fn dispel_own(&self, cx: &Context, until: Instant) -> Result<(), StoreError> {
        if self.doubt.get() { self.dispel(cx, until) } else { Ok(()) }
    }

    fn carry_out(
        &mut self,
        command: &Command,
        cx: &Context,
        until: Instant,
    ) -> Result<Outcome, Error> {
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
        // A DEL compares it as well, where that costs no look: so it can be made to fail later.
        let notes = asks || matches!(command, Command::Del(_));
        let mark = if notes { self.notes.read(set, cx) } else { None };
        truths.extend(mark.clone().map(|entry| (path.clone(), Some(entry))));
        let claim = match &mark {
            _ if !leases => Claim::None,
            Some(_) => Claim::Noted,
            None => Claim::Now,
        };
        let is_defined = |definition: &Definition| self.notes.is_defined(definition, cx);
        let knowledge = Knowledge {
            owners: RefCell::new(owners),
            is_defined: Some(&is_defined),
            old: old(command),
            claim,
            settled: mark.is_some(),
            unless: self.unless.clone(),
            ..self.knowledge(cx, truths, until)
        };
        if asks
            && !leases
            && mark.is_none()
            && let Some((_, record)) = node::look(&knowledge)?
        {
            node::check(&knowledge, &record)?;
        }
        // A lease that outlives its boot does not say which that was.
        let boot = cx.boot.clone().filter(|_| self.persist == Persist::Boot);
        let told = Context { boot, ..cx.clone() };
        let mut lost = 0;
        for _ in 0..TRIES {
            knowledge.search.begin();
            if knowledge.is_over() {
                return Ok(Outcome::WasAdopted);
            }
            let plan = alloc::run(command, &knowledge, &told)?;
            let counted = changes::counted(command, &plan, cx, true);
            let defined = plan.changes.iter().find_map(definition).cloned();
            let outcome = if plan.changes.is_empty() {
                if !verify(&knowledge, &plan)? || lacks(&plan) && knowledge.learn_nodes()? {
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
            if let Some(definition) = defined {
                self.notes.define(&definition, cx);
            }
            if let Some(counted) = counted.filter(|_| begins(command)) {
                self.notes.count(counted, cx);
            }
            let Knowledge { owners, known, .. } = knowledge;
            let known = known.into_inner();
            let record = known.get(&path).cloned();
            let settled = mark.is_some() && record.as_ref() == Some(&mark);
            self.listing = owners.into_inner().map(|owners| (owners, known));
            // A GC takes many steps, and frees the same.
            let gc = matches!(command, Command::Gc(_) | Command::Sweep(_));
            if leases && !gc && !settled && outcome.is_ok() {
                // What the command asked for is done; this is done again by the next one.
                let known = record.map(|entry| (path, entry)).into_iter().collect();
                let _ = self.settle(set, cx, known, until);
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
    fn settle(
        &self,
        set: Option<&SetName>,
        cx: &Context,
        known: Truths,
        until: Instant,
    ) -> Result<(), Error> {
        let knowledge = Knowledge { claim: Claim::Now, ..self.knowledge(cx, known, until) };
        let Some((entry, record)) = node::look(&knowledge)? else { return Ok(()) };
        if !node::is_ours(&record, cx) {
            return Ok(());
        }
        if let Some(set) = set {
            let mut evict = Evict { set: set.clone(), only_ended: true, after: None };
            loop {
                let command = Command::Evict(evict.clone());
                let plan = alloc::run(&command, &knowledge, cx)?;
                let is_done = plan.changes.is_empty();
                let step = Try::new(plan, &command, &knowledge)?;
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
        past::gather(&self.engine, &self.notes, cx, until)?;
        // Without a note the next call looks again.
        let _ = self.notes.write(set, cx, &entry);
        Ok(())
    }

    /// A request that the servers did not carry out, for all that is known.
    fn count_failure(&self, command: &Command, cx: &Context) {
        if let (Some(verb), Some(set)) = (alloc::verb(command), command.set()) {
            self.notes.count((set.clone(), cx.face, verb, Ending::Failed), cx);
        }
    }
}

fn definition(change: &Change) -> Option<&Definition> {
    match change {
        Change::Define(definition) => Some(definition),
        _ => None,
    }
}

/// Whether it is a request, and not a further step of one.
fn begins(command: &Command) -> bool {
    match command {
        Command::Gc(gc) => gc.after.is_none(),
        Command::Evict(evict) => evict.after.is_none(),
        _ => true,
    }
}

/// What a command has to do with another program's leases: an ADD and a DEL whose configuration is
/// that program's; else a DEL finds what was taken over elsewhere and copied here.
fn old(command: &Command) -> Old {
    match command {
        Command::Add(Add { legacy: Legacy::Absent, .. }) => Old::No,
        Command::Add(_) | Command::Del(Del { legacy: Some(_), .. }) => Old::Probably,
        _ => Old::Look,
    }
}

/// A plan as a transaction.
struct Try {
    steps: Vec<Step>,
    events: usize,
    outcome: Result<Outcome, Refusal>,
}

impl Try {
    fn new(plan: Plan, command: &Command, knowledge: &Knowledge<'_>) -> Result<Try, StoreError> {
        let (mut writes, events) = writes::records(plan.changes, command, knowledge)?;
        writes.extend(node::claim(knowledge)?);
        let mut steps = writes::steps(writes, knowledge);
        if let Some(chronicle) = &knowledge.chronicle {
            steps.extend(chronicle.steps(&events));
        }
        Ok(Try { steps, events: events.len(), outcome: plan.outcome })
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
    let mut tries = vec![Try::new(plan, command, knowledge)?];
    let mut room = engine.room() / 2;
    let most = PLANS[usize::from(knowledge.search.careful.get())].min(engine.alternatives());
    // Where no owner's record tells them apart, it could not be told which was done.
    let told_apart = tries[0].steps.iter().any(|step| paths::is_own(&step.path));
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

/// Whether it is refused for what others hold: their boots may be over.
fn lacks(plan: &Plan) -> bool {
    use crate::error::Refusal::{Exhausted, GatewayHeld, Held};
    matches!(&plan.outcome, Err(Exhausted { .. } | Held { .. } | GatewayHeld { .. }))
}

/// Looks at what was assumed or added up, for nothing else guards a conclusion without a change; `true`
/// if it holds.
fn verify(knowledge: &Knowledge<'_>, plan: &Plan) -> Result<bool, StoreError> {
    let mut assumed: Vec<String> = knowledge.assumed.borrow().iter().cloned().collect();
    assumed.extend(knowledge.presumed.borrow().iter().cloned());
    if assumed.is_empty() {
        return if plan.outcome.is_err() { knowledge.is_full_still() } else { Ok(true) };
    }
    knowledge.learn(&assumed)?;
    let known = knowledge.known.borrow();
    if assumed.iter().any(|path| known.get(path).is_some_and(Option::is_some)) {
        knowledge.search.careful.set(true);
    }
    Ok(false)
}

/// Has one of these done, and tells which; `None` if others were faster, which has been learned.
fn commit(tries: &[Try], knowledge: &Knowledge<'_>) -> Result<Option<usize>, StoreError> {
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
                if paths::is_node(&step.path) {
                    knowledge.known.borrow_mut().remove(&step.path);
                }
            }
            Ok(Some(which))
        }
        Commit::Conflict(conflict) => {
            tally::conflict();
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
            let node = paths::node(&knowledge.cx.node.name);
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

impl<E: Engine> Cas<E> {
    /// Who has which address; of what has ended with its boot, nobody.
    fn slots(&mut self, cx: &Context) -> Result<BTreeMap<(SetName, Addr), Holder>, StoreError> {
        let until = Instant::now() + self.timeout;
        let found = records::all(&self.engine, paths::IPS, until, records::slot)?;
        // Read after the leases: of a boot that begins in between, none is there yet.
        let nodes = self.nodes()?;
        let ended =
            |h: &Holder| matches!(h, Holder::Leased(lease) if node::has_ended(lease, cx, &nodes));
        Ok(found.into_iter().filter(|(_, holder)| !ended(holder)).collect())
    }
}

impl<E: Engine> Store for Cas<E> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        // What outlives a boot does not say here which that was.
        let lasting = match command {
            Command::Restore(restore) if restore.persist == Persist::Disk => {
                Some(Command::Restore(records::without_boots(restore)))
            }
            _ => None,
        };
        let command = lasting.as_ref().unwrap_or(command);
        let until = Instant::now() + self.timeout;
        if !command.only_looks() {
            self.dispel(cx, until)?;
        }
        let done = self.with_old_keys(command, cx, until);
        if let Err(Error::Store(_)) = done {
            self.count_failure(command, cx);
        }
        match (self.dispel_own(cx, until), done) {
            // What it was to do it has done.
            (Err(_), Ok(outcome)) => Ok(outcome),
            (Err(error), Err(Error::Refused(_))) => Err(error.into()),
            (_, done) => done,
        }
    }

    fn take_over(
        &mut self,
        set: &SetName,
        network: &NetworkName,
        dry_run: bool,
        cx: &Context,
    ) -> Result<Outcome, Error> {
        if !dry_run {
            self.dispel(cx, Instant::now() + self.timeout)?;
        }
        let done = self.take_old_keys(set, network, dry_run, cx);
        // It is noted if it fails.
        let _ = self.dispel_own(cx, Instant::now() + self.timeout);
        done
    }

    fn kontena_keys(&mut self, folder: &str) -> Result<Vec<(String, String)>, StoreError> {
        let found = self.engine.kontena_keys(folder, Instant::now() + self.timeout)?;
        found.ok_or_else(|| StoreError::Unavailable {
            doing: "find what kontena-ipam kept in".to_owned(),
            place: self.engine.place(),
            source: "it kept that in etcd; say --from http://HOST:PORT".into(),
        })
    }

    fn old_keys_changed(&mut self) -> Result<Vec<String>, StoreError> {
        self.find_changed_old_keys()
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
        let until = Instant::now() + self.timeout;
        records::all(&self.engine, paths::RANGES, until, records::ranges)
    }

    fn history(&mut self, _: &Context, wanted: &mut Wanted<'_>) -> Result<Vec<Event>, StoreError> {
        let mut all = past::all(&self.engine, Instant::now() + self.timeout)?;
        all.retain(|event| wanted(event));
        Ok(all)
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

    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>, StoreError> {
        Ok(self.notes.counters(cx))
    }

    fn pools(&mut self) -> Result<Vec<Pool>, StoreError> {
        let until = Instant::now() + self.timeout;
        let mut pools = records::all(&self.engine, paths::POOLS, until, records::pool)?;
        pools.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(pools)
    }

    fn records(&mut self, _: &Context, each: &mut Each<'_>) -> Result<(), Error> {
        records::tell(&self.engine, self.timeout, each)
    }

    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError> {
        node::all(&self.engine, Instant::now() + self.timeout)
    }

    fn forget(&mut self, record: &NodeRecord, cx: &Context) -> Result<bool, StoreError> {
        let cx = Context { node: record.node.clone(), ..cx.clone() };
        let until = Instant::now() + self.timeout;
        node::forget(&self.knowledge(&cx, Truths::new(), until), record)
    }

    fn network(&mut self, name: &NetworkName) -> Result<Option<NetworkRecord>, StoreError> {
        let cx = Context::default();
        let until = Instant::now() + self.timeout;
        let knowledge = self.knowledge(&cx, Truths::new(), until);
        let record = knowledge.network(name)?;
        self.networks = knowledge.known.into_inner();
        Ok(record)
    }
}
