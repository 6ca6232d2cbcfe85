//! The commands of a container engine: pools and their addresses.

use crate::model::{Lease, Origin, PoolId, Timestamp};
use crate::net::{Addr, Span, Subnet};

/// Asks for a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestPool {
    /// The address space.
    pub space: String,
    /// Which subnet.
    pub ask: Ask,
    /// The part of it to draw addresses from; inside the subnet, and smaller.
    pub sub: Option<Subnet>,
    /// Under which name it is shared.
    pub shared: Option<Shared>,
    /// What the host routes elsewhere: an automatic pool keeps clear of it.
    pub avoid: Vec<Span>,
}

/// Which subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// This one.
    Exactly(Subnet),
    /// The first free block of these.
    Any(Vec<Block>),
}

/// Where automatic pools come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The supernet.
    pub within: Subnet,
    /// Prefix length of a block in bits, not less than the supernet's.
    pub len: u8,
}

/// A pool that several hosts use by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// kontena's `network=`.
    pub name: String,
    /// What it is called in its space and family.
    pub id: PoolId,
}

/// Lets a pool go. Letting go what is not there is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleasePool {
    /// The pool.
    pub pool: PoolId,
    /// A further step: the first one has ended this node's use.
    pub resumed: bool,
}

impl ReleasePool {
    /// One use of this pool less.
    pub fn of(pool: PoolId) -> ReleasePool {
        ReleasePool { pool, resumed: false }
    }
}

/// Frees this node's addresses of a pool that the container engine does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// The pool.
    pub pool: PoolId,
    /// The addresses that the engine knows, sorted; `None`: it knows no network with this pool.
    pub known: Option<Vec<Addr>>,
    /// What was leased at this time or later is left alone: the engine may not have told of it yet.
    pub before: Timestamp,
    /// Only tell.
    pub dry: bool,
    /// Addresses that are in use all the same (they answered), sorted.
    pub alive: Vec<Addr>,
}

/// Takes over a pool that another program gave out. Repeatable; adds what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptPool {
    /// What it is called; kept.
    pub id: PoolId,
    /// The address space.
    pub space: String,
    /// Its subnet.
    pub subnet: Subnet,
    /// What is leased of it.
    pub addrs: Vec<Addr>,
}

/// Asks for an address of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestAddress {
    /// The pool.
    pub pool: PoolId,
    /// This address, anywhere in the pool's subnet; `None`: the lowest free one of the sub-pool.
    pub requested: Option<Addr>,
    /// It is to be the gateway.
    pub gateway: bool,
    /// The next free one after the last that was given so, instead of the lowest.
    pub serial: bool,
    /// Kept with the lease.
    pub origin: Origin,
}

/// Frees an address of a pool. Freeing what is not held is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseAddress {
    /// The pool.
    pub pool: PoolId,
    /// The address.
    pub addr: Addr,
    /// Only if this very lease stands: takes back a request whose answer could not be delivered.
    pub only: Option<Box<Lease>>,
}
