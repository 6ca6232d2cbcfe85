//! The commands of a container runtime: ADD, DEL, CHECK, STATUS and GC.

use std::sync::Arc;

use super::operator::{DefineNetwork, ForeignLease};
use crate::model::{ContainerId, IfName, Lease, NetworkName, Origin, Owner, SetName, words};
use crate::net::{Addr, RangeSet};

/// ADD. All or nothing over all its range sets; repeatable by the same owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The set of leases to draw from.
    pub set: SetName,
    /// The network as its users call it: names the definition kept in the store.
    pub network: NetworkName,
    /// For whom.
    pub owner: Owner,
    /// One address is leased from each; disjoint.
    pub sets: Vec<RangeSet>,
    /// Addresses asked for: each set takes the first that lies in it.
    pub requested: Vec<Requested>,
    /// Which free address to take.
    pub strategy: Strategy,
    /// How long a freed address is kept back.
    pub cooldown: Cooldown,
    /// Whether a pod gets its former address while that is free.
    pub sticky: bool,
    /// What an ADD for an owner that has a lease does.
    pub on_duplicate: OnDuplicate,
    /// Record the gateways as leased, and refuse one that a container holds (ECS dialect).
    pub claim_gateways: bool,
    /// Kept with the lease.
    pub origin: Origin,
    /// What is known of host-local's leases for this network.
    pub legacy: Legacy,
    /// The definition that the ranges are of, where the cluster keeps one; if it has none yet, it
    /// gets this one.
    pub define: Option<DefineNetwork>,
}

/// An address that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The address.
    pub addr: Addr,
    /// Prefix length to answer with, in bits; `None`: the subnet's.
    pub prefix: Option<u8>,
}

words! {
    /// Which free address an ADD takes.
    #[derive(Default)]
    pub enum Strategy {
        /// The next after the last one given, as host-local: a freed address is taken again last.
        #[default]
        RoundRobin = "round-robin",
        /// The lowest.
        Lowest = "lowest",
        /// Any, from a random place on.
        Random = "random",
        /// Any, from a place on that the owner's name decides: no shared state at all.
        Hash = "hash",
    }
}

/// How long freed addresses are kept back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooldown {
    /// In seconds; 0: not at all.
    pub seconds: u32,
    /// Also when nothing else is left.
    pub strict: bool,
}

words! {
    /// What an ADD for an owner that has a lease does.
    #[derive(Default)]
    pub enum OnDuplicate {
        /// Answers with the lease: a runtime may repeat an ADD whose answer it lost.
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
    /// There is a folder, not read yet: unless it was taken over before, the outcome is
    /// [`super::Outcome::ReadLegacy`].
    Unread,
    /// Its content, read under host-local's lock, which is held until the command is done.
    Read(Vec<ForeignLease>, Vec<LegacyCursor>),
}

/// `last_reserved_ip.N` of host-local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyCursor {
    /// N: index of the range set.
    pub index: usize,
    /// The address given last.
    pub addr: Addr,
}

/// DEL. Freeing what is not held is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Del {
    /// The set of leases.
    pub set: SetName,
    /// What to free.
    pub target: Target,
    /// Move the cursor to a freed address, as ecs-ipam does.
    pub rewind: bool,
    /// Free it as if it had never been leased: no cooldown. For taking back an ADD whose answer
    /// could not be delivered.
    pub undo: bool,
    /// The network, if host-local has a folder of it: unless that was taken over, what the owner
    /// holds may be there, and the outcome is [`super::Outcome::ReadLegacy`].
    pub legacy: Option<NetworkName>,
}

/// What a DEL frees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All that an owner holds. An attachment's leases from a host-local that wrote no interface
    /// are found by the container alone, if it has none under its full name.
    Owner(Owner),
    /// All that the owner holds, if one of these addresses is among it.
    OwnerAt(Owner, Vec<Addr>),
    /// Only these addresses of this owner.
    Some(Owner, Vec<Addr>),
    /// Only this lease, and only if it is still as it was read.
    Unchanged(Box<Lease>),
    /// These addresses, whoever holds them; never gateways or reservations.
    Addresses(Vec<Addr>),
}

/// CHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The set of leases.
    pub set: SetName,
    /// Whose.
    pub owner: Owner,
    /// The ranges; what prevResult has from them the owner must hold.
    pub sets: Vec<RangeSet>,
    /// The addresses of prevResult; `None` where there is no prevResult.
    pub expected: Option<Vec<Addr>>,
}

/// STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The set of leases.
    pub set: SetName,
    /// The network as its users call it.
    pub network: NetworkName,
    /// Each must have an address to give.
    pub sets: Vec<RangeSet>,
    /// `cooldownStrict`.
    pub strict: bool,
}

/// GC. Judges only dynamic and static leases of this network that carry a container ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gc {
    /// The set of leases.
    pub set: SetName,
    /// The network whose leases are judged.
    pub network: NetworkName,
    /// Attachments that live, sorted. There may be many, and a command is copied for each step.
    pub valid: Arc<[(ContainerId, IfName)]>,
    /// Go on behind this owner; `None`: from the start.
    pub after: Option<Owner>,
}
