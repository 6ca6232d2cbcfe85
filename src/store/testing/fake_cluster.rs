//! A fake, in-memory compare-and-set server that behaves like Consul or like etcd.
//!
//! The server has keys, versions, atomic transactions of at most 64 operations, and listings by prefix. If a
//! comparison fails, the server returns what did not match: only the paths, as Consul does, or the records,
//! as etcd does. It counts round trips. A test can make another client act before or after a call, make
//! commits conflict at random, or drop the request or the response of a commit. The store that uses this
//! server is the production code.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::delegate::{delegate_reads, delegate_repairs};
use super::records::Records;
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Lease, NetworkName, Persist};
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::server::{Commit, Entries, Entry, KeyRange, Operation, Server, Write};
use crate::store::cluster::{ClusterStore, LocalCache};
use crate::store::{Cluster, OldKey, Store, StoreReader};

/// The maximum number of operations in a transaction, as in Consul 1.8.
const LIMIT: usize = 64;

/// A prefix or path, and another client's action, which runs once, after the prefix has been listed or the
/// path has been read.
pub type AfterList = (&'static str, Box<dyn FnOnce()>);

/// The fake server.
#[derive(Default)]
pub struct FakeServer {
    records: RefCell<Records>,
    /// The number of round trips so far.
    pub round_trips: Cell<usize>,
    /// Whether the server behaves like etcd. Otherwise it behaves like Consul.
    pub is_etcd: Cell<bool>,
    /// Whether the server treats every comparison in a transaction as true. The tests must detect such a
    /// server.
    pub ignores_comparisons: Cell<bool>,
    /// The seed of random failures of commits; 0 for no failures. There are three kinds of failures: a
    /// conflict without a reason, a request that is lost before the commit is applied, and a response that is
    /// lost after the commit is applied.
    pub failure_seed: Cell<u64>,
    /// Whether every commit is applied, but gets no response. [`apply_stalled`] applies these commits a
    /// second time.
    pub never_answers: Cell<bool>,
    /// The number of commits, starting with the next, that get no response and are not applied.
    /// [`apply_stalled`] applies them later.
    pub stalled_commits: Cell<usize>,
    /// The commits that [`apply_stalled`] will apply.
    pub stalled: RefCell<Vec<Vec<Operation>>>,
    /// Whether the client is killed during its next commit that changes an address: the server delays this
    /// commit until [`apply_stalled`], and every later call of the client fails.
    pub kills_in_commit: Cell<bool>,
    /// Whether the server has no space for new records.
    pub is_full: Cell<bool>,
    /// The keys that cni-ipam-consul (another IPAM plugin) wrote.
    pub old_keys: RefCell<BTreeMap<String, Vec<u8>>>,
    /// Another client's action, which runs once, just before the next commit.
    pub before_commit: RefCell<Option<Box<dyn FnOnce()>>>,
    /// Another client's action, which runs once, after the next commit has been applied. The client that made
    /// the commit gets no response, so it has to check, after the action, whether its commit was applied.
    pub after_commit: RefCell<Option<Box<dyn FnOnce()>>>,
    /// Another client's action, which runs once, after the next read of a path.
    pub after_get: RefCell<Option<AfterList>>,
    /// Another client's action, which runs once, after the next listing of a prefix.
    pub after_list: RefCell<Option<AfterList>>,
    /// How many more commits are made before every call fails, as if the client had been killed; `None` for
    /// no limit.
    pub commits_left: Cell<Option<usize>>,
    /// The folder for the local caches of the nodes.
    pub cache: Folder,
}

/// A temporary folder.
pub struct Folder(pub TempDir);

impl Default for Folder {
    fn default() -> Folder {
        // The folder is on tmpfs, like the local cache of a real node.
        Folder(tempfile::tempdir_in("/dev/shm").unwrap())
    }
}

/// Returns a local cache that stores nothing.
pub fn no_cache() -> LocalCache {
    LocalCache::new("/proc/nowhere".as_ref(), String::new())
}

/// Applies the delayed commits in [`FakeServer::stalled`], as a stopped server does when it resumes.
pub fn apply_stalled(server: &Rc<FakeServer>) {
    for operations in server.stalled.take() {
        server.commit(&operations, Instant::now()).unwrap();
    }
}

impl FakeServer {
    /// Makes a server that behaves like etcd or like Consul.
    pub fn new(is_etcd: bool) -> Rc<FakeServer> {
        let server = FakeServer::default();
        server.is_etcd.set(is_etcd);
        Rc::new(server)
    }

    fn count_trip(&self) -> Result<(), StoreError> {
        self.round_trips.set(self.round_trips.get() + 1);
        match self.commits_left.get() {
            Some(0) => Err(StoreError::Unavailable {
                doing: "ask".to_owned(),
                place: "the fake".to_owned(),
                source: "killed".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Changes the record at a path without changing its version.
    pub fn corrupt(&self, path: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.records.borrow_mut().entries.get_mut(path).unwrap().value);
    }

    /// Returns the value at a path.
    pub fn record(&self, path: &str) -> Vec<u8> {
        self.records.borrow().entries[path].value.clone()
    }

    /// Sets the record at a path back to an earlier value, with a new version.
    pub fn restore(&self, path: &str, value: Vec<u8>) {
        let records = &mut *self.records.borrow_mut();
        records.version += 1;
        let entry = Entry { version: records.version, value };
        records.entries.insert(path.to_owned(), entry);
    }

    /// Writes a key in the format of cni-ipam-consul.
    pub fn write_old_key(&self, key: &str, value: &str) {
        self.old_keys.borrow_mut().insert(key.to_owned(), value.as_bytes().to_vec());
    }

    /// Returns all paths.
    pub fn paths(&self) -> Vec<String> {
        self.records.borrow().entries.keys().cloned().collect()
    }

    /// Returns the next random failure. 0: the commit conflicts. 1: it is not applied and gets no response.
    /// 2: it is applied, but gets no response. Any other number: no failure.
    fn next_failure(&self) -> u64 {
        match self.failure_seed.get() {
            0 => u64::MAX,
            seed => {
                let next = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                self.failure_seed.set(next.max(1));
                (next >> 33) % 8
            }
        }
    }
}

fn unknown() -> Commit {
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
        self.count_trip()?;
        let found = self.records.borrow().get(paths);
        let after_get = self.after_get.borrow_mut().take_if(|(path, _)| paths.contains(path));
        if let Some((_, act)) = after_get {
            act();
        }
        Ok(found)
    }

    fn list(&self, prefix: &str, _: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        self.count_trip()?;
        let found = self.records.borrow().list(prefix);
        let after_list = self.after_list.borrow_mut().take_if(|(of, _)| *of == prefix);
        if let Some((_, act)) = after_list {
            act();
        }
        Ok(found)
    }

    fn old_keys(&self, network: &NetworkName, _: Instant) -> Result<Vec<OldKey>, StoreError> {
        self.count_trip()?;
        let (old, prefix) = (self.old_keys.borrow(), format!("{network}/"));
        let found = old.iter().filter(|(key, _)| key.starts_with(&prefix));
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn count(
        &self,
        folder: &str,
        windows: &[KeyRange],
        _: Instant,
    ) -> Result<Vec<u64>, StoreError> {
        self.count_trip()?;
        Ok(self.records.borrow().count(folder, windows))
    }

    fn commit(&self, operations: &[Operation], _: Instant) -> Result<Commit, StoreError> {
        let before_commit = self.before_commit.borrow_mut().take();
        if let Some(before_commit) = before_commit {
            before_commit();
        }
        assert!(operations.len() <= LIMIT, "{} operations", operations.len());
        self.count_trip()?;
        self.commits_left.set(self.commits_left.get().map(|left| left - 1));
        let changes = |o: &Operation| o.path.starts_with("ip/") && o.write != Write::Keep;
        if self.kills_in_commit.get() && operations.iter().any(changes) {
            self.kills_in_commit.set(false);
            self.commits_left.set(Some(0));
            self.stalled.borrow_mut().push(operations.to_vec());
            return Ok(unknown());
        }
        if let Some(fewer) = self.stalled_commits.get().checked_sub(1) {
            self.stalled_commits.set(fewer);
            self.stalled.borrow_mut().push(operations.to_vec());
            return Ok(unknown());
        }
        if self.is_full.get() && operations.iter().any(|o| matches!(o.write, Write::Put(_))) {
            let why = "database space exceeded";
            return Ok(Commit::Full(StoreError::unavailable("write to", "the fake", why)));
        }
        let failure = self.next_failure();
        let all_hold = self.ignores_comparisons.get() || self.records.borrow().all_hold(operations);
        if !all_hold || failure == 0 {
            let conflict = self.records.borrow().conflict(operations, self.is_etcd.get());
            return Ok(Commit::Conflict(conflict));
        }
        if failure == 1 {
            return Ok(unknown());
        }
        self.records.borrow_mut().apply(operations);
        let after_commit = self.after_commit.borrow_mut().take();
        if let Some(after_commit) = after_commit {
            after_commit();
            return Ok(unknown());
        }
        let version = self.records.borrow().version;
        if self.never_answers.get() {
            self.stalled.borrow_mut().push(operations.to_vec());
            return Ok(unknown());
        }
        Ok(if failure == 2 { unknown() } else { Commit::Done(version) })
    }
}

/// The production store on a fake server. Each listing of the leases also checks that the server's records
/// are consistent with each other.
pub struct FakeStore {
    server: Rc<FakeServer>,
    store: ClusterStore<Rc<FakeServer>>,
}

impl FakeStore {
    /// Makes a store that uses the server's cache folder.
    pub fn new(server: Rc<FakeServer>) -> FakeStore {
        let cache = LocalCache::new(server.cache.0.path(), "fake".to_owned());
        FakeStore::with_cache(server, Persist::Boot, cache)
    }

    /// Makes a store that uses a different cache.
    pub fn with_cache(server: Rc<FakeServer>, persist: Persist, cache: LocalCache) -> FakeStore {
        let store = ClusterStore::new(server.clone(), Duration::from_secs(60), persist, cache);
        FakeStore { server, store }
    }
}

impl Store for FakeStore {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.store.apply(command, cx)
    }

    delegate_repairs!(self => (&mut self.store));

    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        Some(&mut self.store)
    }
}

impl StoreReader for FakeStore {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        // The check reads from the server, and must be able to do so even if the client counts as killed.
        // Therefore the limit is lifted during the check.
        let left = self.server.commits_left.take();
        assert_sound(&self.server);
        self.server.commits_left.set(left);
        self.store.list(cx, each)
    }

    delegate_reads!(self => (&mut self.store));
}
