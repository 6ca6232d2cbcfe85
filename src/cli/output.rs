//! How a lease looks: one row, as a table for a person and as JSON for a program.
//!
//! Owns: the names and order of the fields, which scripts rely on. Invariant: both forms come from
//! the same row.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::error::shown_network;
use crate::model::{Lease, Owner};

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
