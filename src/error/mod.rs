//! Errors, one variant for each outcome that a caller can act on, with texts that say what to do.
//!
//! CNI codes (`cni::error`), HTTP statuses and exit codes belong to the faces.
//! Invariant: a [`Refusal`] is a decision over verified facts. A [`StoreError`] is a failure to read or to
//! store them.

mod pool;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Lease, NetworkName, Node, NodeRecord, Owner};
use crate::net::Addr;

pub use pool::PoolRefusal;

/// A refusal of the allocator. The texts begin as host-local's do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No address is free in a range set.
    #[error(
        "failed to allocate for range {index}: no IP addresses available in range set: {ranges}; \
         network {network} is full{}: look for stale leases with `sublet gc --dry-run`, or enlarge the \
         range",
        if *.cooling { " (cooldownStrict holds freed addresses back)" } else { "" }
    )]
    Exhausted {
        /// Index of the set in the configuration.
        index: usize,
        /// The network, as users name it.
        network: NetworkName,
        /// Its ranges.
        ranges: String,
        /// Whether freed addresses are being held back by `cooldownStrict`.
        cooling: bool,
    },
    /// A requested address has a holder.
    #[error(
        "failed to allocate for range {index}: requested IP address {} is not available in range \
         set {ranges}: {} holds it; request another address, or free this one with `{}`",
        .holder.addr,
        .holder.owner,
        release(.holder)
    )]
    Held {
        /// Index of the set in the configuration.
        index: usize,
        /// Its ranges.
        ranges: String,
        /// The lease that has the address.
        holder: Box<Lease>,
    },
    /// A requested address cools down, and `cooldownStrict` is set.
    #[error(
        "failed to allocate for range {index}: requested IP address {addr} was freed a moment ago \
         and cooldownStrict holds it back for {seconds} s"
    )]
    Cooling {
        /// Index of the set in the configuration.
        index: usize,
        /// The address.
        addr: Addr,
        /// Seconds until it is free.
        seconds: u64,
    },
    /// Requested addresses lie in no range, or there are more of them than range sets.
    #[error(
        "failed to allocate all requested IPs: {}; request at most one address of each range \
         set; the range sets are {ranges}",
        join(.addrs)
    )]
    NotInRange {
        /// The addresses that no set takes.
        addrs: Vec<Addr>,
        /// All ranges.
        ranges: String,
    },
    /// The requested address is excluded.
    #[error(
        "failed to allocate for range {index}: requested IP address {addr} is excluded; request \
         another address, or remove this one from \"exclude\""
    )]
    Excluded {
        /// Index of the set in the configuration.
        index: usize,
        /// The address.
        addr: Addr,
    },
    /// The requested address is the range's gateway.
    #[error(
        "failed to allocate for range {index}: requested ip {addr} is subnet's gateway; request \
         another address, or set \"gateway\""
    )]
    IsGateway {
        /// Index of the set in the configuration.
        index: usize,
        /// The address.
        addr: Addr,
    },
    /// The gateway's address is leased to a container (ECS dialect).
    #[error(
        "ip of gateway has already been used: {} holds {}; choose another gateway, or free it with \
         `{}`",
        .holder.owner,
        .holder.addr,
        release(.holder)
    )]
    GatewayHeld {
        /// The lease of the gateway's address.
        holder: Box<Lease>,
    },
    /// The owner has a lease already and `onDuplicate` is `error`.
    #[error(
        "failed to allocate for range {index}: {} has been allocated to {}, duplicate allocation is \
         not allowed; free it with `{}`, or drop \"onDuplicate\"",
        .lease.addr,
        container(.lease),
        release(.lease)
    )]
    Duplicate {
        /// Index in the configuration of the first set that the owner has a lease of.
        index: usize,
        /// The lease.
        lease: Box<Lease>,
    },
    /// The owner has a lease that the configuration no longer fits.
    #[error(
        "{} already has {}, {} send a DEL first, or free it with `{}`",
        .lease.owner,
        .lease.addr,
        match .asked {
            Some(asked) => format!("but {asked} was requested; a container keeps its address:"),
            None => "which is no longer in any range of the configuration;".to_owned(),
        },
        release(.lease)
    )]
    Misfit {
        /// The lease.
        lease: Box<Lease>,
        /// The requested address; `None`: the lease no longer lies in any range.
        asked: Option<Addr>,
    },
    /// The configuration makes the owner's address the gateway.
    #[error(
        "{} already has {}, which is the gateway now; send a DEL first, free it with `{}`, or choose \
         another gateway",
        .lease.owner,
        .lease.addr,
        release(.lease)
    )]
    NowGateway {
        /// The lease.
        lease: Box<Lease>,
    },
    /// CHECK: the owner has no lease.
    #[error(
        "Failed to find address added by {owner}: it has no lease; delete the container and add it \
         again"
    )]
    Missing {
        /// The owner.
        owner: Box<Owner>,
    },
    /// CHECK: the owner has leases, but not this address of `prevResult`, which lies in our ranges.
    #[error(
        "prevResult has {addr}, but {owner} has no lease of it; delete the container and add it again"
    )]
    Lost {
        /// The owner.
        owner: Box<Owner>,
        /// The address.
        addr: Addr,
    },
    /// CHECK: the lease's address is not in `prevResult`.
    #[error(
        "{} has {}, but prevResult has {}; delete the container and add it again",
        .lease.owner,
        .lease.addr,
        if .expected.is_empty() { "no address".to_owned() } else { join(.expected) }
    )]
    Different {
        /// The lease.
        lease: Box<Lease>,
        /// The addresses of prevResult.
        expected: Vec<Addr>,
    },
    /// Another owner holds an address that is to be imported.
    #[error(
        "{} cannot be imported for {owner}: {} holds it in this store; nothing was imported; if that \
         container is gone, run `{}`",
        .holder.addr,
        .holder.owner,
        release(.holder)
    )]
    Clash {
        /// The lease in this store.
        holder: Box<Lease>,
        /// The owner in the other program's data.
        owner: Box<Owner>,
    },
    /// A key of cni-ipam-consul cannot be imported.
    #[error(
        "the leases of cni-ipam-consul for network {network} cannot be imported: {why}; correct or remove \
         that key and run the command again"
    )]
    OldKeys {
        /// The network.
        network: NetworkName,
        /// The key and what is wrong with it.
        why: String,
    },
    /// The network has leases of cni-ipam-consul that were not imported.
    #[error(
        "network {network} has {count} leases of cni-ipam-consul, which would be leased a second time: stop \
         cni-ipam-consul on all nodes, then run `sublet import consul {network}`"
    )]
    NotImported {
        /// The network.
        network: NetworkName,
        /// How many leases; at least 1.
        count: usize,
    },
    /// The leases of a host-local folder cannot be taken over.
    #[error(
        "host-local's leases of network {network} cannot be imported: {why}; correct or remove that file \
         and try again, or see `sublet import host-local`"
    )]
    Takeover {
        /// The network.
        network: NetworkName,
        /// The file and what is wrong with it.
        why: String,
    },
    /// The stored version of a network's definition is not the one that the caller knew.
    #[error(
        "network {network} has {}, not {}: the definition has changed since you read it; run `sublet \
         network show {network}` and try again",
        version(*.kept),
        version(*.expected)
    )]
    Redefined {
        /// The network.
        network: NetworkName,
        /// The version that the caller knew; `None`: no definition.
        expected: Option<u64>,
        /// The stored version; `None`: no definition.
        kept: Option<u64>,
    },
    /// A refusal about a pool or its addresses.
    #[error("{0}")]
    Pool(Box<PoolRefusal>),
}

