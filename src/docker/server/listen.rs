//! Where dockerd finds the driver: sockets, and the file that names a TCP address.
//!
//! Owns: making and removing them. A socket gets its mode before its name, and its name by a rename:
//! there is no moment without one, and none in which others may connect.
//! Invariant: only a socket that nobody serves is replaced, and only what we made is removed.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

/// A file that goes away when the server ends, unless somebody else has put another in its place.
pub struct Placed {
    path: PathBuf,
    inode: u64,
}

impl Placed {
    fn new(path: &Path) -> Result<Placed> {
        let inode = fs::symlink_metadata(path)?.ino();
        Ok(Placed { path: path.to_owned(), inode })
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A name beside `path` that dockerd does not look at.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    PathBuf::from(name)
}

/// Listens on a unix socket of mode 0600. A stale one is replaced.
pub fn unix(path: &Path) -> Result<(UnixListener, Placed)> {
    match fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => {
            bail!("{} is there and is no socket; move it away", path.display())
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!("another process serves {}; stop it, or choose another --socket", path.display())
        }
        _ => {}
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let new = beside(path);
    let _ = fs::remove_file(&new);
    let listener =
        UnixListener::bind(&new).with_context(|| format!("cannot make {}", new.display()))?;
    let placed = fs::set_permissions(&new, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot make {}", path.display()));
    if let Err(e) = placed {
        let _ = fs::remove_file(&new);
        return Err(e);
    }
    listener.set_nonblocking(true)?;
    Ok((listener, Placed::new(path)?))
}

/// Certificates that dockerd needs, for the `.json` file.
pub struct Client {
    /// The authority that signed the server's.
    pub ca: PathBuf,
    /// dockerd's own.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Writes where dockerd finds the address: `.spec` (one URL), or with TLS `.json`.
pub fn spec(path: &Path, at: SocketAddr, tls: Option<&Client>) -> Result<Placed> {
    let (path, text) = match tls {
        None => (path.to_owned(), format!("tcp://{at}\n")),
        Some(client) => {
            let path = path.with_extension("json");
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let show = |p: &Path| p.display().to_string();
            let text = json!({
                "Name": name,
                "Addr": format!("https://{at}"),
                "TLSConfig": {
                    "InsecureSkipVerify": false,
                    "CAFile": show(&client.ca),
                    "CertFile": show(&client.cert),
                    "KeyFile": show(&client.key),
                },
            });
            (path, format!("{text:#}\n"))
        }
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let new = beside(&path);
    let write = || -> io::Result<()> {
        fs::write(&new, text)?;
        fs::rename(&new, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Placed::new(&path)
}
