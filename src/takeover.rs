//! Reading the folder of a host-local that served this network before.
//!
//! Owns: its file format (`plugins/ipam/host-local/backend/disk`): a file per address, named after
//! it, with the container ID and, since 0.8.6, the interface on a second line; `last_reserved_ip.N`;
//! `lock`. Does not own: what becomes of the leases (`alloc::takeover`).
//! Invariant: the folder is read under host-local's own lock, which lives as long as [`Folder`].

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::alloc::{LegacyCursor, LegacyLease};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Attachment, ContainerId, IfName, NetworkName, Wait};
use crate::net::Addr;
use crate::store::{Lock, lock_file};

/// A folder's content, and the lock on it.
pub struct Folder {
    /// The leases.
    pub leases: Vec<LegacyLease>,
    /// The addresses given last.
    pub cursors: Vec<LegacyCursor>,
    _lock: Lock,
}

/// Longest lease file that makes sense: two names, far below this.
const LONGEST: u64 = 64 * 1024;

/// Reads `dir`. What cannot be understood refuses the takeover: leasing beside it could give an
/// address twice.
pub fn read(dir: &Path, network: &NetworkName, wait: Wait) -> Result<Folder, Error> {
    let path = dir.join("lock");
    let lock = lock_file(&path, wait)?;
    let mut folder = Folder {
        leases: Vec::new(),
        cursors: Vec::new(),
        _lock: lock,
    };
    let refuse = |why| {
        Error::Refused(Refusal::Takeover {
            network: network.clone(),
            why,
        })
    };
    for (path, addr) in lease_files(dir)? {
        // An empty file is what a host-local that was killed leaves behind: nobody's lease.
        if let Some(lease) = lease(addr, &path, &content(&path)?).map_err(refuse)? {
            folder.leases.push(lease);
        }
    }
    for index in 0.. {
        let path = dir.join(format!("last_reserved_ip.{index}"));
        if !path.exists() {
            break;
        }
        // host-local starts over when it cannot read its cursor, and so do we.
        let addr = content(&path)?.trim().parse().ok();
        folder
            .cursors
            .extend(addr.map(|addr| LegacyCursor { index, addr }));
    }
    Ok(folder)
}

/// Removes an attachment's lease files, as host-local's DEL does: those with container and
/// interface, or, if there is none, those with the container alone.
pub fn release(dir: &Path, attachment: &Attachment, wait: Wait) -> Result<(), StoreError> {
    let _lock = lock_file(&dir.join("lock"), wait)?;
    let mut exact = Vec::new();
    let mut legacy = Vec::new();
    for (path, _) in lease_files(dir)? {
        let content = content(&path)?;
        let mut lines = content.trim().lines().map(str::trim);
        if lines.next() != Some(attachment.container.as_str()) {
            continue;
        }
        match (lines.next(), &attachment.ifname) {
            (None, _) => legacy.push(path),
            (Some(line), Some(ifname)) if line == ifname.as_str() => exact.push(path),
            _ => {}
        }
    }
    for path in if exact.is_empty() { legacy } else { exact } {
        fs::remove_file(&path)
            .map_err(|e| StoreError::io("remove host-local's lease file", &path, e))?;
    }
    Ok(())
}

/// The files that are named after an address.
fn lease_files(dir: &Path) -> Result<Vec<(PathBuf, Addr)>, StoreError> {
    let io = |e| StoreError::io("read the folder", dir, e);
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        // A name that is no text is no address either.
        let addr = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        files.extend(addr.map(|addr| (entry.path(), addr)));
    }
    files.sort_by_key(|(_, addr)| *addr);
    Ok(files)
}

fn content(path: &PathBuf) -> Result<String, StoreError> {
    let io = |e| StoreError::io("read host-local's lease file", path, e);
    let mut bytes = Vec::new();
    fs::File::open(path)
        .map_err(io)?
        .take(LONGEST)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn lease(addr: Addr, path: &Path, content: &str) -> Result<Option<LegacyLease>, String> {
    let mut lines = content.trim().lines().map(str::trim);
    let container = lines.next().unwrap_or_default();
    if container.is_empty() {
        return Ok(None);
    }
    let place = path.display();
    let container = ContainerId::new(container)
        .map_err(|_| format!("{place} holds no container ID but {container:?}"))?;
    let ifname = match lines.next().filter(|l| !l.is_empty()) {
        None => None,
        Some(text) => Some(
            IfName::new(text)
                .map_err(|_| format!("{place} holds no interface name but {text:?}"))?,
        ),
    };
    Ok(Some(LegacyLease {
        addr,
        container,
        ifname,
    }))
}
