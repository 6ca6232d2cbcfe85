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
use crate::model::{ContainerId, IfName, NetworkName, Wait};
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
    let entries = fs::read_dir(dir).map_err(|e| StoreError::io("read the folder", dir, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| StoreError::io("read the folder", dir, e))?;
        let name = entry.file_name();
        // A name that is no text is no address either.
        let Some(name) = name.to_str() else { continue };
        let path = entry.path();
        let refuse = |why: String| {
            Error::Refused(Refusal::Takeover {
                network: network.clone(),
                why,
            })
        };
        if let Some(index) = name.strip_prefix("last_reserved_ip.") {
            // host-local starts over when it cannot read its cursor, and so do we.
            let cursor = index.parse().ok().zip(content(&path)?.trim().parse().ok());
            folder
                .cursors
                .extend(cursor.map(|(index, addr)| LegacyCursor { index, addr }));
        } else if let Ok(addr) = name.parse::<Addr>() {
            // An empty file is what a host-local that was killed leaves behind: nobody's lease.
            if let Some(lease) = lease(addr, &path, &content(&path)?).map_err(refuse)? {
                folder.leases.push(lease);
            }
        }
    }
    folder.leases.sort_by_key(|l| l.addr);
    Ok(folder)
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