impl From<PoolRefusal> for Refusal {
    fn from(refusal: PoolRefusal) -> Refusal {
        Refusal::Pool(Box::new(refusal))
    }
}

impl Refusal {
    /// The conflicting lease, for `details`.
    pub fn lease(&self) -> Option<&Lease> {
        match self {
            Refusal::Held { holder, .. }
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

/// The command that frees a lease, in a form that can be pasted.
fn release(lease: &Lease) -> String {
    format!("sublet release {} --network {}", lease.addr, shown_network(lease))
}

/// The container that has a lease.
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

/// Returns an error's text with those of its causes, each text once: many messages contain their cause.
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

/// The network under which a lease is listed.
pub fn shown_network(lease: &Lease) -> &str {
    lease.owner.attachment().map_or(&lease.set.0, |a| a.network.as_str())
}

/// A failure of a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process held the lock during the whole wait.
    #[error(
        "timeout: the lock {} is held by {}, waited {:.1} s; try again, look at that process, or \
         raise lockTimeout",
        .path.display(),
        processes(.holders),
        .waited.as_secs_f64()
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// How long the call waited.
        waited: Duration,
        /// The IDs of the processes that hold the lock, from the kernel.
        holders: Vec<u32>,
    },
    /// The operating system or a server refused: disk full, read-only, unreachable.
    #[error(
        "cannot {doing} {place}: {source}{}",
        // If access is denied, retrying does not help and it is clear that nothing was done.
        if is_denied(&**.source) { "" } else { "; nothing was leased or freed, try again once that is repaired" }
    )]
    Unavailable {
        /// The action that failed.
        doing: String,
        /// The file or the server.
        place: String,
        /// The error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The change was sent or written, but not confirmed: no answer from the server, or an error after the
    /// change became visible (for example, its last flush failed).
    #[error(
        "cannot {doing} {place}: {source}; the change may have been applied; run the command again \
         to find out"
    )]
    Unanswered {
        /// The action that failed.
        doing: String,
        /// The server or the file.
        place: String,
        /// The error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A record of a cluster's store differs from what was written.
    #[error(
        "the record {key} in {place} is damaged: {what}; nothing was changed; remove it once no \
         container has that address"
    )]
    BadRecord {
        /// The server.
        place: String,
        /// The record, without the store's prefix.
        key: String,
        /// What is wrong with it.
        what: String,
    },
    /// The lease file is sublet's, but damaged.
    #[error(
        "the lease store {} is damaged: {what}; nothing was changed; run `sublet doctor --repair`",
        .path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The damage.
        what: String,
    },
    /// The file belongs to another program.
    #[error("{} is not a lease store of sublet: {what}; {advice}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What the file looks like.
        what: String,
        /// What to do.
        advice: String,
    },
    /// Another version of sublet wrote it.
    #[error(
        "cannot read {place}: it was written by another version of sublet; nothing was changed; \
         use that version or a newer one"
    )]
    OtherVersion {
        /// The file, or the record and the server.
        place: String,
    },
    /// Boot leases would be on a network file system, where machines with other boots may see them.
    #[error(
        "{} is on a network file system, where leases cannot end with this machine's boot: set \
         \"persist\": \"disk\", or set dataDir to a folder on a disk of this host",
        .path.display()
    )]
    SharedFolder {
        /// The store's folder.
        path: PathBuf,
    },
    /// Another machine, or a later boot, has the node's name.
    #[error("node {} of {place} is {}", .node.name, claim(.node, .by))]
    Claimed {
        /// The servers.
        place: String,
        /// This machine, and its name.
        node: Node,
        /// The record of the machine that has the name.
        by: Box<NodeRecord>,
    },
    /// The configuration names a cluster, but is invalid. No file of this node is used instead.
    #[error("invalid store: {why}; nothing was leased or freed anywhere else")]
    Unreadable {
        /// What is wrong with the configuration.
        why: String,
    },
}

