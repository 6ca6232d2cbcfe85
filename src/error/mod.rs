//! Errors: one variant for each failure that a caller handles differently. The texts say what to do.
//!
//! The faces (`cni`, `docker`, `web`, `cli`) map errors to CNI codes (`cni::error`), HTTP statuses and exit
//! codes.
//! Invariant: a [`Refusal`] is a decision that is based on verified facts. A [`StoreError`] means that a
//! store could not read or write its data.

mod pool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Lease, NetworkName, Node, NodeRecord, Owner, StaticName};
use crate::net::{Addr, Span};

pub use pool::PoolRefusal;

/// The allocator's refusal of a command. The texts begin with the same words as host-local's texts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No address is free in a range set.
    #[error(
        "failed to allocate for range {index}: no IP addresses available in range set: {ranges}; \
         network {network} is full{}{}: look for stale leases with `sublet gc --dry-run`, or enlarge the \
         range",
        if *.cooling { " (`cooldownStrict` blocks addresses that were freed recently)" } else { "" },
        if *.draining { " (part of the range set is draining: `sublet pools` lists the draining ranges)" } else { "" }
    )]
    Exhausted {
        /// The index of the range set in the configuration.
        index: usize,
        /// The network's name, as users know it.
        network: NetworkName,
        /// The ranges of the range set.
        ranges: String,
        /// Whether `cooldownStrict` keeps freed addresses of the range set from being leased.
        cooling: bool,
        /// Whether a part of the range set is draining.
        draining: bool,
    },
    /// A requested address, or an address that is reserved for the container's name, is in a draining range.
    #[error(
        "failed to allocate for range {index}: {addr} cannot be leased, because the range {} is draining; \
         request a different address, or stop draining with `sublet drain {network} \
         {} --undo`",
        .range.brief(),
        .range.brief()
    )]
    Draining {
        /// The index of the range set in the configuration.
        index: usize,
        /// The address.
        addr: Addr,
        /// The network's name, as users know it.
        network: NetworkName,
        /// The draining range.
        range: Span,
    },
    /// A requested address is already leased.
    #[error(
        "failed to allocate for range {index}: requested IP address {} is not available in range set \
         {ranges}: {} holds the address; request a different address, or free this address with `{}`",
        .holder.addr,
        .holder.owner,
        release(.holder)
    )]
    Held {
        /// The index of the range set in the configuration.
        index: usize,
        /// The ranges of the range set.
        ranges: String,
        /// The existing lease of the requested address.
        holder: Box<Lease>,
    },
    /// An earlier container of the same name still holds the address that is reserved for the name.
    #[error(
        "failed to allocate for range {index}: {} is reserved for {name}, and an earlier container of this \
         name still holds the address: {}{}{}; stop the earlier container, or free the address with `{}`",
        .holder.addr,
        .holder.owner.short(),
        if .why.is_empty() { "" } else { ": " },
        .why,
        release(.holder)
    )]
    Predecessor {
        /// The index of the range set in the configuration.
        index: usize,
        /// The name for which the address is reserved.
        name: StaticName,
        /// The lease of the earlier container.
        holder: Box<Lease>,
        /// Why the address does not move to the new container: the earlier container is running, or it cannot
        /// be determined whether it is running. Empty if this has not been checked.
        why: String,
    },
    /// A requested address is cooling down, and `cooldownStrict` is set.
    #[error(
        "failed to allocate for range {index}: requested IP address {addr} was freed recently, and \
         `cooldownStrict` blocks the address for another {seconds} s; try again later, or request a different \
         address"
    )]
    Cooling {
        /// The index of the range set in the configuration.
        index: usize,
        /// The requested address.
        addr: Addr,
        /// The number of seconds until the address is free.
        seconds: u64,
    },
    /// Requested addresses lie in no range, or more addresses were requested than there are range sets.
    #[error(
        "failed to allocate all requested IPs: {}; request addresses inside the ranges, at most one from each \
         range set; the range sets are {ranges}",
        join(.addrs)
    )]
    NotInRange {
        /// The requested addresses that cannot be assigned to a range set.
        addrs: Vec<Addr>,
        /// The ranges of all range sets.
        ranges: String,
    },
    /// The configuration excludes the requested address.
    #[error(
        "failed to allocate for range {index}: requested IP address {addr} is excluded; request \
         a different address, or remove {addr} from \"exclude\" or \"static\""
    )]
    Excluded {
        /// The index of the range set in the configuration.
        index: usize,
        /// The requested address.
        addr: Addr,
    },
    /// The requested address is the gateway of the range.
    #[error(
        "failed to allocate for range {index}: requested ip {addr} is subnet's gateway; request a different \
         address, or set \"gateway\" to a different address"
    )]
    IsGateway {
        /// The index of the range set in the configuration.
        index: usize,
        /// The requested address.
        addr: Addr,
    },
    /// The gateway's address is leased to a container (ECS dialect).
    #[error(
        "ip of gateway has already been used: {} holds {}; choose a different gateway, or free this address \
         with `{}`",
        .holder.owner,
        .holder.addr,
        release(.holder)
    )]
    GatewayHeld {
        /// The lease that has the gateway's address.
        holder: Box<Lease>,
    },
    /// The owner already has a lease, and `onDuplicate` is `error`.
    #[error(
        "failed to allocate for range {index}: {} has been allocated to {}, duplicate allocation is not \
         allowed; free the address with `{}`, or remove \"onDuplicate\"",
        .lease.addr,
        container(.lease),
        release(.lease)
    )]
    Duplicate {
        /// The index, in the configuration, of the first range set from which the owner has a lease.
        index: usize,
        /// The owner's lease.
        lease: Box<Lease>,
    },
    /// The owner has a lease that does not fit the current configuration or the requested address.
    #[error(
        "{} already has {}, {} send a DEL first, or free the address with `{}`",
        .lease.owner,
        .lease.addr,
        match .asked {
            Some(asked) => format!("but {asked} was requested; a container keeps its address:"),
            None => "which is no longer in any range of the configuration;".to_owned(),
        },
        release(.lease)
    )]
    Misfit {
        /// The owner's lease.
        lease: Box<Lease>,
        /// The requested address; `None` if the leased address is no longer in any range and no address was
        /// requested.
        asked: Option<Addr>,
    },
    /// The current configuration uses the owner's address as the gateway.
    #[error(
        "{} already has {}, which is now the gateway; send a DEL first, free the address with `{}`, or choose \
         a different gateway",
        .lease.owner,
        .lease.addr,
        release(.lease)
    )]
    NowGateway {
        /// The owner's lease.
        lease: Box<Lease>,
    },
    /// CHECK: the owner has no lease.
    #[error(
        "Failed to find address added by {owner}: the store has no lease for this owner; delete the container \
         and create it again"
    )]
    Missing {
        /// The owner for which CHECK was called.
        owner: Box<Owner>,
    },
    /// CHECK: `prevResult` contains an address that is in a range of this network, but the owner has no lease
    /// for the address.
    #[error(
        "`prevResult` contains {addr}, but {owner} has no lease for {addr}; delete the container and create \
         it again"
    )]
    Lost {
        /// The owner for which CHECK was called.
        owner: Box<Owner>,
        /// The address in `prevResult` without a lease.
        addr: Addr,
    },
    /// CHECK: the owner has leased an address that is not in `prevResult`.
    #[error(
        "{} has {}, but `prevResult` contains {}; delete the container and create it again",
        .lease.owner,
        .lease.addr,
        if .expected.is_empty() { "no address".to_owned() } else { join(.expected) }
    )]
    Different {
        /// The lease whose address is missing from `prevResult`.
        lease: Box<Lease>,
        /// The addresses in `prevResult`.
        expected: Vec<Addr>,
    },
    /// An import found an address that another owner has leased in this store.
    #[error(
        "cannot import {} for {owner}: {} holds the address in this store; nothing was imported; if the \
         holder is gone, run `{}`",
        .holder.addr,
        .holder.owner,
        release(.holder)
    )]
    Clash {
        /// The existing lease in this store.
        holder: Box<Lease>,
        /// The owner of the address in the other program's data.
        owner: Box<Owner>,
    },
    /// A key of cni-ipam-consul cannot be imported.
    #[error(
        "cannot import the leases of cni-ipam-consul for network {network}: {why}; correct or remove the key, \
         then run the command again"
    )]
    OldKeys {
        /// The network whose leases cannot be imported.
        network: NetworkName,
        /// The key in Consul, and what is wrong with the key.
        why: String,
    },
    /// The network has leases of cni-ipam-consul that have not been imported yet.
    #[error(
        "network {network} still has leases of cni-ipam-consul ({count}), and sublet would lease these \
         addresses a second time; stop cni-ipam-consul on all nodes, then run `sublet import consul \
         {network}`"
    )]
    NotImported {
        /// The network that must be imported first.
        network: NetworkName,
        /// The number of leases that have not been imported; at least 1.
        count: usize,
    },
    /// The leases in a host-local folder cannot be imported.
    #[error(
        "cannot import host-local's leases of network {network}: {why}; correct or remove the file, then try \
         again, or see `sublet import host-local --help`"
    )]
    Takeover {
        /// The network of the folder.
        network: NetworkName,
        /// The file in the folder, and what is wrong with the file.
        why: String,
    },
    /// A network's definition was not changed, because the stored version is not the version that the caller
    /// expected.
    #[error(
        "cannot change the definition of network {network}: expected {}, but the store has {}, because the \
         definition was changed in the meantime; run `sublet network \
         show {network}`, then try again",
        version(*.expected),
        version(*.kept)
    )]
    Redefined {
        /// The network whose definition was to be changed.
        network: NetworkName,
        /// The version that the caller expected; `None` if the caller expected no definition.
        expected: Option<u64>,
        /// The stored version; `None` if no definition is stored.
        kept: Option<u64>,
    },
    /// The refusal of a request about a Docker pool or its addresses.
    #[error("{0}")]
    Pool(Box<PoolRefusal>),
}

