//! An in-memory file system on which a simulation can stop processes, fail operations and cut the power.
//!
//! After a power cut, a file has its flushed content plus any subset of the later changes, in order. Each of
//! these writes is whole or truncated to a multiple of 512 bytes (one sector). A folder has its flushed
//! names plus a prefix of the later changes. Every operation is one step of the process that calls it, and
//! may be that process's last.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::random::Random;
use crate::store::embedded::fs::{Access, FileId, FileSystem, OpenFile};

/// What happens to a process at one of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    KilledBefore,
    KilledAfter,
    /// The operation fails with this error number, having done nothing; a write may have done a part.
    Fails(i32),
    /// Others run meanwhile.
    Suspended,
}

/// One run of a program.
#[derive(Debug, Default)]
pub struct Process {
    dead: AtomicBool,
    steps: AtomicU64,
    fate: Mutex<Option<(u64, Fate)>>,
}

impl Process {
    pub fn new(fate: Option<(u64, Fate)>) -> Arc<Process> {
        Arc::new(Process { fate: Mutex::new(fate), ..Process::default() })
    }

    pub fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Whether its fate has not come yet.
    pub fn is_undisturbed(&self) -> bool {
        let fate = *self.fate.lock().unwrap();
        !self.is_dead() && fate.is_none_or(|(at, _)| at > self.steps())
    }
}

thread_local! {
    /// What runs while a process is suspended.
    static MEANWHILE: RefCell<Option<Box<dyn FnMut()>>> = const { RefCell::new(None) };
    static CLOCK: RefCell<Duration> = const { RefCell::new(Duration::ZERO) };
}

/// Sets what runs when a process is suspended; once.
pub fn meanwhile(run: Option<Box<dyn FnMut()>>) {
    MEANWHILE.with(|hook| *hook.borrow_mut() = run);
}

/// The time since the simulation began.
pub fn clock() -> Duration {
    CLOCK.with(|clock| *clock.borrow())
}

pub fn set_clock(time: Duration) {
    CLOCK.with(|clock| *clock.borrow_mut() = time);
}

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
    /// Not flushed, in order.
    pending: Vec<Change>,
    /// The open file that has the lock.
    locked: Option<u64>,
}

/// Names that change in one step, in one folder.
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

/// A disk with its names and locks.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The file system as a process sees it.
    pub fn of(&self, process: &Arc<Process>) -> SimFs {
        SimFs { disk: self.clone(), process: process.clone() }
    }

    /// The same content on another disk.
    pub fn copied(&self) -> Disk {
        let mut state = self.state().clone();
        for file in state.files.values_mut() {
            file.locked = None;
        }
        Disk(Arc::new(Mutex::new(state)))
    }

    /// While it is full, nothing new can be written.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// An orderly shutdown: everything is flushed.
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

    /// A power cut.
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
        // What is in a folder that was lost is lost.
        let names = state.durable.clone();
        state.durable.retain(|path, _| {
            path.ancestors().skip(1).all(|a| a.parent().is_none() || names.contains_key(a))
        });
        state.names.clone_from(&state.durable);
    }
}

/// The disk, as one process uses it.
#[derive(Clone, Debug)]
pub struct SimFs {
    disk: Disk,
    process: Arc<Process>,
}

fn killed() -> io::Error {
    io::Error::other("the process was killed")
}

impl SimFs {
    /// One step: `effect` happens unless the process is killed or the operation fails.
    fn step<T>(&self, effect: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let process = &self.process;
        if process.is_dead() {
            return Err(killed());
        }
        let step = process.steps.fetch_add(1, Ordering::Relaxed) + 1;
        let fate = process.fate.lock().unwrap().filter(|(at, _)| *at == step);
        match fate.map(|(_, fate)| fate) {
            Some(Fate::KilledBefore) => {
                process.kill();
                return Err(killed());
            }
            Some(Fate::Fails(number)) => return Err(io::Error::from_raw_os_error(number)),
            Some(Fate::Suspended) => {
                let run = MEANWHILE.with(|hook| hook.borrow_mut().take());
                if let Some(mut run) = run {
                    run();
                }
                if process.is_dead() {
                    return Err(killed());
                }
            }
            Some(Fate::KilledAfter) | None => {}
        }
        let done = effect(&mut self.disk.state());
        if let Some((_, Fate::KilledAfter)) = fate {
            process.kill();
            return Err(killed());
        }
        done
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
