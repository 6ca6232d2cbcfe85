//! The embedded store: leases in redb files on this host.
//!
//! # Files
//!
//! | file | contents | flushed |
//! |---|---|---|
//! | `<file>` | networks with `persist: disk`, Docker's pools and their leases, the history of both | at most twice per ADD or DEL |
//! | `<file>.boot-<boot ID>` | networks with `persist: boot`, their history, the machine's ID | never |
//! | `<file>.policy` | reserved addresses and draining ranges, as text | by the commands that change it |
//! | `<file>.lock` | the first lock, which protects `<file>` and the policy; empty, or a copy of a header as a hint | never |
//! | `<file>.boot.lock` | the second lock, which protects the boot files; empty, or a copy of a header as a hint | never |
//!
//! A file whose name ends with `.new` is still being written. When it is complete, it gets its final name.
//! `doctor --repair` keeps a damaged file as `<file>.damaged-<time>`. Converting ecs-ipam's file keeps the
//! original as `<file>.bolt`.
//!
//! # Locking and ordering
//!
//! A process that needs both locks takes the first lock first. `lockTimeout` limits the total wait for both.
//! While a process holds the second lock, it neither flushes nor waits for anything else.
//!
//! - **Home.** All leases of a network are in one file, and in one set of leases in that file. This file and
//!   set are the network's *home*. The home is not recorded; it follows from where the leases are. An ADD
//!   first looks in the file (`persist`) and set (`shared`) that its configuration names. If it finds a lease
//!   of its network there, it needs only that file's lock. Otherwise it takes both locks and looks in both
//!   files. (It skips the second lock if `persist` is `disk` and there is no boot file, because a boot file
//!   can be created only under the first lock.) If the network has a lease in either file, this lease
//!   determines the file and the set. If the network has no lease, an existing lease of the set determines
//!   the file. If the home differs from the configuration, the ADD returns a warning. The configuration takes
//!   effect when the leases that determine the home have ended. If two processes run the first ADD of a
//!   network at the same time, the second process to get the locks finds the lease of the first process.
//! - **A command** is one transaction in one file: redb commits all of it or none of it. If both files may
//!   have leases that a DEL must free, the DEL runs one transaction in each file. Each transaction is correct
//!   even if the other one does not run.
//! - **A new file** is written under a temporary name and then gets its final name by `link`. It is complete
//!   when it appears, and it never replaces an existing file. If a process dies before the `link`, the next
//!   process that creates the file removes the temporary file.
//! - **A replaced file** (policy, repair, conversion) is written under a temporary name and renamed over the
//!   old file. At any time, the name refers to either the complete old file or the complete new file.
//! - **A reboot** changes the boot ID, and therefore the name of the boot file. A file of an earlier boot,
//!   even if a power cut damaged it, is never mistaken for the file of the current boot.
//! - **The policy** is written to a temporary file under the first lock, and renamed under both locks. Each
//!   lease file has a copy of the policy's entries and of its nonce, a number that changes with each change
//!   of the policy. While an ADD holds its lock, it compares the nonce of the copy with the nonce of the
//!   policy. If the nonces differ, the ADD refreshes the copy in the same transaction that adds its lease.

mod backend;
mod changes;
mod check;
pub mod convert;
pub mod database;
#[cfg(test)]
mod database_test;
mod earlier;
mod examine;
mod files;
pub mod fs;
mod history;
pub mod keys;
pub mod lock;
mod occupancy;
mod pages;
pub mod policy;
mod pools;
mod queue;
mod records;
mod repair;
mod reserve;
pub mod view;
mod walk;

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use self::backend::Flush;
use self::check::Made;
use self::database::Writable;
use self::files::Names;
use self::fs::{FileSystem, Os};
use self::lock::{Lock, Patience};
use self::policy::Policy;
use self::view::{Former, Kv, Tables};
use super::{Repair, Store, codec};
use crate::alloc;
use crate::alloc::{Change, Command, Context, Gc, Outcome, Plan, PodKey, Target};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{History, Owner, Persist, SetName, StaticName, Wait};
use crate::net::Addr;

