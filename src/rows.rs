//! The fields of leases, events, ranges, nodes, problems and counters, as users see them.
//!
//! Tables, `--json`, the JSON API and JSON lines are made from these rows. docs/api.md documents each field.
//! Invariant: an absent value has no field, and a field has the same name, unit and format everywhere.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_with::skip_serializing_none;

use crate::alloc::Cooling;
use crate::error::shown_network;
use crate::model::{
    Attachment, BootId, ContainerId, Counter, Event, IfName, Kind, Lease, Netns, NetworkName, Node,
    NodeRecord, Origin, Owner, Pod, Pool, PoolId, SetName, StaticName, Timestamp,
};
use crate::net::{Addr, Span};
use crate::store::Problem;
use crate::telemetry::log::utc;
use crate::telemetry::usage::Usage;

/// A text in a row: borrowed when the row is written, owned after it has been read.
pub type Str<'a> = Cow<'a, str>;

/// A value that is a string in JSON, such as an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de, T: FromStr> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<T>, D::Error> {
        let text = Str::deserialize(deserializer)?;
        text.parse().map(Text).map_err(|_| D::Error::custom(format!("{text:?} is not an address")))
    }
}

/// A time. In JSON, it is a string in the format of RFC 3339, in UTC, in whole seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&utc(self.0))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = Str::deserialize(deserializer)?;
        let time: Option<jiff::Timestamp> = text.parse().ok();
        let seconds = time.and_then(|time| Timestamp::try_from(time.as_second()).ok());
        seconds.map(Time).ok_or_else(|| D::Error::custom(format!("{text:?} is not a time")))
    }
}

/// The row of a lease.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseRow<'a> {
    /// Name of the network. For the lease of a Docker pool, name of the pool's set of leases.
    pub network: Str<'a>,
    /// Name of the network's set of leases, if it differs from `network` because of the key `shared`.
    pub set: Option<Str<'a>>,
    /// The address, without a prefix length.
    pub address: Text<Addr>,
    /// The prefix length that the container got, in bits.
    pub prefix: Option<u8>,
    /// The kind of lease: `dynamic`, `static`, `named`, `gateway`, `aux` or `reserved`.
    pub kind: Str<'a>,
    /// The container ID (`CNI_CONTAINERID`).
    #[serde(rename = "containerID")]
    pub container_id: Option<Str<'a>>,
    /// The interface name (`CNI_IFNAME`).
    pub ifname: Option<Str<'a>>,
    /// The `id` of an ECS lease.
    pub id: Option<Str<'a>>,
    /// ID of the Docker pool.
    pub pool: Option<Str<'a>>,
    /// Name of the container, as Docker knows it.
    pub endpoint: Option<Str<'a>>,
    /// The namespace of the Kubernetes pod.
    pub pod_namespace: Option<Str<'a>>,
    /// The name of the Kubernetes pod.
    pub pod_name: Option<Str<'a>>,
    /// The UID of the Kubernetes pod.
    #[serde(rename = "podUID")]
    pub pod_uid: Option<Str<'a>>,
    /// The MAC address of the container.
    pub mac: Option<Str<'a>>,
    /// The note of a reservation (`--note`).
    pub note: Option<Str<'a>>,
    /// The owner of a reservation (`--owner`).
    pub holder: Option<Str<'a>>,
    /// The name of the pod or container for which an address is reserved (`--for`).
    #[serde(rename = "for")]
    pub reserved_for: Option<Str<'a>>,
    /// The node that made the lease.
    pub node: Option<Str<'a>>,
    /// The /etc/machine-id of that node.
    #[serde(rename = "machineID")]
    pub machine_id: Option<Str<'a>>,
    /// The boot ID that the node had when it made the lease.
    #[serde(rename = "bootID")]
    pub boot_id: Option<Str<'a>>,
    /// The path of the network namespace (`CNI_NETNS`).
    pub netns: Option<Str<'a>>,
    /// The device and the inode of the network namespace.
    pub netns_inode: Option<(u64, u64)>,
    /// The inode of the mount namespace in which `netns` was opened.
    pub mount_namespace: Option<u64>,
    /// Key of the range set from which the address was leased: an address of the set's first range.
    pub range_key: Option<Text<Addr>>,
    /// How long the address cools down after it is freed, in seconds.
    pub cooldown: Option<u32>,
    /// When the lease was made. In an event, when the event happened.
    pub time: Time,
    /// Whether the address is in a draining range. Only `list` sets this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
}

