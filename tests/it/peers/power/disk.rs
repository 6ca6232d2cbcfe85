//! A model of a page cache and a disk, which computes the states that a power cut can leave on the disk.
//!
//! In this model, a disk writes whole sectors of 512 bytes. A power cut leaves each sector either in its last
//! flushed state or in a later one. The same applies to the length of each file and to each entry of a
//! folder. All of them are independent of each other. Flushing a file makes its content and length durable,
//! but not its name. To make the name durable, the folder must be flushed.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs::{self, File};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::trace::Op;

const SECTOR: usize = 512;

/// The maximum number of unflushed states to try for each sector. The test tries the newest states.
const STATES: usize = 3;

type Sector = Rc<[u8; SECTOR]>;

/// A file or a folder.
#[derive(Clone, Debug, Default)]
struct Node {
    folder: bool,
    sectors: BTreeMap<u64, Sector>,
    len: u64,
    /// The states of each sector since the last flush, oldest first.
    unflushed: BTreeMap<u64, Vec<Sector>>,
    lens: Vec<u64>,
}

#[derive(Clone, Debug)]
enum Entry {
    Put(PathBuf, usize),
    Move(PathBuf, PathBuf, usize),
    Remove(PathBuf),
}

/// A page cache and a disk.
#[derive(Clone, Debug)]
pub struct Disk {
    root: PathBuf,
    nodes: Vec<Node>,
    /// The index of the file or folder for each path, as in the page cache.
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    unflushed: Vec<Entry>,
}

/// The result of a power cut: for each change that has not been flushed, the index of the state that is on
/// the disk. Index 0 is the flushed state.
pub type Choice = Vec<usize>;

/// The content of the disk that the next process finds, by the path of each file below the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Image(BTreeMap<PathBuf, (u64, BTreeMap<u64, Sector>)>);

impl Node {
    fn now(&self, sector: u64) -> Option<&Sector> {
        let unflushed = self.unflushed.get(&sector).and_then(|states| states.last());
        unflushed.or_else(|| self.sectors.get(&sector))
    }

    fn len_now(&self) -> u64 {
        self.lens.last().copied().unwrap_or(self.len)
    }

    fn write(&mut self, at: u64, data: &[u8]) {
        let mut done = 0;
        while done < data.len() {
            let here = at + done as u64;
            let (sector, from) = (here / SECTOR as u64, usize::try_from(here % 512).unwrap());
            let n = (SECTOR - from).min(data.len() - done);
            let before = self.now(sector).map_or([0; SECTOR], |s| **s);
            let mut after = before;
            after[from..from + n].copy_from_slice(&data[done..done + n]);
            if after != before {
                let states = self.unflushed.entry(sector).or_default();
                states.push(Rc::new(after));
                if states.len() > STATES {
                    states.remove(0);
                }
            }
            done += n;
        }
        let end = at + data.len() as u64;
        if end > self.len_now() {
            self.lens.push(end);
        }
    }

    fn flush(&mut self) {
        for (sector, mut states) in std::mem::take(&mut self.unflushed) {
            self.sectors.extend(states.pop().map(|last| (sector, last)));
        }
        self.len = self.len_now();
        self.lens.clear();
    }
}

