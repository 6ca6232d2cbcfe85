//! The embedded store: redb under a lock file.
//!
//! Owns: transactions, which of the two files a command goes to, and redb's errors and panics. Does
//! not own: which address (`alloc`), keys and records (`keys`, `codec`), how files come to be
//! (`files`, `boot`).
//! Everybody takes the lock, opens, transacts and leaves: nobody keeps the database open, for redb
//! refuses a second opener instead of letting it wait.
//! Invariant: leases of one set are in one of the two files, never in both. Locks are taken in the
//! order `<file>.lock`, `<file>.keep.lock`.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::backend::{Backend, Flush, Switch};
use super::boot::{self, Mark};
use super::files::{self, Content, Files};
use super::view::{Kv, KvMut, Tables};
use super::{Store, changes, codec, keys};
use crate::alloc::{self, Change, Command, Context, Outcome, Plan};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{BootId, Kind, Lease, Persist, SetName, Wait};

type Bytes = &'static [u8];
const TABLE: TableDefinition<Bytes, Bytes> = TableDefinition::new("sublet");

/// Leases in a file on this host.
#[derive(Debug)]
pub struct RedbStore {
    files: Files,
    persist: Persist,
    wait: Wait,
}

/// One of the two files, as this command sees it.
struct Place {
    path: PathBuf,
    flush: Flush,
}

impl RedbStore {
    /// The store at `path`; nothing is touched yet.
    pub fn new(path: PathBuf, persist: Persist, wait: Wait) -> RedbStore {
        RedbStore {
            files: Files::new(path),
            persist,
            wait,
        }
    }

    fn boot_place(&self) -> Place {
        Place {
            path: self.files.boot_leases().to_owned(),
            flush: Flush::Never,
        }
    }

    fn keep_place(&self) -> Place {
        Place {
            path: self.files.keep(),
            flush: Flush::ToDisk,
        }
    }

