//! One look at the store, written down as the answers that the page and its API give.
//!
//! Owns: what a look is, and that one look serves many readers. Does not own: HTTP.
//! Invariant: all parts of a survey but its problems are of one walk over the store; nothing of a
//! lease is kept but its row.

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

/// Rows of leases that are kept at most, about 250 bytes each: the rest is counted, not listed.
const MOST_ROWS: u64 = 250_000;

/// What one look at the store has told.
pub struct Survey {
    /// When it was made.
    pub time: Time,
    /// How long it took.
    pub took: Duration,
    /// How many leases there are.
    pub leases: u64,
    /// Changes whenever a lease does.
    pub version: String,
    /// How full each range is.
    pub usage: Vec<Usage>,
    /// What was asked for.
    pub counters: Vec<Counter>,
    pools: Vec<PoolRow>,
    nodes: Vec<NodeRow>,
    /// The answer to `/api/v1/leases`: each row is a line, and begins with its network.
    document: Bytes,
    /// Where in it the rows of leases are.
    rows: Range<usize>,
}

/// Appends a row as a line, behind a comma unless it is the first.
fn add(text: &mut Vec<u8>, row: &impl Serialize, first: bool) -> serde_json::Result<()> {
    text.extend_from_slice(if first { b"\n" } else { b",\n" });
    serde_json::to_writer(&mut *text, row)
}

/// Looks at the store.
pub fn look(store: &mut dyn Store, cx: &Context) -> Result<Survey, StoreError> {
    let began = Instant::now();
    let pools = store.pools()?;
    let definitions = store.networks(cx)?;
    let mut extents = Extent::all(&definitions, &pools);
    if definitions.is_empty() {
        extents.extend(guessed(store, cx, &extents)?);
    }
    let mut meter = Meter::new(extents);
    let mut text = format!("{{\"time\":\"{}\",\"leases\":[", Time(cx.now)).into_bytes();
    let head = text.len();
    let mut cooling_rows = Vec::new();
    let mut nodes = Nodes::default();
    let mut leases = 0;
    let mut written = Ok(());
    store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
        meter.take(set, addr, holder);
        let row = match holder {
            Holder::Free => return,
            Holder::Cooling(cooling) => {
                let first = cooling_rows.is_empty();
                add(&mut cooling_rows, &CoolingRow::new(set, cooling), first)
            }
            Holder::Leased(lease) => {
                leases += 1;
                nodes.lease(lease);
                if leases > MOST_ROWS {
                    return;
                }
                add(&mut text, &LeaseRow::short(lease), leases == 1)
            }
        };
        if let (Ok(()), Err(e)) = (&written, row) {
            written = Err(e);
        }
    })?;
    written.map_err(|e| StoreError::Unavailable {
        doing: "write down".to_owned(),
        place: "the leases".to_owned(),
        source: e.into(),
    })?;
    let rows = head..text.len();
    let usage = meter.done();
    let mut hasher = DefaultHasher::new();
    hasher.write(&text[rows.clone()]);
    hasher.write(&cooling_rows);
    hasher.write_u64(leases);
    let version = format!("{:016x}", hasher.finish());
    text.extend_from_slice(b"\n],\"cooling\":[");
    text.extend_from_slice(&cooling_rows);
    let end = format!("\n],\"total\":{leases},\"version\":\"{version}\"}}\n");
    text.extend_from_slice(end.as_bytes());
    let network = if definitions.is_empty() { "seen" } else { "network" };
    Ok(Survey {
        time: Time(cx.now),
        leases,
        version,
        document: Bytes::from(text),
        counters: store.counters(cx)?,
        pools: PoolRow::all(&usage, &pools, network),
        // A cluster remembers machines that have no lease.
        nodes: nodes.rows(&pools, engine::nodes(store)?, &cx.node),
        usage,
        rows,
        took: began.elapsed(),
    })
}

/// A store that keeps no ranges (a cluster): the subnets that its leases name, without the first address,
/// which mostly is a gateway.
fn guessed(
    store: &mut dyn Store,
    cx: &Context,
    known: &[Extent],
) -> Result<Vec<Extent>, StoreError> {
    let mut seen: BTreeMap<(String, SetName), BTreeSet<(Addr, u8)>> = BTreeMap::new();
    store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
        let Holder::Leased(lease) = holder else { return };
        let subnet = Subnet::masked(addr, lease.prefix);
        // One address alone (an import) tells nothing of a subnet.
        let told = subnet.filter(|s| s.len() + 1 < addr.family().bits());
        if let Some(subnet) = told.filter(|_| !known.iter().any(|e| e.set == *set)) {
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

impl Survey {
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
        let mut text = self.document[..self.rows.start].to_vec();
        for line in self.document[self.rows.clone()].split(|byte| *byte == b'\n') {
            if line.starts_with(begin.as_bytes()) {
                let first = text.len() == self.rows.start;
                text.extend_from_slice(if first { b"\n" } else { b",\n" });
                text.extend_from_slice(line.strip_suffix(b",").unwrap_or(line));
            }
        }
        text.extend_from_slice(&self.document[self.rows.end..]);
        text.into()
    }

    /// `/api/v1/nodes`.
    pub fn nodes(&self) -> Value {
        json!({ "time": self.time, "nodes": self.nodes })
    }
}