/// Returns the text, or `None` if it is empty.
fn some(text: &str) -> Option<Str<'_>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

impl<'a> LeaseRow<'a> {
    /// Makes a row with all fields of a lease.
    pub fn new(lease: &'a Lease) -> LeaseRow<'a> {
        let netns = lease.origin.netns.as_ref();
        LeaseRow {
            machine_id: some(&lease.node.machine),
            boot_id: lease.boot.as_ref().map(|boot| Cow::Borrowed(&*boot.0)),
            netns: netns.map(|netns| Cow::Borrowed(&*netns.path)),
            netns_inode: netns.and_then(|netns| netns.inode),
            mount_namespace: netns.and_then(|netns| netns.mount_ns),
            range_key: Some(Text(lease.range)),
            cooldown: Some(lease.cooldown).filter(|seconds| *seconds > 0),
            ..LeaseRow::short(lease)
        }
    }

    /// Makes a shorter row, for lists of many leases: without the machine, boot, namespaces, range set and
    /// cooldown.
    pub fn short(lease: &'a Lease) -> LeaseRow<'a> {
        let Lease { set, addr, prefix, kind, owner, node, origin, time, .. } = lease;
        let row = LeaseRow::of_owner(set, *addr, *kind, owner, node, origin, *time);
        LeaseRow { prefix: Some(*prefix), ..row }
    }

    /// Makes the fields that leases and events have in common.
    fn of_owner(
        set: &'a SetName,
        addr: Addr,
        kind: Kind,
        owner: &'a Owner,
        node: &'a Node,
        origin: &'a Origin,
        time: Timestamp,
    ) -> LeaseRow<'a> {
        let (network, attachment) = match owner {
            Owner::Attachment(a) => (a.network.as_str(), Some(a)),
            _ => (&*set.0, origin.attachment.as_ref()),
        };
        let pod = origin.pod.as_ref();
        let text = |text: &'a Option<String>| text.as_deref().and_then(some);
        LeaseRow {
            network: network.into(),
            set: some(&set.0).filter(|set| set != network),
            address: Text(addr),
            prefix: None,
            kind: kind.word().into(),
            container_id: attachment.map(|a| a.container.as_str().into()),
            ifname: attachment.and_then(|a| Some(a.ifname.as_ref()?.as_str().into())),
            id: if let Owner::Id(id) = owner { Some(Cow::Borrowed(id)) } else { None },
            pool: if let Owner::Pool(id, _) = owner { Some(Cow::Borrowed(&id.0)) } else { None },
            endpoint: text(&origin.endpoint),
            pod_namespace: pod.map(|pod| Cow::Borrowed(&*pod.namespace)),
            pod_name: pod.map(|pod| Cow::Borrowed(&*pod.name)),
            pod_uid: pod.and_then(|pod| some(&pod.uid)),
            mac: text(&origin.mac),
            note: text(&origin.note),
            holder: text(&origin.holder),
            reserved_for: match owner {
                Owner::Named(name) => Some(name.as_str().into()),
                _ => None,
            },
            node: some(&node.name),
            machine_id: None,
            boot_id: None,
            netns: None,
            netns_inode: None,
            mount_namespace: None,
            range_key: None,
            cooldown: None,
            time: Time(time),
            draining: false,
        }
    }

    /// Returns the address, with its prefix length if the length is known.
    pub fn cidr(&self) -> String {
        let address = self.address.0;
        self.prefix.map_or_else(|| address.to_string(), |prefix| format!("{address}/{prefix}"))
    }

    /// Returns the pod as `namespace/name`.
    pub fn pod(&self) -> Option<String> {
        Some(format!("{}/{}", self.pod_namespace.as_ref()?, self.pod_name.as_ref()?))
    }

    /// Returns the lease from which [`LeaseRow::new`] made this row. Fails if a field is missing or invalid.
    pub fn into_lease(self) -> Result<Lease, String> {
        let addr = self.address.0;
        let prefix = self.prefix.filter(|prefix| *prefix <= addr.family().bits());
        let prefix = prefix.ok_or_else(|| {
            format!("\"prefix\" is missing or is not a valid prefix length for {addr}")
        })?;
        let kind = Kind::from_word(&self.kind);
        let kind = kind.ok_or_else(|| format!("unknown \"kind\" {:?}", self.kind))?;
        let attachment = match &self.container_id {
            None => None,
            Some(container) => Some(Attachment {
                network: name("network", &self.network, NetworkName::new)?,
                container: name("containerID", container, ContainerId::new)?,
                ifname: match &self.ifname {
                    None => None,
                    Some(ifname) => Some(name("ifname", ifname, IfName::new)?),
                },
            }),
        };
        let owner = match (kind, self.pool, self.id, &attachment) {
            (_, Some(pool), ..) => Owner::Pool(PoolId(pool.into()), addr),
            (Kind::Reserved, ..) => match &self.reserved_for {
                Some(text) => Owner::Named(name("for", text, StaticName::new)?),
                None => Owner::Reservation(addr),
            },
            (Kind::Gateway, ..) => Owner::Gateway(addr),
            (_, None, Some(id), _) => Owner::Id(id.into()),
            (_, None, None, Some(attachment)) => Owner::Attachment(attachment.clone()),
            (_, None, None, None) => {
                return Err("the lease has no \"containerID\", \"id\" or \"pool\"".to_owned());
            }
        };
        let set = SetName(self.set.unwrap_or(self.network).into());
        if set.is_pools() != matches!(owner, Owner::Pool(..)) {
            return Err(format!("the lease in {set} has an owner that does not match \"kind\""));
        }
        let text = |text: Option<Str<'_>>| text.map(String::from);
        let (inode, mount_ns) = (self.netns_inode, self.mount_namespace);
        Ok(Lease {
            set,
            addr,
            prefix,
            kind,
            owner,
            range: self.range_key.ok_or("no \"rangeKey\"")?.0,
            node: Node {
                name: text(self.node).unwrap_or_default(),
                machine: text(self.machine_id).unwrap_or_default(),
            },
            boot: text(self.boot_id).map(BootId),
            origin: Origin {
                attachment,
                netns: text(self.netns).map(|path| Netns { path, inode, mount_ns }),
                pod: text(self.pod_namespace).zip(text(self.pod_name)).map(|(namespace, name)| {
                    Pod { namespace, name, uid: text(self.pod_uid).unwrap_or_default() }
                }),
                mac: text(self.mac),
                endpoint: text(self.endpoint),
                note: text(self.note),
                holder: text(self.holder),
            },
            time: self.time.0,
            cooldown: self.cooldown.unwrap_or_default(),
        })
    }
}

/// Parses the text of a field as a name. The error names the field.
pub fn name<T, E>(field: &str, text: &str, new: fn(String) -> Result<T, E>) -> Result<T, String> {
    new(text.to_owned()).map_err(|_| format!("{field:?} is {text:?}, which is not a valid name"))
}

/// The result of `release` or `gc` for a lease.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize)]
pub struct FreedRow<'a> {
    /// The row of the lease.
    #[serde(flatten)]
    pub lease: LeaseRow<'a>,
    /// The conclusion of `gc` about the container: `alive`, `lost` or `cannotTell`.
    pub verdict: Option<&'static str>,
    /// The reason for the verdict.
    pub reason: Option<&'a str>,
    /// Whether the lease was freed.
    pub freed: bool,
}

