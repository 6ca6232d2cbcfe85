//! A compare-and-set server with Consul's limits, in memory.
//!
//! Owns: the trouble a cluster makes. It knows keys, versions, transactions of at most 64 operations
//! that happen whole or not at all, and listing by prefix; a conflict costs a further look. It counts
//! round trips, and on request another client gets in between, commits conflict at random, or are
//! lost before or after they are done. The store over it is the product's own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Store;
use super::cas::audit::assert_sound;
use super::cas::{Cas, Commit, Engine, Entry, Expect, Step, Truths, Write};
use super::contract::tells;
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::Lease;

/// Operations of one transaction (Consul 1.8).
const LIMIT: usize = 64;

/// The server.
#[derive(Default)]
pub struct Server {
    data: RefCell<BTreeMap<String, Entry>>,
    version: Cell<u64>,
    /// Round trips so far.
    pub trips: Cell<usize>,
    /// Switched off, comparing is forgotten: the suite must notice.
    pub blind: Cell<bool>,
    /// Nonzero: the seed of a bad network. Commits conflict for no reason, are done without an
    /// answer, or are not done and not answered.
    pub trouble: Cell<u64>,
    /// Every commit is done and none is answered.
    pub mute: Cell<bool>,
    /// Runs once before the next commit: another client.
    pub intruder: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Server {
    fn trip(&self) {
        self.trips.set(self.trips.get() + 1);
    }

    /// Changes what lies under a path, behind every client's back.
    pub fn spoil(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.data.borrow_mut().get_mut(path).unwrap().value);
    }

    /// All paths.
    pub fn paths(&self) -> Vec<String> {
        self.data.borrow().keys().cloned().collect()
    }

    /// The next of the troubles: 0 a conflict, 1 not done, 2 not answered, else none.
    fn next_trouble(&self) -> u64 {
        match self.trouble.get() {
            0 => u64::MAX,
            seed => {
                let next = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                self.trouble.set(next.max(1));
                (next >> 33) % 8
            }
        }
    }
}

fn lost() -> Commit {
    Commit::Lost(StoreError::Unanswered {
        doing: "commit to".to_owned(),
        place: "the fake".to_owned(),
        source: "lost".into(),
    })
}

impl Engine for Rc<Server> {
    fn place(&self) -> String {
        "the fake".to_owned()
    }

    fn room(&self) -> usize {
        LIMIT
    }

    fn get(&self, paths: &[&str], _: Instant) -> Result<Truths, StoreError> {
        assert!(paths.len() <= LIMIT);
        self.trip();
        let data = self.data.borrow();
        Ok(paths.iter().map(|p| ((*p).to_owned(), data.get(*p).cloned())).collect())
    }

    fn list(&self, prefix: &str, _: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        assert!(prefix.ends_with('/'), "{prefix} may end within a name");
        self.trip();
        let data = self.data.borrow();
        let below = data.iter().filter(|(path, _)| path.starts_with(prefix));
        Ok(below.map(|(path, entry)| (path.clone(), entry.clone())).collect())
    }

    fn commit(&self, steps: &[Step], until: Instant) -> Result<Commit, StoreError> {
        let intruder = self.intruder.borrow_mut().take();
        if let Some(intruder) = intruder {
            intruder();
        }
        assert!(steps.len() <= LIMIT, "{} operations", steps.len());
        self.trip();
        let trouble = self.next_trouble();
        let compared: Vec<&str> =
            steps.iter().filter(|s| s.expect != Expect::Anything).map(|s| &*s.path).collect();
        let holds = |step: &Step| {
            let now = self.data.borrow().get(&step.path).map(|e| e.version);
            match step.expect {
                Expect::Anything => true,
                Expect::Absent => now.is_none(),
                Expect::Version(version) => now == Some(version),
            }
        };
        if trouble == 0 || !self.blind.get() && !steps.iter().all(holds) {
            return Ok(Commit::Conflict(self.get(&compared, until)?));
        }
        if trouble == 1 {
            return Ok(lost());
        }
        self.version.set(self.version.get() + 1);
        let mut data = self.data.borrow_mut();
        for step in steps {
            let path = step.path.clone();
            match &step.write {
                Write::Put(value) => {
                    let entry = Entry { version: self.version.get(), value: value.clone() };
                    data.insert(path, entry);
                }
                Write::Delete => drop(data.remove(&path)),
                Write::Keep => {}
            }
        }
        Ok(if trouble == 2 || self.mute.get() { lost() } else { Commit::Done })
    }
}

/// The product's store over such a server, one for each node; a listing checks the server as well.
pub struct FakeCas {
    server: Rc<Server>,
    store: Cas<Rc<Server>>,
}

impl FakeCas {
    /// A node's store.
    pub fn new(server: Rc<Server>) -> FakeCas {
        FakeCas { store: Cas::new(server.clone(), Duration::from_secs(60)), server }
    }
}

impl Store for FakeCas {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.store.apply(command, cx)
    }

    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        assert_sound(&self.server);
        self.store.list(cx, each)
    }

    tells!(self => (&mut self.store));
}
