//! The records that are known to one command, and the command's assumptions about other records.
//!
//! Invariant: every known record existed at some moment since the command began, or the commit compares it.
//! Each assumption is compared or read before the command returns a result that depends on the assumption. If
//! a server response contradicts an assumption while the allocator is deciding, the allocator decides again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use super::server::{Entries, Entry, Expect, Operation, Write};

/// The records that are known to one command, and its assumptions about other records.
#[derive(Default)]
pub struct Known {
    /// Records that were read, or that the server reported in a conflict. `None` means that there is no
    /// record at the path.
    pub entries: Entries,
    /// The paths about which an assumption was made instead of a read. The assumption is [`Expect::Absent`]
    /// or [`Expect::Present`].
    pub assumed: BTreeMap<String, Expect>,
    /// The prefixes that were listed completely. If a path begins with a listed prefix and is not in
    /// `entries`, there is no record at the path.
    pub listed: BTreeSet<String>,
    /// Whether the server has reported a record that contradicts what was known or assumed when the decision
    /// began.
    pub is_refuted: bool,
}

impl Known {
    /// Makes a value with these known records and no assumptions.
    pub fn of(entries: Entries) -> Known {
        Known { entries, ..Known::default() }
    }

    /// Returns the record at a path. The result is `Some(None)` if the record is known to be absent, and
    /// `None` if nothing is known about the path.
    pub fn get(&self, path: &str) -> Option<&Option<Entry>> {
        self.entries.get(path).or_else(|| self.is_listed(path).then_some(&None))
    }

    /// Returns the record at a path, if it is known.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.entries.get(path)?.as_ref()
    }

    /// Returns whether `path` is below a prefix that was listed completely. `path` may be the path of a
    /// record or another prefix.
    pub fn is_listed(&self, path: &str) -> bool {
        self.listed.iter().any(|prefix| path.starts_with(prefix.as_str()))
    }

    /// Sets `is_refuted` if `now`, the record that the server has reported, contradicts a known record or an
    /// assumption.
    fn compare(&mut self, path: &str, now: Option<&Entry>) {
        let is_as_before = match (self.assumed.get(path), self.entries.get(path)) {
            (Some(Expect::Absent), _) => now.is_none(),
            (Some(_), _) => now.is_some(),
            (None, Some(before)) => before.as_ref().map(|e| e.version) == now.map(|e| e.version),
            (None, None) => true,
        };
        self.is_refuted |= !is_as_before;
    }

    /// Adds records that the server has reported.
    pub fn remember(&mut self, entries: Entries) {
        for (path, entry) in &entries {
            self.compare(path, entry.as_ref());
            self.assumed.remove(path);
        }
        self.entries.extend(entries);
    }

    /// Adds the records that an applied transaction wrote, except history and hints.
    pub fn remember_written(&mut self, operations: &[Operation], version: u64) {
        for operation in operations.iter().filter(|o| o.expect != Expect::Anything) {
            let entry = match &operation.write {
                Write::Keep => continue,
                Write::Put(value) => Some(Entry { version, value: value.clone() }),
                Write::Delete => None,
            };
            self.entries.insert(operation.path.clone(), entry);
        }
    }

    /// Adds a record, unless something is already known about its path.
    pub fn derive(&mut self, path: String, entry: Entry) {
        self.entries.entry(path).or_insert(Some(entry));
    }

    /// Adds a complete listing of a prefix.
    pub fn remember_list(&mut self, prefix: String, found: BTreeMap<String, Entry>) {
        let is_below = |path: &&String| path.starts_with(&prefix);
        let relied_on = self.entries.keys().chain(self.assumed.keys()).filter(is_below);
        for path in relied_on.cloned().collect::<Vec<_>>() {
            self.compare(&path, found.get(&path));
        }
        self.entries.retain(|path, _| !path.starts_with(&prefix));
        self.entries.extend(found.into_iter().map(|(path, entry)| (path, Some(entry))));
        self.assumed.retain(|path, _| !path.starts_with(&prefix));
        self.listed.insert(prefix);
    }

    /// Discards the listings of a prefix, because they are outdated.
    pub fn invalidate(&mut self, prefix: &str) {
        self.listed.retain(|listed| !listed.starts_with(prefix));
    }

    /// Returns the known records below a prefix, sorted by path.
    pub fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        self.below_from(prefix, prefix)
    }

    /// Returns the known records below a prefix whose paths come after `after`, sorted by path.
    pub fn below_from<'a>(
        &'a self,
        prefix: &'a str,
        after: &str,
    ) -> impl Iterator<Item = (&'a String, &'a Entry)> {
        let below = self.entries.range::<str, _>((Excluded(after), Unbounded));
        let below = below.take_while(move |(path, _)| path.starts_with(prefix));
        below.filter_map(|(path, entry)| Some((path, entry.as_ref()?)))
    }

    /// Returns the paths of this kind that are in `entries`.
    pub fn paths<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a String> {
        let paths = self.entries.range(kind.to_owned()..).map(|(path, _)| path);
        paths.take_while(move |path| path.starts_with(kind))
    }
}
