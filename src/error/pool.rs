//! Refusals about pools, with the texts of Docker and kontena.

use crate::model::{Lease, Pool, PoolId};
use crate::net::{Addr, Subnet};

/// Why a request about a pool or its addresses is refused. The texts are those of Docker's `ipamapi`, word
/// for word, or kontena-ipam's for shared pools, because users search for them.
/// [`PoolRefusal::explanation`] adds the missing details for the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolRefusal {
    /// No pool has this name.
    #[error("address space does not contain specified address pool")]
    Unknown(PoolId),
    /// Another node has the pool, which is not shared.
    #[error("cannot release pool {pool}: it belongs to node {node}")]
    OfAnotherNode {
        /// The pool.
        pool: PoolId,
        /// The node.
        node: String,
    },
    /// The subnet overlaps another pool of the space.
    #[error("{}", match .shared {
        None => "invalid pool request: Pool overlaps with other one on this address space".to_owned(),
        Some(_) => format!("{} conflict: Conflict with network {taken}", .subnet.first()),
    })]
    Overlap {
        /// The requested subnet.
        subnet: Subnet,
        /// The other pool.
        with: PoolId,
        /// The subnet of the other pool.
        taken: Subnet,
        /// The name under which the pool was to be shared.
        shared: Option<String>,
    },
    /// Every block of the supernets is in use, by pools or by the host's routes.
    #[error("all predefined address pools have been fully subnetted")]
    NoBlock,
    /// A shared pool with this name exists, but differs from the request.
    #[error("pool {name} exists with {what} {has}, requested {asked}")]
    Differs {
        /// Its name.
        name: String,
        /// "subnet" or "iprange".
        what: &'static str,
        /// The value of the existing pool.
        has: String,
        /// The requested value.
        asked: String,
    },
    /// A shared pool's subnet is routed elsewhere on this host.
    #[error("pool {name} exists with subnet {subnet}, which this host routes elsewhere")]
    Routed {
        /// Its name.
        name: String,
        /// Its subnet.
        subnet: Subnet,
    },
    /// The address has a holder, or is the network or broadcast address.
    #[error("Address already in use")]
    Taken {
        /// The address.
        addr: Addr,
        /// The lease that has the address.
        holder: Option<Box<Lease>>,
    },
    /// The address lies outside the pool's subnet.
    #[error("requested address is out of range")]
    OutOfRange {
        /// The address.
        addr: Addr,
        /// The subnet.
        subnet: Subnet,
    },
    /// No address of the pool is free.
    #[error("no available addresses on this pool")]
    Exhausted(PoolId),
}

impl PoolRefusal {
    /// The refusal of a subnet that overlaps another pool. `shared` is the requested name, if any.
    pub fn overlap(subnet: Subnet, other: Pool, shared: Option<String>) -> PoolRefusal {
        PoolRefusal::Overlap { subnet, with: other.id, taken: other.subnet, shared }
    }

    /// Explains the refusal and what to do, in one line.
    pub fn explanation(&self) -> String {
        match self {
            PoolRefusal::Unknown(id) => {
                format!("there is no pool {id}; remove the network and create it again")
            }
            PoolRefusal::OfAnotherNode { node, .. } => {
                format!(
                    "remove the network on {node}; if that machine is gone, run `sublet node release {node}`"
                )
            }
            PoolRefusal::Overlap { subnet, with, taken, .. } => {
                format!("{subnet} overlaps {taken} of pool {with}; choose another --subnet")
            }
            PoolRefusal::NoBlock => {
                "add a supernet with --v4 or --v6, make the blocks smaller, remove \
                networks, or run `subletd cleanup`"
                    .to_owned()
            }
            PoolRefusal::Differs { name, .. } => {
                format!("ask for the same on every host, or use another name than network={name}")
            }
            PoolRefusal::Routed { subnet, .. } => format!(
                "see `ip route`; say --subnet {subnet} if the route leads to this very network"
            ),
            PoolRefusal::Taken { addr, holder: Some(lease) } => match &lease.origin.endpoint {
                Some(name) => format!("{addr} is held by {name}, {}", lease.owner),
                None => format!("{addr} is held by {} ({})", lease.owner, lease.kind.word()),
            },
            PoolRefusal::Taken { addr, holder: None } => {
                format!("{addr} is the network or the broadcast address")
            }
            PoolRefusal::OutOfRange { addr, subnet } => format!("{addr} is not in {subnet}"),
            PoolRefusal::Exhausted(id) => format!(
                "pool {id} is full; remove containers, widen --ip-range, or run `subletd cleanup`"
            ),
        }
    }
}
