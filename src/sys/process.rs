//! The process itself: what to set up before anything else runs.

use nix::sys::signal::{SigSet, Signal};

/// Prepares the process. For the first line of `main`: threads that start later inherit it.
///
/// A write beyond `RLIMIT_FSIZE` then fails with `EFBIG` like any other write. Without this, the kernel
/// ends the process with `SIGXFSZ`, and the caller gets no answer.
pub fn prepare() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // If it fails, the signal keeps its default action; nothing else depends on it.
    let _ = signals.thread_block();
}
