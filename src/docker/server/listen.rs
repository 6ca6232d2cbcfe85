//! Opens the sockets on which dockerd reaches the driver, and writes the file in which dockerd looks up the
//! driver's TCP address.
//!
//! A socket is created under a temporary name, gets its mode, and is then renamed. Its final name therefore
//! always leads to a usable socket, and other users can never connect.
//! Invariant: an existing socket is replaced only if no process serves it. Only files that this process
//! created are removed.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::docker::args::Tcp;

/// A file or socket that is removed when the server ends, unless another process has replaced it.
pub struct Published {
    path: PathBuf,
    inode: u64,
}

impl Published {
    fn new(path: &Path) -> Result<Published> {
        let inode = fs::symlink_metadata(path)?.ino();
        Ok(Published { path: path.to_owned(), inode })
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns a temporary name in the same folder as `path`. dockerd ignores files with such names.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    PathBuf::from(name)
}

fn make_folder(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)
        .with_context(|| format!("cannot create the folder {}", folder.display()))
}

/// Opens a unix socket with mode 0600. A socket that no process serves is replaced.
pub fn unix(path: &Path) -> Result<(UnixListener, Published)> {
    match fs::symlink_metadata(path) {
        Ok(m) if !m.file_type().is_socket() => {
            bail!(
                "{} exists and is not a socket; move the file away, or choose a different `--socket`",
                path.display()
            )
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            bail!(
                "another process already serves {}; stop the process, or choose a different `--socket`",
                path.display()
            )
        }
        _ => {}
    }
    make_folder(path)?;
    let new = temporary(path);
    let _ = fs::remove_file(&new);
    let listener =
        UnixListener::bind(&new).with_context(|| format!("cannot create {}", new.display()))?;
    let published = fs::set_permissions(&new, Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot create {}", path.display()));
    if let Err(e) = published {
        let _ = fs::remove_file(&new);
        return Err(e);
    }
    Ok((listener, Published::new(path)?))
}

/// Writes the file in which dockerd looks up the driver's TCP address `at`. The file is a `.spec` file with
/// one URL or, with TLS, a `.json` file.
pub fn publish_tcp(tcp: &Tcp, at: SocketAddr) -> Result<Published> {
    let (path, text) = match &tcp.tls {
        None => (tcp.spec.clone(), format!("tcp://{at}\n")),
        Some(tls) => {
            let path = tcp.spec.with_extension("json");
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let show = |p: &Path| p.display().to_string();
            let text = json!({
                "Name": name,
                "Addr": format!("https://{at}"),
                "TLSConfig": {
                    "InsecureSkipVerify": false,
                    "CAFile": show(&tls.ca),
                    "CertFile": show(tcp.tls_client_cert.as_ref().unwrap_or(&tls.cert)),
                    "KeyFile": show(tcp.tls_client_key.as_ref().unwrap_or(&tls.key)),
                },
            });
            (path, format!("{text:#}\n"))
        }
    };
    make_folder(&path)?;
    let new = temporary(&path);
    let write = || -> io::Result<()> {
        fs::write(&new, text)?;
        fs::rename(&new, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Published::new(&path)
}
