//! Replaces the files in a folder, keeps the old files, and restores them. Each name is changed atomically.
//!
//! Invariant: at any time, a name leads to the complete old file or to the complete new file, and the old
//! file is kept as NAME.old. Files are never changed in place, because the old file may be a running program.
//! The folder itself is locked as long as its [`Folder`] value exists. No lock file is needed, and the lock
//! ends with the process.

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;

use crate::cli::misuse;
use crate::store::{FileSystem as _, Os};
use crate::sys::files;

/// The names of the temporary files. No plugin or configuration has one of these names. If a run is killed,
/// its temporary files remain until the next run removes them.
const NEXT: &str = ".sublet.new";
const FORMER: &str = ".sublet.old";

/// How long to wait for another run that has locked the folder.
const WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// A locked folder.
pub struct Folder {
    path: PathBuf,
    file: File,
}

/// A file or link to put under a name.
pub enum New {
    /// A regular file with this content and mode.
    File { bytes: Vec<u8>, mode: u32 },
    /// A symbolic link to this path.
    Link(PathBuf),
}

/// A file and what was done to it: one line of the output.
#[derive(Debug, Serialize)]
pub struct Row {
    file: PathBuf,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Action {
    Installed,
    Replaced,
    Unchanged,
    Restored,
    Removed,
}

impl Row {
    /// Returns whether the name now leads to a different file than before.
    pub fn is_change(&self) -> bool {
        self.action != Action::Unchanged
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match self.action {
            Action::Installed => write!(f, "{file}: installed"),
            Action::Replaced => {
                write!(f, "{file}: replaced; the previous file was kept as {file}.old")
            }
            Action::Unchanged => write!(f, "{file}: up to date"),
            Action::Restored => write!(f, "{file}: restored from {file}.old"),
            Action::Removed => write!(f, "{file}: removed"),
        }
    }
}

impl Folder {
    /// Creates the folder if it is missing, and locks it.
    pub fn make(path: &Path) -> Result<Folder> {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
        made.and_then(|()| Folder::open(path)).with_context(|| cannot("write to", path))
    }