/// An address that is cooling down.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoolingRow<'a> {
    /// The set of leases to which the address belongs.
    pub set: Str<'a>,
    /// The address that is cooling down.
    pub address: Text<Addr>,
    /// The first second in which the address is free again.
    pub until: Time,
    /// When the address was freed.
    pub freed: Time,
}

impl<'a> CoolingRow<'a> {
    /// Makes the row for an address that is cooling down.
    pub fn new(set: &'a SetName, cooling: &Cooling) -> CoolingRow<'a> {
        CoolingRow {
            set: Cow::Borrowed(&set.0),
            address: Text(cooling.addr),
            until: Time(cooling.until),
            freed: Time(cooling.freed),
        }
    }
}

/// The row of an event in the history.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize)]
pub struct EventRow<'a> {
    /// What happened: `added`, `deleted`, ...
    pub event: &'static str,
    /// Whether the address has a holder after the event.
    pub held: bool,
    /// The face through which the change was made: `cni`, `docker` or `cli`. Absent if it is unknown.
    pub face: Option<&'static str>,
    /// The trace ID of the request, if the caller has passed one.
    pub trace: Option<&'a str>,
    /// The lease. Its `time` is the time of the event.
    #[serde(flatten)]
    pub lease: LeaseRow<'a>,
}

