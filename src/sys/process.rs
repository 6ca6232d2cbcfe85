//! The process: its preparation, its standard output, and what ends it.

use std::io::{self, ErrorKind, Write};
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

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

/// SIGTERM and SIGINT, for a program that runs until it is stopped. The first process of a container gets no
/// signal for which it has not asked.
pub struct Stop(mpsc::Receiver<()>);

impl Stop {
    /// Catches both signals from now on. For a process that has one thread.
    pub fn catch() -> io::Result<Stop> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        signals.thread_block()?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            // An error ends the program as a signal does.
            let _ = signals.wait();
            let _ = sender.send(());
        })?;
        Ok(Stop(receiver))
    }

    /// Waits; returns whether a signal came in this time.
    pub fn came_within(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }
}
