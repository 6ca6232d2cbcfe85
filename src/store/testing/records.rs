//! The records of a compare-and-set server, kept in memory for the fake server and the simulated server.

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

    /// Returns the records below a prefix.
    pub fn list(&self, prefix: &str) -> BTreeMap<String, Entry> {
        assert!(prefix.ends_with('/'), "{prefix} may end within a name");
        let from = self.entries.range(prefix.to_owned()..);
        let below = from.take_while(|(path, _)| path.starts_with(prefix));
        below.map(|(path, entry)| (path.clone(), entry.clone())).collect()
    }

    /// Returns the number of records in each range.
    pub fn count(&self, folder: &str, ranges: &[KeyRange]) -> Vec<u64> {
        assert!(ranges.iter().all(|r| r.first.starts_with(folder) && r.first <= r.last));
        let count =
            |r: &KeyRange| self.entries.range(r.first.clone()..=r.last.clone()).count() as u64;
        ranges.iter().map(count).collect()
    }

    /// Returns whether the comparison of an operation holds.
    pub fn holds(&self, operation: &Operation) -> bool {
        let now = self.entries.get(&operation.path).map(|entry| entry.version);
        match operation.expect {
            Expect::Anything => true,
            Expect::Absent => now.is_none(),
            Expect::Present => now.is_some(),
            Expect::Version(version) => now == Some(version),
        }
    }

    /// Returns whether all comparisons of a transaction hold.
    pub fn all_hold(&self, operations: &[Operation]) -> bool {
        operations.iter().all(|operation| self.holds(operation))
    }

    /// Applies the writes, even if comparisons do not hold.
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

    /// Returns what the server reports if comparisons fail: etcd reports the records, and Consul reports the
    /// paths.
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

/// Returns the operations that have a comparison.
fn compared<'a>(all: impl Iterator<Item = &'a Operation>) -> impl Iterator<Item = &'a Operation> {
    all.filter(|operation| operation.expect != Expect::Anything)
}