impl<'a> EventRow<'a> {
    /// Makes the row of an event.
    pub fn new(event: &'a Event) -> EventRow<'a> {
        let Event { time, what, face, set, addr, kind, owner, node, origin, trace } = event;
        EventRow {
            event: what.word(),
            held: what.gives(),
            face: Some(face.word()),
            trace: trace.as_deref(),
            lease: LeaseRow::of_owner(set, *addr, *kind, owner, node, origin, *time),
        }
    }
}

/// The row of a network's range or of a Docker pool, with its usage. All counts are numbers of addresses.
#[skip_serializing_none]
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolRow {
    /// The name of the network, or the ID of the pool.
    pub network: String,
    /// The set of leases, if its name is not `network`.
    pub set: Option<String>,
    /// `network`, `docker`, or `seen`. `seen` is a subnet that is known only from its leases, because no ADD
    /// has recorded a range.
    pub kind: &'static str,
    /// For a Docker pool, its subnet. For any other range that consists of all hosts of a prefix, that
    /// prefix. Otherwise absent.
    pub subnet: Option<String>,
    /// Gateway of the pool, if it is a shared Docker pool.
    pub gateway: Option<Text<Addr>>,
    /// First address of the range.
    pub first: Text<Addr>,
    /// Last address of the range.
    pub last: Text<Addr>,
    /// First and last address of each span from which addresses are allocated.
    pub allocatable: Vec<[Text<Addr>; 2]>,
    /// The number of allocatable addresses: the sum of `used`, `reserved`, `cooling`, `draining` and `free`.
    pub size: u128,
    /// The number of leased addresses.
    pub used: u128,
    /// The number of reserved addresses.
    pub reserved: u128,
    /// The number of addresses that are cooling down.
    pub cooling: u128,
    /// The number of draining addresses that are neither leased nor reserved. Absent if nothing in the range
    /// is draining.
    pub draining: Option<u128>,
    /// First and last address of each draining range that overlaps the range.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining_ranges: Vec<[Text<Addr>; 2]>,
    /// The number of free addresses.
    pub free: u128,
    /// The number of addresses in the range that are leased or reserved but not allocatable.
    pub outside: u128,
    /// The length of the longest run of free addresses.
    pub largest_gap: u128,
    /// The first address of the longest run of free addresses.
    pub gap_first: Option<Text<Addr>>,
    /// The number of allocations in the last hour, according to the history.
    pub allocated_last_hour: Option<u32>,
    /// The number of releases in the last hour, according to the history.
    pub released_last_hour: Option<u32>,
    /// Seconds until the range is full if the trend of the last three hours continues. Absent if there is no
    /// such trend.
    pub full_in: Option<u64>,
    /// Names of the nodes that use a Docker pool.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

impl PoolRow {
    /// Makes the rows of ranges. `pools` are Docker's pools. `network` is the `kind` of all other ranges.
    pub fn all(usage: &[Usage], pools: &[Pool], network: &'static str) -> Vec<PoolRow> {
        usage.iter().map(|usage| PoolRow::new(usage, pools, network)).collect()
    }

    fn new(usage: &Usage, pools: &[Pool], network: &'static str) -> PoolRow {
        let extent = &usage.extent;
        let is_of = |pool: &&Pool| pool.id.0 == extent.network && pool.set() == extent.set;
        let pool = pools.iter().find(is_of);
        let ends = |span: &Span| [Text(span.first), Text(span.last)];
        PoolRow {
            network: extent.network.clone(),
            set: Some(&extent.set.0).filter(|set| **set != extent.network).cloned(),
            kind: if pool.is_some() { "docker" } else { network },
            subnet: pool
                .map(|pool| pool.subnet)
                .or_else(|| extent.range.prefix())
                .map(|subnet| subnet.to_string()),
            gateway: pool.and_then(|pool| pool.gateway).map(Text),
            first: Text(extent.range.first),
            last: Text(extent.range.last),
            allocatable: extent.gives.iter().map(ends).collect(),
            size: usage.size,
            used: usage.used,
            reserved: usage.reserved,
            cooling: usage.cooling,
            draining: Some(usage.draining).filter(|_| !usage.drains.is_empty()),
            draining_ranges: usage.drains.iter().map(ends).collect(),
            free: usage.free,
            outside: usage.outside,
            largest_gap: usage.gap.map_or(0, Span::size),
            gap_first: usage.gap.map(|gap| Text(gap.first)),
            allocated_last_hour: None,
            released_last_hour: None,
            full_in: None,
            nodes: pool.map_or_else(Vec::new, |pool| {
                pool.users.iter().map(|(node, _)| node.name.clone()).collect()
            }),
        }
    }
}

/// The address counts of a network and family, of a pod namespace, or of a node.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Serialize)]
pub struct GroupRow {
    /// The name of the network, or the ID of the pool.
    pub network: Option<String>,
    /// `ipv4` or `ipv6`: the address family of the ranges whose counts are added.
    pub family: Option<&'static str>,
    /// The namespace of the pods.
    pub namespace: Option<String>,
    /// The node that made the leases.
    pub node: Option<String>,
    /// The number of allocatable addresses.
    pub size: Option<u128>,
    /// The number of leased addresses.
    pub used: u128,
    /// The number of reserved addresses.
    pub reserved: Option<u128>,
    /// The number of addresses that are cooling down.
    pub cooling: Option<u128>,
    /// The number of draining addresses that are neither leased nor reserved.
    pub draining: Option<u128>,
    /// The number of free addresses.
    pub free: Option<u128>,
}

impl GroupRow {
    /// Returns the name of the network, namespace or node.
    pub fn name(&self) -> Option<&str> {
        self.network.as_deref().or(self.namespace.as_deref()).or(self.node.as_deref())
    }
}

/// The row of a machine that leases from the store.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeRow {
    /// The node name: `NODE_ID` or the host name.
    pub node: String,
    /// The machine's /etc/machine-id.
    #[serde(rename = "machineID", skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// Whether the row was made on this node.
    pub here: bool,
    /// The ID of the boot in which the node last leased an address. Absent if the store is not a cluster.
    #[serde(rename = "bootID")]
    pub boot_id: Option<String>,
    /// When the node first leased an address in that boot (`boot_id`).
    pub boot_since: Option<Time>,
    /// When the node name was first used.
    pub first_seen: Option<Time>,
    /// When the newest lease of the node was made.
    pub last_lease: Option<Time>,
    /// Number of the node's leases, without reservations and the gateways of shared pools.
    pub leases: usize,
    /// Number of Docker pools that the node uses.
    pub pools: usize,
    /// Number of the node's leases, by network.
    pub networks: BTreeMap<String, usize>,
}

/// Counts the leases and pools of each node.
#[derive(Debug, Default)]
pub struct Nodes(BTreeMap<String, NodeRow>);

impl Nodes {
    fn of(&mut self, node: &Node) -> &mut NodeRow {
        let row = self.0.entry(node.name.clone()).or_default();
        row.machine_id.clone_from(&node.machine);
        row
    }

