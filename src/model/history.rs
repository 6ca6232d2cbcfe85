//! The types of the history (who held an address, and when) and of the counters (how many requests had which
//! outcome).

use super::{Attachment, Kind, Lease, Node, Origin, Owner, SetName, Timestamp, words};
use crate::net::Addr;

words! {
    /// The face of a request: the interface through which the request came.
    #[derive(Default)]
    pub enum Face {
        /// The CNI plugin, called by a container runtime.
        #[default]
        Cni = "cni",
        /// The Docker driver, called by dockerd.
        Docker = "docker",
        /// The command line, called by an operator or a script.
        Cli = "cli",
    }
}

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// The limits that were configured last; the default limits if none were configured.
    Standing,
    /// No events.
    Off,
    /// The newest events that are within both limits.
    Kept {
        /// The maximum number of events; not 0.
        count: u64,
        /// The maximum age of an event, in seconds; not 0.
        age: u64,
    },
}

impl History {
    /// The default for each network of a cluster: the last 1,000 transactions within 30 days, about 450 KiB.
    pub const OF_A_NETWORK: History = History::Kept { count: 1_000, age: MONTH };

    /// Returns the maximum age of an event, in seconds; the default if no limits were configured.
    pub fn age(self) -> u64 {
        match self {
            History::Off => 0,
            History::Kept { age, .. } => age,
            History::Standing => MONTH,
        }
    }
}

const MONTH: u64 = 30 * 24 * 3600;

impl Default for History {
    /// The default for each network of a lease file: the last 10,000 events within 30 days, about 2 MiB.
    fn default() -> History {
        History::Kept { count: 10_000, age: MONTH }
    }
}

words! {
    /// What happened to an address, and why.
    pub enum What {
        /// Leased by an ADD, or by a request from Docker.
        Added = "added",
        /// Previously leased by host-local, and imported by an ADD.
        TakenOver = "taken-over",
        /// Previously leased by another program, and imported by an operator.
        Imported = "imported",
        /// Reserved by an operator.
        Reserved = "reserved",
        /// Freed by a DEL, or by a request from Docker.
        Deleted = "deleted",
        /// Freed immediately after it was leased, because the result could not be delivered.
        Undone = "undone",
        /// Freed by a CNI GC, because the runtime no longer lists the container.
        Collected = "collected",
        /// Freed because the container no longer exists: by `sublet gc`, or by the ADD of a new container
        /// with the same name.
        Lost = "lost",
        /// Freed by an operator.
        Released = "released",
        /// Freed by an operator's `unreserve`.
        Unreserved = "unreserved",
        /// Freed by `subletd cleanup`, because dockerd does not list the address or its pool.
        Swept = "swept",
        /// Freed together with its pool.
        PoolReleased = "pool-released",
        /// Freed because the lease had ended with the boot in which it was made.
        BootEnded = "boot-ended",
        /// Freed by `sublet node release`, because the node no longer exists.
        NodeReleased = "node-released",
        /// Moved to host-local by `sublet export host-local`.
        Exported = "exported",
    }
}

impl What {
    /// Returns whether the address has a holder after this event.
    pub const fn gives(self) -> bool {
        matches!(self, What::Added | What::TakenOver | What::Imported | What::Reserved)
    }
}

/// One change of an address's holder: the address was leased or freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When the event happened.
    pub time: Timestamp,
    /// What happened to the address.
    pub what: What,
    /// The face through which the request came.
    pub face: Face,
    /// The set of leases to which the address belongs.
    pub set: SetName,
    /// The address that was leased or freed.
    pub addr: Addr,
    /// The kind of the lease.
    pub kind: Kind,
    /// The owner of the lease.
    pub owner: Owner,
    /// The machine that made the lease.
    pub node: Node,
    /// The origin of the lease, without the network namespace.
    pub origin: Origin,
    /// The trace ID of the request (W3C Trace Context), if the caller has passed one.
    pub trace: Option<String>,
}

impl Event {
    /// Makes the event for the creation or removal of a lease.
    pub fn of(lease: &Lease, what: What, face: Face, time: Timestamp) -> Event {
        Event {
            time,
            what,
            face,
            set: lease.set.clone(),
            addr: lease.addr,
            kind: lease.kind,
            owner: lease.owner.clone(),
            node: lease.node.clone(),
            origin: Origin { netns: None, ..lease.origin.clone() },
            trace: None,
        }
    }

    /// Returns the attachment (network, container and interface) of the lease, if it has one.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.owner.attachment().or(self.origin.attachment.as_ref())
    }

    /// Returns the network under which the lease is listed.
    pub fn network(&self) -> &str {
        self.owner.attachment().map_or(&self.set.0, |a| a.network.as_str())
    }
}

words! {
    /// The kind of a request.
    pub enum Verb {
        /// ADD, or Docker's `RequestAddress`.
        Add = "add",
        /// DEL, Docker's `ReleaseAddress`, `sublet release`, or `sublet gc`.
        Del = "del",
        /// CNI's GC, `sublet node release`, or `subletd cleanup`.
        Gc = "gc",
        /// `sublet reserve`, `sublet unreserve`, or `sublet drain`.
        Reserve = "reserve",
        /// An import from another program, an export to host-local, or a copy from another store.
        Import = "import",
        /// Docker's `RequestPool` or `ReleasePool`.
        Pool = "pool",
    }
}

words! {
    /// The outcome of a request.
    pub enum Ending {
        /// The request succeeded.
        Ok = "ok",
        /// The request was refused because no address was free.
        Exhausted = "exhausted",
        /// The request was refused because another owner holds the address.
        Held = "held",
        /// The request was refused for another reason.
        Refused = "refused",
        /// The request probably failed, because a cluster did not respond.
        Failed = "failed",
    }
}

/// The number of requests of one kind. Counting starts when the store is created, or in a cluster, when the
/// node boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The set of leases to which the requests belong.
    pub set: SetName,
    /// The face through which the requests came.
    pub face: Face,
    /// The kind of the requests.
    pub verb: Verb,
    /// The outcome of the requests.
    pub ending: Ending,
    /// The number of requests.
    pub count: u64,
}
