//! One lock file beside the store, taken by everybody, first come first served.
//!
//! Owns: flock(2) with a bound on the wait, and who holds it when the bound is over. Polling would
//! let newcomers pass those that wait; so a wait is a blocking one, in its turn ([`queue`]), in a
//! thread of its own, started only when the lock is held or others wait for it.
//! Invariant: a [`Lock`] holds the lock until it is dropped; a killed process holds none; nobody
//! holds a lock on a file that has lost its name.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fs2::FileExt;

use super::queue;
use crate::error::StoreError;
use crate::model::Wait;
use crate::sys;
use crate::telemetry::counters;

/// A lock that is held.
#[derive(Debug)]
pub struct Lock {
    file: Option<File>,
}

impl Lock {
    /// No lock: for a store that nobody can write to.
    pub fn none() -> Lock {
        Lock { file: None }
    }

    /// What the last holder left in the file, `buffer` long; `None` if there is less.
    pub fn note<'b>(&self, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        self.file.as_ref()?.read_exact_at(buffer, 0).ok()?;
        Some(buffer)
    }

    /// Leaves something for the next holder, or nothing. It is a hint that may be lost.
    pub fn leave_note(&self, note: &[u8]) {
        if let Some(file) = &self.file {
            let _ = if note.is_empty() { file.set_len(0) } else { file.write_all_at(note, 0) };
        }
    }
}

/// How long a call may wait, for all its locks together, and how long it has gone on.
#[derive(Debug)]
pub struct Patience {
    wait: Wait,
    spent: Cell<Duration>,
}

impl Patience {
    /// All of it.
    pub fn new(wait: Wait) -> Patience {
        Patience { wait, spent: Cell::default() }
    }

    /// All of it again: another call.
    pub fn renew(&self) {
        self.spent.set(Duration::ZERO);
    }

    fn waited(&self, took: Duration) {
        self.spent.set(self.spent.get() + took);
        counters::waited(took);
    }
}

/// Takes the exclusive lock on `path`, which is made (0600) if it is not there.
pub fn lock_file(path: &Path, wait: Wait) -> Result<Lock, StoreError> {
    take(path, &Patience::new(wait))
}

/// The same, as one of a call's.
pub fn take(path: &Path, patience: &Patience) -> Result<Lock, StoreError> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| StoreError::io("open the lock file", path, e))?;
        let inode = inode(&file.metadata());
        let lock = acquire(file, path, patience).or_else(|e| at_last(path, e))?;
        // Somebody may have removed the file while we waited: others lock another one then.
        if inode == self::inode(&fs::metadata(path)) {
            return Ok(lock);
        }
    }
}

/// Opens a file that is there, to read it, and takes the exclusive lock on it, as bolt does.
pub fn lock_to_read(path: &Path, wait: Wait) -> Result<(Lock, File), StoreError> {
    loop {
        let io = |e| StoreError::io("open", path, e);
        let file = sys::files::open(path).map_err(io)?;
        let copy = file.try_clone().map_err(io)?;
        let lock = acquire(file, path, &Patience::new(wait))?;
        // Another may have been put in its place while we waited.
        if inode(&copy.metadata()) == inode(&fs::metadata(path)) {
            return Ok((lock, copy));
        }
    }
}

fn inode(metadata: &io::Result<fs::Metadata>) -> Option<(u64, u64)> {
    metadata.as_ref().ok().map(|m| (m.dev(), m.ino()))
}

/// Takes the exclusive lock on an open file.
pub fn acquire(file: File, path: &Path, patience: &Patience) -> Result<Lock, StoreError> {
    let io = |e| StoreError::io("lock", path, e);
    // Who does not wait at all takes what is free.
    if patience.wait == Wait::Try || queue::is_empty(&file) {
        match FileExt::try_lock_exclusive(&file) {
            Ok(()) => return Ok(Lock { file: Some(file) }),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(io(e)),
        }
    }
    let bound = match patience.wait {
        Wait::For(bound) => bound.saturating_sub(patience.spent.get()),
        Wait::Try => Duration::ZERO,
        Wait::Forever => {
            let begin = Instant::now();
            lock_in_turn(&file, queue::join(&file)).map_err(io)?;
            patience.waited(begin.elapsed());
            return Ok(Lock { file: Some(file) });
        }
    };
    let inode = inode(&file.metadata());
    if bound > Duration::ZERO {
        let (done, waiting) = mpsc::sync_channel(1);
        let number = queue::join(&file);
        // If the bound runs out first, the thread still gets the lock some time, finds nobody
        // to give it to, and drops the file and the lock with it.
        thread::Builder::new()
            .name("lock".to_owned())
            .spawn(move || {
                let result = lock_in_turn(&file, number).map(|()| file);
                let _ = done.send(result);
            })
            .map_err(io)?;
        let begin = Instant::now();
        let waited = waiting.recv_timeout(bound);
        patience.waited(begin.elapsed());
        match waited {
            Ok(Ok(file)) => return Ok(Lock { file: Some(file) }),
            Ok(Err(e)) => return Err(io(e)),
            Err(_) => {}
        }
    }
    let holders = inode.map(|(_, ino)| holders(ino)).unwrap_or_default();
    Err(StoreError::Locked { path: path.to_owned(), waited: patience.spent.get(), holders })
}

/// When the bound is over: who is in front may be stopped, and the lock free. Opened anew, for what
/// waited in vain still does.
pub fn at_last(path: &Path, error: StoreError) -> Result<Lock, StoreError> {
    let StoreError::Locked { .. } = error else { return Err(error) };
    match sys::files::open_to_write(path) {
        Ok(file) if FileExt::try_lock_exclusive(&file).is_ok() => Ok(Lock { file: Some(file) }),
        _ => Err(error),
    }
}

fn lock_in_turn(file: &File, number: Option<queue::Number>) -> io::Result<()> {
    if let Some(number) = &number {
        number.wait(file);
    }
    // In front of all others: newcomers see that somebody waits until the lock is ours.
    let locked = FileExt::lock_exclusive(file);
    if let Some(number) = number {
        number.leave(file);
    }
    locked
}

/// A second guard, on the store file itself: the lock file's name may be removed by hand, and a
/// store may be reached by two names. Held as long as the file is open. Answers whether `path` still
/// leads to this file.
pub fn guard(file: &File, path: &Path) -> Result<bool, StoreError> {
    let io = |e| StoreError::io("lock", path, e);
    match FileExt::try_lock_exclusive(file) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
            let copy = file.try_clone().map_err(io)?;
            // Only who went past the lock file can be in the way, for a few milliseconds' work.
            acquire(copy, path, &Patience::new(Wait::For(Duration::from_secs(5))))?;
        }
        // Where this kind of lock cannot be had (a file that is open for reading, on NFS), the
        // first guard has to do.
        Ok(()) | Err(_) => {}
    }
    Ok(inode(&file.metadata()) == inode(&fs::metadata(path)))
}

/// Who holds a flock on this inode, as /proc/locks tells. The device is left out of the
/// comparison, for file systems with subvolumes show another one there than stat(2) does.
fn holders(inode: u64) -> Vec<u32> {
    let table = fs::read_to_string("/proc/locks").unwrap_or_default();
    let holder = |line: &str| -> Option<u32> {
        // "1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF"; those that wait have "->" after "1:".
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == "FLOCK").then_some(())?;
        let pid = words.nth(2)?;
        let file = words.next()?;
        (file.rsplit(':').next()? == inode.to_string()).then(|| pid.parse().ok())?
    };
    table.lines().filter_map(holder).filter(|pid| *pid != 0).collect()
}
