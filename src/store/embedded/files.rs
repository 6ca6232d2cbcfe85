//! The files of an embedded store: their names, how one is made, what one is.
//!
//! Owns: `<file>` (leases of this boot), `<file>.keep` (what outlives a boot), `<file>.boot` (which
//! boot `<file>` belongs to), `<file>.last-boot` (the one before, for history), and a lock beside
//! each of the two.
//! Invariant: a file appears under its name only when it is whole, and on disk where it must outlive
//! a power cut; no existing file is ever overwritten.

use std::error::Error;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lock;
use super::lock::{Lock, Patience};
use crate::error::StoreError;
use crate::sys;

/// Where an embedded store lies.
#[derive(Clone, Debug)]
pub struct Files {
    path: PathBuf,
}

impl Files {
    /// The files around `path`.
    pub fn new(path: PathBuf) -> Files {
        Files { path }
    }

    /// Leases that end with the boot.
    pub fn boot_leases(&self) -> &Path {
        &self.path
    }

    /// What outlives a boot.
    pub fn keep(&self) -> PathBuf {
        beside(&self.path, ".keep")
    }

    /// Which boot the leases belong to.
    pub fn boot_mark(&self) -> PathBuf {
        beside(&self.path, ".boot")
    }

    /// The ended boot's leases.
    pub fn last_boot(&self) -> PathBuf {
        beside(&self.path, ".last-boot")
    }

    /// The next boot's leases, before they get their name.
    pub fn next_boot(&self) -> PathBuf {
        beside(&self.path, ".next")
    }

    /// The folder.
    pub fn folder(&self) -> PathBuf {
        folder(&self.path)
    }

    /// Makes the folder, and those above it, for root's eyes only; one that exists keeps its mode.
    pub fn make_folder(&self) -> Result<(), StoreError> {
        let folder = self.folder();
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|e| StoreError::io("make the folder", &folder, e))
    }
}

/// The name of a file beside another.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Takes the lock beside a store file.
pub fn lock(path: &Path, patience: &Patience) -> Result<Lock, StoreError> {
    lock::take(&beside(path, ".lock"), patience)
}

/// The same for one who only looks: where nothing can be written there may be no lock file, and
/// nobody to be kept out; where no store is, nothing is to be seen.
pub fn lock_to_look(path: &Path, patience: &Patience) -> Result<Lock, StoreError> {
    let name = beside(path, ".lock");
    // Only who may write can wait in turn.
    let opened = sys::files::open_to_write(&name)
        .or_else(|e| if is_forbidden(&e) { sys::files::open(&name) } else { Err(e) });
    match opened {
        Ok(file) => lock::acquire(file, &name, patience).or_else(|e| lock::at_last(&name, e)),
        Err(e) if e.kind() == ErrorKind::NotFound && !path.exists() => Ok(Lock::none()),
        Err(e) if e.kind() == ErrorKind::NotFound => match lock::take(&name, patience) {
            Err(StoreError::Unavailable { source, .. }) if is_forbidden(&*source) => {
                Ok(Lock::none())
            }
            other => other,
        },
        Err(e) => Err(StoreError::io("open the lock file", &name, e)),
    }
}

/// Whether the system said that nothing may be written there.
fn is_forbidden(e: &(dyn Error + 'static)) -> bool {
    let kind = e.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied))
}

/// redb's magic number.
const REDB: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
/// bolt's, in its first page behind the page's header of 16 bytes.
const BOLT: u32 = 0xed0c_daed;

/// What lies under a name, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A redb file, perhaps ours.
    Redb,
    /// bolt's, as the original ecs-ipam keeps its leases.
    Bolt,
    /// A folder.
    Folder,
    /// Nothing at all.
    Empty,
    /// The beginning of a redb file, and no more.
    Torn,
    /// Something else.
    Other,
}

/// Tells what lies under a name, and opens it if it is a file; `None` if nothing does. Looked at
/// first: to open a pipe could take for ever.
pub fn probe(path: &Path, write: bool) -> Result<Option<(Option<File>, Content)>, StoreError> {
    let io = |e| StoreError::io("open the lease store", path, e);
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(found) => {
            return Ok(Some((None, if found.is_dir() { Content::Folder } else { Content::Other })));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io(e)),
    }
    let mut file = OpenOptions::new().read(true).write(write).open(path).map_err(io)?;
    let mut start = Vec::new();
    Read::by_ref(&mut file).take(20).read_to_end(&mut start).map_err(io)?;
    let content = match &*start {
        [] => Content::Empty,
        start if start.starts_with(REDB) => Content::Redb,
        start if REDB.starts_with(start) => Content::Torn,
        start if start.get(16..20) == Some(&BOLT.to_le_bytes()) => Content::Bolt,
        _ => Content::Other,
    };
    Ok(Some((Some(file), content)))
}

