//! Commands, as plain data.
//!
//! A command holds everything that the allocator needs to know of its caller. So a store can run it
//! again after a conflict, and another process can run it on behalf of its caller.

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
    /// Lease an address from each range set.
    Add(Add),
    /// Free what an owner holds.
    Del(Del),
    /// Verify what an owner holds.
    Check(Check),
    /// Tell whether an ADD could be served.
    Status(Status),
    /// Free what no attachment uses.
    Gc(Gc),
    /// Free what a machine holds.
    Evict(Evict),
    /// Set addresses aside.
    Reserve(Reserve),
    /// Reserve addresses that two programs have leased, so that neither's end frees them.
    ReserveContested(Reserve),
    /// Let them be given again.
    Unreserve(Unreserve),
    /// Take over what another program leased.
    Import(Import),
    /// Let another program go on from here.
    ExportHostLocal(ExportHostLocal),
    /// Make a pool, or use a shared one.
    RequestPool(RequestPool),
    /// Let a pool go, with all that was leased through it.
    ReleasePool(ReleasePool),
    /// Lease an address of a pool.
    RequestAddress(RequestAddress),
    /// Free an address of a pool.
    ReleaseAddress(ReleaseAddress),
    /// Free what a container engine no longer knows.
    Sweep(Sweep),
    /// Take over another program's pool with its addresses.
    AdoptPool(AdoptPool),
    /// Write records of another store.
    Restore(Restore),
    /// Store a network's definition in a cluster.
    DefineNetwork(DefineNetwork),
}

impl Command {
    /// Whether it can change nothing: a store opens for reading only.
    pub fn only_looks(&self) -> bool {
        matches!(self, Command::Check(_) | Command::Status(_))
            || matches!(self, Command::Import(import) if import.dry_run)
            || matches!(self, Command::Restore(restore) if restore.dry_run)
    }

    /// The same about another set of leases.
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

    /// The network whose containers get leases by it.
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

    /// Makes a further step of a command that takes several; a GC or EVICT continues behind `owner`.
    pub fn resume(&mut self, owner: Option<Owner>) {
        match self {
            Command::Gc(Gc { after, .. }) | Command::Evict(Evict { after, .. }) => *after = owner,
            Command::ReleasePool(release) => release.resumed = true,
            _ => {}
        }
    }

    /// The set of leases it is about, unless that is its pool's.
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

/// The addresses that an ADD got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// One address of each range set, in the order of the range sets.
    pub grants: Vec<Grant>,
    /// The addresses that this ADD leased. The owner held the others before.
    pub created: Vec<Addr>,
    /// What an operator should know, for the log.
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

/// What one step of a command freed that can need several transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The addresses that were freed, or would be.
    pub freed: Vec<Addr>,
    /// `ReleasePool`: the pool exists. `Sweep`: the pool was removed too.
    pub pool: bool,
    /// GC, EVICT: the owner behind whom the next step continues.
    pub after: Option<Owner>,
    /// This was the last step.
    pub done: bool,
}

/// What an import did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// It was carried out.
    Done {
        /// The addresses that are leased now.
        taken: Vec<Addr>,
        /// The addresses that the same owner held here before.
        present: Vec<Addr>,
    },
    /// Nothing: the network was imported before, or the file converted.
    Before,
}

/// What came of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// ADD: what was leased.
    Added(Added),
    /// ADD, DEL: nothing was done; what is asked for is, or may be, in host-local's folder.
    ReadLegacy,
    /// ADD: nothing was done; these addresses of host-local's folder are leased here to others.
    Contested(Vec<Contested>),
    /// DEL, UNRESERVE: what was freed.
    Freed(Vec<Lease>),
    /// CHECK: all as it should be.
    Checked,
    /// STATUS: an ADD could be served.
    Ready,
    /// GC, EVICT, `Sweep`, `ReleasePool`: what one step freed.
    Collected(Collected),
    /// RESERVE: done; those that were not reserved before.
    Reserved(Vec<Addr>),
    /// IMPORT: what was imported.
    Imported(Imported),
    /// EXPORT: the addresses given last, as they were asked for.
    Exported(Vec<Option<Addr>>),
    /// A pool was made, is shared, or was taken over.
    Pool(Box<Pool>),
    /// An address was leased, or (a shared pool's gateway) was leased before.
    Leased {
        /// The lease.
        lease: Box<Lease>,
        /// Whether this call made it.
        created: bool,
    },
    /// `DefineNetwork`: the version that is stored now.
    Defined(u64),
    /// RESTORE: this many records, from the first on, are here now.
    Restored {
        /// How many.
        done: usize,
        /// What stands in the way of a dry run.
        clashes: Vec<Refusal>,
    },
}

impl Outcome {
    /// The error for an outcome that does not belong to its command: the store is at fault.
    pub fn unexpected(&self) -> Error {
        let why = format!("unexpected outcome {self:?}");
        StoreError::unavailable("understand the answer of", "the lease store", why).into()
    }
}
