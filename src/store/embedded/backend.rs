//! The layer between redb and the lease file. It decides which of redb's reads, writes and flushes reach the
//! file.
//!
//! redb's own file backend writes and flushes when it opens a file, when it commits, and twice when it
//! closes. Only the flushes of a commit are needed to protect a lease. Therefore:
//! - Until [`Shared::write_through`] is called, redb's writes stay in memory, so nothing reaches the file
//!   before the allocator has made its plan. A command that changes nothing writes nothing, except the
//!   counter of a refused ADD. A damaged file stays unchanged. Only a GC that needs more memory than [`HOLD`]
//!   writes earlier. That is safe, because redb never overwrites committed pages.
//! - A write that would not change the file is skipped (redb rewrites its header when it opens a file). A
//!   flush is skipped if nothing has been written since the last flush.
//! - The previous process may have been killed before its last flush, or before the file's name was durable.
//!   Therefore a writer flushes before it does anything else, even if its command then changes nothing.
//!   Otherwise a repeated ADD could return a lease that a power cut can still remove, and the writer could
//!   overwrite pages that an unflushed commit released. A process that ends normally copies the file's header
//!   into the lock file. If the header still equals that copy, everything has been flushed, and the writer
//!   skips this first flush. (A power cut may keep or lose the copy. The lease file is completely on disk in
//!   both cases.)
//! - Without [`Flush::ToDisk`], nothing is flushed: boot leases are invalid after a reboot anyway, and data
//!   that a process has passed to the kernel survives even if the process is killed.
//! - After [`Shared::leave`], nothing reaches the file. redb would otherwise write and flush a clean shutdown
//!   when it closes the file. The next opening does not need the clean shutdown, because each commit stores
//!   the state of redb's page allocator (quick repair).
//!
//! [`super::pages`] verifies everything that redb reads.
//!
//! Invariant: redb's writes reach the file in the order in which redb made them.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::Result;
use super::fs::{Access, FileSystem, OpenFile, read_exact};
use super::lock::Lock;
use super::pages;
use super::pages::Pages;
use crate::error::StoreError;

/// Whether redb's flushes reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Flushes are passed on to the disk.
    ToDisk,
    /// Writes reach the kernel, but flushes are left out.
    Never,
}

/// The lease file as redb sees it: implements redb's storage backend.
#[derive(Debug)]
pub struct Backend<File>(Arc<Shared<File>>);

/// A handle to the state that redb's backend shares with sublet's code.
pub type Switch<File> = Arc<Shared<File>>;

/// The open file and the state of its backend.
#[derive(Debug)]
pub struct Shared<File> {
    file: File,
    flush: Flush,
    state: Mutex<State>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "the flags are independent facts")]
struct State {
    /// Writes that have not reached the file yet, in order: offsets and bytes.
    held: Vec<(u64, Vec<u8>)>,
    /// The new length of the file in bytes, if redb has changed the length but the change has not reached the
    /// file yet.
    len: Option<u64>,
    holds: usize,
    through: bool,
    left: bool,
    /// Whether the file may be written at all.
    write: bool,
    /// The expected checksums of the pages that have not been read yet.
    pages: Pages,
    /// Whether the file contains unflushed writes, from this process or from a process that was killed.
    dirty: bool,
    /// Whether this process has written a header that points to its new commit. Other processes may then see
    /// the transaction, even if it has not been flushed.
    visible: bool,
}

/// The maximum total size of the writes that are held in memory, in bytes.
pub const HOLD: usize = 4 << 20;

/// The size of the page that contains the header, in bytes. redb rewrites this page even if it has not
/// changed.
const HEADER: usize = 4096;

/// The header note: a copy of the lease file's last header and of the file's name. It is written into the
/// lock file for the next process that takes the lock, and may be lost without harm. If the file's header
/// still equals the note, everything in the file has been flushed. If the file's last commit is older than
/// the commit in the note, the file has been replaced by an older copy.
#[derive(Clone, Copy, Debug)]
struct Note([u8; NAME + NOTE]);

