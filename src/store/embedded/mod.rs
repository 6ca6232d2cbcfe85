//! The embedded store: leases in files on this host.
//!
//! Owns: which of the two files a command goes to, and the locks. Does not own: which address
//! (`alloc`), transactions (`redb`), how files come to be (`files`, `boot`).
//! Invariant: leases of one set are in one of the two files, never in both. Locks are taken in the
//! order `<file>.lock`, `<file>.keep.lock`.

mod backend;
mod between;
mod boot;
mod changes;
mod check;
pub mod convert;
pub mod database;
#[cfg(test)]
mod database_test;
mod examine;
mod files;
mod history;
pub mod keys;
pub mod lock;
mod occupancy;
mod pages;
mod pools;
mod queue;
mod records;
mod repair;
pub mod view;
mod walk;

use std::cell::Cell;
use std::ops::ControlFlow;
use std::path::PathBuf;

use self::backend::Flush;
use self::boot::Mark;
use self::database::Writer;
use self::files::{Content, Files};
use self::lock::{Lock, Patience};
use self::view::{Kv, KvMut, Tables};
use super::{EachOccupied, EachRecord, EventFilter, Problem, Repair, Store, StoreReader, codec};
use crate::alloc;
use crate::alloc::{Change, Command, Context, NetworkRanges, Outcome, Plan};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{BootId, Counter, Event, History, Kind, Lease, Persist, Pool, SetName, Wait};

use between::{Nothing, copy_others, copy_outliving, leave, unsettled};

/// Leases in a file on this host.
#[derive(Debug)]
pub struct Embedded {
    files: Files,
    persist: Persist,
    patience: Patience,
    history: History,
}

/// One of the two files, as this command sees it.
struct Place {
    path: PathBuf,
    flush: Flush,
}

impl Embedded {
    /// The store at `path`; nothing is touched yet.
    pub fn new(path: PathBuf, persist: Persist, wait: Wait) -> Embedded {
        let patience = Patience::new(wait);
        Embedded { files: Files::new(path), persist, patience, history: History::default() }
    }

    /// The same, with as much history.
    #[must_use]
    pub fn keeping(self, history: History) -> Embedded {
        Embedded { history, ..self }
    }

    fn boot_place(&self) -> Place {
        Place { path: self.files.boot_leases().to_owned(), flush: Flush::Never }
    }

    fn keep_place(&self) -> Place {
        Place { path: self.files.keep(), flush: Flush::ToDisk }
    }

