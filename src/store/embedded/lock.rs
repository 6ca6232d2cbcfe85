//! The two lock files of a store, and all other locks that sublet takes with `flock(2)`.
//!
//! A [`Patience`] limits the total time that one call waits for all its locks. A waiting process polls the
//! lock; [`super::queue`] determines which process gets the lock first. So waiting needs no threads, and
//! leaves nothing behind after a timeout. A stopped process at the head of the queue delays the other
//! processes by little more than [`GRACE`]. A [`Lock`] is held until it is dropped; the kernel releases the
//! locks of a killed process. Once a lock file has been removed or replaced, no process can take its lock.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::Result;
use super::fs::{Access, FileSystem, OpenFile, Os};
use crate::error::StoreError;
use crate::model::Wait;
use crate::telemetry::counters;

/// A lock that this process holds.
#[derive(Debug)]
pub struct Lock<F: FileSystem = Os> {
    file: Option<F::File>,
}

impl<F: FileSystem> Lock<F> {
    /// Makes a placeholder for a lock. Used if no process can write to the store, so no lock is needed.
    pub fn none() -> Lock<F> {
        Lock { file: None }
    }

    /// Returns the locked file.
    pub fn file(&self) -> Option<&F::File> {
        self.file.as_ref()
    }
}

/// The time that a call may still spend waiting for locks.
#[derive(Debug)]
pub struct Patience {
    wait: Wait,
    spent: Cell<Duration>,
}

impl Patience {
    /// Starts the waiting time of a new call.
    pub fn new(wait: Wait) -> Patience {
        Patience { wait, spent: Cell::default() }
    }

    /// Restores the full time, for the next call.
    pub fn renew(&self) {
        self.spent.set(Duration::ZERO);
    }

    /// Returns how long the call may wait next: at most `time`. Returns `None` if its waiting time is used
    /// up.
    fn allows(&self, time: Duration) -> Option<Duration> {
        match self.wait {
            Wait::Forever => Some(time),
            Wait::Try => None,
            Wait::For(all) => {
                Some(time.min(all.saturating_sub(self.spent.get()))).filter(|time| !time.is_zero())
            }
        }
    }

    fn spend(&self, time: Duration) {
        self.spent.set(self.spent.get() + time);
        counters::waited(time);
    }
}

/// How long the queue may stand still while the lock is free. After this time, the process at its head is
/// considered stopped, and other processes may take the lock.
const GRACE: Duration = Duration::from_millis(20);

/// The time between two attempts of the process at the head of the queue. The other processes in the queue
/// try less often.
const STEP: Duration = Duration::from_micros(250);

/// Takes the lock file `path`. Creates it with mode 0600 if it is missing.
pub fn take<F: FileSystem>(fs: &F, path: &Path, patience: &Patience) -> Result<Lock<F>> {
    let io = |e| StoreError::io("open the lock file", path, e);
    loop {
        let file = match fs.open(path, Access::Write).map_err(io)? {
            Some(file) => file,
            None => match fs.create(path) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                file => file.map_err(io)?,
            },
        };
        if let Some(lock) = wait(fs, file, path, patience)? {
            return Ok(lock);
        }
    }
}

/// Takes the lock of an existing file: a lock file (for readers), or a file of another program. `None` if
/// there is no such file.
pub fn take_existing<F: FileSystem>(
    fs: &F,
    path: &Path,
    access: Access,
    patience: &Patience,
) -> Result<Option<Lock<F>>> {
    loop {
        let opened = fs.open(path, access).map_err(|e| StoreError::io("open", path, e))?;
        let Some(file) = opened else { return Ok(None) };
        if let Some(lock) = wait(fs, file, path, patience)? {
            return Ok(Some(lock));
        }
    }
}

/// Waits for the lock of an open file. Returns `None` if the file was removed or replaced in the meantime,
/// because other processes then lock the file that now has the name.
pub fn wait<F: FileSystem>(
    fs: &F,
    file: F::File,
    path: &Path,
    patience: &Patience,
) -> Result<Option<Lock<F>>> {
    let io = |e| StoreError::io("lock", path, e);
    let id = file.id().map_err(io)?;
    // A call that must not wait takes a free lock even if other processes are in the queue.
    let passes = patience.wait == Wait::Try || !file.has_queue();
    if !(passes && file.try_lock().map_err(io)?) {
        let place = file.join_queue();
        let got = poll(fs, &file, place, patience);
        if let Some(place) = place {
            file.leave_queue(place);
        }
        if !got.map_err(io)? {
            return Err(locked(fs, &file, path, patience).map_err(io)?);
        }
    }
    Ok((fs.find(path).map_err(io)? == Some(id)).then_some(Lock { file: Some(file) }))
}

/// Takes the lock file `path`, and creates it if it is missing. Used for host-local's lock and for the local
/// lock of a cluster's node.
pub fn lock_file(path: &Path, wait: Wait) -> Result<Lock> {
    take(&Os, path, &Patience::new(wait))
}

/// Opens an existing file for reading, and takes its exclusive lock, as the bolt database does.
pub fn lock_to_read(path: &Path, wait: Wait) -> Result<(Lock, std::fs::File)> {
    let io = |e| StoreError::io("open", path, e);
    let lock = take_existing(&Os, path, Access::Read, &Patience::new(wait))?;
    let lock = lock.ok_or_else(|| io(rustix::io::Errno::NOENT.into()))?;
    let copy = lock.file().map(std::fs::File::try_clone).transpose().map_err(io)?;
    copy.map(|file| (lock, file)).ok_or_else(|| io(rustix::io::Errno::NOENT.into()))
}

/// Makes the error for a call that has used up its waiting time.
pub fn locked<F: FileSystem>(
    fs: &F,
    file: &F::File,
    path: &Path,
    patience: &Patience,
) -> io::Result<StoreError> {
    let (holders, waited) = (fs.lock_holders(file.id()?), patience.spent.get());
    Ok(StoreError::Locked { path: path.to_owned(), waited, holders })
}

/// Tries to take the lock until it succeeds or the waiting time is used up. `place` is this process's
/// position in the queue, if it has one. Returns whether this process holds the lock.
pub fn poll<F: FileSystem>(
    fs: &F,
    file: &F::File,
    place: Option<u64>,
    patience: &Patience,
) -> io::Result<bool> {
    let places_ahead = || place.map_or(0, |place| file.places_ahead(place));
    let mut ahead_before = 0;
    let mut since_try = Duration::ZERO;
    loop {
        let ahead = places_ahead();
        // The number of processes ahead has changed, so the queue is advancing and the process at its head is
        // not stopped.
        if ahead != ahead_before {
            ahead_before = ahead;
            since_try = Duration::ZERO;
        }
        let longest = STEP * u32::try_from(ahead.clamp(1, 20)).unwrap_or(20);
        let time = patience.allows(longest);
        if ahead == 0 || time.is_none() {
            if file.try_lock()? {
                return Ok(true);
            }
        } else if since_try >= GRACE {
            since_try = Duration::ZERO;
            // The queue has not advanced. If the lock is free, the process at the head of the queue must be
            // stopped.
            if file.try_lock()? {
                file.unlock()?;
                patience.spend(fs.pause(GRACE / 4));
                if places_ahead() == ahead && file.try_lock()? {
                    return Ok(true);
                }
            }
        }
        let Some(time) = time else { return Ok(false) };
        let time = fs.pause(time);
        patience.spend(time);
        since_try += time;
    }
}
