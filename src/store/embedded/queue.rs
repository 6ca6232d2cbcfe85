//! The queue of processes that wait for a lock. The processes get the lock roughly in order of arrival.
//!
//! `flock(2)` grants a free lock to the first process that requests it. On a busy machine this is often a
//! process that is already running, so a process that sleeps between its attempts may never get the lock.
//! Therefore a process that has to wait takes a position in a queue: it locks one byte of the lock file,
//! after the bytes of all other waiting processes. New processes see these bytes and join the queue. When a
//! process ends, the kernel releases its byte. The queue only orders the waiting processes and never grants
//! the lock. If the system does not support locks on single bytes, or if the process at the head of the queue
//! is stopped, other processes still get the lock.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, c_int, flock, off_t};

/// Describes a lock on `len` bytes from offset `from`; a `len` of 0 means all bytes up to the end of the
/// file.
fn bytes(kind: c_int, from: u64, len: u64) -> flock {
    flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(SEEK_SET).unwrap_or_default(),
        l_start: off_t::try_from(from).unwrap_or(off_t::MAX),
        l_len: off_t::try_from(len).unwrap_or_default(),
        l_pid: 0,
    }
}

/// Returns the offset and the length of a lock that another open file description holds on any of these
/// bytes.
pub fn held(file: &File, from: u64, len: u64) -> Result<Option<(u64, u64)>, Errno> {
    let mut found = bytes(F_WRLCK, from, len);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    let unsigned = |n: off_t| u64::try_from(n).unwrap_or_default();
    let is_held = c_int::from(found.l_type) != F_UNLCK;
    Ok(is_held.then(|| (unsigned(found.l_start), unsigned(found.l_len))))
}

/// Joins the queue behind all other processes, and returns this process's position. Returns `None` if the
/// file system does not support queues.
pub fn join(file: &File) -> Option<u64> {
    let mut place = 0;
    loop {
        match held(file, place, 0) {
            // A lock on the whole file is not a position in the queue: on NFS, each `flock` appears as a lock
            // on the whole file.
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

/// Returns how many positions `place` is behind the head of the queue; 0 at the head, or if the queue cannot
/// be read.
pub fn places_ahead(file: &File, place: u64) -> u64 {
    if place == 0 {
        return 0;
    }
    match held(file, 0, place) {
        Ok(Some((start, _))) => place.saturating_sub(start),
        Ok(None) | Err(_) => 0,
    }
}

/// Gives up a position in the queue.
pub fn leave(file: &File, place: u64) {
    // If this fails, the position is released when the process ends.
    let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(F_UNLCK, place, 1)));
}
