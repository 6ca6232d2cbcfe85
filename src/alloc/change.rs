//! What a plan changes in a store.

use crate::model::{Lease, NetworkDefinition, NetworkName, Pool, SetName, Timestamp};
use crate::net::{Addr, Span};

/// One change of the store. A plan's changes are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a lease: of an address that was free or cooling, or the owner's own one again.
    Put(Lease),
    /// Free a lease; with `until`, keep the address back until then.
    Free {
        /// As it was read.
        lease: Lease,
        /// First second in which it is free again.
        until: Option<Timestamp>,
    },
    /// Let a cooling address go.
    Thaw(SetName, Cooling),
    /// Keep a free address back.
    Cool(SetName, Cooling),
    /// Remember the address given last.
    Cursor(SetName, Addr, Addr),
    /// Remember a pod's address: pod namespace and name, range set, address. Outlives a boot.
    Sticky(SetName, PodKey, Addr, Addr),
    /// Remember the ranges that a network's ADD used.
    PutRanges(NetworkRanges),
    /// Remember that host-local's folder was taken over. Outlives a boot.
    Adopted(NetworkName, Timestamp),
    /// Write a pool: a new one, or the same with other users.
    PutPool(Pool),
    /// Forget a pool, none of whose leases is left.
    DropPool(Pool),
    /// Write a network's definition. Only a cluster stores definitions.
    PutDefinition(NetworkDefinition),
}

/// The ranges of a network as its last ADD had them. A store remembers them, so that an ADD notices a
/// change and warns when networks overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRanges {
    /// The set of leases it draws from.
    pub set: SetName,
    /// The network.
    pub network: NetworkName,
    /// First and last address of each range.
    pub bounds: Vec<Span>,
    /// The addresses that can be leased, range by range: gateways and exclusions left out.
    pub assignable: Vec<Span>,
}

/// An address that was freed and is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cooling {
    /// First second in which it is free again.
    pub until: Timestamp,
    /// The address.
    pub addr: Addr,
    /// When it was freed: a clock set back to before this ends the cooling.
    pub freed: Timestamp,
}

impl Cooling {
    /// Whether it is free again.
    pub fn over(&self, now: Timestamp) -> bool {
        now >= self.until || now < self.freed
    }
}

/// A pod as `sticky` knows it: by namespace and name, for its UID changes when it is made again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodKey {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
}
