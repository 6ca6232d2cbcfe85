//! Runs one redb transaction on a lease file, and converts redb's errors and panics.
//!
//! This module opens, reads, writes and creates lease files. The caller chooses the file and holds its lock.
//! No process keeps a database open between calls, because redb would refuse a second process instead of
//! letting it wait. Invariant: if redb cannot interpret a file, the result is [`StoreError::Damaged`],
//! whether redb returns an error or panics.

use std::mem;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{
    Database, ReadOnlyTable, ReadableDatabase, ReadableTable, Table, TableDefinition,
    WriteTransaction,
};

use super::backend;
use super::backend::{Flush, Switch};
use super::fs::{Access, FileSystem, OpenFile};
use super::lock::{Lock, Patience};
use super::view::{Each, Former, Kv, KvMut, Tables};
use super::{Result, files, keys, lock};
use crate::error::StoreError;
use crate::store::codec;
use crate::sys::panic;

type Bytes = &'static [u8];
/// The size of redb's cache, in bytes. Only a GC or `list` reads more than this.
const CACHE: usize = 8 << 20;

const TABLE: TableDefinition<Bytes, Bytes> = TableDefinition::new("sublet");

/// A redb table that implements the traits of `view`.
pub struct Redb<'a, T> {
    table: T,
    path: &'a Path,
}

/// The records of a lease file that is open for reading.
pub type Looked<'a> = Tables<'a, Redb<'a, ReadOnlyTable<Bytes, Bytes>>>;

/// The records of a lease file that is open for writing.
pub type Writable<'a, 't> = Tables<'a, Redb<'a, Table<'t, Bytes, Bytes>>>;

impl<T: ReadableTable<Bytes, Bytes>> Kv for Redb<'_, T> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.table.get(key).map_err(|e| broken(self.path, e))?;
        Ok(value.map(|v| v.value().to_vec()))
    }

    fn scan(&self, from: &[u8], to: &[u8], each: &mut Each<'_>) -> Result<()> {
        let range = self.table.range::<&[u8]>(from..to).map_err(|e| broken(self.path, e))?;
        for entry in range {
            let (key, value) = entry.map_err(|e| broken(self.path, e))?;
            if !each(key.value(), value.value())? {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, from: &[u8], to: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut range = self.table.range::<&[u8]>(from..to).map_err(|e| broken(self.path, e))?;
        let last = range.next_back().transpose().map_err(|e| broken(self.path, e))?;
        Ok(last.map(|(key, _)| key.value().to_vec()))
    }
}

impl KvMut for Redb<'_, Table<'_, Bytes, Bytes>> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.table.insert(key, value).map(|_| ()).map_err(|e| broken(self.path, e))
    }

    fn remove(&mut self, key: &[u8]) -> Result<()> {
        self.table.remove(key).map(|_| ()).map_err(|e| broken(self.path, e))
    }
}

/// Converts a redb error. The I/O error kinds `InvalidData` and `UnexpectedEof` mean that the file is
/// damaged, for example truncated.
fn broken(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    let damaged = |what: String| StoreError::Damaged { path: path.to_owned(), what };
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
            advice: "move the file away, or name a different file".to_owned(),
        },
        e => damaged(e.to_string()),
    }
}

/// Runs code in which redb may panic because of a damaged file. A panic in redb is converted to an error. A
/// panic in sublet's own code is passed on.
fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        if !panic::was_in_redb() {
            resume_unwind(payload);
        }
        let what = "the pages of the file contradict each other".to_owned();
        Err(StoreError::Damaged { path: path.to_owned(), what })
    })
}

/// An open database, and the state that its backend shares with sublet.
type Opened<File> = (Database, Switch<File>);

