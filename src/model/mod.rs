//! The nouns: who asks, what is leased, where it is kept.
//!
//! Names that are valid by construction, and plain records of them. What derives `Serialize` is stored
//! with these fields in this order: any change of them is another version of the stored records
//! (`store::codec`).
//! Invariant: a [`NetworkName`], [`ContainerId`] or [`IfName`] satisfies the specification.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::net::{Addr, Span, Subnet, hosts};

mod history;
mod words;

pub use history::{Counter, Ending, Event, Face, History, Verb, What};
pub(crate) use words::words;

/// Seconds since 1970-01-01 UTC.
pub type Timestamp = u64;

/// Why a name is refused; texts as in the specification's reference implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// Nothing where a name is needed.
    Empty,
    /// A character outside `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
    Characters,
    /// An interface name of 16 bytes or more.
    TooLong,
    /// An interface called `.` or `..`.
    Dots,
    /// `/`, `:` or white space in an interface name.
    InterfaceCharacters,
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`: the rule for network names and container IDs since 1.0.0.
fn check_name(text: &str) -> Result<(), NameError> {
    let mut bytes = text.bytes();
    match bytes.next() {
        None => Err(NameError::Empty),
        Some(b) if !b.is_ascii_alphanumeric() => Err(NameError::Characters),
        Some(_) if bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b)) => Ok(()),
        Some(_) => Err(NameError::Characters),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        pub struct $name(String);

        impl $name {
            /// The name, if the rules allow it.
            pub fn new(text: impl Into<String>) -> Result<$name, NameError> {
                let text = text.into();
                $check(&text)?;
                Ok($name(text))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<$name, D::Error> {
                let invalid = |_| serde::de::Error::custom("an invalid name");
                $name::new(String::deserialize(from)?).map_err(invalid)
            }
        }
    };
}

name!(
    /// A network's `name`.
    NetworkName,
    check_name
);
impl NetworkName {
    /// The ECS dialect's one network.
    pub fn ecs() -> NetworkName {
        NetworkName("ecs".to_owned())
    }

    /// What a network without a name is called, where that is allowed.
    pub fn unnamed() -> NetworkName {
        NetworkName("default".to_owned())
    }
}

name!(
    /// `CNI_CONTAINERID`.
    ContainerId,
    check_name
);
name!(
    /// `CNI_IFNAME`: at most 15 bytes, not `.` or `..`, no `/`, `:` or white space.
    IfName,
    |text: &str| match text {
        "" => Err(NameError::Empty),
        "." | ".." => Err(NameError::Dots),
        _ if text.len() > 15 => Err(NameError::TooLong),
        _ if text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => {
            Err(NameError::InterfaceCharacters)
        }
        _ => Ok(()),
    }
);

/// A set of leases: inside one an address has at most one holder. A CNI network's is its name (or
/// the `shared` one), the ECS dialect has one for the whole store. Any other text is possible, so
/// that other faces (Docker's address spaces) name theirs without a clash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetName(pub String);

impl SetName {
    /// Whether it is a set of pools' addresses ([`Pool::set`]); no network's name has a slash.
    pub fn is_pools(&self) -> bool {
        self.0.starts_with("docker/")
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a container engine calls a pool of addresses. It keeps the name for ever.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId(pub String);

impl PoolId {
    /// The name of a pool that is not shared, in the format of moby's default driver. gipam's pools keep
    /// other names.
    pub fn plain(space: &str, subnet: Subnet, sub: Option<Subnet>) -> PoolId {
        PoolId(match sub {
            None => format!("{space}/{subnet}"),
            Some(sub) => format!("{space}/{subnet}/{sub}"),
        })
    }
}

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pool of addresses that a container engine (Docker) asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub id: PoolId,
    /// The address space. Pools of different spaces have nothing to do with each other.
    pub space: String,
    /// The subnet. Its length is the prefix of every address given out.
    pub subnet: Subnet,
    /// The part of the subnet that addresses are drawn from; others can be asked for by address.
    pub sub: Option<Subnet>,
    /// The name under which several hosts share the pool (kontena's `network=`).
    pub shared: Option<String>,
    /// The gateway that goes with the pool; only shared pools have one.
    pub gateway: Option<Addr>,
    /// The machines that asked for it, and how often more than they released it.
    pub users: Vec<(Node, u32)>,
    /// When it was last asked for.
    pub time: Timestamp,
}

impl Pool {
    /// The set of its leases. Pools of one subnet in one space share it: their sub-pools overlap.
    pub fn set(&self) -> SetName {
        SetName(format!("docker/{}/{}", self.space, self.subnet))
    }

    /// Whether its last user has released it, so that it is being removed.
    pub fn is_closed(&self) -> bool {
        self.users.is_empty()
    }

    /// The addresses that are given out without being asked for; `None` if there is none.
    pub fn draws(&self) -> Option<Span> {
        let hosts = hosts(self.subnet);
        match self.sub {
            None => Some(hosts),
            Some(sub) => Span::from(sub).starting(hosts.first)?.up_to(hosts.last),
        }
    }
}

/// The specification's primary key of what a plugin stores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The network.
    pub network: NetworkName,
    /// The container.
    pub container: ContainerId,
    /// The interface; absent in leases adopted from a host-local that did not write it.
    pub ifname: Option<IfName>,
}

/// Who holds a lease. At most one address of each range set per owner.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A container's interface on a network.
    Attachment(Attachment),
    /// The ECS dialect's `id`: any text.
    Id(String),
    /// Nobody: the address is a gateway (the ECS dialect records them).
    Gateway(Addr),
    /// Nobody: the address is set aside by the operator.
    Reservation(Addr),
    /// A container engine, through this pool: it names an address, never a container.
    Pool(PoolId, Addr),
}

impl Owner {
    /// The attachment, if it is one.
    pub fn attachment(&self) -> Option<&Attachment> {
        match self {
            Owner::Attachment(attachment) => Some(attachment),
            _ => None,
        }
    }
}

/// Characters of a container's ID that people are shown, as many as Docker and crictl show.
const SHOWN_ID: usize = 12;

/// A container's ID as people are shown it.
pub fn short(id: &str) -> String {
    id.chars().take(SHOWN_ID).collect()
}

impl Owner {
    /// The same words as `Display`, with a short ID.
    pub fn short(&self) -> String {
        self.words(short)
    }

    fn words(&self, shown: fn(&str) -> String) -> String {
        match self {
            Owner::Attachment(a) => {
                let container = shown(a.container.as_str());
                match &a.ifname {
                    Some(ifname) => format!("container {container} ({ifname})"),
                    None => format!("container {container}"),
                }
            }
            Owner::Id(id) => format!("id {}", shown(id)),
            Owner::Gateway(_) => "the gateway".to_owned(),
            Owner::Reservation(_) => "a reservation".to_owned(),
            Owner::Pool(pool, _) => format!("an endpoint of pool {pool}"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(str::to_owned))
    }
}

words! {
    /// What an address is leased for.
    #[derive(Serialize, Deserialize)]
    pub enum Kind {
        /// Chosen by us.
        Dynamic = "dynamic",
        /// Asked for by address.
        Static = "static",
        /// A gateway's.
        Gateway = "gateway",
        /// Docker's auxiliary address.
        Aux = "aux",
        /// Set aside by the operator.
        Reserved = "reserved",
    }
}

impl Kind {
    /// Whether a runtime's garbage collection may judge it.
    pub const fn collectable(self) -> bool {
        matches!(self, Kind::Dynamic | Kind::Static)
    }
}

/// The machine that made a lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `NODE_ID` or the host name.
    pub name: String,
    /// /etc/machine-id; empty where there is none.
    pub machine: String,
}

/// One boot of one kernel: `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub String);

