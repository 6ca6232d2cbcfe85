//! The file system as a process sees it. Each operation on the [`Disk`] is one step.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::super::process::{Process, Stop, clock, set_clock};
use super::{Change, Content, Disk, Naming, Node, State, as_size};
use crate::store::embedded::fs::{Access, FileId, FileSystem, OpenFile};

/// The file system of a disk, as one process uses it.
#[derive(Clone, Debug)]
pub struct SimFs {
    disk: Disk,
    process: Arc<Process>,
}

impl SimFs {
    pub fn new(disk: &Disk, process: &Arc<Process>) -> SimFs {
        SimFs { disk: disk.clone(), process: process.clone() }
    }

    fn step<T>(&self, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        match self.process.step(|| effect(&mut self.disk.state())) {
            Ok(done) => done,
            Err(Stop::Killed) => Err(io::Error::other("the process was killed")),
            Err(Stop::Fails(number)) => Err(io::Error::from_raw_os_error(number)),
        }
    }

    fn file(&self, state: &mut State, inode: u64) -> SimFile {
        SimFile { fs: self.clone(), inode, open: state.number() }
    }
}

fn room(state: &State) -> io::Result<()> {
    if state.is_full { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
}

fn folder(path: &Path) -> PathBuf {
    path.parent().unwrap_or(path).to_owned()
}

impl FileSystem for SimFs {
    type File = SimFile;

    fn open(&self, path: &Path, _: Access) -> io::Result<Option<SimFile>> {
        self.step(|state| match state.names.get(path).copied() {
            None => Ok(None),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            Some(Node::File(inode)) => Ok(Some(self.file(state, inode))),
        })
    }

    fn create(&self, path: &Path) -> io::Result<SimFile> {
        self.step(|state| {
            room(state)?;
            if state.names.contains_key(path) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            if !state.names.contains_key(&folder(path)) {
                return Err(ErrorKind::NotFound.into());
            }
            let inode = state.number();
            state.files.insert(inode, Content::default());
            state.name(&folder(path), vec![(path.to_owned(), Some(Node::File(inode)))]);
            Ok(self.file(state, inode))
        })
    }

    fn find(&self, path: &Path) -> io::Result<Option<FileId>> {
        self.step(|state| {
            Ok(state.names.get(path).map(|node| match node {
                Node::File(inode) => (1, *inode),
                Node::Folder => (1, 0),
            }))
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|state| {
            room(state)?;
            let node = state.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
            if state.names.contains_key(to) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            state.name(&folder(to), vec![(to.to_owned(), Some(node))]);
            Ok(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step(|state| {
            let node = state.names.get(from).copied().ok_or(ErrorKind::NotFound)?;
            let names = vec![(from.to_owned(), None), (to.to_owned(), Some(node))];
            state.name(&folder(to), names);
            Ok(())
        })
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.step(|state| {
            let first = state.names.get(one).copied().ok_or(ErrorKind::NotFound)?;
            let second = state.names.get(other).copied().ok_or(ErrorKind::NotFound)?;
            let names = vec![(one.to_owned(), Some(second)), (other.to_owned(), Some(first))];
            state.name(&folder(one), names);
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<bool> {
        self.step(|state| {
            let is_there = state.names.contains_key(path);
            if is_there {
                state.name(&folder(path), vec![(path.to_owned(), None)]);
            }
            Ok(is_there)
        })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<OsString>> {
        self.step(|state| {
            let names = state.names.keys().filter(|path| path.parent() == Some(folder));
            Ok(names.filter_map(|path| Some(path.file_name()?.to_owned())).collect())
        })
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        self.step(|state| {
            let missing: Vec<PathBuf> = folder
                .ancestors()
                .filter(|a| !state.names.contains_key(*a))
                .map(Path::to_owned)
                .collect();
            for path in missing.iter().rev() {
                let parent = self::folder(path);
                state.name(&parent, vec![(path.clone(), Some(Node::Folder))]);
            }
            Ok(())
        })
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.step(|state| {
            let (done, rest) = std::mem::take(&mut state.pending)
                .into_iter()
                .partition(|naming| naming.folder == folder);
            state.pending = rest;
            let done: Vec<Naming> = done;
            for (path, node) in done.into_iter().flat_map(|naming| naming.names) {
                match node {
                    Some(node) => drop(state.durable.insert(path, node)),
                    None => drop(state.durable.remove(&path)),
                }
            }
            Ok(())
        })
    }

    fn is_shared(&self, _: &Path) -> io::Result<bool> {
        self.step(|_| Ok(false))
    }

    fn lock_holders(&self, _: FileId) -> Vec<u32> {
        Vec::new()
    }

    fn pause(&self, time: Duration) -> Duration {
        set_clock(clock() + time);
        time
    }
}

/// An open file.
#[derive(Debug)]
pub struct SimFile {
    fs: SimFs,
    inode: u64,
    open: u64,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.fs.disk.state();
        let file = state.file(self.inode);
        if file.locked == Some(self.open) {
            file.locked = None;
        }
    }
}

impl SimFile {
    fn step<T>(&self, effect: impl FnOnce(&mut Content) -> io::Result<T>) -> io::Result<T> {
        self.fs.step(|state| effect(state.file(self.inode)))
    }

    fn change(&self, change: Change) -> io::Result<()> {
        self.fs.step(|state| {
            room(state)?;
            let file = state.file(self.inode);
            change.make(&mut file.data);
            file.pending.push(change);
            Ok(())
        })
    }
}

impl OpenFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.step(|file| {
            let from = as_size(offset).min(file.data.len());
            let len = buffer.len().min(file.data.len() - from);
            buffer[..len].copy_from_slice(&file.data[from..from + len]);
            Ok(len)
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset, bytes.to_vec()))
    }

    fn length(&self) -> io::Result<u64> {
        self.step(|file| Ok(file.data.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::Length(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.step(|file| {
            file.durable.clone_from(&file.data);
            file.pending.clear();
            Ok(())
        })
    }

    fn id(&self) -> io::Result<FileId> {
        self.step(|_| Ok((1, self.inode)))
    }

    fn mode(&self) -> io::Result<u32> {
        self.step(|_| Ok(0o600))
    }

    fn try_lock(&self) -> io::Result<bool> {
        self.step(|file| {
            let free = file.locked.is_none_or(|open| open == self.open);
            if free {
                file.locked = Some(self.open);
            }
            Ok(free)
        })
    }

    fn unlock(&self) -> io::Result<()> {
        self.step(|file| {
            if file.locked == Some(self.open) {
                file.locked = None;
            }
            Ok(())
        })
    }

    fn has_queue(&self) -> bool {
        false
    }

    fn join_queue(&self) -> Option<u64> {
        None
    }

    fn places_ahead(&self, _: u64) -> u64 {
        0
    }

    fn leave_queue(&self, _: u64) {}
}
