//! Opening a file that somebody else may have put there.
//!
//! Invariant: an open never blocks; a pipe without a writer would, for ever.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// What an error is of where something else than a file lies: a folder, a pipe, a device.
pub fn is_none(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::IsADirectory | ErrorKind::InvalidInput)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    open_as(path, OpenOptions::new().read(true))
}

/// Opens a file for reading and writing.
pub fn open_to_write(path: &Path) -> io::Result<File> {
    open_as(path, OpenOptions::new().read(true).write(true))
}

fn open_as(path: &Path, options: &OpenOptions) -> io::Result<File> {
    let found = fs::metadata(path)?;
    if found.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if !found.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    options.open(path)
}

/// Reads a file, at most `longest` bytes of it. What is no UTF-8 is replaced.
pub fn read(path: &Path, longest: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    open(path)?.take(longest).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes a pipe, for tests of what must not block.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test's helper may fail as a test does")]
pub fn make_pipe(path: &Path) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_is_opened() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        make_pipe(&pipe);
        for path in [dir.path(), &pipe, "/dev/null".as_ref()] {
            assert!(is_none(&open(path).unwrap_err()), "{}", path.display());
        }
        assert!(!is_none(&open(&dir.path().join("absent")).unwrap_err()));
        fs::write(dir.path().join("text"), "abc").unwrap();
        assert_eq!(read(&dir.path().join("text"), 2).unwrap(), "ab");
    }
}
