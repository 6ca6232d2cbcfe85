//! What the faces ask for, as plain data.
//!
//! Owns: [`Command`] and [`Outcome`]. A command holds everything the allocator needs to know of
//! its caller, so it could be written to a file, carried out by another process, or carried out
//! twice.

use std::sync::Arc;

use super::address::{ReleaseAddress, RequestAddress};
use super::pool::{AdoptPool, ReleasePool, RequestPool, Sweep};
use super::restore::Restore;
use crate::error::Refusal;
use crate::model::{
    Attachment, ContainerId, Grant, IfName, Kind, Lease, NetworkName, NetworkRecord, Origin, Owner,
    Pool, SetName, Timestamp,
};
use crate::net::{Addr, RangeSet, Span};

/// One request to the lease store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one is made in a call, and it is mostly an ADD")]
pub enum Command {
    /// Lease an address from each range set.
    Add(Add),
    /// Free what an owner holds.
    Del(Del),
    /// Verify what an owner holds.
    Check(Check),
    /// Tell whether an ADD could be served.
    Status(Status),
    /// Free what no attachment uses.
    Gc(Gc),
    /// Free what a machine holds.
    Evict(Evict),
    /// Set addresses aside.
    Reserve(Reserve),
    /// Let them be given again.
    Unreserve(Unreserve),
    /// Take over what another program leased.
    Import(Import),
    /// Let another program go on from here.
    HandBack(HandBack),
    /// Make a pool, or use a shared one.
    RequestPool(RequestPool),
    /// Let a pool go, with all that was leased through it.
    ReleasePool(ReleasePool),
    /// Lease an address of a pool.
    RequestAddress(RequestAddress),
    /// Free an address of a pool.
    ReleaseAddress(ReleaseAddress),
    /// Free what a container engine no longer knows.
    Sweep(Sweep),
    /// Take over another program's pool with its addresses.
    AdoptPool(AdoptPool),
    /// Write records of another store.
    Restore(Restore),
    /// Define a network.
    Define(Define),
}

impl Command {
    /// Whether it can change nothing: a store opens for reading only.
    pub fn only_looks(&self) -> bool {
        matches!(self, Command::Check(_) | Command::Status(_))
            || matches!(self, Command::Import(import) if import.dry_run)
            || matches!(self, Command::Restore(restore) if restore.dry_run)
    }

    /// The set of leases it is about, unless that is its pool's.
    pub fn set(&self) -> Option<&SetName> {
        match self {
            Command::Add(c) => Some(&c.set),
            Command::Del(c) => Some(&c.set),
            Command::Check(c) => Some(&c.set),
            Command::Status(c) => Some(&c.set),
            Command::Gc(c) => Some(&c.set),
            Command::Evict(c) => Some(&c.set),
            Command::Reserve(c) => Some(&c.set),
            Command::Unreserve(c) => Some(&c.set),
            Command::Import(c) => Some(&c.set),
            Command::HandBack(c) => Some(&c.set),
            Command::Restore(c) => c.set.as_ref(),
            _ => None,
        }
    }
}

/// ADD. All or nothing over all its range sets; repeatable by the same owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Add {
    /// The set of leases to draw from.
    pub set: SetName,
    /// The network as its users call it: names the definition kept in the store.
    pub network: NetworkName,
    /// For whom.
    pub owner: Owner,
    /// One address is leased from each; disjoint.
    pub sets: Vec<RangeSet>,
    /// Addresses asked for: each set takes the first that lies in it.
    pub wanted: Vec<Wanted>,
    /// Which free address to take.
    pub strategy: Strategy,
    /// How long a freed address is kept back.
    pub cooldown: Cooldown,
    /// Whether a pod gets its former address while that is free.
    pub sticky: bool,
    /// What an ADD for an owner that has a lease does.
    pub on_duplicate: OnDuplicate,
    /// Record the gateways as leased, and refuse one that a container holds (ECS dialect).
    pub claim_gateways: bool,
    /// Kept with the lease.
    pub origin: Origin,
    /// What is known of host-local's leases for this network.
    pub legacy: Legacy,
    /// The definition that the ranges are of, where the cluster keeps one; if it has none yet, it
    /// gets this one.
    pub define: Option<Define>,
}

/// An address that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The address.
    pub addr: Addr,
    /// Prefix length to answer with, in bits; `None`: the subnet's.
    pub prefix: Option<u8>,
}

/// Which free address an ADD takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The next after the last one given, as host-local: a freed address is taken again last.
    #[default]
    RoundRobin,
    /// The lowest.
    Lowest,
    /// Any, from a random place on.
    Random,
    /// Any, from a place on that the owner's name decides: no shared state at all.
    Hash,
}

/// How long freed addresses are kept back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cooldown {
    /// In seconds; 0: not at all.
    pub seconds: u32,
    /// Also when nothing else is left.
    pub strict: bool,
}

/// What an ADD for an owner that has a lease does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDuplicate {
    /// Answers with the lease: a runtime may repeat an ADD whose answer it lost.
    #[default]
    Same,
    /// Refuses, as host-local does.
    Error,
}