impl StoreError {
    /// An operating system's error, with what was being done to which file.
    pub fn io(doing: &str, path: &Path, source: std::io::Error) -> StoreError {
        StoreError::unavailable(doing, path.display().to_string(), source)
    }

    /// Converts an error to "unanswered" if it occurred after other processes could see the change. Any
    /// error but [`StoreError::Unavailable`] is returned unchanged.
    #[must_use]
    pub fn after_the_change(self) -> StoreError {
        match self {
            StoreError::Unavailable { doing, place, source } => {
                StoreError::Unanswered { doing, place, source }
            }
            other => other,
        }
    }

    /// A store that is unavailable: the action, the file or server, and the cause.
    pub fn unavailable(
        doing: &str,
        place: impl Into<String>,
        why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StoreError {
        StoreError::Unavailable { doing: doing.to_owned(), place: place.into(), source: why.into() }
    }

    /// A file that another version of sublet wrote.
    pub fn other_version(path: &Path) -> StoreError {
        StoreError::OtherVersion { place: path.display().to_string() }
    }
}

/// Whether the operating system refused access.
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

/// Describes who has the name of a node, and what to do about it.
fn claim(node: &Node, by: &NodeRecord) -> String {
    let (name, machine, theirs) = (&node.name, &node.machine, &by.node.machine);
    if machine != theirs {
        return format!(
            "another machine: its machine-id is {theirs}, this one's is {machine}; set NODE_ID to a name \
             of its own, or, if that machine is gone, free what it had with `sublet node release {name}`"
        );
    }
    let id = match &**machine {
        "" => "no machine-id".to_owned(),
        id => format!("the machine-id {id}"),
    };
    format!(
        "another boot's, which began to lease after this one: two machines have this name and {id}; \
         give each a NODE_ID of its own, or, if this one was set back to an earlier state, free what \
         that boot leased with `sublet node release {name}`"
    )
}

/// A use case's failure.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The allocator refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store failed.
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
