//! The commands that a store runs, as plain data.
//!
//! A command contains everything that the allocator must know about the request. A store can therefore run a
//! command again after a conflict, and another process can run the command on behalf of the caller.

mod cni;
mod operator;
mod pool;

pub use cni::*;
pub use operator::*;
pub use pool::*;

use crate::error::{Error, Refusal, StoreError};
use crate::model::{Grant, Lease, NetworkName, Owner, Pool, SetName};
use crate::net::Addr;

/// One request to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "each call has one command, and most commands are ADDs"
)]
pub enum Command {
    /// Lease an address of each range set.
    Add(Add),
    /// Free the leases of an owner.
    Del(Del),
    /// Compare the leases of an owner with prevResult.
    Check(Check),
    /// Check whether an ADD would succeed.
    Status(Status),
    /// Free the leases of containers that the runtime no longer lists.
    Gc(Gc),
    /// Free the leases of a machine that no longer exists.
    Evict(Evict),
    /// Reserve addresses.
    Reserve(Reserve),
    /// Reserve addresses that this store and host-local have leased to different owners, so that no DEL in
    /// either program frees them.
    ReserveContested(Reserve),
    /// Free reserved addresses.
    Unreserve(Unreserve),
    /// Begin or end the draining of a range.
    Drain(Drain),
    /// Import leases of another program.
    Import(Import),
    /// Move leases to host-local.
    ExportHostLocal(ExportHostLocal),
    /// Create a pool, or join a shared one.
    RequestPool(RequestPool),
    /// Release a pool with all of its leases.
    ReleasePool(ReleasePool),
    /// Lease an address of a pool.
    RequestAddress(RequestAddress),
    /// Free an address of a pool.
    ReleaseAddress(ReleaseAddress),
    /// Free addresses that Docker no longer knows.
    Sweep(Sweep),
    /// Import another program's pool and the addresses that are leased in it.
    AdoptPool(AdoptPool),
    /// Write records that were read from another store.
    Restore(Restore),
    /// Store a network's definition in a cluster.
    DefineNetwork(DefineNetwork),
}

impl Command {
    /// Returns whether the command never changes anything, so that the store can be opened read-only.
    pub fn only_looks(&self) -> bool {
        matches!(self, Command::Check(_) | Command::Status(_))
            || matches!(self, Command::Import(import) if import.dry_run)
            || matches!(self, Command::Restore(restore) if restore.dry_run)
    }

    /// Returns the command with another set of leases. Only DEL, CHECK, ADD and IMPORT are changed; other
    /// commands are returned unchanged.
    #[must_use]
    pub fn in_set(mut self, set: SetName) -> Command {
        match &mut self {
            Command::Del(c) => c.set = set,
            Command::Check(c) => c.set = set,
            Command::Add(c) => c.set = set,
            Command::Import(c) => c.set = set,
            _ => {}
        }
        self
    }

    /// Returns the network, if the command leases addresses for the containers of one network.
    pub fn network(&self) -> Option<&NetworkName> {
        let owner = match self {
            Command::Add(add) => &add.owner,
            Command::Import(import) => &import.leases.first()?.owner,
            _ => return None,
        };
        match owner {
            Owner::Attachment(attachment) => Some(&attachment.network),
            _ => None,
        }
    }

    /// Prepares the next step of a command that takes several steps. A GC or an EVICT continues with the
    /// leases after `owner`.
    pub fn resume(&mut self, owner: Option<Owner>) {
        match self {
            Command::Gc(Gc { after, .. }) | Command::Evict(Evict { after, .. }) => *after = owner,
            Command::ReleasePool(release) => release.resumed = true,
            _ => {}
        }
    }

