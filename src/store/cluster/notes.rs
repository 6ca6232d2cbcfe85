//! In-flight notes: files that show whether a process of this node ended before it knew the outcome of its
//! transaction.
//!
//! Every command that changes something first creates a note: a file on tmpfs that the process locks with
//! `flock(2)`. The command removes the note when it knows the outcome of all its transactions. The lock shows
//! whether the process is still running. A note without a lock is abandoned: the server may still apply the
//! transaction of that process at any time. The next command therefore *fences* the transaction: it writes
//! the node's record again. The transaction then fails, because every transaction of the node compares this
//! record.
//! Invariant: as long as a process is running, its note is never visible without the lock.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::server::Server;
use crate::sys::files;

/// How many times a process tries to take the lock of [`Notes::lock`] while another process holds it.
/// [`BETWEEN_TRIES`] is the time between two tries.
const TRIES: u32 = 300;
const BETWEEN_TRIES: Duration = Duration::from_millis(1);

/// The folder with the in-flight notes of one node in one cluster.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
}

/// The notes that a command finds when it begins.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// All notes belong to running processes, which are waiting for the outcome of their transactions.
    Nothing,
    /// These notes belong to processes that have ended.
    Abandoned(Vec<PathBuf>),
    /// No command has run in this boot yet, or the notes cannot be read.
    Unknown,
}

/// The in-flight note of a command. If the value is dropped without [`Note::remove`], the note is abandoned.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    _lock: File,
}

impl Note {
    /// Removes the note. Each transaction of the command must either have a known outcome or be fenced before
    /// this call.
    pub fn remove(self) {
        // If the note cannot be removed, the next command fences, which is harmless.
        let _ = fs::remove_file(self.path);
    }
}

impl Notes {
    /// Describes the notes in `folder`, which need not exist.
    pub fn new(folder: PathBuf) -> Notes {
        Notes { folder }
    }

    /// Looks for notes of processes that have ended.
    pub fn look(&self) -> Left {
        let Ok(files) = fs::read_dir(&self.folder) else { return Left::Unknown };
        let mut abandoned = Vec::new();
        for file in files {
            let Ok(file) = file else { return Left::Unknown };
            if file.path().extension().is_some() {
                continue;
            }
            // Take a shared lock, so that two processes that look at the same time do not mistake each other
            // for the owner of the note.
            match File::open(file.path()).map(|file| file.try_lock_shared()) {
                Ok(Err(TryLockError::WouldBlock)) => {}
                // The command has removed its note in the meantime.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Ok(_) | Err(_) => abandoned.push(file.path()),
            }
        }
        if abandoned.is_empty() { Left::Nothing } else { Left::Abandoned(abandoned) }
    }

    /// Takes the lock that a process holds while it fences, so that only one process of the node fences.
    /// Waits briefly for the lock. Returns `None` if the lock cannot be taken; then several processes may
    /// fence, which is harmless. Dropping the returned file releases the lock.
    pub fn lock(&self, server: &dyn Server, until: Instant) -> Option<File> {
        files::make_folder(&self.folder).ok()?;
        let path = self.folder.with_extension("lock");
        let file = File::options().append(true).create(true).open(path).ok()?;
        let mut tries = 0..TRIES;
        while file.try_lock().is_err() {
            tries.next()?;
            server.pause(BETWEEN_TRIES, until);
        }
        Some(file)
    }

    /// Creates the folder if it is missing, and removes abandoned notes. The transactions of these notes must
    /// have been fenced before this call.
    pub fn clear(&self, left: Left) -> io::Result<()> {
        files::make_folder(&self.folder.join("note"))?;
        let Left::Abandoned(paths) = left else { return Ok(()) };
        for path in paths {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    /// Creates and locks the in-flight note of a command.
    pub fn begin(&self, name: u128) -> io::Result<Note> {
        let path = self.folder.join(format!("{name:032x}"));
        let hidden = path.with_extension("new");
        let lock = files::create(&hidden)?;
        let locked = lock.try_lock().map_err(io::Error::from);
        let linked = locked.and_then(|()| fs::hard_link(&hidden, &path));
        let _ = fs::remove_file(&hidden);
        linked.map(|()| Note { path, _lock: lock })
    }

    /// Removes the folder of notes, because this command cannot create a note. The next command then finds no
    /// folder, and fences.
    pub fn give_up(&self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_note_of_a_process_that_ended_is_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::new(dir.path().join("notes"));
        assert_eq!(notes.look(), Left::Unknown);
        notes.clear(Left::Unknown).unwrap();
        let (one, two) = (notes.begin(1).unwrap(), notes.begin(2).unwrap());
        assert_eq!(notes.look(), Left::Nothing);
        one.remove();
        let path = two.path.clone();
        drop(two);
        assert_eq!(notes.look(), Left::Abandoned(vec![path.clone()]));
        assert_eq!(notes.look(), Left::Abandoned(vec![path]), "looking changes nothing");
        let held = notes.begin(3).unwrap();
        notes.clear(notes.look()).unwrap();
        assert_eq!(notes.look(), Left::Nothing);
        notes.give_up();
        assert_eq!(notes.look(), Left::Unknown);
        held.remove();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let notes = Notes::new(dir.path().join("file/notes"));
        assert_eq!(notes.look(), Left::Unknown);
        assert!(notes.clear(Left::Unknown).is_err() && notes.begin(1).is_err());
    }
}
