//! A store's records as JSON lines.
//!
//! Owns: the names of the fields, for ever: what a release wrote a later one reads. Does not own: what
//! becomes of a record.
//! Invariant: a record that was read from its line is the one that was written; a line that means
//! nothing is an error that says what is wrong with it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::alloc::{Cooling, PodKey, Record};
use crate::model::{
    Attachment, BootId, ContainerId, IfName, Kind, Lease, Netns, NetworkName, NetworkRecord, Node,
    Origin, Owner, Persist, Pod, Pool, PoolId, SetName,
};
use crate::net::{Addr, Subnet, parse_cidr};

/// Of all lines of a file.
const FORMAT: u32 = 1;

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Head {
    /// The release that wrote it.
    sublet: String,
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "camelCase", deny_unknown_fields)]
#[allow(clippy::large_enum_variant, reason = "one is made for each line")]
enum Line {
    #[serde(rename_all = "camelCase")]
    Pool {
        id: String,
        space: String,
        subnet: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        range: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        shared: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<String>,
        users: Vec<User>,
        time: u64,
    },
    Lease(LeaseLine),
    #[serde(rename_all = "camelCase")]
    Cooling {
        set: String,
        address: String,
        until: u64,
        freed: u64,
        persist: Word,
    },
    #[serde(rename_all = "camelCase")]
    Cursor {
        set: String,
        range: String,
        address: String,
        persist: Word,
    },
    #[serde(rename_all = "camelCase")]
    Sticky {
        set: String,
        namespace: String,
        name: String,
        range: String,
        address: String,
        persist: Word,
    },
    Adopted {
        network: String,
        time: u64,
    },
    /// `definition` is the JSON object as text: not a byte of it may change.
    Network {
        network: String,
        version: u64,
        definition: String,
        by: String,
        time: u64,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LeaseLine {
    set: String,
    address: String,
    prefix: u8,
    kind: String,
    owner: OwnerWord,
    range: String,
    node: String,
    machine: String,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "bootID")]
    boot_id: Option<String>,
    /// Only where the owner is no attachment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attachment: Option<AttachmentLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    netns: Option<NetnsLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<PodLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reserved_for: Option<String>,
    time: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    cooldown: u32,
    persist: Word,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct User {
    node: String,
    machine: String,
    count: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum OwnerWord {
    Attachment(AttachmentLine),
    Id(String),
    Gateway(String),
    Reservation(String),
    Pool(String),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AttachmentLine {
    network: String,
    #[serde(rename = "containerID")]
    container_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ifname: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NetnsLine {
    path: String,
    /// Device and number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inode: Option<(u64, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mount_ns: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PodLine {
    namespace: String,
    name: String,
    uid: String,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Boot,
    Disk,
}

impl From<Persist> for Word {
    fn from(persist: Persist) -> Word {
        match persist {
            Persist::Boot => Word::Boot,
            Persist::Disk => Word::Disk,
        }
    }
}

impl From<Word> for Persist {
    fn from(word: Word) -> Persist {
        match word {
            Word::Boot => Persist::Boot,
            Word::Disk => Persist::Disk,
        }
    }
}

/// The first line of a file, without its end.
pub fn head() -> String {
    let head = Head { sublet: env!("CARGO_PKG_VERSION").to_owned(), format: FORMAT };
    serde_json::to_string(&head).unwrap_or_default()
}

/// Whether a file that begins so can be read.
pub fn read_head(line: &str) -> Result<(), String> {
    let head: Head = serde_json::from_str(line).map_err(|_| {
        format!("this is not what `sublet export jsonl` writes: it begins with {}", head())
    })?;
    if head.format == FORMAT {
        return Ok(());
    }
    let (format, by) = (head.format, head.sublet);
    Err(format!("the lines are of format {format}, of sublet {by}; this build reads {FORMAT}"))
}

/// A record as one line, without its end.
pub fn write(record: &Record, persist: Persist) -> String {
    let line = match record {
        Record::Pool(pool) => Line::Pool {
            id: pool.id.0.clone(),
            space: pool.space.clone(),
            subnet: pool.subnet.to_string(),
            range: pool.sub.map(|sub| sub.to_string()),
            shared: pool.shared.clone(),
            gateway: pool.gateway.map(|gateway| gateway.to_string()),
            users: pool.users.iter().map(user).collect(),
            time: pool.time,
        },
        Record::Network(record) => Line::Network {
            network: record.network.to_string(),
            version: record.version,
            definition: record.text.clone(),
            by: record.by.clone(),
            time: record.time,
        },
        Record::Lease(lease) => Line::Lease(lease_line(lease, persist)),
        Record::Cooling(set, cooling) => Line::Cooling {
            set: set.0.clone(),
            address: cooling.addr.to_string(),
            until: cooling.until,
            freed: cooling.freed,
            persist: persist.into(),
        },
        Record::Cursor(set, range, addr) => Line::Cursor {
            set: set.0.clone(),
            range: range.to_string(),
            address: addr.to_string(),
            persist: persist.into(),
        },
        Record::Sticky(set, pod, range, addr) => Line::Sticky {
            set: set.0.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            range: range.to_string(),
            address: addr.to_string(),
            persist: persist.into(),
        },
        Record::Adopted(network, time) => {
            Line::Adopted { network: network.to_string(), time: *time }
        }
    };
    // Writing text and numbers into memory does not fail; an empty line would be refused when read.
    serde_json::to_string(&line).unwrap_or_default()
}

fn user((node, count): &(Node, u32)) -> User {
    User { node: node.name.clone(), machine: node.machine.clone(), count: *count }
}

fn attachment(a: &Attachment) -> AttachmentLine {
    AttachmentLine {
        network: a.network.to_string(),
        container_id: a.container.to_string(),
        ifname: a.ifname.as_ref().map(ToString::to_string),
    }
}

fn lease_line(lease: &Lease, persist: Persist) -> LeaseLine {
    let origin = &lease.origin;
    let (owner, apart) = match &lease.owner {
        Owner::Attachment(a) => (OwnerWord::Attachment(attachment(a)), false),
        Owner::Id(id) => (OwnerWord::Id(id.clone()), true),
        Owner::Gateway(addr) => (OwnerWord::Gateway(addr.to_string()), true),
        Owner::Reservation(addr) => (OwnerWord::Reservation(addr.to_string()), true),
        Owner::Pool(id, _) => (OwnerWord::Pool(id.0.clone()), true),
    };
    LeaseLine {
        set: lease.set.0.clone(),
        address: lease.addr.to_string(),
        prefix: lease.prefix,
        kind: lease.kind.word().to_owned(),
        owner,
        range: lease.range.to_string(),
        node: lease.node.name.clone(),
        machine: lease.node.machine.clone(),
        boot_id: lease.boot.as_ref().map(|boot| boot.0.clone()),
        attachment: origin.attachment.as_ref().filter(|_| apart).map(attachment),
        netns: origin.netns.as_ref().map(|netns| NetnsLine {
            path: netns.path.clone(),
            inode: netns.inode,
            mount_ns: netns.mount_ns,
        }),
        pod: origin.pod.as_ref().map(|pod| PodLine {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }),
        mac: origin.mac.clone(),
        endpoint: origin.endpoint.clone(),
        note: origin.note.clone(),
        reserved_for: origin.holder.clone(),
        time: lease.time,
        cooldown: lease.cooldown,
        persist: persist.into(),
    }
}

/// The record of a line, and how long it lives.
pub fn read(line: &str) -> Result<(Record, Persist), String> {
    let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
    Ok(match line {
        Line::Pool { id, space, subnet, range, shared, gateway, users, time } => {
            let subnet = prefix("subnet", &subnet)?;
            let sub = range.map(|range| prefix("range", &range)).transpose()?;
            let inside = |sub: &Subnet| sub.len() > subnet.len() && subnet.contains(sub.first());
            if sub.as_ref().is_some_and(|sub| !inside(sub)) {
                return Err(format!("\"range\" is no part of {subnet}"));
            }
            let gateway = gateway.map(|text| parse("gateway", &text)).transpose()?;
            if id.is_empty() || space.is_empty() || space.contains('/') {
                return Err("a pool has an \"id\", and a \"space\" without \"/\"".to_owned());
            }
            let node = |user: User| (Node { name: user.node, machine: user.machine }, user.count);
            let users = users.into_iter().map(node).collect();
            let pool = Pool { id: PoolId(id), space, subnet, sub, shared, gateway, users, time };
            (Record::Pool(pool), Persist::Disk)
        }
        Line::Lease(line) => {
            let persist = line.persist.into();
            (Record::Lease(lease(line)?), persist)
        }
        Line::Cooling { set, address, until, freed, persist } => {
            let cooling = Cooling { until, addr: parse("address", &address)?, freed };
            (Record::Cooling(SetName(set), cooling), persist.into())
        }
        Line::Cursor { set, range, address, persist } => {
            let (range, addr) = (parse("range", &range)?, parse("address", &address)?);
            (Record::Cursor(SetName(set), range, addr), persist.into())
        }
        Line::Sticky { set, namespace, name, range, address, persist } => {
            let (range, addr) = (parse("range", &range)?, parse("address", &address)?);
            let pod = PodKey { namespace, name };
            (Record::Sticky(SetName(set), pod, range, addr), persist.into())
        }
        Line::Network { network, version, definition: text, by, time } => {
            let network = named("network", &network, NetworkName::new)?;
            let value: Result<serde_json::Value, _> = serde_json::from_str(&text);
            if version == 0 || !value.is_ok_and(|value| value.is_object()) {
                return Err(format!("the \"definition\" of {network} is none"));
            }
            let record = NetworkRecord { network, version, text, by, time };
            (Record::Network(record), Persist::Disk)
        }
        Line::Adopted { network, time } => {
            (Record::Adopted(named("network", &network, NetworkName::new)?, time), Persist::Disk)
        }
    })
}

fn parse<T: FromStr>(field: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{field:?} is {text:?}, no address"))
}

fn prefix(field: &str, text: &str) -> Result<Subnet, String> {
    let subnet = parse_cidr(text).and_then(|net| Subnet::strict(net).ok());
    subnet.ok_or_else(|| format!("{field:?} is {text:?}, no prefix such as 10.80.0.0/24"))
}

fn named<T, E>(field: &str, text: &str, new: fn(String) -> Result<T, E>) -> Result<T, String> {
    new(text.to_owned()).map_err(|_| format!("{field:?} is {text:?}, which is no such name"))
}

fn read_attachment(line: AttachmentLine) -> Result<Attachment, String> {
    Ok(Attachment {
        network: named("network", &line.network, NetworkName::new)?,
        container: named("containerID", &line.container_id, ContainerId::new)?,
        ifname: line.ifname.map(|text| named("ifname", &text, IfName::new)).transpose()?,
    })
}

fn lease(line: LeaseLine) -> Result<Lease, String> {
    let addr: Addr = parse("address", &line.address)?;
    let range: Addr = parse("range", &line.range)?;
    if line.prefix > addr.family().bits() {
        return Err(format!("\"prefix\" is {}, too long for {addr}", line.prefix));
    }
    let kind = Kind::ALL.iter().copied().find(|kind| kind.word() == line.kind);
    let kind = kind.ok_or_else(|| format!("\"kind\" is {:?}, which is none", line.kind))?;
    let owner = match line.owner {
        OwnerWord::Attachment(a) => Owner::Attachment(read_attachment(a)?),
        OwnerWord::Id(id) => Owner::Id(id),
        OwnerWord::Gateway(at) => Owner::Gateway(parse("gateway", &at)?),
        OwnerWord::Reservation(at) => Owner::Reservation(parse("reservation", &at)?),
        OwnerWord::Pool(id) => Owner::Pool(PoolId(id), addr),
    };
    let set = SetName(line.set);
    if set.is_pools() != matches!(owner, Owner::Pool(..)) {
        return Err(format!("a lease in {set} that is of another kind of owner"));
    }
    let attachment = match (&owner, line.attachment) {
        (Owner::Attachment(a), None) => Some(a.clone()),
        (_, apart) => apart.map(read_attachment).transpose()?,
    };
    Ok(Lease {
        set,
        addr,
        prefix: line.prefix,
        kind,
        owner,
        range,
        node: Node { name: line.node, machine: line.machine },
        boot: line.boot_id.map(BootId),
        origin: Origin {
            attachment,
            netns: line.netns.map(|n| Netns { path: n.path, inode: n.inode, mount_ns: n.mount_ns }),
            pod: line.pod.map(|p| Pod { namespace: p.namespace, name: p.name, uid: p.uid }),
            mac: line.mac,
            endpoint: line.endpoint,
            note: line.note,
            holder: line.reserved_for,
        },
        time: line.time,
        cooldown: line.cooldown,
    })
}
