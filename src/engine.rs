//! Implements the use cases of all faces: the CNI plugin, the Docker driver, the status page and the command
//! line.
//!
//! A use case may take several commands: a large GC, for example, runs in several steps. The faces are
//! responsible for error codes and messages, and [`alloc`] makes every decision about an address.
//! Invariant: the faces change leases only through the commands that this module passes to a [`Store`].

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::alloc;
use crate::alloc::{
    Add, Added, AdoptPool, Check, Collected, Command, Context, DefineNetwork, Del, Drain, Evict,
    ExportHostLocal, Gc, Import, Imported, Outcome, ReleaseAddress, ReleasePool, RequestAddress,
    RequestPool, Reserve, Status, Target, Unreserve,
};
use crate::error::{Error, Refusal, StoreError};
use crate::liveness;
use crate::liveness::stale::Liveness;
use crate::migrate::consul;
pub use crate::migrate::consul::import as import_consul;
use crate::migrate::host_local_import;
pub use crate::migrate::host_local_import::HostLocalFolder;
use crate::model::{
    Lease, NetworkDefinition, NetworkName, Node, NodeRecord, Owner, Pool, SetName, Wait,
};
use crate::net::Addr;
use crate::store;
use crate::store::{Converted, Store};
use crate::telemetry::usage::{Extent, Meter, Usage};

/// Extracts the result of a command from its outcome. An outcome that does not match the pattern is an error.
macro_rules! answer {
    ($outcome:expr, $pattern:pat => $value:expr) => {
        match $outcome {
            $pattern => Ok($value),
            other => Err(other.unexpected()),
        }
    };
}