    /// Counts one lease.
    pub fn lease(&mut self, lease: &Lease) {
        // The gateway of a shared pool belongs to the pool, and a reservation belongs to the operator.
        // Neither is a lease of the node that made it.
        let is_pools = lease.kind == Kind::Gateway && matches!(lease.owner, Owner::Pool(..));
        if is_pools || lease.kind == Kind::Reserved {
            return;
        }
        let row = self.of(&lease.node);
        row.last_lease = row.last_lease.max(Some(Time(lease.time)));
        row.leases += 1;
        *row.networks.entry(shown_network(lease).to_owned()).or_default() += 1;
    }

    /// Returns the rows, sorted by node name. Adds the number of pools that each node uses, and the data of
    /// the cluster's node records. `here` is this machine.
    pub fn rows(mut self, pools: &[Pool], records: Vec<NodeRecord>, here: &Node) -> Vec<NodeRow> {
        for (user, _) in pools.iter().flat_map(|pool| &pool.users) {
            self.of(user).pools += 1;
        }
        for record in records {
            let row = self.of(&record.node);
            row.boot_id = record.boot.map(|boot| boot.0);
            row.boot_since = Some(Time(record.since));
            row.first_seen = Some(Time(record.first));
        }
        let named = |(node, row): (String, NodeRow)| NodeRow {
            here: node == here.name && row.machine_id == here.machine,
            node,
            ..row
        };
        self.0.into_iter().map(named).collect()
    }
}

/// The row of a problem that `sublet doctor` found.
#[derive(Clone, Debug, Serialize)]
pub struct ProblemRow {
    /// `error` for damage, `warning` for everything else.
    pub level: &'static str,
    /// The file, record or lease with the problem.
    pub place: String,
    /// What is wrong with the store.
    pub what: String,
    /// What the operator should do.
    pub advice: String,
    /// Whether `sublet doctor --repair` repairs the problem.
    pub repairable: bool,
}

impl ProblemRow {
    /// Makes the row of a problem.
    pub fn new(problem: Problem) -> ProblemRow {
        let Problem { place, what, advice, repairable, damage } = problem;
        let level = if damage { "error" } else { "warning" };
        ProblemRow { level, place, what, advice, repairable }
    }
}

/// The number of requests with the same set of leases, face (the interface that received the request),
/// command and outcome.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CounterRow<'a> {
    /// The name of the set of leases to which the requests applied.
    pub network: &'a str,
    /// The face: `cni`, `docker` or `cli`.
    pub face: &'static str,
    /// The command: `add`, `del`, `gc`, `reserve`, `import` or `pool`.
    pub command: &'static str,
    /// The outcome: `ok`, `exhausted`, `held`, `refused` or `failed`.
    pub outcome: &'static str,
    /// The number of requests.
    pub count: u64,
}

