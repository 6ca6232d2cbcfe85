//! Writes host-local's lease files for a network, so that host-local can take over from sublet.
//!
//! The files have the format that host-local reads (`plugins/ipam/host-local/backend/disk`): one file for
//! each address, with the container ID and the interface, and `last_reserved_ip.N`.
//! Invariant: host-local's own lock is held while anything is written. A file gets its final name only once
//! it is complete. If a file already names another container, the export fails. All existing files are
//! checked before the first file is written.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::host_local_import::LONGEST;
use crate::error::StoreError;
use crate::model::{Attachment, Wait};
use crate::net::Addr;
use crate::store::{FileSystem, Lock, Os, lock_file};
use crate::sys::files;

/// The folder of a network, into which the leases are written for host-local.
pub struct Folder {
    /// The folder to which the files are written. It may still have a temporary name.
    dir: PathBuf,
    /// The folder's final path, if the text file that an earlier import left is still there.
    taken_over: Option<PathBuf>,
    /// host-local's lock; `None` in a dry run, which creates no files.
    lock: Option<Lock>,
}

/// The result of writing the leases.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The addresses whose files were written.
    pub written: Vec<Addr>,
    /// The addresses whose files already had the right content.
    pub present: Vec<Addr>,
    /// The addresses that have a file in the folder, but are not among the exported leases.
    pub others: Vec<Addr>,
}

impl Folder {
    /// Creates the folder if it is missing, and locks it. If an earlier import left a text file at the
    /// folder's path, this function creates the folder under a temporary name, and [`Folder::finish`] swaps
    /// the folder and the file.
    pub fn open(dir: &Path, dry_run: bool, wait: Wait) -> Result<Folder, StoreError> {
        let found = files::look(dir).map_err(|e| StoreError::io("access", dir, e))?;
        let is_file = found.is_some_and(|found| !found.is_dir());
        let target = dir;
        let mut dir = target.to_owned();
        if is_file {
            let mut name = dir.into_os_string();
            // A network name cannot contain `~`, so host-local never uses a folder with this name.
            name.push("~export");
            dir = name.into();
        }
        let lock = if dry_run {
            None
        } else {
            if is_file {
                discard(&dir)?;
            }
            // Use the mode that host-local uses.
            let made = DirBuilder::new().recursive(true).mode(0o755).create(&dir);
            made.map_err(|e| StoreError::io("create the folder", &dir, e))?;
            Some(lock_file(&dir.join("lock"), wait)?)
        };
        Ok(Folder { dir, taken_over: is_file.then(|| target.to_owned()), lock })
    }

    /// Renames the folder to its final name. The change is durable when this function returns. Before the
    /// change, host-local finds a text file at this path and fails. After the change, it finds the folder
    /// with all leases.
    pub fn finish(self) -> Result<(), StoreError> {
        if self.lock.is_none() {
            return Ok(());
        }
        let target = self.taken_over.as_ref().unwrap_or(&self.dir);
        let parent = target.parent().unwrap_or(Path::new("."));
        let exchanged = match &self.taken_over {
            Some(target) => Os.exchange(&self.dir, target),
            None => Ok(()),
        };
        exchanged
            .and_then(|()| Os.sync_folder(parent))
            .and_then(|()| {
                self.taken_over.as_ref().map_or(Ok(()), |_| Os.remove(&self.dir).map(drop))
            })
            .map_err(|e| {
                StoreError::io("replace sublet's marker file with host-local's folder:", target, e)
            })
    }

