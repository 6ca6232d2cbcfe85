//! How a lease looks: one row, as a table for a person and as JSON for a program.
//!
//! Owns: the names and order of the fields, which scripts rely on. Invariant: both forms come from
//! the same row.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::shown_network;
use crate::model::{Counter, Event, Lease, Owner};
use crate::store::{Problem, Repair};
use crate::usage::{Usage, len};

/// One lease, as it is shown. Absent facts are empty text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row<'a> {
    network: &'a str,
    address: String,
    prefix: u8,
    kind: &'static str,
    #[serde(rename = "containerID")]
    container_id: &'a str,
    ifname: &'a str,
    id: &'a str,
    pool: &'a str,
    endpoint: &'a str,
    node: &'a str,
    #[serde(rename = "bootID")]
    boot_id: &'a str,
    netns: &'a str,
    pod_namespace: &'a str,
    pod_name: &'a str,
    #[serde(rename = "podUID")]
    pod_uid: &'a str,
    mac: &'a str,
    note: &'a str,
    holder: &'a str,
    time: String,
}

impl<'a> Row<'a> {
    /// The row of a lease.
    pub fn new(lease: &'a Lease) -> Row<'a> {
        let attachment = lease.attachment();
        let pod = lease.origin.pod.as_ref();
        Row {
            network: shown_network(lease),
            address: lease.addr.to_string(),
            prefix: lease.prefix,
            kind: lease.kind.word(),
            container_id: attachment.map_or("", |a| a.container.as_str()),
            ifname: attachment.and_then(|a| a.ifname.as_ref()).map_or("", |i| i.as_str()),
            id: if let Owner::Id(id) = &lease.owner { id } else { "" },
            pool: if let Owner::Pool(pool, _) = &lease.owner { &pool.0 } else { "" },
            endpoint: lease.origin.endpoint.as_deref().unwrap_or_default(),
            node: &lease.node.name,
            boot_id: lease.boot.as_ref().map_or("", |b| b.0.as_str()),
            netns: lease.origin.netns.as_ref().map_or("", |n| n.path.as_str()),
            pod_namespace: pod.map_or("", |p| p.namespace.as_str()),
            pod_name: pod.map_or("", |p| p.name.as_str()),
            pod_uid: pod.map_or("", |p| p.uid.as_str()),
            mac: lease.origin.mac.as_deref().unwrap_or_default(),
            note: lease.origin.note.as_deref().unwrap_or_default(),
            holder: lease.origin.holder.as_deref().unwrap_or_default(),
            time: time(lease.time),
        }
    }

    /// Every field with its name, for one lease shown whole.
    pub fn fields(&self) -> [(&'static str, String); 17] {
        [
            ("network", self.network.to_owned()),
            ("address", format!("{}/{}", self.address, self.prefix)),
            ("kind", self.kind.to_owned()),
            ("container", visible(self.container_id)),
            ("interface", visible(self.ifname)),
            ("id", visible(self.id)),
            ("pool", visible(self.pool)),
            ("endpoint", visible(self.endpoint)),
            ("pod", self.pod()),
            ("pod UID", visible(self.pod_uid)),
            ("MAC", visible(self.mac)),
            ("note", visible(self.note)),
            ("owner", visible(self.holder)),
            ("netns", visible(self.netns)),
            ("node", visible(self.node)),
            ("boot", self.boot_id.to_owned()),
            ("since", self.time.clone()),
        ]
    }

    fn pod(&self) -> String {
        if self.pod_name.is_empty() {
            return String::new();
        }
        visible(&format!("{}/{}", self.pod_namespace, self.pod_name))
    }
}

/// Text from outside, without anything that could steer a terminal.
pub fn visible(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let shown: Vec<char> =
                if c.is_control() { c.escape_default().collect() } else { vec![c] };
            shown
        })
        .collect()
}

/// RFC 3339, UTC, to the second.
pub fn time(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map(|t| t.to_string()).unwrap_or_default()
}

/// Writes a JSON array, lease by lease: no list is held in memory for it.
pub struct JsonArray<'a> {
    out: &'a mut dyn Write,
    empty: bool,
}

