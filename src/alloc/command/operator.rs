//! The commands of an operator, of the daemon, and of imports and copies.

use crate::alloc::record::Record;
use crate::model::{Kind, Lease, NetworkName, Origin, Owner, Persist, SetName};
use crate::net::Addr;

/// Frees what the asking node ([`crate::alloc::Context::node`]) holds of one set. Reservations stay, as an
/// operator's, and so do addresses of pools, which go with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evict {
    /// The set of leases.
    pub set: SetName,
    /// Only what has ended with an earlier boot.
    pub only_ended: bool,
    /// Go on behind this owner; `None`: from the start.
    pub after: Option<Owner>,
}

/// Keeps a network's definition, if the one that is kept is of the version that is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefineNetwork {
    /// The network.
    pub network: NetworkName,
    /// [`crate::model::NetworkDefinition::text`].
    pub text: String,
    /// The version that must be stored now; `None`: no definition is stored yet.
    pub version: Option<u64>,
}

/// Sets addresses aside: they are given to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The set of leases.
    pub set: SetName,
    /// The addresses, one by one: an address somebody holds refuses them all.
    pub addrs: Vec<Addr>,
    /// What for; kept with each. Said again, it replaces what was written before.
    pub note: Option<String>,
    /// Whose; kept with each.
    pub holder: Option<String>,
}

/// Lets reserved addresses be given again. Those that are not reserved stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreserve {
    /// The set of leases.
    pub set: SetName,
    /// The addresses, one by one.
    pub addrs: Vec<Addr>,
}

/// IMPORT. Leases that are here already under the same owner stay as they are; an address with
/// another holder refuses them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The set of leases.
    pub set: SetName,
    /// The leases.
    pub leases: Vec<ForeignLease>,
    /// The addresses given last, of whichever ranges.
    pub cursors: Vec<Addr>,
    /// The network whose host-local folder this is: recorded as taken over; one that was is left
    /// alone ([`super::Imported::Before`]).
    pub adopts: Option<NetworkName>,
    /// More of the network's leases follow: it is not recorded as taken over yet.
    pub partial: bool,
    /// Answer what would come of it, and change nothing.
    pub dry_run: bool,
}

/// A lease that another program made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignLease {
    /// The address.
    pub addr: Addr,
    /// What for.
    pub kind: Kind,
    /// Whose.
    pub owner: Owner,
}

impl ForeignLease {
    /// Returns the origin that follows from the owner.
    pub fn origin(&self) -> Origin {
        Origin { attachment: self.owner.attachment().cloned(), ..Origin::default() }
    }
}

/// EXPORT: moves leases to host-local. Returns the last allocated address of each range set in `ranges`, so
/// that host-local can continue the rotation, and frees `leases`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportHostLocal {
    /// The set of leases.
    pub set: SetName,
    /// The range sets whose last allocated address is returned, each by its first address
    /// ([`crate::net::RangeSet::key`]).
    pub ranges: Vec<Addr>,
    /// The leases already written to host-local's folder, as read from the store. A lease that has changed
    /// since it was read is not freed.
    pub leases: Vec<Lease>,
}

/// Writes records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restore {
    /// The set of leases that all of them go with, if with any.
    pub set: Option<SetName>,
    /// How long they live, where that can be chosen.
    pub persist: Persist,
    /// The records. Pools come one in a command.
    pub records: Vec<Record>,
    /// Only tell what stands in the way.
    pub dry_run: bool,
}
