//! The commands of a container runtime: ADD, DEL, CHECK, STATUS and GC.

use std::sync::Arc;

use super::operator::{DefineNetwork, ForeignLease};
use crate::model::{ContainerId, IfName, Lease, NetworkName, Origin, Owner, SetName, words};
use crate::net::{Addr, RangeSet};

/// ADD: leases an address of each range set, or none. The same owner can repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The set of leases to draw from.
    pub set: SetName,
    /// The network, as users name it. The store keeps its definition under this name.
    pub network: NetworkName,
    /// The owner of the new leases.
    pub owner: Owner,
    /// The range sets. One address is leased from each; they are disjoint.
    pub sets: Vec<RangeSet>,
    /// Requested addresses. Each set takes the first one that lies in it.
    pub requested: Vec<Requested>,
    /// Which free address to take.
    pub strategy: Strategy,
    /// The cooldown of a freed address.
    pub cooldown: Cooldown,
    /// Whether a pod gets its former address if that is free.
    pub sticky: bool,
    /// The effect of an ADD for an owner that has a lease.
    pub on_duplicate: OnDuplicate,
    /// Record the gateways as leased, and refuse one that a container holds (ECS dialect).
    pub claim_gateways: bool,
    /// The origin, stored with the lease.
    pub origin: Origin,
    /// What is known about host-local's leases for this network.
    pub legacy: Legacy,
    /// The definition that the ranges come from, if the cluster stores definitions. If the cluster has no
    /// definition of the network, it stores this one.
    pub define: Option<DefineNetwork>,
}

/// A requested address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The address.
    pub addr: Addr,
    /// Prefix length in bits to return; `None`: the subnet's.
    pub prefix: Option<u8>,
}

words! {
    /// The strategy by which an ADD chooses a free address.
    #[derive(Default)]
    pub enum Strategy {
        /// The address after the last allocated address, as in host-local: a freed address is reused last.
        #[default]
        RoundRobin = "round-robin",
        /// The lowest.
        Lowest = "lowest",
        /// Any address, starting at a random position.
        Random = "random",
        /// Any address, starting at a position that depends on the owner's name. Nodes then need no shared
        /// cursor.
        Hash = "hash",
    }
}

/// How long a freed address cools down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooldown {
    /// In seconds; 0 means no cooldown.
    pub seconds: u32,
    /// Whether the cooldown also holds if no other address is free.
    pub strict: bool,
}

words! {
    /// The effect of an ADD for an owner that has a lease.
    #[derive(Default)]
    pub enum OnDuplicate {
        /// Returns the lease: a runtime may repeat an ADD after losing the result.
        #[default]
        Same = "same",
        /// Refuses, as host-local does.
        Error = "error",
    }
}

/// host-local's leases for a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Legacy {
    /// There is no folder.
    #[default]
    Absent,
    /// There is a folder that has not been read. Unless it was imported before, the outcome is
    /// [`super::Outcome::ReadLegacy`].
    Unread,
    /// The content of the folder. It was read under host-local's lock, which is held until the command has
    /// ended.
    Read(Vec<ForeignLease>, Vec<LegacyCursor>),
}

/// `last_reserved_ip.N` of host-local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyCursor {
    /// N: index of the range set.
    pub index: usize,
    /// The last allocated address.
    pub addr: Addr,
}

/// DEL. Freeing an unknown lease is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Del {
    /// The set of leases.
    pub set: SetName,
    /// The leases to free.
    pub target: Target,
    /// Moves the cursor to a freed address, as ecs-ipam does.
    pub rewind: bool,
    /// Frees the address without a cooldown, as if it had never been leased. Used to undo an ADD whose result
    /// could not be delivered.
    pub undo: bool,
    /// The network, if host-local has a folder for it. Unless the folder was imported, it may have leases of
    /// the owner, and the outcome is [`super::Outcome::ReadLegacy`].
    pub legacy: Option<NetworkName>,
}

/// The leases that a DEL frees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All leases of an owner. If an attachment has no lease under its full name, the leases of its container
    /// without an interface are freed: some versions of host-local recorded no interface.
    Owner(Owner),
    /// All leases of the owner, if the owner holds one of these addresses.
    OwnerAt(Owner, Vec<Addr>),
    /// Only these addresses of this owner.
    Some(Owner, Vec<Addr>),
    /// Only this lease, and only if it has not changed since it was read.
    Unchanged(Box<Lease>),
    /// These addresses, whatever their owners, except gateways and reservations.
    Addresses(Vec<Addr>),
}

/// CHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The set of leases.
    pub set: SetName,
    /// The owner to check.
    pub owner: Owner,
    /// The ranges. The owner must hold the addresses of prevResult that lie in them.
    pub sets: Vec<RangeSet>,
    /// The addresses of prevResult; `None` if there is no prevResult.
    pub expected: Option<Vec<Addr>>,
}

/// STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The set of leases.
    pub set: SetName,
    /// The network, as users name it.
    pub network: NetworkName,
    /// The range sets. Each must have a free address.
    pub sets: Vec<RangeSet>,
    /// `cooldownStrict`.
    pub strict: bool,
}

/// GC. Frees only dynamic and static leases of this network that have a container ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gc {
    /// The set of leases.
    pub set: SetName,
    /// The network whose leases are examined.
    pub network: NetworkName,
    /// The valid attachments, sorted. They are shared, because there may be many and each step copies the
    /// command.
    pub valid: Arc<[(ContainerId, IfName)]>,
    /// The owner after which to continue; `None` to start at the beginning.
    pub after: Option<Owner>,
}
