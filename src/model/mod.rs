//! The domain types: owners, leases, pools and stores.
//!
//! Names are checked when they are created, so they are always valid. Types that derive `Serialize` are
//! stored with their fields in the order of declaration, so changing these types requires a new version of
//! the record formats (`store::codec`). Invariant: every [`NetworkName`], [`ContainerId`] and [`IfName`] is
//! valid according to the CNI specification.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use crate::net::{Addr, Span, Subnet, hosts};

mod history;

pub use history::{Counter, Ending, Event, Face, History, Verb, What};
pub use named::StaticName;
pub(crate) use words::words;

/// Seconds since 1970-01-01 UTC.
pub type Timestamp = u64;

/// The reason why a name is invalid. The faces choose the texts of the errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The name is empty.
    Empty,
    /// The name does not have the form `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
    Characters,
    /// The interface name has 16 bytes or more, or another name is too long.
    TooLong,
    /// The interface name is `.` or `..`.
    Dots,
    /// The interface name contains `/`, `:` or white space.
    InterfaceCharacters,
}

/// Checks that a name has the form `[a-zA-Z0-9][a-zA-Z0-9_.-]*`. Since version 1.0.0, the specification
/// requires this form for network names and container IDs.
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
            /// Makes the name if the text is valid.
            pub fn new(text: impl Into<String>) -> Result<$name, NameError> {
                let text = text.into();
                $check(&text)?;
                Ok($name(text))
            }

            /// Returns the text of the name.
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

mod named;
mod words;

name!(
    /// The name of a network, as in the key `name` of a CNI configuration.
    NetworkName,
    check_name
);
impl NetworkName {
    /// Returns the name of the only network in the ECS dialect.
    pub fn ecs() -> NetworkName {
        NetworkName("ecs".to_owned())
    }

    /// Returns the name that stands for an unnamed network. Some dialects allow a network without a name.
    pub fn unnamed() -> NetworkName {
        NetworkName("default".to_owned())
    }
}