impl From<PoolRefusal> for Refusal {
    fn from(refusal: PoolRefusal) -> Refusal {
        Refusal::Pool(Box::new(refusal))
    }
}

impl Refusal {
    /// Returns the lease that conflicts with the command. CNI errors include it in `details`.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Refusal::Held { holder, .. }
            | Refusal::Predecessor { holder, .. }
            | Refusal::GatewayHeld { holder }
            | Refusal::Clash { holder, .. } => Some(holder),
            Refusal::Duplicate { lease, .. }
            | Refusal::Misfit { lease, .. }
            | Refusal::NowGateway { lease }
            | Refusal::Different { lease, .. } => Some(lease),
            _ => None,
        }
    }
}

fn join(addrs: &[Addr]) -> String {
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Returns the command that frees a lease, ready to be pasted into a shell.
fn release(lease: &Lease) -> String {
    format!("sublet release {} --network {}", lease.addr, shown_network(lease))
}

/// Returns the ID of the container that has a lease.
fn container(lease: &Lease) -> &str {
    match &lease.owner {
        Owner::Attachment(a) => a.container.as_str(),
        Owner::Id(id) => id,
        _ => "",
    }
}

fn version(version: Option<u64>) -> String {
    version.map_or("no definition".to_owned(), |version| format!("version {version}"))
}

/// Returns the text of an error, followed by the texts of its causes. Leaves out a cause whose text already
/// appears in an earlier text.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| cause.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Returns the network name under which `sublet list` shows a lease.
pub fn shown_network(lease: &Lease) -> &str {
    lease.owner.attachment().map_or(&lease.set.0, |a| a.network.as_str())
}

/// A store could not read or write its data.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process held the lock of the lease file until the timeout.
    #[error(
        "timeout: the lock {} is held by {} (waited {:.1} s); try again, inspect the process that holds the \
         lock, or increase `lockTimeout`",
        .path.display(),
        processes(.holders),
        .waited.as_secs_f64()
    )]
    Locked {
        /// The path of the lock file.
        path: PathBuf,
        /// The time that this process waited.
        waited: Duration,
        /// The IDs of the processes that hold the lock, as reported by the kernel.
        holders: Vec<u32>,
    },
    /// The operating system or a server reported an error, such as a full disk, a read-only file system or an
    /// unreachable server. Nothing was changed.
    #[error(
        "cannot {doing} {place}: {source}{}",
        // If access is denied, a retry would not help, and the user knows that nothing was changed.
        if is_denied(&**.source) { "" } else { "; nothing was leased or freed; fix the cause, then try again" }
    )]
    Unavailable {
        /// What failed, as a verb: "read", "open".
        doing: String,
        /// The file or server on which it failed.
        place: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A change was sent or written, but it is unknown whether it was applied. Either the server did not
    /// respond, or an error occurred after other processes could already see the change (for example, the
    /// last flush failed).
    #[error(
        "cannot {doing} {place}: {source}; the change may have been applied; run the command again \
         to find out"
    )]
    Unanswered {
        /// What failed, as a verb.
        doing: String,
        /// The file or server on which it failed.
        place: String,
        /// The cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record in etcd or Consul is damaged.
    #[error(
        "the record {key} in {place} is damaged: {what}; nothing was changed; remove the record when no \
         container uses its address"
    )]
    BadRecord {
        /// The server that has the record.
        place: String,
        /// The key of the record, without the store's prefix.
        key: String,
        /// What is wrong with the record.
        what: String,
    },
    /// sublet wrote the lease file, but the file is damaged.
    #[error(
        "the lease store {} is damaged: {what}; nothing was changed; run `sublet doctor --repair`",
        .path.display()
    )]
    Damaged {
        /// The path of the lease file.
        path: PathBuf,
        /// A description of the damage.
        what: String,
    },
    /// Another program wrote the file.
    #[error("{} is not a sublet lease store: {what}; {advice}", .path.display())]
    Foreign {
        /// The path of the file.
        path: PathBuf,
        /// A clause that says what kind of file was found at the path.
        what: String,
        /// What the operator should do with the file.
        advice: String,
    },
    /// Another version of sublet wrote the file or record.
    #[error(
        "cannot read {place}: it was written by a different version of sublet; nothing was changed; use that \
         version or a newer one"
    )]
    OtherVersion {
        /// What was written by the other version: the path of a file, or the key of a record and its server.
        place: String,
    },
    /// Boot leases would be in a folder on a network file system, which other machines with other boot IDs
    /// may also use.
    #[error(
        "{} is on a network file system, which does not support leases that end when this machine reboots; set \
         \"persist\": \"disk\", or set \"dataDir\" to a folder on a local disk",
        .path.display()
    )]
    SharedFolder {
        /// The folder of the lease file.
        path: PathBuf,
    },
    /// Another machine, or a later boot of this machine, uses the node's name.
    #[error("the node name {} in {place} belongs to {}", .node.name, claim(.node, .by))]
    Claimed {
        /// The servers of the cluster.
        place: String,
        /// This machine, with the node name that it wants to use.
        node: Node,
        /// The node record in the cluster, which names the machine that uses the name.
        by: Box<NodeRecord>,
    },
    /// The configuration names a cluster, but its key `store` is invalid. No lease file is used instead.
    #[error("invalid store: {why}; nothing was leased or freed, and no other store was used")]
    Unreadable {
        /// What is wrong with the key `store`.
        why: String,
    },
}

