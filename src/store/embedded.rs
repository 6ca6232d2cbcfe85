//! The embedded store: leases in files on this host.
//!
//! Owns: which of the two files a command goes to, and the locks. Does not own: which address
//! (`alloc`), transactions (`redb`), how files come to be (`files`, `boot`).
//! Invariant: leases of one set are in one of the two files, never in both. Locks are taken in the
//! order `<file>.lock`, `<file>.keep.lock`.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::backend::Flush;
use super::boot::{self, Mark};
use super::files::{self, Content, Files};
use super::redb::{self, Writer};
use super::view::{Each, Kv, KvMut, Tables};
use super::{Store, changes, keys};
use crate::alloc::{self, Change, Command, Context, Outcome, Plan};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{BootId, Kind, Lease, Persist, SetName, Wait};
use crate::net::Addr;

/// Leases in a file on this host.
#[derive(Debug)]
pub struct Embedded {
    files: Files,
    persist: Persist,
    wait: Wait,
}

/// One of the two files, as this command sees it.
struct Place {
    path: PathBuf,
    flush: Flush,
}

impl Embedded {
    /// The store at `path`; nothing is touched yet.
    pub fn new(path: PathBuf, persist: Persist, wait: Wait) -> Embedded {
        Embedded { files: Files::new(path), persist, wait }
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

    /// The files that exist and count now, the one that new leases go to first.
    fn places(&self, cx: &Context) -> Result<Vec<Place>, StoreError> {
        let mut places = vec![self.keep_place()];
        if let Some(boot) = self.boot(cx)
            && self.is_current(boot, cx)?
        {
            let at = usize::from(self.target(cx).is_none());
            places.insert(at, self.boot_place());
        }
        places.retain(|p| p.path.exists());
        Ok(places)
    }

    fn is_current(&self, boot: &BootId, cx: &Context) -> Result<bool, StoreError> {
        Ok(match boot::read(&self.files, boot, cx)? {
            Mark::Current => true,
            Mark::Ended => false,
            Mark::Absent => self.judge(boot, cx)?,
        })
    }

    /// A store without a mark: made by a process that was killed before it leased anything, or
    /// somebody removed the mark. Its first lease tells.
    fn judge(&self, boot: &BootId, cx: &Context) -> Result<bool, StoreError> {
        let path = self.files.boot_leases();
        let mut first: Option<Lease> = None;
        let opened = redb::look(path, |tables| {
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
        match boot::read(&self.files, boot, cx)? {
            Mark::Current if path.exists() => return Ok(()),
            // What is not ours stays where it is. What the ended boot left of ours does not
            // matter: a power cut may have left anything.
            Mark::Ended => {
                let content = files::probe(path, false)?.map(|(_, content)| content);
                if matches!(content, Some(Content::Bolt | Content::Folder)) {
                    files::open(path, false)?;
                }
            }
            Mark::Absent if path.exists() => {
                if self.judge(boot, cx)? {
                    return boot::write(&self.files, boot, cx);
                }
            }
            Mark::Current | Mark::Absent => {}
        }
        let keep = self.keep_place();
        let _lock = keep.path.exists().then(|| files::lock(&keep.path, self.wait)).transpose()?;
        // Made under another name first, so that the old one is missed for an instant only.
        let next = self.files.next_boot();
        redb::create(&next, |table| copy_outliving(&keep.path, table))?;
        boot::replace(&self.files)?;
        boot::write(&self.files, boot, cx)
    }

    /// ADD and RESERVE: in the file that new leases go to, which is made if it is not there.
    fn give(&self, command: &Command, cx: &Context) -> Result<Plan, StoreError> {
        self.files.make_folder()?;
        if let Some(boot) = self.target(cx) {
            let place = self.boot_place();
            let _lock = files::lock(&place.path, self.wait)?;
            self.begin_boot(boot, cx)?;
            return self.transact(&place, command, cx, &|| {
                self.leave_other(command, &self.keep_place(), "disk")
            });
        }
        let place = self.keep_place();
        {
            let _lock = files::lock(&place.path, self.wait)?;
            if !place.path.exists() {
                redb::create(&place.path, |_| Ok(()))?;
            }
            let home = keys::home(command.set());
            if redb::look(&place.path, |tables| Ok(tables.kv.get(&home)?.is_some()))? == Some(true)
            {
                return self.transact(&place, command, cx, &|| Ok(()));
            }
        }
        // A set's first lease here: the other file is looked at too, and locked first.
        let other = self.boot_place();
        let _other = files::lock(&other.path, self.wait)?;
        let _lock = files::lock(&place.path, self.wait)?;
        let current = match self.boot(cx) {
            Some(boot) => other.path.exists() && self.is_current(boot, cx)?,
            None => false,
        };
        self.transact(&place, command, cx, &|| {
            if current { leave_locked(command, &other, "boot") } else { Ok(()) }
        })
    }

    fn leave_other(
        &self,
        command: &Command,
        other: &Place,
        persist: &'static str,
    ) -> Result<(), StoreError> {
        if !other.path.exists() {
            return Ok(());
        }
        let _lock = files::lock(&other.path, self.wait)?;
        leave_locked(command, other, persist)
    }

    /// One command in one file, which exists and is locked. `arrive` is called before the first
    /// lease of a set in this file.
    fn transact(
        &self,
        place: &Place,
        command: &Command,
        cx: &Context,
        arrive: &dyn Fn() -> Result<(), StoreError>,
    ) -> Result<Plan, StoreError> {
        let gives = matches!(command, Command::Add(_) | Command::Reserve(_));
        let home = keys::home(command.set());
        redb::write(&place.path, place.flush, |tables| {
            let arriving = gives && tables.kv.get(&home)?.is_none();
            if arriving {
                arrive()?;
            }
            let plan = alloc::run(command, tables, cx)?;
            if plan.changes.is_empty() {
                return Ok(ControlFlow::Break(plan));
            }
            if arriving {
                tables.kv.put(&home, &[])?;
            }
            for change in &plan.changes {
                changes::make(tables, change, cx.now)?;
            }
            if place.flush == Flush::Never {
                self.keep(&plan.changes, cx)?;
            }
            Ok(ControlFlow::Continue(plan))
        })
    }

    /// Writes those of the changes that outlive the boot where they do; before the boot file's
    /// commit, so that none is lost.
    fn keep(&self, all: &[Change], cx: &Context) -> Result<(), StoreError> {
        let outliving: Vec<&Change> = all.iter().filter(|c| changes::outlives_boot(c)).collect();
        if outliving.is_empty() {
            return Ok(());
        }
        let place = self.keep_place();
        let _lock = files::lock(&place.path, self.wait)?;
        if !place.path.exists() {
            redb::create(&place.path, |_| Ok(()))?;
        }
        redb::write(&place.path, place.flush, |tables| {
            for change in &outliving {
                // A reservation may be there from an earlier boot already, or be gone.
                let there = match change {
                    Change::Put(l) | Change::Free { lease: l, .. } => {
                        Some(tables.lease(&l.set, l.addr)?.is_some())
                    }
                    _ => None,
                };
                match (change, there) {
                    (Change::Put(_), Some(true)) | (Change::Free { .. }, Some(false)) => {}
                    _ => changes::make(tables, change, cx.now)?,
                }
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// DEL and GC: wherever leases are; the set's own file first.
    fn take(&self, command: &Command, cx: &Context) -> Result<Plan, StoreError> {
        // What would come of it without any store.
        let nothing = Tables { kv: Nothing, path: self.files.boot_leases() };
        let mut all = match alloc::run(command, &nothing, cx)?.outcome {
            Ok(outcome) => outcome,
            refused => return Ok(Plan { changes: Vec::new(), outcome: refused }),
        };
        for place in self.places(cx)? {
            let _lock = files::lock(&place.path, self.wait)?;
            let plan = self.transact(&place, command, cx, &|| Ok(()))?;
            match (&mut all, plan.outcome) {
                (_, Ok(Outcome::ReadLegacy)) => {}
                (Outcome::Freed(_) | Outcome::ReadLegacy, Ok(Outcome::Freed(freed))) => {
                    let done = !freed.is_empty();
                    all = Outcome::Freed(freed);
                    if done {
                        break;
                    }
                }
                (
                    Outcome::Collected { freed: all, .. },
                    Ok(Outcome::Collected { freed: more, .. }),
                ) => all.extend(more),
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
        let target = if self.target(cx).is_some() { self.boot_place() } else { self.keep_place() };
        let mut answer = None;
        for place in &places {
            // What could be given depends on the file that gives; what is held may be in either.
            if matches!(command, Command::Status(_)) && place.path != target.path {
                continue;
            }
            let _lock = files::lock_to_look(&place.path, self.wait)?;
            let plan = redb::look(&place.path, |tables| alloc::run(command, tables, cx))?;
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
        let plan = match command {
            Command::Add(_) | Command::Reserve(_) => self.give(command, cx)?,
            Command::Del(_) | Command::Gc(_) => self.take(command, cx)?,
            Command::Check(_) | Command::Status(_) => self.look(command, cx)?,
        };
        plan.outcome.map_err(Error::Refused)
    }

    fn list(&mut self, cx: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        // A reservation is in both files.
        let mut reserved: Vec<(SetName, Addr)> = Vec::new();
        for place in self.places(cx)? {
            let _lock = files::lock_to_look(&place.path, self.wait)?;
            redb::look(&place.path, |tables| {
                tables.leases(None, &mut |lease| {
                    let key = (lease.set.clone(), lease.addr);
                    if lease.kind != Kind::Reserved {
                        each(lease);
                    } else if !reserved.contains(&key) {
                        reserved.push(key);
                        each(lease);
                    }
                    true
                })
            })?;
        }
        Ok(())
    }
}

/// Takes a set's home away from a file that holds no living lease of it. An address is known
/// in one file only, so a set with leases in both could give one twice.
fn leave_locked(command: &Command, other: &Place, persist: &'static str) -> Result<(), StoreError> {
    let set = command.set();
    let home = keys::home(set);
    let mut living = None;
    let found = redb::look(&other.path, |tables| {
        if tables.kv.get(&home)?.is_some() {
            tables.leases(Some(set), &mut |lease| {
                living = lease.kind.collectable().then_some(lease);
                living.is_none()
            })?;
            return Ok(true);
        }
        Ok(false)
    })?;
    if let Some(lease) = living {
        let (set, path) = (set.clone(), other.path.clone());
        return Err(StoreError::Moved { set, path, lease: Box::new(lease), persist });
    }
    if found == Some(true) {
        redb::write(&other.path, other.flush, |tables| {
            tables.kv.remove(&home).map(ControlFlow::Continue)
        })?;
    }
    Ok(())
}

/// A table with nothing in it: a store that is not there yet.
struct Nothing;

impl Kv for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(&self, _: &[u8], _: &[u8], _: &mut Each<'_>) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Copies what outlives a boot from the file that keeps it.
fn copy_outliving(keep: &Path, to: &mut Tables<'_, Writer<'_, '_>>) -> Result<(), StoreError> {
    redb::look(keep, |from| {
        for kind in keys::OUTLIVING {
            from.kv.scan(&[kind], &keys::behind(&[kind]), &mut |key, value| {
                to.kv.put(key, value)?;
                Ok(true)
            })?;
        }
        let all = keys::all_reserved();
        from.kv.scan(&all, &keys::behind(&all), &mut |key, _| {
            if let Some((set, addr)) = keys::read_reserved(key)
                && let Some(lease) = from.lease(&set, addr)?
            {
                changes::make(to, &Change::Put(lease), 0)?;
            }
            Ok(true)
        })
    })?;
    Ok(())
}
