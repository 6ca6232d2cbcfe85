//! [`Server`]: the operations that a compare-and-set server must provide. It is implemented by etcd, Consul
//! and the tests' fake server.
//!
//! Invariant: a transaction is applied completely or not at all, and only if every comparison holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::model::NetworkName;
use crate::store::OldKey;

/// Identifies one attempt of one transaction. It consists of the seed of the process and the number of the
/// attempt.
pub type Nonce = [u8; 16];

/// A record on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The version of the record. It increases with each write of this key, and is never 0.
    pub version: u64,
    /// The nonce of the transaction that wrote the record, followed by the record as [`crate::store::codec`]
    /// encodes it.
    pub value: Vec<u8>,
}

impl Entry {
    /// Returns the value without the nonce; empty if the value is too short.
    pub fn record(&self) -> &[u8] {
        self.value.get(size_of::<Nonce>()..).unwrap_or_default()
    }

    /// Returns whether the transaction with this nonce wrote the record.
    pub fn is_by(&self, nonce: &Nonce) -> bool {
        self.value.starts_with(nonce)
    }
}

/// The records at some paths; `None` means that there is no record at the path.
pub type Entries = BTreeMap<String, Option<Entry>>;

/// A comparison, a write, or both, of one path in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The path, relative to the store's prefix.
    pub path: String,
    /// The comparison. All comparisons are made before the first write.
    pub expect: Expect,
    /// The write. It is made only if all comparisons of the transaction hold.
    pub write: Write,
}

impl Operation {
    /// Makes an operation that compares a path and writes nothing.
    pub fn compare(path: &str, expect: Expect) -> Operation {
        Operation { path: path.to_owned(), expect, write: Write::Keep }
    }

    /// Makes an operation that writes a path without a comparison.
    pub fn write(path: String, write: Write) -> Operation {
        Operation { path, expect: Expect::Anything, write }
    }
}

/// The expected state of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Any state. No comparison is made.
    Anything,
    /// There is no record at the path.
    Absent,
    /// There is a record at the path.
    Present,
    /// There is a record at the path, and it has this version.
    Version(u64),
}

/// The write of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes nothing.
    Keep,
    /// Writes this value.
    Put(Vec<u8>),
    /// Removes the record.
    Delete,
}

/// A range of paths, including `first` and `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub first: String,
    pub last: String,
}

/// The outcome of a commit.
#[derive(Debug)]
pub enum Commit {
    /// The transaction was applied. All records that it wrote have this version.
    Done(u64),
    /// A comparison did not hold, so nothing was changed.
    Conflict(Conflict),
    /// The server has no room for the records, so nothing was changed.
    Full(StoreError),
    /// It is unknown whether the transaction was applied or will still be applied.
    Unknown(StoreError),
}

/// What the server reports about comparisons that do not hold.
#[derive(Debug)]
pub enum Conflict {
    /// The records of all compared paths, all as they were at one moment after the comparison.
    Current(Entries),
    /// The paths whose comparisons failed, without their records.
    Stale(Vec<String>),
}

/// The pages of a listing. The listing ends at the first page that cannot be read.
pub type Pages<'a> = Box<dyn Iterator<Item = Result<Vec<(String, Entry)>, StoreError>> + 'a>;

/// A compare-and-set server, or a cluster of such servers. Every call returns by `until`. If a call returns
/// an error, nothing was changed.
pub trait Server {
    /// Returns the product and the addresses of the servers, for messages.
    fn place(&self) -> String;

    /// Pauses for the duration `wait`, but not beyond `until`, so that other clients can finish. A simulated
    /// server does not really wait.
    fn pause(&self, wait: Duration, until: Instant) {
        super::backoff::pause(wait, until);
    }

    /// Returns the maximum number of operations in a transaction. It is also the maximum number of paths in
    /// one [`Server::get`].
    fn max_operations(&self) -> usize;

    /// Returns the records at these paths. All are read at the same moment, between the call and its return.
    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError>;

    /// Returns every record whose path starts with `prefix`, which ends in `/`. If there are more than a few
    /// thousand records, they may be from several moments.
    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError>;

    /// Returns every record whose path starts with `prefix`, page by page in the order of the paths. Each
    /// page is from a different moment. A token with read permission is enough.
    fn pages(&self, prefix: &str, until: Instant) -> Pages<'_> {
        let all = self.list(prefix, until).map(|all| all.into_iter().collect());
        Box::new(std::iter::once(all))
    }

    /// Returns the keys that cni-ipam-consul wrote for a network, and their values.
    fn old_keys(&self, _: &NetworkName, _: Instant) -> Result<Vec<OldKey>, StoreError> {
        let doing = "read the leases of cni-ipam-consul from";
        Err(StoreError::unavailable(
            doing,
            self.place(),
            "cni-ipam-consul stores leases in Consul; name this Consul with `--store`",
        ))
    }

    /// Returns the number of records in each range. All ranges are below `folder`. If there are at most 128
    /// ranges, all numbers are from the same moment. Records that the server hides from this client are not
    /// counted.
    fn count(
        &self,
        folder: &str,
        ranges: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError>;

    /// Applies these operations in one transaction, if all comparisons hold.
    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError>;
}