/// What a cluster knows of a machine that leases from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its name, and the machine that has it.
    pub node: Node,
    /// Identifies the record from its creation on.
    pub id: u64,
    /// The boot that leased last; `None` where the boot ID could not be read.
    pub boot: Option<BootId>,
    /// When a machine first had the name.
    pub first: Timestamp,
    /// Since when this boot leases.
    pub since: Timestamp,
    /// When the machine started that boot, by its clock; `None` where it cannot be determined.
    pub booted: Option<Timestamp>,
    /// Whether leases of earlier boots may be left.
    pub has_earlier: bool,
    /// Grows with each write, and when transactions that are still in flight must fail: every transaction of
    /// the node compares this record.
    pub turn: u64,
    /// The folder of in-flight notes of the process that wrote this record. A process with another folder, such as
    /// one in a container, cannot see these notes.
    pub notes: u64,
}

/// A network's definition, which a cluster stores for all its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDefinition {
    /// The network.
    pub network: NetworkName,
    /// Grows by one with each change; the first is 1.
    pub version: u64,
    /// A JSON object: what of `ipam` defines a network.
    pub text: String,
    /// The node that wrote this version.
    pub by: String,
    /// When.
    pub time: Timestamp,
}

/// A network namespace as it was when the lease was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// `CNI_NETNS`.
    pub path: String,
    /// Device and inode behind the path, if it opened.
    pub inode: Option<(u64, u64)>,
    /// Inode of the mount namespace in which the path was looked up.
    pub mount_ns: Option<u64>,
}

/// A Kubernetes pod, from `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; may be empty.
    pub uid: String,
}

