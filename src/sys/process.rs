//! The process: its preparation, and its standard output.

use std::io::{self, ErrorKind, Write};

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{OFlags, fcntl_getfl, fstat, makedev};

/// Prepares the process. Call it in the first line of `main`, so that threads that start later inherit the
/// settings.
///
/// A write beyond `RLIMIT_FSIZE` then fails with `EFBIG` like any other write. Without this, the kernel
/// ends the process with `SIGXFSZ`, and the caller gets no answer.
pub fn prepare() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // If it fails, the signal keeps its default action; nothing else depends on it.
    let _ = signals.thread_block();
}

/// Standard output without std's buffer, which splits an answer at its last newline into two writes.
///
/// If standard output is closed, std opens `/dev/null` for reading and writing in its place before `main`.
/// A write to it would seem to succeed, and the answer would be lost; here it fails. A caller that discards
/// the answer opens `/dev/null` for writing only.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = io::stdout();
        if fstat(&stdout)?.st_rdev == makedev(1, 3)
            && fcntl_getfl(&stdout)? & OFlags::ACCMODE == OFlags::RDWR
        {
            let text = "it is closed, or is /dev/null opened for reading and writing";
            return Err(io::Error::new(ErrorKind::BrokenPipe, text));
        }
        Ok(rustix::io::write(&stdout, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