    /// The boot whose leases this call may give and judge; `None`: all is kept on disk.
    fn boot<'c>(&self, cx: &'c Context) -> Option<&'c BootId> {
        cx.boot
            .as_ref()
            .filter(|_| !files::is_shared(&self.files.folder()))
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
        let opened = look(path, |tables| {
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
        let _lock = keep
            .path
            .exists()
            .then(|| files::lock(&keep.path, self.wait))
            .transpose()?;
        // Made under another name first, so that the old one is missed for an instant only.
        let next = self.files.next_boot();
        create(&next, |table| copy_outliving(&keep.path, table))?;
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
                create(&place.path, |_| Ok(()))?;
            }
            let home = keys::home(command.set());
            if look(&place.path, |tables| Ok(tables.kv.get(&home)?.is_some()))? == Some(true) {
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
            if current {
                self.leave_locked(command, &other, "boot")
            } else {
                Ok(())
            }
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
        self.leave_locked(command, other, persist)
    }

    /// Takes a set's home away from a file that holds no living lease of it. An address is known
    /// in one file only, so a set with leases in both could give one twice.
    fn leave_locked(
        &self,
        command: &Command,
        other: &Place,
        persist: &'static str,
    ) -> Result<(), StoreError> {
        let set = command.set();
        let home = keys::home(set);
        let mut living = None;
        let found = look(&other.path, |tables| {
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
            return Err(StoreError::Moved {
                set,
                path,
                lease: Box::new(lease),
                persist,
            });
        }
        if found == Some(true) {
            write(other, |tables| {
                tables.kv.remove(&home).map(ControlFlow::Continue)
            })?;
        }
        Ok(())
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
        write(place, |tables| {
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
            create(&place.path, |_| Ok(()))?;
        }
        write(&place, |tables| {
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
        let mut all = match command {
            Command::Gc(_) => Outcome::Collected {
                freed: Vec::new(),
                resume: None,
            },
            _ => Outcome::Freed(Vec::new()),
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
                    return Ok(Plan {
                        changes: Vec::new(),
                        outcome,
                    });
                }
            }
        }
        Ok(Plan::only(all))
    }

    /// CHECK and STATUS: without a write, even of a store that cannot be written.
    fn look(&self, command: &Command, cx: &Context) -> Result<Plan, StoreError> {
        let places = self.places(cx)?;
        let target = if self.target(cx).is_some() {
            self.boot_place()
        } else {
            self.keep_place()
        };
        let mut answer = None;
        for place in &places {
            // What could be given depends on the file that gives; what is held may be in either.
            if matches!(command, Command::Status(_)) && place.path != target.path {
                continue;
            }
            let _lock = files::lock_to_look(&place.path, self.wait)?;
            let plan = look(&place.path, |tables| alloc::run(command, tables, cx))?;
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
            None => alloc::run(
                command,
                &Tables {
                    kv: Nothing,
                    path: &target.path,
                },
                cx,
            ),
        }
    }
}

impl Store for RedbStore {
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
        let mut reserved: Vec<(SetName, crate::net::Addr)> = Vec::new();
        for place in self.places(cx)? {
            let _lock = files::lock_to_look(&place.path, self.wait)?;
            look(&place.path, |tables| {
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

/// A table with nothing in it: a store that is not there yet.
struct Nothing;

impl Kv for Nothing {
    fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn scan(
        &self,
        _: &[u8],
        _: &[u8],
        _: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        Ok(())
    }
}

/// redb's table, for reading.
struct Reader<'a, T> {
    table: &'a T,
    path: &'a Path,
}

impl<T: ReadableTable<Bytes, Bytes>> Kv for Reader<'_, T> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.table.get(key).map_err(|e| broken(self.path, e))?;
        Ok(value.map(|v| v.value().to_vec()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let range = self
            .table
            .range::<&[u8]>(from..to)
            .map_err(|e| broken(self.path, e))?;
        for entry in range {
            let (key, value) = entry.map_err(|e| broken(self.path, e))?;
            if !each(key.value(), value.value())? {
                break;
            }
        }
        Ok(())
    }
}

/// redb's table, for writing.
struct Writer<'a, 't> {
    table: &'a mut Table<'t, Bytes, Bytes>,
    path: &'a Path,
}

impl Kv for Writer<'_, '_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Reader {
            table: &*self.table,
            path: self.path,
        }
        .get(key)
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        Reader {
            table: &*self.table,
            path: self.path,
        }
        .scan(from, to, each)
    }
}

impl KvMut for Writer<'_, '_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        self.table
            .insert(key, value)
            .map(|_| ())
            .map_err(|e| broken(self.path, e))
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.table
            .remove(key)
            .map(|_| ())
            .map_err(|e| broken(self.path, e))
    }
}

/// What redb says, in our words. Its own reading of a torn file ends in I/O errors of these kinds.
fn broken(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    let damaged = |what: String| StoreError::Damaged {
        path: path.to_owned(),
        what,
    };
    match error.into() {
        redb::Error::Io(e) if matches!(e.kind(), InvalidData | UnexpectedEof) => {
            damaged(e.to_string())
        }
        redb::Error::Io(e) => StoreError::io("read or write the lease store", path, e),
        e @ (redb::Error::UpgradeRequired(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }) => StoreError::Foreign {
            path: path.to_owned(),
            what: e.to_string(),
            advice: "move it away, or name another file".to_owned(),
        },
        e => damaged(e.to_string()),
    }
}

/// Runs what may make redb panic over a damaged file; a panic is damage.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let what = "its pages contradict each other".to_owned();
        Err(StoreError::Damaged {
            path: path.to_owned(),
            what,
        })
    })
}

fn open(path: &Path, flush: Flush) -> Result<Option<(Database, Switch)>, StoreError> {
    let Some(file) = files::open(path, flush != Flush::ReadOnly)? else {
        return Ok(None);
    };
    let (backend, switch) = Backend::new(file, flush);
    let database = Database::builder().create_with_backend(backend);
    Ok(Some((database.map_err(|e| broken(path, e))?, switch)))
}