    /// Locks a folder; returns `None` if the folder does not exist.
    pub fn find(path: &Path) -> Result<Option<Folder>> {
        match Folder::open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some).with_context(|| cannot("write to", path)),
        }
    }

    fn open(path: &Path) -> io::Result<Folder> {
        let file = File::open(path)?;
        let mut waited = Duration::ZERO;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Err(e) if e == rustix::io::Errno::WOULDBLOCK && waited < WAIT => {
                    waited += Os.pause(PAUSE);
                }
                Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
                    let text = "another `sublet install` or `sublet uninstall` is running in this folder; \
                                try again later";
                    return Err(io::Error::new(ErrorKind::ResourceBusy, text));
                }
                locked => break locked?,
            }
        }
        Os.remove(&path.join(NEXT))?;
        Os.remove(&path.join(FORMER))?;
        Ok(Folder { path: path.to_owned(), file })
    }

    /// Fails if one of the options in `others` names this folder, too, because a folder cannot be locked
    /// twice.
    pub fn refuse_same(&self, others: &[(&str, Option<&Path>)]) -> Result<()> {
        let own = self.file.metadata().with_context(|| cannot("look at", &self.path))?;
        for (option, path) in others {
            let Some(path) = path else { continue };
            let found = files::look(path).with_context(|| cannot("look at", path))?;
            if found.is_some_and(|found| is_same(&found, &own)) {
                return Err(misuse(format!("`{option}` and `--to` must name different folders")));
            }
        }
        Ok(())
    }

    /// Fails if one of the names is a folder.
    pub fn check_names<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Result<()> {
        for name in names {
            let at = self.path.join(name);
            if self.look(name)?.is_some_and(|found| found.is_dir()) {
                bail!("cannot replace {}: the path is a folder", at.display());
            }
        }
        Ok(())
    }

    /// Puts `new` under a name, and keeps the old file as NAME.old. If the name already leads to the same
    /// content, changes nothing.
    pub fn put(&self, name: &str, new: &New) -> Result<Row> {
        let at = self.path.join(name);
        let put = || -> io::Result<Action> {
            if self.has(name, new)? {
                return Ok(Action::Unchanged);
            }
            let next = self.path.join(NEXT);
            write(&next, new)?;
            let is_kept = self.keep(name)?;
            fs::rename(&next, &at)?;
            // Flush the folder, because the new name must survive a power failure.
            self.file.sync_all()?;
            Ok(if is_kept { Action::Replaced } else { Action::Installed })
        };
        let done = put();
        if done.is_err() {
            // Ignore a failure, because the next run removes the temporary file anyway.
            let _ = Os.remove(&self.path.join(NEXT));
        }
        let action = done.with_context(|| cannot("write", &at))?;
        Ok(Row { file: at, action })
    }

    /// Returns whether a name is a link to `target`. It does not matter which program created the link.
    pub fn is_link_to(&self, name: &str, target: &Path) -> Result<bool> {
        self.leads_to(name, target).with_context(|| cannot("look at", &self.path.join(name)))
    }

    /// Returns whether a name already leads to the content of `new`.
    pub fn is_already(&self, name: &str, new: &New) -> Result<bool> {
        self.has(name, new).with_context(|| cannot("read", &self.path.join(name)))
    }

    /// Returns whether an earlier run was killed between [`Folder::restore`] and [`Folder::forget`]. The name
    /// and NAME.old then lead to the same file.
    pub fn is_restored(&self, name: &str) -> Result<bool> {
        let (own, former) = (self.look(name)?, self.look(&old(name))?);
        Ok(own.zip(former).is_some_and(|(own, former)| is_same(&own, &former)))
    }

    /// Puts the file NAME.old back under its name. If there is no NAME.old, removes the name. NAME.old itself
    /// stays until [`Folder::forget`], so that a later run detects an unfinished uninstall.
    pub fn restore(&self, name: &str) -> Result<Row> {
        let at = self.path.join(name);
        let restore = || -> io::Result<Action> {
            let former = self.path.join(FORMER);
            let action = match fs::hard_link(self.path.join(old(name)), &former) {
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    Os.remove(&at)?;
                    Action::Removed
                }
                linked => {
                    linked.and_then(|()| fs::rename(&former, &at))?;
                    Action::Restored
                }
            };
            self.file.sync_all()?;
            Ok(action)
        };
        let action = restore().with_context(|| cannot("restore", &at))?;
        Ok(Row { file: at, action })
    }

    /// Removes NAME.old.
    pub fn forget(&self, name: &str) -> Result<()> {
        self.remove(&old(name)).map(drop)
    }

    /// Removes a file; returns `None` if it does not exist.
    pub fn remove(&self, name: &str) -> Result<Option<Row>> {
        let at = self.path.join(name);
        let removed = Os.remove(&at).with_context(|| cannot("remove", &at))?;
        Ok(removed.then_some(Row { file: at, action: Action::Removed }))
    }

    /// Returns the metadata of the file or link with this name. Does not follow a link.
    fn look(&self, name: &str) -> Result<Option<Metadata>> {
        let at = self.path.join(name);
        look(&at).with_context(|| cannot("look at", &at))
    }

    fn has(&self, name: &str, new: &New) -> io::Result<bool> {
        match new {
            New::Link(target) => self.leads_to(name, target),
            New::File { bytes, mode } => {
                // `files::look` follows links. So if a package has created a link to the same program, the
                // link is kept.
                let found = files::look(&self.path.join(name))?;
                let is_alike =
                    |m: Metadata| m.is_file() && m.permissions().mode() & 0o7777 == *mode;
                Ok(found.is_some_and(is_alike) && self.has_content(name, bytes)?)
            }
        }
    }

    /// Returns whether a link leads to `target`. This includes a link with a different path that resolves to
    /// the same file.
    fn leads_to(&self, name: &str, target: &Path) -> io::Result<bool> {
        let at = self.path.join(name);
        if !look(&at)?.is_some_and(|found| found.is_symlink()) {
            return Ok(false);
        }
        let ends = (files::look(&at)?, files::look(&self.path.join(target))?);
        let is_same = matches!(ends, (Some(one), Some(other)) if is_same(&one, &other));
        Ok(is_same || fs::read_link(&at)? == target)
    }

    fn has_content(&self, name: &str, bytes: &[u8]) -> io::Result<bool> {
        match files::open(&self.path.join(name)) {
            Err(e) if e.kind() == ErrorKind::NotFound || files::is_none(&e) => Ok(false),
            file => {
                let mut found = Vec::new();
                file?.read_to_end(&mut found)?;
                Ok(found == bytes)
            }
        }
    }

    /// Gives the file or link the additional name NAME.old. Returns `false` if it does not exist.
    fn keep(&self, name: &str) -> io::Result<bool> {
        let former = self.path.join(FORMER);
        match fs::hard_link(self.path.join(name), &former) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            linked => linked?,
        }
        fs::rename(&former, self.path.join(old(name)))?;
        // If NAME.old already led to this file, rename(2) did nothing, and the temporary name still exists.
        Os.remove(&former)?;
        Ok(true)
    }
}

fn old(name: &str) -> String {
    format!("{name}.old")
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Like [`files::look`], but does not follow a link.
fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

/// Writes a complete file durably and sets its mode, regardless of the umask. For a link, creates the link.
fn write(path: &Path, new: &New) -> io::Result<()> {
    match new {
        New::Link(target) => symlink(target, path),
        New::File { bytes, mode } => {
            let mut file = files::create(path)?;
            file.write_all(bytes)?;
            file.set_permissions(Permissions::from_mode(*mode))?;
            file.sync_all()
        }
    }
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}
