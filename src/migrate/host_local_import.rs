//! Reads the leases that host-local left in a network's folder.
//!
//! The format is that of `plugins/ipam/host-local/backend/disk`. Each address has a file with the address as
//! its name. The file contains the container ID and, since version 0.8.6, the interface on a second line. The
//! other files are `last_reserved_ip.N` and `lock`. The module `alloc::takeover` determines which of the
//! leases are imported.
//! Invariant: host-local's own lock is held as long as a [`Folder`] exists, that is, during the whole import.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::alloc::{ForeignLease, LegacyCursor};
use crate::config::Cleanup;
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Attachment, ContainerId, IfName, Kind, NetworkName, Owner};
use crate::model::{StoreSpec, Timestamp, Wait};
use crate::net::Addr;
use crate::store::{FileSystem, Lock, OpenFile, Os, lock_file};
use crate::sys::files;

/// Where host-local keeps a network's leases.
#[derive(Clone, Copy, Debug)]
pub struct HostLocalFolder<'a> {
    /// The network's folder, which may not exist.
    pub dir: &'a Path,
    /// The network to which the leases belong.
    pub network: &'a NetworkName,
    /// How long to wait for the lock of host-local.
    pub wait: Wait,
}

impl HostLocalFolder<'_> {
    /// Returns the folder to import. Returns `None` for a cluster, because host-local's folder contains only
    /// one host's leases.
    pub fn of(cleanup: &Cleanup) -> Option<HostLocalFolder<'_>> {
        let StoreSpec::Embedded { wait, .. } = cleanup.store else { return None };
        let dir = cleanup.legacy_dir.as_deref()?;
        Some(HostLocalFolder { dir, network: &cleanup.network, wait })
    }
}

/// The content of a folder, and host-local's lock.
pub struct Folder {
    /// The leases in the folder.
    pub leases: Vec<ForeignLease>,
    /// The last allocated addresses.
    pub cursors: Vec<LegacyCursor>,
    dir: PathBuf,
    _lock: Lock,
}

/// The maximum size of a lease file, in bytes. A valid file contains two names and is much shorter.
pub const LONGEST: u64 = 64 * 1024;

/// Returns whether host-local's leases of a network are still in the network's folder. If there is a file or
/// nothing at the folder's path, the leases have been imported, or host-local never served the network.
fn is_folder(dir: &Path) -> Result<bool, StoreError> {
    match fs::metadata(dir) {
        Ok(found) => Ok(found.is_dir()),
        // `InvalidFilename`: the name is longer than a file system allows, so host-local cannot have created
        // the folder.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::InvalidFilename) => Ok(false),
        Err(e) => Err(StoreError::io("access", dir, e)),
    }
}

/// Locks host-local's folder. Returns `None` if the folder does not exist.
fn lock(dir: &Path, wait: Wait) -> Result<Option<Lock>, StoreError> {
    if !is_folder(dir)? {
        return Ok(None);
    }
    let locked = lock_file(&dir.join("lock"), wait);
    // Another process may have imported the folder while this process waited for the lock.
    if is_folder(dir)? { locked.map(Some) } else { Ok(None) }
}

/// Locks the folder and reads it. Returns `None` if the folder does not exist. If a file is unreadable or
/// malformed, nothing is imported, because an ADD that missed a lease could lease its address again.
pub fn open(dir: &Path, network: &NetworkName, wait: Wait) -> Result<Option<Folder>, Error> {
    let Some(lock) = lock(dir, wait)? else { return Ok(None) };
    let refuse = |why| Error::Refused(Refusal::Takeover { network: network.clone(), why });
    let unread = |path: &Path, e| refuse(format!("cannot read {}: {e}", path.display()));
    let mut folder =
        Folder { leases: Vec::new(), cursors: Vec::new(), dir: dir.to_owned(), _lock: lock };
    for (path, name) in entries(dir).map_err(|e| unread(dir, e))? {
        if let Some(index) = cursor_index(&name) {
            // If host-local cannot read its cursor, it starts at the beginning of the range, and so does
            // sublet.
            let content = files::read(&path, LONGEST).ok();
            let addr = content.and_then(|content| content.trim().parse().ok());
            folder.cursors.extend(addr.map(|addr| LegacyCursor { index, addr }));
        } else if let Ok(addr) = name.parse() {
            let content = files::read(&path, LONGEST).map_err(|e| unread(&path, e))?;
            // If host-local was killed, it may have left an empty file, which belongs to no container.
            folder.leases.extend(lease(network, addr, &path, &content).map_err(refuse)?);
        }
    }
    folder.leases.sort_by_key(|lease| lease.addr);
    folder.cursors.sort_by_key(|cursor| cursor.index);
    Ok(Some(folder))
}

/// The separator in the name of an imported folder. It stands between the network's name and the time of the
/// import, in seconds.
const ADOPTED: &str = "~adopted-";