/// The result type of this module's functions.
type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A store that keeps its leases in files on this host.
#[derive(Debug)]
pub struct Embedded<F: FileSystem = Os> {
    fs: F,
    names: Names,
    persist: Persist,
    patience: Patience,
    history: History,
}

/// One of the two lease files, and its lock.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LeaseFile {
    path: PathBuf,
    lock: PathBuf,
    flush: Flush,
    persist: Persist,
}

impl Embedded {
    /// Makes the store with the lease file `file`. Nothing is opened yet.
    pub fn new(file: PathBuf, persist: Persist, wait: Wait) -> Embedded {
        Embedded::on(Os, file, persist, wait)
    }
}

impl<F: FileSystem> Embedded<F> {
    /// Makes the store on the file system `fs`. Tests pass a simulated file system.
    pub fn on(fs: F, file: PathBuf, persist: Persist, wait: Wait) -> Embedded<F> {
        let (names, patience) = (Names::new(file), Patience::new(wait));
        Embedded { fs, names, persist, patience, history: History::default() }
    }

    /// Returns the store with these limits for its history.
    #[must_use]
    pub fn keeping(self, history: History) -> Embedded<F> {
        Embedded { history, ..self }
    }

    /// Returns the durable file: `<file>`.
    fn durable(&self) -> LeaseFile {
        LeaseFile {
            path: self.names.durable().to_owned(),
            lock: self.names.lock(),
            flush: Flush::ToDisk,
            persist: Persist::Disk,
        }
    }

    /// Returns the boot file of the current boot. Fails if the boot ID cannot be read, because the name of
    /// the file contains the boot ID.
    fn of_boot(&self, cx: &Context) -> Result<LeaseFile> {
        let boot = cx.boot.as_ref().ok_or_else(|| StoreError::Unavailable {
            doing: "read".to_owned(),
            place: "the boot ID".to_owned(),
            source: "without the boot ID, sublet cannot determine which leases belong to this boot; check \
                     that /proc is mounted".into(),
        })?;
        Ok(LeaseFile {
            path: self.names.boot(boot),
            lock: self.names.boot_lock(),
            flush: Flush::Never,
            persist: Persist::Boot,
        })
    }

    /// Returns the boot file of the current boot. If the boot ID is unknown, returns `None` if there are no
    /// boot files, otherwise an error. A host that uses only `persist: disk` therefore works without a boot
    /// ID.
    fn of_boot_if_any(&self, cx: &Context) -> Result<Option<LeaseFile>> {
        if cx.boot.is_none() && self.boot_files()?.is_empty() {
            return Ok(None);
        }
        self.of_boot(cx).map(Some)
    }

    /// Returns the lease files that exist, in the order in which their locks are taken.
    fn lease_files(&self, cx: &Context) -> Result<Vec<LeaseFile>> {
        let mut files = vec![self.durable()];
        files.extend(self.of_boot_if_any(cx)?);
        let mut found = Vec::new();
        for file in files {
            found.extend(self.is_there(&file.path)?.then_some(file));
        }
        Ok(found)
    }

    /// Returns the lease files that exist. The file that the configuration's `persist` selects comes first.
    fn lease_files_own_first(&self, cx: &Context) -> Result<Vec<LeaseFile>> {
        let mut files = self.lease_files(cx)?;
        files.sort_by_key(|file| file.persist != self.persist);
        Ok(files)
    }

    fn is_there(&self, path: &Path) -> Result<bool> {
        let found = self.fs.find(path).map_err(|e| StoreError::io("look for", path, e))?;
        Ok(found.is_some())
    }

    fn lock(&self, file: &LeaseFile) -> Result<Lock<F>> {
        lock::take(&self.fs, &file.lock, &self.patience)
    }

