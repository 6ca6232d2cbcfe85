//! A compare-and-set server with Consul's limits, or with what etcd can do beyond them, in memory.
//!
//! Owns: the trouble a cluster makes. It knows keys, versions, transactions of at most 64 operations
//! that happen whole or not at all, and listing by prefix; of a conflict it tells which comparisons
//! failed. As etcd does it tries one transaction after the other, and tells what was there. It counts
//! round trips, and on request another client gets in between, commits conflict at random, or are
//! lost before or after they are done. The store over it is the product's own.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::delegate::{reads, repairs};
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Lease, NetworkName, Persist};
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::{
    ClusterStore, Commit, Conflict, Entries, Entry, Expect, KeyRange, LocalCache, Operation,
    Server, Write,
};
use crate::store::{Cluster, OldKey, Store, StoreReader};

/// Operations of one transaction (Consul 1.8).
const LIMIT: usize = 64;

/// A prefix, and what another client does once that was listed.
pub type Watcher = (&'static str, Box<dyn FnOnce()>);

/// The server.
#[derive(Default)]
pub struct FakeServer {
    data: RefCell<BTreeMap<String, Entry>>,
    version: Cell<u64>,
    /// Round trips so far.
    pub trips: Cell<usize>,
    /// It can do what etcd can.
    pub nests: Cell<bool>,
    /// Switched off, comparing is forgotten: the suite must notice.
    pub blind: Cell<bool>,
    /// Nonzero: the seed of a bad network. Commits conflict for no reason, are done without an
    /// answer, or are not done and not answered.
    pub trouble: Cell<u64>,
    /// Every commit is done and none is answered.
    pub mute: Cell<bool>,
    /// So many of the next commits are kept by a server that was stopped, and not answered.
    pub stopped: Cell<usize>,
    /// Those.
    pub kept: RefCell<Vec<Vec<Vec<Operation>>>>,
    /// Keys of cni-ipam-consul.
    pub old: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Runs once before the next commit: another client.
    pub intruder: RefCell<Option<Box<dyn FnOnce()>>>,
    /// Runs once after the next listing of this prefix: another client.
    pub watcher: RefCell<Option<Watcher>>,
    /// How many commits are left before every call fails: the client is killed.
    pub left: Cell<Option<usize>>,
    /// Where the nodes' boots note what they have done.
    pub notes: Folder,
}

/// A folder that goes away with the value.
pub struct Folder(pub TempDir);

impl Default for Folder {
    fn default() -> Folder {
        // On tmpfs, as the notes of a real node.
        Folder(tempfile::tempdir_in("/dev/shm").unwrap())
    }
}

/// The server goes on: it carries out what it has kept.
pub fn go_on(server: &Rc<FakeServer>) {
    for tries in server.kept.take() {
        let tries: Vec<&[Operation]> = tries.iter().map(|steps| &**steps).collect();
        server.commit(&tries, Instant::now()).unwrap();
    }
}

impl FakeServer {
    fn trip(&self) -> Result<(), StoreError> {
        self.trips.set(self.trips.get() + 1);
        match self.left.get() {
            Some(0) => Err(StoreError::Unavailable {
                doing: "ask".to_owned(),
                place: "the fake".to_owned(),
                source: "killed".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Changes what lies under a path, behind every client's back.
    pub fn spoil(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.data.borrow_mut().get_mut(path).unwrap().value);
    }

    /// A node of cni-ipam-consul leases an address.
    pub fn lease_as_old(&self, key: &str, value: &str) {
        self.old.borrow_mut().insert(key.to_owned(), value.as_bytes().to_vec());
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

/// What compares.
fn compared<'a>(steps: impl Iterator<Item = &'a Operation>) -> impl Iterator<Item = &'a Operation> {
    steps.filter(|step| step.expect != Expect::Anything)
}

fn lost() -> Commit {
    Commit::Unknown(StoreError::Unanswered {
        doing: "commit to".to_owned(),
        place: "the fake".to_owned(),
        source: "lost".into(),
    })
}

impl Server for Rc<FakeServer> {
    fn place(&self) -> String {
        "the fake".to_owned()
    }

    fn max_operations(&self) -> usize {
        LIMIT
    }

    fn get(&self, paths: &[&str], _: Instant) -> Result<Entries, StoreError> {
        assert!(paths.len() <= LIMIT);
        self.trip()?;
        let data = self.data.borrow();
        Ok(paths.iter().map(|p| ((*p).to_owned(), data.get(*p).cloned())).collect())
    }

    fn list(&self, prefix: &str, _: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        assert!(prefix.ends_with('/'), "{prefix} may end within a name");
        self.trip()?;
        let data = self.data.borrow();
        let below =
            data.range(prefix.to_owned()..).take_while(|(path, _)| path.starts_with(prefix));
        let found = below.map(|(path, entry)| (path.clone(), entry.clone())).collect();
        drop(data);
        let watcher = self.watcher.borrow_mut().take_if(|(of, _)| *of == prefix);
        if let Some((_, act)) = watcher {
            act();
        }
        Ok(found)
    }

    fn old_keys(&self, network: &NetworkName, _: Instant) -> Result<Vec<OldKey>, StoreError> {
        self.trip()?;
        let (old, prefix) = (self.old.borrow(), format!("{network}/"));
        let found = old.iter().filter(|(key, _)| key.starts_with(&prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn count(
        &self,
        folder: &str,
        windows: &[KeyRange],
        _: Instant,
    ) -> Result<Vec<u64>, StoreError> {
        assert!(windows.iter().all(|w| w.first.starts_with(folder) && w.first <= w.last));
        self.trip()?;
        let data = self.data.borrow();
        let count = |w: &KeyRange| data.range(w.first.clone()..=w.last.clone()).count() as u64;
        Ok(windows.iter().map(count).collect())
    }

    fn max_candidates(&self) -> usize {
        if self.nests.get() { 8 } else { 1 }
    }

    fn commit(&self, tries: &[&[Operation]], _: Instant) -> Result<Commit, StoreError> {
        let intruder = self.intruder.borrow_mut().take();
        if let Some(intruder) = intruder {
            intruder();
        }
        let operations: usize = tries.iter().map(|steps| steps.len()).sum();
        assert!(operations <= LIMIT, "{operations} operations");
        self.trip()?;
        self.left.set(self.left.get().map(|left| left - 1));
        if let Some(fewer) = self.stopped.get().checked_sub(1) {
            self.stopped.set(fewer);
            self.kept.borrow_mut().push(tries.iter().map(|steps| steps.to_vec()).collect());
            return Ok(lost());
        }
        let trouble = self.next_trouble();
        let holds = |step: &Operation| {
            let now = self.data.borrow().get(&step.path).map(|e| e.version);
            match step.expect {
                Expect::Anything => true,
                Expect::Absent => now.is_none(),
                Expect::Present => now.is_some(),
                Expect::Version(version) => now == Some(version),
            }
        };
        let blind = self.blind.get();
        let which = tries.iter().position(|steps| blind || steps.iter().all(holds));
        let Some(which) = which.filter(|_| trouble != 0) else {
            if !self.nests.get() {
                let stale = compared(tries[0].iter()).filter(|step| !holds(step));
                return Ok(Commit::Conflict(Conflict::Stale(
                    stale.map(|step| step.path.clone()).collect(),
                )));
            }
            let data = self.data.borrow();
            let truths = compared(tries.iter().flat_map(|steps| steps.iter()))
                .map(|step| (step.path.clone(), data.get(&step.path).cloned()));
            return Ok(Commit::Conflict(Conflict::Current(truths.collect())));
        };
        if trouble == 1 {
            return Ok(lost());
        }
        self.version.set(self.version.get() + 1);
        let mut data = self.data.borrow_mut();
        for step in tries[which] {
            let path = step.path.clone();
            match &step.write {
                Write::Put(value) => {
                    let entry = Entry { version: self.version.get(), value: value.clone() };
                    data.insert(path, entry);
                }
                Write::Delete => drop(data.remove(&path)),
                Write::DeleteTree => {
                    assert!(path.ends_with('/'), "{path} may end within a name");
                    data.retain(|other, _| !other.starts_with(&path));
                }
                Write::Keep => {}
            }
        }
        Ok(if trouble == 2 || self.mute.get() { lost() } else { Commit::Done(which) })
    }
}

/// The product's store over such a server, one for each node; a listing checks the server as well.
pub struct FakeStore {
    server: Rc<FakeServer>,
    store: ClusterStore<Rc<FakeServer>>,
}

impl FakeStore {
    /// A node's store.
    pub fn new(server: Rc<FakeServer>) -> FakeStore {
        let notes = LocalCache::new(Some(server.notes.0.path()), "fake".to_owned());
        FakeStore::with(server, Persist::Boot, notes)
    }

    /// The same with notes elsewhere.
    pub fn with(server: Rc<FakeServer>, persist: Persist, notes: LocalCache) -> FakeStore {
        let store = ClusterStore::new(server.clone(), Duration::from_secs(60)).with(persist, notes);
        FakeStore { server, store }
    }
}

impl Store for FakeStore {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.store.apply(command, cx)
    }

    repairs!(self => (&mut self.store));

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.store)
    }
}

impl StoreReader for FakeStore {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        // Not the client that may be killed.
        let left = self.server.left.take();
        assert_sound(&self.server);
        self.server.left.set(left);
        self.store.list(cx, each)
    }

    reads!(self => (&mut self.store));
}
