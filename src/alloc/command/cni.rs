//! The commands of a container runtime: ADD, DEL, CHECK, STATUS and GC.

use std::sync::Arc;

use super::operator::{DefineNetwork, ForeignLease};
use crate::model::{ContainerId, IfName, Lease, NetworkName, Origin, Owner, SetName, words};
use crate::net::{Addr, RangeSet};

/// ADD: leases an address of each range set, or none. The same owner can repeat it and gets the same leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The set of leases in which the addresses are allocated.
    pub set: SetName,
    /// The network's name, as users know it. A cluster stores the network's definition under this name.
    pub network: NetworkName,
    /// The owner of the new leases.
    pub owner: Owner,
    /// The range sets. One address is leased from each of them. They do not overlap.
    pub sets: Vec<RangeSet>,
    /// The requested addresses. Each range set uses the first requested address that lies in it.
    pub requested: Vec<Requested>,
    /// Which free address to choose.
    pub strategy: Strategy,
    /// How long an address cools down after it is freed.
    pub cooldown: Cooldown,
    /// Whether a pod gets its former address, if that address is free.
    pub sticky: bool,
    /// What happens if the owner already has a lease.
    pub on_duplicate: OnDuplicate,
    /// Whether the gateways' addresses are recorded as leased. The ADD is then refused if a container holds
    /// one of them (ECS dialect).
    pub claim_gateways: bool,
    /// The origin of the request (pod, network namespace, MAC address), stored with the lease.
    pub origin: Origin,
    /// The addresses that the configuration has for the container's name (`static`).
    pub statics: Vec<Addr>,
    /// Leases of earlier containers of the same name whose network namespaces are gone. The address of such a
    /// lease moves to this container, if the lease has not changed since it was read.
    pub gone: Vec<Lease>,
    /// What is known about host-local's leases for this network.
    pub legacy: Legacy,
    /// The network definition from which the ranges were read, if the cluster stores definitions. If the
    /// cluster has no definition of the network yet, the ADD stores this definition.
    pub define: Option<DefineNetwork>,
}

/// An address that the container requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The address.
    pub addr: Addr,
    /// The prefix length to return, in bits; `None` for the prefix length of the subnet.
    pub prefix: Option<u8>,
}

words! {
    /// How an ADD chooses a free address.
    #[derive(Default)]
    pub enum Strategy {
        /// The next free address after the last allocated address, as in host-local. Freed addresses are
        /// reused last.
        #[default]
        RoundRobin = "round-robin",
        /// The lowest free address.
        Lowest = "lowest",
        /// The next free address after a random position.
        Random = "random",
        /// The next free address after a position that depends on the owner's name, so nodes need no common
        /// cursor.
        Hash = "hash",
    }
}

/// How long an address cools down after it is freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooldown {
    /// In seconds; 0 means no cooldown.
    pub seconds: u32,
    /// Whether the address stays unavailable even if no other address is free.
    pub strict: bool,
}

words! {
    /// What an ADD does if the owner already has a lease.
    #[derive(Default)]
    pub enum OnDuplicate {
        /// Returns the existing lease. A runtime may repeat an ADD if it lost the result.
        #[default]
        Same = "same",
        /// Refuses the ADD, as host-local does.
        Error = "error",
    }
}

/// What is known about host-local's leases of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Legacy {
    /// host-local has no folder for the network.
    #[default]
    Absent,
    /// The folder exists, but has not been read. Unless the folder was imported before, the outcome is
    /// [`super::Outcome::ReadLegacy`].
    Unread,
    /// The content of the folder. It was read under host-local's lock, and the caller holds this lock until
    /// the command has ended.
    Read(Vec<ForeignLease>, Vec<LegacyCursor>),
}

/// The content of host-local's file `last_reserved_ip.N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyCursor {
    /// N, the index of the range set.
    pub index: usize,
    /// The address that host-local allocated last.
    pub addr: Addr,
}

/// DEL: frees leases. It succeeds if there are no such leases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Del {
    /// The set of leases in which addresses are freed.
    pub set: SetName,
    /// The leases to free.
    pub target: Target,
    /// Whether the cursor moves back to the freed address, as in ecs-ipam.
    pub rewind: bool,
    /// Whether the address gets no cooldown, as if it had never been leased. Used to undo an ADD whose result
    /// could not be delivered.
    pub undo: bool,
    /// The network, if host-local has a folder for it. The folder may contain leases of the owner. Unless the
    /// folder was imported before, the outcome is [`super::Outcome::ReadLegacy`].
    pub legacy: Option<NetworkName>,
}

/// The leases that a DEL frees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All leases of an owner. If an owner has no lease under its full name (container and interface), frees
    /// the leases that record only its container, because some versions of host-local recorded no interface.
    Owner(Owner),
    /// All leases of the owner, but only if the owner holds one of these addresses.
    OwnerAt(Owner, Vec<Addr>),
    /// Only these addresses, and only if this owner holds them.
    Some(Owner, Vec<Addr>),
    /// Only this lease, and only if it has not changed since it was read.
    Unchanged(Box<Lease>),
    /// These addresses, whoever holds them, except gateways and reservations.
    Addresses(Vec<Addr>),
}

/// CHECK: compares the owner's leases with prevResult.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The set of leases in which the owner's leases are.
    pub set: SetName,
    /// The owner whose leases are compared.
    pub owner: Owner,
    /// The range sets. The owner must hold each address of prevResult that lies in one of them.
    pub sets: Vec<RangeSet>,
    /// The addresses of prevResult; `None` if there is no prevResult.
    pub expected: Option<Vec<Addr>>,
}

/// STATUS: checks whether an ADD would find an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The set of leases in which an ADD would allocate.
    pub set: SetName,
    /// The network's name, as users know it.
    pub network: NetworkName,
    /// The range sets. Each must have a free address.
    pub sets: Vec<RangeSet>,
    /// Whether addresses that cool down count as unavailable (`cooldownStrict`).
    pub strict: bool,
}

/// GC: frees the leases of containers that the runtime no longer lists. Affects only dynamic and static
/// leases of this network that have a container ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gc {
    /// The set of leases in which leases are freed.
    pub set: SetName,
    /// The network whose leases are examined.
    pub network: NetworkName,
    /// The container interfaces that the runtime lists, sorted. They are behind an `Arc`, because there may
    /// be many and each step copies the command.
    pub valid: Arc<[(ContainerId, IfName)]>,
    /// The owner after which to continue; `None` to start at the beginning.
    pub after: Option<Owner>,
}
