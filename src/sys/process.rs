//! Settings of the process, its standard output, and the signals that end it.

use std::io::{self, ErrorKind, Write};
use std::sync::mpsc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{OFlags, fcntl_getfl, fstat, makedev};

/// Prepares the process. Call this in the first line of `main`, so that threads that start later inherit the
/// settings.
///
/// A write beyond `RLIMIT_FSIZE` then fails with the error `EFBIG`. Otherwise the kernel would kill the
/// process with `SIGXFSZ`, and the caller would get no result.
pub fn prepare() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // If blocking the signal fails, the signal can still kill the process, but nothing else depends on this.
    let _ = signals.thread_block();
}

/// Standard output without the buffer of the standard library, which could split a result into two writes.
///
/// If standard output is closed, the standard library opens `/dev/null` for reading and writing in its place,
/// before `main` runs. A write would then seem to succeed although the result is lost, so `Stdout` returns an
/// error instead. A caller that wants to discard the result must open `/dev/null` only for writing.
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stdout = io::stdout();
        if fstat(&stdout)?.st_rdev == makedev(1, 3)
            && fcntl_getfl(&stdout)? & OFlags::ACCMODE == OFlags::RDWR
        {
            let text = "standard output is closed, or is /dev/null opened for reading and writing";
            return Err(io::Error::new(ErrorKind::BrokenPipe, text));
        }
        Ok(rustix::io::write(&stdout, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Receives SIGTERM and SIGINT, for a program that runs until it is stopped. The first process of a container
/// receives only the signals that it handles, so a program that ignored these two could not be stopped in a
/// container.
pub struct Stop(mpsc::Receiver<()>);

impl Stop {
    /// Starts to receive both signals. The process must have only one thread at this time.
    pub fn catch() -> io::Result<Stop> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        signals.thread_block()?;
        let (sender, receiver) = mpsc::channel();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            // If waiting fails, the program stops as if a signal had arrived.
            let _ = signals.wait();
            let _ = sender.send(());
        })?;
        Ok(Stop(receiver))
    }

    /// Waits for a signal for at most `time`. Returns whether a signal arrived.
    pub fn came_within(&self, time: Duration) -> bool {
        self.0.recv_timeout(time) != Err(RecvTimeoutError::Timeout)
    }
}
