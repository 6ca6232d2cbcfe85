//! The operating system's file system with a hook: a test's function that is called before each operation.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::Result;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::store::embedded::fs::{Access, FileId, FileSystem, Os};

/// The operating system's file system with a hook, the function in `before`.
#[derive(Clone)]
pub struct Watched {
    /// Whether folders are reported as being on a network file system.
    pub is_shared: bool,
    /// A function that is called before each operation on a name, with a description of the operation. If the
    /// function returns an error, the operation fails with this error.
    pub before: Arc<Before>,
}

/// The type of [`Watched::before`].
pub type Before = dyn Fn(&'static str, &Path) -> Result<()> + Send + Sync;

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

impl FileSystem for Watched {
    type File = fs::File;
    fn open(&self, path: &Path, access: Access) -> Result<Option<fs::File>> {
        (self.before)("open", path)?;
        Os.open(path, access)
    }
    fn create(&self, path: &Path) -> Result<fs::File> {
        (self.before)("create", path)?;
        Os.create(path)
    }
    fn find(&self, path: &Path) -> Result<Option<FileId>> {
        (self.before)("find", path)?;
        Os.find(path)
    }
    fn link(&self, from: &Path, to: &Path) -> Result<()> {
        (self.before)("link", to)?;
        Os.link(from, to)
    }
    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        (self.before)("rename", to)?;
        Os.rename(from, to)
    }
    fn exchange(&self, one: &Path, other: &Path) -> Result<()> {
        (self.before)("exchange", other)?;
        Os.exchange(one, other)
    }
    fn remove(&self, path: &Path) -> Result<bool> {
        (self.before)("remove", path)?;
        Os.remove(path)
    }
    fn list(&self, folder: &Path) -> Result<Vec<OsString>> {
        Os.list(folder)
    }
    fn make_folder(&self, folder: &Path) -> Result<()> {
        Os.make_folder(folder)
    }
    fn sync_folder(&self, folder: &Path) -> Result<()> {
        (self.before)("sync_folder", folder)?;
        Os.sync_folder(folder)
    }
    fn is_shared(&self, _: &Path) -> Result<bool> {
        Ok(self.is_shared)
    }
    fn lock_holders(&self, file: FileId) -> Vec<u32> {
        Os.lock_holders(file)
    }
    fn pause(&self, time: Duration) -> Duration {
        Os.pause(time)
    }
}