    /// Writes the files of the leases.
    pub fn write(&self, leases: &[(Addr, &Attachment)]) -> Result<Written, StoreError> {
        let mut done = Written { others: self.others(leases)?, ..Written::default() };
        let mut contents = Vec::new();
        for (addr, attachment) in leases {
            let path = self.dir.join(addr.to_string());
            let content = content_of(attachment);
            match files::read(&path, LONGEST) {
                Ok(found) if found.trim() == content => {
                    done.present.push(*addr);
                    continue;
                }
                // If host-local was killed, it may have left an empty file, which belongs to no container.
                Ok(found) if found.trim().is_empty() => {}
                Ok(found) => return Err(taken(&path, &found)),
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("read", &path, e)),
            }
            done.written.push(*addr);
            contents.push(content);
        }
        if self.lock.is_none() {
            return Ok(done);
        }
        for (addr, content) in done.written.iter().zip(contents) {
            self.put(&addr.to_string(), &content)?;
        }
        self.flush()?;
        Ok(done)
    }

    /// Writes each range set's last allocated address to `last_reserved_ip.N`, where N is the index of the
    /// range set.
    pub fn write_last(&self, last: &[Addr]) -> Result<(), StoreError> {
        if self.lock.is_none() {
            return Ok(());
        }
        for (index, addr) in last.iter().enumerate() {
            self.put(&format!("last_reserved_ip.{index}"), &addr.to_string())?;
        }
        self.flush()
    }

    /// Returns the addresses that have a lease file but are not among `leases`.
    fn others(&self, leases: &[(Addr, &Attachment)]) -> Result<Vec<Addr>, StoreError> {
        let names = Os.list(&self.dir);
        let names = names.map_err(|e| StoreError::io("read the folder", &self.dir, e))?;
        let ours: BTreeSet<Addr> = leases.iter().map(|(addr, _)| *addr).collect();
        let others = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        let mut others: Vec<Addr> = others.filter(|addr| !ours.contains(addr)).collect();
        others.sort_unstable();
        Ok(others)
    }

    fn put(&self, name: &str, content: &str) -> Result<(), StoreError> {
        let path = self.dir.join(name);
        // The temporary name is not an address, so after a crash no program mistakes the file for a lease.
        let new = self.dir.join(".sublet.new");
        let written = (|| {
            let mut file = files::create(&new)?;
            file.write_all(content.as_bytes())?;
            file.sync_all()?;
            Os.rename(&new, &path)
        })();
        written.map_err(|e| StoreError::io("write", &path, e))
    }

    fn flush(&self) -> Result<(), StoreError> {
        Os.sync_folder(&self.dir).map_err(|e| StoreError::io("flush the folder", &self.dir, e))
    }
}

/// Removes what an interrupted export left behind: the folder, or the text file that was swapped with it.
fn discard(dir: &Path) -> Result<(), StoreError> {
    let removed = match fs::symlink_metadata(dir) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(dir),
        Ok(_) => fs::remove_file(dir),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    };
    removed.map_err(|e| StoreError::io("remove", dir, e))
}

/// Returns the content of a lease file as host-local writes it. If the interface is unknown, returns the
/// content that old releases of host-local wrote.
fn content_of(attachment: &Attachment) -> String {
    match &attachment.ifname {
        Some(ifname) => format!("{}\r\n{ifname}", attachment.container),
        None => attachment.container.to_string(),
    }
}

fn taken(path: &Path, content: &str) -> StoreError {
    let holder: String = content.trim().chars().take(80).collect();
    let why = format!(
        "the file already names a different container, {holder:?}; if that container is gone, remove the \
         file; otherwise free the address in sublet with `sublet release`"
    );
    StoreError::io("write", path, io::Error::new(ErrorKind::AlreadyExists, why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ContainerId, IfName, NetworkName};

    fn attachment(container: &str, ifname: Option<&str>) -> Attachment {
        Attachment {
            network: NetworkName::new("net").unwrap(),
            container: ContainerId::new(container).unwrap(),
            ifname: ifname.map(|i| IfName::new(i).unwrap()),
        }
    }

    fn open(dir: &Path) -> Folder {
        Folder::open(dir, false, Wait::Try).unwrap()
    }

    #[test]
    fn a_file_of_another_container_is_an_error_and_stays() {
        let lab = tempfile::tempdir().unwrap();
        let dir = lab.path().join("net");
        let (a, b) = (attachment("a", Some("eth0")), attachment("b", None));
        let (one, two) = ("10.0.0.2".parse().unwrap(), "10.0.0.3".parse().unwrap());
        let leases = [(one, &a), (two, &b)];
        let dry = Folder::open(&dir, true, Wait::Try).unwrap();
        assert_eq!(dry.write(&leases).unwrap().written, [one, two]);
        assert!(!dir.exists());

        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("10.0.0.3"), "other\r\neth0").unwrap();
        fs::write(dir.join("10.0.0.9"), "gone\r\neth0").unwrap();
        fs::write(dir.join("10.0.0.2"), "").unwrap();
        let refused = open(&dir).write(&leases).unwrap_err().to_string();
        assert!(refused.contains("10.0.0.3") && refused.contains("other"), "{refused}");
        assert_eq!(fs::read_to_string(dir.join("10.0.0.2")).unwrap(), "", "nothing by halves");

        fs::remove_file(dir.join("10.0.0.3")).unwrap();
        let done = open(&dir).write(&leases).unwrap();
        assert_eq!((done.written, done.others.len()), (vec![one, two], 1));
        let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        assert_eq!((text("10.0.0.2"), text("10.0.0.3")), ("a\r\neth0".into(), "b".into()));
        assert_eq!(text("10.0.0.9"), "gone\r\neth0");

        let again = open(&dir).write(&leases).unwrap();
        assert_eq!((again.written, again.present), (vec![], vec![one, two]));
    }
}
