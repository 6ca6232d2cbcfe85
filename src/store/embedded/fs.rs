//! The file operations of the embedded store. The store accesses the operating system only through this
//! module.
//!
//! The store's code is generic over [`FileSystem`], so that tests can replace the kernel with a simulator;
//! [`Os`] uses the kernel. Every failure is an error, with one exception: if a file does not exist
//! (`ENOENT`), the result is `None`, `false` or an empty list. Callers therefore need not interpret error
//! kinds.

use std::ffi::OsString;
use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};

use super::queue;

/// The device and the inode of a file, which identify it.
pub type FileId = (u64, u64);

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Read,
    /// Reading and writing.
    Write,
}

/// A file system: operations on files by path.
pub trait FileSystem: Clone + Debug + Send + Sync + 'static {
    /// An open regular file.
    type File: OpenFile;

    /// Opens a regular file; `None` if there is no file. Never blocks, and does not follow a symbolic link in
    /// the last component of the path. The error is `IsADirectory` for a folder, and `InvalidInput` for any
    /// other file that is not a regular file.
    fn open(&self, path: &Path, access: Access) -> io::Result<Option<Self::File>>;

    /// Creates an empty file with mode 0600, open for reading and writing. The error is `AlreadyExists` if
    /// the name exists.
    fn create(&self, path: &Path) -> io::Result<Self::File>;

    /// Returns the device and inode of the file at a path, without following a symbolic link; `None` if there
    /// is no file.
    fn find(&self, path: &Path) -> io::Result<Option<FileId>>;

    /// Gives a file a second name. The error is `AlreadyExists` if that name exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Renames a file. If a file with the new name exists, it is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Exchanges two names in one step (`renameat2` with `RENAME_EXCHANGE`).
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()>;

    /// Removes a file. Returns `false` if there was no file.
    fn remove(&self, path: &Path) -> io::Result<bool>;

    /// Returns the names in a folder; an empty list if there is no folder.
    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>>;

    /// Creates a folder and missing parent folders with mode 0700. An existing folder keeps its mode.
    fn make_folder(&self, folder: &Path) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Returns whether other machines may have access to this folder, because it is on a network or cluster
    /// file system.
    fn is_shared(&self, folder: &Path) -> io::Result<bool>;

    /// Returns the IDs of the processes that hold the lock of a file. Some may be missing, if they cannot be
    /// determined.
    fn lock_holders(&self, file: FileId) -> Vec<u32>;

    /// Waits for about `time`. Returns how much time has passed.
    fn pause(&self, time: Duration) -> Duration;
}

/// An open regular file. Dropping it releases its lock.
pub trait OpenFile: Debug + Send + Sync + Sized + 'static {
    /// Reads bytes from `offset` on, until `buffer` is full or the file ends. Returns the number of bytes
    /// read.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes all bytes at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Returns the length of the file, in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Sets the file's length, in bytes: truncates the file, or appends zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the content of the file durable (`fdatasync`).
    fn sync_data(&self) -> io::Result<()>;

    /// Returns the device and the inode of the file.
    fn id(&self) -> io::Result<FileId>;

    /// Returns the permission bits of the file.
    fn mode(&self) -> io::Result<u32>;

    /// Takes the exclusive lock of the file. Returns `false` if another process holds it.
    fn try_lock(&self) -> io::Result<bool>;

    /// Releases the lock of the file.
    fn unlock(&self) -> io::Result<()>;

    /// Returns whether a process is waiting in the queue for the lock.
    fn has_queue(&self) -> bool;

    /// Joins the queue for the lock, and returns this process's position in the queue; `None` if the file
    /// system does not support queues.
    fn join_queue(&self) -> Option<u64>;

    /// Returns the number of positions ahead of `place` in the queue; 0 at the head of the queue.
    fn places_ahead(&self, place: u64) -> u64;

    /// Leaves the queue.
    fn leave_queue(&self, place: u64);
}

/// Fills `buffer` with bytes from `offset` on. Returns `false` if the file ends before the buffer is full.
pub fn read_exact<F: OpenFile>(file: &F, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
    Ok(file.read_at(buffer, offset)? == buffer.len())
}

