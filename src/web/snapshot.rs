//! A snapshot of the store: how full each range is, who uses it, and what the leases hash to.
//!
//! Invariant: lease counts and hashes come from one walk over the leases, and a snapshot's size does not grow with the
//! number of leases.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::alloc::{Context, Holder};
use crate::engine;
use crate::error::{StoreError, shown_network};
use crate::model::{Counter, Node, SetName};
use crate::net::{Addr, Subnet, hosts};
use crate::rows::{CoolingRow, GroupRow, LeaseRow, NodeRow, Nodes, PoolRow, Time};
use crate::store::Store;
use crate::telemetry::usage::{Extent, Meter, Usage};

/// Namespaces with the most leases that are listed.
const MOST_NAMESPACES: usize = 20;

/// What the store had at one time.
pub struct Snapshot {
    /// When it was taken.
    pub time: Time,
    /// How long that took.
    pub took: Duration,
    /// How many leases there are.
    pub leases: u64,
    /// Changes whenever a lease does.
    version: String,
    /// Changes whenever the cooling addresses do.
    cooling_version: String,
    /// How full each range is.
    pub usage: Vec<Usage>,
    /// Requests.
    pub counters: Vec<Counter>,
    /// The ranges.
    pub pools: Vec<PoolRow>,
    nodes: Vec<NodeRow>,
    /// The namespaces with the most leases.
    namespaces: Vec<GroupRow>,
    /// The names under which leases are found: of networks, sets and Docker's pools.
    names: BTreeSet<String>,
}

/// Hashes rows, so that a change of any of them shows.
#[derive(Default)]
struct Version {
    hasher: DefaultHasher,
    row: Vec<u8>,
    rows: u64,
}

impl Version {
    fn add(&mut self, row: &impl Serialize) {
        self.row.clear();
        // Writing rows into memory does not fail.
        let _ = serde_json::to_writer(&mut self.row, row);
        self.hasher.write(&self.row);
        self.rows += 1;
    }

    fn done(mut self) -> String {
        self.hasher.write_u64(self.rows);
        format!("{:016x}", self.hasher.finish())
    }
}

/// The subnets that leases name, for a store that has no ranges yet; without the first address, which mostly
/// is a gateway.
fn guessed(
    store: &mut dyn Store,
    cx: &Context,
    known: &[Extent],
) -> Result<Vec<Extent>, StoreError> {
    let mut seen: BTreeMap<(String, SetName), BTreeSet<(Addr, u8)>> = BTreeMap::new();
    store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
        let Holder::Leased(lease) = holder else { return };
        let subnet = Subnet::masked(addr, lease.prefix);
        // One address alone (an import) says nothing of a subnet.
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

/// `/api/v1/pools`.
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
    /// Reads the store.
    pub fn take(store: &mut dyn Store, cx: &Context) -> Result<Snapshot, StoreError> {
        let began = Instant::now();
        let pools = store.pools()?;
        let definitions = store.networks(cx)?;
        let mut extents = Extent::all(&definitions, &pools);
        if definitions.is_empty() {
            extents.extend(guessed(store, cx, &extents)?);
        }
        let mut meter = Meter::new(extents, &store.draining(cx)?);
        let (mut nodes, mut leases) = (Nodes::default(), 0);
        let (mut version, mut cooling_version) = (Version::default(), Version::default());
        let mut names: BTreeSet<String> = BTreeSet::new();
        let mut namespaces: BTreeMap<String, u128> = BTreeMap::new();
        store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
            meter.take(set, addr, holder);
            if !names.contains(&set.0) {
                names.insert(set.0.clone());
            }
            match holder {
                Holder::Free => {}
                Holder::Cooling(cooling) => cooling_version.add(&CoolingRow::new(set, cooling)),
                Holder::Leased(lease) => {
                    leases += 1;
                    nodes.lease(lease);
                    let row = LeaseRow::short(lease);
                    version.add(&row);
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
            leases,
            version: version.done(),
            cooling_version: cooling_version.done(),
            counters: store.counters(cx)?,
            pools: PoolRow::all(&usage, &pools, network),
            // A cluster remembers machines that have no lease.
            nodes: nodes.rows(&pools, engine::nodes(store)?, &cx.node),
            namespaces: most(namespaces),
            names,
            usage,
            took: began.elapsed(),
        })
    }

    /// Why there can be no lease of this network and node: the snapshot has no such name.
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

    /// `/api/v1/pools`.
    pub fn pools<'a>(&'a self, node: &'a Node) -> PoolsAnswer<'a> {
        PoolsAnswer {
            time: self.time,
            node: &node.name,
            version: env!("CARGO_PKG_VERSION"),
            leases: self.leases,
            leases_version: &self.version,
            cooling_version: &self.cooling_version,
            pools: &self.pools,
        }
    }

    /// `/api/v1/nodes`.
    pub fn nodes(&self) -> Value {
        json!({ "time": self.time, "nodes": self.nodes, "namespaces": self.namespaces })
    }
}

/// The namespaces with the most leases.
fn most(namespaces: BTreeMap<String, u128>) -> Vec<GroupRow> {
    let mut all: Vec<(String, u128)> = namespaces.into_iter().collect();
    all.sort_by_key(|(_, used)| std::cmp::Reverse(*used));
    all.truncate(MOST_NAMESPACES);
    let row =
        |(namespace, used)| GroupRow { namespace: Some(namespace), used, ..GroupRow::default() };
    all.into_iter().map(row).collect()
}
