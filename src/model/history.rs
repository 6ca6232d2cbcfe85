//! The nouns of history (who held an address when) and of counters (how many requests ended how).

use super::{Attachment, Kind, Lease, Node, Origin, Owner, SetName, Timestamp, words};
use crate::net::Addr;

words! {
    /// Through which face a request came.
    #[derive(Default)]
    pub enum Face {
        /// A container runtime.
        #[default]
        Cni = "cni",
        /// dockerd.
        Docker = "docker",
        /// A person, or a person's script.
        Cli = "cli",
    }
}

/// How much of what happened is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// As much as was said last; the default where nobody has said.
    Standing,
    /// Nothing.
    Off,
    /// The newest, as long as both bounds hold.
    Kept {
        /// How many events at most; not 0.
        count: u64,
        /// For how long, in seconds; not 0.
        age: u64,
    },
}

impl History {
    /// The last 1,000 transactions of 30 days, about 450 KiB: the default of each network of a cluster.
    pub const OF_A_NETWORK: History = History::Kept { count: 1_000, age: MONTH };

    /// For how long events are kept, in seconds; where nobody has said, as long as by default.
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
    /// What became of an address, and why.
    pub enum What {
        /// Leased by an ADD, or by a request of Docker's.
        Added = "added",
        /// Leased by host-local before, and taken over by an ADD.
        TakenOver = "taken-over",
        /// Leased by another program before, and imported.
        Imported = "imported",
        /// Set aside by an operator.
        Reserved = "reserved",
        /// Freed by a DEL, or by a request of Docker's.
        Deleted = "deleted",
        /// Freed at once: nobody took the answer.
        Undone = "undone",
        /// Freed by a runtime's GC: no attachment that the runtime knows.
        Collected = "collected",
        /// Freed by `sublet gc`: its container is gone.
        Lost = "lost",
        /// Freed by an operator.
        Released = "released",
        /// No longer set aside.
        Unreserved = "unreserved",
        /// Freed by `subletd cleanup`: Docker does not know it.
        Swept = "swept",
        /// Freed with its pool.
        PoolReleased = "pool-released",
        /// Ended with the boot that made it.
        BootEnded = "boot-ended",
        /// Freed with its node, which is gone.
        NodeReleased = "node-released",
        /// Handed over to host-local by `sublet export host-local`.
        Exported = "exported",
    }
}

impl What {
    /// Whether somebody holds the address from then on.
    pub const fn gives(self) -> bool {
        matches!(self, What::Added | What::TakenOver | What::Imported | What::Reserved)
    }
}

/// One address given, or let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What, and why.
    pub what: What,
    /// Through which face.
    pub face: Face,
    /// In which set of leases.
    pub set: SetName,
    /// Which address.
    pub addr: Addr,
    /// What it was leased for.
    pub kind: Kind,
    /// Who held it.
    pub owner: Owner,
    /// On which machine it was leased.
    pub node: Node,
    /// For what; without the network namespace.
    pub origin: Origin,
}

impl Event {
    /// What became of a lease.
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

    /// The attachment behind it, if a container is.
    pub fn attachment(&self) -> Option<&Attachment> {
        self.owner.attachment().or(self.origin.attachment.as_ref())
    }

    /// The network under which it is listed.
    pub fn network(&self) -> &str {
        self.owner.attachment().map_or(&self.set.0, |a| a.network.as_str())
    }
}

words! {
    /// What was asked for.
    pub enum Verb {
        /// ADD, or Docker's `RequestAddress`.
        Add = "add",
        /// DEL, Docker's `ReleaseAddress`, `sublet release`.
        Del = "del",
        /// GC, `subletd cleanup`.
        Gc = "gc",
        /// `sublet reserve` and `unreserve`.
        Reserve = "reserve",
        /// Imports and takeovers.
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
        /// Refused: another holds what was asked for.
        Held = "held",
        /// Refused for another reason.
        Refused = "refused",
        /// Not carried out, for all that is known: a cluster did not answer.
        Failed = "failed",
    }
}

/// The number of requests of one kind since the store, or its boot, began.
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
