//! Defines the [`View`], through which the allocator reads a store, and the [`Plan`] that the allocator
//! returns: the changes to make, and the outcome.
//!
//! Invariant: no query returns all leases of a set, so the cost of a query grows only with the depth of a
//! B-tree.

use super::change::{Change, Cooling, NetworkRanges, PodKey};
use super::command::Outcome;
use super::drain::Draining;
use crate::error::{Refusal, StoreError};
use crate::model::{
    Attachment, BootId, Face, Kind, Lease, NetworkDefinition, NetworkName, Node, Origin, Owner,
    Pool, PoolId, SetName, Timestamp,
};
use crate::net::{Addr, Family, Span, Subnet};

/// The state of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The address is free.
    Free,
    /// The address is cooling down. It can be leased only if no other address is free.
    Cooling(Cooling),
    /// The address is leased.
    Leased(Box<Lease>),
}

/// The choice among several free addresses in [`Addresses::next_free`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lowest free address in the span.
    Ascending,
    /// Any free address in the span. A store whose reads are expensive may return the address that is
    /// cheapest to find.
    Any,
}

/// Queries about the addresses in a set of leases, and about their owners.
pub trait Addresses {
    /// Returns the state of an address.
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError>;

    /// Returns all leases of an owner, ordered by address.
    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError>;

    /// Returns the address that was allocated last from the range set with this key.
    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError>;

    /// Returns a free address in the span. An address that is cooling down does not count as free.
    fn next_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError>;

    /// Returns up to `limit` cooling addresses of a family, ordered by the end of their cooldown, followed by
    /// the address whose cooldown ends last. (If the clock was set back, the cooldown of that address may
    /// already be over.)
    fn cooling(
        &self,
        set: &SetName,
        family: Family,
        limit: usize,
    ) -> Result<Vec<Cooling>, StoreError>;

    /// Returns the cooling address in these spans that becomes free first.
    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError>;
}

/// Returns the leases of an owner. If the owner has no lease under its full name (container and interface),
/// returns the leases that record only the owner's container. Some of host-local's leases record no
/// interface, so the second search is made only if `adopted` returns true, that is, if the network's
/// host-local leases were imported.
pub fn held(
    addresses: &dyn Addresses,
    set: &SetName,
    owner: &Owner,
    adopted: &dyn Fn(&NetworkName) -> Result<bool, StoreError>,
) -> Result<Vec<Lease>, StoreError> {
    let held = addresses.of(set, owner)?;
    match owner {
        Owner::Attachment(a) if held.is_empty() && a.ifname.is_some() && adopted(&a.network)? => {
            addresses.of(set, &Owner::Attachment(Attachment { ifname: None, ..a.clone() }))
        }
        _ => Ok(held),
    }
}

/// The store, as one transaction sees it.
///
/// A store that reads locally returns facts. A compare-and-set store may return assumptions instead of
/// reading: "absent" for [`Addresses::of`] and [`Addresses::holder`], and the first address of the span for
/// [`Addresses::next_free`]. The commit then compares each assumption with the server's data. If a comparison
/// fails, the server returns the actual record, and the store runs the allocator again. An outcome without
/// changes (a refusal, a DEL of an unknown owner, a CHECK) needs no commit. In that case, the store verifies
/// its assumptions by reading, and runs the allocator again if one was wrong. The allocator need not know
/// which kind of store it uses.
pub trait View: Addresses {
    /// Returns a pod's former address in the range set with this key.
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError>;

    /// Returns whether host-local's folder of this network was imported.
    fn adopted(&self, network: &NetworkName) -> Result<bool, StoreError>;

    /// Returns the draining ranges of a set, in ascending order.
    fn draining(&self, set: &SetName) -> Result<Vec<Draining>, StoreError>;

    /// Returns whether the store has recorded exactly these ranges for the network. A store whose reads are
    /// expensive may return `true` without reading.
    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError>;

    /// Returns the ranges of all networks. The allocator calls this only if the ranges of a network have
    /// changed.
    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError>;