/// Where a request came from: kept with the lease, so that a person (and a collector) can tell
/// whose it is and whether it still lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The attachment, also where the owner is something else (ECS `id`).
    pub attachment: Option<Attachment>,
    /// The network namespace.
    pub netns: Option<Netns>,
    /// The pod.
    pub pod: Option<Pod>,
    /// The MAC address, where known.
    pub mac: Option<String>,
    /// The endpoint's name: Docker's container name, where dockerd tells it.
    pub endpoint: Option<String>,
    /// Of a reservation: what it is for, as its operator wrote it.
    pub note: Option<String>,
    /// Of a reservation: whose it is, as its operator wrote it.
    pub holder: Option<String>,
}

/// One address leased to one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The set it belongs to.
    pub set: SetName,
    /// The address.
    pub addr: Addr,
    /// Prefix length in bits, as answered to the container.
    pub prefix: u8,
    /// What for.
    pub kind: Kind,
    /// Whose.
    pub owner: Owner,
    /// The range set it was drawn from ([`crate::net::RangeSet::key`]); names the cursor.
    pub range: Addr,
    /// On which machine.
    pub node: Node,
    /// In which boot; `None` where the boot ID could not be read.
    pub boot: Option<BootId>,
    /// For what.
    pub origin: Origin,
    /// Since when.
    pub time: Timestamp,
    /// How long it is kept back once freed, in seconds: remembered here because a DEL has to
    /// work whatever has become of the configuration.
    pub cooldown: u32,
}

impl Lease {
    /// Whether it means nothing once the boot that made it is over: a container's, and neither an
    /// operator's nor a container engine's, which keep theirs.
    pub fn ends_with_boot(&self) -> bool {
        matches!(self.owner, Owner::Attachment(_) | Owner::Id(_)) && self.kind.collectable()
    }

    /// The attachment behind it, if a container is.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.owner.attachment().or(self.origin.attachment.as_ref())
    }
}

/// An address granted to a container, with what its configuration says beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub addr: Addr,
    /// Prefix length in bits.
    pub prefix: u8,
    /// The gateway, if the range has one.
    pub gateway: Option<Addr>,
}

words! {
    /// How long leases of a network live.
    #[derive(Default)]
    pub enum Persist {
        /// Until the boot that made them ends; an ADD flushes nothing.
        #[default]
        Boot = "boot",
        /// Until they are freed; an ADD is on disk before it is answered.
        Disk = "disk",
    }
}

/// How long to wait for the store's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At most this long.
    For(Duration),
    /// As long as it takes (`0s`).
    Forever,
    /// Not at all (a negative duration): one try.
    Try,
}

/// Which store, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSpec {
    /// The embedded redb file.
    Embedded {
        /// The file of what outlives a boot; boot leases are in `<path>.boot-<boot ID>`.
        path: PathBuf,
        /// Which of the two a network's leases go to.
        persist: Persist,
        /// How long to wait for the lock.
        wait: Wait,
        /// How much of what happened is kept.
        history: History,
    },
    /// etcd. Boxed: a store of this node, which most calls name, is moved about without room for it.
    Etcd(Box<Etcd>),
    /// Consul.
    Consul(Box<Consul>),
    /// A cluster is meant, and what is written of it cannot be understood: no file of this node in
    /// any case.
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
}

impl StoreSpec {
    /// How to reach a cluster.
    pub fn servers_mut(&mut self) -> Option<&mut Servers> {
        match self {
            StoreSpec::Etcd(etcd) => Some(&mut etcd.servers),
            StoreSpec::Consul(consul) => Some(&mut consul.servers),
            StoreSpec::Embedded { .. } | StoreSpec::Unreadable { .. } => None,
        }
    }

    /// Whether other nodes share it.
    pub fn is_cluster(&self) -> bool {
        !matches!(self, StoreSpec::Embedded { .. })
    }
}

/// How to reach a cluster's servers. Secrets are named by file, never held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// `http://host:port` or `https://host:port`; tried in this order. Not empty.
    pub endpoints: Vec<String>,
    /// What every key begins with, without slashes at its ends.
    pub prefix: String,
    /// Whom to trust; `None`: the system's authorities.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// For each command; not zero.
    pub timeout: Duration,
    /// How long the leases of a network live.
    pub persist: Persist,
    /// How much of what happens is kept, of each node.
    pub history: History,
    /// Where a boot notes what it has done, and tokens are kept; the folder is empty after the next one.
    pub notes: PathBuf,
}

/// etcd, by its v3 JSON gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// Where.
    pub servers: Servers,
    /// User, and the file that holds the password.
    pub login: Option<(String, PathBuf)>,
}

/// Consul, by its HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consul {
    /// Where.
    pub servers: Servers,
    /// Data centre; `None`: the agent's own.
    pub dc: Option<String>,
    /// The file that holds the ACL token.
    pub token: Option<PathBuf>,
}
