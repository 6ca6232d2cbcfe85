//! A store on a compare-and-set server: etcd, Consul, or the fake of the tests.
//!
//! Owns: the way from a command to a commit: guess, compare, learn from a conflict, find a commit
//! again whose answer was lost. Does not own: how a server is asked ([`Engine`]), which address
//! (`alloc`).
//! Invariant: an outcome that changes something was compared by the server; any other rests on
//! nothing assumed. Tries and time are bounded. No lease outlives its pool.

pub mod audit;
mod engine;
mod knowledge;
mod paths;
mod writes;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

pub use engine::{Commit, Engine, Entry, Expect, Step, Truths, Write};
use knowledge::{Knowledge, Owners, bad_record};

use super::codec::{self, Bad};
use super::pause::pause;
use super::{Problem, Repair, Store, Taken, Wanted};
use crate::alloc::{self, Command, Context, Definition, Holder, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Counter, Event, Lease, Pool, SetName};
use crate::net::Addr;

/// How often a command is tried: others can win that many times in a row before it gives up.
const TRIES: u32 = 64;

/// A store on such a server.
pub struct Cas<E> {
    engine: E,
    timeout: Duration,
    /// What a GC listed, for its further steps. It may be out of date: the commits compare.
    listing: Option<(Owners, Truths)>,
}

impl<E: Engine> Cas<E> {
    /// A store on `engine`, which is given `timeout` for each command.
    pub fn new(engine: E, timeout: Duration) -> Cas<E> {
        Cas { engine, timeout, listing: None }
    }

    fn carry_out(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        let (owners, truths) = match (command, self.listing.take()) {
            (Command::Gc(gc), Some((owners, truths))) if gc.after.is_some() => {
                (Some(owners), truths)
            }
            _ => (None, Truths::new()),
        };
        let knowledge = Knowledge {
            engine: &self.engine,
            cx,
            until: Instant::now() + self.timeout,
            known: RefCell::new(truths),
            assumed: RefCell::default(),
            listed: RefCell::default(),
            careful: Cell::new(false),
            owners: RefCell::new(owners),
        };
        let mut lost = 0;
        for _ in 0..TRIES {
            let plan = alloc::run(command, &knowledge, cx)?;
            if plan.changes.is_empty() {
                if verify(&knowledge)? {
                    return plan.outcome.map_err(Error::Refused);
                }
                continue;
            }
            if commit(plan.changes, &knowledge)? {
                let Knowledge { owners, known, .. } = knowledge;
                self.listing = owners.into_inner().map(|owners| (owners, known.into_inner()));
                return plan.outcome.map_err(Error::Refused);
            }
            lost += 1;
            step_aside(lost, cx.seed, knowledge.until);
        }
        Err(Error::Store(StoreError::Unavailable {
            doing: "win against the other clients of".to_owned(),
            place: self.engine.place(),
            source: format!("{TRIES} tries were lost").into(),
        }))
    }
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
    let writes = writes::records(changes, knowledge)?;
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
        Commit::Done => Ok(true),
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

impl<E: Engine> Cas<E> {
    /// Who has which address.
    fn slots(&self) -> Result<BTreeMap<(SetName, Addr), Holder>, StoreError> {
        let mut slots = BTreeMap::new();
        for (path, entry) in self.engine.list(paths::IPS, Instant::now() + self.timeout)? {
            let slot = paths::read_ip(&path).ok_or(Bad("a key of another form")).and_then(|key| {
                let slot = codec::read_slot(path.as_bytes(), &key.0, key.1, &entry.value)?;
                Ok((key, slot))
            });
            slots.extend([slot.map_err(|Bad(what)| bad_record(&self.engine, &path, what))?]);
        }
        Ok(slots)
    }
}

impl<E: Engine> Store for Cas<E> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.carry_out(command, cx)
    }

    fn list(&mut self, _: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        for holder in self.slots()?.into_values() {
            if let Holder::Leased(lease) = holder {
                each(*lease);
            }
        }
        Ok(())
    }

    fn taken(&mut self, _: &Context, each: &mut Taken<'_>) -> Result<(), StoreError> {
        for ((set, addr), holder) in self.slots()? {
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
}
