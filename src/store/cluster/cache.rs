//! The local cache: files in which the processes of a node keep data between calls, until the node reboots.
//!
//! The cache is a folder (`/run/sublet`). One file contains the node's record as this boot last wrote it.
//! Other files contain the node's counters, the ranges and history settings of networks, and a login token.
//! The in-flight notes (see [`super::notes`]) are in the same folder. Invariant: no decision is based on the
//! cached node record alone, because every change compares it with the server's record. A cache file that is
//! missing, damaged, from another boot or not writable costs at most one more read.

use std::fs;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::http::Secret;
use super::node::is_ours;
use super::notes::Notes;
use super::server::Entry;
use super::{keys, records};
use crate::alloc::{Context, NetworkRanges};
use crate::model::{Counter, Ending, Face, History, NodeRecord, SetName, Verb, Wait};
use crate::store::codec;
use crate::store::embedded::lock::{Lock, lock_file};
use crate::sys::files;

/// The maximum length of a cache file, in bytes.
const LONGEST: u64 = 1 << 20;

/// The maximum wait for another process that is changing a cache file.
const LOCK_WAIT: Wait = Wait::For(Duration::from_millis(50));

/// The local cache for one cluster.
#[derive(Clone, Debug)]
pub struct LocalCache {
    folder: PathBuf,
    /// The servers and the prefix of the cluster, as text.
    cluster: String,
    /// The ID that [`LocalCache::id`] returns if the folder cannot be used. No other process has this ID.
    own_id: u64,
}

impl LocalCache {
    /// Opens the cache of `cluster` in `folder`, which need not exist. If the folder cannot be created,
    /// nothing is cached.
    pub fn new(folder: &Path, cluster: String) -> LocalCache {
        let own_id = RandomState::new().hash_one(&cluster);
        LocalCache { folder: folder.to_owned(), cluster, own_id }
    }

    /// Returns the path of the cache folder, for messages.
    pub fn place(&self) -> std::path::Display<'_> {
        self.folder.display()
    }

    /// Returns the node's record from the cache; `None` if the cache has none, or if this boot does not own
    /// the node name. The record also contains the name of the node in the cluster.
    pub fn node(&self, cx: &Context) -> Option<(Entry, NodeRecord)> {
        let (file, key) = self.file("node", "", cx);
        let (name, version, value) =
            codec::unseal::<(String, u64, Vec<u8>)>(key.as_bytes(), &content(&file)?).ok()?;
        let entry = Entry { version, value };
        let record = records::node(&keys::node(&name), &entry).ok()?;
        is_ours(&record, cx).then_some((entry, record))
    }

    /// Stores the node's record in the cache.
    pub fn write_node(&self, cx: &Context, entry: &Entry, record: &NodeRecord) -> io::Result<()> {
        let (file, key) = self.file("node", "", cx);
        let stored = (&record.node.name, entry.version, &entry.value);
        put(&file, &codec::seal(key.as_bytes(), &stored), cx.seed)
    }

    /// Returns the in-flight notes (see [`super::notes`]) of a node. If the node has a record, the folder of
    /// the notes depends on the record and not on the configured servers. So a process whose configuration
    /// lists the same servers in a different order finds the same notes. A process that uses a different
    /// cluster does not.
    pub fn notes(&self, record: Option<&NodeRecord>, cx: &Context) -> Notes {
        let name = match record {
            Some(record) => format!("flight-{:016x}", record.id),
            None => file_name("flight", &format!("{}\0{}", self.cluster, cx.node.name)),
        };
        Notes::new(self.folder.join(name))
    }

    /// Returns the ID of the cache folder, which does not depend on where the folder is mounted. Creates the
    /// folder if it is missing. Processes with the same ID can see each other's in-flight notes. If
    /// `is_blind` is set (the process cannot write notes), returns an ID that no other process has.
    pub fn id(&self, is_blind: bool, cx: &Context) -> u64 {
        let look = || fs::metadata(&self.folder);
        let found = || match look() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                files::make_folder(&self.folder.join("node")).and_then(|()| look())
            }
            found => found,
        };
        let Some(Ok(folder)) = (!is_blind).then(found) else { return self.own_id };
        let mut hasher = DefaultHasher::new();
        (folder.dev(), folder.ino(), cx.boot.as_ref().map(|boot| &boot.0)).hash(&mut hasher);
        hasher.finish()
    }

    /// Returns the history setting that a command on this node last used for a set.
    pub fn history(&self, set: &SetName, cx: &Context) -> Option<History> {
        let (file, key) = self.file("history", &set.0, cx);
        codec::read_bounds(key.as_bytes(), &content(&file)?).ok()
    }

    /// Stores the history setting of a set.
    pub fn set_history(&self, set: &SetName, history: History, cx: &Context) {
        let (file, key) = self.file("history", &set.0, cx);
        let bytes = codec::bounds(key.as_bytes(), history);
        // If this fails, later commands without a setting use the default.
        let _ = bytes.map(|bytes| put(&file, &bytes, cx.seed));
    }

    /// Returns whether a command of this node has already stored these ranges of a network in the cluster.
    pub fn has_ranges(&self, ranges: &NetworkRanges, cx: &Context) -> bool {
        let (file, key) = self.file("ranges", ranges.network.as_str(), cx);
        content(&file) == Some(codec::ranges(key.as_bytes(), ranges))
    }

    /// Records that these ranges of a network were stored in the cluster.
    pub fn set_ranges(&self, ranges: &NetworkRanges, cx: &Context) {
        let (file, key) = self.file("ranges", ranges.network.as_str(), cx);
        // If this fails, the next ADD writes the ranges again.
        let _ = put(&file, &codec::ranges(key.as_bytes(), ranges), cx.seed);
    }

    /// Adds one request to the node's counters. If this fails, the request is not counted.
    pub fn count(&self, request: &(SetName, Face, Verb, Ending), cx: &Context) {
        let (file, key) = self.file("counts", "", cx);
        let Ok(()) = files::make_folder(&file) else { return };
        let Ok(_lock) = lock_file(&file.with_extension("lock"), LOCK_WAIT) else { return };
        let before = content(&file);
        let _ = put(&file, &codec::count(key.as_bytes(), before.as_deref(), request), cx.seed);
    }

    /// Returns the node's counters since its boot.
    pub fn counters(&self, cx: &Context) -> Vec<Counter> {
        let (file, key) = self.file("counts", "", cx);
        let bytes = content(&file).unwrap_or_default();
        codec::read_counts(key.as_bytes(), &bytes).unwrap_or_default()
    }

    /// Returns the path of the cache file for a kind and a name, and the full key of the file. The file name
    /// contains only a hash of the key. The checksum in the file covers the key, because two keys may have
    /// the same hash. The key contains the machine-id if there is one; otherwise it contains the host name,
    /// which may change.
    fn file(&self, kind: &str, name: &str, cx: &Context) -> (PathBuf, String) {
        let Context { by_host_name, node, .. } = cx;
        let has_id = *by_host_name && !node.machine.is_empty();
        let node = if has_id { &node.machine } else { &node.name };
        let key = format!("{}\0{has_id}\0{node}\0{name}", self.cluster);
        (self.folder.join(file_name(kind, &key)), key)
    }
}

