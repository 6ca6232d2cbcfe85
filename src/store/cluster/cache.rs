//! What a boot has done once, noted in a file of its own, so that it need not ask again.
//!
//! Owns: the files: one for each set, node and cluster, with the node's record as this boot left it; and
//! one that says that a transaction may be under way still for which nobody waits.
//! Invariant: nothing rests on a node's note. What it says of the server is compared with every change; one
//! that is missing, damaged or of another boot costs a look, and one that cannot be written too.

use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::history::Segments;
use super::server::Entry;
use super::{keys, node};
use crate::alloc::{Context, NetworkRanges};
use crate::error::StoreError;
use crate::model::{Counter, Ending, Face, SetName, Verb, Wait};
use crate::store::codec;
use crate::store::embedded::lock::{Lock, lock_file};
use crate::sys::files;

/// Larger than any note.
const LARGEST: u64 = 1 << 20;

/// How long another process may take with a note.
const LOCK_WAIT: Wait = Wait::For(Duration::from_millis(50));

/// Where notes are, and of which cluster.
#[derive(Clone, Debug)]
pub struct LocalCache {
    /// The folder; `None`: nothing is noted.
    folder: Option<PathBuf>,
    /// The cluster and the prefix.
    cluster: String,
}

impl LocalCache {
    /// Notes in `folder`, which need not exist, of the cluster with this text.
    pub fn new(folder: Option<&Path>, cluster: String) -> LocalCache {
        LocalCache { folder: folder.map(Path::to_owned), cluster }
    }

    /// The node's record, if this boot has noted that it has the name and that nothing of an earlier
    /// boot is left of this set.
    pub fn node_entry(&self, set: Option<&SetName>, cx: &Context) -> Option<Entry> {
        let (path, key) = self.file("node", set, cx)?;
        let (version, value) = codec::read_note(key.as_bytes(), &content(&path)?).ok()?;
        let path = keys::node(&cx.node.name);
        let record = codec::read_node(path.as_bytes(), &cx.node.name, &value).ok()?;
        node::is_ours(&record, cx).then_some(Entry { version, value })
    }

    /// Notes it.
    pub fn write_node_entry(
        &self,
        set: Option<&SetName>,
        cx: &Context,
        entry: &Entry,
    ) -> io::Result<()> {
        let Some((path, key)) = self.file("node", set, cx) else { return Ok(()) };
        put(&path, &codec::note(key.as_bytes(), entry.version, &entry.value), cx.seed)
    }

    /// What was noted of a transaction that may be under way still, if one was.
    pub fn in_flight(&self, cx: &Context) -> Option<Vec<u8>> {
        content(&self.file("doubt", None, cx)?.0)
    }

    /// Notes that one may be.
    pub fn mark_in_flight(&self, cx: &Context) -> io::Result<()> {
        let Some((path, _)) = self.file("doubt", None, cx) else { return Ok(()) };
        files::make_folder(&path)?;
        // Noted without the lock it may be cleared with another's.
        let _lock = lock(&path);
        put(&path, format!("{:016x} {}", cx.seed, cx.now).as_bytes(), cx.seed)
    }

    /// None is that was noted so; what was noted since stays.
    pub fn clear_in_flight(&self, cx: &Context, noted: &[u8]) {
        if let Some((path, _)) = self.file("doubt", None, cx)
            && let Ok(_lock) = lock(&path)
            && content(&path).as_deref() == Some(noted)
        {
            // Left, it costs the next call two trips.
            let _ = std::fs::remove_file(path);
        }
    }

