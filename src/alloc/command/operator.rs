//! The commands of an operator, of the daemon, and of imports and copies.

use crate::alloc::record::Record;
use crate::model::{Kind, Lease, NetworkName, Origin, Owner, Persist, SetName};
use crate::net::Addr;

/// EVICT: frees the leases of one set that the calling node ([`crate::alloc::Context::node`]) holds.
/// Reservations stay, because they belong to operators. Addresses of pools stay, because they are freed
/// with their pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evict {
    /// The set of leases.
    pub set: SetName,
    /// Frees only leases that have ended with an earlier boot.
    pub only_ended: bool,
    /// The owner after whom to continue; `None` to start at the beginning.
    pub after: Option<Owner>,
}

/// Stores a network's definition, if the stored version is the expected one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefineNetwork {
    /// The network.
    pub network: NetworkName,
    /// [`crate::model::NetworkDefinition::text`].
    pub text: String,
    /// The version that must be stored now; `None` if no definition may be stored yet.
    pub version: Option<u64>,
}

/// RESERVE: addresses that no ADD leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The set of leases.
    pub set: SetName,
    /// The addresses. If one of them is held, the command is refused.
    pub addrs: Vec<Addr>,
    /// The purpose, stored with each address. It replaces an earlier note.
    pub note: Option<String>,
    /// The owner of the reservation, stored with each address.
    pub holder: Option<String>,
}

/// UNRESERVE: frees reserved addresses. Other addresses stay unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreserve {
    /// The set of leases.
    pub set: SetName,
    /// The addresses.
    pub addrs: Vec<Addr>,
}

/// IMPORT. Leases that the same owner already holds here stay. If another owner holds an address, the
/// command is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The set of leases.
    pub set: SetName,
    /// The leases.
    pub leases: Vec<ForeignLease>,
    /// The last allocated addresses. Their ranges are unknown.
    pub cursors: Vec<Addr>,
    /// The network whose host-local folder is imported. The store records that the network was imported. If
    /// it already was, nothing is done ([`super::Imported::Before`]).
    pub adopts: Option<NetworkName>,
    /// More leases of the network follow, so it is not yet recorded as imported.
    pub partial: bool,
    /// Returns the result without changing anything.
    pub dry_run: bool,
}

/// A lease that another program made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignLease {
    /// The address.
    pub addr: Addr,
    /// The purpose of the lease.
    pub kind: Kind,
    /// The owner.
    pub owner: Owner,
}

impl ForeignLease {
    /// Returns the origin that follows from the owner.
    pub fn origin(&self) -> Origin {
        Origin { attachment: self.owner.attachment().cloned(), ..Origin::default() }
    }
}

/// EXPORT: moves leases to host-local. Returns the last allocated address of each range set in `ranges`, so
/// that host-local can continue the rotation, and frees `leases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHostLocal {
    /// The set of leases.
    pub set: SetName,
    /// The range sets whose last allocated address is returned, each by its first address
    /// ([`crate::net::RangeSet::key`]).
    pub ranges: Vec<Addr>,
    /// The leases already written to host-local's folder, as read from the store. A lease that has changed
    /// since it was read is not freed.
    pub leases: Vec<Lease>,
}

/// RESTORE: writes records of another store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The set of leases, if all of the records belong to one set.
    pub set: Option<SetName>,
    /// How long the leases live, if the store can choose.
    pub persist: Persist,
    /// The records. A command contains at most one pool.
    pub records: Vec<Record>,
    /// Only reports conflicts.
    pub dry_run: bool,
}
