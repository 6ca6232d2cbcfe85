//! Replaces the bolt file of the original ecs-ipam with a lease file of sublet.
//!
//! The leases are written to a new file under a temporary name. The bolt file gets `<file>.bolt` as a second
//! name. Then the new file is renamed to `<file>`. So `<file>` is always either the bolt file, which every
//! other command refuses, or the complete lease file. If the conversion is killed, the next conversion starts
//! from the beginning.

use std::path::{Path, PathBuf};

use super::backend::{self, Flush};
use super::check::Made;
use super::files::Content;
use super::fs::{Access, FileSystem, Os};
use super::lock::Patience;
use super::view::Tables;
use super::{Embedded, Result, changes, database, files, history};
use crate::alloc::{self, Command, Context, Outcome};
use crate::error::{Error, StoreError};
use crate::model::{Persist, Wait};

/// The result of a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Converted {
    /// The file was converted. The path is the new name of the bolt file.
    Done(Outcome, PathBuf),
    /// The file was already a lease file of sublet.
    Already,
}

/// Returns whether `path` is a lease file of sublet, and not a file of another program.
pub fn is_converted(path: &Path) -> Result<bool> {
    Ok(matches!(files::probe(&Os, path, Access::Read)?, Content::Redb(_)))
}

/// Runs one command on a new lease file, which then replaces the bolt file at `path`. The bolt file is kept
/// as `<path>.bolt`. The leases are durable even if `persist` is `boot`.
pub fn in_place(
    path: &Path,
    wait: Wait,
    command: &Command,
    cx: &Context,
) -> Result<Converted, Error> {
    let store = Embedded::new(path.to_owned(), Persist::Disk, wait);
    let kept = files::beside(path, ".bolt");
    let plan = alloc::run(command, &Tables::new(Made::default(), path), cx)?;
    let outcome = plan.outcome.map_err(Error::Refused)?;
    if command.only_looks() {
        return Ok(Converted::Done(outcome, kept));
    }
    let fs = Os;
    let lock = super::lock::take(&fs, &store.names.lock(), &Patience::new(wait))?;
    if is_converted(path)? {
        return Ok(Converted::Already);
    }
    let find = |name: &Path| fs.find(name).map_err(|e| StoreError::io("look for", name, e));
    // If an earlier conversion was killed, the bolt file may already have both names, `path` and `kept`.
    let aside = match find(&kept)? {
        None => Some(&*kept),
        found if found == find(path)? => None,
        Some(_) => {
            let exists = std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "a file with this name already exists; move the file away, then try again",
            );
            return Err(StoreError::io("keep the original as", &kept, exists).into());
        }
    };
    files::replace(
        &fs,
        path,
        aside,
        |file, name| {
            database::write_new::<Os>(file, name, Flush::ToDisk, |tables| {
                let mut events = Vec::new();
                for change in &plan.changes {
                    if changes::make(tables, change, cx.now)? {
                        events.extend(alloc::event(change, command, cx));
                    }
                }
                history::append(tables, &events, store.history, cx.now)
            })
        },
        || {
            files::sync_names(&fs, &kept)?;
            // Remove the header note (a copy of a lease file's header) from the lock file. The note does not
            // describe the new file, so the new file would be mistaken for an outdated copy.
            backend::forget_note(&lock, path)
        },
    )?;
    files::sync_names(&fs, path).map_err(StoreError::after_the_change)?;
    Ok(Converted::Done(outcome, kept))
}