    /// The boot whose leases this call may give and judge; `None`: all is kept on disk.
    fn boot<'c>(&self, cx: &'c Context) -> Option<&'c BootId> {
        cx.boot.as_ref().filter(|_| !files::is_shared(&self.files.folder()))
    }

    /// The boot, if new leases go with it.
    fn target<'c>(&self, cx: &'c Context) -> Option<&'c BootId> {
        self.boot(cx).filter(|_| self.persist == Persist::Boot)
    }

    /// The files that exist and count now, the one that new leases go to first. Where the boot
    /// cannot be known, the boot leases may live, and count.
    fn places(&self, cx: &Context) -> Result<Vec<Place>, StoreError> {
        let mut places = vec![self.keep_place()];
        if self.boot_leases_live(cx)? {
            places.insert(usize::from(self.target(cx).is_none()), self.boot_place());
        }
        places.retain(|p| p.path.exists());
        Ok(places)
    }

    fn boot_leases_live(&self, cx: &Context) -> Result<bool, StoreError> {
        match self.boot(cx) {
            Some(boot) => self.is_current(boot, cx),
            None => Ok(self.files.boot_leases().exists()),
        }
    }

    fn is_current(&self, boot: &BootId, cx: &Context) -> Result<bool, StoreError> {
        Ok(match boot::read(&self.files, boot, cx)? {
            Mark::Current => true,
            Mark::Ended | Mark::Others(_) => false,
            Mark::Absent => self.judge(boot, cx)?,
        })
    }

    /// A store without a mark: made by a process that was killed before it leased anything, or
    /// somebody removed the mark. Its first lease tells.
    fn judge(&self, boot: &BootId, cx: &Context) -> Result<bool, StoreError> {
        let path = self.files.boot_leases();
        let mut first: Option<Lease> = None;
        let opened = database::look(path, None, |tables| {
            tables.leases(None, &mut |lease| {
                // Reservations were copied here; they tell nothing of the boot.
                first = (lease.kind != Kind::Reserved).then_some(lease);
                first.is_none()
            })
        })?;
        let ours = |l: &Lease| l.node.machine == cx.node.machine && l.boot.as_ref() != Some(boot);
        Ok(opened.is_some() && !first.as_ref().is_some_and(ours))
    }

    /// Sees to it that the boot leases' file is there and of this boot.
    fn begin_boot(&self, boot: &BootId, cx: &Context) -> Result<(), StoreError> {
        let path = self.files.boot_leases();
        let mark = boot::read(&self.files, boot, cx)?;
        match mark {
            Mark::Current if path.exists() => return Ok(()),
            // A power cut may have left anything of what was ours; but a file that never was ours
            // stays where it is.
            Mark::Ended | Mark::Others(_) => {
                let content = files::probe(path, false)?.map(|(_, content)| content);
                if matches!(content, Some(Content::Bolt | Content::Folder)) {
                    files::open(path, false)?;
                }
            }
            Mark::Absent if path.exists() => {
                if self.judge(boot, cx)? {
                    return boot::write(&self.files, boot, false, cx);
                }
            }
            Mark::Current | Mark::Absent => {}
        }
        let keep = self.keep_place();
        let _lock =
            keep.path.exists().then(|| files::lock(&keep.path, &self.patience)).transpose()?;
        // Who began before us may have been killed, or its power cut, while no store had the name:
        // what it carried over lies ready in the next one.
        let next = self.files.next_boot();
        let from = if path.exists() { path } else { &next };
        let carried = match &mark {
            Mark::Others(ended) => Some(ended.as_ref()),
            Mark::Current => Some(None),
            Mark::Ended | Mark::Absent => None,
        };
        // What others hold has to outlive a power cut; what is ours ends with it.
        let flush = if carried.is_some() { Flush::ToDisk } else { Flush::Never };
        let mut others = false;
        database::create(&next, flush, |tables| {
            copy_outliving(&keep.path, tables)?;
            tables.kv.put(keys::BEGUN, &codec::number(keys::BEGUN, cx.now))?;
            if let Some(ended) = carried {
                others = copy_others(from, ended, tables, cx)?;
            }
            Ok(())
        })?;
        boot::replace(&self.files, boot, others, cx)
    }

    /// Makes the file that outlives a boot, under its lock.
    fn make_keep(&self, lock: &Lock) -> Result<(), StoreError> {
        // What a holder of the lock vouched for was in another file.
        lock.leave_note(&[]);
        database::create(&self.files.keep(), Flush::ToDisk, |_| Ok(()))
    }

    /// ADD and IMPORT: in the file that new leases go to, which is made if it is not there.
    fn give(&self, command: &Command, cx: &Context) -> Result<Plan, StoreError> {
        self.files.make_folder()?;
        let (boot_place, keep_place) = (self.boot_place(), self.keep_place());
        let Some(set) = command.set() else { return self.serve_pool(command, cx) };
        if let Some(boot) = self.target(cx) {
            let lock = files::lock(&boot_place.path, &self.patience)?;
            self.begin_boot(boot, cx)?;
            let arrive = |tables: &mut Tables<'_, Writer<'_, '_>>| {
                if keep_place.path.exists() {
                    let lock = files::lock(&keep_place.path, &self.patience)?;
                    leave(set, &keep_place, &lock, "disk")?;
                    copy_outliving(&keep_place.path, tables)?;
                }
                Ok(true)
            };
            return self.transact(&boot_place, &lock, command, cx, &arrive)?.ok_or_else(unsettled);
        }
        {
            let lock = files::lock(&keep_place.path, &self.patience)?;
            if !keep_place.path.exists() {
                self.make_keep(&lock)?;
            }
            // No boot file, no boot lease; one that is made from now on asks for this lock before it
            // takes the set.
            let arrive = |_: &mut Tables<'_, Writer<'_, '_>>| Ok(!boot_place.path.exists());
            if let Some(plan) = self.transact(&keep_place, &lock, command, cx, &arrive)? {
                return Ok(plan);
            }
        }
        // A set's first lease here: the other file is looked at too, and locked first.
        let boot_lock = files::lock(&boot_place.path, &self.patience)?;
        let lock = files::lock(&keep_place.path, &self.patience)?;
        let arrive = |_: &mut Tables<'_, Writer<'_, '_>>| {
            if boot_place.path.exists() && self.boot_leases_live(cx)? {
                leave(set, &boot_place, &boot_lock, "boot")?;
            }
            Ok(true)
        };
        self.transact(&keep_place, &lock, command, cx, &arrive)?.ok_or_else(unsettled)
    }

    /// RESERVE: with the leases of the set, wherever they are, for an address has one holder; and in
    /// the file that outlives a boot in any case.
    fn set_aside(
        &self,
        command: &Command,
        set: &SetName,
        cx: &Context,
    ) -> Result<Plan, StoreError> {
        self.files.make_folder()?;
        let (boot_place, keep_place) = (self.boot_place(), self.keep_place());
        // Nobody can make the other file the set's home meanwhile.
        let boot_lock = files::lock(&boot_place.path, &self.patience)?;
        let settled = |_: &mut Tables<'_, Writer<'_, '_>>| Ok(true);
        if boot_place.path.exists() && self.boot_leases_live(cx)? {
            let home = database::look(&boot_place.path, Some(&boot_lock), |tables| {
                tables.kv.get(&keys::home(set))
            })?;
            if home.flatten().is_some() {
                let plan = self.transact(&boot_place, &boot_lock, command, cx, &settled)?;
                return plan.ok_or_else(unsettled);
            }
        }
        let lock = files::lock(&keep_place.path, &self.patience)?;
        if !keep_place.path.exists() {
            self.make_keep(&lock)?;
        }
        self.transact(&keep_place, &lock, command, cx, &settled)?.ok_or_else(unsettled)
    }

    /// One command in one file, which exists and is locked. Before the first lease of a set in this
    /// file `arrive` takes it away from the other; where it cannot, it answers `false`, and nothing
    /// is done.
    fn transact(
        &self,
        place: &Place,
        lock: &Lock,
        command: &Command,
        cx: &Context,
        arrive: &dyn Fn(&mut Tables<'_, Writer<'_, '_>>) -> Result<bool, StoreError>,
    ) -> Result<Option<Plan>, StoreError> {
        let home = command.set().filter(|_| gives(command)).map(keys::home);
        let refused = Cell::new(None);
        let done = database::write(&place.path, place.flush, lock, |tables| {
            if let Some(home) = &home
                && tables.kv.get(home)?.is_none()
            {
                if !arrive(tables)? {
                    return Ok(ControlFlow::Break(None));
                }
                tables.kv.put(home, &[])?;
            }
            let mut plan = alloc::run(command, tables, cx)?;
            let counted = alloc::counted(command, &plan, cx, place.flush == Flush::Never);
            if counted.is_none() && plan.changes.is_empty() && !is_step(&plan) {
                return Ok(ControlFlow::Break(Some(plan)));
            }
            if plan.outcome.is_err() {
                refused.set(Some(plan.clone()));
            }
            self.make(&plan.changes, command, tables, cx)?;
            if place.flush == Flush::Never {
                self.keep(&plan.changes, cx)?;
            }
            if is_step(&plan) {
                self.collect(command.clone(), &mut plan, tables, cx)?;
            }
            // Last, for the sake of the time.
            if let Some((set, face, verb, ending)) = counted {
                history::count(tables, &set, face, verb, ending, self.patience.lap())?;
            }
            Ok(ControlFlow::Continue(Some(plan)))
        });
        // A refusal stands, though it could not be counted.
        done.or_else(|error| refused.take().map_or(Err(error), |plan| Ok(Some(plan))))
    }

    /// Makes changes, and remembers what they were.
    fn make(
        &self,
        all: &[Change],
        command: &Command,
        tables: &mut Tables<'_, Writer<'_, '_>>,
        cx: &Context,
    ) -> Result<(), StoreError> {
        let mut events = Vec::new();
        for change in all {
            if changes::make(tables, change, cx.now)? {
                events.extend(alloc::event(change, command, cx));
            }
        }
        history::append(tables, &events, self.history, cx.now)
    }

    /// The further steps of a command, in the same transaction.
    fn collect(
        &self,
        mut command: Command,
        plan: &mut Plan,
        tables: &mut Tables<'_, Writer<'_, '_>>,
        cx: &Context,
    ) -> Result<(), StoreError> {
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

    /// Writes those of the changes that outlive the boot where they do; before the boot file's
    /// commit, so that none is lost.
    fn keep(&self, all: &[Change], cx: &Context) -> Result<(), StoreError> {
        let outliving: Vec<&Change> = all.iter().filter(|c| changes::outlives_boot(c)).collect();
        if outliving.is_empty() {
            return Ok(());
        }
        let place = self.keep_place();
        let lock = files::lock(&place.path, &self.patience)?;
        if !place.path.exists() {
            self.make_keep(&lock)?;
        }
        database::write(&place.path, place.flush, &lock, |tables| {
            for change in &outliving {
                // A reservation may be there from an earlier boot already, with another note, or be
                // gone.
                let here = match change {
                    Change::Put(l) => {
                        tables.lease(&l.set, l.addr)?.is_none_or(|there| there.owner == l.owner)
                    }
                    Change::Free { lease: l, .. } => tables.lease(&l.set, l.addr)?.is_some(),
                    _ => true,
                };
                if here {
                    changes::make(tables, change, cx.now)?;
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Whatever is about a pool: pools and their leases outlive a boot, so they are in the file that
    /// does, and nowhere else.
    fn serve_pool(&self, command: &Command, cx: &Context) -> Result<Plan, StoreError> {
        let place = self.keep_place();
        if !place.path.exists() {
            let makes = matches!(
                command,
                Command::RequestPool(_) | Command::AdoptPool(_) | Command::Restore(_)
            );
            if !makes {
                return alloc::run(command, &Tables { kv: Nothing, path: &place.path }, cx);
            }
            self.files.make_folder()?;
        }
        let lock = files::lock(&place.path, &self.patience)?;
        if !place.path.exists() {
            self.make_keep(&lock)?;
        }
        self.transact(&place, &lock, command, cx, &|_| Ok(true))?.ok_or_else(unsettled)
    }

    /// DEL, GC, UNRESERVE and HANDBACK: wherever leases are; the set's own file first.
    fn take(&self, command: &Command, cx: &Context) -> Result<Plan, StoreError> {
        // What would come of it without any store.
        let nothing = Tables { kv: Nothing, path: self.files.boot_leases() };
        let mut all = match alloc::run(command, &nothing, cx)?.outcome {
            Ok(outcome) => outcome,
            refused => return Ok(Plan { changes: Vec::new(), outcome: refused }),
        };
        for place in self.places(cx)? {
            let lock = files::lock(&place.path, &self.patience)?;
            let plan = self.transact(&place, &lock, command, cx, &|_| Ok(false))?;
            let Some(plan) = plan else { continue };
            match (&mut all, plan.outcome) {
                (_, Ok(Outcome::ReadLegacy)) => {}
                // A reservation may be in one file, another in the other.
                (Outcome::Freed(all), Ok(Outcome::Freed(freed)))
                    if matches!(command, Command::Unreserve(_)) =>
                {
                    all.extend(freed);
                }
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
                // A range set's cursor is in the file that has the set's leases.
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

    /// CHECK and STATUS: without a write, even of a store that cannot be written.
    fn look(&self, command: &Command, cx: &Context) -> Result<Plan, StoreError> {
        let places = self.places(cx)?;
        // Pools outlive a boot in any case.
        let boot = self.target(cx).is_some() && command.set().is_some();
        let target = if boot { self.boot_place() } else { self.keep_place() };
        let mut answer = None;
        for place in &places {
            // What could be given depends on the file that gives; what is held may be in either.
            let giver_alone =
                matches!(command, Command::Status(_) | Command::Import(_) | Command::Restore(_));
            if giver_alone && place.path != target.path {
                continue;
            }
            let lock = files::lock_to_look(&place.path, &self.patience)?;
            let plan =
                database::look(&place.path, Some(&lock), |tables| alloc::run(command, tables, cx))?;
            let missing = |p: &Plan| matches!(p.outcome, Err(Refusal::Missing { .. }));
            if let Some(plan) = plan {
                if !missing(&plan) {
                    return Ok(plan);
                }
                answer = Some(plan);
            }
        }
        match answer {
            Some(plan) => Ok(plan),
            None => alloc::run(command, &Tables { kv: Nothing, path: &target.path }, cx),
        }
    }
}

impl Store for Embedded {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        self.patience.renew();
        if let Command::Restore(restore) = command {
            return self.restore(command, restore.persist, cx)?.outcome.map_err(Error::Refused);
        }
        let plan = if command.only_looks() {
            self.look(command, cx)?
        } else if command.set().is_none() {
            self.serve_pool(command, cx)?
        } else if let Command::Reserve(reserve) = command {
            self.set_aside(command, &reserve.set, cx)?
        } else if gives(command) {
            self.give(command, cx)?
        } else {
            self.take(command, cx)?
        };
        plan.outcome.map_err(Error::Refused)
    }

    fn repair(&mut self, cx: &Context) -> Result<Repair, StoreError> {
        self.mend(cx)
    }
}

impl StoreReader for Embedded {
    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        self.walk_leases(cx, each)
    }

    fn occupancy(&mut self, cx: &Context, each: &mut EachOccupied<'_>) -> Result<(), StoreError> {
        self.walk_taken(cx, each)
    }

    fn networks(&mut self, cx: &Context) -> Result<Vec<NetworkRanges>, StoreError> {
        self.walk_networks(cx)
    }

    fn history(
        &mut self,
        cx: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError> {
        self.walk_history(cx, filter)
    }

    fn problems(&mut self, cx: &Context, each: &mut dyn FnMut(Problem)) -> Result<(), StoreError> {
        self.examine(cx, each)
    }

    fn counters(&mut self, cx: &Context) -> Result<Vec<Counter>, StoreError> {
        self.walk_counters(cx)
    }

    fn pools(&mut self) -> Result<Vec<Pool>, StoreError> {
        self.patience.renew();
        let place = self.keep_place();
        if !place.path.exists() {
            return Ok(Vec::new());
        }
        let lock = files::lock_to_look(&place.path, &self.patience)?;
        #[allow(clippy::redundant_closure, reason = "the function is not general enough by itself")]
        let all = database::look(&place.path, Some(&lock), |tables| pools::all(tables))?;
        Ok(all.unwrap_or_default())
    }

    fn records(&mut self, cx: &Context, each: &mut EachRecord<'_>) -> Result<(), Error> {
        self.patience.renew();
        self.tell_records(cx, each)
    }
}

/// Whether it leases something, and makes the set this file's.
fn gives(command: &Command) -> bool {
    matches!(command, Command::Add(_) | Command::Import(_) | Command::Restore(_))
}

/// Whether a command has steps to go.
fn is_step(plan: &Plan) -> bool {
    matches!(&plan.outcome, Ok(Outcome::Collected(step)) if !step.done)
}
