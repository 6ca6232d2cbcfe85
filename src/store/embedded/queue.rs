//! The order of those that wait for a lock.
//!
//! flock(2) wakes whoever waits longest, but gives the lock to whoever asks first once it is free. On
//! a busy machine that is a newcomer that runs already; who waits has to be given a processor first,
//! and may starve. So newcomers come first only where nobody waits: who waits has a number, which is
//! a lock on that byte of the file, behind everybody else's, and asks for the flock only when nobody
//! is left before it.
//!
//! Owns: the numbers. Does not own: the lock itself, which stays a plain flock that any program can
//! take. Invariant: a number is free again when its process has ended, however it ended; where
//! numbers cannot be had (a file that is open for reading only) the order is the system's.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc::{F_UNLCK, F_WRLCK, SEEK_SET, c_int, flock, off_t};

/// A place in the queue of a file.
#[derive(Debug)]
pub struct Number(off_t);

/// Bytes of a file, or all from a place on.
fn bytes(kind: c_int, from: off_t, len: off_t) -> flock {
    let kind = i16::try_from(kind).unwrap_or_default();
    let whence = i16::try_from(SEEK_SET).unwrap_or_default();
    flock { l_type: kind, l_whence: whence, l_start: from, l_len: len, l_pid: 0 }
}

/// Everything from there on.
const TO_THE_END: off_t = 0;

/// A lock that others hold at or behind `from`; `None` if there is none.
fn of_others(file: &File, from: off_t) -> Result<Option<flock>, Errno> {
    let mut found = bytes(F_WRLCK, from, TO_THE_END);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
    Ok((c_int::from(found.l_type) != F_UNLCK).then_some(found))
}

/// Whether nobody waits. Where that cannot be known, nobody seems to.
pub fn is_empty(file: &File) -> bool {
    !matches!(of_others(file, 0), Ok(Some(_)))
}

/// Takes the number behind all others.
pub fn join(file: &File) -> Option<Number> {
    let mut number = 0;
    loop {
        match of_others(file, number) {
            // Not a number: NFS makes such a lock of a flock.
            Ok(Some(other)) if other.l_len == TO_THE_END => return None,
            Ok(Some(other)) => number = other.l_start.saturating_add(other.l_len),
            Ok(None) => match fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(F_WRLCK, number, 1))) {
                Ok(_) => return Some(Number(number)),
                Err(Errno::EAGAIN | Errno::EACCES) => {}
                Err(_) => return None,
            },
            Err(_) => return None,
        }
    }
}

impl Number {
    /// Waits until nobody is left before this one.
    pub fn wait(&self, file: &File) {
        // The one before alone wakes this one. It may have been killed before its turn: then others
        // are left.
        for (from, len) in [(self.0 - 1, 1), (0, self.0)] {
            if self.0 > 0 {
                // A failure costs the order and nothing else.
                while fcntl(file, FcntlArg::F_OFD_SETLKW(&bytes(F_WRLCK, from, len)))
                    == Err(Errno::EINTR)
                {}
            }
        }
    }

    /// Gives the number back.
    pub fn leave(self, file: &File) {
        let _ = fcntl(file, FcntlArg::F_OFD_SETLK(&bytes(F_UNLCK, 0, self.0 + 1)));
    }
}