impl<'a> JsonArray<'a> {
    /// Nothing is written before the first lease, or the end.
    pub fn new(out: &'a mut dyn Write) -> JsonArray<'a> {
        JsonArray { out, empty: true }
    }

    /// One lease.
    pub fn push(&mut self, lease: &Lease) -> io::Result<()> {
        self.out.write_all(if self.empty { b"[\n  " } else { b",\n  " })?;
        self.empty = false;
        Ok(serde_json::to_writer(&mut *self.out, &Row::new(lease))?)
    }

    /// Ends; an empty one is `[]`.
    pub fn end(self) -> io::Result<()> {
        self.out.write_all(if self.empty { b"[]\n" } else { b"\n]\n" })?;
        self.out.flush()
    }
}

/// A table without rows.
pub fn headed<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// A table of leases for a person.
pub fn table(leases: &[Lease]) -> String {
    let header = ["NETWORK", "ADDRESS", "KIND", "CONTAINER", "IFNAME", "POD", "SINCE"];
    let mut table = headed(header);
    for lease in leases {
        let row = Row::new(lease);
        let named = [row.id, row.container_id, row.endpoint];
        let container = named.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
        table.add_row([
            row.network.to_owned(),
            format!("{}/{}", row.address, row.prefix),
            row.kind.to_owned(),
            visible(&container.chars().take(24).collect::<String>()),
            visible(row.ifname),
            row.pod(),
            row.time.clone(),
        ]);
    }
    table.trim_fmt()
}

/// Writes one JSON document, whole.
pub fn json<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

fn plain_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

/// One event, as it is shown. Absent facts are empty text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRow<'a> {
    time: String,
    event: &'static str,
    face: &'static str,
    network: &'a str,
    address: String,
    kind: &'static str,
    #[serde(rename = "containerID")]
    container_id: &'a str,
    ifname: &'a str,
    id: &'a str,
    pool: &'a str,
    endpoint: &'a str,
    node: &'a str,
    pod_namespace: &'a str,
    pod_name: &'a str,
    #[serde(rename = "podUID")]
    pod_uid: &'a str,
    mac: &'a str,
    note: &'a str,
    holder: &'a str,
}

impl<'a> EventRow<'a> {
    /// The row of an event.
    pub fn new(event: &'a Event) -> EventRow<'a> {
        let attachment = event.attachment();
        let pod = event.origin.pod.as_ref();
        EventRow {
            time: time(event.time),
            event: event.what.word(),
            face: event.face.word(),
            network: event.network(),
            address: event.addr.to_string(),
            kind: event.kind.word(),
            container_id: attachment.map_or("", |a| a.container.as_str()),
            ifname: attachment.and_then(|a| a.ifname.as_ref()).map_or("", |i| i.as_str()),
            id: if let Owner::Id(id) = &event.owner { id } else { "" },
            pool: if let Owner::Pool(pool, _) = &event.owner { &pool.0 } else { "" },
            endpoint: event.origin.endpoint.as_deref().unwrap_or_default(),
            node: &event.node.name,
            pod_namespace: pod.map_or("", |p| p.namespace.as_str()),
            pod_name: pod.map_or("", |p| p.name.as_str()),
            pod_uid: pod.map_or("", |p| p.uid.as_str()),
            mac: event.origin.mac.as_deref().unwrap_or_default(),
            note: event.origin.note.as_deref().unwrap_or_default(),
            holder: event.origin.holder.as_deref().unwrap_or_default(),
        }
    }
}

/// A table of events for a person.
pub fn events(events: &[Event]) -> String {
    let mut table = plain_table([
        "TIME",
        "EVENT",
        "BY",
        "NETWORK",
        "ADDRESS",
        "CONTAINER",
        "IFNAME",
        "POD",
        "NODE",
    ]);
    for event in events {
        let row = EventRow::new(event);
        let named = [row.id, row.container_id, row.endpoint, row.holder, row.note];
        let container = named.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
        let pod = match row.pod_name {
            "" => String::new(),
            name => visible(&format!("{}/{name}", row.pod_namespace)),
        };
        table.add_row([
            row.time.clone(),
            row.event.to_owned(),
            row.face.to_owned(),
            row.network.to_owned(),
            row.address.clone(),
            visible(&container.chars().take(24).collect::<String>()),
            visible(row.ifname),
            pod,
            visible(row.node),
        ]);
    }
    table.trim_fmt()
}

/// What `stats` tells.
#[derive(Serialize)]
pub struct Stats<'a> {
    pools: Vec<UsageRow<'a>>,
    requests: Vec<CounterRow<'a>>,
}

