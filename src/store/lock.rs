//! One lock file beside the store, taken by everybody, first come first served.
//!
//! Owns: flock(2) with a bound on the wait, and who holds it when the bound is over. Polling would
//! let newcomers pass those that wait; so a wait is a blocking lock, in a thread of its own, started
//! only when the first try fails.
//! Invariant: a [`Lock`] holds the lock until it is dropped; a killed process holds none.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fs2::FileExt;

use crate::error::StoreError;
use crate::model::Wait;

/// A lock that is held.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// No lock: for a store that nobody can write to.
    pub(super) fn none() -> Lock {
        Lock { _file: None }
    }
}

/// Takes the exclusive lock on `path`, which is made (0600) if it is not there.
pub fn lock_file(path: &Path, wait: Wait) -> Result<Lock, StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| StoreError::io("open the lock file", path, e))?;
    acquire(file, path, wait)
}

/// Takes the exclusive lock on an open file.
pub(super) fn acquire(file: File, path: &Path, wait: Wait) -> Result<Lock, StoreError> {
    let io = |e| StoreError::io("lock", path, e);
    match FileExt::try_lock_exclusive(&file) {
        Ok(()) => return Ok(Lock { _file: Some(file) }),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
        Err(e) => return Err(io(e)),
    }
    let bound = match wait {
        Wait::For(bound) => bound,
        Wait::Try => Duration::ZERO,
        Wait::Forever => {
            FileExt::lock_exclusive(&file).map_err(io)?;
            return Ok(Lock { _file: Some(file) });
        }
    };
    let inode = file.metadata().ok().map(|m| (m.dev(), m.ino()));
    if bound > Duration::ZERO {
        let (done, waiting) = mpsc::sync_channel(1);
        // If the bound runs out first, the thread still gets the lock some time, finds nobody
        // to give it to, and drops the file and the lock with it.
        thread::Builder::new()
            .name("lock".to_owned())
            .spawn(move || {
                let result = FileExt::lock_exclusive(&file).map(|()| file);
                let _ = done.send(result);
            })
            .map_err(io)?;
        match waiting.recv_timeout(bound) {
            Ok(Ok(file)) => return Ok(Lock { _file: Some(file) }),
            Ok(Err(e)) => return Err(io(e)),
            Err(_) => {}
        }
    }
    let holders = inode.map(|(_, ino)| holders(ino)).unwrap_or_default();
    Err(StoreError::Locked { path: path.to_owned(), waited: bound, holders })
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
