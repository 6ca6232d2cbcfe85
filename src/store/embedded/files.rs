//! The names of a store's files, and how files are created. A new file appears completely or not at all. It
//! never replaces an existing file, except in [`replace`].

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::fs::{Access, FileSystem, OpenFile};
use super::lock::{Lock, Patience};
use super::{Result, lock};
use crate::error::StoreError;
use crate::model::BootId;

/// The names of a store's files.
#[derive(Clone, Debug)]
pub struct Names {
    durable: PathBuf,
}

impl Names {
    /// Makes the names for the store whose lease file is `file`.
    pub fn new(file: PathBuf) -> Names {
        Names { durable: file }
    }

    /// Returns `<file>`, the path of the file with durable leases.
    pub fn durable(&self) -> &Path {
        &self.durable
    }

    /// Returns the path of the file with the boot leases of one boot.
    pub fn boot(&self, boot: &BootId) -> PathBuf {
        beside(&self.durable, &format!("{BOOT}{}", boot.0))
    }

    /// Returns the boot ID in the name of a boot file; `None` for other files in the folder.
    pub fn boot_of(&self, name: &str) -> Option<BootId> {
        let file = self.durable.file_name()?.to_str()?;
        let id = name.strip_prefix(file)?.strip_prefix(BOOT)?;
        let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        is_id.then(|| BootId(id.to_owned()))
    }

    /// Returns the path of the policy file, which contains the operators' reservations.
    pub fn policy(&self) -> PathBuf {
        beside(&self.durable, ".policy")
    }

    /// Returns the path of the first lock file, which protects `<file>` and the policy.
    pub fn lock(&self) -> PathBuf {
        beside(&self.durable, ".lock")
    }

    /// Returns the path of the second lock file, which protects the boot files.
    pub fn boot_lock(&self) -> PathBuf {
        beside(&self.durable, ".boot.lock")
    }

    /// Returns the folder that contains all these files.
    pub fn folder(&self) -> &Path {
        folder(&self.durable)
    }
}

const BOOT: &str = ".boot-";

/// Returns the path with `suffix` appended to the file's name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the temporary name under which a file is written before it gets its final name.
pub fn temporary(path: &Path) -> PathBuf {
    beside(path, ".new")
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Takes the lock of a store for reading. On a read-only file system, the lock file may be missing. No
/// process can write there, so no lock is needed.
pub fn lock_to_read<F: FileSystem>(fs: &F, path: &Path, patience: &Patience) -> Result<Lock<F>> {
    match lock::take(fs, path, patience) {
        Err(StoreError::Unavailable { source, .. }) if is_forbidden(&*source) => {
            let lock = lock::take_existing(fs, path, Access::Read, patience)?;
            Ok(lock.unwrap_or_else(Lock::none))
        }
        lock => lock,
    }
}

/// Returns whether an error means that the operating system does not allow writing to the file.
fn is_forbidden(e: &(dyn std::error::Error + 'static)) -> bool {
    let kind = e.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied))
}

/// redb's magic number.
const REDB: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// bolt's magic number. It is at offset 16, after the header of the first page.
const BOLT: u32 = 0xed0c_daed;

/// The kind of file at a path.
#[derive(Debug)]
pub enum Content<File> {
    /// There is no file.
    Absent,
    /// A redb file, probably a lease file of sublet.
    Redb(File),
    /// A bolt file, such as that of the original ecs-ipam.
    Bolt,
    /// A file of 0 bytes.
    Empty,
    /// A file that contains only the beginning of redb's magic number.
    Torn,
    /// Any other kind of file. The text describes the file in an error message, for example: "the path is a
    /// folder".
    Other(&'static str),
}

/// Determines the kind of file at a path, from the file's first bytes.
pub fn probe<F: FileSystem>(fs: &F, path: &Path, access: Access) -> Result<Content<F::File>> {
    let io = |e| StoreError::io("open the lease store", path, e);
    let file = match fs.open(path, access) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(Content::Absent),
        Err(e) if e.kind() == ErrorKind::IsADirectory => {
            return Ok(Content::Other("the path is a folder"));
        }
        Err(e) if e.kind() == ErrorKind::InvalidInput => {
            return Ok(Content::Other("the path is not a regular file"));
        }
        Err(e) => return Err(io(e)),
    };
    let mut start = [0; 20];
    let len = file.read_at(&mut start, 0).map_err(io)?;
    Ok(match &start[..len] {
        [] => Content::Empty,
        start if start.starts_with(REDB) => Content::Redb(file),
        start if REDB.starts_with(start) => Content::Torn,
        start if start.get(16..20) == Some(&BOLT.to_le_bytes()) => Content::Bolt,
        _ => Content::Other("the file is not a redb file"),
    })
}

