//! The records of a store, as a copy or an export carries them.

use super::change::{Cooling, PodKey};
use crate::model::{Lease, NetworkDefinition, NetworkName, Pool, SetName, Timestamp};
use crate::net::Addr;

/// One record of a store. What can be derived from others (indexes, the bounds kept for warnings) is
/// none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "a slice of a store at a time, and most are leases")]
pub enum Record {
    /// A pool of a container engine.
    Pool(Pool),
    /// A network's definition. Only a cluster stores definitions.
    Definition(NetworkDefinition),
    /// An address, and who has it.
    Lease(Lease),
    /// An address that was freed and is kept back.
    Cooling(SetName, Cooling),
    /// The address given last from the range set with this key.
    Cursor(SetName, Addr, Addr),
    /// A pod's former address in the range set with this key.
    Sticky(SetName, PodKey, Addr, Addr),
    /// Another program's leases for this network were taken over then.
    Adopted(NetworkName, Timestamp),
}

impl Record {
    /// The network's set of leases that it goes with; `None`: with none, as pools and what is theirs.
    pub fn set(&self) -> Option<SetName> {
        let set = match self {
            // Known to all of a host's networks, whatever file their leases are in.
            Record::Pool(_) | Record::Adopted(..) | Record::Definition(_) => return None,
            Record::Lease(lease) => &lease.set,
            Record::Cooling(set, _) | Record::Cursor(set, ..) | Record::Sticky(set, ..) => set,
        };
        (!set.is_pools()).then(|| set.clone())
    }

    /// What a person calls it; no two records of a store are called the same.
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