    /// Returns the set of leases that the command names; `None` if the set depends on a pool.
    pub fn set(&self) -> Option<&SetName> {
        match self {
            Command::Add(c) => Some(&c.set),
            Command::Del(c) => Some(&c.set),
            Command::Check(c) => Some(&c.set),
            Command::Status(c) => Some(&c.set),
            Command::Gc(c) => Some(&c.set),
            Command::Evict(c) => Some(&c.set),
            Command::Reserve(c) | Command::ReserveContested(c) => Some(&c.set),
            Command::Unreserve(c) => Some(&c.set),
            Command::Drain(c) => Some(&c.set),
            Command::Import(c) => Some(&c.set),
            Command::ExportHostLocal(c) => Some(&c.set),
            Command::Restore(c) => c.set.as_ref(),
            _ => None,
        }
    }
}

/// The result of an ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// One address of each range set, in the order of the range sets in the command.
    pub grants: Vec<Grant>,
    /// The addresses that this ADD has newly leased. The owner already held the other addresses.
    pub created: Vec<Addr>,
    /// Warnings for the operator's log.
    pub warnings: Vec<String>,
}

/// An address that this store and host-local have leased to different owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// The lease of the address in this store.
    pub lease: Lease,
    /// The owner of the address in host-local's folder.
    pub claimant: Owner,
}

/// The result of one step of a command that may need several transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The addresses that were freed, or in a dry run, the addresses that would be freed.
    pub freed: Vec<Addr>,
    /// For `ReleasePool`: whether the pool still exists. For `Sweep`: whether the pool was removed as well.
    pub pool: bool,
    /// For GC and EVICT: the owner after which the next step continues.
    pub after: Option<Owner>,
    /// Whether this was the last step.
    pub done: bool,
}

/// The result of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The import was carried out.
    Done {
        /// The addresses that were newly leased.
        taken: Vec<Addr>,
        /// The addresses that the same owner already held in this store.
        present: Vec<Addr>,
    },
    /// Nothing was done, because the network had already been imported, or the file had already been
    /// converted.
    Before,
}

/// The result of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// ADD: the owner's leases.
    Added(Added),
    /// ADD, DEL: nothing was done, because cni-ipam-consul may have leases that have not been imported. The
    /// caller must look them up before it decides how to continue.
    ReadLegacy,
    /// ADD: nothing was done. This store and host-local's folder assign these addresses to different owners.
    Contested(Vec<Contested>),
    /// DEL, UNRESERVE: the leases that were freed.
    Freed(Vec<Lease>),
    /// CHECK: the leases match prevResult.
    Checked,
    /// STATUS: an ADD would succeed.
    Ready,
    /// GC, EVICT, `Sweep`, `ReleasePool`: the result of one step.
    Collected(Collected),
    /// RESERVE: the addresses that were not reserved before.
    Reserved(Vec<Addr>),
    /// DRAIN: the draining of the range has begun, or has ended.
    Drained {
        /// Whether the draining ranges of the set have changed.
        changed: bool,
    },
    /// IMPORT: what was imported.
    Imported(Imported),
    /// EXPORT: for each requested range set, in the same order, the address that was allocated last.
    Exported(Vec<Option<Addr>>),
    /// The pool that was created, joined or imported.
    Pool(Box<Pool>),
    /// An address of a pool was leased. The gateway of a shared pool may have been leased by an earlier call.
    Leased {
        /// The lease of the address.
        lease: Box<Lease>,
        /// Whether this call created the lease.
        created: bool,
    },
    /// `DefineNetwork`: the version of the definition that is stored now.
    Defined(u64),
    /// RESTORE: the first `done` records are now in the store.
    Restored {
        /// The number of records that are done, counted from the first record.
        done: usize,
        /// The conflicts that a dry run found.
        clashes: Vec<Refusal>,
    },
}

impl Outcome {
    /// Makes the error for an outcome that does not fit its command. Such an outcome is a bug in the store.
    pub fn unexpected(&self) -> Error {
        let why = format!("unexpected outcome {self:?}");
        StoreError::unavailable("understand the answer of", "the lease store", why).into()
    }
}
