//! How what is told looks: a row, as JSON for a program and (`tables`) in a table for a person.
//!
//! Owns: the names and order of the fields, which scripts rely on. Invariant: both forms come from
//! the same row.

use std::io::{self, Write};

use serde::Serialize;

use crate::error::shown_network;
use crate::model::{Counter, Event, Lease, Owner};
use crate::net::Span;
use crate::store::{Problem, Repair};
use crate::telemetry::usage::Usage;

/// One lease, as it is shown. Absent facts are empty text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row<'a> {
    pub(super) network: &'a str,
    pub(super) address: String,
    pub(super) prefix: u8,
    pub(super) kind: &'static str,
    #[serde(rename = "containerID")]
    pub(super) container_id: &'a str,
    pub(super) ifname: &'a str,
    pub(super) id: &'a str,
    pub(super) pool: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) node: &'a str,
    #[serde(rename = "bootID")]
    pub(super) boot_id: &'a str,
    pub(super) netns: &'a str,
    pub(super) pod_namespace: &'a str,
    pub(super) pod_name: &'a str,
    #[serde(rename = "podUID")]
    pub(super) pod_uid: &'a str,
    pub(super) mac: &'a str,
    pub(super) note: &'a str,
    pub(super) holder: &'a str,
    pub(super) time: String,
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

    /// The pod as namespace/name; nothing where there is none.
    pub(super) fn pod(&self) -> String {
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

/// Writes one JSON document, whole.
pub fn json<T: Serialize>(out: &mut dyn Write, value: &T) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    out.write_all(b"\n")
}

/// One event, as it is shown. Absent facts are empty text.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRow<'a> {
    pub(super) time: String,
    pub(super) event: &'static str,
    pub(super) face: &'static str,
    pub(super) network: &'a str,
    pub(super) address: String,
    pub(super) kind: &'static str,
    #[serde(rename = "containerID")]
    pub(super) container_id: &'a str,
    pub(super) ifname: &'a str,
    pub(super) id: &'a str,
    pub(super) pool: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) node: &'a str,
    pub(super) pod_namespace: &'a str,
    pub(super) pod_name: &'a str,
    #[serde(rename = "podUID")]
    pub(super) pod_uid: &'a str,
    pub(super) mac: &'a str,
    pub(super) note: &'a str,
    pub(super) holder: &'a str,
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
    pub(super) network: &'a str,
    pub(super) first: String,
    pub(super) last: String,
    pub(super) size: u128,
    pub(super) used: u128,
    pub(super) reserved: u128,
    pub(super) cooling: u128,
    pub(super) free: u128,
    pub(super) outside: u128,
    pub(super) largest_gap: u128,
    pub(super) gap_first: String,
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
            largest_gap: usage.gap.map_or(0, Span::size),
            gap_first: usage.gap.map(|gap| gap.first.to_string()).unwrap_or_default(),
        }
    }
}

/// A network as a whole, as it is shown.
#[derive(Serialize)]
pub struct NetworkRow<'a> {
    /// Its name, or a pool's.
    pub network: &'a str,
    /// The set of its leases.
    pub set: &'a str,
    /// How many addresses are leased to it.
    pub leases: usize,
    /// Its ranges.
    pub ranges: Vec<UsageRow<'a>>,
}

/// How often something was asked for, as it is shown.
#[derive(Serialize)]
pub(super) struct CounterRow<'a> {
    pub(super) network: &'a str,
    pub(super) face: &'static str,
    pub(super) command: &'static str,
    pub(super) outcome: &'static str,
    pub(super) count: u64,
}

impl<'a> CounterRow<'a> {
    pub(super) fn new(counter: &'a Counter) -> CounterRow<'a> {
        CounterRow {
            network: &counter.set.0,
            face: counter.face.word(),
            command: counter.verb.word(),
            outcome: counter.ending.word(),
            count: counter.count,
        }
    }
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
