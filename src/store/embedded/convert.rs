//! Putting a store where another program's file lies.
//!
//! Owns: the order of the names. Does not own: reading that file; its caller holds the lock that
//! keeps the other program out.
//! Invariant: until the last rename the name leads to the other program's file, which every command
//! refuses; from then on to the whole store. A killed conversion is begun anew.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Embedded;
use super::files;
use super::files::{Content, Files};
use super::lock::Patience;
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Persist, Wait};
use crate::store::Store;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Converted {
    /// Done; the other program's file has this name now.
    Done(Outcome, PathBuf),
    /// It has been a store of ours before.
    Already,
}

/// Whether the store at `path` is ours already: the file that another program kept there is gone.
pub fn is_converted(path: &Path) -> Result<bool, StoreError> {
    let found = files::probe(path, false)?.map(|(_, content)| content);
    Ok(match found {
        Some(content) => content == Content::Redb,
        None => Files::new(path.to_owned()).keep().exists(),
    })
}

/// Carries out one command in a new store, and puts that in the place of the bolt file at `path`,
/// which is kept as `<path>.bolt`.
pub fn in_place(
    path: &Path,
    persist: Persist,
    wait: Wait,
    command: &Command,
    cx: &Context,
) -> Result<Converted, Error> {
    let kept = files::beside(path, ".bolt");
    let (old, new) = (Files::new(path.to_owned()), Files::new(files::beside(path, ".import")));
    let mut store = Embedded::new(new.boot_leases().to_owned(), persist, wait);
    if command.only_looks() {
        return Ok(Converted::Done(store.apply(command, cx)?, kept));
    }
    let lock = files::lock(path, &Patience::new(wait))?;
    if is_converted(path)? {
        return Ok(Converted::Already);
    }
    if old.keep().exists() && inode(path) == inode(&kept) {
        // Killed before the last step of a conversion to `disk`; others may have leased since.
        let outcome = Embedded::new(path.to_owned(), persist, wait).apply(command, cx)?;
        remove_original(path)?;
        return Ok(Converted::Done(outcome, kept));
    }
    if old.keep().exists() {
        return Err(exists(&old.keep(), "it belongs to a lease store; import with --store").into());
    }
    keep(path, &kept)?;
    discard(&new)?;
    let outcome = store.apply(command, cx)?;
    // What a holder of the lock vouched for was in another file.
    lock.leave_note(&[]);
    for (from, to) in [
        (new.keep(), old.keep()),
        (new.boot_mark(), old.boot_mark()),
        (new.boot_leases().to_owned(), old.boot_leases().to_owned()),
    ] {
        let io = |e| StoreError::io("put in place", &to, e);
        match File::open(&from).and_then(|file| file.sync_all()) {
            Ok(()) => fs::rename(&from, &to).map_err(io)?,
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(io(e).into()),
        }
    }
    if old.keep().exists() && !is_converted(path)? {
        // With `disk` there is no file under the name itself.
        remove_original(path)?;
    }
    files::flush_names(path)?;
    discard(&new)?;
    Ok(Converted::Done(outcome, kept))
}

/// Gives the other program's file its second name.
fn keep(path: &Path, kept: &Path) -> Result<(), StoreError> {
    match fs::hard_link(path, kept) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists => {
            if inode(path) == inode(kept) {
                return Ok(());
            }
            Err(exists(kept, "move it away first"))
        }
        kept_as => kept_as.map_err(|e| StoreError::io("keep the original as", kept, e)),
    }?;
    files::flush_names(kept)
}

/// It has its second name by now.
fn remove_original(path: &Path) -> Result<(), StoreError> {
    fs::remove_file(path).map_err(|e| StoreError::io("remove", path, e))?;
    files::flush_names(path)
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|m| (m.dev(), m.ino())).ok()
}

fn exists(path: &Path, advice: &str) -> StoreError {
    let source = io::Error::new(ErrorKind::AlreadyExists, format!("it exists; {advice}"));
    StoreError::io("write", path, source)
}

/// Removes what a conversion that was killed left behind, and the locks.
fn discard(new: &Files) -> Result<(), StoreError> {
    let path = new.boot_leases();
    for name in [
        path.to_owned(),
        new.keep(),
        new.boot_mark(),
        new.last_boot(),
        files::beside(path, ".lock"),
        files::beside(&new.keep(), ".lock"),
    ] {
        match fs::remove_file(&name) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &name, e));
            }
            _ => {}
        }
    }
    Ok(())
}
