//! Lease stores: the traits and [`open`].
//!
//! All decisions are made in [`crate::alloc`].
//! Invariant: a command is carried out completely or not at all. Every answer was true at one moment
//! between call and answer.

mod cluster;
mod codec;
mod embedded;
mod problem;
#[cfg(test)]
mod testing;

use self::cluster::consul::Consul;
use self::cluster::etcd::Etcd;
use self::cluster::{ClusterStore, LocalCache};
use crate::alloc::{Command, Context, Holder, NetworkRanges, Outcome, Record};
use crate::error::{Error, StoreError};
use crate::model::{
    Counter, Event, Lease, NetworkDefinition, NetworkName, NodeRecord, Persist, Pool, Servers,
    SetName, StoreSpec,
};
use crate::net::Addr;

pub(crate) use self::cluster::http;
pub use self::embedded::Embedded;
pub use self::embedded::convert::{Converted, in_place, is_converted};
pub use self::embedded::database::one_shot;
pub use self::embedded::fs::{FileSystem, OpenFile, Os};
pub use self::embedded::lock::{Lock, lock_file, lock_to_read};
pub use self::problem::{Problem, Repair};

/// A durable set of leases.
///
/// The suite in `store/testing/contract.rs` verifies this contract for every store:
/// - `apply` runs [`crate::alloc::run`] over its own view, and commits the plan's changes together or not
///   at all. It may run the allocator several times before it commits.
/// - A refusal, and an outcome without changes, rest on verified answers.
/// - If `apply` fails with a [`StoreError`], nothing was changed, or (if the answer to the commit was lost)
///   exactly the requested change was made. Repeating the command is always right.
/// - A DEL without a store is a success and creates none.
/// - Between calls, the store holds no lock and no connection that other processes wait for.
pub trait Store: StoreReader {
    /// Carries out one command.
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error>;

    /// Keeps a copy of a damaged file and rewrites the file from what can be read. Changes nothing if there
    /// is nothing to repair.
    fn repair(&mut self, cx: &Context) -> Result<Repair, StoreError>;

    /// Returns the operations that only a cluster has; `None`: this store belongs to one machine.
    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        None
    }
}

/// The operations that read a store. None of them changes anything.
pub trait StoreReader {
    /// Calls `each` with every lease that has not ended, ordered by address within a set.
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError>;

    /// Calls `each` with every address that is leased or cooling down, ordered by address within a set.
    fn occupancy(&mut self, cx: &Context, each: &mut EachOccupied<'_>) -> Result<(), StoreError>;

    /// Returns the ranges of each network at its last ADD, by network name.
    fn networks(&mut self, cx: &Context) -> Result<Vec<NetworkRanges>, StoreError>;

    /// Returns the events that pass `filter`, oldest first. Includes readable events of earlier boots.
    /// Returns none if no history is kept.
    fn history(
        &mut self,
        cx: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError>;

    /// Returns bytes that differ after every change of leases, reservations or history. They are read
    /// without a lock. `None` if the store has no such bytes (a cluster), or if they cannot be read now.
    fn version(&mut self, _: &Context) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    /// Calls `each` with every problem of the store.
    fn problems(&mut self, cx: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError>;

    /// Returns the number of requests by set, face, verb and ending. A file counts what it has committed.
    /// In a cluster, each node counts its own requests since its boot.
    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>, StoreError>;

    /// Returns all pools, by name.
    fn pools(&mut self) -> Result<Vec<Pool>, StoreError>;

    /// Calls `each` with every record that a [`Command::Restore`] can write to another store, and stops at
    /// its first error. Records of imports come first, and pools before their addresses. The order depends
    /// only on the records. The records belong to one moment only if no other process changes them.
    fn records(&mut self, cx: &Context, each: &mut EachRecord<'_>) -> Result<(), Error>;
}

/// The operations that only a cluster has. Only [`Cluster::forget`] changes anything.
pub trait Cluster {
    /// Returns the machines that lease from the cluster, by name.
    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError>;

    /// Removes a machine's record if it still equals `record`, because another machine may have claimed the
    /// name. Returns whether it did.
    fn forget(&mut self, record: &NodeRecord, cx: &Context) -> Result<bool, StoreError>;

    /// Returns the stored definition of a network. The next command may use it without reading it again.
    fn definition(&mut self, name: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError>;

    /// Returns the keys that cni-ipam-consul wrote for a network, and their values.
    fn old_keys(&mut self, network: &NetworkName) -> Result<Vec<OldKey>, StoreError>;
}

/// A key of another program on the server, and its value.
pub type OldKey = (String, Vec<u8>);

/// Called with each record, and with the lifetime of the record if it can be chosen.
pub type EachRecord<'a> = dyn FnMut(Record, Persist) -> Result<(), Error> + 'a;

/// Called with each address that is leased or cooling down.
pub type EachOccupied<'a> = dyn FnMut(&SetName, Addr, &Holder) + 'a;

/// Returns whether an event is selected.
pub type EventFilter<'a> = dyn FnMut(&Event) -> bool + 'a;

/// The type of [`open`] and of functions that replace it. `stdin` is what the caller has read from standard
/// input, for a program that passes the call on to another one.
pub type Open = fn(spec: &StoreSpec, stdin: Option<&[u8]>) -> Result<Box<dyn Store>, StoreError>;
/// Opens the store that a configuration names. Nothing is leased, read or created yet: an embedded store is
/// opened and closed within each call, and the first call connects to a cluster. A cluster's certificates
/// and secrets are read here.
pub fn open(spec: &StoreSpec) -> Result<Box<dyn Store>, StoreError> {
    match spec {
        StoreSpec::Embedded { path, persist, wait, history } => {
            Ok(Box::new(Embedded::new(path.clone(), *persist, *wait).keeping(*history)))
        }
        StoreSpec::Etcd(spec) => Ok(Box::new(on(Etcd::new(spec)?, &spec.servers, ""))),
        StoreSpec::Consul(spec) => {
            let dc = spec.dc.as_deref().unwrap_or_default();
            Ok(Box::new(on(Consul::new(spec)?, &spec.servers, dc)))
        }
        StoreSpec::Unreadable { why } => Err(StoreError::Unreadable { why: why.clone() }),
    }
}

fn on<S: cluster::Server>(server: S, servers: &Servers, more: &str) -> ClusterStore<S> {
    let cluster = format!("{}\0{more}\0{}", server.place(), servers.prefix);
    let cache = LocalCache::new(&servers.notes, cluster);
    ClusterStore::new(server, servers.timeout, servers.persist, cache).keeping(servers.history)
}