    /// This node's segments of history; what was noted by another build, or cannot be read, is none.
    pub fn segments(&self, cx: &Context) -> Option<Segments> {
        let (path, key) = self.file("past", None, cx)?;
        let text = String::from_utf8(content(&path)?).ok()?;
        // What each process adds is one byte for each event, behind the text.
        let (head, events) = text.split_once("\n\n")?;
        let fields = head.strip_prefix(&format!("{key:?}\n"))?;
        let numbers: Result<Vec<u64>, _> = fields.split(' ').map(str::parse).collect();
        let [count, age, has_earlier, ref starts @ ..] = numbers.ok()?[..] else { return None };
        Some(Segments {
            bounds: (count, age),
            starts: starts.to_vec(),
            has_earlier: has_earlier == 1,
            events: events.len() as u64,
        })
    }

    /// Notes them; an error where nothing can be noted.
    pub fn write_segments(&self, cx: &Context, segments: &Segments) -> io::Result<()> {
        let nowhere = || io::Error::from(io::ErrorKind::NotFound);
        let (path, key) = self.file("past", None, cx).ok_or_else(nowhere)?;
        let (count, age) = segments.bounds;
        let mut text = format!("{key:?}\n{count} {age} {}", u8::from(segments.has_earlier));
        for starts in &segments.starts {
            // Writing into memory does not fail.
            let _ = write!(text, " {starts}");
        }
        text += "\n\n";
        text.extend((0..segments.events).map(|_| '.'));
        put(&path, text.as_bytes(), cx.seed)
    }

    /// Notes that so many events were added to the newest.
    pub fn add_events(&self, cx: &Context, events: usize) {
        if let Some((path, _)) = self.file("past", None, cx) {
            // Not noted, a volume holds a few more than it should.
            let _ = files::append(&path, &vec![b'.'; events]);
        }
    }

    /// Whether a network's ranges were noted to be written down as these.
    pub fn has_ranges(&self, ranges: &NetworkRanges, cx: &Context) -> bool {
        let network = SetName(ranges.network.to_string());
        let Some((path, key)) = self.file("ranges", Some(&network), cx) else { return false };
        content(&path).is_some_and(|noted| noted == codec::ranges(key.as_bytes(), ranges))
    }

    /// Caches that they were.
    pub fn note_ranges(&self, ranges: &NetworkRanges, cx: &Context) {
        let network = SetName(ranges.network.to_string());
        if let Some((path, key)) = self.file("ranges", Some(&network), cx) {
            // Not noted, they are written again with the next ADD.
            let _ = put(&path, &codec::ranges(key.as_bytes(), ranges), cx.seed);
        }
    }

    /// Counts a request, as far as the node can keep that.
    pub fn count(&self, request: &(SetName, Face, Verb, Ending), cx: &Context) {
        let Some((path, key)) = self.file("counts", None, cx) else { return };
        // A request that cannot be counted stands.
        let Ok(()) = files::make_folder(&path) else { return };
        let Ok(_lock) = lock(&path) else { return };
        let before = content(&path);
        let _ = put(&path, &codec::count(key.as_bytes(), before.as_deref(), request), cx.seed);
    }

    /// What this node has counted since its boot.
    pub fn counters(&self, cx: &Context) -> Vec<Counter> {
        let Some((path, key)) = self.file("counts", None, cx) else { return Vec::new() };
        let bytes = content(&path).unwrap_or_default();
        codec::read_counts(key.as_bytes(), &bytes).unwrap_or_default()
    }

    /// The file, and what the note is of: a number may be that of several.
    fn file(&self, kind: &str, set: Option<&SetName>, cx: &Context) -> Option<(PathBuf, String)> {
        let set = set.map_or("", |set| &*set.0);
        let key = format!("{}\0{}\0{set}", self.cluster, cx.node.name);
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let name = format!("{kind}-{:016x}", hasher.finish());
        Some((self.folder.as_ref()?.join(name), key))
    }
}

/// Whoever changes this note holds it.
fn lock(path: &Path) -> Result<Lock, StoreError> {
    lock_file(&path.with_extension("lock"), LOCK_WAIT)
}

fn content(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    files::open(path).ok()?.take(LARGEST).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn put(path: &Path, note: &[u8], seed: u64) -> io::Result<()> {
    files::put(path, note, &format!("{seed:016x}"))
}
