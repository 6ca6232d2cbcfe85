//! Lease stores: their traits, and [`open`].
//!
//! The stores make no decisions about leases; [`crate::alloc`] does.
//! Invariant: a command is carried out completely or not at all. Every answer was true at some moment between
//! the call and the answer.

mod cluster;
mod codec;
mod embedded;
mod problem;
#[cfg(test)]
mod testing;

use self::cluster::consul::Consul;
use self::cluster::etcd::Etcd;
use self::cluster::{ClusterStore, LocalCache};
use crate::alloc::{Command, Context, Draining, Holder, NetworkRanges, Outcome, Record};
use crate::error::{Error, StoreError};
use crate::model::{
    Counter, Event, Lease, NetworkDefinition, NetworkName, NodeRecord, Persist, Pool, Servers,
    SetName, StoreSpec,
};
use crate::net::Addr;

pub use self::cluster::Recent;
pub(crate) use self::cluster::http;
pub use self::embedded::Embedded;
pub use self::embedded::convert::{Converted, in_place, is_converted};
pub use self::embedded::database::one_shot;
pub use self::embedded::fs::{FileSystem, OpenFile, Os};
pub use self::embedded::lock::{Lock, lock_file, lock_to_read};
pub use self::problem::{Problem, Repair};

/// A lease store.
///
/// The suite in `store/testing/contract.rs` verifies this contract for every store:
/// - `apply` runs [`crate::alloc::run`] over its own view, and commits the plan's changes together or not
///   at all. It may run the allocator several times before it commits.
/// - A refusal, and an outcome without changes, are based on verified answers.
/// - If `apply` fails with a [`StoreError`], nothing was changed. If the answer to the commit was lost, the
///   requested change was either made completely or not at all. In both cases the command can be repeated.
/// - If there is no store, a DEL succeeds and creates no store.
/// - Between calls, the store holds no lock and no connection that other processes wait for.
pub trait Store: StoreReader {
    /// Runs one command.
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error>;

    /// Keeps a copy of a damaged file, and writes a new file from the readable records. Changes nothing if
    /// there is nothing to repair.
    fn repair(&mut self, cx: &Context) -> Result<Repair, StoreError>;

    /// Returns the operations that only a cluster has; `None` for a lease file, which belongs to one machine.
    fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        None
    }
}

/// The operations that read a store. None of them changes anything.
pub trait StoreReader {
    /// Calls `each` with every lease that has not ended. The leases of one set are ordered by address.
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError>;

    /// Calls `each` with every address that is leased or cooling down. The addresses of one set are ordered.
    fn occupancy(&mut self, cx: &Context, each: &mut EachOccupied<'_>) -> Result<(), StoreError>;

    /// Returns the ranges that each network had at its last ADD, ordered by network name.
    fn networks(&mut self, cx: &Context) -> Result<Vec<NetworkRanges>, StoreError>;

    /// Returns the draining ranges of all sets, ordered by set and address.
    fn draining(&mut self, cx: &Context) -> Result<Vec<Draining>, StoreError>;

    /// Returns the events for which `filter` returns true, oldest first. This includes events of earlier
    /// boots, as far as they are readable. Returns no events if no history is kept.
    fn history(
        &mut self,
        cx: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError>;

    /// Returns bytes that change whenever leases, reservations or history change. Reading them takes no lock.
    /// `None` for a cluster, which has no such bytes, or if the bytes cannot be read at present.
    fn version(&mut self, _: &Context) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    /// Calls `each` with every problem that is found in the store.
    fn problems(&mut self, cx: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError>;

    /// Returns the number of requests by set of leases, face, verb and outcome. A lease file counts the
    /// requests that it has committed. In a cluster, each node counts its own requests since its boot.
    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>, StoreError>;

    /// Returns all pools, ordered by name.
    fn pools(&mut self) -> Result<Vec<Pool>, StoreError>;

    /// Calls `each` with every record that a [`Command::Restore`] can write to another store. Stops at the
    /// first error that `each` returns. Records of imports come first, and each pool comes before its
    /// addresses. The order depends only on the records. If another process changes the store meanwhile, the
    /// records may be from different moments.
    fn records(&mut self, cx: &Context, each: &mut EachRecord<'_>) -> Result<(), Error>;
}

/// The operations that only a cluster has. Of these, only [`Cluster::forget`] changes anything.
pub trait Cluster {
    /// Returns the machines that lease from the cluster, ordered by name.
    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError>;

    /// Removes a machine's record, if the record still equals `record`; another machine may have taken the
    /// name meanwhile. Returns whether the record was removed.
    fn forget(&mut self, record: &NodeRecord, cx: &Context) -> Result<bool, StoreError>;

    /// Returns the stored definition of a network. The next command may use this definition without reading
    /// it again.
    fn definition(&mut self, name: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError>;

    /// Returns the keys that cni-ipam-consul wrote for a network, and their values.
    fn old_keys(&mut self, network: &NetworkName) -> Result<Vec<OldKey>, StoreError>;
}

/// A key of another program on the server, and its value.
pub type OldKey = (String, Vec<u8>);

/// A function that is called with each record, and with the record's lifetime if a lifetime can be chosen.
pub type EachRecord<'a> = dyn FnMut(Record, Persist) -> Result<(), Error> + 'a;

/// A function that is called with each address that is leased or cooling down.
pub type EachOccupied<'a> = dyn FnMut(&SetName, Addr, &Holder) + 'a;

/// A function that returns whether an event is selected.
pub type EventFilter<'a> = dyn FnMut(&Event) -> bool + 'a;

/// The type of [`open`], and of functions that replace it. `stdin` is the standard input that the caller has
/// already read; a program that passes the call on to another program needs it.
pub type Open = fn(spec: &StoreSpec, stdin: Option<&[u8]>) -> Result<Box<dyn Store>, StoreError>;
/// Opens the store that a configuration names, without leasing, reading or creating anything. A lease file is
/// opened and closed within each call, and the first call connects to a cluster. Only a cluster's
/// certificates and secrets are read at once.
pub fn open(spec: &StoreSpec) -> Result<Box<dyn Store>, StoreError> {
    open_sharing(spec, &Recent::default())
}

/// Opens the store like [`open`]. On a cluster, requests for addresses of pools start with the records in
/// `recent`.
pub fn open_sharing(spec: &StoreSpec, recent: &Recent) -> Result<Box<dyn Store>, StoreError> {
    let recent = recent.clone();
    match spec {
        StoreSpec::Embedded { path, persist, wait, history } => {
            Ok(Box::new(Embedded::new(path.clone(), *persist, *wait).keeping(*history)))
        }
        StoreSpec::Etcd(spec) => {
            Ok(Box::new(on(Etcd::new(spec)?, &spec.servers, "").sharing(recent)))
        }
        StoreSpec::Consul(spec) => {
            let dc = spec.dc.as_deref().unwrap_or_default();
            Ok(Box::new(on(Consul::new(spec)?, &spec.servers, dc).sharing(recent)))
        }
        StoreSpec::Unreadable { why } => Err(StoreError::Unreadable { why: why.clone() }),
    }
}

fn on<S: cluster::Server>(server: S, servers: &Servers, more: &str) -> ClusterStore<S> {
    let cluster = format!("{}\0{more}\0{}", server.place(), servers.prefix);
    let cache = LocalCache::new(&servers.notes, cluster);
    ClusterStore::new(server, servers.timeout, servers.persist, cache).keeping(servers.history)
}
