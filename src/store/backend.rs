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
//! - Otherwise it stays there until [`Switch::go`]: at opening redb fits its header to whatever
//!   length the file has, before it finds out that the file was torn. A file that is refused is
//!   left as it was found.
//!
//! Invariant: what reaches the file reaches it in redb's order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// Turns a backend's writes on and off, from outside of redb.
#[derive(Clone, Debug, Default)]
pub struct Switch(Arc<AtomicU8>);

// At 0 nothing reaches the file yet.
const GOING: u8 = 1;
const LEFT: u8 = 2;

impl Switch {
    /// From now on what redb writes reaches the file; first of all what it has written before.
    pub fn go(&self) {
        self.0.store(GOING, Ordering::SeqCst);
    }

    /// From now on nothing reaches the file. redb takes the refusals for a failing disk and closes
    /// without further ado; a transaction that is open then is rolled back.
    pub fn leave(&self) {
        self.0.store(LEFT, Ordering::SeqCst);
    }
}

/// redb's view of the file.
#[derive(Debug)]
pub struct Backend {
    file: File,
    flush: Flush,
    dirty: AtomicBool,
    switch: Switch,
    /// What has not reached the file.
    overlay: Mutex<Vec<Step>>,
}

/// What redb did to the file.
#[derive(Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Len(u64),
    Sync,
}

/// The header's page: the part of the file that redb rewrites unchanged.
const HEADER: usize = 4096;

impl Backend {
    /// A backend over an open file. The first flush is never left out: a predecessor may have
    /// been killed between its writes and its flush.
    pub fn new(file: File, flush: Flush) -> (Backend, Switch) {
        let switch = Switch::default();
        let dirty = AtomicBool::new(true);
        (Backend { file, flush, dirty, switch: switch.clone(), overlay: Mutex::default() }, switch)
    }

    fn overlay(&self) -> MutexGuard<'_, Vec<Step>> {
        self.overlay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does a step, or keeps it in memory.
    fn take(&self, step: Step) -> io::Result<()> {
        match self.switch.0.load(Ordering::SeqCst) {
            LEFT => Err(io::Error::other("the store was left")),
            GOING if self.flush != Flush::ReadOnly => {
                for held in std::mem::take(&mut *self.overlay()) {
                    self.carry_out(&held)?;
                }
                self.carry_out(&step)
            }
            _ => {
                self.overlay().push(step);
                Ok(())
            }
        }
    }

    fn carry_out(&self, step: &Step) -> io::Result<()> {
        match step {
            Step::Write(0, data) if self.holds(data) => {}
            Step::Write(offset, data) => {
                self.dirty.store(true, Ordering::SeqCst);
                self.file.write_all_at(data, *offset)?;
            }
            Step::Len(len) => {
                self.dirty.store(true, Ordering::SeqCst);
                self.file.set_len(*len)?;
            }
            Step::Sync => {
                if self.flush == Flush::ToDisk && self.dirty.load(Ordering::SeqCst) {
                    self.file.sync_data()?;
                    self.dirty.store(false, Ordering::SeqCst);
                }
            }
        }
        Ok(())
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
        let set = self.overlay().iter().rev().find_map(|step| match step {
            Step::Len(len) => Some(*len),
            _ => None,
        });
        match set {
            Some(len) => Ok(len),
            None => Ok(self.file.metadata()?.len()),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let overlay = self.overlay();
        if overlay.is_empty() {
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
        for step in &*overlay {
            let Step::Write(at, data) = step else { continue };
            let (from, to) = ((*at).max(offset), (at + data.len() as u64).min(end));
            if from < to {
                #[allow(clippy::cast_possible_truncation, reason = "both lie in buffers in memory")]
                let part = |base: u64| (from - base) as usize..(to - base) as usize;
                out[part(offset)].copy_from_slice(&data[part(*at)]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.take(Step::Len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.take(Step::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take(Step::Write(offset, data.to_vec()))
    }
}
