//! An in-memory file system on which a simulation can stop processes, make operations fail, and cut the
//! power.
//!
//! After a power cut, a file has the content that was last flushed, plus any subset of the unflushed changes,
//! applied in their order. A write in this subset may be truncated to a multiple of 512 bytes (one sector). A
//! folder has the names that were last flushed, plus its unflushed changes up to a random point. Each
//! operation is one step of its process, and the simulation can stop the process at each step.

mod fs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

pub use self::fs::SimFs;
use super::process::Process;
use super::random::Random;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    File(u64),
    Folder,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn make(&self, data: &mut Vec<u8>) {
        match self {
            Change::Write(offset, bytes) => {
                let (from, end) = (as_size(*offset), as_size(*offset) + bytes.len());
                if data.len() < end {
                    data.resize(end, 0);
                }
                data[from..end].copy_from_slice(bytes);
            }
            Change::Length(len) => data.resize(as_size(*len), 0),
        }
    }
}

fn as_size(n: u64) -> usize {
    usize::try_from(n).unwrap()
}

#[derive(Clone, Debug, Default)]
struct Content {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// The changes to this file's content that have not been flushed yet, in order.
    pending: Vec<Change>,
    /// The number of the open file that holds the lock on this file.
    locked: Option<u64>,
}

/// Changes to the names in one folder, all made in one step. A name without a node is removed.
#[derive(Clone, Debug)]
struct Naming {
    folder: PathBuf,
    names: Vec<(PathBuf, Option<Node>)>,
}

#[derive(Clone, Debug, Default)]
struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    pending: Vec<Naming>,
    number: u64,
    is_full: bool,
}

impl State {
    fn number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    fn name(&mut self, folder: &Path, names: Vec<(PathBuf, Option<Node>)>) {
        for (path, node) in &names {
            match node {
                Some(node) => drop(self.names.insert(path.clone(), *node)),
                None => drop(self.names.remove(path)),
            }
        }
        self.pending.push(Naming { folder: folder.to_owned(), names });
    }

    fn file(&mut self, inode: u64) -> &mut Content {
        self.files.get_mut(&inode).expect("an inode that was created")
    }
}

/// A disk: the files, their names, and their locks.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Returns the file system as a process sees it.
    pub fn of(&self, process: &Arc<Process>) -> SimFs {
        SimFs::new(self, process)
    }

    /// Returns a copy of the disk, without the locks.
    pub fn copied(&self) -> Disk {
        let mut state = self.state().clone();
        for file in state.files.values_mut() {
            file.locked = None;
        }
        Disk(Arc::new(Mutex::new(state)))
    }

    /// Makes the disk full or not full. Nothing can be written while it is full.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// Shuts the host down in an orderly way: flushes all files and names, and releases all locks.
    pub fn shut_down(&self) {
        let state = &mut *self.state();
        for file in state.files.values_mut() {
            file.durable.clone_from(&file.data);
            file.pending.clear();
            file.locked = None;
        }
        state.durable.clone_from(&state.names);
        state.pending.clear();
    }

    /// Cuts the power. Everything that was flushed survives, and so does a random part of the unflushed
    /// changes.
    pub fn cut(&self, random: &mut Random) {
        let state = &mut *self.state();
        for file in state.files.values_mut() {
            let mut data = file.durable.clone();
            for change in &file.pending {
                match change {
                    _ if random.one_in(2) => {}
                    Change::Write(offset, bytes) if random.one_in(3) => {
                        let sectors = bytes.len().div_ceil(512);
                        let end = (random.below(sectors + 1) * 512).min(bytes.len());
                        Change::Write(*offset, bytes[..end].to_vec()).make(&mut data);
                    }
                    change => change.make(&mut data),
                }
            }
            file.data.clone_from(&data);
            file.durable = data;
            file.pending.clear();
            file.locked = None;
        }
        let mut ended: Vec<PathBuf> = Vec::new();
        for naming in std::mem::take(&mut state.pending) {
            if ended.contains(&naming.folder) || random.one_in(3) {
                ended.push(naming.folder);
                continue;
            }
            for (path, node) in naming.names {
                match node {
                    Some(node) => drop(state.durable.insert(path, node)),
                    None => drop(state.durable.remove(&path)),
                }
            }
        }
        // If a folder is lost, the files in it are lost, too.
        let names = state.durable.clone();
        state.durable.retain(|path, _| {
            path.ancestors().skip(1).all(|a| a.parent().is_none() || names.contains_key(a))
        });
        state.names.clone_from(&state.durable);
    }
}
