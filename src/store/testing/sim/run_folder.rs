//! A machine's `/run` folder, as one process uses it. Once a process has been killed, it must no longer
//! change the folder.
//!
//! In the simulation, the code of a killed process continues to run until its calls have failed. Therefore
//! the simulation restores the folder afterwards.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

/// The `/run` folder of a machine, and its content at the moment when the process was killed.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    at_death: RefCell<Option<BTreeMap<PathBuf, Vec<u8>>>>,
}

/// Releases the locks on a killed process's in-flight notes (files that say that a transaction may be
/// pending). Otherwise the notes would stay locked until the process's code has ended. The names of the notes
/// begin with the process's seed.
pub fn unlock(folder: &Path, seed: u64) {
    let is_its = |path: &&PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str);
        name.is_some_and(|name| name.starts_with(&format!("{seed:016x}")))
    };
    let files = RunFolder::new(folder.to_owned()).files();
    for (path, content) in files.iter().filter(|(path, _)| is_its(path)) {
        fs::remove_file(path).unwrap();
        fs::write(path, content).unwrap();
    }
}

impl RunFolder {
    pub fn new(path: PathBuf) -> RunFolder {
        RunFolder { path, at_death: RefCell::default() }
    }

    /// Saves the content of the folder when the process is killed.
    pub fn killed(&self) {
        if self.at_death.borrow().is_none() {
            *self.at_death.borrow_mut() = Some(self.files());
        }
    }

    /// Undoes the changes that the process made after it was killed. Unchanged files are left alone, because
    /// other processes may have them open.
    pub fn restore(&self) {
        let Some(before) = self.at_death.take() else { return };
        let now = self.files();
        for path in now.keys().filter(|path| !before.contains_key(*path)) {
            fs::remove_file(path).unwrap();
        }
        for (path, content) in
            before.iter().filter(|(path, content)| now.get(*path) != Some(*content))
        {
            fs::create_dir_all(&self.path).unwrap();
            fs::write(path, content).unwrap();
        }
    }

    fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            // If no client has run on the machine yet, the folder does not exist.
            for entry in fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        files
    }
}