impl Folder {
    /// Replaces the folder with a text file, and renames the folder to `<network>~adopted-<time>`. If
    /// host-local is installed again later, it fails with "not a directory" instead of leasing an address
    /// twice. The text file explains how to go back. The change is durable when this function returns.
    pub fn retire(self, now: Timestamp) -> Result<(), StoreError> {
        let dir = &self.dir;
        let io = |e| StoreError::io("replace host-local's folder with a marker file:", dir, e);
        let (aside, file) = self.aside(now)?;
        let network = dir.file_name().unwrap_or_default().display();
        let text = format!(
            "sublet imported the leases of network {network} from host-local; the previous folder is {}. To \
             return to host-local, run: sublet export host-local {} --network {network}\n",
            aside.display(),
            dir.parent().unwrap_or(dir).display(),
        );
        let exchanged = file
            .write_at(text.as_bytes(), 0)
            .and_then(|()| file.sync_data())
            .and_then(|()| Os.exchange(dir, &aside));
        if exchanged.is_err() {
            // Ignore an error here, because a leftover file with this name does no harm.
            let _ = Os.remove(&aside);
        }
        exchanged.and_then(|()| Os.sync_folder(dir.parent().unwrap_or(dir))).map_err(io)
    }

    /// Creates an empty file at the path to which the folder will be renamed. Returns the path and the file.
    /// [`Folder::retire`] writes its text into this file and then exchanges the file with the folder in one
    /// step, so that the folder's path is never missing.
    fn aside(&self, now: Timestamp) -> Result<(PathBuf, fs::File), StoreError> {
        let mut name = self.dir.as_os_str().to_owned();
        name.push(format!("{ADOPTED}{now}"));
        loop {
            match Os.create(Path::new(&name)) {
                Ok(file) => return Ok((name.into(), file)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => name.push("+"),
                Err(e) => return Err(StoreError::io("create", Path::new(&name), e)),
            }
        }
    }
}

/// The networks in host-local's data folder.
#[derive(Default)]
pub struct Networks {
    /// The networks, sorted by name.
    pub found: Vec<NetworkName>,
    /// The entries that are not a network's folder, each with the reason.
    pub skipped: Vec<(String, String)>,
}

/// Returns the networks that have a folder in `dir`.
pub fn networks(dir: &Path) -> Result<Networks, StoreError> {
    let mut networks = Networks::default();
    for (path, name) in entries(dir).map_err(|e| StoreError::io("read the folder", dir, e))? {
        if name.contains(ADOPTED) || !is_folder(&path)? {
            continue;
        }
        match NetworkName::new(name.as_str()) {
            Ok(network) if is_host_locals(&path) => networks.found.push(network),
            Ok(_) => networks.skipped.push((
                name,
                "the folder contains neither a lock nor a lease of host-local".to_owned(),
            )),
            Err(_) => networks
                .skipped
                .push((name, "the folder name is not a valid network name".to_owned())),
        }
    }
    networks.found.sort();
    networks.skipped.sort();
    Ok(networks)
}

fn is_host_locals(dir: &Path) -> bool {
    let names = entries(dir).unwrap_or_default();
    names.iter().any(|(_, name)| name == "lock" || name.parse::<Addr>().is_ok())
}

/// Returns the index N in the file name `last_reserved_ip.N`; `None` if the name is not exactly as host-local
/// writes it.
fn cursor_index(name: &str) -> Option<usize> {
    let digits = name.strip_prefix("last_reserved_ip.")?;
    digits.parse().ok().filter(|index: &usize| index.to_string() == digits)
}

/// Removes the lease files of an attachment, as host-local does for a DEL.
pub fn release(dir: &Path, attachment: &Attachment, wait: Wait) -> Result<(), StoreError> {
    let Some(_lock) = lock(dir, wait)? else { return Ok(()) };
    for (path, _) in held(dir, attachment)? {
        fs::remove_file(&path)
            .map_err(|e| StoreError::io("remove host-local's lease file", &path, e))?;
    }
    Ok(())
}

/// Returns the addresses that host-local leased to an attachment; `None` if there are none or the folder does
/// not exist. No lock is needed, because this function only reads, and each address is a separate file.
pub fn holds(dir: &Path, attachment: &Attachment) -> Result<Option<Vec<Addr>>, StoreError> {
    if !is_folder(dir)? {
        return Ok(None);
    }
    let held = held(dir, attachment)?;
    Ok((!held.is_empty()).then(|| held.into_iter().map(|(_, addr)| addr).collect()))
}

/// Returns the lease files of an attachment: the files that contain its container and interface, or, if there
/// are none, the files that contain only its container. An unreadable file is skipped, because it must not
/// prevent a DEL.
fn held(dir: &Path, attachment: &Attachment) -> Result<Vec<(PathBuf, Addr)>, StoreError> {
    let mut exact = Vec::new();
    let mut legacy = Vec::new();
    for (path, name) in entries(dir).map_err(|e| StoreError::io("read the folder", dir, e))? {
        let Ok(addr) = name.parse() else { continue };
        let Ok(content) = files::read(&path, LONGEST) else { continue };
        let mut lines = content.trim().lines().map(str::trim);
        if lines.next() != Some(attachment.container.as_str()) {
            continue;
        }
        match (lines.next(), &attachment.ifname) {
            (None, _) => legacy.push((path, addr)),
            (Some(line), Some(ifname)) if line == ifname.as_str() => exact.push((path, addr)),
            _ => {}
        }
    }
    Ok(if exact.is_empty() { legacy } else { exact })
}

/// Returns the entries of a folder. Names that are not UTF-8 are left out, because host-local does not write
/// them.
fn entries(dir: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        found.extend(entry.file_name().into_string().ok().map(|name| (entry.path(), name)));
    }
    Ok(found)
}

