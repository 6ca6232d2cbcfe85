//! A snapshot of the store: how full each range is, which nodes and namespaces use it, and hashes of the
//! leases.
//!
//! Invariants: All lease counts and hashes of a snapshot come from a single pass over the leases. Except for
//! its lists, which have a maximum size, a snapshot does not grow with the number of leases.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::leases::{List, Listing};
use crate::alloc::{Context, Holder};
use crate::engine;
use crate::error::{StoreError, shown_network};
use crate::model::{Counter, Node, SetName};
use crate::net::{Addr, Subnet, hosts};
use crate::rows::{CoolingRow, GroupRow, LeaseRow, NodeRow, Nodes, PoolRow, Time};
use crate::store::Store;
use crate::telemetry::usage::{Extent, Meter, Usage};

/// The maximum number of namespaces that are listed: those with the most leases.
const MOST_NAMESPACES: usize = 20;

/// The contents of a store at one time.
pub struct Snapshot {
    /// When the snapshot was taken.
    pub time: Time,
    /// How long it took to take the snapshot.
    pub took: Duration,
    /// The leases.
    pub leases: List,
    /// The cooling addresses.
    pub cooling: List,
    /// How full each range is.
    pub usage: Vec<Usage>,
    /// The numbers of requests by kind.
    pub counters: Vec<Counter>,
    /// The ranges.
    pub pools: Vec<PoolRow>,
    nodes: Vec<NodeRow>,
    /// The namespaces with the most leases.
    namespaces: Vec<GroupRow>,
    /// All names by which the page can filter leases: names of networks, sets of leases and Docker pools.
    names: BTreeSet<String>,
}

/// Derives ranges from the subnets of the leases, for sets of leases without `known` ranges. Each range omits
/// the subnet's first address, which usually belongs to the gateway.
fn guessed(
    store: &mut dyn Store,
    cx: &Context,
    known: &[Extent],
) -> Result<Vec<Extent>, StoreError> {
    let mut seen: BTreeMap<(String, SetName), BTreeSet<(Addr, u8)>> = BTreeMap::new();
    store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
        let Holder::Leased(lease) = holder else { return };
        let subnet = Subnet::masked(addr, lease.prefix);
        // A lease with a full-length prefix, such as an imported lease, does not reveal its subnet.
        let subnet = subnet.filter(|s| s.len() + 1 < addr.family().bits());
        if let Some(subnet) = subnet.filter(|_| !known.iter().any(|e| e.set == *set)) {
            let network = shown_network(lease).to_owned();
            seen.entry((network, set.clone())).or_default().insert((subnet.first(), subnet.len()));
        }
    })?;
    let extent = |network: &str, set: &SetName, subnet: Subnet| {
        let range = hosts(subnet);
        let gives = range.first.next().and_then(|first| range.starting(first));
        let gives = gives.into_iter().collect();
        Extent { network: network.to_owned(), set: set.clone(), range, gives }
    };
    let mut extents = Vec::new();
    for ((network, set), subnets) in &seen {
        let subnets = subnets.iter().filter_map(|(first, len)| Subnet::masked(*first, *len));
        extents.extend(subnets.map(|subnet| extent(network, set, subnet)));
    }
    Ok(extents)
}

/// The response of `/api/v1/pools`, except for the name of the store.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolsAnswer<'a> {
    time: Time,
    node: &'a str,
    version: &'static str,
    leases: u64,
    leases_version: &'a str,
    cooling_version: &'a str,
    pools: &'a [PoolRow],
}

impl Snapshot {
    /// Reads the store. Keeps the first rows of the leases and of the cooling addresses, up to `room` bytes
    /// each. If `room` is 0, keeps no rows.
    pub fn take(store: &mut dyn Store, cx: &Context, room: usize) -> Result<Snapshot, StoreError> {
        let began = Instant::now();
        let pools = store.pools()?;
        let definitions = store.networks(cx)?;
        let mut extents = Extent::all(&definitions, &pools);
        if definitions.is_empty() {
            extents.extend(guessed(store, cx, &extents)?);
        }
        let mut meter = Meter::new(extents, &store.draining(cx)?);
        let mut nodes = Nodes::default();
        let (mut leases, mut cooling) = (Listing::new(room), Listing::new(room));
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut namespaces: BTreeMap<String, u128> = BTreeMap::new();
        store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
            meter.take(set, addr, holder);
            if !names.contains(&set.0) {
                names.insert(set.0.clone());
            }
            match holder {
                Holder::Free => {}
                Holder::Cooling(of) => cooling.add(set, addr, &CoolingRow::new(set, of)),
                Holder::Leased(lease) => {
                    nodes.lease(lease);
                    let row = LeaseRow::short(lease);
                    leases.add(set, addr, &row);
                    if !names.contains(&*row.network) {
                        names.insert(row.network.to_string());
                    }
                    if let Some(namespace) = row.pod_namespace {
                        *namespaces.entry(namespace.into()).or_default() += 1;
                    }
                }
            }
        })?;
        let usage = meter.done();
        names.extend(usage.iter().map(|usage| usage.extent.network.clone()));
        names.extend(usage.iter().map(|usage| usage.extent.set.0.clone()));
        let network = if definitions.is_empty() { "seen" } else { "network" };
        Ok(Snapshot {
            time: Time(cx.now),
            leases: leases.done(),
            cooling: cooling.done(),
            counters: store.counters(cx)?,
            pools: PoolRow::all(&usage, &pools, network),
            // A cluster store also lists nodes that have no leases.
            nodes: nodes.rows(&pools, engine::nodes(store)?, &cx.node),
            namespaces: most(namespaces),
            names,
            usage,
            took: began.elapsed(),
        })
    }

    /// Drops the rows of both lists from memory.
    pub fn drop_rows(&self) {
        self.leases.drop_rows();
        self.cooling.drop_rows();
    }

    /// Returns an error message if the snapshot does not contain this network or this node, otherwise `None`.
    pub fn unknown(&self, network: Option<&str>, node: Option<&str>) -> Option<String> {
        if let Some(network) = network.filter(|name| !self.names.contains(*name)) {
            return Some(format!(
                "unknown network {network:?}; /api/v1/pools lists the known networks"
            ));
        }
        let is_known = |name: &&str| self.nodes.iter().any(|row| row.node == **name);
        let node = node.filter(|name| !is_known(name))?;
        Some(format!("unknown node {node:?}; /api/v1/nodes lists the known nodes"))
    }

    /// Returns the response of `/api/v1/pools`. `node` is the node on which this process runs.
    pub fn pools<'a>(&'a self, node: &'a Node) -> PoolsAnswer<'a> {
        PoolsAnswer {
            time: self.time,
            node: &node.name,
            version: env!("CARGO_PKG_VERSION"),
            leases: self.leases.total,
            leases_version: &self.leases.version,
            cooling_version: &self.cooling.version,
            pools: &self.pools,
        }
    }

    /// Returns the response of `/api/v1/nodes`.
    pub fn nodes(&self) -> Value {
        json!({ "time": self.time, "nodes": self.nodes, "namespaces": self.namespaces })
    }
}

/// Returns the namespaces with the most leases, at most [`MOST_NAMESPACES`].
fn most(namespaces: BTreeMap<String, u128>) -> Vec<GroupRow> {
    let mut all: Vec<(String, u128)> = namespaces.into_iter().collect();
    all.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
    all.truncate(MOST_NAMESPACES);
    let row =
        |(namespace, used)| GroupRow { namespace: Some(namespace), used, ..GroupRow::default() };
    all.into_iter().map(row).collect()
}
