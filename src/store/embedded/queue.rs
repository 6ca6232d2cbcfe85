//! The order of processes that wait for a lock: roughly first come, first served.
//!
//! `flock(2)` grants a free lock to the first process that requests it. On a busy machine that is often a
//! newcomer that is already running, so a sleeping process may starve. Therefore a process that has to wait
//! takes a place in a queue: a lock on one byte of the lock file, after all other places. Newcomers see the
//! places and queue up. A place ends with its process. The queue orders the waiting but decides nothing: if
//! the system does not support such locks, or if the process at the head is stopped, other processes still
//! get the lock.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, c_int, flock, off_t};

/// A lock on the bytes from `from` on; a length of 0 means all of them.
fn bytes(kind: c_int, from: u64, len: u64) -> flock {
    flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(SEEK_SET).unwrap_or_default(),
        l_start: off_t::try_from(from).unwrap_or(off_t::MAX),
        l_len: off_t::try_from(len).unwrap_or_default(),
        l_pid: 0,
    }
}

/// First byte and length of a lock that another open file holds within these bytes.
pub fn held(file: &File, from: u64, len: u64) -> Result<Option<(u64, u64)>, Errno> {
    let mut found = bytes(F_WRLCK, from, len);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    let unsigned = |n: off_t| u64::try_from(n).unwrap_or_default();
    let is_held = c_int::from(found.l_type) != F_UNLCK;
    Ok(is_held.then(|| (unsigned(found.l_start), unsigned(found.l_len))))
}

/// Takes the place after all others.
pub fn join(file: &File) -> Option<u64> {
    let mut place = 0;
    loop {
        match held(file, place, 0) {
            // A lock on the whole file is not a place: NFS turns each flock into one.
            Ok(Some((_, 0))) | Err(_) => return None,
            Ok(Some((start, len))) => place = start.saturating_add(len),
            Ok(None) => match fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(F_WRLCK, place, 1))) {
                Ok(_) => return Some(place),
                Err(Errno::EAGAIN | Errno::EACCES) => {}
                Err(_) => return None,
            },
        }
    }
}

/// The distance to the process at the head of the queue, as far as it is visible; 0 if no process is ahead.
pub fn places_ahead(file: &File, place: u64) -> u64 {
    if place == 0 {
        return 0;
    }
    match held(file, 0, place) {
        Ok(Some((start, _))) => place.saturating_sub(start),
        Ok(None) | Err(_) => 0,
    }
}

/// Leaves the queue.
pub fn leave(file: &File, place: u64) {
    // If this fails, the place ends with the process.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(F_UNLCK, place, 1)));
}
