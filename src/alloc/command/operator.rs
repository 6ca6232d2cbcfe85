//! The commands of operators, of `subletd`, and of imports and copies.

use crate::alloc::record::Record;
use crate::model::{Kind, Lease, NetworkName, Origin, Owner, Persist, SetName, StaticName};
use crate::net::{Addr, Span};

/// EVICT: frees one node's leases in one set of leases. The context names the node
/// ([`crate::alloc::Context::node`]). Reservations stay, because they belong to operators. Addresses of pools
/// stay too, because they are freed together with their pools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evict {
    /// The set that contains the leases.
    pub set: SetName,
    /// Whether to free only leases that ended because the node has rebooted since they were made.
    pub only_ended: bool,
    /// The owner after which this step continues; `None` for the first step.
    pub after: Option<Owner>,
}

/// Stores a network's definition, if the currently stored version equals `version`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefineNetwork {
    /// The network that the definition describes.
    pub network: NetworkName,
    /// The definition, as in [`crate::model::NetworkDefinition::text`].
    pub text: String,
    /// The version that must currently be stored; `None` if the network must not have a definition yet.
    pub version: Option<u64>,
}

/// RESERVE: reserves addresses, so that they are leased to no container, or only to a container with a given
/// name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The set of leases to which the addresses belong.
    pub set: SetName,
    /// The addresses. If one of them is leased, the command is refused.
    pub addrs: Vec<Addr>,
    /// The purpose: a note that is stored with each address and replaces any earlier note.
    pub note: Option<String>,
    /// The holder of the reservation, as the operator named it. It is stored with each address.
    pub holder: Option<String>,
    /// The name of the container to which the addresses may be leased; `None` if they are leased to no
    /// container.
    pub name: Option<StaticName>,
}

/// UNRESERVE: frees reserved addresses. Addresses that are not reserved stay unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreserve {
    /// The set of leases to which the addresses belong.
    pub set: SetName,
    /// The reserved addresses to free.
    pub addrs: Vec<Addr>,
}

/// DRAIN: begins or ends the draining of a range. Containers keep their addresses in a draining range, but
/// nothing new is leased from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// The set of leases to which the range belongs.
    pub set: SetName,
    /// The first and the last address.
    pub span: Span,
    /// Whether to end the draining of the span, instead of beginning it. Addresses outside the span are not
    /// affected.
    pub undo: bool,
}

/// IMPORT: leases the addresses that another program has leased. If the owner already has the same lease in
/// this store, that lease stays. If another owner holds one of the addresses, the command is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The set into which the leases are imported.
    pub set: SetName,
    /// The leases of the other program.
    pub leases: Vec<ForeignLease>,
    /// The addresses that the other program allocated last. The other program does not record to which range
    /// each address belongs.
    pub cursors: Vec<Addr>,
    /// The network whose host-local folder is imported. The store records this import. If the store has
    /// already recorded this import, nothing is done ([`super::Imported::Before`]).
    pub adopts: Option<NetworkName>,
    /// Whether a further command will import more leases of the network. If so, this command does not record
    /// the network as imported yet.
    pub partial: bool,
    /// Whether to only return what would be imported, without changing anything.
    pub dry_run: bool,
}

/// A lease that another program made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignLease {
    /// The address that is leased.
    pub addr: Addr,
    /// The reason why the address is leased.
    pub kind: Kind,
    /// The owner of the lease.
    pub owner: Owner,
}

impl ForeignLease {
    /// Returns the origin of the lease, as far as the owner determines it: the attachment.
    pub fn origin(&self) -> Origin {
        Origin { attachment: self.owner.attachment().cloned(), ..Origin::default() }
    }
}

/// EXPORT: moves leases to host-local. Frees `leases`, which have been written to host-local's folder. For
/// each range set in `ranges`, returns the address that was allocated last, so that host-local's round robin
/// continues after that address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHostLocal {
    /// The set that contains the leases.
    pub set: SetName,
    /// The keys of the range sets ([`crate::net::RangeSet::key`]) whose last allocated address is returned.
    pub ranges: Vec<Addr>,
    /// The leases that have already been written to host-local's folder, as they were read from this store. A
    /// lease that has changed since then is not freed.
    pub leases: Vec<Lease>,
}

/// RESTORE: writes records that were read from another store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The set to which the records belong; `None` if they do not belong to a set.
    pub set: Option<SetName>,
    /// Whether the leases become durable leases or boot leases. Some stores do not distinguish these two
    /// kinds.
    pub persist: Persist,
    /// The records to write. At most one record is a pool.
    pub records: Vec<Record>,
    /// Whether to only report conflicts, without changing anything.
    pub dry_run: bool,
}