/// host-local's leases for a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Legacy {
    /// There is no folder.
    #[default]
    Absent,
    /// There is a folder, not read yet: unless it was taken over before, the outcome is
    /// [`Outcome::ReadLegacy`].
    Unread,
    /// Its content, read under host-local's lock, which is held until the command is done.
    Read(Vec<LegacyLease>, Vec<LegacyCursor>),
}

/// One lease file of host-local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyLease {
    /// The file's name.
    pub addr: Addr,
    /// The file's first line.
    pub container: ContainerId,
    /// The file's second line; old releases wrote none.
    pub ifname: Option<IfName>,
}

/// `last_reserved_ip.N` of host-local.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LegacyCursor {
    /// N: index of the range set.
    pub index: usize,
    /// The address given last.
    pub addr: Addr,
}

/// DEL. Freeing what is not held is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Del {
    /// The set of leases.
    pub set: SetName,
    /// What to free.
    pub target: Target,
    /// Move the cursor to a freed address, as ecs-ipam does.
    pub rewind: bool,
    /// Free it as if it had never been leased: no cooldown. For taking back an ADD whose answer
    /// could not be delivered.
    pub undo: bool,
    /// The network, if host-local has a folder of it: unless that was taken over, what the owner
    /// holds may be there, and the outcome is [`Outcome::ReadLegacy`].
    pub legacy: Option<NetworkName>,
}

/// What a DEL frees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// All that an owner holds. An attachment's leases from a host-local that wrote no interface
    /// are found by the container alone, if it has none under its full name.
    Owner(Owner),
    /// All that the owner holds, if one of these addresses is among it.
    OwnerAt(Owner, Vec<Addr>),
    /// Only these addresses of this owner.
    Some(Owner, Vec<Addr>),
    /// Only this lease, and only if it is still as it was read.
    Unchanged(Box<Lease>),
    /// These addresses, whoever holds them; never gateways or reservations.
    Addresses(Vec<Addr>),
}

/// CHECK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// The set of leases.
    pub set: SetName,
    /// Whose.
    pub owner: Owner,
    /// The ranges; what prevResult has from them the owner must hold.
    pub sets: Vec<RangeSet>,
    /// The addresses of prevResult; `None` where there is no prevResult.
    pub expected: Option<Vec<Addr>>,
}

/// STATUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The set of leases.
    pub set: SetName,
    /// Each must have an address to give.
    pub sets: Vec<RangeSet>,
    /// `cooldownStrict`.
    pub strict: bool,
}

/// GC. Judges only dynamic and static leases of this network that carry a container ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gc {
    /// The set of leases.
    pub set: SetName,
    /// The network whose leases are judged.
    pub network: NetworkName,
    /// Attachments that live, sorted. There may be many, and a command is copied for each step.
    pub valid: Arc<[(ContainerId, IfName)]>,
    /// Go on behind this owner; `None`: from the start.
    pub after: Option<Owner>,
}

/// Frees what the asking node ([`super::Context::node`]) holds of one set. Reservations stay, as an
/// operator's, and so do addresses of pools, which go with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evict {
    /// The set of leases.
    pub set: SetName,
    /// Only what has ended with an earlier boot.
    pub only_ended: bool,
    /// Go on behind this owner; `None`: from the start.
    pub after: Option<Owner>,
}

/// Keeps a network's definition, if the one that is kept is of the version that is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Define {
    /// The network.
    pub network: NetworkName,
    /// [`crate::model::NetworkRecord::text`].
    pub text: String,
    /// The version that is kept; `None`: there is none.
    pub version: Option<u64>,
}

/// Sets addresses aside: they are given to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// The set of leases.
    pub set: SetName,
    /// The addresses, one by one: an address somebody holds refuses them all.
    pub addrs: Vec<Addr>,
    /// What for; kept with each. Said again, it replaces what was written before.
    pub note: Option<String>,
    /// Whose; kept with each.
    pub holder: Option<String>,
}

/// Lets reserved addresses be given again. Those that are not reserved stay as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreserve {
    /// The set of leases.
    pub set: SetName,
    /// The addresses, one by one.
    pub addrs: Vec<Addr>,
}

/// IMPORT. Leases that are here already under the same owner stay as they are; an address with
/// another holder refuses them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The set of leases.
    pub set: SetName,
    /// The leases.
    pub leases: Vec<Imported>,
    /// The addresses given last, of whichever ranges.
    pub cursors: Vec<Addr>,
    /// The network whose host-local folder this is: recorded as taken over; one that was is left
    /// alone ([`Outcome::WasAdopted`]).
    pub adopts: Option<NetworkName>,
    /// Answer what would come of it, and change nothing.
    pub dry_run: bool,
}

/// A lease that another program made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The address.
    pub addr: Addr,
    /// What for.
    pub kind: Kind,
    /// Whose.
    pub owner: Owner,
}

