//! The file under redb.
//!
//! Owns: which of redb's reads, writes and flushes reach the file. redb's own file backend writes
//! and flushes at open, at commit and twice at close; of those only the ones at commit protect a
//! lease:
//! - Until [`Shared::write_through`] what redb writes stays in memory: nothing touches the file
//!   before the plan is made, so a command that changes nothing writes nothing (a refused ADD may
//!   be counted), and a damaged file stays as it was found. A GC that needs more memory than
//!   [`HOLD`] passes on before: redb never writes over what is committed.
//! - A write that changes nothing (redb rewrites its header at open) and a flush with nothing
//!   written since the last are left out.
//! - A predecessor may have been killed before its own last flush, or before the file's name was on
//!   disk. So one flush comes before all else that a writer does, be it that it only answers:
//!   a repeated ADD must not tell of a lease that a power cut takes back, and no page that an
//!   unflushed commit let go may be written over. A predecessor that came to its end leaves a copy
//!   of the header in the lock file; where the header is still that copy, nothing is unflushed, and
//!   that flush is left out. (A copy that a power cut keeps or loses does no harm: then all there is
//!   is on disk.)
//! - Without [`Flush::ToDisk`] no flush is made at all: the leases mean nothing after the boot that
//!   made them, and a killed process loses nothing that it gave to the kernel.
//! - After [`Shared::leave`] nothing reaches the file: closing would write and flush an orderly
//!   end, which the next opening does not need, since each commit left the allocator's state
//!   behind (quick repair).
//!
//! What redb is given to read is verified first ([`super::pages`]).
//!
//! Invariant: what reaches the file reaches it in redb's order.

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

/// What becomes of flushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// They reach the disk.
    ToDisk,
    /// Writes reach the kernel; flushes are left out.
    Never,
}

/// redb's view of the file.
#[derive(Debug)]
pub struct Backend<File>(Arc<Shared<File>>);

/// The same, from outside of redb.
pub type Switch<File> = Arc<Shared<File>>;

/// The file under redb, and what is known of it.
#[derive(Debug)]
pub struct Shared<File> {
    file: File,
    flush: Flush,
    state: Mutex<State>,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "facts that are independent of each other")]
struct State {
    /// Written and not passed on, in order.
    held: Vec<(u64, Vec<u8>)>,
    /// The length, where it was set and not passed on.
    len: Option<u64>,
    holds: usize,
    through: bool,
    left: bool,
    /// Whether it may be passed on at all.
    write: bool,
    /// What the pages that were not read yet have to be.
    pages: Pages,
    /// Something was written, by us or by a predecessor that was killed, and not flushed since.
    dirty: bool,
    /// A header with another last commit was written: others may see the transaction, flushed or not.
    visible: bool,
}

/// How much is held back, in bytes.
pub const HOLD: usize = 4 << 20;

/// The header's page: the part of the file that redb rewrites unchanged.
const HEADER: usize = 4096;

/// What the holder of a lock leaves in the lock file for the next one: the last header of the file,
/// under the file's name. It is a hint that may be lost. Where the header is still this one, nothing
/// is unflushed. A file whose last commit is older than the noted one was set back.
#[derive(Clone, Copy, Debug)]
struct Note([u8; NAME + NOTE]);

/// The part of the header that redb uses, and that every commit changes.
const NOTE: usize = 512;
/// The end of the file's name, as much as tells the files of one lock apart: a boot ID has 36 bytes.
const NAME: usize = 64;

impl Note {
    /// The note that fits this file now; `None` if its header cannot be read.
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

/// Forgets what the last holder of a lock noted about `path`: before another file gets the name, and for
/// a copy that an operator puts back. With the note left there, the new file would pass for one that was
/// set back.
pub fn forget_note<F: FileSystem>(lock: &Lock<F>, path: &Path) -> Result<()> {
    let forgotten = lock.file().map_or(Ok(()), |file| file.set_len(0));
    forgotten.map_err(|e| StoreError::io("empty the lock file of", path, e))
}

/// Returns the part of a lease file's header that every commit changes, with the file's identity: a file
/// that was replaced may have the same header. `None` if it cannot be read whole.
pub fn header<F: FileSystem>(fs: &F, path: &Path) -> Result<Option<Vec<u8>>> {
    let io = |e| StoreError::io("read", path, e);
    let Some(file) = fs.open(path, Access::Read).map_err(io)? else { return Ok(None) };
    let (device, inode) = file.id().map_err(io)?;
    let mut header = vec![0; NOTE];
    let is_whole = read_exact(&file, &mut header, 0).map_err(io)?;
    header.extend([device.to_le_bytes(), inode.to_le_bytes()].concat());
    Ok(is_whole.then_some(header))
}

/// redb's view of an open file, and the switch of it.
pub type Opened<File> = (Backend<File>, Switch<File>);

/// A backend over an open file, and its switch; without `flush` it never passes a write on. With
/// the lock, the note in it counts.
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
                let what = "it is older than its last commit";
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
    /// Whether a predecessor may have left something unflushed.
    pub fn is_unsettled(&self) -> bool {
        self.flush == Flush::ToDisk && self.state().dirty
    }

    /// Flushes that.
    pub fn settle(&self) -> io::Result<()> {
        self.flush(&mut self.state())
    }

    /// Whether others may see the transaction that was being committed.
    pub fn is_visible(&self) -> bool {
        self.state().visible
    }

    /// Passes on what was held, and from now on everything.
    pub fn write_through(&self) -> io::Result<()> {
        self.pass_on(&mut self.state())
    }

    /// Notes the file's header for the next holder of the lock, if all is on disk that has to be.
    pub fn note<F: FileSystem<File = File>>(&self, lock: &Lock<F>, path: &Path) {
        let flushed = self.flush == Flush::Never || !self.state().dirty;
        if flushed && let (Some(note), Some(file)) = (Note::of(&self.file, path), lock.file()) {
            let _ = file.write_at(&note.0, 0);
        }
    }

    /// Flushes the file, whatever is set.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// From now on nothing reaches the file. redb takes the refusals for a failing disk and closes
    /// without further ado; a transaction that is open then is rolled back.
    pub fn leave(&self) {
        self.state().left = true;
    }

    /// Lets go of the guard on the file, which otherwise ends when the file is closed.
    pub fn unlock(&self) {
        let _ = self.file.unlock();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state();
        if state.left { Err(io::Error::other("the store was left")) } else { Ok(state) }
    }

    fn pass_on(&self, state: &mut State) -> io::Result<()> {
        if state.through {
            return Ok(());
        }
        // A predecessor's writes before ours.
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

    /// The first `len` bytes of the file, if that is at most the header's page.
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
            // The part behind the file's end is zero until it is written.
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
        // redb cuts off what is free after its last flush. Lost to a power cut, that is no loss.
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

/// An offset within a buffer in memory.
fn within(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