name!(
    /// The ID of a container, as in `CNI_CONTAINERID`.
    ContainerId,
    check_name
);
name!(
    /// The name of a container's interface, as in `CNI_IFNAME`. It has at most 15 bytes, is not `.` or `..`,
    /// and contains no `/`, `:` or white space.
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

/// The name of a set of leases. Within a set, each address has at most one holder. A CNI network uses the set
/// with its own name, or with its `shared` name. The ECS dialect has one set for the whole store. The name
/// can be any text, so the sets of Docker's pools can have names that no network can have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetName(pub String);

impl SetName {
    /// Returns whether this set belongs to a pool (see [`Pool::set`]). The name of a pool's set contains a
    /// slash, which network names cannot contain.
    pub fn is_pools(&self) -> bool {
        self.0.starts_with("docker/")
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The ID by which Docker identifies a pool. The ID of a pool never changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PoolId(pub String);

impl PoolId {
    /// Makes the ID of an unshared pool, in the format of Docker's default driver. Pools that were imported
    /// from gipam keep their former IDs.
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

/// A pool of addresses that Docker has requested.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The ID of the pool.
    pub id: PoolId,
    /// The address space of the pool. Pools in different address spaces are independent.
    pub space: String,
    /// The subnet of the pool. Every lease in the pool has the prefix length of this subnet.
    pub subnet: Subnet,
    /// The sub-pool: the part of the subnet from which an address is chosen if a request names no address. A
    /// request may name any address of the subnet, even outside the sub-pool.
    pub sub: Option<Subnet>,
    /// The name under which several hosts share the pool (kontena-ipam's option `network=`).
    pub shared: Option<String>,
    /// The gateway of the pool. Only shared pools have one.
    pub gateway: Option<Addr>,
    /// The machines that use the pool, each with the number of its requests for the pool that have not been
    /// released yet.
    pub users: Vec<(Node, u32)>,
    /// When the pool was last requested.
    pub time: Timestamp,
}

impl Pool {
    /// Returns the set of leases of this pool. Pools with the same address space and subnet use the same set,
    /// because their sub-pools may overlap.
    pub fn set(&self) -> SetName {
        SetName(format!("docker/{}/{}", self.space, self.subnet))
    }

    /// Returns whether the pool is closed: its last user has released it, so it is being removed.
    pub fn is_closed(&self) -> bool {
        self.users.is_empty()
    }

    /// Returns the span from which an address is chosen if a request names no address; `None` if the span is
    /// empty.
    pub fn draws(&self) -> Option<Span> {
        let hosts = hosts(self.subnet);
        match self.sub {
            None => Some(hosts),
            Some(sub) => Span::from(sub).starting(hosts.first)?.up_to(hosts.last),
        }
    }
}

/// An attachment: one interface of a container in one network. According to the CNI specification, a plugin
/// must identify its stored data by these three values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The name of the network.
    pub network: NetworkName,
    /// The ID of the container.
    pub container: ContainerId,
    /// The name of the interface. `None` if the lease was imported from an old host-local, which did not
    /// record the interface.
    pub ifname: Option<IfName>,
}

/// The owner of a lease. An owner has at most one address of each range set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Owner {
    /// A container's interface on a network.
    Attachment(Attachment),
    /// The `id` of a container in the ECS dialect, which can be any text.
    Id(String),
    /// The gateway with this address. The ECS dialect records gateways as leases. No container is involved.
    Gateway(Addr),
    /// The reservation of this address by an operator. No container is involved.
    Reservation(Addr),
    /// An endpoint in this Docker pool. Docker identifies the endpoint only by its address.
    Pool(PoolId, Addr),
    /// An operator's reservation of addresses for the container of this name.
    Named(StaticName),
}

impl Owner {
    /// Returns the attachment, if the owner is an attachment.
    pub fn attachment(&self) -> Option<&Attachment> {
        match self {
            Owner::Attachment(attachment) => Some(attachment),
            _ => None,
        }
    }
}

/// The length of a shortened container ID. Docker and crictl use the same length.
const SHOWN_ID: usize = 12;

/// Shortens a container ID for tables and messages.
pub fn short(id: &str) -> String {
    id.chars().take(SHOWN_ID).collect()
}

impl Owner {
    /// Returns the same text as `Display`, with a shortened container ID.
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
            Owner::Named(name) => format!("the reservation for {name}"),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words(str::to_owned))
    }
}

words! {
    /// The reason why an address is leased.
    #[derive(Serialize, Deserialize)]
    pub enum Kind {
        /// The allocator chose the address.
        Dynamic = "dynamic",
        /// The container requested this address.
        Static = "static",
        /// The address is a gateway.
        Gateway = "gateway",
        /// The address is an auxiliary address of a Docker network.
        Aux = "aux",
        /// An operator reserved the address.
        Reserved = "reserved",
        /// The address is leased to the container for whose name it was reserved.
        Named = "named",
    }
}

impl Kind {
    /// Returns whether a CNI GC may free leases of this kind.
    pub const fn collectable(self) -> bool {
        matches!(self, Kind::Dynamic | Kind::Static | Kind::Named)
    }
}

/// A machine that leases addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The node name: `NODE_ID` if it is set, otherwise the host name.
    pub name: String,
    /// The ID in /etc/machine-id; empty if there is none.
    pub machine: String,
}

/// The ID of one boot of the kernel, from `/proc/sys/kernel/random/boot_id`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub String);

/// The record of a machine that leases addresses from a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node name, and the machine that uses the name.
    pub node: Node,
    /// A random number that identifies this record. It is chosen when the record is created and then never
    /// changes.
    pub id: u64,
    /// The boot of the machine that last registered under this name; `None` if the boot ID could not be read.
    pub boot: Option<BootId>,
    /// When this name was first used.
    pub first: Timestamp,
    /// When the machine registered under this name in the boot `boot`.
    pub since: Timestamp,
    /// When the boot `boot` began, according to the machine's own clock; `None` if this cannot be determined.
    pub booted: Option<Timestamp>,
    /// Whether leases of earlier boots of this machine may still exist.
    pub has_earlier: bool,
    /// A number that grows with each write of the record. Writing the record makes the node's in-flight
    /// transactions fail, because each of them requires that the record is unchanged.
    pub turn: u64,
    /// The ID of the folder in which the process that wrote this record keeps its in-flight notes (files that
    /// say that a transaction may be pending). A process that uses another folder, for example inside a
    /// container, cannot see these notes.
    pub notes: u64,
}