/// Whether the table is of a form that this build reads.
fn check_schema<K: Kv>(tables: &Tables<'_, K>) -> Result<(), StoreError> {
    let found = match tables.kv.get(keys::SCHEMA)? {
        Some(bytes) => tables.whole(codec::read_number(keys::SCHEMA, &bytes))?,
        None => return Err(tables.damaged("it does not say which schema it has")),
    };
    if found == u64::from(codec::SCHEMA_VERSION) {
        return Ok(());
    }
    Err(StoreError::Foreign {
        path: tables.path.to_owned(),
        what: format!(
            "it has schema {found}, this build reads {}",
            codec::SCHEMA_VERSION
        ),
        advice: "use the sublet that wrote it, or a newer one".to_owned(),
    })
}

/// Looks at a store without writing; `None` if there is none.
fn look<T>(
    path: &Path,
    work: impl FnOnce(
        &Tables<'_, Reader<'_, redb::ReadOnlyTable<Bytes, Bytes>>>,
    ) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    guarded(path, || {
        let Some((database, switch)) = open(path, Flush::ReadOnly)? else {
            return Ok(None);
        };
        let answer = (|| {
            let transaction = database.begin_read().map_err(|e| broken(path, e))?;
            let table = transaction.open_table(TABLE).map_err(|e| broken(path, e))?;
            let tables = Tables {
                kv: Reader {
                    table: &table,
                    path,
                },
                path,
            };
            check_schema(&tables)?;
            work(&tables)
        })();
        switch.leave();
        answer.map(Some)
    })
}

/// One write transaction, committed if `work` answers [`ControlFlow::Continue`].
fn write<T>(
    place: &Place,
    work: impl FnOnce(&mut Tables<'_, Writer<'_, '_>>) -> Result<ControlFlow<T, T>, StoreError>,
) -> Result<T, StoreError> {
    let path = &*place.path;
    guarded(path, || {
        let Some((database, switch)) = open(path, place.flush)? else {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(StoreError::io("open the lease store", path, source));
        };
        let answer = database
            .begin_write()
            .map_err(|e| broken(path, e))
            .and_then(|mut t| {
                t.set_quick_repair(true);
                let answer = in_table(path, &t, work);
                if !matches!(answer, Ok(ControlFlow::Continue(_))) {
                    // Before the transaction is dropped: rolling it back must not write either.
                    switch.leave();
                }
                match answer? {
                    ControlFlow::Continue(answer) => {
                        t.commit().map_err(|e| broken(path, e))?;
                        Ok(answer)
                    }
                    ControlFlow::Break(answer) => Ok(answer),
                }
            });
        switch.leave();
        answer
    })
}

/// Opens the table of a write transaction for `work`.
fn in_table<T>(
    path: &Path,
    transaction: &WriteTransaction,
    work: impl FnOnce(&mut Tables<'_, Writer<'_, '_>>) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let mut table = transaction.open_table(TABLE).map_err(|e| broken(path, e))?;
    let mut tables = Tables {
        kv: Writer {
            table: &mut table,
            path,
        },
        path,
    };
    check_schema(&tables)?;
    work(&mut tables)
}

/// Makes a store file, with what `fill` puts into it.
fn create(
    path: &Path,
    fill: impl FnOnce(&mut Tables<'_, Writer<'_, '_>>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    files::make(path, |file, name| {
        let (backend, switch) = Backend::new(file, Flush::ToDisk);
        let database = Database::builder()
            .create_with_backend(backend)
            .map_err(|e| broken(name, e))?;
        let mut transaction = database.begin_write().map_err(|e| broken(name, e))?;
        transaction.set_quick_repair(true);
        {
            let mut table = transaction.open_table(TABLE).map_err(|e| broken(name, e))?;
            let mut tables = Tables {
                kv: Writer {
                    table: &mut table,
                    path: name,
                },
                path: name,
            };
            let schema = codec::number(keys::SCHEMA, codec::SCHEMA_VERSION.into());
            tables.kv.put(keys::SCHEMA, &schema)?;
            fill(&mut tables)?;
        }
        transaction.commit().map_err(|e| broken(name, e))?;
        switch.leave();
        Ok(())
    })
}

/// Copies what outlives a boot from the file that keeps it.
fn copy_outliving(keep: &Path, to: &mut Tables<'_, Writer<'_, '_>>) -> Result<(), StoreError> {
    look(keep, |from| {
        for kind in keys::OUTLIVING {
            from.kv
                .scan(&[kind], &keys::behind(&[kind]), &mut |key, value| {
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
