//! What a compare-and-set server must be able to do: [`Server`], implemented by etcd, Consul and the fake of
//! the tests.
//!
//! Invariant: a transaction is applied completely or not at all, and only if every comparison holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::model::NetworkName;
use crate::store::OldKey;

/// Identifies one attempt of one transaction: the seed of its process, and the number of the attempt.
pub type Nonce = [u8; 16];

/// A record on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows with each write of this key; never 0.
    pub version: u64,
    /// The nonce of the transaction that wrote the record, and the bytes that [`crate::store::codec`] wrote.
    pub value: Vec<u8>,
}

impl Entry {
    /// The record without the nonce; empty if the value is too short to be one.
    pub fn record(&self) -> &[u8] {
        self.value.get(size_of::<Nonce>()..).unwrap_or_default()
    }

    /// Whether the transaction with this nonce wrote the record.
    pub fn is_by(&self, nonce: &Nonce) -> bool {
        self.value.starts_with(nonce)
    }
}

/// The records of some paths; `None` means that there is no record.
pub type Entries = BTreeMap<String, Option<Entry>>;

/// What a transaction does with one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Relative to the store's prefix.
    pub path: String,
    /// The comparison.
    pub expect: Expect,
    /// The write.
    pub write: Write,
}

impl Operation {
    /// Compares a path and writes nothing.
    pub fn compare(path: &str, expect: Expect) -> Operation {
        Operation { path: path.to_owned(), expect, write: Write::Keep }
    }

    /// Writes a path without a comparison.
    pub fn write(path: String, write: Write) -> Operation {
        Operation { path, expect: Expect::Anything, write }
    }
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// No comparison.
    Anything,
    /// There is no record.
    Absent,
    /// There is a record.
    Present,
    /// There is a record of this version.
    Version(u64),
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes nothing.
    Keep,
    /// Writes this value.
    Put(Vec<u8>),
    /// Removes the record.
    Delete,
}

/// A range of paths; both ends belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub first: String,
    pub last: String,
}

/// The outcome of a commit.
#[derive(Debug)]
pub enum Commit {
    /// The transaction was applied. The records that it wrote have this version.
    Done(u64),
    /// A comparison did not hold. Nothing was changed.
    Conflict(Conflict),
    /// The server has no room for the records. Nothing was changed.
    Full(StoreError),
    /// Whether the transaction was applied, or still will be, is unknown.
    Unknown(StoreError),
}

/// What a server reports about comparisons that did not hold.
#[derive(Debug)]
pub enum Conflict {
    /// The records of all compared paths, at one moment after the comparison.
    Current(Entries),
    /// The paths whose comparisons failed, without their records.
    Stale(Vec<String>),
}

/// The pages of a listing, until one cannot be read.
pub type Pages<'a> = Box<dyn Iterator<Item = Result<Vec<(String, Entry)>, StoreError>> + 'a>;

/// A compare-and-set server, or a cluster of them. Every call returns by `until`. An error means that
/// nothing was changed.
pub trait Server {
    /// The server, for messages.
    fn place(&self) -> String;

    /// Waits for other clients, but not beyond `until`. A simulation has no time to wait for.
    fn pause(&self, wait: Duration, until: Instant) {
        super::backoff::pause(wait, until);
    }

    /// Most operations of one transaction, and most paths of one [`Server::get`].
    fn max_operations(&self) -> usize;

    /// The records of these paths, all at one moment between call and return.
    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError>;

    /// Every record whose path starts with `prefix`, which ends in `/`. A listing of more than a few thousand
    /// records may consist of parts from several moments.
    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError>;

    /// Every record whose path starts with `prefix`, page by page in the order of their paths. Each page is
    /// of a different moment. A token with read permission is enough.
    fn pages(&self, prefix: &str, until: Instant) -> Pages<'_> {
        let all = self.list(prefix, until).map(|all| all.into_iter().collect());
        Box::new(std::iter::once(all))
    }

    /// The keys that cni-ipam-consul wrote for a network, and their values.
    fn old_keys(&self, _: &NetworkName, _: Instant) -> Result<Vec<OldKey>, StoreError> {
        let doing = "find leases of cni-ipam-consul in";
        Err(StoreError::unavailable(
            doing,
            self.place(),
            "cni-ipam-consul keeps its leases in Consul",
        ))
    }

    /// The number of records in each range, all at one moment if there are at most 128. The ranges lie below
    /// `folder`. Records that the server hides from this client are not counted.
    fn count(
        &self,
        folder: &str,
        ranges: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError>;

    /// Applies these operations in one transaction if all comparisons hold.
    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError>;
}
