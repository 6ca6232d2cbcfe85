//! Determines the mount namespace in which the paths of network namespaces are looked up.
//!
//! Usually, this is the mount namespace of this process. However, this process may run in a container that
//! shares the host's PID namespace. A runtime on the host then recorded the paths, and they do not exist in
//! the container. They are therefore looked up in the mount namespace of the host's first process (PID 1).

use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

use super::number;
use super::stale::PathState;
use crate::model::Netns;

/// A mount namespace.
pub struct Mounts {
    /// The inode number of the mount namespace; `None` if it cannot be read.
    pub number: Option<u64>,
    /// The root folder of the mount namespace; `None` for the mount namespace of this process.
    root: Option<OwnedFd>,
}

impl Mounts {
    /// Returns the mount namespace of this process.
    pub fn own() -> Mounts {
        Mounts { number: number(Path::new("/proc/self/ns/mnt"), "mnt").ok(), root: None }
    }

    /// Returns the mount namespace in which the paths of these network namespaces must be looked up. If some
    /// paths were recorded in the first process's (PID 1's) mount namespace and none in this process's own,
    /// returns the first process's. Otherwise, returns this process's own.
    pub fn of(recorded: &[&Netns]) -> Mounts {
        let is_place = |mounts: &Mounts| {
            mounts.number.is_some() && recorded.iter().any(|n| n.mount_ns == mounts.number)
        };
        let own = Mounts::own();
        if is_place(&own) {
            return own;
        }
        Mounts::of_process("/proc/1").ok().filter(is_place).unwrap_or(own)
    }

    fn of_process(process: &str) -> io::Result<Mounts> {
        let number = number(&Path::new(process).join("ns/mnt"), "mnt")?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(Path::new(process).join("root"), flags, Mode::empty())?;
        Ok(Mounts { number: Some(number), root: Some(root) })
    }

    /// Returns the state of a path. The file at the path is not opened, because opening a pipe could block
    /// forever.
    pub fn state_of(&self, path: &str) -> PathState {
        let found = match &self.root {
            None => fs::metadata(path).map(|m| (m.dev(), m.ino())),
            Some(root) => state_below(root, path).map_err(io::Error::from),
        };
        match found {
            Ok((device, inode)) => PathState::Inode(device, inode),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                PathState::Missing
            }
            Err(_) => PathState::Unknown,
        }
    }
}

/// Returns the device and the inode of a path below a root folder. Absolute symbolic links are also resolved
/// below the root.
fn state_below(root: &OwnedFd, path: &str) -> Result<(u64, u64), Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let file = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    let found = fstat(&file)?;
    Ok((found.st_dev, found.st_ino))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn absolute_links_lead_to_the_root_that_is_looked_into() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let root = open(dir.path(), flags, Mode::empty()).unwrap();
        let mounts = Mounts { number: None, root: Some(root) };
        fs::create_dir_all(dir.path().join("run/netns")).unwrap();
        fs::create_dir(dir.path().join("var")).unwrap();
        symlink("/run", dir.path().join("var/run")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        fs::write(dir.path().join("run/netns/a"), "").unwrap();
        let file = fs::metadata(dir.path().join("run/netns/a")).unwrap();
        let there = PathState::Inode(file.dev(), file.ino());
        assert_eq!(mounts.state_of("/run/netns/a"), there);
        assert_eq!(mounts.state_of("/var/run/netns/a"), there);
        assert_eq!(mounts.state_of("/var/run/netns/b"), PathState::Missing);
        assert_eq!(mounts.state_of("/run/netns/a/b"), PathState::Missing);
        assert_eq!(mounts.state_of("/loop"), PathState::Unknown);
    }

    #[test]
    fn paths_are_looked_up_where_they_were_recorded() {
        let own = Mounts::own().number;
        let recorded =
            |mount_ns| Netns { path: "/run/netns/a".into(), inode: Some((4, 70)), mount_ns };
        for place in [own, Some(0), None] {
            let mounts = Mounts::of(&[&recorded(place)]);
            assert_eq!((mounts.number, mounts.root.is_none()), (own, true));
        }
        // Only root can inspect the first process, so the rest is skipped for other users.
        if let Ok(first) = Mounts::of_process("/proc/1")
            && first.number != own
        {
            let mounts = Mounts::of(&[&recorded(first.number)]);
            assert_eq!((mounts.number, mounts.root.is_none()), (first.number, false));
            let mounts = Mounts::of(&[&recorded(first.number), &recorded(own)]);
            assert_eq!(mounts.number, own);
        }
    }
}
