//! What a compare-and-set server must be able to do.
//!
//! Owns: [`Server`], the whole of what etcd, Consul and the fake of the tests have to offer.
//! Invariant: a transaction happens whole or not at all, and only if every comparison holds.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::error::StoreError;
use crate::model::NetworkName;
use crate::store::OldKey;

/// A record as it is on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Grows with each write of this key; never 0.
    pub version: u64,
    /// What [`crate::store::codec`] wrote.
    pub value: Vec<u8>,
}

/// What is known of some paths; `None`: there is no such record.
pub type Entries = BTreeMap<String, Option<Entry>>;

/// One path of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Relative to the store's prefix.
    pub path: String,
    /// What it must be for the transaction to happen.
    pub expect: Expect,
    /// What becomes of it.
    pub write: Write,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever it is: a hint.
    Anything,
    /// No such record.
    Absent,
    /// Some record.
    Present,
    /// This version.
    Version(u64),
}

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// None: it is compared alone.
    Keep,
    /// This value.
    Put(Vec<u8>),
    /// No record any more.
    Delete,
    /// No record below this path any more, which ends in `/`. Compared with nothing, and told of by
    /// nothing.
    DeleteTree,
}

/// Paths from one to another, both included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    pub first: String,
    pub last: String,
}

/// What came of some transactions of which one was to happen.
#[derive(Debug)]
pub enum Commit {
    /// The one at this place did; it is the first whose comparisons all held.
    Done(usize),
    /// None did.
    Conflict(Conflict),
    /// Nobody knows.
    Unknown(StoreError),
}

/// What a server tells of comparisons that did not hold.
#[derive(Debug)]
pub enum Conflict {
    /// What all compared paths were at one moment since.
    Current(Entries),
    /// Paths that were not as expected, and no more than that.
    Stale(Vec<String>),
}

/// A compare-and-set server, or a cluster of them. Every call gives up at `until`. An error says
/// that nothing was changed.
pub trait Server {
    /// The server, for messages.
    fn place(&self) -> String;

    /// Most paths of one transaction or of one [`Server::get`].
    fn max_operations(&self) -> usize;

    /// How these paths were at one moment between call and answer, all of them.
    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError>;

    /// Every record whose path begins with `prefix`, which ends in `/`.
    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError>;

    /// The keys that cni-ipam-consul wrote for a network, and their values.
    fn old_keys(&self, _: &NetworkName, _: Instant) -> Result<Vec<OldKey>, StoreError> {
        let doing = "find leases of cni-ipam-consul in";
        Err(StoreError::unavailable(doing, self.place(), "it kept them in Consul"))
    }

    /// How many records there are in each of the windows, which lie below `folder`, all at one
    /// moment. What a server hides from us is not counted.
    fn count(
        &self,
        folder: &str,
        windows: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError>;

    /// Most transactions of one [`Server::commit`].
    fn max_candidates(&self) -> usize;

    /// Makes the writes of the first of these transactions of which every expectation holds, in one
    /// trip.
    fn commit(&self, tries: &[&[Operation]], until: Instant) -> Result<Commit, StoreError>;
}
