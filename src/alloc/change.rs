//! The changes that a plan makes to a store.

use super::drain::Draining;
use crate::model::{Lease, NetworkDefinition, NetworkName, Pool, SetName, Timestamp};
use crate::net::{Addr, Span};

/// One change to the records of a store. A plan's changes are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a lease. Its address must be free, cooling down, or leased to the same owner.
    Put(Lease),
    /// Free a lease. If `until` is set, the address cools down until that time.
    Free {
        /// The lease, exactly as it was read.
        lease: Lease,
        /// The first second in which the address is free again.
        until: Option<Timestamp>,
    },
    /// Remove the cooldown of an address.
    Thaw(SetName, Cooling),
    /// Start the cooldown of a free address.
    Cool(SetName, Cooling),
    /// Store the address that was allocated last: set of leases, key of the range set, address.
    Cursor(SetName, Addr, Addr),
    /// Store a pod's former address, which survives a reboot: set of leases, pod, key of the range set,
    /// address.
    Sticky(SetName, PodKey, Addr, Addr),
    /// Store the ranges that a network's ADD used.
    PutRanges(NetworkRanges),
    /// Store the draining ranges of a set. They replace all earlier draining ranges of the set.
    PutDraining(SetName, Vec<Draining>),
    /// Record that the host-local folder of a network was imported. The record survives a reboot.
    Adopted(NetworkName, Timestamp),
    /// Write a new pool, or change the users of an existing one.
    PutPool(Pool),
    /// Remove a pool that has no leases.
    DropPool(Pool),
    /// Write a network's definition. Only a cluster stores definitions.
    PutDefinition(NetworkDefinition),
}

/// The ranges of a network at its last ADD. They are stored so that the next ADD notices changed ranges and
/// can warn about overlapping networks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRanges {
    /// The set of leases that the network uses.
    pub set: SetName,
    /// The network to which the ranges belong.
    pub network: NetworkName,
    /// The first and last address of each range.
    pub bounds: Vec<Span>,
    /// The allocatable addresses, range by range, without gateways and exclusions.
    pub assignable: Vec<Span>,
}

/// A freed address that is cooling down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cooling {
    /// The first second in which the address is free again.
    pub until: Timestamp,
    /// The address that is cooling down.
    pub addr: Addr,
    /// When the address was freed. If the clock is set back to before this time, the cooldown ends.
    pub freed: Timestamp,
}

impl Cooling {
    /// Returns whether the cooldown has ended.
    pub fn over(&self, now: Timestamp) -> bool {
        now >= self.until || now < self.freed
    }
}

/// The namespace and name of a pod. The configuration key `sticky` identifies pods by these two values, not
/// by the UID, because a recreated pod gets a new UID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodKey {
    /// The pod's namespace (`K8S_POD_NAMESPACE`).
    pub namespace: String,
    /// The pod's name (`K8S_POD_NAME`).
    pub name: String,
}