impl<'a> CounterRow<'a> {
    /// Makes the row of a counter.
    pub fn new(counter: &'a Counter) -> CounterRow<'a> {
        CounterRow {
            network: &counter.set.0,
            face: counter.face.word(),
            command: counter.verb.word(),
            outcome: counter.ending.word(),
            count: counter.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::model::{Ending, Face, Verb};

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn lease(kind: Kind, owner: Owner, origin: Origin) -> Lease {
        Lease {
            set: SetName(if let Owner::Pool(..) = owner { "docker/L/p" } else { "set" }.to_owned()),
            addr: addr("10.0.0.2"),
            prefix: 24,
            kind,
            owner,
            range: addr("10.0.0.1"),
            node: Node { name: "n".to_owned(), machine: "m".to_owned() },
            boot: Some(BootId("b".to_owned())),
            origin,
            time: 1_769_900_000,
            cooldown: 60,
        }
    }

    fn attachment(network: &str, ifname: Option<&str>) -> Attachment {
        Attachment {
            network: NetworkName::new(network).unwrap(),
            container: ContainerId::new("c").unwrap(),
            ifname: ifname.map(|name| IfName::new(name).unwrap()),
        }
    }

    fn of_container(network: &str) -> Lease {
        let attachment = attachment(network, Some("eth0"));
        let netns = Netns {
            path: "/run/netns/x".to_owned(),
            inode: Some((3, u64::MAX)),
            mount_ns: Some(7),
        };
        let [namespace, name, uid] = ["ns", "web-0", "u"].map(str::to_owned);
        let origin = Origin {
            attachment: Some(attachment.clone()),
            netns: Some(netns),
            pod: Some(Pod { namespace, name, uid }),
            mac: Some("02:00:00:00:00:01".to_owned()),
            ..Origin::default()
        };
        lease(Kind::Static, Owner::Attachment(attachment), origin)
    }

    /// Returns a lease for each kind of owner.
    fn leases() -> Vec<Lease> {
        let at = addr("10.0.0.2");
        let text = |text: &str| Some(text.to_owned());
        let of_id = Origin { attachment: Some(attachment("set", None)), ..Origin::default() };
        let reserved = Origin { note: text("printer"), holder: text("ops"), ..Origin::default() };
        let docker = Origin { endpoint: text("web"), mac: text("m"), ..Origin::default() };
        let pool = Owner::Pool(PoolId("L/p".to_owned()), at);
        let mut bare = lease(Kind::Gateway, Owner::Gateway(at), Origin::default());
        bare.node = Node::default();
        (bare.boot, bare.time, bare.cooldown) = (None, 0, 0);
        vec![
            of_container("set"),
            of_container("shares"),
            lease(Kind::Dynamic, Owner::Id("task".to_owned()), of_id),
            lease(Kind::Dynamic, Owner::Id(String::new()), Origin::default()),
            bare,
            lease(Kind::Reserved, Owner::Reservation(at), reserved),
            lease(Kind::Gateway, pool.clone(), Origin::default()),
            lease(Kind::Aux, pool, docker),
        ]
    }

    #[test]
    fn a_lease_comes_back_from_its_row() {
        for lease in leases() {
            let text = serde_json::to_string(&LeaseRow::new(&lease)).unwrap();
            let row: LeaseRow<'_> = serde_json::from_str(&text).unwrap();
            assert_eq!(row.into_lease(), Ok(lease), "{text}");
            // Only the field `id` may be an empty string.
            assert!(!text.contains("null") && !text.replace("\"id\":\"\"", "").contains("\"\""));
        }
    }

    #[test]
    fn a_row_without_an_owner_is_no_lease() {
        let lease = of_container("set");
        let no_owner = LeaseRow { container_id: None, ..LeaseRow::new(&lease) };
        assert!(no_owner.into_lease().unwrap_err().contains("containerID"));
        let no_prefix = LeaseRow { prefix: Some(33), ..LeaseRow::new(&lease) };
        assert!(no_prefix.into_lease().unwrap_err().contains("prefix"));
        assert!(LeaseRow::short(&lease).into_lease().unwrap_err().contains("rangeKey"));
    }

    /// docs/api.md must contain the name of each field, formatted as code.
    #[test]
    fn the_document_has_every_field() {
        let lease = of_container("shares");
        let (row, at) = (LeaseRow::new(&lease), Text(lease.addr));
        // Serde's error for an unknown field lists the known fields.
        let unknown = serde_json::from_str::<LeaseRow<'_>>("{\"?\":0}").unwrap_err().to_string();
        let mut fields: Vec<String> =
            unknown.split('`').skip(3).step_by(2).map(str::to_owned).collect();
        assert!(fields.len() > 20, "{unknown}");
        let text = || "x".to_owned();
        let pool = PoolRow {
            network: text(),
            set: Some(text()),
            kind: "docker",
            subnet: Some(text()),
            gateway: Some(at),
            first: at,
            last: at,
            allocatable: vec![[at, at]],
            size: u128::MAX,
            used: 0,
            reserved: 0,
            cooling: 0,
            draining: Some(1),
            draining_ranges: vec![[at, at]],
            free: 0,
            outside: 0,
            largest_gap: 0,
            gap_first: Some(at),
            allocated_last_hour: Some(1),
            released_last_hour: Some(1),
            full_in: Some(1),
            nodes: vec![text()],
        };
        let node = NodeRow {
            node: text(),
            machine_id: text(),
            here: true,
            boot_id: Some(text()),
            boot_since: Some(Time(0)),
            first_seen: Some(Time(0)),
            last_lease: Some(Time(0)),
            leases: 0,
            pools: 0,
            networks: BTreeMap::new(),
        };
        let event = EventRow {
            event: "added",
            held: true,
            face: Some("cni"),
            trace: Some("x"),
            lease: row.clone(),
        };
        let freed = FreedRow { lease: row, verdict: Some("lost"), reason: Some("x"), freed: true };
        let cooling = Cooling { until: 1, addr: lease.addr, freed: 0 };
        let problem =
            Problem { place: text(), what: text(), advice: text(), repairable: true, damage: true };
        let counter = Counter {
            set: lease.set.clone(),
            face: Face::Cni,
            verb: Verb::Add,
            ending: Ending::Ok,
            count: 1,
        };
        for text in [
            serde_json::to_string_pretty(&pool),
            serde_json::to_string_pretty(&node),
            serde_json::to_string_pretty(&event),
            serde_json::to_string_pretty(&freed),
            serde_json::to_string_pretty(&CoolingRow::new(&lease.set, &cooling)),
            serde_json::to_string_pretty(&ProblemRow::new(problem)),
            serde_json::to_string_pretty(&CounterRow::new(&counter)),
        ] {
            let text = text.unwrap();
            assert!(serde_json::from_str::<Value>(&text).is_ok(), "{text}");
            let names =
                text.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\": "));
            fields.extend(names.map(|(name, _)| name.to_owned()));
        }
        let document = include_str!("../docs/api.md");
        for field in fields {
            assert!(document.contains(&format!("`{field}`")), "docs/api.md does not have {field}");
        }
    }
}