/// HANDBACK. host-local's folder was written from the leases here: the next ADD looks at it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandBack {
    /// The set of leases.
    pub set: SetName,
    /// The network.
    pub network: NetworkName,
    /// The range sets whose last addresses are asked for, by key.
    pub ranges: Vec<Addr>,
}

/// What came of a command that was not refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// ADD: an address of each range set, in their order.
    Added {
        /// The addresses.
        grants: Vec<Grant>,
        /// Those of them that this call leased; the others were held before.
        created: Vec<Addr>,
        /// Things an operator should know, for the log.
        warnings: Vec<String>,
    },
    /// ADD, DEL: nothing was done; what is asked for is, or may be, in host-local's folder.
    ReadLegacy,
    /// DEL, UNRESERVE: what was freed.
    Freed(Vec<Lease>),
    /// CHECK: all as it should be.
    Checked,
    /// STATUS: an ADD could be served.
    Ready,
    /// GC, EVICT: what was freed in this step.
    Collected {
        /// The addresses.
        freed: Vec<Addr>,
        /// The next step goes on behind this owner.
        after: Option<Owner>,
        /// There is no next step.
        done: bool,
    },
    /// RESERVE: done; those that were not reserved before.
    Reserved(Vec<Addr>),
    /// IMPORT: what was taken over, and what was there already.
    Imported {
        /// New here.
        taken: Vec<Addr>,
        /// The same owner held them.
        present: Vec<Addr>,
    },
    /// IMPORT: nothing was done, the network was taken over before.
    WasAdopted,
    /// HANDBACK: the addresses given last, as they were asked for.
    HandedBack(Vec<Option<Addr>>),
    /// A pool was made, is shared, or was taken over.
    Pool(Box<Pool>),
    /// A pool was let go, or this machine's part in it.
    PoolReleased {
        /// Whether there was such a pool.
        known: bool,
        /// The addresses that went with it in this step.
        freed: Vec<Addr>,
        /// There is no next step.
        done: bool,
    },
    /// An address was leased, or (a shared pool's gateway) was leased before.
    Leased {
        /// The lease.
        lease: Box<Lease>,
        /// Whether this call made it.
        created: bool,
    },
    /// DEFINE: the version that is kept now.
    Defined(u64),
    /// What a sweep freed, or would free.
    Swept {
        /// The addresses.
        freed: Vec<Addr>,
        /// The pool itself went too.
        pool: bool,
        /// There is no next step.
        done: bool,
    },
    /// RESTORE: this many records, from the first on, are here now.
    Restored {
        /// How many.
        done: usize,
        /// What stands in the way of a dry run.
        clashes: Vec<Refusal>,
    },
}

/// A network's ranges as kept in the store, to tell when they change and what they overlap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The set of leases it draws from.
    pub set: SetName,
    /// The network.
    pub network: NetworkName,
    /// First and last address of each range.
    pub bounds: Vec<Span>,
    /// What is given out of them: without gateways and exclusions, range by range.
    pub gives: Vec<Span>,
}

/// One change of the store. A plan's changes are made together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Write a lease: of an address that was free or cooling, or the owner's own one again.
    Put(Lease),
    /// Free a lease; with `until`, keep the address back until then.
    Free {
        /// As it was read.
        lease: Lease,
        /// First second in which it is free again.
        until: Option<Timestamp>,
    },
    /// Let a cooling address go.
    Thaw(SetName, Cooling),
    /// Keep a free address back.
    Cool(SetName, Cooling),
    /// Remember the address given last.
    Cursor(SetName, Addr, Addr),
    /// Remember a pod's address: pod namespace and name, range set, address. Outlives a boot.
    Sticky(SetName, PodKey, Addr, Addr),
    /// Remember a network's ranges.
    Define(Definition),
    /// Remember that host-local's folder was taken over. Outlives a boot.
    Adopted(NetworkName, Timestamp),
    /// Forget it. Outlives a boot.
    Released(NetworkName),
    /// Write a pool: a new one, or the same with other users.
    PutPool(Pool),
    /// Forget a pool, none of whose leases is left.
    DropPool(Pool),
    /// Keep a network's definition. Only a cluster does.
    Network(NetworkRecord),
}

/// An address that was freed and is kept back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cooling {
    /// First second in which it is free again.
    pub until: Timestamp,
    /// The address.
    pub addr: Addr,
    /// When it was freed: a clock set back to before this ends the cooling.
    pub freed: Timestamp,
}

impl Cooling {
    /// Whether it is free again.
    pub fn over(&self, now: Timestamp) -> bool {
        now >= self.until || now < self.freed
    }
}

/// A pod as `sticky` knows it: by namespace and name, for its UID changes when it is made again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodKey {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
}

/// The owner under which a host-local without interface names keeps an attachment's lease.
pub fn legacy_owner(owner: &Owner) -> Option<Owner> {
    match owner {
        Owner::Attachment(a) if a.ifname.is_some() => {
            Some(Owner::Attachment(Attachment { ifname: None, ..a.clone() }))
        }
        _ => None,
    }
}
