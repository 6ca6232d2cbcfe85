//! The commands of a container engine for pools and their addresses.

use crate::model::{Lease, Origin, PoolId, Timestamp};
use crate::net::{Addr, Span, Subnet};

/// Requests a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPool {
    /// The address space.
    pub space: String,
    /// The requested subnet.
    pub ask: Ask,
    /// The sub-pool from which addresses are allocated. It lies inside the subnet and is smaller.
    pub sub: Option<Subnet>,
    /// The name under which the pool is shared.
    pub shared: Option<Shared>,
    /// Addresses that the host routes elsewhere. An automatic pool avoids them.
    pub avoid: Vec<Span>,
}

/// The requested subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Exactly this subnet.
    Exactly(Subnet),
    /// The first free block of these supernets.
    Any(Vec<Block>),
}

/// A supernet from which automatic pools are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The supernet.
    pub within: Subnet,
    /// Prefix length of a block in bits, not less than the supernet's.
    pub len: u8,
}

/// A pool that several hosts share by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// kontena's `network=`.
    pub name: String,
    /// The pool's ID in its space and family.
    pub id: PoolId,
}

/// Releases a pool. Releasing an unknown pool is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasePool {
    /// The pool.
    pub pool: PoolId,
    /// Whether this is a further step: the first step has ended this node's use of the pool.
    pub resumed: bool,
}

impl ReleasePool {
    /// Ends one use of this pool.
    pub fn of(pool: PoolId) -> ReleasePool {
        ReleasePool { pool, resumed: false }
    }
}

/// Sweeps a pool: frees this node's addresses that the container engine does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The pool.
    pub pool: PoolId,
    /// The addresses that the engine knows, sorted; `None` if it knows no network with this pool.
    pub known: Option<Vec<Addr>>,
    /// Addresses leased at this time or later stay: the engine may not have listed them yet.
    pub before: Timestamp,
    /// Only reports what would be freed.
    pub dry: bool,
    /// Addresses that answered a ping and therefore stay, sorted.
    pub alive: Vec<Addr>,
}

/// Imports another program's pool. It can be repeated: a repeated import adds what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptPool {
    /// The pool's ID, which it keeps.
    pub id: PoolId,
    /// The address space.
    pub space: String,
    /// Its subnet.
    pub subnet: Subnet,
    /// The leased addresses.
    pub addrs: Vec<Addr>,
}

/// Requests an address of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAddress {
    /// The pool.
    pub pool: PoolId,
    /// The requested address, anywhere in the pool's subnet; `None` for the lowest free address of the
    /// sub-pool.
    pub requested: Option<Addr>,
    /// Whether the address becomes the gateway.
    pub gateway: bool,
    /// Allocates the next free address after the last address that was allocated with this setting, instead
    /// of the lowest.
    pub serial: bool,
    /// The origin, stored with the lease.
    pub origin: Origin,
}

/// Releases an address of a pool. Releasing a free address is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseAddress {
    /// The pool.
    pub pool: PoolId,
    /// The address.
    pub addr: Addr,
    /// Frees the address only if it still has this lease. Used to undo a request whose answer could not be
    /// delivered.
    pub only: Option<Box<Lease>>,
}