/// The size of the part of the header that redb uses, in bytes. Every commit changes this part.
const NOTE: usize = 512;
/// The size of the part of a header note that identifies the lease file, in bytes: the end of the file's
/// path. It must be long enough to distinguish all files that share one lock; a boot ID has 36 bytes.
const NAME: usize = 64;

impl Note {
    /// Makes the header note for the present state of `file`; `None` if the header cannot be read.
    fn of<File: OpenFile>(file: &File, path: &Path) -> Option<Note> {
        let mut note = [0; NAME + NOTE];
        let name = path.as_os_str().as_encoded_bytes();
        let end = &name[name.len().saturating_sub(NAME)..];
        note[..end.len()].copy_from_slice(end);
        read_exact(file, &mut note[NAME..], 0).ok()?.then_some(Note(note))
    }

    fn read<F: FileSystem>(lock: &Lock<F>) -> Option<Note> {
        let mut note = [0; NAME + NOTE];
        read_exact(lock.file()?, &mut note, 0).ok()?.then_some(Note(note))
    }

    fn commit(&self) -> Option<u64> {
        pages::last_commit(&self.0[NAME..])
    }
}

/// Removes the header note (a copy of the lease file's header) from the lock file. Call this before another
/// file gets the name `path`, and before an operator restores a backup; otherwise the new file would be
/// mistaken for an older copy.
pub fn forget_note<F: FileSystem>(lock: &Lock<F>, path: &Path) -> Result<()> {
    let forgotten = lock.file().map_or(Ok(()), |file| file.set_len(0));
    forgotten.map_err(|e| StoreError::io("empty the lock file of", path, e))
}

/// Returns the part of a lease file's header that every commit changes, preceded by the file's device and
/// inode, because a different file may have the same header. `None` if the file has no complete header.
pub fn header<F: FileSystem>(fs: &F, path: &Path) -> Result<Option<Vec<u8>>> {
    let io = |e| StoreError::io("read", path, e);
    let Some(file) = fs.open(path, Access::Read).map_err(io)? else { return Ok(None) };
    let (device, inode) = file.id().map_err(io)?;
    let mut header = vec![0; NOTE];
    let is_whole = read_exact(&file, &mut header, 0).map_err(io)?;
    header.extend([device.to_le_bytes(), inode.to_le_bytes()].concat());
    Ok(is_whole.then_some(header))
}

/// An open file as redb sees it, and the state that it shares with sublet's code.
pub type Opened<File> = (Backend<File>, Switch<File>);