/// Defines use cases that consist of a single command.
macro_rules! one_step {
    ($($(#[$about:meta])* $name:ident($command:ident) -> $answer:ty {
        $outcome:pat => $value:expr
    })+) => {$(
        $(#[$about])*
        pub fn $name(
            store: &mut dyn Store,
            command: $command,
            cx: &Context,
        ) -> Result<$answer, Error> {
            answer!(store.apply(&Command::$command(command), cx)?, $outcome => $value)
        }
    )+};
}

one_step! {
    /// Compares a container's leases with prevResult.
    check(Check) -> () { Outcome::Checked => () }

    /// Checks whether an ADD would succeed.
    status(Status) -> () { Outcome::Ready => () }

    /// Imports the leases of another program.
    import(Import) -> Imported { Outcome::Imported(imported) => imported }

    /// Records that the leases of a network were exported to host-local's folder, so that the next ADD
    /// imports the folder again. Returns the last allocated address of each requested range set.
    export_host_local(ExportHostLocal) -> Vec<Option<Addr>> { Outcome::Exported(last) => last }

    /// Ends reservations. Returns the addresses that were reserved.
    unreserve(Unreserve) -> Vec<Addr> {
        Outcome::Freed(freed) => freed.iter().map(|lease| lease.addr).collect()
    }

    /// Begins or ends the draining of a range. Returns whether anything has changed.
    drain(Drain) -> bool { Outcome::Drained { changed } => changed }

    /// Leases an address of a pool. Returns the lease, and whether this call made the lease.
    request_address(RequestAddress) -> (Lease, bool) {
        Outcome::Leased { lease, created } => (*lease, created)
    }

    /// Frees an address of a pool. Returns whether this call has freed the address.
    release_address(ReleaseAddress) -> bool { Outcome::Freed(freed) => !freed.is_empty() }

    /// Stores a network's definition in a cluster. Returns the version of the definition.
    define(DefineNetwork) -> u64 { Outcome::Defined(version) => version }
}

/// Leases one address from each range set. If host-local has a folder with leases of this network, the same
/// transaction also imports those leases, and a text file then replaces the folder. The function holds
/// host-local's lock throughout.
pub fn add(
    store: &mut dyn Store,
    mut add: Add,
    legacy: Option<HostLocalFolder<'_>>,
    cx: &Context,
) -> Result<Added, Error> {
    let folder = match legacy {
        Some(legacy) => host_local_import::open(legacy.dir, legacy.network, legacy.wait)?,
        None => None,
    };
    let Some(mut folder) = folder else {
        let mut outcome = lease(store, &mut add, cx)?;
        if outcome == Outcome::ReadLegacy {
            consul::require_none(store, &add.network, None)?;
            // The network has no leases of cni-ipam-consul. Repeat the ADD; its transaction also records this
            // fact, so that later calls need not check again.
            add.legacy = alloc::Legacy::Read(Vec::new(), Vec::new());
            outcome = lease(store, &mut add, cx)?;
        }
        return answer!(outcome, Outcome::Added(added) => added);
    };
    let (set, owner) = (add.set.clone(), add.owner.clone());
    let mut warnings = Vec::new();
    loop {
        add.legacy = alloc::Legacy::Read(folder.leases.clone(), folder.cursors.clone());
        match lease(store, &mut add, cx)? {
            Outcome::Added(mut added) => {
                if let Err(error) = folder.retire(cx.now) {
                    // The folder could not be replaced, so undo the ADD. The next ADD imports the folder
                    // again.
                    undo(store, &set, &owner, &added.created, cx)?;
                    return Err(error.into());
                }
                added.warnings.extend(warnings);
                return Ok(added);
            }
            Outcome::Contested(contested) => {
                for contested in contested {
                    let (addr, set) = (contested.lease.addr, &contested.lease.set);
                    let note = format!(
                        "leased to {} by sublet and to {} by host-local",
                        contested.lease.owner, contested.claimant
                    );
                    warnings.push(format!(
                        "{addr} is {note}, so the address is now reserved; when one of these containers is \
                         gone, run `sublet unreserve {set} {addr}`"
                    ));
                    let (addrs, note) = (vec![addr], Some(note));
                    let reserve =
                        Reserve { set: set.clone(), addrs, note, holder: None, name: None };
                    store.apply(&Command::ReserveContested(reserve), cx)?;
                    folder.leases.retain(|lease| lease.addr != addr);
                }
            }
            other => return Err(other.unexpected()),
        }
    }
}

/// Runs an ADD. If an address is reserved for the container's name, an earlier container with the same name
/// may still hold the address. The address then moves to the new container if the earlier container's network
/// namespace is gone.
fn lease(store: &mut dyn Store, add: &mut Add, cx: &Context) -> Result<Outcome, Error> {
    loop {
        let done = store.apply(&Command::Add(add.clone()), cx);
        let Err(Error::Refused(Refusal::Predecessor { index, name, holder, .. })) = done else {
            return done;
        };
        let why = match liveness::of(&holder, add.origin.netns.as_ref(), cx) {
            // Repeat the ADD, which now replaces this holder. An ADD leases one address per range set, so
            // there can be no more such holders than range sets.
            Liveness::Stale(_) if add.gone.len() < add.sets.len() => {
                add.gone.push(*holder);
                continue;
            }
            Liveness::Stale(why) | Liveness::Alive(why) | Liveness::Unknown(why) => why,
        };
        return Err(Refusal::Predecessor { index, name, holder, why }.into());
    }
}

/// Frees the addresses that an ADD has newly leased, because its result could not be delivered. Leases that
/// the owner already had stay.
pub fn undo(
    store: &mut dyn Store,
    set: &SetName,
    owner: &Owner,
    created: &[Addr],
    cx: &Context,
) -> Result<(), Error> {
    if created.is_empty() {
        return Ok(());
    }
    let target = Target::Some(owner.clone(), created.to_vec());
    let undo = Del { set: set.clone(), target, rewind: false, undo: true, legacy: None };
    del(store, undo, None, cx).map(|_| ())
}

/// Frees leases and returns them. If host-local's folder has not been imported yet, this function first
/// removes the container's files from the folder, while it holds host-local's lock. Otherwise a later ADD
/// would import a lease of a container that is gone.
pub fn del(
    store: &mut dyn Store,
    del: Del,
    legacy: Option<HostLocalFolder<'_>>,
    cx: &Context,
) -> Result<Vec<Lease>, Error> {
    if let (Some(legacy), Target::Owner(Owner::Attachment(attachment))) = (legacy, &del.target) {
        host_local_import::release(legacy.dir, attachment, legacy.wait)?;
    }
    let old = del.legacy.clone();
    let container = match &del.target {
        Target::Owner(Owner::Attachment(attachment)) => Some(attachment.container.clone()),
        _ => None,
    };
    let outcome = store.apply(&Command::Del(del), cx)?;
    if let (Outcome::ReadLegacy, Some(network)) = (&outcome, old) {
        consul::require_none(store, &network, container.as_ref())?;
        return Ok(Vec::new());
    }
    answer!(outcome, Outcome::Freed(leases) => leases)
}

/// Frees the leases of attachments (a container and an interface) that the runtime does not list. Returns the
/// number of freed addresses.
pub fn gc(store: &mut dyn Store, gc: Gc, cx: &Context) -> Result<usize, Error> {
    Ok(collect(store, Command::Gc(gc), cx)?.freed.len())
}

/// Creates a pool, or joins a shared pool. If an earlier release of the pool was interrupted, completes the
/// release first.
pub fn request_pool(
    store: &mut dyn Store,
    request: RequestPool,
    cx: &Context,
) -> Result<Pool, Error> {
    let command = Command::RequestPool(request);
    loop {
        match store.apply(&command, cx)? {
            Outcome::Pool(pool) => return Ok(*pool),
            Outcome::Collected(_) => {}
            other => return Err(other.unexpected()),
        }
    }
}

/// Runs a command that may free many addresses, such as a GC or the release of a pool, in as many
/// transactions as the store needs.
pub fn collect(
    store: &mut dyn Store,
    mut command: Command,
    cx: &Context,
) -> Result<Collected, Error> {
    let mut all = Collected::default();
    while !all.done {
        match store.apply(&command, cx)? {
            Outcome::Collected(step) => {
                all.freed.extend(step.freed);
                all.pool |= step.pool;
                all.done = step.done;
                command.resume(step.after);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(all)
}

/// Converts a bolt file: imports its leases into a new store, which then replaces the bolt file. Also returns
/// the path under which the bolt file was kept; `None` if an earlier call has already converted the file.
pub fn convert(
    path: &Path,
    wait: Wait,
    import: Import,
    cx: &Context,
) -> Result<(Imported, Option<PathBuf>), Error> {
    match store::in_place(path, wait, &Command::Import(import), cx)? {
        Converted::Done(outcome, kept) => {
            answer!(outcome, Outcome::Imported(imported) => (imported, Some(kept)))
        }
        Converted::Already => Ok((Imported::Before, None)),
    }
}

/// Imports host-local's leases of a network while holding host-local's lock. The network's configuration is
/// not needed. The network's first ADD then finds its leases already imported.
pub fn import_host_local(
    store: &mut dyn Store,
    legacy: HostLocalFolder<'_>,
    set: SetName,
    dry_run: bool,
    cx: &Context,
) -> Result<(Imported, Vec<Addr>), Error> {
    let folder = host_local_import::open(legacy.dir, legacy.network, legacy.wait)?;
    let Some(folder) = folder else { return Ok((Imported::Before, Vec::new())) };
    let cursors: Vec<Addr> = folder.cursors.iter().map(|c| c.addr).collect();
    let leases = folder.leases.clone();
    let import =
        Import { set, leases, cursors: cursors.clone(), adopts: None, partial: false, dry_run };
    let done = self::import(store, import, cx)?;
    if !dry_run {
        folder.retire(cx.now)?;
    }
    Ok((done, cursors))
}

/// Returns the usage of each known range.
pub fn usage(store: &mut dyn Store, cx: &Context) -> Result<Vec<Usage>, StoreError> {
    let extents = Extent::all(&store.networks(cx)?, &store.pools()?);
    let mut meter = Meter::new(extents, &store.draining(cx)?);
    store.occupancy(cx, &mut |set, addr, holder| meter.take(set, addr, holder))?;
    Ok(meter.done())
}

/// The error of a failed [`reserve`], which may have reserved some of the addresses before it failed.
#[derive(Debug)]
pub struct Unreserved {
    /// The error that made the reservation fail.
    pub error: Error,
    /// The addresses that are still reserved, because undoing their reservation failed.
    pub left: Vec<Addr>,
}

/// Reserves addresses in transactions of limited size. Returns the addresses that were not reserved before.
/// If a transaction fails, the reservations of the earlier transactions are undone.
pub fn reserve(
    store: &mut dyn Store,
    reserve: &Reserve,
    slice: usize,
    cx: &Context,
) -> Result<Vec<Addr>, Unreserved> {
    let mut done: Vec<Addr> = Vec::new();
    for some in reserve.addrs.chunks(slice.max(1)) {
        let part = Reserve { addrs: some.to_vec(), ..reserve.clone() };
        let error = match store.apply(&Command::Reserve(part), cx) {
            Ok(Outcome::Reserved(new)) => {
                done.extend(new);
                continue;
            }
            Ok(other) => other.unexpected(),
            Err(error) => error,
        };
        let mut left = Vec::new();
        for some in done.chunks(slice.max(1)) {
            let undo = Unreserve { set: reserve.set.clone(), addrs: some.to_vec() };
            if unreserve(store, undo, cx).is_err() {
                left.extend(some);
            }
        }
        return Err(Unreserved { error, left });
    }
    Ok(done)
}

/// Imports another program's pool and its addresses. This takes several transactions, because a cluster
/// limits the size of a transaction.
pub fn adopt_pool(store: &mut dyn Store, adopt: &AdoptPool, cx: &Context) -> Result<Pool, Error> {
    const PORTION: usize = 50;
    let mut portions = adopt.addrs.chunks(PORTION);
    loop {
        let portion = portions.next().unwrap_or_default();
        let adopt = AdoptPool { addrs: portion.to_vec(), ..adopt.clone() };
        match store.apply(&Command::AdoptPool(adopt), cx)? {
            Outcome::Pool(pool) if portions.len() == 0 => return Ok(*pool),
            Outcome::Pool(_) => {}
            other => return Err(other.unexpected()),
        }
    }
}

/// Returns the machines that lease from a cluster, ordered by name. For any other store, returns an empty
/// list.
pub fn nodes(store: &mut dyn Store) -> Result<Vec<NodeRecord>, StoreError> {
    store.cluster().map_or(Ok(Vec::new()), store::Cluster::nodes)
}

/// Returns the definition that a cluster stores for a network; `None` if there is no definition, or if the
/// store is not a cluster.
pub fn definition(
    store: &mut dyn Store,
    network: &NetworkName,
) -> Result<Option<NetworkDefinition>, StoreError> {
    store.cluster().map_or(Ok(None), |cluster| cluster.definition(network))
}

/// The result of releasing a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// The number of freed addresses.
    pub freed: usize,
    /// Whether the node's name is free. `false` means that another boot or machine has claimed the name in
    /// the meantime.
    pub forgotten: bool,
}

/// Frees everything that a lost node holds in a cluster: its use of pools, its containers' addresses, and
/// finally its name. Reservations stay. If the release is interrupted, repeating it completes it.
pub fn release_node(store: &mut dyn Store, name: &str, cx: &Context) -> Result<Left, Error> {
    let mut left = Left { freed: 0, forgotten: true };
    let record = nodes(store)?.into_iter().find(|record| record.node.name == name);
    // Leases that ended with an earlier boot still have records. A context without a boot makes the store
    // list and free these leases too.
    let there = |node: Node| Context { node, boot: None, ..cx.clone() };
    let node = Node { name: name.to_owned(), machine: String::new() };
    for pool in store.pools()? {
        if pool.is_closed() {
            // The node may have died while it was removing the pool, so complete the removal.
            let rest = ReleasePool { pool: pool.id.clone(), resumed: true };
            let rest = collect(store, Command::ReleasePool(rest), &there(node.clone()))?;
            left.freed += rest.freed.len();
        }
        for (user, count) in pool.users.iter().filter(|(user, _)| user.name == name) {
            for _ in 0..*count {
                let release = Command::ReleasePool(ReleasePool::of(pool.id.clone()));
                left.freed += collect(store, release, &there(user.clone()))?.freed.len();
            }
        }
    }
    let mut sets = BTreeSet::new();
    let mut others = Vec::new();
    store.list(&there(node.clone()), &mut |lease| match &lease.owner {
        _ if lease.node.name != name => {}
        Owner::Pool(pool, addr) => {
            others.push(ReleaseAddress {
                pool: pool.clone(),
                addr: *addr,
                only: Some(Box::new(lease)),
            });
        }
        _ => drop(sets.insert(lease.set)),
    })?;
    for release in others {
        left.freed += usize::from(release_address(store, release, &there(node.clone()))?);
    }
    for set in sets {
        let evict = Evict { set, only_ended: false, after: None };
        left.freed += collect(store, Command::Evict(evict), &there(node.clone()))?.freed.len();
    }
    if let (Some(record), Some(cluster)) = (record, store.cluster()) {
        left.forgotten = cluster.forget(&record, cx)?;
    }
    Ok(left)
}
