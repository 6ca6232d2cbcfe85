//! What the allocator may ask of a store, and what it gives back.
//!
//! Owns: the point questions. Invariant: no question returns all leases of a set, so no answer's
//! cost grows with their number beyond a tree's depth.

use super::change::{Change, Cooling, NetworkRanges, PodKey};
use super::command::Outcome;
use crate::error::{Refusal, StoreError};
use crate::model::{
    Attachment, BootId, Face, Kind, Lease, NetworkDefinition, NetworkName, Node, Origin, Owner,
    Pool, PoolId, SetName, Timestamp,
};
use crate::net::{Addr, Family, Span, Subnet};

/// What is known of one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Nobody has it.
    Free,
    /// Nobody has it, and it is kept back for a while.
    Cooling(Cooling),
    /// This lease has it.
    Leased(Box<Lease>),
}

/// How exact the answer to [`Addresses::next_free`] must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The lowest free address of the span.
    Ascending,
    /// Any free address of the span; the lowest is as good a guess as any. A store for which
    /// looking is dear may answer whatever is cheapest to know.
    Any,
}

/// Questions about the addresses of a set and their owners.
pub trait Addresses {
    /// Who has this address.
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError>;

    /// All leases of an owner, by address.
    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError>;

    /// The address given last from the range set with this key.
    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError>;

    /// A free address of the span; a cooling one is not free.
    fn next_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError>;

    /// Up to `limit` cooling addresses of a family, those that end first first, and the one that
    /// ends last: after the clock was set back it is the one that should have ended.
    fn cooling(
        &self,
        set: &SetName,
        family: Family,
        limit: usize,
    ) -> Result<Vec<Cooling>, StoreError>;

    /// The cooling address within the spans that ends first.
    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError>;
}

/// What an owner holds. As in host-local, an owner that holds nothing under its full name holds what is
/// under its container alone, if host-local's leases of its network were adopted.
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
/// Answers may be assumptions. A local store looks; a compare-and-set store may answer
/// [`Addresses::of`] and [`Addresses::holder`] as absent, and [`Addresses::next_free`] as the span's first,
/// without looking, and keep each as a compare of the commit. When a compare fails it has learned
/// the truth and runs the allocator again. What changes nothing (a refusal, a DEL of nothing, a
/// CHECK) has no compare to guard it: the store verifies its assumptions and runs the allocator
/// again before it concludes so. The allocator need not know which kind it talks to.
pub trait View: Addresses {
    /// A pod's former address in the range set with this key.
    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError>;

    /// Whether host-local's folder of this network was taken over.
    fn adopted(&self, network: &NetworkName) -> Result<bool, StoreError>;

    /// Whether the store remembers exactly these ranges. A store with expensive reads may answer
    /// `true`.
    fn has_ranges(&self, ranges: &NetworkRanges) -> Result<bool, StoreError>;

    /// The ranges of all networks. Asked only when those of one network have changed.
    fn networks(&self) -> Result<Vec<NetworkRanges>, StoreError>;

    /// Up to `limit` owners' leases, in the owners' order, behind `after`. For GC alone.
    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError>;

    /// The pool of this name. Never a guess: whoever has a pool's name was given it.
    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError>;

    /// A pool of the space that shares an address with this subnet.
    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError>;

    /// The lowest prefix of `len` bits inside `within`, not before `from`, that is not itself the
    /// subnet of a pool of the space. Pools of other lengths may overlap it.
    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>, StoreError>;

    /// Up to `limit` leases taken through a pool, by address, behind `after`.
    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError>;

    /// Whether other nodes lease from this store too, each under a name of its own.
    fn has_other_nodes(&self) -> bool {
        false
    }

    /// The definition that is stored for a network. Never an assumption. The embedded store has none.
    fn definition(&self, _: &NetworkName) -> Result<Option<NetworkDefinition>, StoreError> {
        Ok(None)
    }

    /// How many changes one commit can hold.
    fn capacity(&self) -> usize;
}

/// What the allocator is told of the world.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The time.
    pub now: Timestamp,
    /// The boot; `None` if it cannot be known.
    pub boot: Option<BootId>,
    /// When this boot began, by the clock of now; `None` if it cannot be known.
    pub booted: Option<Timestamp>,
    /// The machine.
    pub node: Node,
    /// Whether the machine's name is its host name, which may change.
    pub by_host_name: bool,
    /// Chance, for [`super::Strategy::Random`].
    pub seed: u64,
    /// Who asks: for history and counters, never for a decision.
    pub face: Face,
}

impl Context {
    /// Whether this machine made the lease in an earlier boot with which it ended. Where the boot or
    /// the machine cannot be told, nothing has ended.
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

    /// Returns a reservation of one address. Other leases are made from it.
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

/// What to change, and what to answer once that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Made together or not at all; empty if refused.
    pub changes: Vec<Change>,
    /// The answer.
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

    /// The ranges that it records, if it does.
    pub fn ranges(&self) -> Option<&NetworkRanges> {
        self.changes.iter().find_map(|change| match change {
            Change::PutRanges(ranges) => Some(ranges),
            _ => None,
        })
    }
}
