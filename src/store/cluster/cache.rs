//! The local cache: what a node remembers between calls, until it reboots.
//!
//! The cache is a folder. For each set, node and cluster a file contains the node's record as this boot wrote
//! it. Other files contain the node's counters, its history segments, a login token, and a mark for a
//! transaction that may still be in flight although no process waits for it.
//! Invariant: no decision rests on the cached node record. It is compared on the server with every change. A
//! file that is missing, damaged or of another boot costs one read, and so does one that cannot be written.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::http::Secret;
use super::segments::Segments;
use super::server::Entry;
use super::{keys, records};
use crate::alloc::{Context, NetworkRanges};
use crate::error::StoreError;
use crate::model::{Counter, Ending, Face, NodeRecord, SetName, Verb, Wait};
use crate::store::codec;
use crate::store::embedded::lock::{Lock, lock_file};
use crate::sys::files;

/// Longest file, in bytes.
const LONGEST: u64 = 1 << 20;

/// Longest wait for another process that changes a file.
const LOCK_WAIT: Wait = Wait::For(Duration::from_millis(50));

/// The cache of one cluster.
#[derive(Clone, Debug)]
pub struct LocalCache {
    folder: PathBuf,
    /// The servers and the prefix.
    cluster: String,
}

impl LocalCache {
    /// The cache of `cluster` in `folder`, which need not exist. If the folder cannot be created, nothing is
    /// cached.
    pub fn new(folder: &Path, cluster: String) -> LocalCache {
        LocalCache { folder: folder.to_owned(), cluster }
    }

    /// The node's record, if this boot owns the node name and has removed all leases of earlier boots from
    /// this set.
    pub fn node_entry(&self, set: Option<&SetName>, cx: &Context) -> Option<Entry> {
        let (file, key) = self.file("node", name_of(set), cx);
        let (version, value) =
            codec::unseal::<(u64, Vec<u8>)>(key.as_bytes(), &content(&file)?).ok()?;
        let entry = Entry { version, value };
        let record = records::node(&keys::node(&cx.node.name), &entry).ok()?;
        is_ours(&record, cx).then_some(entry)
    }

    /// Stores the node's record.
    pub fn write_node_entry(
        &self,
        set: Option<&SetName>,
        cx: &Context,
        entry: &Entry,
    ) -> io::Result<()> {
        let (file, key) = self.file("node", name_of(set), cx);
        put(&file, &codec::seal(key.as_bytes(), &(entry.version, &entry.value)), cx.seed)
    }

    /// The mark of a transaction that may still be in flight, if there is one.
    pub fn in_flight(&self, cx: &Context) -> Option<Vec<u8>> {
        content(&self.file("doubt", "", cx).0)
    }

    /// Marks that a transaction may be in flight.
    pub fn mark_in_flight(&self, cx: &Context) -> io::Result<()> {
        let (file, _) = self.file("doubt", "", cx);
        files::make_folder(&file)?;
        // Without the lock, another process might remove this mark together with its own.
        let _lock = lock(&file);
        put(&file, format!("{:016x} {}", cx.seed, cx.now).as_bytes(), cx.seed)
    }

    /// Removes this mark. A later mark of another process stays.
    pub fn clear_in_flight(&self, cx: &Context, mark: &[u8]) {
        let (file, _) = self.file("doubt", "", cx);
        if let Ok(_lock) = lock(&file)
            && content(&file).as_deref() == Some(mark)
        {
            // If the mark stays, the next call pays two round trips.
            let _ = std::fs::remove_file(file);
        }
    }

    /// The segments of this node's history. A file that cannot be parsed counts as missing.
    pub fn segments(&self, cx: &Context) -> Option<Segments> {
        let (file, key) = self.file("past", "", cx);
        let text = String::from_utf8(content(&file)?).ok()?;
        // Each process appends one byte per event.
        let (head, events) = text.split_once('\n')?;
        let (of, bounds, starts, has_earlier): (String, _, _, _) =
            serde_json::from_str(head).ok()?;
        let events = events.len() as u64;
        (of == key).then_some(Segments { bounds, starts, has_earlier, events })
    }