    fn lock_to_read(&self, file: &LeaseFile) -> Result<Lock<F>> {
        files::lock_to_read(&self.fs, &file.lock, &self.patience)
    }

    fn make_folder(&self) -> Result<()> {
        let folder = self.names.folder();
        self.fs.make_folder(folder).map_err(|e| StoreError::io("create the folder", folder, e))
    }

    /// Runs an ADD, IMPORT or RESTORE in the home of the network or set, that is, in the file and set that
    /// already have its leases. The documentation of this module describes the rules.
    fn allocate(&self, command: &Command, set: &SetName, cx: &Context) -> Result<Plan> {
        self.make_folder()?;
        let durable = self.durable();
        let own = if self.persist == Persist::Disk {
            durable.clone()
        } else {
            self.refuse_shared_folder()?;
            self.of_boot(cx)?
        };
        {
            let lock = self.lock(&own)?;
            let settled = |tables: &Writable<'_, '_>| match command.network() {
                Some(network) => tables.has_network(set, network),
                None => tables.is_home(set),
            };
            if let Some(plan) = self.transact_if(&own, &lock, command, cx, &settled)? {
                return Ok(plan);
            }
        }
        // The network or set may have no lease yet. To create its first lease, take the first lock, and the
        // second lock if there may be a boot file. No other process can then create the first lease at the
        // same time.
        let mut files = vec![(self.lock(&durable)?, durable)];
        if let Some(boot) = self.of_boot_if_any(cx)?
            && (self.persist == Persist::Boot || self.is_there(&boot.path)?)
        {
            files.push((self.lock(&boot)?, boot));
        }
        files.sort_by_key(|(_, file)| file.persist != self.persist);
        let (at, home_set) = self.find_home(&files, command, set)?;
        let (lock, file) = files.swap_remove(at);
        if file.persist == Persist::Disk {
            // Creating and writing the durable file flushes it. A process must not flush while it holds the
            // second lock, so release the second lock first.
            drop(files);
        }
        self.create(&file, &lock, cx)?;
        let mut plan = if home_set == *set {
            self.transact(&file, &lock, command, cx)?
        } else {
            self.transact(&file, &lock, &command.clone().in_set(home_set.clone()), cx)?
        };
        if let Ok(Outcome::Added(added)) = &mut plan.outcome {
            added.warnings.extend(self.not_at_home(&file, &home_set, set));
        }
        Ok(plan)
    }

    /// Returns the index of the file and the set in which to allocate. If the network has leases, they
    /// determine the file and the set, even if `persist` or `shared` was changed. If the network has no
    /// leases, existing leases of the set determine the file. If the set has no leases either, the
    /// configuration applies: `set`, and the first of `files`, which must be the file that `persist` names.
    fn find_home(
        &self,
        files: &[(Lock<F>, LeaseFile)],
        command: &Command,
        set: &SetName,
    ) -> Result<(usize, SetName)> {
        if let Some(network) = command.network() {
            for (at, (lock, file)) in files.iter().enumerate() {
                let found = self.read(file, lock, |tables| tables.set_of_network(set, network))?;
                if let Some(set) = found.flatten() {
                    return Ok((at, set));
                }
            }
        }
        for (at, (lock, file)) in files.iter().enumerate() {
            if self.is_home(file, lock, set)? {
                return Ok((at, set.clone()));
            }
        }
        Ok((0, set.clone()))
    }

    /// Returns warnings about a network whose leases are not where the configuration says: one warning if
    /// they are in a different file, and one if they are in a different set.
    fn not_at_home(&self, home: &LeaseFile, home_set: &SetName, set: &SetName) -> Vec<String> {
        let mut warnings = Vec::new();
        if home.persist != self.persist {
            let word = |persist| if persist == Persist::Disk { "disk" } else { "boot" };
            warnings.push(format!(
                "network {home_set} has leases with \"persist\": \"{}\" in {}, so this lease is stored in the \
                 same file; \"{}\" takes effect when the network has no leases",
                word(home.persist),
                home.path.display(),
                word(self.persist)
            ));
        }
        if home_set != set {
            warnings.push(format!(
                "the network has leases under the name {home_set}, so this lease is stored under the same \
                 name; the new \"shared\" ({set}) takes effect when the network has no leases"
            ));
        }
        warnings
    }

