//! Which network namespaces are there: what a process is in, what is mounted, what is held open.
//!
//! Owns: reading `/proc` of every process and thread, and looking up paths. Does not own: what is
//! concluded from it (`lost`).
//! Invariant: what could not be read is told as a gap; a process that ended meanwhile is none, and
//! the first process, which a sandbox may hide, is not taken for one.

pub mod nodes;
pub mod runtimes;
pub mod stale;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use self::stale::{Found, Namespaces};

const PROC: &str = "/proc";
/// ESRCH and EINVAL: what reading of a process that ends can answer, beside "not found".
const NO_PROCESS: i32 = 3;
const NO_NAMESPACE: i32 = 22;

/// Gathers what is known of the namespaces, and what is behind these paths now.
pub fn namespaces<'a>(paths: impl Iterator<Item = &'a str>) -> Namespaces {
    let mut found = Namespaces {
        mount_ns: number(Path::new("/proc/self/ns/mnt"), "mnt").ok(),
        ..Namespaces::default()
    };
    for path in paths {
        if !found.paths.contains_key(path) {
            found.paths.insert(path.to_owned(), look(path));
        }
    }
    // Twice, for a process may be born behind the reader of a list while its parent, before the
    // reader, ends.
    for _ in 0..2 {
        if let Err(gap) = processes(&mut found.held) {
            found.gap = Some(gap);
        }
    }
    found
}

/// A look, not an open: a pipe at the path would block an open for ever.
fn look(path: &str) -> Found {
    match fs::metadata(path) {
        Ok(m) => Found::Inode(m.dev(), m.ino()),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Found::Nothing
        }
        Err(_) => Found::Unknown,
    }
}

/// Adds what every process holds; an error says what could not be seen.
fn processes(held: &mut BTreeSet<u64>) -> Result<(), String> {
    let mut mounts = BTreeSet::new();
    let mut gap = Ok(());
    for process in numbered(Path::new(PROC)).map_err(|e| format!("cannot read {PROC}: {e}"))? {
        let mut look = || -> io::Result<()> {
            for task in numbered(&process.join("task"))? {
                ended(task_namespaces(&task, held, &mut mounts))?;
            }
            open_files(&process, held)
        };
        match ended(look()) {
            // A sandbox may hide the first process even from root. It is older than every container,
            // and in the namespace of the system.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && process.ends_with("1") => {}
            Err(e) => {
                gap = Err(format!(
                    "cannot look into {}: {e}; run this as root, with CAP_SYS_PTRACE",
                    process.display()
                ));
            }
            Ok(()) => {}
        }
    }
    gap
}

/// One that ended is no gap.
fn ended(looked: io::Result<()>) -> io::Result<()> {
    match looked {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(NO_PROCESS | NO_NAMESPACE)) => Ok(()),
        looked => looked,
    }
}

/// The network namespace that a thread is in, and those mounted in its mount namespace.
fn task_namespaces(
    task: &Path,
    held: &mut BTreeSet<u64>,
    mounts: &mut BTreeSet<u64>,
) -> io::Result<()> {
    held.insert(number(&task.join("ns/net"), "net")?);
    let mount_ns = number(&task.join("ns/mnt"), "mnt")?;
    if !mounts.contains(&mount_ns) {
        let table = fs::read(task.join("mountinfo"))?;
        held.extend(String::from_utf8_lossy(&table).lines().filter_map(mounted));
        mounts.insert(mount_ns);
    }
    Ok(())
}

/// The number of the network namespace in a line of mountinfo (proc(5)): the fourth word is what of
/// the file system is mounted, the first behind the hyphen its type.
fn mounted(line: &str) -> Option<u64> {
    let (mount, file_system) = line.split_once(" - ")?;
    let root = mount.split(' ').nth(3)?;
    file_system.starts_with("nsfs ").then(|| in_brackets(root, "net"))?
}

/// What a process holds by an open file alone: the numbers of all its files, for the path of one
/// that was unmounted does not tell what it is, and to look at a file could block for ever. A file of
/// another kind with a namespace's number only makes us more careful. Kernels before 5.14 do not tell.
fn open_files(process: &Path, held: &mut BTreeSet<u64>) -> io::Result<()> {
    for file in fs::read_dir(process.join("fdinfo"))? {
        // One that is closed meanwhile holds nothing.
        let info = fs::read_to_string(file?.path()).unwrap_or_default();
        let number = info.lines().find_map(|line| line.strip_prefix("ino:"));
        held.extend(number.and_then(|n| n.trim().parse::<u64>().ok()));
    }
    Ok(())
}

/// The folders whose names are numbers.
fn numbered(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The number of a namespace, as its link tells.
fn number(link: &Path, kind: &str) -> io::Result<u64> {
    let target = fs::read_link(link)?;
    let number = target.to_str().and_then(|t| in_brackets(t, kind));
    number.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it names no namespace"))
}

/// N of `net:[N]`.
fn in_brackets(text: &str, kind: &str) -> Option<u64> {
    text.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_namespace_is_held() {
        let paths = ["/proc/self/ns/net", "/no/such/path", "/proc/self/ns/net/x"];
        let found = namespaces(paths.into_iter());
        let own = fs::metadata(paths[0]).unwrap();
        assert_eq!(found.paths[paths[0]], Found::Inode(own.dev(), own.ino()));
        assert_eq!(found.paths[paths[1]], Found::Nothing);
        assert_eq!(found.paths[paths[2]], Found::Nothing);
        assert!(found.held.contains(&own.ino()));
        assert!(found.mount_ns.is_some());
    }

    #[test]
    fn lines_of_mountinfo() {
        let line = "36 25 0:4 net:[4026532300] /run/netns/a\\040b rw shared:1 - nsfs nsfs rw";
        assert_eq!(mounted(line), Some(4_026_532_300));
        assert_eq!(mounted("36 25 0:4 net:[4] /x rw - ext4 /dev/x rw"), None);
        assert_eq!(mounted("36 25 0:4 mnt:[4] /x rw - nsfs nsfs rw"), None);
        assert_eq!(mounted(""), None);
    }
}