/// The definition of a network, which a cluster stores for all its nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkDefinition {
    /// The network that is defined.
    pub network: NetworkName,
    /// The version of the definition. The first version is 1, and each change adds one.
    pub version: u64,
    /// The definition: a JSON object with the keys of `ipam` that define a network.
    pub text: String,
    /// The name of the node that wrote this version.
    pub by: String,
    /// When this version was written.
    pub time: Timestamp,
}

/// A network namespace, as it was when the lease was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Netns {
    /// The path in `CNI_NETNS`.
    pub path: String,
    /// The device and the inode of the path, if the path could be opened.
    pub inode: Option<(u64, u64)>,
    /// The inode of the mount namespace in which the path was looked up.
    pub mount_ns: Option<u64>,
}

/// A Kubernetes pod, according to `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// The namespace of the pod (`K8S_POD_NAMESPACE`).
    pub namespace: String,
    /// The name of the pod (`K8S_POD_NAME`).
    pub name: String,
    /// The UID of the pod (`K8S_POD_UID`), or an empty string.
    pub uid: String,
}

/// The origin of a request. It is stored with the lease, so that operators can see which container has the
/// lease, and so that `gc` can find out whether that container still exists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The attachment for which the address was requested. It is also present if the owner is an ECS `id`.
    pub attachment: Option<Attachment>,
    /// The network namespace of the container.
    pub netns: Option<Netns>,
    /// The Kubernetes pod of the container.
    pub pod: Option<Pod>,
    /// The MAC address of the container's interface, if it is known.
    pub mac: Option<String>,
    /// The container's name. Docker: the name that dockerd has passed, if any. CNI: `name` in `args.cni`, or
    /// `NAME` in `CNI_ARGS`.
    pub endpoint: Option<String>,
    /// The note of a reservation, as the operator wrote it.
    pub note: Option<String>,
    /// The holder of a reservation, as the operator named it.
    pub holder: Option<String>,
}

/// A lease: the record that one address has one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The set of leases to which this lease belongs.
    pub set: SetName,
    /// The address that is leased.
    pub addr: Addr,
    /// The prefix length that was returned to the container, in bits.
    pub prefix: u8,
    /// The kind of the lease.
    pub kind: Kind,
    /// The owner of the lease.
    pub owner: Owner,
    /// The key of the range set from which the address was allocated ([`crate::net::RangeSet::key`]). The
    /// cursor of the range set has the same key.
    pub range: Addr,
    /// The machine that made the lease.
    pub node: Node,
    /// The boot in which the lease was made; `None` if the lease is not tied to a boot, or if the boot ID
    /// could not be read.
    pub boot: Option<BootId>,
    /// The origin of the request that made the lease.
    pub origin: Origin,
    /// When the lease was made.
    pub time: Timestamp,
    /// How long the address cools down after it is freed, in seconds. It is stored with the lease, because a
    /// DEL must work even if the configuration has changed.
    pub cooldown: u32,
}

impl Lease {
    /// Returns whether the lease ends with the boot in which it was made. This is true for leases of
    /// containers, but not for reservations or for leases of Docker.
    pub fn ends_with_boot(&self) -> bool {
        matches!(self.owner, Owner::Attachment(_) | Owner::Id(_)) && self.kind.collectable()
    }

    /// Returns the attachment of the lease, if it has one.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.owner.attachment().or(self.origin.attachment.as_ref())
    }
}