impl StoreError {
    /// Makes an error from an operating system error, the action that failed, and the file.
    pub fn io(doing: &str, path: &Path, source: std::io::Error) -> StoreError {
        StoreError::unavailable(doing, path.display().to_string(), source)
    }

    /// Converts [`StoreError::Unavailable`] to [`StoreError::Unanswered`], for an error that occurred when
    /// other processes could already see the change. Returns any other error unchanged.
    #[must_use]
    pub fn after_the_change(self) -> StoreError {
        match self {
            StoreError::Unavailable { doing, place, source } => {
                StoreError::Unanswered { doing, place, source }
            }
            other => other,
        }
    }

    /// Makes a [`StoreError::Unavailable`] from the action, the file or server, and the cause.
    pub fn unavailable(
        doing: &str,
        place: impl Into<String>,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        StoreError::Unavailable { doing: doing.to_owned(), place: place.into(), source: why.into() }
    }

    /// Makes the error for a file that another version of sublet wrote.
    pub fn other_version(path: &Path) -> StoreError {
        StoreError::OtherVersion { place: path.display().to_string() }
    }
}

/// Returns whether the cause of an error is that the operating system denied access.
pub fn is_denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::PermissionDenied)
}

fn processes(pids: &[u32]) -> String {
    if pids.is_empty() {
        return "another process".to_owned();
    }
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    format!("process {}", pids.join(", "))
}

