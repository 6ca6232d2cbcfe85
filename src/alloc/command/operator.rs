//! The commands of operators, of `subletd`, and of imports and copies.

use crate::alloc::record::Record;
use crate::model::{Kind, Lease, NetworkName, Origin, Owner, Persist, SetName, StaticName};
use crate::net::Addr;

/// EVICT: frees the leases in one set of leases that belong to the node in the context
/// ([`crate::alloc::Context::node`]). Reservations stay, because they belong to operators. Addresses of pools
/// stay, because they are freed together with their pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evict {
    /// The set of leases in which leases are freed.
    pub set: SetName,
    /// Whether only leases that have ended with an earlier boot are freed.
    pub only_ended: bool,
    /// The owner after whom to continue; `None` to start at the beginning.
    pub after: Option<Owner>,
}

/// Stores a network's definition, if the stored version is the version that the caller expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefineNetwork {
    /// The network that is defined.
    pub network: NetworkName,
    /// The definition, as in [`crate::model::NetworkDefinition::text`].
    pub text: String,
    /// The version that must be stored at present; `None` if no definition may be stored yet.
    pub version: Option<u64>,
}

/// RESERVE: keeps addresses from being leased, except to the container of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The set of leases to which the addresses belong.
    pub set: SetName,
    /// The addresses. If one of them is leased, the command is refused.
    pub addrs: Vec<Addr>,
    /// The purpose, stored with each address. It replaces an earlier note.
    pub note: Option<String>,
    /// The owner of the reservation, stored with each address.
    pub holder: Option<String>,
    /// The name of the container that gets the addresses.
    pub name: Option<StaticName>,
}

/// UNRESERVE: frees reserved addresses. Other addresses stay unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreserve {
    /// The set of leases to which the addresses belong.
    pub set: SetName,
    /// The reserved addresses to free.
    pub addrs: Vec<Addr>,
}

/// IMPORT: leases addresses that another program has leased. If the owner already has the same lease in this
/// store, that lease stays. If another owner holds an address, the command is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The set of leases into which leases are imported.
    pub set: SetName,
    /// The leases of the other program.
    pub leases: Vec<ForeignLease>,
    /// The last allocated addresses. It is unknown to which range each belongs.
    pub cursors: Vec<Addr>,
    /// The network whose host-local folder is imported. The store records the import. If the network was
    /// imported before, nothing is done ([`super::Imported::Before`]).
    pub adopts: Option<NetworkName>,
    /// Whether another command imports more leases of the network. If so, the network is not recorded as
    /// imported yet.
    pub partial: bool,
    /// Whether to only return the result, without changing anything.
    pub dry_run: bool,
}

/// A lease that another program made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignLease {
    /// The address that is leased.
    pub addr: Addr,
    /// How the address came to be leased.
    pub kind: Kind,
    /// The owner of the lease.
    pub owner: Owner,
}

impl ForeignLease {
    /// Returns the part of the lease's origin that follows from the owner.
    pub fn origin(&self) -> Origin {
        Origin { attachment: self.owner.attachment().cloned(), ..Origin::default() }
    }
}

/// EXPORT: moves leases to host-local. Frees `leases`, and returns the last allocated address of each range
/// set in `ranges`, so that host-local's round robin continues there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHostLocal {
    /// The set of leases from which leases are removed.
    pub set: SetName,
    /// The keys of the range sets ([`crate::net::RangeSet::key`]) whose last allocated address is returned.
    pub ranges: Vec<Addr>,
    /// The leases that are already in host-local's folder, as they were read from the store. If a lease has
    /// changed since then, it is not freed.
    pub leases: Vec<Lease>,
}

/// RESTORE: writes records that were read from another store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The set of leases, if all records belong to one set.
    pub set: Option<SetName>,
    /// Whether the leases are durable or boot leases, if the store distinguishes them.
    pub persist: Persist,
    /// The records. A command contains at most one pool.
    pub records: Vec<Record>,
    /// Whether to only report conflicts.
    pub dry_run: bool,
}