impl<'a> Stats<'a> {
    /// Of these numbers.
    pub fn new(usage: &'a [Usage], counters: &'a [Counter]) -> Stats<'a> {
        Stats {
            pools: usage.iter().map(UsageRow::new).collect(),
            requests: counters.iter().map(CounterRow::new).collect(),
        }
    }
}

/// How full a range is, as it is shown.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageRow<'a> {
    network: &'a str,
    first: String,
    last: String,
    size: u128,
    used: u128,
    reserved: u128,
    cooling: u128,
    free: u128,
    outside: u128,
    largest_gap: u128,
    gap_first: String,
}

impl<'a> UsageRow<'a> {
    /// The row of a range.
    pub fn new(usage: &'a Usage) -> UsageRow<'a> {
        UsageRow {
            network: &usage.extent.network,
            first: usage.extent.range.first.to_string(),
            last: usage.extent.range.last.to_string(),
            size: usage.size,
            used: usage.used,
            reserved: usage.reserved,
            cooling: usage.cooling,
            free: usage.free,
            outside: usage.outside,
            largest_gap: usage.gap.map_or(0, len),
            gap_first: usage.gap.map(|gap| gap.first.to_string()).unwrap_or_default(),
        }
    }
}

/// A table of ranges for a person; empty if there is none.
pub fn usage(all: &[Usage]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = plain_table([
        "NETWORK",
        "RANGE",
        "SIZE",
        "USED",
        "RESERVED",
        "COOLING",
        "FREE",
        "LARGEST GAP",
    ]);
    for usage in all {
        let range = usage.extent.range.to_string();
        let counts = [usage.size, usage.used, usage.reserved, usage.cooling, usage.free]
            .map(|n| n.to_string());
        let mut row = vec![visible(&usage.extent.network), range];
        row.extend(counts);
        row.push(usage.gap.map_or(0, len).to_string());
        table.add_row(row);
    }
    table.trim_fmt()
}

/// How often something was asked for, as it is shown.
#[derive(Serialize)]
struct CounterRow<'a> {
    network: &'a str,
    face: &'static str,
    command: &'static str,
    outcome: &'static str,
    count: u64,
}

impl<'a> CounterRow<'a> {
    fn new(counter: &'a Counter) -> CounterRow<'a> {
        CounterRow {
            network: &counter.set.0,
            face: counter.face.word(),
            command: counter.verb.word(),
            outcome: counter.ending.word(),
            count: counter.count,
        }
    }
}

/// A table of counters for a person; empty if there is none.
pub fn counters(all: &[Counter]) -> String {
    if all.is_empty() {
        return String::new();
    }
    let mut table = plain_table(["NETWORK", "FACE", "COMMAND", "OUTCOME", "COUNT"]);
    for row in all.iter().map(CounterRow::new) {
        let count = row.count.to_string();
        table.add_row([row.network, row.face, row.command, row.outcome, &*count]);
    }
    table.trim_fmt()
}

/// What was reserved, or freed.
#[derive(Serialize)]
pub struct Reserved<'a> {
    /// The network.
    pub network: &'a str,
    /// The addresses.
    pub addresses: Vec<String>,
}

/// What `doctor` found and did.
#[derive(Serialize)]
pub struct Diagnosis<'a> {
    problems: Vec<ProblemRow<'a>>,
    repair: Option<RepairRow<'a>>,
}

#[derive(Serialize)]
struct ProblemRow<'a> {
    place: &'a str,
    what: &'a str,
    advice: &'a str,
    repairable: bool,
}

#[derive(Serialize)]
struct RepairRow<'a> {
    copies: Vec<String>,
    leases: usize,
    notes: &'a [String],
}

impl<'a> Diagnosis<'a> {
    /// Of these findings.
    pub fn new(problems: &'a [Problem], repair: Option<&'a Repair>) -> Diagnosis<'a> {
        let row = |p: &'a Problem| ProblemRow {
            place: &p.place,
            what: &p.what,
            advice: &p.advice,
            repairable: p.mendable,
        };
        let repair = repair.map(|r| RepairRow {
            copies: r.copies.iter().map(|c| c.display().to_string()).collect(),
            leases: r.kept,
            notes: &r.notes,
        });
        Diagnosis { problems: problems.iter().map(row).collect(), repair }
    }
}