impl Disk {
    /// Makes a disk with the files in the folder `root`. All of these files are durable.
    pub fn of(root: &Path) -> Disk {
        let mut disk = Disk {
            root: root.to_owned(),
            nodes: Vec::new(),
            names: BTreeMap::new(),
            durable: BTreeMap::new(),
            unflushed: Vec::new(),
        };
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                let mut node = Node { folder: path.is_dir(), ..Node::default() };
                if node.folder {
                    folders.push(path.clone());
                } else {
                    let data = fs::read(&path).unwrap();
                    node.write(0, &data);
                    node.lens.push(data.len() as u64);
                    node.flush();
                }
                disk.names.insert(path, disk.nodes.len());
                disk.nodes.push(node);
            }
        }
        disk.durable = disk.names.clone();
        disk
    }

    fn make(&mut self, path: &Path, folder: bool) {
        if !self.names.contains_key(path) {
            self.names.insert(path.to_owned(), self.nodes.len());
            self.unflushed.push(Entry::Put(path.to_owned(), self.nodes.len()));
            self.nodes.push(Node { folder, ..Node::default() });
        }
    }

    /// Applies one recorded operation to the page cache or the disk.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Mkdir(path) => self.make(path, true),
            Op::Create(path) => self.make(path, false),
            Op::Write { path, at, data } => {
                let node = self.node(path);
                node.write(at.unwrap_or(node.len_now()), data);
            }
            Op::Len(path, len) => {
                let node = self.node(path);
                // If a file is truncated and later becomes longer again, the removed part must read as zeros.
                // Overwrite it now.
                let cut: Vec<u64> =
                    node.sectors.keys().chain(node.unflushed.keys()).copied().collect();
                for sector in cut.into_iter().filter(|s| s * 512 >= *len) {
                    node.write(sector * 512, &[0; SECTOR]);
                }
                if *len != node.len_now() {
                    node.lens.push(*len);
                }
            }
            Op::Sync(path) => {
                if let Some(node) = self.names.get(path).map(|at| &mut self.nodes[*at]) {
                    node.flush();
                }
                let here = |entry: &Entry| match entry {
                    Entry::Put(p, _) | Entry::Move(p, ..) | Entry::Remove(p) => {
                        p.parent() == Some(path)
                    }
                };
                let (flushed, rest) =
                    std::mem::take(&mut self.unflushed).into_iter().partition(here);
                self.unflushed = rest;
                let flushed: Vec<Entry> = flushed;
                for entry in &flushed {
                    enter(&mut self.durable, entry);
                }
            }
            Op::Link(from, to) => {
                let node = self.names[from];
                self.names.insert(to.clone(), node);
                self.unflushed.push(Entry::Put(to.clone(), node));
            }
            Op::Rename(from, to) => {
                let node = self.names.remove(from).unwrap();
                self.names.insert(to.clone(), node);
                self.unflushed.push(Entry::Move(from.clone(), to.clone(), node));
            }
            Op::Unlink(path) => {
                self.names.remove(path).unwrap();
                self.unflushed.push(Entry::Remove(path.clone()));
            }
            Op::Answer => {}
        }
    }

    fn node(&mut self, path: &Path) -> &mut Node {
        &mut self.nodes[self.names[path]]
    }

    /// Returns, for each item that has not been flushed, the number of states that a power cut can leave it
    /// in. The items are the entries of folders, followed by the length and the sectors of each file.
    pub fn states(&self) -> Vec<usize> {
        let mut states = vec![2; self.unflushed.len()];
        for node in &self.nodes {
            states.push(node.lens.len() + 1);
            states.extend(node.unflushed.values().map(|s| s.len() + 1));
        }
        states
    }

    /// Returns the content of the disk after the process is killed. It includes all changes, because the page
    /// cache survives.
    pub fn killed(&self) -> Image {
        self.cut(&self.states().iter().map(|n| n - 1).collect())
    }

    /// Returns the content of the disk after a power cut that leaves each item in the chosen state.
    pub fn cut(&self, choice: &Choice) -> Image {
        let mut choice = choice.iter().copied();
        let mut next = || choice.next().unwrap();
        let mut names = self.durable.clone();
        for entry in &self.unflushed {
            if next() == 1 {
                enter(&mut names, entry);
            }
        }
        let mut contents = Vec::new();
        for node in &self.nodes {
            let len = next().checked_sub(1).map_or(node.len, |at| node.lens[at]);
            let mut sectors = node.sectors.clone();
            for (sector, states) in &node.unflushed {
                if let Some(at) = next().checked_sub(1) {
                    sectors.insert(*sector, states[at].clone());
                }
            }
            sectors.retain(|sector, _| sector * 512 < len);
            contents.push((len, sectors));
        }
        let there = |path: &Path| {
            path.ancestors().skip(1).take_while(|p| *p != self.root).all(|p| names.contains_key(p))
        };
        let files = names.iter().filter(|(path, at)| there(path) && !self.nodes[**at].folder);
        let below = |path: &Path| path.strip_prefix(&self.root).unwrap().to_owned();
        Image(files.map(|(path, at)| (below(path), contents[*at].clone())).collect())
    }
}

fn enter(names: &mut BTreeMap<PathBuf, usize>, entry: &Entry) {
    match entry {
        Entry::Put(path, node) => drop(names.insert(path.clone(), *node)),
        Entry::Move(from, to, node) => {
            // Remove the old name only if no other file has taken it since.
            if names.get(from) == Some(node) {
                names.remove(from);
            }
            names.insert(to.clone(), *node);
        }
        Entry::Remove(path) => drop(names.remove(path)),
    }
}

impl Image {
    /// Writes the files into an empty folder.
    pub fn write(&self, folder: &Path) {
        for (path, (len, sectors)) in &self.0 {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let file = File::create(path).unwrap();
            for (sector, data) in sectors {
                file.write_all_at(&**data, sector * 512).unwrap();
            }
            file.set_len(*len).unwrap();
        }
    }

    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        Hash::hash(self, &mut hasher);
        hasher.finish()
    }
}