    /// Stores the segments.
    pub fn write_segments(&self, cx: &Context, segments: &Segments) -> io::Result<()> {
        let (file, key) = self.file("past", "", cx);
        let Segments { bounds, starts, has_earlier, events } = segments;
        let mut text = serde_json::to_string(&(key, bounds, starts, has_earlier))? + "\n";
        text.extend((0..*events).map(|_| '.'));
        put(&file, text.as_bytes(), cx.seed)
    }

    /// Adds so many events to the newest segment.
    pub fn add_events(&self, cx: &Context, events: usize) {
        // If this fails, the segment gets a few more events than it should.
        let _ = files::append(&self.file("past", "", cx).0, &vec![b'.'; events]);
    }

    /// Whether the cluster has these ranges of a network, as far as this node knows.
    pub fn has_ranges(&self, ranges: &NetworkRanges, cx: &Context) -> bool {
        let (file, key) = self.file("ranges", ranges.network.as_str(), cx);
        content(&file) == Some(codec::ranges(key.as_bytes(), ranges))
    }

    /// Remembers that the cluster has these ranges.
    pub fn set_ranges(&self, ranges: &NetworkRanges, cx: &Context) {
        let (file, key) = self.file("ranges", ranges.network.as_str(), cx);
        // If this fails, the next ADD writes the ranges again.
        let _ = put(&file, &codec::ranges(key.as_bytes(), ranges), cx.seed);
    }

    /// Counts a request. A failure to count is ignored.
    pub fn count(&self, request: &(SetName, Face, Verb, Ending), cx: &Context) {
        let (file, key) = self.file("counts", "", cx);
        let Ok(()) = files::make_folder(&file) else { return };
        let Ok(_lock) = lock(&file) else { return };
        let before = content(&file);
        let _ = put(&file, &codec::count(key.as_bytes(), before.as_deref(), request), cx.seed);
    }

    /// What this node has counted since its boot.
    pub fn counters(&self, cx: &Context) -> Vec<Counter> {
        let (file, key) = self.file("counts", "", cx);
        let bytes = content(&file).unwrap_or_default();
        codec::read_counts(key.as_bytes(), &bytes).unwrap_or_default()
    }

    /// A file of this kind, and the key that its content must repeat, because hashes may collide.
    fn file(&self, kind: &str, name: &str, cx: &Context) -> (PathBuf, String) {
        let key = format!("{}\0{}\0{name}", self.cluster, cx.node.name);
        (self.folder.join(file_name(kind, &key)), key)
    }
}

/// The file of an etcd user's token, for the next process: a login costs the server 80 ms to hash the
/// password. Nothing depends on the file. A token is sent only to its own cluster.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// The user and the endpoints, repeated as the file's first line, because file names may collide.
    owner: String,
}

impl TokenFile {
    /// The file in `folder`, which need not exist.
    pub fn new(folder: &Path, endpoints: &[String], user: &str) -> TokenFile {
        let owner = format!("{user:?} {}", endpoints.join(" "));
        TokenFile { path: folder.join(file_name("etcd", &owner)), owner }
    }

    /// The token.
    pub fn read(&self) -> Option<Secret> {
        let text = files::read(&self.path, LONGEST).ok()?;
        let (owner, token) = text.split_once('\n')?;
        (owner == self.owner).then(|| Secret::parse(token))?
    }

    /// Replaces the token.
    pub fn write(&self, token: &Secret) -> io::Result<()> {
        let text = format!("{}\n{}\n", self.owner, token.expose());
        files::put(&self.path, text.as_bytes(), &std::process::id().to_string())
    }
}

/// Whether the record says that this boot owns the name.
pub fn is_ours(record: &NodeRecord, cx: &Context) -> bool {
    cx.boot.is_some() && record.boot == cx.boot && record.node == cx.node
}

/// The name of a file of this kind for a key of any form.
fn file_name(kind: &str, key: &str) -> String {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    format!("{kind}-{:016x}", hasher.finish())
}

fn name_of(set: Option<&SetName>) -> &str {
    set.map_or("", |set| &*set.0)
}

/// Locks a file for the process that changes it.
fn lock(file: &Path) -> Result<Lock, StoreError> {
    lock_file(&file.with_extension("lock"), LOCK_WAIT)
}

fn content(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    files::open(file).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn put(file: &Path, bytes: &[u8], seed: u64) -> io::Result<()> {
    files::put(file, bytes, &format!("{seed:016x}"))
}