/// Describes the machine or boot that uses a node's name, and what to do about the conflict.
fn claim(node: &Node, by: &NodeRecord) -> String {
    let (name, machine, theirs) = (&node.name, &node.machine, &by.node.machine);
    if machine != theirs {
        return format!(
            "another machine: its machine-id is {theirs}, and the machine-id of this machine is {machine}; \
             set NODE_ID to a unique name, or, if the other machine is gone, free its leases with \
             `sublet node release {name}`"
        );
    }
    let conflict = match &**machine {
        "" => "two machines without a machine-id have this node name".to_owned(),
        id => format!("two machines have this node name and the machine-id {id}"),
    };
    format!(
        "a boot that claimed the name after the current boot: {conflict}; set a unique NODE_ID on \
         each machine, or, if this machine was restored to an earlier state, free the \
         leases of the later boot with `sublet node release {name}`"
    )
}

/// The failure of a use case: a refusal, or an error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The allocator refused the command.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store could not read or write its data.
    #[error("{0}")]
    Store(StoreError),
}

impl From<PoolRefusal> for Error {
    fn from(refusal: PoolRefusal) -> Error {
        Error::Refused(refusal.into())
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Error {
        Error::Store(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_again_is_no_advice_where_access_is_denied() {
        let text = |kind: std::io::ErrorKind| {
            with_causes(&StoreError::io("open", Path::new("/data"), kind.into()))
        };
        assert!(text(std::io::ErrorKind::StorageFull).contains("try again"));
        let denied = text(std::io::ErrorKind::PermissionDenied);
        assert!(!denied.contains("try again") && denied.contains("/data"), "{denied}");
    }

    #[test]
    fn a_cause_is_reported_once() {
        let io = std::io::Error::other("the disk is gone");
        let text = with_causes(&StoreError::io("open", Path::new("/data"), io));
        assert_eq!(text.matches("the disk is gone").count(), 1, "{text}");
        let error = anyhow::anyhow!("no route").context("cannot reach the server");
        assert_eq!(with_causes(error.as_ref()), "cannot reach the server: no route");
    }
}
