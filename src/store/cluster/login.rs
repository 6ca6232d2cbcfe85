//! A user's token of etcd, kept for the processes that come after this one: to get one costs the server
//! 80 ms of hashing a password.
//!
//! Owns: one file for each user of a cluster, readable for its owner alone, in a folder that is empty
//! after a boot. Does not own: what a token is sent with.
//! Invariant: nothing rests on the file. A token that is missing, or that the server refuses, is got
//! anew; one that cannot be kept costs the next process a login. A token is given to no other cluster
//! than the one it is from.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use super::http::Secret;
use crate::sys::files;

/// Larger than any token with its cluster.
const LARGEST: u64 = 64 << 10;

/// Where a user's token is kept.
#[derive(Debug)]
pub struct TokenFile {
    path: PathBuf,
    /// The user and the endpoints, as the file's first line: names of files may collide.
    whose: String,
}

impl TokenFile {
    /// In `folder`, which need not exist.
    pub fn new(folder: &Path, endpoints: &[String], user: &str) -> TokenFile {
        let whose = format!("{user:?} {}", endpoints.join(" "));
        let mut hasher = DefaultHasher::new();
        whose.hash(&mut hasher);
        TokenFile { path: folder.join(format!("etcd-{:016x}", hasher.finish())), whose }
    }

    /// The token that was kept.
    pub fn read(&self) -> Option<Secret> {
        let text = files::read(&self.path, LARGEST).ok()?;
        let (whose, token) = text.split_once('\n')?;
        (whose == self.whose).then(|| Secret::parse(token))?
    }

    /// Keeps a token in place of another.
    pub fn write(&self, token: &Secret) -> io::Result<()> {
        let text = format!("{}\n{}\n", self.whose, token.expose());
        files::put(&self.path, text.as_bytes(), &std::process::id().to_string())
    }
}