/// The file with the login token of an etcd user. A process writes the token to the file, so that later
/// processes need not log in: etcd takes 80 ms to check a password. Nothing else depends on the file. The
/// token is sent only to the cluster that issued it.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// The user and the endpoints. The first line of the file repeats them, because the file's name is only a
    /// hash, and two files may get the same name.
    owner: String,
}

impl TokenFile {
    /// Describes the token file in `folder`, which need not exist.
    pub fn new(folder: &Path, endpoints: &[String], user: &str) -> TokenFile {
        let owner = format!("{user:?} {}", endpoints.join(" "));
        TokenFile { path: folder.join(file_name("etcd", &owner)), owner }
    }

    /// Reads the token; `None` if the file is missing or belongs to another user or cluster.
    pub fn read(&self) -> Option<Secret> {
        let text = files::read(&self.path, LONGEST).ok()?;
        let (owner, token) = text.split_once('\n')?;
        (owner == self.owner).then(|| Secret::parse(token))?
    }

    /// Takes the lock for a login. Waits while another process of this node is logging in, for at most half
    /// of the time that is left until `until`. Returns `None` if the lock cannot be taken.
    pub fn lock(&self, until: Instant) -> Option<Lock> {
        let wait = Wait::For(until.saturating_duration_since(Instant::now()) / 2);
        let file = self.path.with_file_name(file_name("login", &self.owner));
        files::make_folder(&file).ok()?;
        lock_file(&file, wait).ok()
    }

    /// Replaces the token in the file.
    pub fn write(&self, token: &Secret) -> io::Result<()> {
        let text = format!("{}\n{}\n", self.owner, token.expose());
        files::put(&self.path, text.as_bytes(), &std::process::id().to_string())
    }
}

/// Makes the name of a cache file from its kind and a key, which may contain any characters.
pub fn file_name(kind: &str, key: &str) -> String {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    format!("{kind}-{:016x}", hasher.finish())
}

fn content(file: &Path) -> Option<Vec<u8>> {
    files::read_bytes(file, LONGEST).ok()
}

fn put(file: &Path, bytes: &[u8], seed: u64) -> io::Result<()> {
    files::put(file, bytes, &format!("{seed:016x}"))
}
