//! Refusals of requests about Docker pools, with the error texts of Docker and of kontena-ipam.

use crate::model::{Lease, Pool, PoolId};
use crate::net::{Addr, Subnet};

/// The reason why a request about a pool or its addresses is refused. The texts are the same as in Docker's
/// `ipamapi` or, for shared pools, in kontena-ipam, because users search for them.
/// [`PoolRefusal::explanation`] returns the details that these texts lack. The details are written to the
/// log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolRefusal {
    /// There is no pool with this ID.
    #[error("address space does not contain specified address pool")]
    Unknown(PoolId),
    /// The pool is not shared, and it belongs to another node.
    #[error("cannot release pool {pool}: it belongs to node {node}")]
    OfAnotherNode {
        /// The pool to be released.
        pool: PoolId,
        /// The node to which the pool belongs.
        node: String,
    },
    /// The requested subnet overlaps another pool of the same address space.
    #[error("{}", match .shared {
        None => "invalid pool request: Pool overlaps with other one on this address space".to_owned(),
        Some(_) => format!("{} conflict: Conflict with network {taken}", .subnet.first()),
    })]
    Overlap {
        /// The requested subnet.
        subnet: Subnet,
        /// The existing pool that overlaps.
        with: PoolId,
        /// The subnet of the existing pool.
        taken: Subnet,
        /// The name under which the new pool was to be shared; `None` for an unshared pool.
        shared: Option<String>,
    },
    /// Every subnet that the supernets could provide is in use by a pool or by a route of the host.
    #[error("all predefined address pools have been fully subnetted")]
    NoBlock,
    /// A shared pool with this name exists, but the request asks for different properties.
    #[error("pool {name} exists with {what} {has}, requested {asked}")]
    Differs {
        /// The name of the shared pool.
        name: String,
        /// The property that differs: "subnet" or "iprange".
        what: &'static str,
        /// The property's value in the existing pool.
        has: String,
        /// The value that was requested.
        asked: String,
    },
    /// This host has a route for a shared pool's subnet, but the route does not lead to the pool's network.
    #[error("pool {name} exists with subnet {subnet}, which this host routes elsewhere")]
    Routed {
        /// The name of the shared pool.
        name: String,
        /// The subnet of the shared pool.
        subnet: Subnet,
    },
    /// The requested address is leased, or it is the network address or the broadcast address.
    #[error("Address already in use")]
    Taken {
        /// The requested address.
        addr: Addr,
        /// The existing lease of the address; `None` for the network address or the broadcast address.
        holder: Option<Box<Lease>>,
    },
    /// The requested address lies outside the subnet of the pool.
    #[error("requested address is out of range")]
    OutOfRange {
        /// The requested address.
        addr: Addr,
        /// The subnet of the pool.
        subnet: Subnet,
    },
    /// No address of the pool is free.
    #[error("no available addresses on this pool")]
    Exhausted(PoolId),
}

impl PoolRefusal {
    /// Makes the refusal of a subnet that overlaps another pool. `shared` is the name under which the new
    /// pool was to be shared.
    pub fn overlap(subnet: Subnet, other: Pool, shared: Option<String>) -> PoolRefusal {
        PoolRefusal::Overlap { subnet, with: other.id, taken: other.subnet, shared }
    }

    /// Returns one line that explains the refusal and says what to do.
    pub fn explanation(&self) -> String {
        match self {
            PoolRefusal::Unknown(id) => {
                format!("pool {id} does not exist; remove the network and create it again")
            }
            PoolRefusal::OfAnotherNode { node, .. } => {
                format!(
                    "remove the network on {node}; if that machine is gone, run `sublet node release {node}`"
                )
            }
            PoolRefusal::Overlap { subnet, with, taken, .. } => {
                format!("{subnet} overlaps {taken} of pool {with}; choose a different `--subnet`")
            }
            PoolRefusal::NoBlock => {
                "add a supernet with `--v4` or `--v6`, use smaller blocks, remove networks, or run `subletd \
                 cleanup`"
                    .to_owned()
            }
            PoolRefusal::Differs { name, .. } => {
                format!(
                    "request the same value on every host, or choose a name other than {name} for `network=`"
                )
            }
            PoolRefusal::Routed { subnet, .. } => format!(
                "run `ip route` to list the routes; if the route leads to this network, pass `--subnet \
                 {subnet}`"
            ),
            PoolRefusal::Taken { addr, holder: Some(lease) } => match &lease.origin.endpoint {
                Some(name) => {
                    format!("{addr} is held by {name}, {}; request a different address", lease.owner)
                }
                None => format!(
                    "{addr} is held by {} ({}); request a different address",
                    lease.owner,
                    lease.kind.word()
                ),
            },
            PoolRefusal::Taken { addr, holder: None } => {
                format!("{addr} is the network or the broadcast address; request a different address")
            }
            PoolRefusal::OutOfRange { addr, subnet } => {
                format!("{addr} is outside the subnet {subnet}; request an address inside the subnet")
            }
            PoolRefusal::Exhausted(id) => format!(
                "pool {id} is full; remove containers, enlarge `--ip-range`, or run `subletd cleanup`"
            ),
        }
    }
}
