//! How facts are written in the JSON API.
//!
//! Owns: the names of the fields, which scripts rely on (docs/api.md); those of a lease and an event are
//! the command line's `--json`. Invariant: a fact that is absent has no field.

use serde::Serialize;

use crate::error::shown_network;
use crate::model::{Attachment, Event, Kind, Lease, Origin, Owner, Pool};
use crate::net::{Addr, Span};
use crate::store::Problem;
use crate::telemetry::log::utc;
use crate::telemetry::usage::Usage;

/// Who has an address, or had it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[allow(clippy::struct_field_names, reason = "the names of the API")]
struct Holder<'a> {
    #[serde(rename = "containerID", skip_serializing_if = "str::is_empty")]
    container_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    ifname: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pool: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    endpoint: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    node: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pod_namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pod_name: &'a str,
    #[serde(rename = "podUID", skip_serializing_if = "str::is_empty")]
    pod_uid: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mac: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    holder: &'a str,
}

impl<'a> Holder<'a> {
    fn new(
        owner: &'a Owner,
        attachment: Option<&'a Attachment>,
        node: &'a str,
        origin: &'a Origin,
    ) -> Holder<'a> {
        let pod = origin.pod.as_ref();
        Holder {
            container_id: attachment.map_or("", |a| a.container.as_str()),
            ifname: attachment.and_then(|a| a.ifname.as_ref()).map_or("", |i| i.as_str()),
            id: if let Owner::Id(id) = owner { id } else { "" },
            pool: if let Owner::Pool(pool, _) = owner { &pool.0 } else { "" },
            endpoint: origin.endpoint.as_deref().unwrap_or_default(),
            node,
            pod_namespace: pod.map_or("", |p| p.namespace.as_str()),
            pod_name: pod.map_or("", |p| p.name.as_str()),
            pod_uid: pod.map_or("", |p| p.uid.as_str()),
            mac: origin.mac.as_deref().unwrap_or_default(),
            note: origin.note.as_deref().unwrap_or_default(),
            holder: origin.holder.as_deref().unwrap_or_default(),
        }
    }
}

/// A lease.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRow<'a> {
    network: &'a str,
    /// The set of leases, where the network draws from another's.
    #[serde(skip_serializing_if = "str::is_empty")]
    set: &'a str,
    address: String,
    prefix: u8,
    kind: &'static str,
    #[serde(flatten)]
    holder: Holder<'a>,
    #[serde(rename = "bootID", skip_serializing_if = "str::is_empty")]
    boot_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    netns: &'a str,
    time: String,
}

impl<'a> LeaseRow<'a> {
    /// All that is known of it.
    pub fn whole(lease: &'a Lease) -> LeaseRow<'a> {
        LeaseRow {
            boot_id: lease.boot.as_ref().map_or("", |b| b.0.as_str()),
            netns: lease.origin.netns.as_ref().map_or("", |n| n.path.as_str()),
            ..LeaseRow::short(lease)
        }
    }

    /// Without what nobody looks for in a list: boot and network namespace.
    pub fn short(lease: &'a Lease) -> LeaseRow<'a> {
        let network = shown_network(lease);
        LeaseRow {
            network,
            set: if lease.set.0 == network { "" } else { &lease.set.0 },
            address: lease.addr.to_string(),
            prefix: lease.prefix,
            kind: lease.kind.word(),
            holder: Holder::new(&lease.owner, lease.attachment(), &lease.node.name, &lease.origin),
            boot_id: "",
            netns: "",
            time: utc(lease.time),
        }
    }
}

/// An address that is kept back.
#[derive(Serialize)]
pub struct CoolingRow<'a> {
    /// The set of leases.
    pub set: &'a str,
    /// Which.
    pub address: String,
    /// First second in which it is free again.
    pub until: String,
}

/// Something that happened to an address.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventRow<'a> {
    time: String,
    event: &'static str,
    /// Whether somebody holds the address from then on.
    gives: bool,
    face: &'static str,
    network: &'a str,
    address: String,
    kind: &'static str,
    #[serde(flatten)]
    holder: Holder<'a>,
}

impl<'a> EventRow<'a> {
    /// The row of an event.
    pub fn new(event: &'a Event) -> EventRow<'a> {
        EventRow {
            time: utc(event.time),
            event: event.what.word(),
            gives: event.what.gives(),
            face: event.face.word(),
            network: event.network(),
            address: event.addr.to_string(),
            kind: event.kind.word(),
            holder: Holder::new(&event.owner, event.attachment(), &event.node.name, &event.origin),
        }
    }
}

fn ends(span: Span) -> [String; 2] {
    [span.first.to_string(), span.last.to_string()]
}

/// A range, and how full it is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow<'a> {
    network: &'a str,
    set: &'a str,
    /// `network` (of a CNI configuration), `docker`, or `seen`: a subnet that leases name.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subnet: Option<String>,
    first: String,
    last: String,
    gives: Vec<[String; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<String>,
    size: u128,
    used: u128,
    reserved: u128,
    cooling: u128,
    free: u128,
    outside: u128,
    #[serde(skip_serializing_if = "Option::is_none")]
    largest_gap: Option<[String; 2]>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<&'a str>,
}

impl<'a> PoolRow<'a> {
    /// The row of a range; Docker's has more to tell.
    pub fn new(usage: &'a Usage, pool: Option<&'a Pool>, guessed: bool) -> PoolRow<'a> {
        let extent = &usage.extent;
        let other = if guessed { "seen" } else { "network" };
        PoolRow {
            network: &extent.network,
            set: &extent.set.0,
            kind: if pool.is_some() { "docker" } else { other },
            subnet: pool.map(|pool| pool.subnet.to_string()),
            first: extent.range.first.to_string(),
            last: extent.range.last.to_string(),
            gives: extent.gives.iter().copied().map(ends).collect(),
            gateway: pool.and_then(|pool| pool.gateway).as_ref().map(Addr::to_string),
            size: usage.size,
            used: usage.used,
            reserved: usage.reserved,
            cooling: usage.cooling,
            free: usage.free,
            outside: usage.outside,
            largest_gap: usage.gap.map(ends),
            nodes: pool
                .map(|pool| pool.users.iter().map(|(node, _)| node.name.as_str()).collect())
                .unwrap_or_default(),
        }
    }
}

/// A machine that has leases.
#[derive(Serialize)]
pub struct NodeRow<'a> {
    /// `NODE_ID` or the host's name.
    pub node: &'a str,
    /// /etc/machine-id.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub machine: &'a str,
    /// Whether it is the one that answers.
    pub here: bool,
    /// How many; recorded gateways and reservations are nobody's.
    pub leases: u64,
    /// Of which networks.
    pub networks: Vec<&'a str>,
    /// When the newest was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<String>,
    /// Since when its boot leases, where a cluster tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

/// Something that is wrong.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemRow {
    /// `error` or `warning`.
    pub level: &'static str,
    /// What.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl ProblemRow {
    /// Damage is an error, all else a warning.
    pub fn new(problem: Problem) -> ProblemRow {
        let Problem { place, what, advice, mendable } = problem;
        let level = if mendable { "error" } else { "warning" };
        ProblemRow { level, what: format!("{place}: {what}"), remedy: advice }
    }
}

/// Whether a lease is a container's, on some machine.
pub fn is_held(lease: &Lease) -> bool {
    matches!(lease.kind, Kind::Dynamic | Kind::Static)
}
