//! The records of a compare-and-set server, kept in memory. Used by the fake server and by the simulated
//! server.

use std::collections::BTreeMap;

use crate::store::cluster::server::{Conflict, Entries, Entry, Expect, KeyRange, Operation, Write};

/// The records of a server, with their versions.
#[derive(Clone, Debug, Default)]
pub struct Records {
    pub entries: BTreeMap<String, Entry>,
    pub version: u64,
}

impl Records {
    pub fn get(&self, paths: &[&str]) -> Entries {
        paths.iter().map(|p| ((*p).to_owned(), self.entries.get(*p).cloned())).collect()
    }

    /// Returns the records whose paths begin with `prefix`, which must end with a slash.
    pub fn list(&self, prefix: &str) -> BTreeMap<String, Entry> {
        assert!(prefix.ends_with('/'), "{prefix} may end within a name");
        let from = self.entries.range(prefix.to_owned()..);
        let below = from.take_while(|(path, _)| path.starts_with(prefix));
        below.map(|(path, entry)| (path.clone(), entry.clone())).collect()
    }

    /// Returns the number of records in each of the ranges, which must be in `folder`.
    pub fn count(&self, folder: &str, ranges: &[KeyRange]) -> Vec<u64> {
        assert!(ranges.iter().all(|r| r.first.starts_with(folder) && r.first <= r.last));
        let count =
            |r: &KeyRange| self.entries.range(r.first.clone()..=r.last.clone()).count() as u64;
        ranges.iter().map(count).collect()
    }

    /// Returns whether the record at an operation's path is in the state that the operation expects.
    pub fn holds(&self, operation: &Operation) -> bool {
        let now = self.entries.get(&operation.path).map(|entry| entry.version);
        match operation.expect {
            Expect::Anything => true,
            Expect::Absent => now.is_none(),
            Expect::Present => now.is_some(),
            Expect::Version(version) => now == Some(version),
        }
    }

    /// Returns whether all records are in the state that a transaction expects.
    pub fn all_hold(&self, operations: &[Operation]) -> bool {
        operations.iter().all(|operation| self.holds(operation))
    }

    /// Applies the writes of a transaction without checking its comparisons.
    pub fn apply(&mut self, operations: &[Operation]) {
        self.version += 1;
        for operation in operations {
            let path = operation.path.clone();
            match &operation.write {
                Write::Put(value) => {
                    let entry = Entry { version: self.version, value: value.clone() };
                    self.entries.insert(path, entry);
                }
                Write::Delete => drop(self.entries.remove(&path)),
                Write::Keep => {}
            }
        }
    }

    /// Returns what the server reports after a failed comparison: etcd reports the records, and Consul
    /// reports only the paths.
    pub fn conflict(&self, operations: &[Operation], is_etcd: bool) -> Conflict {
        if is_etcd {
            let entries = compared(operations.iter()).map(|operation| {
                (operation.path.clone(), self.entries.get(&operation.path).cloned())
            });
            return Conflict::Current(entries.collect());
        }
        let stale = compared(operations.iter()).filter(|operation| !self.holds(operation));
        Conflict::Stale(stale.map(|operation| operation.path.clone()).collect())
    }
}

/// Returns the operations that compare the version of a record.
fn compared<'a>(all: impl Iterator<Item = &'a Operation>) -> impl Iterator<Item = &'a Operation> {
    all.filter(|operation| operation.expect != Expect::Anything)
}
