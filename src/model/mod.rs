//! The domain types: owners, leases, pools and stores.
//!
//! Names are valid by construction. Types that derive `Serialize` are stored with these fields in this
//! order: any change is a new version of the stored records (`store::codec`).
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

/// Why a name is invalid. The texts are those of the specification's reference implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The name is empty.
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
            /// Checks the rules and makes the name.
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

    /// The name of a network without a name, where the dialect allows that.
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

/// A set of leases. Within a set, an address has at most one holder. The set of a CNI network is its name
/// or its `shared` name. The ECS dialect has one set for the whole store. Other texts are possible, so that
/// Docker's address spaces cannot clash with network names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetName(pub String);

impl SetName {
    /// Whether this is the set of a pool's addresses ([`Pool::set`]). Network names contain no slash.
    pub fn is_pools(&self) -> bool {
        self.0.starts_with("docker/")
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ID by which a container engine names a pool. It never changes.
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

/// A pool of addresses that a container engine (Docker) requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its name.
    pub id: PoolId,
    /// The address space. Pools of different spaces are independent.
    pub space: String,
    /// The subnet. Its length is the prefix length of every lease.
    pub subnet: Subnet,
    /// The sub-pool from which automatic addresses are allocated. Others can be requested.
    pub sub: Option<Subnet>,
    /// The name under which several hosts share the pool (kontena's `network=`).
    pub shared: Option<String>,
    /// The gateway of the pool; only shared pools have one.
    pub gateway: Option<Addr>,
    /// The machines that use the pool, each with its number of unreleased requests.
    pub users: Vec<(Node, u32)>,
    /// When the pool was last requested.
    pub time: Timestamp,
}

impl Pool {
    /// The set of the pool's leases. Pools with the same subnet and space share it, because their sub-pools
    /// overlap.
    pub fn set(&self) -> SetName {
        SetName(format!("docker/{}/{}", self.space, self.subnet))
    }

    /// Whether the last user has released the pool, so that it is being removed.
    pub fn is_closed(&self) -> bool {
        self.users.is_empty()
    }

    /// The span from which automatic addresses are allocated; `None` if there is none.
    pub fn draws(&self) -> Option<Span> {
        let hosts = hosts(self.subnet);
        match self.sub {
            None => Some(hosts),
            Some(sub) => Span::from(sub).starting(hosts.first)?.up_to(hosts.last),
        }
    }
}

/// An attachment: the specification's primary key of what a plugin stores.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The network.
    pub network: NetworkName,
    /// The container.
    pub container: ContainerId,
    /// The interface; absent in leases that were imported from a host-local that did not record it.
    pub ifname: Option<IfName>,
}

/// The owner of a lease. An owner has at most one address of each range set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A container's interface on a network.
    Attachment(Attachment),
    /// The ECS dialect's `id`: any text.
    Id(String),
    /// A gateway's address, without a container (the ECS dialect records gateways).
    Gateway(Addr),
    /// An operator's reservation, without a container.
    Reservation(Addr),
    /// A container engine, through this pool. It names an address, never a container.
    Pool(PoolId, Addr),
}

impl Owner {
    /// The attachment, if the owner is one.
    pub fn attachment(&self) -> Option<&Attachment> {
        match self {
            Owner::Attachment(attachment) => Some(attachment),
            _ => None,
        }
    }
}

/// The length of a container ID in tables and messages, as in Docker and crictl.
const SHOWN_ID: usize = 12;

/// Shortens a container ID for tables and messages.
pub fn short(id: &str) -> String {
    id.chars().take(SHOWN_ID).collect()
}

impl Owner {
    /// Like `Display`, with a short ID.
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
    /// The kind of a lease.
    #[derive(Serialize, Deserialize)]
    pub enum Kind {
        /// Chosen by the allocator.
        Dynamic = "dynamic",
        /// Requested by address.
        Static = "static",
        /// A gateway.
        Gateway = "gateway",
        /// Docker's auxiliary address.
        Aux = "aux",
        /// Reserved by an operator.
        Reserved = "reserved",
    }
}

impl Kind {
    /// Whether a runtime's GC may free it.
    pub const fn collectable(self) -> bool {
        matches!(self, Kind::Dynamic | Kind::Static)
    }
}

/// A machine that makes leases.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `NODE_ID` or the host name.
    pub name: String,
    /// /etc/machine-id; empty if there is none.
    pub machine: String,
}

/// One boot of one kernel: `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub String);

/// A cluster's record of a machine that leases from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The name, and the machine that has it.
    pub node: Node,
    /// Identifies the record from its creation on.
    pub id: u64,
    /// The boot that leased last; `None` if the boot ID could not be read.
    pub boot: Option<BootId>,
    /// When a machine first had this name.
    pub first: Timestamp,
    /// When this boot first leased.
    pub since: Timestamp,
    /// When the machine started that boot, by its own clock; `None` if it cannot be determined.
    pub booted: Option<Timestamp>,
    /// Whether leases of earlier boots may still exist.
    pub has_earlier: bool,
    /// Grows with each write. It also grows to make in-flight transactions fail: every transaction of the
    /// node compares this record.
    pub turn: u64,
    /// The ID of the folder of in-flight notes of the process that wrote this record. A process with another folder,
    /// for example in a container, cannot see these notes.
    pub notes: u64,
}

