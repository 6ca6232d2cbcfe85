//! The file under redb.
//!
//! Owns: which of redb's reads, writes and flushes reach the file. redb's own file backend flushes
//! at open, at commit and twice at close; of those only the ones at commit protect a lease:
//! - A write that changes nothing (redb rewrites its header at open) and a flush with nothing
//!   written since the last are left out.
//! - With [`Flush::Never`] no flush is made at all: the leases mean nothing after the boot that made
//!   them, and a killed process loses nothing that it gave to the kernel.
//! - After [`Switch::leave`] nothing reaches the file: closing would write and flush an orderly
//!   end, which the next opening does not need, since each commit left the allocator's state
//!   behind (quick repair).
//! - Opened with [`Flush::ReadOnly`], what redb writes stays in memory.
//!
//! Invariant: what reaches the file reaches it in redb's order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use redb::StorageBackend;

/// What becomes of flushes and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// They reach the disk.
    ToDisk,
    /// Writes reach the kernel; flushes are left out.
    Never,
    /// Writes stay in memory.
    ReadOnly,
}

/// Turns a backend's writes off, from outside of redb.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<AtomicBool>);

impl Switch {
    /// From now on nothing reaches the file. redb takes the refusals for a failing disk and closes
    /// without further ado; a transaction that is open then is rolled back.
    pub fn leave(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn check(&self) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            Err(io::Error::other("the store was left"))
        } else {
            Ok(())
        }
    }
}

/// redb's view of the file.
#[derive(Debug)]
pub struct Backend {
    file: File,
    flush: Flush,
    dirty: AtomicBool,
    left: Switch,
    /// What was written under [`Flush::ReadOnly`], in order; the length too.
    overlay: Mutex<Overlay>,
}

#[derive(Debug, Default)]
struct Overlay {
    writes: Vec<(u64, Vec<u8>)>,
    len: Option<u64>,
}

/// The header's page: the part of the file that redb rewrites unchanged.
const HEADER: usize = 4096;

impl Backend {
    /// A backend over an open file. The first flush is never left out: a predecessor may have
    /// been killed between its writes and its flush.
    pub fn new(file: File, flush: Flush) -> (Backend, Switch) {
        let left = Switch::default();
        let dirty = AtomicBool::new(true);
        (Backend { file, flush, dirty, left: left.clone(), overlay: Mutex::default() }, left)
    }

    /// Whether the file begins with just this already.
    fn holds(&self, data: &[u8]) -> bool {
        let mut before = [0; HEADER];
        data.len() <= HEADER
            && self.file.read_exact_at(&mut before[..data.len()], 0).is_ok()
            && before[..data.len()] == *data
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        let overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        match overlay.len {
            Some(len) => Ok(len),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if self.flush != Flush::ReadOnly {
            return self.file.read_exact_at(out, offset);
        }
        let overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
        if overlay.writes.is_empty() {
            return self.file.read_exact_at(out, offset);
        }
        // The part behind the file's end was set to zero by `set_len`.
        let mut filled = 0;
        while filled < out.len() {
            match self.file.read_at(&mut out[filled..], offset + filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        out[filled..].fill(0);
        let end = offset + out.len() as u64;
        for (at, data) in &overlay.writes {
            let (from, to) = ((*at).max(offset), (at + data.len() as u64).min(end));
            if from < to {
                // Lossless: both lie within buffers in memory.
                let part = |base: u64| (from - base) as usize..(to - base) as usize;
                out[part(offset)].copy_from_slice(&data[part(*at)]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.left.check()?;
        if self.flush == Flush::ReadOnly {
            let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
            overlay.len = Some(len);
            return Ok(());
        }
        self.dirty.store(true, Ordering::SeqCst);
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.left.check()?;
        if self.flush != Flush::ToDisk || !self.dirty.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.file.sync_data()?;
        self.dirty.store(false, Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.left.check()?;
        if self.flush == Flush::ReadOnly {
            let mut overlay = self.overlay.lock().unwrap_or_else(PoisonError::into_inner);
            overlay.writes.push((offset, data.to_vec()));
            return Ok(());
        }
        if offset == 0 && self.holds(data) {
            return Ok(());
        }
        self.dirty.store(true, Ordering::SeqCst);
        self.file.write_all_at(data, offset)
    }
}