/// An address that was leased to a container, and the values that an ADD returns with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The address that was leased.
    pub addr: Addr,
    /// The prefix length, in bits.
    pub prefix: u8,
    /// The gateway, if the range has one.
    pub gateway: Option<Addr>,
}

words! {
    /// How long the leases of a network last.
    #[derive(Default)]
    pub enum Persist {
        /// Leases end with the boot in which they were made. An ADD does not wait until the lease is on disk.
        #[default]
        Boot = "boot",
        /// Leases last until they are freed. The lease is on disk before the ADD returns.
        Disk = "disk",
    }
}

/// How long a call waits for the lock of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// At most for this duration.
    For(Duration),
    /// Without a limit (`0s` in the configuration).
    Forever,
    /// Not at all (a negative duration in the configuration). The call tries to take the lock once.
    Try,
}

/// Which store to use, and how to access it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSpec {
    /// Lease files on this host.
    Embedded {
        /// The file with durable leases. Boot leases are in `<path>.boot-<boot ID>`.
        path: PathBuf,
        /// The file for the leases of a network that has no leases yet: the boot file or the durable file.
        persist: Persist,
        /// How long a call waits for a lock of the store.
        wait: Wait,
        /// How much history is kept.
        history: History,
    },
    /// An etcd cluster. The `Box` keeps this type small, because lease files are more common.
    Etcd(Box<Etcd>),
    /// A Consul cluster.
    Consul(Box<Consul>),
    /// A configuration that names a cluster, but is invalid. Every command fails, because using a lease file
    /// of this node instead could lease addresses twice.
    Unreadable {
        /// What is wrong with the configuration.
        why: String,
    },
}

impl StoreSpec {
    /// Returns the servers of a cluster; `None` for lease files.
    pub fn servers_mut(&mut self) -> Option<&mut Servers> {
        match self {
            StoreSpec::Etcd(etcd) => Some(&mut etcd.servers),
            StoreSpec::Consul(consul) => Some(&mut consul.servers),
            StoreSpec::Embedded { .. } | StoreSpec::Unreadable { .. } => None,
        }
    }

    /// Returns the file or the servers of the store, for messages.
    pub fn place(&self) -> String {
        match self {
            StoreSpec::Embedded { path, .. } => path.display().to_string(),
            StoreSpec::Etcd(etcd) => format!("etcd at {}", etcd.servers.endpoints.join(", ")),
            StoreSpec::Consul(consul) => {
                format!("Consul at {}", consul.servers.endpoints.join(", "))
            }
            StoreSpec::Unreadable { .. } => String::new(),
        }
    }

    /// Returns whether the configuration names a cluster, which other nodes may use too.
    pub fn is_cluster(&self) -> bool {
        !matches!(self, StoreSpec::Embedded { .. })
    }
}

/// How to connect to the servers of a cluster. Secrets stay in files; this type contains only the paths of
/// those files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// The endpoints: `http://host:port` or `https://host:port`. The list is not empty.
    pub endpoints: Vec<String>,
    /// The prefix of every key, without a slash at its beginning or end.
    pub prefix: String,
    /// The file with the certificate authorities to trust; `None` for the authorities that the system trusts.
    pub ca: Option<PathBuf>,
    /// The file with the client's certificate, and the file with its private key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The time limit for each command; not zero.
    pub timeout: Duration,
    /// How long the leases of a network last.
    pub persist: Persist,
    /// How much history of each network is kept.
    pub history: History,
    /// The folder for tokens, counters and in-flight notes (files that say that a transaction may be
    /// pending). A reboot empties the folder.
    pub notes: PathBuf,
}

/// An etcd cluster, used through its v3 JSON gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Etcd {
    /// How to connect to the servers.
    pub servers: Servers,
    /// The user, and the file with the user's password.
    pub login: Option<(String, PathBuf)>,
}

/// A Consul cluster, used through its HTTP API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consul {
    /// How to connect to the servers.
    pub servers: Servers,
    /// The data center; `None` for the data center of the agent that responds.
    pub dc: Option<String>,
    /// The file with the ACL token.
    pub token: Option<PathBuf>,
}