/// A network's definition, which a cluster stores for all its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDefinition {
    /// The network.
    pub network: NetworkName,
    /// Starts at 1 and grows by one with each change.
    pub version: u64,
    /// A JSON object with the keys of `ipam` that define a network.
    pub text: String,
    /// The node that wrote this version.
    pub by: String,
    /// When it was written.
    pub time: Timestamp,
}

/// A network namespace, as it was when the lease was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// `CNI_NETNS`.
    pub path: String,
    /// Device and inode of the path, if it could be opened.
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

/// The origin of a request. It is stored with the lease, so that operators and `gc` can find out whose
/// lease it is and whether its container still runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The attachment, also if the owner is something else (ECS `id`).
    pub attachment: Option<Attachment>,
    /// The network namespace.
    pub netns: Option<Netns>,
    /// The pod.
    pub pod: Option<Pod>,
    /// The MAC address, if known.
    pub mac: Option<String>,
    /// The endpoint's name: Docker's container name, if dockerd passes it.
    pub endpoint: Option<String>,
    /// The note of a reservation, as the operator wrote it.
    pub note: Option<String>,
    /// The owner of a reservation, as the operator wrote it.
    pub holder: Option<String>,
}

/// One address leased to one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The set that the lease belongs to.
    pub set: SetName,
    /// The address.
    pub addr: Addr,
    /// Prefix length in bits, as returned to the container.
    pub prefix: u8,
    /// The kind of lease.
    pub kind: Kind,
    /// The owner.
    pub owner: Owner,
    /// The key of the range set that the address was allocated from ([`crate::net::RangeSet::key`]). It
    /// identifies the cursor.
    pub range: Addr,
    /// The machine that made the lease.
    pub node: Node,
    /// The boot that made the lease; `None` if the boot ID could not be read.
    pub boot: Option<BootId>,
    /// The origin of the request.
    pub origin: Origin,
    /// When the lease was made.
    pub time: Timestamp,
    /// The cooldown after the lease is freed, in seconds. It is stored here because a DEL must work
    /// whatever the configuration says by then.
    pub cooldown: u32,
}

impl Lease {
    /// Whether the lease ends with the boot that made it. Leases of containers do; those of operators and
    /// container engines do not.
    pub fn ends_with_boot(&self) -> bool {
        matches!(self.owner, Owner::Attachment(_) | Owner::Id(_)) && self.kind.collectable()
    }

    /// The attachment that the lease belongs to, if any.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.owner.attachment().or(self.origin.attachment.as_ref())
    }
}

/// An address leased to a container, with the settings that are returned with it.
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
    /// The lifetime of a network's leases.
    #[derive(Default)]
    pub enum Persist {
        /// Leases end with the boot that made them. An ADD flushes nothing.
        #[default]
        Boot = "boot",
        /// Leases live until they are freed. An ADD is on disk before it is answered.
        Disk = "disk",
    }
}

/// How long to wait for the store's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At most this long.
    For(Duration),
    /// Without a limit (`0s`).
    Forever,
    /// Not at all (a negative duration): one attempt.
    Try,
}

/// Which store, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSpec {
    /// The embedded redb file.
    Embedded {
        /// The file for durable leases; boot leases are in `<path>.boot-<boot ID>`.
        path: PathBuf,
        /// Which of the two files has a network's leases.
        persist: Persist,
        /// How long to wait for the lock.
        wait: Wait,
        /// How much history is kept.
        history: History,
    },
    /// etcd. Boxed, so that the embedded store, which most calls use, does not pay for its size.
    Etcd(Box<Etcd>),
    /// Consul.
    Consul(Box<Consul>),
    /// The configuration names a cluster, but is invalid. No file of this node is used instead.
    Unreadable {
        /// What is wrong with it.
        why: String,
    },
}

impl StoreSpec {
    /// The servers of a cluster.
    pub fn servers_mut(&mut self) -> Option<&mut Servers> {
        match self {
            StoreSpec::Etcd(etcd) => Some(&mut etcd.servers),
            StoreSpec::Consul(consul) => Some(&mut consul.servers),
            StoreSpec::Embedded { .. } | StoreSpec::Unreadable { .. } => None,
        }
    }

    /// Whether the store is shared with other nodes.
    pub fn is_cluster(&self) -> bool {
        !matches!(self, StoreSpec::Embedded { .. })
    }
}

/// How to reach a cluster's servers. Secrets are stored in files; only their paths are here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// `http://host:port` or `https://host:port`; tried in this order. Not empty.
    pub endpoints: Vec<String>,
    /// The first part of every key, without slashes at its ends.
    pub prefix: String,
    /// The file of trusted authorities; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// The client's certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The limit for each command; not zero.
    pub timeout: Duration,
    /// How long the leases of a network live.
    pub persist: Persist,
    /// How much history of each network is kept.
    pub history: History,
    /// The folder for in-flight notes and tokens. It is empty after a reboot.
    pub notes: PathBuf,
}

/// etcd, by its v3 JSON gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// The servers.
    pub servers: Servers,
    /// User, and the file that holds the password.
    pub login: Option<(String, PathBuf)>,
}

/// Consul, by its HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consul {
    /// The servers.
    pub servers: Servers,
    /// The data center; `None`: the agent's own.
    pub dc: Option<String>,
    /// The file that holds the ACL token.
    pub token: Option<PathBuf>,
}