    /// Returns the leases of up to `limit` owners, ordered by owner, starting with the first owner after
    /// `after`. Only GC and EVICT use this.
    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError>;

    /// Returns the pool with this ID. The result is never an assumption, because the caller got the pool's ID
    /// from the store.
    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError>;

    /// Returns a pool in the address space that overlaps this subnet.
    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError>;

    /// Returns the lowest subnet with the prefix length `len` that lies in `within` and starts at or after
    /// `from`. Skips a subnet only if a pool of the address space is exactly this subnet. The result may
    /// still overlap pools with other prefix lengths.
    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>, StoreError>;

    /// Returns up to `limit` leases of a pool with addresses after `after`, ordered by address.
    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError>;

    /// Returns whether other nodes may use this store too. This is true for a cluster, in which each node has
    /// its own name.
    fn has_other_nodes(&self) -> bool {
        false
    }

    /// Returns the stored definition of a network. The result is never an assumption. A lease file has no
    /// definitions.
    fn definition(&self, _: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError> {
        Ok(None)
    }

    /// Returns the maximum number of changes in one commit.
    fn capacity(&self) -> usize;
}

/// Facts about the host and the request that the allocator needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The current time.
    pub now: Timestamp,
    /// The current boot; `None` if it cannot be determined.
    pub boot: Option<BootId>,
    /// When the current boot began, according to the current clock; `None` if it cannot be determined.
    pub booted: Option<Timestamp>,
    /// The node name and the machine-id of this machine.
    pub node: Node,
    /// Whether the node name is the host name, which may change.
    pub by_host_name: bool,
    /// A random number for [`super::Strategy::Random`].
    pub seed: u64,
    /// The interface through which the request came. It is used for history and counters, and never
    /// influences the plan.
    pub face: Face,
    /// The trace ID of the request, for history.
    pub trace: Option<String>,
}

impl Context {
    /// Returns whether a lease has ended because this machine has rebooted since it made the lease. Returns
    /// false if the boot ID or the machine-id is unknown.
    pub fn has_ended(&self, lease: &Lease) -> bool {
        let another_boot = match (&self.boot, &lease.boot) {
            (Some(now), Some(then)) => now != then,
            _ => false,
        };
        another_boot
            && lease.node == self.node
            && !self.node.machine.is_empty()
            && lease.ends_with_boot()
    }

    /// Makes a reservation of one address. Callers make other kinds of leases by changing its fields.
    pub fn reservation(&self, set: SetName, addr: Addr) -> Lease {
        Lease {
            set,
            addr,
            prefix: addr.family().bits(),
            kind: Kind::Reserved,
            owner: Owner::Reservation(addr),
            range: addr,
            node: self.node.clone(),
            boot: self.boot.clone(),
            origin: Origin::default(),
            time: self.now,
            cooldown: 0,
        }
    }
}

/// The result of the allocator: the changes to make, and the outcome to return once they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The changes, which are made together or not at all; empty if the command is refused.
    pub changes: Vec<Change>,
    /// The outcome to return after the changes have been made.
    pub outcome: Result<Outcome, Refusal>,
}

impl Plan {
    /// Makes a plan with changes and an outcome.
    pub fn new(changes: Vec<Change>, outcome: Outcome) -> Plan {
        Plan { changes, outcome: Ok(outcome) }
    }

    /// Makes a plan that changes nothing.
    pub fn only(outcome: Outcome) -> Plan {
        Plan::new(Vec::new(), outcome)
    }

    /// Makes the plan of a refused command.
    pub fn refuse(refusal: Refusal) -> Plan {
        Plan { changes: Vec::new(), outcome: Err(refusal) }
    }

    /// Returns the set of leases of the first lease that the plan writes.
    pub fn set(&self) -> Option<&SetName> {
        self.changes.iter().find_map(|change| match change {
            Change::Put(lease) => Some(&lease.set),
            _ => None,
        })
    }

    /// Returns the ranges that the plan records, if any.
    pub fn ranges(&self) -> Option<&NetworkRanges> {
        self.changes.iter().find_map(|change| match change {
            Change::PutRanges(ranges) => Some(ranges),
            _ => None,
        })
    }
}