/// Makes a backend for an open file. If `flush` is `None`, no write reaches the file. If a lock is passed,
/// the header note in the lock file shows whether the file has been flushed completely.
pub fn new<F: FileSystem>(
    file: F::File,
    path: &Path,
    flush: Option<Flush>,
    lock: Option<&Lock<F>>,
) -> io::Result<Opened<F::File>> {
    let noted = lock.and_then(Note::read);
    let now = noted.and_then(|_| Note::of(&file, path));
    let dirty = match (noted, now) {
        (Some(noted), Some(now)) if noted.0[..NAME] == now.0[..NAME] => {
            if now.commit() < noted.commit() {
                let what = "the file was replaced by an older copy";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            noted.0 != now.0
        }
        _ => true,
    };
    let state = State {
        held: Vec::new(),
        holds: 0,
        len: None,
        through: false,
        left: false,
        write: flush.is_some(),
        pages: Pages::default(),
        dirty,
        visible: false,
    };
    let flush = flush.unwrap_or(Flush::Never);
    let shared = Arc::new(Shared { file, flush, state: Mutex::new(state) });
    Ok((Backend(shared.clone()), shared))
}

impl<File: OpenFile> Shared<File> {
    /// Returns whether a previous process may have left unflushed writes.
    pub fn is_unsettled(&self) -> bool {
        self.flush == Flush::ToDisk && self.state().dirty
    }

    /// Flushes the writes that a previous process has left unflushed.
    pub fn settle(&self) -> io::Result<()> {
        self.flush(&mut self.state())
    }

    /// Returns whether other processes may already see the transaction that this process was committing.
    pub fn is_visible(&self) -> bool {
        self.state().visible
    }

    /// Writes all held writes to the file. From then on, each write reaches the file directly.
    pub fn write_through(&self) -> io::Result<()> {
        self.pass_on(&mut self.state())
    }

    /// Copies the file's header into the lock file as the header note, if everything that must be durable has
    /// been flushed. The next process that takes the lock then need not flush the file.
    pub fn note<F: FileSystem<File = File>>(&self, lock: &Lock<F>, path: &Path) {
        let flushed = self.flush == Flush::Never || !self.state().dirty;
        if flushed && let (Some(note), Some(file)) = (Note::of(&self.file, path), lock.file()) {
            let _ = file.write_at(&note.0, 0);
        }
    }

    /// Flushes the file, even with [`Flush::Never`].
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Makes all further writes fail. redb then behaves as if the disk had failed: it closes the file without
    /// another write. An open transaction is rolled back.
    pub fn leave(&self) {
        self.state().left = true;
    }

    /// Releases the lock on the lease file itself now, instead of when the file is closed.
    pub fn unlock(&self) {
        let _ = self.file.unlock();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.left { Err(io::Error::other("the store is already closed")) } else { Ok(state) }
    }

    fn pass_on(&self, state: &mut State) -> io::Result<()> {
        if state.through {
            return Ok(());
        }
        // Flush the writes of a previous process before the first write of this process.
        self.flush(state)?;
        state.through = true;
        if let Some(len) = state.len.take() {
            self.file.set_len(len)?;
            state.dirty = true;
        }
        for (offset, data) in std::mem::take(&mut state.held) {
            self.write(state, offset, &data)?;
        }
        self.flush(state)
    }

    fn write(&self, state: &mut State, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset == 0 {
            let found = self.header(data.len());
            if found.as_deref() == Some(data) {
                return Ok(());
            }
            let commit = |header: &[u8]| pages::last_commit(header);
            state.visible |= found.as_deref().and_then(commit) != commit(data);
        }
        state.dirty = true;
        self.file.write_at(data, offset)
    }

    /// Returns the first `len` bytes of the file; `None` if `len` exceeds the header's page or the file is
    /// shorter.
    fn header(&self, len: usize) -> Option<Vec<u8>> {
        let mut found = vec![0; Some(len).filter(|len| *len <= HEADER)?];
        read_exact(&self.file, &mut found, 0).ok()?.then_some(found)
    }

    fn flush(&self, state: &mut State) -> io::Result<()> {
        if self.flush == Flush::ToDisk && state.dirty {
            self.file.sync_data()?;
            state.dirty = false;
        }
        Ok(())
    }
}

impl<File: OpenFile> StorageBackend for Backend<File> {
    fn len(&self) -> io::Result<u64> {
        match self.0.state().len {
            Some(len) => Ok(len),
            None => self.0.file.length(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.state();
        let filled = self.0.file.read_at(out, offset)?;
        if filled < out.len() {
            if state.len.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // The file has been enlarged but not written here yet, so these bytes read as zeros.
            out[filled..].fill(0);
        }
        let end = offset + out.len() as u64;
        for (at, data) in &state.held {
            let (from, to) = ((*at).max(offset), (at + data.len() as u64).min(end));
            if from < to {
                let part = |base: u64| within(from - base)..within(to - base);
                out[part(offset)].copy_from_slice(&data[part(*at)]);
            }
        }
        state.pages.verify(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.open()?;
        if !state.through {
            state.len = Some(len);
            return Ok(());
        }
        // redb truncates free space after its last flush. A power cut may undo the truncation without harm,
        // so only enlarging the file counts as an unflushed write.
        state.dirty |= len > self.0.file.length()?;
        self.0.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.open()?;
        if state.through { self.0.flush(&mut state) } else { Ok(()) }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.open()?;
        state.pages.forget(offset, data.len());
        if state.through {
            return self.0.write(&mut state, offset, data);
        }
        if state.held.is_empty()
            && offset == 0
            && self.0.header(data.len()).as_deref() == Some(data)
        {
            return Ok(());
        }
        state.held.push((offset, data.to_vec()));
        state.holds += data.len();
        if state.holds > HOLD && state.write {
            return self.0.pass_on(&mut state);
        }
        Ok(())
    }
}

/// Converts an offset to an index into a buffer.
fn within(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
