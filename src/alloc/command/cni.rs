//! The commands of a container runtime: ADD, DEL, CHECK, STATUS and GC.

use std::sync::Arc;

use super::operator::{DefineNetwork, ForeignLease};
use crate::model::{ContainerId, IfName, Lease, NetworkName, Origin, Owner, SetName, words};
use crate::net::{Addr, RangeSet};

/// ADD: leases one address from each range set, or no address at all. If an owner repeats the ADD, it gets
/// the same leases again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The set of leases in which the addresses are allocated.
    pub set: SetName,
    /// The network's name in the configuration. A cluster stores the network's definition under this name.
    pub network: NetworkName,
    /// The owner of the new leases.
    pub owner: Owner,
    /// The range sets, which do not overlap. One address is leased from each range set.
    pub sets: Vec<RangeSet>,
    /// The requested addresses. Each range set uses the first requested address that lies in it.
    pub requested: Vec<Requested>,
    /// Which free address to choose.
    pub strategy: Strategy,
    /// How long an address cools down after it is freed.
    pub cooldown: Cooldown,
    /// Whether a pod gets its former address, if that address is free.
    pub sticky: bool,
    /// What the ADD does if the owner already has a lease.
    pub on_duplicate: OnDuplicate,
    /// Whether the gateways' addresses are recorded as leased (ECS dialect). The ADD is then refused if a
    /// container holds a gateway's address.
    pub claim_gateways: bool,
    /// The origin of the request (pod, network namespace, MAC address), stored with the lease.
    pub origin: Origin,
    /// The addresses that the configuration reserves for the container's name (key `static`).
    pub statics: Vec<Addr>,
    /// Leases of earlier containers of the same name, whose network namespaces are known to be gone. This
    /// container gets the address of such a lease, unless the lease has changed since the caller read it.
    pub gone: Vec<Lease>,
    /// What is known about the leases that an earlier program (host-local or cni-ipam-consul) made in the
    /// network.
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
        /// The next free address after the address that was allocated last, as in host-local. Freed addresses
        /// are reused last.
        #[default]
        RoundRobin = "round-robin",
        /// The lowest free address.
        Lowest = "lowest",
        /// The next free address after a random position.
        Random = "random",
        /// The next free address after a position that depends on the owner's name. The nodes of a cluster
        /// then need no common cursor.
        Hash = "hash",
    }
}

/// How long an address cools down after it is freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooldown {
    /// The duration in seconds; 0 means that there is no cooldown.
    pub seconds: u32,
    /// Whether a cooling address stays unavailable even if no other address is free.
    pub strict: bool,
}

words! {
    /// What an ADD does if the owner already has a lease.
    #[derive(Default)]
    pub enum OnDuplicate {
        /// Returns the existing lease. This helps a runtime that did not receive the result of the first ADD.
        #[default]
        Same = "same",
        /// Refuses the ADD, as host-local does.
        Error = "error",
    }
}

/// What is known about the leases that an earlier program (host-local or cni-ipam-consul) made in a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Legacy {
    /// There are no leases of an earlier program, or they have been imported.
    #[default]
    Absent,
    /// The leases of cni-ipam-consul have not been looked up. The outcome is [`super::Outcome::ReadLegacy`],
    /// unless the store has recorded that they were imported.
    Unread,
    /// The content of host-local's folder, which was read under host-local's lock. The caller holds this lock
    /// until the command has ended. If cni-ipam-consul has no leases in the network, both lists are empty.
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

/// DEL: frees leases. A DEL also succeeds if there are no leases to free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Del {
    /// The set that contains the leases.
    pub set: SetName,
    /// The leases to free.
    pub target: Target,
    /// Whether the cursor moves back to the freed address, as in ecs-ipam.
    pub rewind: bool,
    /// Whether to skip the cooldown, as if the address had never been leased. Used to undo an ADD whose
    /// result could not be delivered.
    pub undo: bool,
    /// The network, if cni-ipam-consul may have leases in it that have not been imported. If the DEL finds no
    /// lease and no import is recorded, the outcome is [`super::Outcome::ReadLegacy`].
    pub legacy: Option<NetworkName>,
}

/// The leases that a DEL frees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All leases of an owner. If no lease records the owner's full name (container and interface), the DEL
    /// frees the leases that record only the container. Some versions of host-local did not record the
    /// interface.
    Owner(Owner),
    /// All leases of an owner, but only if the owner holds one of these addresses.
    OwnerAt(Owner, Vec<Addr>),
    /// The leases of these addresses, but only those that the owner holds.
    Some(Owner, Vec<Addr>),
    /// Only this lease, and only if it has not changed since it was read.
    Unchanged(Box<Lease>),
    /// The leases of these addresses, regardless of their holders, except gateways and reservations.
    Addresses(Vec<Addr>),
}

/// CHECK: compares the owner's leases with prevResult.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The set that contains the owner's leases.
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
    /// The set in which an ADD would allocate.
    pub set: SetName,
    /// The network's name in the configuration.
    pub network: NetworkName,
    /// The range sets. Each must have a free address.
    pub sets: Vec<RangeSet>,
    /// Whether addresses that are cooling down count as unavailable (`cooldownStrict`).
    pub strict: bool,
}

/// GC: frees the leases of containers that the runtime no longer lists. It affects only leases of this
/// network that record a container ID, and never gateways or reservations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gc {
    /// The set that contains the leases.
    pub set: SetName,
    /// The network whose leases are examined.
    pub network: NetworkName,
    /// The container interfaces that the runtime lists, sorted. They are in an `Arc`, because there may be
    /// many of them, and each step of the GC copies the command.
    pub valid: Arc<[(ContainerId, IfName)]>,
    /// The owner after which this step continues; `None` for the first step.
    pub after: Option<Owner>,
}