fn lease(
    network: &NetworkName,
    addr: Addr,
    path: &Path,
    content: &str,
) -> Result<Option<ForeignLease>, String> {
    let mut lines = content.trim().lines().map(str::trim);
    let container = lines.next().unwrap_or_default();
    if container.is_empty() {
        return Ok(None);
    }
    let place = path.display();
    let container = ContainerId::new(container)
        .map_err(|_| format!("{place} contains {container:?} instead of a container ID"))?;
    let ifname = lines.next().filter(|line| !line.is_empty()).map(|text| {
        IfName::new(text)
            .map_err(|_| format!("{place} contains {text:?} instead of an interface name"))
    });
    let attachment =
        Attachment { network: network.clone(), container, ifname: ifname.transpose()? };
    Ok(Some(ForeignLease { addr, kind: Kind::Dynamic, owner: Owner::Attachment(attachment) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network() -> NetworkName {
        NetworkName::new("net").unwrap()
    }

    fn attachment(container: &str) -> Attachment {
        Attachment {
            network: network(),
            container: ContainerId::new(container).unwrap(),
            ifname: IfName::new("eth0").ok(),
        }
    }

    fn write(dir: &Path, name: &str, content: &str) {
        fs::write(dir.join(name), content).unwrap();
    }

    #[test]
    fn odd_lease_files_refuse_an_add_and_stop_no_del() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, "10.0.0.2", "c1\r\neth0");
        fs::create_dir(dir.join("10.0.0.1")).unwrap();
        files::make_pipe(&dir.join("10.0.0.3"));
        for odd in ["10.0.0.1", "10.0.0.3"] {
            match open(dir, &network(), Wait::Try) {
                Err(Error::Refused(refused @ Refusal::Takeover { .. })) => {
                    assert!(refused.to_string().contains("sublet import host-local"));
                }
                other => panic!("{:?}", other.err()),
            }
            assert_eq!(
                holds(dir, &attachment("c1")).unwrap(),
                Some(vec!["10.0.0.2".parse().unwrap()])
            );
            release(dir, &attachment("c1"), Wait::Try).unwrap();
            assert!(!dir.join("10.0.0.2").exists());
            assert_eq!(holds(dir, &attachment("c1")).unwrap(), None);
            write(dir, "10.0.0.2", "c1\r\neth0");
            fs::rename(dir.join(odd), dir.join(format!("away.{odd}"))).unwrap();
        }
        assert_eq!(open(dir, &network(), Wait::Try).unwrap().unwrap().leases.len(), 1);
    }

    #[test]
    fn cursors_that_make_no_sense_start_over_and_hide_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("last_reserved_ip.0")).unwrap();
        files::make_pipe(&dir.join("last_reserved_ip.1"));
        write(dir, "last_reserved_ip.2", "garbage");
        write(dir, "last_reserved_ip.4", "10.0.0.4");
        for name in ["last_reserved_ip.", "last_reserved_ip.+5", "last_reserved_ip.05"] {
            write(dir, name, "10.0.0.5");
        }
        let folder = open(dir, &network(), Wait::Try).unwrap().unwrap();
        let addr = "10.0.0.4".parse().unwrap();
        assert_eq!(folder.cursors, [LegacyCursor { index: 4, addr }]);
    }

    /// Checks that a path that cannot be examined is an error. Its leases must count neither as imported nor
    /// as absent.
    #[test]
    fn a_folder_that_cannot_be_looked_at_is_an_error() {
        let lab = tempfile::tempdir().unwrap();
        write(lab.path(), "file", "");
        let folder = lab.path().join("file/net");
        assert!(open(&folder, &network(), Wait::Try).is_err());
        assert!(holds(&folder, &attachment("c1")).is_err());
        assert!(release(&folder, &attachment("c1"), Wait::Try).is_err());
        let absent = lab.path().join("net");
        assert!(open(&absent, &network(), Wait::Try).unwrap().is_none());
    }

    /// If host-local is killed or runs out of disk space, it may leave an empty file, which belongs to no
    /// container.
    #[test]
    fn an_empty_lease_file_is_nobodys() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "10.0.0.2", "");
        write(dir.path(), "10.0.0.3", "\r\n");
        write(dir.path(), "10.0.0.4", "c1\r\neth0");
        let folder = open(dir.path(), &network(), Wait::Try).unwrap().unwrap();
        assert_eq!(folder.leases.len(), 1);
    }
}
