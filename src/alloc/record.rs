//! The records of a store, in the form in which a copy or an export transfers them.

use super::change::{Cooling, PodKey};
use crate::model::{Lease, NetworkDefinition, NetworkName, Owner, Pool, SetName, Timestamp};
use crate::net::Addr;

/// One record of a store. Data that is derived from other records (indexes, ranges for warnings) is not
/// included.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a slice of a store at a time, and most are leases")]
pub enum Record {
    /// A pool of a container engine.
    Pool(Pool),
    /// A network's definition. Only a cluster stores definitions.
    Definition(NetworkDefinition),
    /// An address and its owner.
    Lease(Lease),
    /// A freed address that is cooling down.
    Cooling(SetName, Cooling),
    /// The last address that was allocated from the range set with this key: set of leases, key, address.
    Cursor(SetName, Addr, Addr),
    /// The former address of a pod: set of leases, pod, key of the range set, address.
    Sticky(SetName, PodKey, Addr, Addr),
    /// The time at which another program's leases for this network were imported.
    Adopted(NetworkName, Timestamp),
}

impl Record {
    /// Returns the set of leases to which the record belongs; `None` for records that belong to no network's
    /// set.
    pub fn set(&self) -> Option<SetName> {
        let set = match self {
            // All networks of a host share these records, no matter which file has the leases of a network.
            Record::Pool(_) | Record::Adopted(..) | Record::Definition(_) => return None,
            Record::Lease(lease) => &lease.set,
            Record::Cooling(set, _) | Record::Cursor(set, ..) | Record::Sticky(set, ..) => set,
        };
        (!set.is_pools()).then(|| set.clone())
    }

    /// Returns the name of the record for operators. It is unique among the records of a store.
    pub fn name(&self) -> String {
        match self {
            Record::Pool(pool) => format!("pool {}", pool.id),
            Record::Definition(record) => format!("definition of network {}", record.network),
            // The container of that name may have a lease of the same address.
            Record::Lease(Lease { owner: Owner::Named(name), addr, set, .. }) => {
                format!("reservation of {addr} for {name} in {set}")
            }
            Record::Lease(lease) => format!("lease of {} in {}", lease.addr, lease.set),
            Record::Cooling(set, cooling) => format!("cooling of {} in {set}", cooling.addr),
            Record::Cursor(set, range, _) => format!("last address of range {range} in {set}"),
            Record::Sticky(set, pod, range, _) => {
                format!("address of pod {}/{} of range {range} in {set}", pod.namespace, pod.name)
            }
            Record::Adopted(network, _) => format!("takeover of network {network}"),
        }
    }
}
