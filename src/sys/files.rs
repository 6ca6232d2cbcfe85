//! Opens files that other programs may have created or replaced, and replaces small files.
//!
//! Invariant: opening a file never blocks, even if the path leads to a pipe without a writer. If a file is
//! replaced, a reader sees either the complete old content or the complete new content.

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Returns the metadata of the file at a path, following links. `None` means that there is no file
/// (`ENOENT`). Any other failure is an error.
pub fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Returns whether an error means that the path leads to something other than a file, such as a folder, a
/// pipe or a device.
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

/// Opens a regular file. The file type is checked on the open descriptor. If it were checked on the path
/// before opening, another program could replace the file between the check and the opening.
fn open_as(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let other = || io::Error::new(ErrorKind::InvalidInput, "not a regular file");
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = match options.open(path) {
        // The path leads to a socket, a pipe without a reader, or a device without a driver.
        Err(e) if e.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => return Err(other()),
        opened => opened?,
    };
    let found = file.metadata()?;
    if found.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if found.is_file() { Ok(file) } else { Err(other()) }
}

/// Reads at most `longest` bytes of a file. Bytes that are not valid UTF-8 are replaced.
pub fn read(path: &Path, longest: u64) -> io::Result<String> {
    Ok(String::from_utf8_lossy(&read_bytes(path, longest)?).into_owned())
}

/// Reads at most `longest` bytes of a file.
pub fn read_bytes(path: &Path, longest: u64) -> io::Result<Vec<u8>> {
    // With a capacity of 512 bytes, a short file takes two reads: one for its content, and one that finds its
    // end. An empty vector takes more reads.
    let mut bytes = Vec::with_capacity(512);
    open(path)?.take(longest).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Creates a file with mode 0600, regardless of the umask. If a file of this name already exists, a killed
/// process has left it behind, so it is removed first.
pub fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
        _ => OpenOptions::new().write(true).create_new(true).mode(0o600).open(path),
    }
}

/// Replaces a file in one step. The file has mode 0600. Creates its folder with mode 0700 if the folder is
/// missing. The file is not flushed, so this is only for data that may be lost if the machine crashes. `mark`
/// makes the temporary name unique among processes that write at the same time.
pub fn put(path: &Path, bytes: &[u8], mark: &str) -> io::Result<()> {
    make_folder(path)?;
    let temporary = path.with_extension(mark);
    let written = create(&temporary).and_then(|mut file| file.write_all(bytes));
    let written = written.and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // If removing the temporary file fails, nothing more can be done.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Appends to an existing file.
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    open_as(path, OpenOptions::new().append(true))?.write_all(bytes)
}

/// Creates the folder of a file if it is missing, with mode 0700.
pub fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => DirBuilder::new().recursive(true).mode(0o700).create(folder),
        None => Ok(()),
    }
}

/// Creates a pipe, for testing functions that must not block.
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a helper of tests may panic")]
#[allow(clippy::missing_panics_doc, reason = "the test fails with this text")]
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
        let socket = dir.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [dir.path(), &pipe, &socket, "/dev/null".as_ref()] {
            for error in [open(path), open_to_write(path)].map(Result::unwrap_err) {
                assert!(is_none(&error), "{}: {error}", path.display());
            }
            assert!(is_none(&append(path, b"x").unwrap_err()), "{}", path.display());
        }
        assert!(!is_none(&open(&dir.path().join("absent")).unwrap_err()));
        fs::write(dir.path().join("text"), "abc").unwrap();
        assert_eq!(read(&dir.path().join("text"), 2).unwrap(), "ab");
    }

    #[test]
    fn a_pipe_that_takes_the_place_of_a_file_blocks_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("path"), dir.path().join("other"));
        fs::write(&path, "abc").unwrap();
        make_pipe(&other);
        let (sender, receiver) = std::sync::mpsc::channel();
        let opened = path.clone();
        std::thread::spawn(move || {
            for _ in 0..20_000 {
                // Opening may fail if the path is a pipe at this moment, but it must not block.
                let _ = open(&opened);
            }
            sender.send(()).unwrap();
        });
        let exchange = || {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE).unwrap();
        };
        let begin = std::time::Instant::now();
        while receiver.try_recv().is_err() {
            assert!(begin.elapsed().as_secs() < 60, "an open blocks");
            exchange();
        }
    }

    #[test]
    fn only_what_is_known_to_be_absent_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        std::os::unix::fs::symlink("absent", at("dangling")).unwrap();
        assert!(look(&at("file")).unwrap().unwrap().is_file());
        assert!(look(dir.path()).unwrap().unwrap().is_dir());
        assert!(look(&at("absent")).unwrap().is_none());
        assert!(look(&at("dangling")).unwrap().is_none());
        for error in [look(&at("loop")), look(&at("file/below"))] {
            error.unwrap_err();
        }
    }

    #[test]
    fn a_file_is_put_in_the_place_of_another() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (folder, path) = (dir.path().join("folder"), dir.path().join("folder/note"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for text in ["one", "two"] {
            // The temporary file that a killed process may have left behind must not prevent `put`.
            fs::create_dir_all(&folder).unwrap();
            fs::write(path.with_extension("m"), "half").unwrap();
            put(&path, text.as_bytes(), "m").unwrap();
            assert_eq!((fs::read_to_string(&path).unwrap().as_str(), mode(&path)), (text, 0o600));
        }
        let new = dir.path().join("new/note");
        put(&new, b"one", "m").unwrap();
        assert_eq!(mode(new.parent().unwrap()), 0o700);
        // If a folder has the file's name, the folder must stay, and no temporary file may be left in the
        // folder above it.
        fs::create_dir(folder.join("taken")).unwrap();
        put(&folder.join("taken"), b"one", "m").unwrap_err();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }
}
