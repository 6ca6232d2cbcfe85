//! The questions that the allocator may ask a store, and the plan that it returns.
//!
//! Invariant: no question returns all leases of a set, so the cost of an answer grows only with the depth
//! of a tree.

use super::change::{Change, Cooling, NetworkRanges, PodKey};
use super::command::Outcome;
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
    /// The address is free, but cools down.
    Cooling(Cooling),
    /// The address is leased.
    Leased(Box<Lease>),
}

/// The required precision of [`Addresses::next_free`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lowest free address of the span.
    Ascending,
    /// Any free address of the span. A store with expensive reads may return the address that is cheapest to
    /// find.
    Any,
}

/// Questions about the addresses of a set and their owners.
pub trait Addresses {
    /// Returns the state of an address.
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError>;

    /// Returns all leases of an owner, ordered by address.
    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError>;

    /// Returns the last address allocated from the range set with this key.
    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError>;

    /// Returns a free address of the span. A cooling address is not free.
    fn next_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError>;

    /// Returns up to `limit` cooling addresses of a family, ordered by the end of their cooldown, and the
    /// address whose cooldown ends last. After the clock was set back, that last cooldown may be over
    /// already.
    fn cooling(
        &self,
        set: &SetName,
        family: Family,
        limit: usize,
    ) -> Result<Vec<Cooling>, StoreError>;

    /// Of the cooling addresses within the spans, returns the one whose cooldown ends first.
    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError>;
}

/// Returns the leases of an owner. As in host-local, an owner without a lease under its full name holds the
/// leases of its container without an interface, if host-local's leases of the network were imported.
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

/// The store as one transaction sees it.
///
/// Answers may be assumptions. A local store reads. A compare-and-set store may answer [`Addresses::of`]
/// and [`Addresses::holder`] with "absent", and [`Addresses::next_free`] with the first address of the
/// span, without reading. It then compares each assumption in the commit. A failed compare returns the
/// actual value, and the store runs the allocator again. An outcome without changes (a refusal, a DEL of an
/// unknown owner, a CHECK) has no such compare: the store verifies its assumptions and runs the allocator
/// again before it returns the outcome. The allocator need not know the kind of store.
pub trait View: Addresses {
    /// Returns a pod's former address in the range set with this key.
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError>;

    /// Whether host-local's folder of this network was imported.
    fn adopted(&self, network: &NetworkName) -> Result<bool, StoreError>;

    /// Whether the store has exactly these ranges for the network. A store with expensive reads may return
    /// `true`.
    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError>;

    /// The ranges of all networks. Called only when the ranges of one network have changed.
    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError>;

    /// Returns the leases of up to `limit` owners that come after `after`, in the order of the owners. Used
    /// only by GC.
    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError>;

    /// Returns the pool with this ID. Never an assumption, because the caller got the pool's ID from the
    /// store.
    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError>;

    /// Returns a pool of the space that shares an address with this subnet.
    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError>;

    /// Returns the lowest prefix of `len` bits inside `within`, not before `from`, that is not the subnet
    /// of a pool of the space. Pools of other lengths may overlap it.
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

    /// Whether other nodes lease from this store too, each under its own name.
    fn has_other_nodes(&self) -> bool {
        false
    }

    /// Returns the stored definition of a network. Never an assumption. The embedded store has no
    /// definitions.
    fn definition(&self, _: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError> {
        Ok(None)
    }

    /// The number of changes that one commit can hold.
    fn capacity(&self) -> usize;
}

/// What the allocator knows about its environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The current time.
    pub now: Timestamp,
    /// The current boot; `None` if it cannot be determined.
    pub boot: Option<BootId>,
    /// When this boot began, by the current clock; `None` if it cannot be determined.
    pub booted: Option<Timestamp>,
    /// This machine.
    pub node: Node,
    /// Whether the machine's name is its host name, which may change.
    pub by_host_name: bool,
    /// A random number, for [`super::Strategy::Random`].
    pub seed: u64,
    /// The face that received the request. For history and counters, never for a decision.
    pub face: Face,
}

impl Context {
    /// Whether this machine made the lease in an earlier boot and the lease ended with that boot. If the boot
    /// or the machine cannot be determined, no lease has ended.
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

    /// Returns a reservation of one address. Other leases are made by changing its fields.
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

/// The changes to make, and the outcome to return once they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The changes, made together or not at all; empty if refused.
    pub changes: Vec<Change>,
    /// The outcome.
    pub outcome: Result<Outcome, Refusal>,
}

impl Plan {
    /// A plan with an outcome.
    pub fn new(changes: Vec<Change>, outcome: Outcome) -> Plan {
        Plan { changes, outcome: Ok(outcome) }
    }

    /// A plan that changes nothing.
    pub fn only(outcome: Outcome) -> Plan {
        Plan::new(Vec::new(), outcome)
    }

    /// A plan that refuses.
    pub fn refuse(refusal: Refusal) -> Plan {
        Plan { changes: Vec::new(), outcome: Err(refusal) }
    }

    /// The set of the first lease that it writes.
    pub fn set(&self) -> Option<&SetName> {
        self.changes.iter().find_map(|change| match change {
            Change::Put(lease) => Some(&lease.set),
            _ => None,
        })
    }

    /// The ranges that the plan records, if any.
    pub fn ranges(&self) -> Option<&NetworkRanges> {
        self.changes.iter().find_map(|change| match change {
            Change::PutRanges(ranges) => Some(ranges),
            _ => None,
        })
    }
}