    /// Refuses boot leases on a network file system. Other machines could read them and mistake them for
    /// leases of their own boot.
    fn refuse_shared_folder(&self) -> Result<()> {
        let folder = self.names.folder();
        match self.fs.is_shared(folder) {
            Ok(true) => Err(StoreError::SharedFolder { path: folder.to_owned() }),
            Ok(false) => Ok(()),
            Err(e) => Err(StoreError::io("determine the file system of", folder, e)),
        }
    }

    fn is_home(&self, file: &LeaseFile, lock: &Lock<F>, set: &SetName) -> Result<bool> {
        let found = self.read(file, lock, |tables| tables.is_home(set))?;
        Ok(found.unwrap_or(false))
    }

    /// Creates a lease file if it is missing. The caller holds the lock of the lease file.
    fn create(&self, file: &LeaseFile, lock: &Lock<F>, cx: &Context) -> Result<()> {
        if self.is_there(&file.path)? {
            return Ok(());
        }
        // The lock file may contain a header note (a copy of a lease file's header). The note describes an
        // earlier file that was moved away, and not the new file, so remove the note.
        backend::forget_note(lock, &file.path)?;
        files::create(&self.fs, &file.path, |new, name| {
            database::write_new::<F>(new, name, file.flush, |tables| {
                use self::view::KvMut;
                if file.persist == Persist::Boot {
                    let begun = codec::seal(keys::BEGUN, &cx.now);
                    tables.kv.put(keys::BEGUN, &begun)?;
                    let machine = codec::seal(keys::MACHINE, &cx.node.machine.as_bytes());
                    tables.kv.put(keys::MACHINE, &machine)?;
                }
                Ok(())
            })
        })?;
        match file.persist {
            Persist::Disk => files::sync_names(&self.fs, &file.path),
            Persist::Boot => {
                self.remove_earlier(cx);
                Ok(())
            }
        }
    }

