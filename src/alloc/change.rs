//! The changes that a plan makes to a store.

use crate::model::{Lease, NetworkDefinition, NetworkName, Pool, SetName, Timestamp};
use crate::net::{Addr, Span};

/// One change of the store. A plan's changes are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a lease: for an address that was free or cooling down, or for its present owner.
    Put(Lease),
    /// Free a lease. With `until`, the address cools down until then.
    Free {
        /// The lease, as it was read.
        lease: Lease,
        /// The first second in which the address is free again.
        until: Option<Timestamp>,
    },
    /// Remove the cooldown of an address.
    Thaw(SetName, Cooling),
    /// Start the cooldown of a free address.
    Cool(SetName, Cooling),
    /// Store the last allocated address.
    Cursor(SetName, Addr, Addr),
    /// Store a pod's former address: pod namespace and name, range set, address. Survives a reboot.
    Sticky(SetName, PodKey, Addr, Addr),
    /// Store the ranges that a network's ADD used.
    PutRanges(NetworkRanges),
    /// Record that host-local's folder was imported. Survives a reboot.
    Adopted(NetworkName, Timestamp),
    /// Write a new pool, or change the users of an existing one.
    PutPool(Pool),
    /// Remove a pool that has no leases.
    DropPool(Pool),
    /// Write a network's definition. Only a cluster stores definitions.
    PutDefinition(NetworkDefinition),
}

/// The ranges of a network at its last ADD. A store keeps them, so that an ADD notices a change and warns
/// if networks overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRanges {
    /// The set of leases that the network draws from.
    pub set: SetName,
    /// The network.
    pub network: NetworkName,
    /// First and last address of each range.
    pub bounds: Vec<Span>,
    /// The allocatable addresses, range by range, without gateways and exclusions.
    pub assignable: Vec<Span>,
}

/// A freed address that cools down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cooling {
    /// The first second in which the address is free again.
    pub until: Timestamp,
    /// The address.
    pub addr: Addr,
    /// When the address was freed. If the clock is set back to before this time, the cooldown ends.
    pub freed: Timestamp,
}

impl Cooling {
    /// Whether the cooldown has ended.
    pub fn over(&self, now: Timestamp) -> bool {
        now >= self.until || now < self.freed
    }
}

/// A pod as `sticky` identifies it: by namespace and name, because its UID changes when the pod is
/// recreated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodKey {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
}