/// Opens a store file, or tells that there is none. What is not redb's is refused before redb sees
/// it.
pub fn open(path: &Path, write: bool) -> Result<Option<File>, StoreError> {
    let Some((file, content)) = probe(path, write)? else {
        return Ok(None);
    };
    let damaged =
        |what: &str| Err(StoreError::Damaged { path: path.to_owned(), what: what.to_owned() });
    let elsewhere = "move it away, or name another file".to_owned();
    let (what, advice) = match content {
        Content::Redb => return Ok(file),
        Content::Empty => return damaged("it is empty (0 bytes)"),
        Content::Torn => return damaged("it ends within its first bytes"),
        Content::Bolt => (
            "it is a bolt file, as the original ecs-ipam keeps",
            format!(
                "take its leases over with `sublet import ecs-ipam {}`, or name another file",
                path.display()
            ),
        ),
        Content::Folder => ("it is a folder", "name a file in it".to_owned()),
        Content::Other => ("it is no redb file", elsewhere),
    };
    Err(StoreError::Foreign { path: path.to_owned(), what: what.to_owned(), advice })
}

/// Makes a file: written by `fill` under another name, then given its name. `fill` gets a new, empty
/// file of mode 0600, and flushes it where a power cut must not tear it.
pub fn make(
    path: &Path,
    fill: impl FnOnce(File, &Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let temporary = beside(path, ".new");
    // Left by a predecessor that was killed. Under the lock nobody else is at it.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(StoreError::io("remove the unfinished", &temporary, e));
        }
        _ => {}
    }
    let io = |e| StoreError::io("make", path, e);
    let made = (|| {
        let new = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io)?;
        fill(new, &temporary)?;
        fs::rename(&temporary, path).map_err(io)
    })();
    if made.is_err() {
        // Best effort: the next one removes it as well.
        let _ = fs::remove_file(&temporary);
    }
    made
}

/// Makes a file's name durable, and the names of the folders above it: whoever made them may have
/// been killed before it flushed any.
pub fn flush_names(path: &Path) -> Result<(), StoreError> {
    let lowest = folder(path);
    let mut device = None;
    for folder in lowest.ancestors() {
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let io = |e| StoreError::io("flush the folder", folder, e);
        let opened = match File::open(folder) {
            Ok(opened) => opened,
            // We read what we made; what we may not read was there before.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && device.is_some() => break,
            Err(e) => return Err(io(e)),
        };
        let on = opened.metadata().map_err(io)?.dev();
        if *device.get_or_insert(on) != on {
            break;
        }
        opened.sync_all().map_err(io)?;
    }
    Ok(())
}

/// Makes a small text file that outlives a power cut.
pub fn make_text(path: &Path, text: &str) -> Result<(), StoreError> {
    make(path, |mut file, name| {
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(|e| StoreError::io("write", name, e))
    })?;
    flush_names(path)
}

/// Whether a folder lies on a file system that other machines may see. What they lease there is not
/// ours to judge by our boot.
pub fn is_shared(folder: &Path) -> bool {
    // Magic numbers of linux/magic.h and the file systems' own headers, 32 bits each.
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
    // The width of f_type differs between architectures; the numbers have 32 bits on all.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::unnecessary_cast)]
    rustix::fs::statfs(folder).is_ok_and(|fs| SHARED.contains(&(fs.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Wait;

    #[test]
    fn one_who_looks_goes_without_a_lock_only_where_none_can_be_made() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("leases");
        let at_once = Patience::new(Wait::Try);
        let name = beside(&store, ".lock");
        drop(lock_to_look(&store, &at_once).unwrap());
        assert!(!name.exists(), "a lock file where no store is");
        File::create(&store).unwrap();
        drop(lock_to_look(&store, &at_once).unwrap());
        assert!(name.exists());
        fs::remove_file(&name).unwrap();
        let refused =
            || matches!(lock_to_look(&store, &at_once), Err(StoreError::Unavailable { .. }));
        fs::create_dir(&name).unwrap();
        assert!(refused(), "a folder");
        fs::remove_dir(&name).unwrap();
        sys::files::make_pipe(&name);
        assert!(refused(), "a pipe");
        fs::remove_file(&name).unwrap();
        // The name of nothing: it can be neither opened nor made, and not for want of permission.
        std::os::unix::fs::symlink("absent/lock", &name).unwrap();
        assert!(refused(), "a dangling link");
    }

    #[test]
    fn what_the_system_forbids() {
        let is = |kind: ErrorKind| is_forbidden(&io::Error::from(kind));
        assert!(is(ErrorKind::ReadOnlyFilesystem) && is(ErrorKind::PermissionDenied));
        assert!(!is(ErrorKind::NotFound) && !is(ErrorKind::IsADirectory));
    }
}
