//! The commands with which Docker manages pools and their addresses.

use crate::model::{Lease, Origin, PoolId, Timestamp};
use crate::net::{Addr, Span, Subnet};

/// Requests a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPool {
    /// The address space of the pool.
    pub space: String,
    /// The requested subnet.
    pub ask: Ask,
    /// The sub-pool: the part of the subnet from which addresses are allocated.
    pub sub: Option<Subnet>,
    /// The name under which hosts share the pool; `None` for an unshared pool.
    pub shared: Option<Shared>,
    /// Spans to which the host already has routes. A pool that is chosen automatically must not overlap them.
    pub avoid: Vec<Span>,
}

/// The subnet that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Exactly this subnet.
    Exactly(Subnet),
    /// The first free subnet in these supernets.
    Any(Vec<Block>),
}

/// A supernet from which automatic pools are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The supernet that contains the automatic pools.
    pub within: Subnet,
    /// The prefix length of the automatic pools, in bits. It is at least the supernet's prefix length.
    pub len: u8,
}

/// A pool that several hosts share by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// The name, from kontena-ipam's option `network=`.
    pub name: String,
    /// The ID that the pool gets in its address space and address family.
    pub id: PoolId,
}

/// Releases a pool. Releasing a pool that does not exist also succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasePool {
    /// The ID of the pool to release.
    pub pool: PoolId,
    /// Whether this step continues a release. The first step of the release has already removed this node
    /// from the pool's users.
    pub resumed: bool,
}

impl ReleasePool {
    /// Makes the command for the first step of a pool's release.
    pub fn of(pool: PoolId) -> ReleasePool {
        ReleasePool { pool, resumed: false }
    }
}

/// Sweeps a pool: frees the addresses that this node has leased and that Docker does not list in any network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The ID of the pool to sweep.
    pub pool: PoolId,
    /// The addresses that Docker lists in the pool's network, sorted; `None` if Docker has no network with
    /// this pool.
    pub known: Option<Vec<Addr>>,
    /// Leases that were made at this time or later stay, because Docker may not have listed their addresses
    /// yet.
    pub before: Timestamp,
    /// Whether to only report the addresses that would be freed.
    pub dry: bool,
    /// The addresses that responded to a ping, sorted. They stay leased.
    pub alive: Vec<Addr>,
}

/// Imports another program's pool. A repeated import adds only what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptPool {
    /// The pool's ID, which stays the same.
    pub id: PoolId,
    /// The address space of the pool.
    pub space: String,
    /// The subnet of the pool.
    pub subnet: Subnet,
    /// The addresses that are leased in the pool.
    pub addrs: Vec<Addr>,
}

/// Requests an address of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAddress {
    /// The ID of the pool.
    pub pool: PoolId,
    /// The requested address, which may lie anywhere in the pool's subnet; `None` for the lowest free address
    /// of the sub-pool.
    pub requested: Option<Addr>,
    /// Whether the address is requested for the network's gateway.
    pub gateway: bool,
    /// Whether to allocate the next free address after the address that was last allocated with `serial`.
    /// Otherwise, the lowest free address is allocated.
    pub serial: bool,
    /// The origin of the request, stored with the lease.
    pub origin: Origin,
}

/// Releases an address of a pool. Releasing an address that is already free also succeeds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseAddress {
    /// The ID of the pool.
    pub pool: PoolId,
    /// The address to release.
    pub addr: Addr,
    /// If set, the address is freed only if it still has exactly this lease. Used to undo a request whose
    /// response could not be delivered.
    pub only: Option<Box<Lease>>,
}
