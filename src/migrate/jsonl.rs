//! Converts the records of a store to JSON lines and back. [`crate::rows`] defines the fields.
//!
//! Invariant: parsing a line returns exactly the record that was written. If a line is invalid, the error
//! describes what is wrong.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::alloc::{Cooling, Draining, PodKey, Record};
use crate::model::{NetworkDefinition, NetworkName, Node, Persist, Pool, PoolId, SetName};
use crate::net::{Addr, Span, Subnet, parse_cidr};
use crate::rows::{CoolingRow, LeaseRow, Str, Text, Time, name};

/// The version of the format. All lines in a file have the same version.
const FORMAT: u32 = 2;

/// The first line of a file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    /// The version of sublet that wrote the file.
    sublet: String,
    format: u32,
}

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    #[serde(flatten)]
    fields: Fields<'a>,
    #[serde(with = "Word")]
    persist: Persist,
}

#[skip_serializing_none]
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "record",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
#[allow(clippy::large_enum_variant, reason = "one value exists for each line")]
enum Fields<'a> {
    Pool {
        pool: Str<'a>,
        space: Str<'a>,
        subnet: String,
        range: Option<String>,
        shared: Option<Str<'a>>,
        gateway: Option<Text<Addr>>,
        users: Vec<User<'a>>,
        time: Time,
    },
    Lease(LeaseRow<'a>),
    Cooling(CoolingRow<'a>),
    Cursor {
        set: Str<'a>,
        range_key: Text<Addr>,
        address: Text<Addr>,
    },
    Sticky {
        set: Str<'a>,
        pod_namespace: Str<'a>,
        pod_name: Str<'a>,
        range_key: Text<Addr>,
        address: Text<Addr>,
    },
    Draining {
        set: Str<'a>,
        first: Text<Addr>,
        last: Text<Addr>,
        since: Time,
    },
    Adopted {
        network: Str<'a>,
        time: Time,
    },
    /// A network definition. `definition` is a JSON object, kept as a string so that every byte of it is
    /// preserved.
    Network {
        network: Str<'a>,
        version: u64,
        definition: Str<'a>,
        by: Str<'a>,
        time: Time,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct User<'a> {
    node: Str<'a>,
    #[serde(default, rename = "machineID", skip_serializing_if = "str::is_empty")]
    machine_id: Str<'a>,
    count: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Persist", rename_all = "lowercase")]
enum Word {
    Boot,
    Disk,
}

/// Returns the first line of a file, without its newline.
pub fn head() -> String {
    let head = Head { sublet: env!("CARGO_PKG_VERSION").to_owned(), format: FORMAT };
    serde_json::to_string(&head).unwrap_or_default()
}

/// Checks the first line of a file. Fails if the file has a different format.
pub fn read_head(line: &str) -> Result<(), String> {
    let head: Head = serde_json::from_str(line).map_err(|_| {
        format!(
            "the file is not an export of `sublet export jsonl`: the first line must look like {}",
            head()
        )
    })?;
    if head.format == FORMAT {
        return Ok(());
    }
    let (format, by) = (head.format, head.sublet);
    Err(format!(
        "the file has format {format}, written by sublet {by}, but this version reads format \
         {FORMAT}; use the version that wrote the file"
    ))
}

/// Returns a record as one line, without its newline.
pub fn write(record: &Record, persist: Persist) -> String {
    let fields = match record {
        Record::Pool(pool) => Fields::Pool {
            pool: Cow::Borrowed(&pool.id.0),
            space: Cow::Borrowed(&pool.space),
            subnet: pool.subnet.to_string(),
            range: pool.sub.map(|sub| sub.to_string()),
            shared: pool.shared.as_deref().map(Cow::Borrowed),
            gateway: pool.gateway.map(Text),
            users: pool.users.iter().map(user).collect(),
            time: Time(pool.time),
        },
        Record::Definition(record) => Fields::Network {
            network: record.network.as_str().into(),
            version: record.version,
            definition: Cow::Borrowed(&record.text),
            by: Cow::Borrowed(&record.by),
            time: Time(record.time),
        },
        Record::Lease(lease) => Fields::Lease(LeaseRow::new(lease)),
        Record::Cooling(set, cooling) => Fields::Cooling(CoolingRow::new(set, cooling)),
        Record::Cursor(set, range, addr) => Fields::Cursor {
            set: Cow::Borrowed(&set.0),
            range_key: Text(*range),
            address: Text(*addr),
        },
        Record::Sticky(set, pod, range, addr) => Fields::Sticky {
            set: Cow::Borrowed(&set.0),
            pod_namespace: Cow::Borrowed(&pod.namespace),
            pod_name: Cow::Borrowed(&pod.name),
            range_key: Text(*range),
            address: Text(*addr),
        },
        Record::Draining(range) => Fields::Draining {
            set: Cow::Borrowed(&range.set.0),
            first: Text(range.span.first),
            last: Text(range.span.last),
            since: Time(range.since),
        },
        Record::Adopted(network, time) => {
            Fields::Adopted { network: network.as_str().into(), time: Time(*time) }
        }
    };
    // Serializing text and numbers to memory does not fail. If it did, the line would be empty, and an import
    // would refuse it.
    serde_json::to_string(&Line { fields, persist }).unwrap_or_default()
}

fn user((node, count): &(Node, u32)) -> User<'_> {
    let (node, machine_id) = (Cow::Borrowed(&*node.name), Cow::Borrowed(&*node.machine));
    User { node, machine_id, count: *count }
}

/// Returns the record in a line, and the record's lifetime (boot or durable).
pub fn read(line: &str) -> Result<(Record, Persist), String> {
    let Line { fields, persist } = serde_json::from_str(line).map_err(|e| e.to_string())?;
    let record = match fields {
        Fields::Pool { pool: id, space, subnet, range, shared, gateway, users, time } => {
            let subnet = prefix("subnet", &subnet)?;
            let sub = range.map(|range| prefix("range", &range)).transpose()?;
            let inside = |sub: &Subnet| sub.len() > subnet.len() && subnet.contains(sub.first());
            if sub.as_ref().is_some_and(|sub| !inside(sub)) {
                return Err(format!("invalid \"range\": not a part of {subnet}"));
            }
            if id.is_empty() || space.is_empty() || space.contains('/') {
                return Err(
                    "a pool needs \"pool\" and \"space\", and \"space\" must not contain \"/\""
                        .to_owned(),
                );
            }
            let node = |user: User<'_>| {
                (Node { name: user.node.into(), machine: user.machine_id.into() }, user.count)
            };
            Record::Pool(Pool {
                id: PoolId(id.into()),
                space: space.into(),
                subnet,
                sub,
                shared: shared.map(String::from),
                gateway: gateway.map(|gateway| gateway.0),
                users: users.into_iter().map(node).collect(),
                time: time.0,
            })
        }
        Fields::Lease(row) => Record::Lease(row.into_lease()?),
        Fields::Cooling(row) => {
            let (until, addr, freed) = (row.until.0, row.address.0, row.freed.0);
            Record::Cooling(SetName(row.set.into()), Cooling { until, addr, freed })
        }
        Fields::Cursor { set, range_key, address } => {
            Record::Cursor(SetName(set.into()), range_key.0, address.0)
        }
        Fields::Sticky { set, pod_namespace, pod_name, range_key, address } => {
            let pod = PodKey { namespace: pod_namespace.into(), name: pod_name.into() };
            Record::Sticky(SetName(set.into()), pod, range_key.0, address.0)
        }
        Fields::Network { network, version, definition, by, time } => {
            let network = name("network", &network, NetworkName::new)?;
            let value: Result<serde_json::Value, _> = serde_json::from_str(&definition);
            if version == 0 || !value.is_ok_and(|value| value.is_object()) {
                return Err(format!("invalid \"definition\" or \"version\" of network {network}"));
            }
            let (text, by, time) = (definition.into(), by.into(), time.0);
            Record::Definition(NetworkDefinition { network, version, text, by, time })
        }
        Fields::Draining { set, first, last, since } => {
            let span = Span::new(first.0, last.0).ok_or("invalid \"first\" or \"last\"")?;
            Record::Draining(Draining { set: SetName(set.into()), span, since: since.0 })
        }
        Fields::Adopted { network, time } => {
            Record::Adopted(name("network", &network, NetworkName::new)?, time.0)
        }
    };
    Ok((record, persist))
}

fn prefix(field: &str, text: &str) -> Result<Subnet, String> {
    let subnet = parse_cidr(text).and_then(|net| Subnet::strict(net).ok());
    subnet.ok_or_else(|| format!("invalid {field:?} {text:?}: use a prefix such as 10.80.0.0/24"))
}
