//! Lease stores: the contract, and the one place that opens them.
//!
//! Owns: the [`Store`] trait, [`open`]. Does not own: any decision, which is [`crate::alloc`]'s.
//! Invariant: a command is carried out whole or not at all, and everything a store answers was
//! true of one moment between call and answer.

mod cluster;
mod codec;
mod embedded;
mod problem;
#[cfg(test)]
mod testing;

use self::cluster::consul::Consul;
use self::cluster::etcd::Etcd;
use self::cluster::{ClusterStore, LocalCache};
use crate::alloc::{Command, Context, Definition, Holder, Outcome, Record};
use crate::error::{Error, StoreError};
use crate::model::{
    Counter, Event, Lease, NetworkName, NetworkRecord, NodeRecord, Persist, Pool, Servers, SetName,
    StoreSpec,
};
use crate::net::Addr;

pub use self::embedded::Embedded;
pub use self::embedded::convert::{Converted, in_place, is_converted};
pub use self::embedded::lock::{Lock, lock_file, lock_to_read};
pub use self::problem::{Problem, Repair};

/// A durable set of leases.
///
/// Contract, proved by the suite in `store/contract.rs` for every store:
/// - `apply` runs [`crate::alloc::run`] over its own view and commits the plan's changes together
///   or not at all; it may run it several times before it commits.
/// - A refusal and an outcome that changed nothing rest on verified answers.
/// - When `apply` fails with a [`StoreError`], nothing was changed, or (a commit whose answer was
///   lost) the very change was made: repeating the command is always right.
/// - A DEL where there is no store yet is a success and makes none.
/// - The store holds no lock and no connection that others wait for between calls.
pub trait Store {
    /// Carries out one command.
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error>;

    /// Calls `each` with every living lease, ordered by address within a set. Changes nothing.
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError>;

    /// Calls `each` with every address that is leased or kept back, never with a free one; ordered by
    /// address within a set. Changes nothing.
    fn taken(&mut self, cx: &Context, each: &mut Taken<'_>) -> Result<(), StoreError>;

    /// The networks' ranges as the last ADDs had them, by name. Changes nothing.
    fn definitions(&mut self, cx: &Context) -> Result<Vec<Definition>, StoreError>;

    /// What happened and is `wanted`, the oldest first; of the boot before too, as far as that can be
    /// read. None where nothing is kept. Changes nothing.
    fn history(&mut self, cx: &Context, wanted: &mut Wanted<'_>) -> Result<Vec<Event>, StoreError>;

    /// Calls `each` with all that is wrong; not at all with a sound store. Changes nothing.
    fn problems(&mut self, cx: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError>;

    /// Keeps a copy of what is damaged, and writes anew what can be read of it. Nothing to mend,
    /// nothing done.
    fn repair(&mut self, cx: &Context) -> Result<Repair, StoreError>;

    /// How often what was asked for, by set, face, verb and ending. A file counts what it has
    /// committed; of a cluster each node counts, since its boot, what it has asked for. Changes
    /// nothing.
    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>, StoreError>;

    /// All pools, by name. Changes nothing.
    fn pools(&mut self) -> Result<Vec<Pool>, StoreError>;

    /// Calls `each` with every record that a [`Command::Restore`] can write elsewhere, takeovers first
    /// and pools before their addresses, in an order that depends on the records alone; ends with its first error.
    /// Changes nothing. Not of one moment unless nobody else changes anything.
    fn records(&mut self, cx: &Context, each: &mut Each<'_>) -> Result<(), Error>;

    /// Takes over what cni-ipam-consul leased on a network, unless that was done: an
    /// [`Outcome::Imported`] or [`Outcome::WasAdopted`]. Its nodes must have been stopped: they
    /// overwrite without comparing.
    fn take_over(
        &mut self,
        _set: &SetName,
        _network: &NetworkName,
        _dry_run: bool,
        _cx: &Context,
    ) -> Result<Outcome, Error> {
        Err(Error::Store(StoreError::Unavailable {
            doing: "find leases of cni-ipam-consul in".to_owned(),
            place: "a lease file".to_owned(),
            source: "it kept them in Consul".into(),
        }))
    }

    /// Every key below a folder of etcd's old API, with its value: what kontena-ipam kept there.
    fn kontena_keys(&mut self, _folder: &str) -> Result<Vec<(String, String)>, StoreError> {
        Err(StoreError::Unavailable {
            doing: "find what kontena-ipam kept in".to_owned(),
            place: "this store".to_owned(),
            source: "it kept that in etcd; say --from http://HOST:PORT".into(),
        })
    }

    /// Keys of cni-ipam-consul that were written after their network was taken over: by a node that
    /// was not stopped, whose containers may have addresses that are leased here. For `doctor`.
    fn old_keys_changed(&mut self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    /// What a cluster knows of the machines that lease from it, by name. Changes nothing.
    fn nodes(&mut self) -> Result<Vec<NodeRecord>, StoreError> {
        Ok(Vec::new())
    }

    /// Forgets a machine, if what is known of it is still this: another may have its name then.
    /// `false`: it has changed.
    fn forget(&mut self, _: &NodeRecord, _: &Context) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// The definition that a cluster keeps for a network. The next command may rest on it without
    /// another look. Changes nothing.
    fn network(&mut self, _: &NetworkName) -> Result<Option<NetworkRecord>, StoreError> {
        Ok(None)
    }
}

/// What is done with each record, and how long it lives where that differs: an error ends it.
pub type Each<'a> = dyn FnMut(Record, Persist) -> Result<(), Error> + 'a;

/// How a program opens stores: [`open`], or what it has in its place. `stdin` is what the caller took
/// from standard input, if it did: a program that leaves the call to another one gives it back.
pub type Open = fn(spec: &StoreSpec, stdin: Option<&[u8]>) -> Result<Box<dyn Store>, StoreError>;
/// What is done with each address that is taken.
pub type Taken<'a> = dyn FnMut(&SetName, Addr, &Holder) + 'a;

/// Whether an event is asked for.
pub type Wanted<'a> = dyn FnMut(&Event) -> bool + 'a;

/// Opens the store that a configuration names. Nothing is leased, asked or made yet: an embedded store
/// is opened and left within each call, a cluster is connected to by the first one. A cluster's
/// certificates and secrets are read here.
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
        StoreSpec::Unreadable { why } => Err(unreadable(why)),
    }
}

/// The same in a program that the clusters' clients are not linked into; `None`: it takes one.
pub fn open_local(spec: &StoreSpec) -> Option<Result<Box<dyn Store>, StoreError>> {
    match spec {
        StoreSpec::Embedded { path, persist, wait, history } => {
            Some(Ok(Box::new(Embedded::new(path.clone(), *persist, *wait).keeping(*history))))
        }
        StoreSpec::Etcd(_) | StoreSpec::Consul(_) => None,
        StoreSpec::Unreadable { why } => Some(Err(unreadable(why))),
    }
}

fn on<S: cluster::Server>(server: S, servers: &Servers, more: &str) -> ClusterStore<S> {
    let cluster = format!("{}\0{more}\0{}", server.place(), servers.prefix);
    let cache = LocalCache::new(&servers.notes, cluster);
    ClusterStore::new(server, servers.timeout, servers.persist, cache).keeping(servers.history)
}

fn unreadable(why: &str) -> StoreError {
    StoreError::Unreadable { why: why.to_owned() }
}
