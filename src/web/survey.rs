//! One look at the store, written down as the answers that the page and its API give.
//!
//! Owns: what a look is, and that one look serves many readers. Does not own: HTTP.
//! Invariant: all parts of a survey but its problems are of one walk over the store; nothing of a
//! lease is kept but its row.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::wire::{CoolingRow, LeaseRow, NodeRow, PoolRow, is_held};
use crate::alloc::{Context, Holder};
use crate::engine;
use crate::error::{StoreError, shown_network};
use crate::model::{Counter, Node, SetName, Timestamp};
use crate::net::{Addr, Subnet, hosts};
use crate::store::Store;
use crate::telemetry::log::utc;
use crate::telemetry::usage::{Extent, Meter, Usage};

/// Rows of leases that are kept at most, about 250 bytes each: the rest is counted, not listed.
const MOST_ROWS: usize = 250_000;

/// What one look at the store has told.
pub struct Survey {
    /// When it was made.
    pub time: Timestamp,
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
    pools: Vec<Value>,
    rows: Rows,
    document: Bytes,
    nodes: Value,
}

/// Rows of JSON, each on a line of its own.
#[derive(Default)]
struct Rows {
    /// How many bytes come before the first.
    head: usize,
    /// Of each row: its network, and where it ends.
    ends: Vec<(u32, usize)>,
    networks: Vec<String>,
}

impl Rows {
    fn push(
        &mut self,
        text: &mut Vec<u8>,
        network: &str,
        row: &LeaseRow<'_>,
    ) -> serde_json::Result<()> {
        let known = self.networks.last().is_some_and(|last| last == network);
        let index = match self.networks.iter().position(|n| !known && n == network) {
            _ if known => self.networks.len() - 1,
            Some(index) => index,
            None => {
                self.networks.push(network.to_owned());
                self.networks.len() - 1
            }
        };
        add(text, row, self.ends.is_empty())?;
        self.ends.push((u32::try_from(index).unwrap_or(u32::MAX), text.len()));
        Ok(())
    }

    /// The document with the rows of one network alone.
    fn of(&self, document: &[u8], network: &str) -> Vec<u8> {
        let wanted = self.networks.iter().position(|n| n == network);
        let wanted = wanted.and_then(|index| u32::try_from(index).ok());
        let mut found = document[..self.head].to_vec();
        let mut from = self.head;
        for (index, end) in &self.ends {
            if Some(*index) == wanted {
                let row = &document[from..*end];
                let first = found.len() == self.head;
                found.extend_from_slice(row.strip_prefix(b",").filter(|_| first).unwrap_or(row));
            }
            from = *end;
        }
        found.extend_from_slice(&document[from..]);
        found
    }
}

/// One more row, behind a comma unless it is the first.
fn add(text: &mut Vec<u8>, row: &impl Serialize, first: bool) -> serde_json::Result<()> {
    text.extend_from_slice(if first { b"\n" } else { b",\n" });
    serde_json::to_writer(&mut *text, row)
}

#[derive(Default)]
struct Machine {
    leases: u64,
    networks: BTreeSet<String>,
    latest: Timestamp,
    since: Option<Timestamp>,
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
    let mut text = format!("{{\"time\":\"{}\",\"leases\":[", utc(cx.now)).into_bytes();
    let mut rows = Rows { head: text.len(), ..Rows::default() };
    let mut cooling_rows = Vec::new();
    let mut machines: BTreeMap<(String, String), Machine> = BTreeMap::new();
    let mut leases = 0;
    let mut written = Ok(());
    store.occupancy(cx, &mut |set: &SetName, addr: Addr, holder: &Holder| {
        meter.take(set, addr, holder);
        let row = match holder {
            Holder::Free => return,
            Holder::Cooling(cooling) => {
                let until = utc(cooling.until);
                let row = CoolingRow { set: &set.0, address: addr.to_string(), until };
                let first = cooling_rows.is_empty();
                add(&mut cooling_rows, &row, first)
            }
            Holder::Leased(lease) => {
                leases += 1;
                if is_held(lease) {
                    count(&mut machines, &lease.node, shown_network(lease), lease.time);
                }
                if rows.ends.len() >= MOST_ROWS {
                    return;
                }
                rows.push(&mut text, shown_network(lease), &LeaseRow::short(lease))
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
    // A cluster remembers machines that have no lease.
    for record in engine::nodes(store)? {
        let machine = machines.entry((record.node.name, record.node.machine)).or_default();
        machine.since = Some(record.since);
    }
    let usage = meter.done();
    let mut hasher = DefaultHasher::new();
    hasher.write(&text[rows.head..]);
    hasher.write(&cooling_rows);
    hasher.write_u64(leases);
    let version = format!("{:016x}", hasher.finish());
    text.extend_from_slice(b"\n],\"cooling\":[");
    text.extend_from_slice(&cooling_rows);
    let end = format!("\n],\"total\":{leases},\"version\":\"{version}\"}}\n");
    text.extend_from_slice(end.as_bytes());
    Ok(Survey {
        time: cx.now,
        leases,
        version,
        document: Bytes::from(text),
        counters: store.counters(cx)?,
        pools: usage
            .iter()
            .map(|usage| {
                let network = &usage.extent.network;
                let pool = pools.iter().find(|p| p.id.0 == *network && p.set() == usage.extent.set);
                json!(PoolRow::new(usage, pool, definitions.is_empty()))
            })
            .collect(),
        nodes: nodes(&machines, &cx.node),
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

fn count(
    machines: &mut BTreeMap<(String, String), Machine>,
    node: &Node,
    network: &str,
    time: Timestamp,
) {
    let machine = machines.entry((node.name.clone(), node.machine.clone())).or_default();
    machine.leases += 1;
    machine.latest = machine.latest.max(time);
    if !machine.networks.contains(network) {
        machine.networks.insert(network.to_owned());
    }
}

fn nodes(machines: &BTreeMap<(String, String), Machine>, here: &Node) -> Value {
    let row = |((name, id), machine): (&(String, String), &Machine)| {
        json!(NodeRow {
            node: name,
            machine: id,
            here: *name == here.name && *id == here.machine,
            leases: machine.leases,
            networks: machine.networks.iter().map(String::as_str).collect(),
            latest: (machine.latest > 0).then(|| utc(machine.latest)),
            since: machine.since.map(utc),
        })
    };
    machines.iter().map(row).collect()
}

impl Survey {
    /// `/api/v1/pools`.
    pub fn pools(&self, node: &Node, place: &str) -> Value {
        json!({
            "time": utc(self.time),
            "node": node.name,
            "store": place,
            "version": env!("CARGO_PKG_VERSION"),
            "leases": self.leases,
            "leasesVersion": self.version,
            "pools": self.pools,
        })
    }

    /// `/api/v1/leases`: one document; each lease stands on a line of its own.
    pub fn leases(&self, network: Option<&str>) -> Bytes {
        network.map_or_else(
            || self.document.clone(),
            |network| Bytes::from(self.rows.of(&self.document, network)),
        )
    }

    /// `/api/v1/nodes`.
    pub fn nodes(&self) -> Value {
        json!({ "time": utc(self.time), "nodes": self.nodes })
    }
}
