//! The records of a store, in the form in which they are copied to another store.

use super::change::{Cooling, PodKey};
use super::drain::Draining;
use crate::model::{Lease, NetworkDefinition, NetworkName, Owner, Pool, SetName, Timestamp};
use crate::net::Addr;

/// One record of a store. Records that are derived from others (indexes, ranges for warnings) are not
/// included.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    clippy::large_enum_variant,
    reason = "only one page of records is in memory, and most of them are leases"
)]
pub enum Record {
    /// A pool that Docker has requested.
    Pool(Pool),
    /// A network's definition. Only a cluster stores definitions.
    Definition(NetworkDefinition),
    /// An address and its owner.
    Lease(Lease),
    /// A freed address that is cooling down.
    Cooling(SetName, Cooling),
    /// The address that was allocated last from a range set: set of leases, key of the range set, address.
    Cursor(SetName, Addr, Addr),
    /// A pod's former address: set of leases, pod, key of the range set, address.
    Sticky(SetName, PodKey, Addr, Addr),
    /// A draining range, from which no new address is leased.
    Draining(Draining),
    /// A network, and the time at which another program's leases of this network were imported.
    Adopted(NetworkName, Timestamp),
}

impl Record {
    /// Returns the set of leases to which the record belongs; `None` if the record belongs to no set.
    pub fn set(&self) -> Option<SetName> {
        let set = match self {
            // These records apply to all files of a host, no matter which file contains the leases of a
            // network.
            Record::Pool(_) | Record::Adopted(..) | Record::Definition(_) => return None,
            Record::Lease(lease) => &lease.set,
            Record::Draining(range) => &range.set,
            Record::Cooling(set, _) | Record::Cursor(set, ..) | Record::Sticky(set, ..) => set,
        };
        (!set.is_pools()).then(|| set.clone())
    }

    /// Returns a name for the record, for operators. No other record of the store has the same name.
    pub fn name(&self) -> String {
        match self {
            Record::Pool(pool) => format!("pool {}", pool.id),
            Record::Definition(record) => format!("definition of network {}", record.network),
            // The container of that name may have leased the same address. That lease is a separate record,
            // so the two records need different names.
            Record::Lease(Lease { owner: Owner::Named(name), addr, set, .. }) => {
                format!("reservation of {addr} for {name} in {set}")
            }
            Record::Lease(lease) => format!("lease of {} in {}", lease.addr, lease.set),
            Record::Cooling(set, cooling) => format!("cooldown of {} in {set}", cooling.addr),
            Record::Cursor(set, range, _) => format!("last address of range {range} in {set}"),
            Record::Sticky(set, pod, range, _) => {
                format!("address of pod {}/{} of range {range} in {set}", pod.namespace, pod.name)
            }
            Record::Draining(range) => {
                format!("draining of {} in {}", range.span.brief(), range.set)
            }
            Record::Adopted(network, _) => format!("import record of network {network}"),
        }
    }
}