    fn read<T>(
        &self,
        file: &LeaseFile,
        lock: &Lock<F>,
        work: impl FnOnce(&database::Looked<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        database::read(&self.fs, &file.path, Some(lock), &self.patience, work)
    }

    /// Runs one command in one file. The file must exist, and the caller holds its lock.
    fn transact(
        &self,
        file: &LeaseFile,
        lock: &Lock<F>,
        command: &Command,
        cx: &Context,
    ) -> Result<Plan> {
        let plan = self.transact_if(file, lock, command, cx, &|_| Ok(true))?;
        plan.ok_or_else(|| {
            let gone = std::io::ErrorKind::NotFound.into();
            StoreError::io("open the lease store", &file.path, gone)
        })
    }

    /// Runs the command if `condition` returns true; otherwise returns `None`.
    fn transact_if(
        &self,
        file: &LeaseFile,
        lock: &Lock<F>,
        command: &Command,
        cx: &Context,
        condition: &dyn Fn(&Writable<'_, '_>) -> Result<bool>,
    ) -> Result<Option<Plan>> {
        let refused = Cell::new(None);
        let carried = RefCell::new(Vec::new());
        let earlier = |set: &SetName, pod: &PodKey, range| {
            let addr = self.earlier_former(set, pod, range, cx)?;
            carried.borrow_mut().push(Change::Sticky(set.clone(), pod.clone(), range, addr));
            Some(addr)
        };
        let ask: Option<&Former<'_>> =
            if file.persist == Persist::Boot { Some(&earlier) } else { None };
        let work = |tables: &mut Writable<'_, '_>| {
            if !condition(tables)? {
                return Ok(ControlFlow::Break(None));
            }
            if asks_for_addresses(command) {
                self.use_reservations(command, tables)?;
            }
            let mut plan = run_in_all_sets(command, tables, cx)?;
            // If this ADD leased a pod's former address, and the address was found in the previous boot's
            // file, copy the record into this boot's file. The next boot will look only in this boot's file.
            let mut carried = carried.take();
            carried.retain(|change| match (change, &plan.outcome) {
                (Change::Sticky(.., addr), Ok(Outcome::Added(added))) => {
                    added.created.contains(addr)
                }
                _ => false,
            });
            plan.changes.extend(carried);
            let counted = alloc::counted(command, &plan, cx, file.flush == Flush::Never);
            if counted.is_none() && plan.changes.is_empty() && !is_step(&plan) {
                return Ok(ControlFlow::Break(Some(plan)));
            }
            if plan.outcome.is_err() {
                refused.set(Some(plan.clone()));
            }
            self.make(&plan.changes, command, tables, cx)?;
            if is_step(&plan) {
                self.collect(command.clone(), &mut plan, tables, cx)?;
            }
            if let Some(request) = counted {
                history::count(tables, &request)?;
            }
            Ok(ControlFlow::Continue(Some(plan)))
        };
        let (path, flush) = (&file.path, file.flush);
        match database::write(&self.fs, path, flush, lock, &self.patience, ask, work) {
            // If the counter of a refusal cannot be written, the refusal is still returned.
            Err(error) => refused.take().map_or(Err(error), |plan| Ok(Some(plan))),
            Ok(plan) => Ok(plan.flatten()),
        }
    }

    /// Refreshes the lease file's copy of the policy if the copy is outdated. Passes two parts of the policy
    /// to `tables`: the draining ranges, and the reservations for the name of the command's container.
    fn use_reservations(&self, command: &Command, tables: &mut Writable<'_, '_>) -> Result<()> {
        let path = self.names.policy();
        let header = policy::header(&self.fs, &path)?;
        let is_current = header.nonce == tables.policy_nonce()?;
        let name = match command {
            Command::Add(add) if header.has_names => StaticName::of(&add.origin),
            _ => None,
        };
        if is_current && name.is_none() && !header.is_draining {
            return Ok(());
        }
        let mut policy = Policy::read(&self.fs, &path)?;
        if !is_current {
            tables.refresh_reservations(&policy)?;
        }
        policy.entries.retain(|entry| name.is_some() && entry.name == name);
        tables.use_named(policy.entries, policy.draining);
        Ok(())
    }

    /// Applies the changes of a plan, and records their events in the history.
    fn make(
        &self,
        all: &[Change],
        command: &Command,
        tables: &mut Writable<'_, '_>,
        cx: &Context,
    ) -> Result<()> {
        let mut events = Vec::new();
        for change in all {
            if changes::make(tables, change, cx.now)? {
                events.extend(alloc::event(change, command, cx));
            }
        }
        history::append(tables, &events, self.history, cx.now)
    }

    /// Runs the remaining steps of a command that frees many leases, in the same transaction. The outcome of
    /// `plan` then contains the addresses that all steps freed.
    fn collect(
        &self,
        mut command: Command,
        plan: &mut Plan,
        tables: &mut Writable<'_, '_>,
        cx: &Context,
    ) -> Result<()> {
        let mut all = Vec::new();
        while let Ok(Outcome::Collected(step)) = &mut plan.outcome {
            all.append(&mut step.freed);
            if step.done {
                step.freed = all;
                break;
            }
            command.resume(step.after.take());
            let next = alloc::run(&command, tables, cx)?;
            self.make(&next.changes, &command, tables, cx)?;
            plan.outcome = next.outcome;
        }
        Ok(())
    }

    /// Runs a pool command. Pools and their leases are always in the durable file.
    fn serve_pool(&self, command: &Command, cx: &Context) -> Result<Plan> {
        let file = self.durable();
        if !self.is_there(&file.path)? {
            let makes = matches!(
                command,
                Command::RequestPool(_) | Command::AdoptPool(_) | Command::Restore(_)
            );
            if !makes {
                return alloc::run(command, &Tables::new(Made::default(), &file.path), cx);
            }
            self.make_folder()?;
        }
        let lock = self.lock(&file)?;
        self.create(&file, &lock, cx)?;
        self.transact(&file, &lock, command, cx)
    }

    /// Runs a DEL, GC or EXPORT in each file that exists.
    fn free(&self, command: &Command, cx: &Context) -> Result<Plan> {
        // Start with the outcome for a store without any files.
        let nothing = Tables::new(Made::default(), self.names.durable());
        let mut all = match alloc::run(command, &nothing, cx)?.outcome {
            Ok(outcome) => outcome,
            refused => return Ok(Plan { changes: Vec::new(), outcome: refused }),
        };
        for file in self.lease_files_own_first(cx)? {
            let lock = self.lock(&file)?;
            let Some(plan) = self.transact_if(&file, &lock, command, cx, &|_| Ok(true))? else {
                continue;
            };
            if let (Command::Gc(gc), Outcome::Collected(all)) = (command, &mut all) {
                all.freed.extend(self.collect_in_other_sets(&file, &lock, gc, cx)?);
            }
            match (&mut all, plan.outcome) {
                (_, Ok(Outcome::ReadLegacy)) => {}
                (Outcome::Freed(_) | Outcome::ReadLegacy, Ok(Outcome::Freed(freed))) => {
                    let done = !freed.is_empty();
                    all = Outcome::Freed(freed);
                    if done {
                        break;
                    }
                }
                (Outcome::Collected(all), Ok(Outcome::Collected(more))) => {
                    all.freed.extend(more.freed);
                }
                // Only the file with a range set's leases has a cursor for the range set, so keep the cursor
                // that was found.
                (Outcome::Exported(all), Ok(Outcome::Exported(more))) => {
                    for (all, more) in all.iter_mut().zip(more) {
                        *all = all.or(more);
                    }
                }
                (_, outcome) => {
                    return Ok(Plan { changes: Vec::new(), outcome });
                }
            }
        }
        Ok(Plan::only(all))
    }

    /// Runs a GC in every set of leases in a file, except the set that the configuration names. If `shared`
    /// was changed, one of these sets has the network's older leases.
    #[allow(
        clippy::redundant_closure_for_method_calls,
        reason = "a path to `Tables::sets` has a fixed lifetime"
    )]
    fn collect_in_other_sets(
        &self,
        file: &LeaseFile,
        lock: &Lock<F>,
        gc: &Gc,
        cx: &Context,
    ) -> Result<Vec<Addr>> {
        let mut all = Vec::new();
        let sets = self.read(file, lock, |tables| tables.sets())?.unwrap_or_default();
        for set in sets.into_iter().filter(|set| *set != gc.set && !set.is_pools()) {
            let command = Command::Gc(Gc { set, ..gc.clone() });
            let plan = self.transact(file, lock, &command, cx)?;
            if let Ok(Outcome::Collected(step)) = plan.outcome {
                all.extend(step.freed);
            }
        }
        Ok(all)
    }

    /// Runs CHECK, STATUS and dry runs. They write nothing, so a read-only store is enough.
    fn look(&self, command: &Command, cx: &Context) -> Result<Plan> {
        let mut files = self.lease_files_own_first(cx)?;
        let mut policy = None;
        if asks_for_addresses(command) {
            if self.persist == Persist::Boot && self.is_there(self.names.folder())? {
                self.refuse_shared_folder()?;
                self.of_boot(cx)?;
            }
            policy = Some(Policy::read(&self.fs, &self.names.policy())?);
            files = self.home(command.set(), files)?.into_iter().collect();
        }
        let mut answer = None;
        for file in &files {
            let lock = self.lock_to_read(file)?;
            let plan = self.read(file, &lock, |tables| {
                if let Some(policy) = &policy {
                    tables.use_policy(policy.clone());
                }
                run_in_all_sets(command, tables, cx)
            })?;
            match plan {
                Some(plan) if matches!(plan.outcome, Err(Refusal::Missing { .. })) => {
                    answer = Some(plan);
                }
                Some(plan) => return Ok(plan),
                None => {}
            }
        }
        let nothing = Tables::new(Made::default(), self.names.durable());
        if let Some(policy) = policy {
            nothing.use_policy(policy);
        }
        answer.map_or_else(|| alloc::run(command, &nothing, cx), Ok)
    }

    /// Returns the file in which an ADD would store its lease; `None` if that file does not exist yet.
    fn home(&self, set: Option<&SetName>, files: Vec<LeaseFile>) -> Result<Option<LeaseFile>> {
        // Pools are in the durable file.
        let Some(set) = set else {
            return Ok(files.into_iter().find(|file| file.persist == Persist::Disk));
        };
        for file in &files {
            let lock = self.lock_to_read(file)?;
            if self.is_home(file, &lock, set)? {
                return Ok(Some(file.clone()));
            }
        }
        Ok(files.into_iter().find(|file| file.persist == self.persist))
    }
}

