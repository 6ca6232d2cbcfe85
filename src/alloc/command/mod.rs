//! Commands, as plain data.
//!
//! A command contains everything that the allocator needs to know about its caller. A store can therefore
//! run it again after a conflict, and another process can run it on behalf of the caller.

mod cni;
mod operator;
mod pool;

pub use cni::*;
pub use operator::*;
pub use pool::*;

use crate::error::{Error, Refusal, StoreError};
use crate::model::{Grant, Lease, NetworkName, Owner, Pool, SetName};
use crate::net::Addr;

/// One request to the lease store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one is made in a call, and it is mostly an ADD")]
pub enum Command {
    /// Lease an address of each range set.
    Add(Add),
    /// Free leases of an owner.
    Del(Del),
    /// Verify the leases of an owner.
    Check(Check),
    /// Check whether an ADD would succeed.
    Status(Status),
    /// Free the leases of unknown attachments.
    Gc(Gc),
    /// Free the leases of a machine.
    Evict(Evict),
    /// Reserve addresses.
    Reserve(Reserve),
    /// Reserve addresses that two programs have leased, so that a DEL from either program does not free the
    /// address.
    ReserveContested(Reserve),
    /// Free reserved addresses.
    Unreserve(Unreserve),
    /// Import the leases of another program.
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
    /// Free addresses that a container engine no longer knows.
    Sweep(Sweep),
    /// Import another program's pool with its addresses.
    AdoptPool(AdoptPool),
    /// Write records of another store.
    Restore(Restore),
    /// Store a network's definition in a cluster.
    DefineNetwork(DefineNetwork),
}

impl Command {
    /// Whether the command never changes anything, so that the store can be opened read-only.
    pub fn only_looks(&self) -> bool {
        matches!(self, Command::Check(_) | Command::Status(_))
            || matches!(self, Command::Import(import) if import.dry_run)
            || matches!(self, Command::Restore(restore) if restore.dry_run)
    }

    /// Returns the same command for another set of leases.
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

    /// The network for whose containers the command leases addresses.
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

    /// Prepares the next step of a command that takes several steps. A GC or EVICT continues after `owner`.
    pub fn resume(&mut self, owner: Option<Owner>) {
        match self {
            Command::Gc(Gc { after, .. }) | Command::Evict(Evict { after, .. }) => *after = owner,
            Command::ReleasePool(release) => release.resumed = true,
            _ => {}
        }
    }

    /// The set of leases that the command names; `None` if its pool determines the set.
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
    /// One address of each range set, in the order of the range sets.
    pub grants: Vec<Grant>,
    /// The addresses that this ADD leased. The owner already held the others.
    pub created: Vec<Addr>,
    /// Warnings for the operator's log.
    pub warnings: Vec<String>,
}

/// An address that host-local and this store have leased to different owners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contested {
    /// The lease here, with the address.
    pub lease: Lease,
    /// The owner in host-local's folder.
    pub claimant: Owner,
}

/// The result of one step of a command that may need several transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The addresses that were freed, or (dry run) would be.
    pub freed: Vec<Addr>,
    /// `ReleasePool`: whether the pool exists. `Sweep`: whether the pool was removed too.
    pub pool: bool,
    /// GC, EVICT: the owner after whom the next step continues.
    pub after: Option<Owner>,
    /// Whether this was the last step.
    pub done: bool,
}

/// The result of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The import was carried out.
    Done {
        /// The newly leased addresses.
        taken: Vec<Addr>,
        /// The addresses that the same owner already held here.
        present: Vec<Addr>,
    },
    /// Nothing was done: the network was imported before, or the file was converted before.
    Before,
}

/// The result of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// ADD: the leases.
    Added(Added),
    /// ADD, DEL: nothing was done, because host-local's folder may have leases of the owner.
    ReadLegacy,
    /// ADD: nothing was done, because other owners hold these addresses of host-local's folder here.
    Contested(Vec<Contested>),
    /// DEL, UNRESERVE: the freed leases.
    Freed(Vec<Lease>),
    /// CHECK: the leases match.
    Checked,
    /// STATUS: an ADD would succeed.
    Ready,
    /// GC, EVICT, `Sweep`, `ReleasePool`: the result of one step.
    Collected(Collected),
    /// RESERVE: the addresses that were not reserved before.
    Reserved(Vec<Addr>),
    /// IMPORT: the result.
    Imported(Imported),
    /// EXPORT: the last allocated address of each requested range set, in the same order.
    Exported(Vec<Option<Addr>>),
    /// A pool was created, joined or imported.
    Pool(Box<Pool>),
    /// An address was leased. The gateway of a shared pool may have been leased before.
    Leased {
        /// The lease.
        lease: Box<Lease>,
        /// Whether this call created the lease.
        created: bool,
    },
    /// `DefineNetwork`: the version that is stored now.
    Defined(u64),
    /// RESTORE: the store now has this many of the records, counted from the first.
    Restored {
        /// The number of records.
        done: usize,
        /// The conflicts that a dry run found.
        clashes: Vec<Refusal>,
    },
}

impl Outcome {
    /// The error for an outcome that does not belong to its command, which is a bug in the store.
    pub fn unexpected(&self) -> Error {
        let why = format!("unexpected outcome {self:?}");
        StoreError::unavailable("understand the answer of", "the lease store", why).into()
    }
}
