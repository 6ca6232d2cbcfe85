//! What happened: who held an address when, and how often what was asked for.
//!
//! Owns: the nouns of history and counters, and the words that they are shown by. Does not own: how
//! they are kept (`store`), or what a request was (`alloc`).
//! Invariant: a word, once shown, stays; scripts and dashboards rely on it.

use std::time::Duration;

use super::{Attachment, Histogram, Kind, Lease, Node, Origin, Owner, SetName, Timestamp};
use crate::net::Addr;

words! {
    /// Through which face a request came.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Face {
        /// A container runtime.
        #[default]
        Cni => "cni",
        /// dockerd.
        Docker => "docker",
        /// A person, or a person's script.
        Cli => "cli",
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
    /// The last 1,000 events of 30 days, about 200 KiB: what each node of a cluster keeps there where
    /// nobody has said.
    pub const OF_A_NODE: History = History::Kept { count: 1_000, age: MONTH };
}

const MONTH: u64 = 30 * 24 * 3600;

impl Default for History {
    /// The last 10,000 events of 30 days: about 2 MiB.
    fn default() -> History {
        History::Kept { count: 10_000, age: MONTH }
    }
}

words! {
    /// What became of an address, and why.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum What {
        /// Leased by an ADD, or by a request of Docker's.
        Added => "added",
        /// Leased by host-local before, and taken over by an ADD.
        TakenOver => "taken-over",
        /// Leased by another program before, and imported.
        Imported => "imported",
        /// Set aside by an operator.
        Reserved => "reserved",
        /// Freed by a DEL, or by a request of Docker's.
        Deleted => "deleted",
        /// Freed at once: nobody took the answer.
        Undone => "undone",
        /// Freed by a runtime's GC: no attachment that the runtime knows.
        Collected => "collected",
        /// Freed by `sublet gc`: its container is gone.
        Lost => "lost",
        /// Freed by an operator.
        Released => "released",
        /// No longer set aside.
        Unreserved => "unreserved",
        /// Freed by `subletd cleanup`: Docker does not know it.
        Swept => "swept",
        /// Freed with its pool.
        PoolReleased => "pool-released",
        /// Ended with the boot that made it.
        BootEnded => "boot-ended",
        /// Freed with its node, which is gone.
        NodeReleased => "node-released",
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
        match &self.owner {
            Owner::Attachment(a) => Some(a),
            _ => self.origin.attachment.as_ref(),
        }
    }

    /// The network under which it is listed.
    pub fn network(&self) -> &str {
        match &self.owner {
            Owner::Attachment(a) => a.network.as_str(),
            _ => &self.set.0,
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// ADD, or Docker's `RequestAddress`.
    Add,
    /// DEL, Docker's `ReleaseAddress`, `sublet release`.
    Del,
    /// GC, `subletd cleanup`.
    Gc,
    /// `sublet reserve` and `unreserve`.
    Reserve,
    /// Imports and takeovers.
    Import,
    /// Docker's `RequestPool` and `ReleasePool`.
    Pool,
}

impl Verb {
    /// The word in tables, JSON and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Verb::Add => "add",
            Verb::Del => "del",
            Verb::Gc => "gc",
            Verb::Reserve => "reserve",
            Verb::Import => "import",
            Verb::Pool => "pool",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    /// It was carried out.
    Ok,
    /// Refused: no address was free.
    Exhausted,
    /// Refused: another holds what was asked for.
    Held,
    /// Refused for another reason.
    Refused,
    /// Not carried out, for all that is known: a cluster did not answer.
    Failed,
}

impl Ending {
    /// The word in tables, JSON and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Ending::Ok => "ok",
            Ending::Exhausted => "exhausted",
            Ending::Held => "held",
            Ending::Refused => "refused",
            Ending::Failed => "failed",
        }
    }
}

/// How often something was asked for, since the store, or its boot, began, and how long that took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    /// Of which set of leases.
    pub set: SetName,
    /// Through which face.
    pub face: Face,
    /// What.
    pub verb: Verb,
    /// How it ended.
    pub ending: Ending,
    /// How often.
    pub count: u64,
    /// How long was waited for the store's locks, altogether.
    pub waited: Duration,
    /// From when the store was asked until its commit began. Less often than `count` where a build
    /// counted that kept no times.
    pub took: Histogram,
}

impl Counter {
    /// Of nothing yet.
    pub fn new(set: SetName, face: Face, verb: Verb, ending: Ending) -> Counter {
        let (waited, took) = (Duration::ZERO, Histogram::EMPTY);
        Counter { set, face, verb, ending, count: 0, waited, took }
    }

    /// Takes in what was counted elsewhere.
    pub fn merge(&mut self, other: &Counter) {
        self.count = self.count.saturating_add(other.count);
        self.waited = self.waited.saturating_add(other.waited);
        self.took += &other.took;
    }
}
