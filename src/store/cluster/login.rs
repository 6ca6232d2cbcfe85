//! A file that keeps an etcd user's token for the next process: a login costs the server 80 ms to hash the
//! password.
//!
//! Each user of a cluster has one file, readable for its owner only, in a folder that is empty after a boot.
//! Invariant: nothing depends on the file. If the token is missing or rejected, the client logs in again. If
//! the token cannot be written, the next process logs in again. A token is sent only to its own cluster.

use std::io;
use std::path::{Path, PathBuf};

use super::cache::file_name;
use super::http::Secret;
use crate::sys::files;

/// Longest file, in bytes.
const LONGEST: u64 = 64 << 10;

/// The file of a user's token.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// The user and the endpoints, repeated as the file's first line, because file names may collide.
    owner: String,
}

impl TokenFile {
    /// The file in `folder`, which need not exist.
    pub fn new(folder: &Path, endpoints: &[String], user: &str) -> TokenFile {
        let owner = format!("{user:?} {}", endpoints.join(" "));
        TokenFile { path: folder.join(file_name("etcd", &owner)), owner }
    }

    /// The token.
    pub fn read(&self) -> Option<Secret> {
        let text = files::read(&self.path, LONGEST).ok()?;
        let (owner, token) = text.split_once('\n')?;
        (owner == self.owner).then(|| Secret::parse(token))?
    }

    /// Replaces the token.
    pub fn write(&self, token: &Secret) -> io::Result<()> {
        let text = format!("{}\n{}\n", self.owner, token.expose());
        files::put(&self.path, text.as_bytes(), &std::process::id().to_string())
    }
}
