//! A store on a compare-and-set server: etcd, Consul, or the fake of the tests.
//!
//! Owns: the way from a command to a commit: guess, compare, learn from a conflict, find a commit
//! again whose answer was lost. Does not own: how a server is asked ([`Engine`]), which address
//! (`alloc`).
//! Invariant: an outcome that changes something was compared by the server; any other rests on
//! nothing assumed. Tries and time are bounded. No lease outlives its pool.

mod engine;
mod knowledge;
mod node;
mod notes;
mod paths;
mod writes;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use engine::{Commit, Engine, Entry, Expect, Step, Truths, Write};
use knowledge::{Knowledge, Owners, bad_record};
use node::Claim;
pub use notes::Notes;

use super::Store;
use super::codec::{self, Bad};
use super::pause::pause;
use crate::alloc::{self, Command, Context, Evict, Holder, Outcome, Plan, View};
use crate::error::{Error, StoreError};
use crate::model::{Lease, NetworkName, NetworkRecord, NodeRecord, Persist, Pool, SetName};

/// How often a command is tried: others can win that many times in a row before it gives up.
const TRIES: u32 = 64;

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
        Knowledge {
            engine: &self.engine,
            cx,
            until: Instant::now() + self.timeout,
            known: RefCell::new(known),
            assumed: RefCell::default(),
            listed: RefCell::default(),
            careful: Cell::new(false),
            owners: RefCell::default(),
            claim: Claim::None,
            nodes: RefCell::default(),
        }
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
        let mark = if asks { self.notes.read(set, cx) } else { None };
        truths.extend(mark.clone().map(|entry| (path.clone(), Some(entry))));
        let claim = match &mark {
            _ if !leases => Claim::None,
            Some(_) => Claim::Noted,
            None => Claim::Now,
        };
        let knowledge =
            Knowledge { owners: RefCell::new(owners), claim, ..self.knowledge(cx, truths) };
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
            let plan = alloc::run(command, &knowledge, &told)?;
            if plan.changes.is_empty() {
                if !verify(&knowledge)? || lacks(&plan) && knowledge.learn_nodes()? {
                    continue;
                }
            } else if !commit(plan.changes, &knowledge)? {
                lost += 1;
                step_aside(lost, cx.seed, knowledge.until);
                continue;
            }
            let Knowledge { owners, known, until, .. } = knowledge;
            let known = known.into_inner();
            let record = known.get(&path).cloned();
            let settled = mark.is_some() && record.as_ref() == Some(&mark);
            self.listing = owners.into_inner().map(|owners| (owners, known));
            // A GC takes many steps, and frees the same.
            let gc = matches!(command, Command::Gc(_) | Command::Sweep(_));
            if leases && !gc && !settled && plan.outcome.is_ok() {
                // What the command asked for is done; this is done again by the next one.
                let known = record.map(|entry| (path, entry)).into_iter().collect();
                let _ = self.settle(set, cx, known, until);
            }
            return plan.outcome.map_err(Error::Refused);
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
        let knowledge = Knowledge { claim: Claim::Now, until, ..self.knowledge(cx, known) };
        let Some((entry, record)) = node::look(&knowledge)? else { return Ok(()) };
        if !node::is_ours(&record, cx) {
            return Ok(());
        }
        if let Some(set) = set {
            let mut evict = Evict { set: set.clone(), only_ended: true, after: None };
            loop {
                let plan = alloc::run(&Command::Evict(evict.clone()), &knowledge, cx)?;
                if !plan.changes.is_empty() && !commit(plan.changes, &knowledge)? {
                    return Ok(());
                }
                match plan.outcome {
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

/// Whether it is refused for what others hold: their boots may be over.
fn lacks(plan: &Plan) -> bool {
    use crate::error::Refusal::{Exhausted, GatewayHeld, Held};
    matches!(&plan.outcome, Err(Exhausted { .. } | Held { .. } | GatewayHeld { .. }))
}

/// Looks at what was assumed, for nothing else guards a conclusion without a change; `true` if
/// nothing was.
fn verify(knowledge: &Knowledge<'_>) -> Result<bool, StoreError> {
    let assumed: Vec<String> = knowledge.assumed.borrow().iter().cloned().collect();
    knowledge.learn(&assumed)?;
    let known = knowledge.known.borrow();
    if assumed.iter().any(|path| known.get(path).is_some_and(Option::is_some)) {
        knowledge.careful.set(true);
    }
    Ok(assumed.is_empty())
}

/// Makes the changes; `false` if others were faster, which has been learned.
fn commit(changes: Vec<alloc::Change>, knowledge: &Knowledge<'_>) -> Result<bool, StoreError> {
    let mut writes = writes::records(changes, knowledge)?;
    let claimed = node::claim(knowledge)?;
    let claims: Vec<String> = claimed.keys().cloned().collect();
    writes.extend(claimed);
    let steps = writes::steps(writes, knowledge);
    let engine = knowledge.engine;
    if steps.len() > engine.room() {
        return Err(StoreError::Unavailable {
            doing: "do that in one transaction of".to_owned(),
            place: engine.place(),
            source: format!("it changes {} records, and {} fit", steps.len(), engine.room()).into(),
        });
    }
    match engine.commit(&steps, knowledge.until)? {
        Commit::Done => {
            // Written, but nobody said under which version.
            for path in claims {
                knowledge.known.borrow_mut().remove(&path);
            }
            Ok(true)
        }
        Commit::Conflict(truths) => {
            knowledge.careful.set(true);
            knowledge.assumed.borrow_mut().clear();
            knowledge.owners.borrow_mut().take();
            knowledge.take_in(truths);
            Ok(false)
        }
        Commit::Lost(error) => find_again(&steps, knowledge, error),
    }
}

/// Whether a commit whose answer was lost has happened: then what it wrote is there. (If somebody has
/// changed that since, the allocator runs again, over what is there now.)
fn find_again(
    steps: &[Step],
    knowledge: &Knowledge<'_>,
    lost: StoreError,
) -> Result<bool, StoreError> {
    // A pool that was only touched tells nothing.
    let is_touch = |step: &&Step| {
        let known = knowledge.known.borrow();
        let before = known.get(&step.path).and_then(|e| e.as_ref().map(|e| &e.value));
        let same = matches!(&step.write, Write::Put(value) if before == Some(value));
        same && paths::is_of_pools(&step.path)
    };
    let telling = steps.iter().filter(|s| paths::is_truth(&s.path) && !is_touch(s));
    let telling: Vec<&Step> = telling.collect();
    knowledge.forget();
    let touched: Vec<String> = steps.iter().map(|step| step.path.clone()).collect();
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
    Ok(telling.into_iter().all(is_there))
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

impl<E: Engine> Store for Cas<E> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.carry_out(command, cx)
    }

    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        let found = self.engine.list(paths::IPS, Instant::now() + self.timeout)?;
        // Read after the leases: of a boot that begins in between, none is there yet.
        let nodes = self.nodes()?;
        let mut leases = BTreeMap::new();
        for (path, entry) in found {
            let read = paths::read_ip(&path).ok_or(Bad("a key of another form")).and_then(
                |(set, addr)| codec::read_slot(path.as_bytes(), &set, addr, &entry.value),
            );
            match read {
                Ok(Holder::Leased(lease)) if !node::has_ended(&lease, cx, &nodes) => {
                    leases.insert((lease.set.clone(), lease.addr), *lease);
                }
                Ok(_) => {}
                Err(Bad(what)) => return Err(bad_record(&self.engine, &path, what)),
            }
        }
        leases.into_values().for_each(each);
        Ok(())
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
        node::all(&self.engine, Instant::now() + self.timeout)
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
        match self.engine.commit(&[step], knowledge.until)? {
            Commit::Done => Ok(true),
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

/// For tests: what a server's owners hold, beside what its addresses say.
#[cfg(test)]
pub mod audit;