/// Opens a lease file; `None` if there is no file. A file that is not a redb file is refused before redb
/// reads it.
pub fn open<F: FileSystem>(fs: &F, path: &Path, access: Access) -> Result<Option<F::File>> {
    let damaged =
        |what: &str| Err(StoreError::Damaged { path: path.to_owned(), what: what.to_owned() });
    let (what, advice) = match probe(fs, path, access)? {
        Content::Absent => return Ok(None),
        Content::Redb(file) => return Ok(Some(file)),
        Content::Empty => return damaged("the file is empty (0 bytes)"),
        Content::Torn => return damaged("the file ends within the header"),
        Content::Bolt => (
            "the file is a bolt file, the format of the original ecs-ipam",
            format!("convert the file with `sublet import ecs-ipam {}`", path.display()),
        ),
        Content::Other(what) => (what, "move the file away, or name a different file".to_owned()),
    };
    Err(StoreError::Foreign { path: path.to_owned(), what: what.to_owned(), advice })
}

/// Creates a file under a temporary name, and then adds its final name with `link`. If a file of that name
/// exists, it stays and the result is an error. `fill` writes the new file, and flushes it if it must survive
/// a power cut.
pub fn create<F: FileSystem>(
    fs: &F,
    path: &Path,
    fill: impl FnOnce(F::File, &Path) -> Result<()>,
) -> Result<()> {
    let new = temporary(path);
    make(fs, path, &new, fill)?;
    let linked = fs.link(&new, path).map_err(|e| StoreError::io("create", path, e));
    // If the temporary name cannot be removed now, the next process that needs the name removes it, and so
    // does `doctor --repair`.
    let _ = fs.remove(&new);
    linked
}

/// Replaces the file at `path` in three steps. The new file is written under a temporary name. The old file
/// additionally gets the name `aside`, if one is passed. Then the new file is renamed to `path`. After each
/// step, `path` refers to a complete file. `before` runs right before the last step. No other code in the
/// store renames a file over another file.
pub fn replace<F: FileSystem>(
    fs: &F,
    path: &Path,
    aside: Option<&Path>,
    fill: impl FnOnce(F::File, &Path) -> Result<()>,
    before: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let io = |e| StoreError::io("replace", path, e);
    let new = temporary(path);
    make(fs, path, &new, fill)?;
    let linked = match aside {
        Some(aside) => {
            fs.link(path, aside).map_err(|e| StoreError::io("keep the old file as", aside, e))
        }
        None => Ok(()),
    };
    let done = linked.and_then(|()| before()).and_then(|()| fs.rename(&new, path).map_err(io));
    if done.is_err() {
        let _ = fs.remove(&new);
    }
    done
}

fn make<F: FileSystem>(
    fs: &F,
    path: &Path,
    new: &Path,
    fill: impl FnOnce(F::File, &Path) -> Result<()>,
) -> Result<()> {
    // If the temporary file exists, a killed process has left it behind. The caller holds the lock, so no
    // other process uses the temporary file.
    fs.remove(new).map_err(|e| StoreError::io("remove the unfinished file", new, e))?;
    let made = fs.create(new).map_err(|e| StoreError::io("create", path, e));
    let filled = made.and_then(|file| fill(file, new));
    if filled.is_err() {
        let _ = fs.remove(new);
    }
    filled
}

/// Makes the names of a file and of the folders above it durable. This includes folders that another process
/// created, because that process may have been killed before it flushed them.
pub fn sync_names<F: FileSystem>(fs: &F, path: &Path) -> Result<()> {
    let lowest = folder(path);
    let device = |path: &Path| fs.find(path).map(|id| id.map(|(device, _)| device));
    let io = |folder: &Path, e| StoreError::io("flush the folder", folder, e);
    let on = device(lowest).map_err(|e| io(lowest, e))?;
    for folder in lowest.ancestors() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        if device(folder).map_err(|e| io(folder, e))? != on {
            break;
        }
        match fs.sync_folder(folder) {
            // A folder that this process created is readable. A folder that cannot be read existed before, so
            // its name is durable.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && folder != lowest => break,
            synced => synced.map_err(|e| io(folder, e))?,
        }
    }
    Ok(())
}