/// Opens a lease file: for writing if `write` is set, otherwise only for reading.
fn open<F: FileSystem>(
    fs: &F,
    path: &Path,
    write: Option<Flush>,
    lock: Option<&Lock<F>>,
    patience: &Patience,
) -> Result<Option<Opened<F::File>>> {
    let access = if write.is_some() { Access::Write } else { Access::Read };
    let file = loop {
        let Some(file) = files::open(fs, path, access)? else { return Ok(None) };
        if guard(fs, &file, path, patience)? {
            break file;
        }
    };
    let (backend, switch) = backend::new(file, path, write, lock).map_err(|e| broken(path, e))?;
    let database = Database::builder().set_cache_size(CACHE).create_with_backend(backend);
    Ok(Some((database.map_err(|e| broken(path, e))?, switch)))
}

/// Locks the lease file itself until it is closed. The lock file alone does not suffice, because it may be
/// removed, and because a lease file may have two names. Returns whether `path` still refers to this file.
fn guard<F: FileSystem>(fs: &F, file: &F::File, path: &Path, patience: &Patience) -> Result<bool> {
    let io = |e| StoreError::io("lock", path, e);
    // On NFS, a file that is open only for reading cannot be locked. In that case, only the lock file
    // protects the lease file.
    let is_held_by_another = matches!(file.try_lock(), Ok(false));
    if is_held_by_another && !lock::poll(fs, file, None, patience).map_err(io)? {
        return Err(lock::locked(fs, file, path, patience).map_err(io)?);
    }
    Ok(fs.find(path).map_err(io)? == Some(file.id().map_err(io)?))
}

/// Checks that this version of sublet can read the table's schema.
fn check_schema<K: Kv>(tables: &Tables<'_, K>) -> Result<()> {
    match tables.value::<u64>(keys::SCHEMA)? {
        None => Err(tables.damaged("the file has no schema version")),
        Some(found) if found == u64::from(codec::SCHEMA_VERSION) => Ok(()),
        Some(_) => Err(StoreError::other_version(tables.path)),
    }
}

/// Reads a lease file without writing; `None` if there is no file. If a lock is passed, its lock file may
/// contain the header note, a copy of the lease file's last header. The read fails if the note shows that the
/// lease file was replaced by an older copy.
pub fn read<F: FileSystem, T>(
    fs: &F,
    path: &Path,
    lock: Option<&Lock<F>>,
    patience: &Patience,
    work: impl FnOnce(&Looked<'_>) -> Result<T>,
) -> Result<Option<T>> {
    guarded(path, || {
        let Some((database, switch)) = open(fs, path, None, lock, patience)? else {
            return Ok(None);
        };
        let answer = (|| {
            let transaction = database.begin_read().map_err(|e| broken(path, e))?;
            let table = transaction.open_table(TABLE).map_err(|e| broken(path, e))?;
            let tables = Tables::new(Redb { table, path }, path);
            check_schema(&tables)?;
            work(&tables)
        })();
        leave(database, &switch, answer.is_ok());
        answer.map(Some)
    })
}

/// Runs one write transaction while the lease file is locked. Commits the transaction if `work` returns
/// [`ControlFlow::Continue`]. Returns `None` if there is no file. `earlier` finds former addresses of pods
/// that are not recorded in this file.
pub fn write<F: FileSystem, T>(
    fs: &F,
    path: &Path,
    flush: Flush,
    lock: &Lock<F>,
    patience: &Patience,
    earlier: Option<&Former<'_>>,
    work: impl FnOnce(&mut Writable<'_, '_>) -> Result<ControlFlow<T, T>>,
) -> Result<Option<T>> {
    guarded(path, || {
        let Some((database, switch)) = open(fs, path, Some(flush), Some(lock), patience)? else {
            return Ok(None);
        };
        let answer = database.begin_write().map_err(|e| broken(path, e)).and_then(|mut t| {
            t.set_quick_repair(true);
            let io = |e| StoreError::io("write", path, e);
            let answer = in_table(path, &t, earlier, work).and_then(|flow| {
                // Even an outcome without changes may depend on writes that a killed process has left
                // unflushed, so flush those writes now.
                if switch.is_unsettled() {
                    files::sync_names(fs, path)?;
                    switch.settle().map_err(io)?;
                    switch.note(lock, path);
                }
                if flow.is_continue() {
                    switch.write_through().map_err(io)?;
                }
                Ok(flow)
            });
            if !matches!(answer, Ok(ControlFlow::Continue(_))) {
                // Stop all writes before the transaction is dropped, because its rollback must not write
                // either.
                switch.leave();
            }
            match answer? {
                ControlFlow::Continue(answer) => {
                    t.commit().map_err(|e| match broken(path, e) {
                        error if switch.is_visible() => error.after_the_change(),
                        error => error,
                    })?;
                    switch.note(lock, path);
                    Ok(answer)
                }
                ControlFlow::Break(answer) => Ok(answer),
            }
        });
        leave(database, &switch, answer.is_ok());
        answer.map(Some)
    })
}

/// Whether this process is about to end, so that it need not free the memory of its databases.
static ONE_SHOT: AtomicBool = AtomicBool::new(false);

/// Declares that this process handles one request and then ends. From now on, databases are not freed,
/// because the kernel frees their memory and descriptors when the process ends. Locks are still released at
/// once.
pub fn one_shot() {
    ONE_SHOT.store(true, Ordering::Relaxed);
}

/// Closes redb without its clean shutdown. A clean shutdown would be a complete commit, and the backend would
/// refuse its writes. redb skips the clean shutdown if the thread is panicking, so this function drops the
/// database during a panic that it catches. No panic message is printed.
fn leave<File: OpenFile>(database: Database, switch: &Switch<File>, done: bool) {
    switch.leave();
    if done && ONE_SHOT.load(Ordering::Relaxed) {
        switch.unlock();
        mem::forget(database);
        return;
    }
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _closed = database;
        resume_unwind(Box::new(()))
    }));
    debug_assert!(unwound.is_err());
}