/// Reads a whole file. The error is `FileTooLarge` if the file has more than `limit` bytes.
pub fn read_all<F: OpenFile>(file: &F, limit: u64) -> io::Result<Vec<u8>> {
    let len = file.length()?;
    if len > limit {
        return Err(ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// The operating system's file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Os;

impl FileSystem for Os {
    type File = File;

    fn open(&self, path: &Path, access: Access) -> io::Result<Option<File>> {
        // Without `NONBLOCK`, opening a FIFO would wait until a process opens its other end.
        let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC).bits();
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        #[allow(clippy::cast_possible_wrap, reason = "open(2) takes the flags as an int")]
        let file = match options.custom_flags(flags as i32).open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) if rustix::io::Errno::from_io_error(&e) == Some(rustix::io::Errno::LOOP) => {
                return Err(io::Error::other(
                    "the path is a symbolic link; name the target file instead",
                ));
            }
            file => file?,
        };
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        if !found.file_type().is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Some(file))
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn find(&self, path: &Path) -> io::Result<Option<FileId>> {
        match fs::symlink_metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(|found| Some((found.dev(), found.ino()))),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
    }

    fn remove(&self, path: &Path) -> io::Result<bool> {
        match fs::remove_file(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            removed => removed.map(|()| true),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        match fs::read_dir(folder) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            entries => entries?.map(|entry| Ok(entry?.file_name())).collect(),
        }
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn is_shared(&self, folder: &Path) -> io::Result<bool> {
        // 32-bit magic numbers, from linux/magic.h and from the file systems' own headers.
        const SHARED: [u32; 13] = [
            0x6969,      // NFS
            0x517b,      // SMB
            0xfe53_4d42, // SMB2
            0xff53_4d42, // CIFS
            0x0102_1997, // 9P
            0x00c3_6400, // Ceph
            0x5346_414f, // AFS
            0x7375_7245, // Coda
            0x0116_1970, // GFS2
            0x7461_636f, // OCFS2
            0x0bd0_0bd0, // Lustre
            0x6573_5546, // FUSE: sshfs, GlusterFS
            0x564c,      // NCP
        ];
        let found = rustix::fs::statfs(folder)?;
        // The size of `f_type` depends on the architecture, but the magic numbers always fit into 32 bits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
        Ok(SHARED.contains(&(found.f_type as u32)))
    }

    /// Finds the processes that hold the lock, in `/proc/locks`. The device is not compared, because for file
    /// systems with subvolumes `/proc/locks` shows a different device than `stat(2)` returns.
    fn lock_holders(&self, file: FileId) -> Vec<u32> {
        let table = fs::read_to_string("/proc/locks").unwrap_or_default();
        let holder = |line: &str| -> Option<u32> {
            // "1: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF"; a waiting process has "->" after "1:".
            let mut words = line.split_whitespace().skip(1);
            (words.next()? == "FLOCK").then_some(())?;
            let pid = words.nth(2)?;
            let inode = words.next()?.rsplit(':').next()?;
            (inode == file.1.to_string()).then(|| pid.parse().ok())?
        };
        table.lines().filter_map(holder).filter(|pid| *pid != 0).collect()
    }

    #[allow(clippy::disallowed_methods, reason = "waits for a lock are bounded polls")]
    fn pause(&self, time: Duration) -> Duration {
        let begin = Instant::now();
        std::thread::sleep(time);
        begin.elapsed()
    }
}

impl OpenFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match FileExt::read_at(self, &mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn length(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        File::sync_data(self)
    }

    fn id(&self) -> io::Result<FileId> {
        self.metadata().map(|found| (found.dev(), found.ino()))
    }

    fn mode(&self) -> io::Result<u32> {
        self.metadata().map(|found| found.mode() & 0o777)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match fs2::FileExt::try_lock_exclusive(self) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            locked => locked.map(|()| true),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        fs2::FileExt::unlock(self)
    }

    fn has_queue(&self) -> bool {
        // If the queue cannot be read, it is treated as empty.
        matches!(queue::held(self, 0, 0), Ok(Some(_)))
    }

    fn join_queue(&self) -> Option<u64> {
        queue::join(self)
    }

    fn places_ahead(&self, place: u64) -> u64 {
        queue::places_ahead(self, place)
    }

    fn leave_queue(&self, place: u64) {
        queue::leave(self, place);
    }
}
