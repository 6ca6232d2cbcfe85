//! The traits of lease stores, and [`open`], which opens a store.
//!
//! A store makes no decisions about leases; the allocator ([`crate::alloc`]) makes them.
//! Invariant: a store applies a command completely or not at all. Every result was true at some moment
//! between the call and its return.

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
/// - `apply` runs [`crate::alloc::run`] over its own view, and commits the plan's changes together or not at
///   all. It may run the allocator several times before it commits.
/// - A refusal, and any other outcome without changes, is based only on data that the store has verified.
/// - If `apply` fails with a [`StoreError`], nothing was changed. The only exception is a lost response to
///   the commit: then the change was made either completely or not at all. In either case, it is safe to
///   repeat the command.
/// - If the store does not exist yet, a DEL succeeds and does not create the store.
/// - Between calls, the store holds no lock or connection that would make other processes wait.
pub trait Store: StoreReader {
    /// Runs one command, and returns its outcome.
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error>;

    /// Repairs damaged lease files: keeps a copy of each damaged file, and writes a new file from the
    /// readable records. Changes nothing if there is nothing to repair. Always fails on a cluster.
    fn repair(&mut self, cx: &Context) -> Result<Repair, StoreError>;

    /// Returns the operations that only a cluster supports. Returns `None` for a lease file, which belongs to
    /// one machine.
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

    /// Returns bytes that change whenever leases, reservations or history change, so a caller can detect
    /// changes by comparing them. Takes no lock. Returns `None` for a cluster, which does not support this,
    /// and if the bytes cannot be read at present.
    fn version(&mut self, _: &Context) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    /// Calls `each` with every problem found in the store.
    fn problems(&mut self, cx: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError>;

    /// Returns the request counters. There is one counter for each combination of lease set, face (CNI,
    /// Docker or command line), verb and outcome. A lease file counts committed requests. In a cluster, each
    /// node counts its own requests since its boot.
    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>, StoreError>;

    /// Returns all pools, ordered by name.
    fn pools(&mut self) -> Result<Vec<Pool>, StoreError>;

    /// Calls `each` with every record that a [`Command::Restore`] can write to another store. Stops at the
    /// first error that `each` returns. Import marks come first; an import mark states that a network's
    /// leases were imported from another program. Each pool comes before its addresses. The order depends
    /// only on the records. If another process changes the store meanwhile, the records may be from different
    /// moments.
    fn records(&mut self, cx: &Context, each: &mut EachRecord<'_>) -> Result<(), Error>;
}

/// The operations that only a cluster supports. Only [`Cluster::forget`] changes the cluster.
pub trait Cluster {
    /// Returns the machines that lease from the cluster, ordered by name.
    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError>;

    /// Removes a machine's record, but only if the record still equals `record`, because another machine may
    /// have taken the name meanwhile. Returns whether the record was removed.
    fn forget(&mut self, record: &NodeRecord, cx: &Context) -> Result<bool, StoreError>;

    /// Returns the stored definition of a network. The next command may use this definition without reading
    /// it again.
    fn definition(&mut self, name: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError>;

    /// Returns the keys that cni-ipam-consul wrote for a network, and their values.
    fn old_keys(&mut self, network: &NetworkName) -> Result<Vec<OldKey>, StoreError>;
}

/// A key that another program (cni-ipam-consul) wrote on the server, and its value.
pub type OldKey = (String, Vec<u8>);

/// A function that is called with each record, and with whether the record is durable or ends with the next
/// reboot.
pub type EachRecord<'a> = dyn FnMut(Record, Persist) -> Result<(), Error> + 'a;

/// A function that is called with each address that is leased or cooling down.
pub type EachOccupied<'a> = dyn FnMut(&SetName, Addr, &Holder) + 'a;

/// A function that returns whether an event is selected.
pub type EventFilter<'a> = dyn FnMut(&Event) -> bool + 'a;

/// Prepares the store that a configuration names. Reads only the certificates and secrets of a cluster;
/// creates no file and connects to no server. Each later call on a lease file opens and closes the file. The
/// first call on a cluster connects to a server.
pub fn open(spec: &StoreSpec) -> Result<Box<dyn Store>, StoreError> {
    open_sharing(spec, &Recent::default())
}

/// Opens the store like [`open`]. On a cluster, a request for an address of a pool starts with the records in
/// `recent`, so it need not read them again.
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