/// Opens the table in a write transaction, and calls `work` with it.
fn in_table<T>(
    path: &Path,
    transaction: &WriteTransaction,
    earlier: Option<&Former<'_>>,
    work: impl FnOnce(&mut Writable<'_, '_>) -> Result<T>,
) -> Result<T> {
    let table = transaction.open_table(TABLE).map_err(|e| broken(path, e))?;
    let mut tables = Tables::new(Redb { table, path }, path);
    tables.earlier = earlier;
    check_schema(&tables)?;
    work(&mut tables)
}

/// Writes a complete store into a new, empty file. `content` writes the records. With [`Flush::ToDisk`], the
/// file is flushed once, otherwise not at all.
pub fn write_new<F: FileSystem>(
    file: F::File,
    name: &Path,
    flush: Flush,
    content: impl FnOnce(&mut Writable<'_, '_>) -> Result<()>,
) -> Result<()> {
    let io = |e| StoreError::io("write", name, e);
    let (backend, switch) = backend::new::<F>(file, name, Some(Flush::Never), None).map_err(io)?;
    switch.write_through().map_err(io)?;
    let database = Database::builder().create_with_backend(backend).map_err(|e| broken(name, e))?;
    let mut transaction = database.begin_write().map_err(|e| broken(name, e))?;
    transaction.set_quick_repair(true);
    {
        let table = transaction.open_table(TABLE).map_err(|e| broken(name, e))?;
        let mut tables = Tables::new(Redb { table, path: name }, name);
        let schema = codec::seal(keys::SCHEMA, &u64::from(codec::SCHEMA_VERSION));
        tables.kv.put(keys::SCHEMA, &schema)?;
        content(&mut tables)?;
    }
    transaction.commit().map_err(|e| broken(name, e))?;
    switch.leave();
    if flush == Flush::ToDisk { switch.sync().map_err(io) } else { Ok(()) }
}