impl<F: FileSystem> Store for Embedded<F> {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.patience.renew();
        let plan = match (command, command.set()) {
            (Command::Restore(restore), _) => self.restore(command, restore, cx)?,
            (Command::Reserve(reserve), _) => self.reserve(reserve, false, cx)?,
            (Command::ReserveContested(reserve), _) => self.reserve(reserve, true, cx)?,
            (Command::Unreserve(unreserve), _) => self.unreserve(unreserve, cx)?,
            (Command::Drain(drain), _) => self.drain(drain, cx)?,
            _ if command.only_looks() => self.look(command, cx)?,
            (_, None) => self.serve_pool(command, cx)?,
            (Command::Add(_) | Command::Import(_), Some(set)) => self.allocate(command, set, cx)?,
            _ => self.free(command, cx)?,
        };
        plan.outcome.map_err(Error::Refused)
    }

    fn repair(&mut self, cx: &Context) -> Result<Repair> {
        self.repair_files(cx)
    }
}

/// Runs the allocator for one command. A DEL or CHECK of a container also searches the other sets of leases,
/// because `shared` may have been changed since the container was started.
fn run_in_all_sets<K: Kv>(command: &Command, tables: &Tables<'_, K>, cx: &Context) -> Result<Plan> {
    let mut plan = alloc::run(command, tables, cx)?;
    let is_of_container = match command {
        Command::Del(del) => matches!(
            del.target,
            Target::Owner(Owner::Attachment(_)) | Target::Some(Owner::Attachment(_), _)
        ),
        Command::Check(_) => matches!(plan.outcome, Err(Refusal::Missing { .. })),
        _ => false,
    };
    let Some(set) = command.set().filter(|_| is_of_container) else { return Ok(plan) };
    for other in tables.sets()?.into_iter().filter(|other| other != set && !other.is_pools()) {
        let more = alloc::run(&command.clone().in_set(other), tables, cx)?;
        match (&mut plan.outcome, more.outcome) {
            (Ok(Outcome::Freed(all)), Ok(Outcome::Freed(freed))) => {
                all.extend(freed);
                plan.changes.extend(more.changes);
            }
            (Err(Refusal::Missing { .. }), outcome) => plan.outcome = outcome,
            _ => {}
        }
    }
    Ok(plan)
}

/// Returns whether a command allocates addresses or checks whether it could, and therefore needs the
/// reservations.
fn asks_for_addresses(command: &Command) -> bool {
    matches!(
        command,
        Command::Add(_)
            | Command::Status(_)
            | Command::Import(_)
            | Command::Restore(_)
            | Command::RequestAddress(_)
    )
}

/// Returns whether a plan is only one step of a command that needs more steps.
fn is_step(plan: &Plan) -> bool {
    matches!(&plan.outcome, Ok(Outcome::Collected(step)) if !step.done)
}
