//! A snapshot of the store: the answers that the page and its API give until the next one.
//!
//! Invariant: all parts of a snapshot are of one walk over the leases; a lease is kept as its row only.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::ops::Range;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::alloc::{Context, Holder};
use crate::engine;
use crate::error::{StoreError, shown_network};
use crate::model::{Counter, Node, SetName};
use crate::net::{Addr, Subnet, hosts};
use crate::rows::{CoolingRow, LeaseRow, NodeRow, Nodes, PoolRow, Time};
use crate::store::Store;
use crate::telemetry::usage::{Extent, Meter, Usage};

/// Rows of leases that are kept; more are counted, not listed.
const MOST_ROWS: u64 = 70_000;

/// Room for these rows, in bytes: a text that had to be moved to grow would be in memory twice.
const ROOM: usize = 16 << 20;

/// What the store had at one time.
pub struct Snapshot {
    /// When it was taken.
    pub time: Time,
    /// How long that took.
    pub took: Duration,
    /// How many leases there are.
    pub leases: u64,
    /// Changes whenever a lease does.
    pub version: String,
    /// How full each range is.
    pub usage: Vec<Usage>,
    /// Requests.
    pub counters: Vec<Counter>,
    pools: Vec<PoolRow>,
    nodes: Vec<NodeRow>,
    /// The answer to `/api/v1/leases`: each row of a lease is a line, and begins with its network.
    document: Bytes,
    /// Where these rows are.
    rows: Range<usize>,
}

/// Appends a row as a line, behind a comma unless it is the first. Writing rows into memory does not fail.
fn add(text: &mut Vec<u8>, row: &impl Serialize, first: bool) {
    text.extend_from_slice(if first { b"\n" } else { b",\n" });
    let _ = serde_json::to_writer(text, row);
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
    store: &'a str,
    version: &'static str,
    leases: u64,
    leases_version: &'a str,
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
        let mut meter = Meter::new(extents);
        let mut text = Vec::with_capacity(ROOM);
        text.extend_from_slice(format!("{{\"time\":\"{}\",\"leases\":[", Time(cx.now)).as_bytes());
        let (head, mut cooling_rows) = (text.len(), Vec::new());
        let mut nodes = Nodes::default();
        let mut leases = 0;
        store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
            meter.take(set, addr, holder);
            match holder {
                Holder::Free => {}
                Holder::Cooling(cooling) => {
                    let first = cooling_rows.is_empty();
                    add(&mut cooling_rows, &CoolingRow::new(set, cooling), first);
                }
                Holder::Leased(lease) => {
                    leases += 1;
                    nodes.lease(lease);
                    if leases <= MOST_ROWS {
                        add(&mut text, &LeaseRow::short(lease), leases == 1);
                    }
                }
            }
        })?;
        let usage = meter.done();
        let mut hasher = DefaultHasher::new();
        let rows = head..text.len();
        hasher.write(&text[rows.clone()]);
        hasher.write(&cooling_rows);
        hasher.write_u64(leases);
        let version = format!("{:016x}", hasher.finish());
        text.extend_from_slice(b"\n],\"cooling\":[");
        text.extend_from_slice(&cooling_rows);
        let end = format!("\n],\"total\":{leases},\"version\":\"{version}\"}}\n");
        text.extend_from_slice(end.as_bytes());
        let network = if definitions.is_empty() { "seen" } else { "network" };
        Ok(Snapshot {
            time: Time(cx.now),
            leases,
            version,
            document: text.into(),
            rows,
            counters: store.counters(cx)?,
            pools: PoolRow::all(&usage, &pools, network),
            // A cluster remembers machines that have no lease.
            nodes: nodes.rows(&pools, engine::nodes(store)?, &cx.node),
            usage,
            took: began.elapsed(),
        })
    }

    /// `/api/v1/pools`.
    pub fn pools<'a>(&'a self, node: &'a Node, store: &'a str) -> PoolsAnswer<'a> {
        PoolsAnswer {
            time: self.time,
            node: &node.name,
            store,
            version: env!("CARGO_PKG_VERSION"),
            leases: self.leases,
            leases_version: &self.version,
            pools: &self.pools,
        }
    }

    /// `/api/v1/leases`, of one network or all.
    pub fn leases(&self, network: Option<&str>) -> Bytes {
        let Some(network) = network else { return self.document.clone() };
        let begin = format!("{{\"network\":{},", Value::from(network));
        let lines = self.document[self.rows.clone()].split(|byte| *byte == b'\n');
        let mut text = self.document[..self.rows.start].to_vec();
        for (i, line) in lines.filter(|line| line.starts_with(begin.as_bytes())).enumerate() {
            text.extend_from_slice(if i == 0 { b"\n" } else { b",\n" });
            text.extend_from_slice(line.strip_suffix(b",").unwrap_or(line));
        }
        text.extend_from_slice(&self.document[self.rows.end..]);
        text.into()
    }

    /// `/api/v1/nodes`.
    pub fn nodes(&self) -> Value {
        json!({ "time": self.time, "nodes": self.nodes })
    }
}
