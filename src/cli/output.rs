//! How a lease looks: one row, as a table for a person and as JSON for a program.
//!
//! Owns: the names and order of the fields, which scripts rely on. Invariant: both forms come from
//! the same row.

use std::io::{self, Write};

use serde::Serialize;

use super::screen::{Screen, Tone};
use super::table::{Cell, Column, render, text, whole};
use crate::error::shown_network;
use crate::model::{Kind, Lease, Owner};

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
            time: time(lease.time),
        }
    }

    /// Every field with its name, for one lease shown whole.
    pub fn fields(&self) -> [(&'static str, String); 15] {
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
fn time(seconds: u64) -> String {
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

/// A table of leases for a person.
pub fn table(leases: &[Lease], screen: &Screen) -> String {
    const COLUMNS: &[Column] = &[
        text("NETWORK", 8),
        whole("ADDRESS"),
        whole("KIND"),
        text("CONTAINER", 12),
        whole("IFNAME"),
        text("POD", 12),
        whole("SINCE"),
    ];
    let row = |lease: &Lease| {
        let row = Row::new(lease);
        let named = [row.id, row.container_id, row.endpoint];
        let container = named.into_iter().find(|n| !n.is_empty()).unwrap_or_default();
        let shown = container.chars().take(LONGEST_ID).collect::<String>();
        vec![
            visible(row.network).into(),
            format!("{}/{}", row.address, row.prefix).into(),
            Cell::toned(row.kind, kind_tone(lease.kind)),
            visible(&shown).into(),
            visible(row.ifname).into(),
            row.pod().into(),
            row.time.into(),
        ]
    };
    let rows: Vec<Vec<Cell>> = leases.iter().map(row).collect();
    render(COLUMNS, &rows, screen)
}

/// More of a container's ID tells nobody anything.
const LONGEST_ID: usize = 24;

/// What is leased to nobody's container stands out.
fn kind_tone(kind: Kind) -> Option<Tone> {
    match kind {
        Kind::Dynamic | Kind::Static => None,
        Kind::Gateway | Kind::Aux => Some(Tone::Gateway),
        Kind::Reserved => Some(Tone::Reserved),
    }
}
