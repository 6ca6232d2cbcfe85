//! The types of history (who held an address when) and of counters (how many requests ended how).

use super::{Attachment, Kind, Lease, Node, Origin, Owner, SetName, Timestamp, words};
use crate::net::Addr;

words! {
    /// The face that a request came through.
    #[derive(Default)]
    pub enum Face {
        /// A container runtime.
        #[default]
        Cni = "cni",
        /// dockerd.
        Docker = "docker",
        /// An operator or a script.
        Cli = "cli",
    }
}

/// How much history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// The last configured bounds, or the default if none were configured.
    Standing,
    /// Nothing.
    Off,
    /// The newest events, within both bounds.
    Kept {
        /// The maximum number of events; not 0.
        count: u64,
        /// The maximum age in seconds; not 0.
        age: u64,
    },
}

impl History {
    /// The last 1,000 transactions of 30 days, about 450 KiB: the default of each network of a cluster.
    pub const OF_A_NETWORK: History = History::Kept { count: 1_000, age: MONTH };

    /// The maximum age of events in seconds, or the default if none was configured.
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
    /// The last 10,000 events of 30 days: about 2 MiB for each network of a file.
    fn default() -> History {
        History::Kept { count: 10_000, age: MONTH }
    }
}

words! {
    /// What happened to an address, and why.
    pub enum What {
        /// Leased by an ADD, or by a request of Docker's.
        Added = "added",
        /// Leased by host-local, and imported by an ADD.
        TakenOver = "taken-over",
        /// Leased by another program, and imported.
        Imported = "imported",
        /// Reserved by an operator.
        Reserved = "reserved",
        /// Freed by a DEL, or by a request of Docker's.
        Deleted = "deleted",
        /// Freed at once, because its answer could not be delivered.
        Undone = "undone",
        /// Freed by a runtime's GC, which does not list the attachment.
        Collected = "collected",
        /// Freed by `sublet gc`: its container is gone.
        Lost = "lost",
        /// Freed by an operator.
        Released = "released",
        /// Freed by an operator's `unreserve`.
        Unreserved = "unreserved",
        /// Freed by `subletd cleanup`: Docker does not know it.
        Swept = "swept",
        /// Freed with its pool.
        PoolReleased = "pool-released",
        /// Ended with the boot that made it.
        BootEnded = "boot-ended",
        /// Freed with its node by `sublet node release`.
        NodeReleased = "node-released",
        /// Moved to host-local by `sublet export host-local`.
        Exported = "exported",
    }
}

impl What {
    /// Whether the address has a holder after this event.
    pub const fn gives(self) -> bool {
        matches!(self, What::Added | What::TakenOver | What::Imported | What::Reserved)
    }
}

/// An allocation or release of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened.
    pub time: Timestamp,
    /// What happened.
    pub what: What,
    /// The face that the request came through.
    pub face: Face,
    /// The set of leases.
    pub set: SetName,
    /// The address.
    pub addr: Addr,
    /// The kind of lease.
    pub kind: Kind,
    /// The owner.
    pub owner: Owner,
    /// The machine that made the lease.
    pub node: Node,
    /// The origin, without the network namespace.
    pub origin: Origin,
}

impl Event {
    /// The event of a lease.
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
        }
    }

    /// The attachment that the lease belongs to, if any.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.owner.attachment().or(self.origin.attachment.as_ref())
    }

    /// The network under which the lease is listed.
    pub fn network(&self) -> &str {
        self.owner.attachment().map_or(&self.set.0, |a| a.network.as_str())
    }
}

words! {
    /// The kind of a request.
    pub enum Verb {
        /// ADD, or Docker's `RequestAddress`.
        Add = "add",
        /// DEL, Docker's `ReleaseAddress`, `sublet release`.
        Del = "del",
        /// GC, `subletd cleanup`.
        Gc = "gc",
        /// `sublet reserve` and `unreserve`.
        Reserve = "reserve",
        /// Imports.
        Import = "import",
        /// Docker's `RequestPool` and `ReleasePool`.
        Pool = "pool",
    }
}

words! {
    /// How a request ended.
    pub enum Ending {
        /// It was carried out.
        Ok = "ok",
        /// Refused: no address was free.
        Exhausted = "exhausted",
        /// Refused: another owner holds the address.
        Held = "held",
        /// Refused for another reason.
        Refused = "refused",
        /// Probably not carried out: a cluster did not answer.
        Failed = "failed",
    }
}

/// The number of requests of one kind since the store was created, or since its boot began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The set of leases.
    pub set: SetName,
    /// The face that the requests came through.
    pub face: Face,
    /// What was requested.
    pub verb: Verb,
    /// How the requests ended.
    pub ending: Ending,
    /// The number of requests.
    pub count: u64,
}
