//! The records of a store, as a copy or an export transfers them.

use super::change::{Cooling, PodKey};
use crate::model::{Lease, NetworkDefinition, NetworkName, Pool, SetName, Timestamp};
use crate::net::Addr;

/// One record of a store. Derived data (indexes, the bounds for warnings) is not a record.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a slice of a store at a time, and most are leases")]
pub enum Record {
    /// A pool of a container engine.
    Pool(Pool),
    /// A network's definition. Only a cluster stores definitions.
    Definition(NetworkDefinition),
    /// An address and its owner.
    Lease(Lease),
    /// A freed address that cools down.
    Cooling(SetName, Cooling),
    /// The last address allocated from the range set with this key.
    Cursor(SetName, Addr, Addr),
    /// A pod's former address in the range set with this key.
    Sticky(SetName, PodKey, Addr, Addr),
    /// The time at which another program's leases for this network were imported.
    Adopted(NetworkName, Timestamp),
}

impl Record {
    /// The network's set of leases to which the record belongs; `None` for pools and their leases.
    pub fn set(&self) -> Option<SetName> {
        let set = match self {
            // All networks of a host share these records, whichever file has their leases.
            Record::Pool(_) | Record::Adopted(..) | Record::Definition(_) => return None,
            Record::Lease(lease) => &lease.set,
            Record::Cooling(set, _) | Record::Cursor(set, ..) | Record::Sticky(set, ..) => set,
        };
        (!set.is_pools()).then(|| set.clone())
    }

    /// The name that operators see. It is unique among the records of a store.
    pub fn name(&self) -> String {
        match self {
            Record::Pool(pool) => format!("pool {}", pool.id),
            Record::Definition(record) => format!("definition of network {}", record.network),
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
