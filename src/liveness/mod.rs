//! Evidence that a container is gone: the existing network namespaces. A namespace exists if a process is
//! in it, if it is mounted, or if it is held open.
//!
//! This module reads `/proc` of every process and thread, and looks up paths. [`stale`] draws the
//! conclusions.
//! Invariant: whatever cannot be read is reported as a gap. A process that ends in the meantime is not a
//! gap, and neither is the first process, which a sandbox may hide.

mod mounts;
pub mod runtimes;
pub mod stale;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use self::mounts::Mounts;
use self::stale::{Evidence, Listing, Liveness, Namespaces};
use crate::alloc::Context;
use crate::error::{StoreError, shown_network};
use crate::model::{Lease, Netns};
use crate::store::{Problem, Store};

/// Age in seconds below which a lease is not examined, because its container may still be starting.
const GRACE: u64 = 60;

const PROC: &str = "/proc";
/// ESRCH and EINVAL: the errors of reading a process that is ending, besides "not found".
const NO_PROCESS: i32 = 3;
const NO_NAMESPACE: i32 = 22;

/// The evidence about these leases on this machine. Leases younger than `grace` seconds are not examined.
/// With `by_netns`, a missing network namespace is proof enough.
pub fn evidence(
    leases: &[Lease],
    cx: &Context,
    grace: u64,
    by_netns: bool,
    listings: Vec<Listing>,
) -> Evidence {
    let netns: Vec<&Netns> =
        leases.iter().filter_map(|lease| lease.origin.netns.as_ref()).collect();
    let paths = netns.iter().map(|netns| netns.path.as_str());
    let namespaces = look(&Mounts::of(&netns), paths);
    Evidence { cx: cx.clone(), grace, namespaces, by_netns, listings }
}

/// The number of leases that are examined together, and so are in memory at the same time.
const TOGETHER: usize = 10_000;

/// Calls `each` with the problems that the store finds, and with a problem for each lease whose network namespace is
/// provably gone, which a store cannot find; `true`: it is such a lease. No container runtime is asked.
pub fn problems(
    store: &mut dyn Store,
    cx: &Context,
    each: &mut dyn FnMut(Problem, bool),
) -> Result<(), StoreError> {
    let mut is_damaged = false;
    store.problems(cx, &mut |problem| {
        is_damaged |= problem.damage;
        each(problem, false);
    })?;
    let stale = stale_problems(store, cx, &mut |problem| each(problem, true));
    // The leases of a damaged store may not be listable, which is reported already.
    if is_damaged { Ok(()) } else { stale }
}

/// Calls `each` with a problem for each lease of this machine whose network namespace is provably gone.
fn stale_problems(
    store: &mut dyn Store,
    cx: &Context,
    each: &mut dyn FnMut(Problem),
) -> Result<(), StoreError> {
    let mut leases = Vec::new();
    store.list(cx, &mut |lease| {
        let is_here = lease.node.machine == cx.node.machine;
        if is_here && lease.kind.collectable() && lease.origin.netns.is_some() {
            leases.push(lease);
        }
        if leases.len() == TOGETHER {
            stale_leases(&leases, cx).into_iter().for_each(&mut *each);
            leases.clear();
        }
    })?;
    stale_leases(&leases, cx).into_iter().for_each(each);
    Ok(())
}

/// The pod, if it is known, and the container.
fn holder(lease: &Lease) -> String {
    match &lease.origin.pod {
        Some(pod) => format!("pod {}/{}, {}", pod.namespace, pod.name, lease.owner.short()),
        None => lease.owner.short(),
    }
}

fn stale_leases(leases: &[Lease], cx: &Context) -> Vec<Problem> {
    let evidence = evidence(leases, cx, GRACE, true, Vec::new());
    let assessed = leases.iter().zip(stale::assess(leases, &evidence));
    let problems = assessed.filter_map(|(lease, liveness)| match liveness {
        Liveness::Stale(why) => Some(Problem {
            place: format!("{} of network {}", lease.addr, shown_network(lease)),
            what: format!("{} has it, and is gone: {why}", holder(lease)),
            advice: "free it with `sublet gc --netns`".to_owned(),
            repairable: false,
            damage: false,
        }),
        Liveness::Alive(_) | Liveness::Unknown(_) => None,
    });
    problems.collect()
}

/// The network namespaces of this machine, and the state of these paths.
pub fn namespaces<'a>(paths: impl Iterator<Item = &'a str>) -> Namespaces {
    look(&Mounts::own(), paths)
}

fn look<'a>(mounts: &Mounts, paths: impl Iterator<Item = &'a str>) -> Namespaces {
    let mut found = Namespaces {
        mount_ns: mounts.number,
        paths: paths.map(|path| (path.to_owned(), mounts.state_of(path))).collect(),
        ..Namespaces::default()
    };
    // Twice: a process may start behind the reader's position while its parent, which the reader has not
    // reached yet, ends.
    for _ in 0..2 {
        if let Err(gap) = processes(&mut found.held) {
            found.gap = Some(gap);
        }
    }
    found
}

/// Adds the namespaces that each process holds. The error says what could not be read.
fn processes(held: &mut BTreeSet<u64>) -> Result<(), String> {
    let mut mounts = BTreeSet::new();
    let mut gap = Ok(());
    for process in numbered(Path::new(PROC)).map_err(|e| format!("cannot read {PROC}: {e}"))? {
        let mut read = || -> io::Result<()> {
            for task in numbered(&process.join("task"))? {
                ignore_ended(task_namespaces(&task, held, &mut mounts))?;
            }
            open_files(&process, held)
        };
        match ignore_ended(read()) {
            // A sandbox may hide the first process even from root. It is older than every container and in
            // the host's namespace.
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

/// A process that has ended is no error.
fn ignore_ended(read: io::Result<()>) -> io::Result<()> {
    match read {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(NO_PROCESS | NO_NAMESPACE)) => Ok(()),
        read => read,
    }
}

/// Adds the network namespace of a thread, and those that are mounted in its mount namespace.
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

/// The number of the network namespace in a line of mountinfo (proc(5)): the fourth field is the root of the
/// mount, and the first field after the hyphen is the file system type.
fn mounted(line: &str) -> Option<u64> {
    let (mount, file_system) = line.split_once(" - ")?;
    let root = mount.split(' ').nth(3)?;
    file_system.starts_with("nsfs ").then(|| in_brackets(root, "net"))?
}

/// Adds the inode numbers of all open files of a process: a namespace may be held by an open file only. The
/// path of an unmounted file does not show its kind, and a stat could block for ever. If another kind of file
/// has the number of a namespace, the namespace counts as held. Kernels before 5.14 do not report the numbers.
fn open_files(process: &Path, held: &mut BTreeSet<u64>) -> io::Result<()> {
    for file in fs::read_dir(process.join("fdinfo"))? {
        // A file that is closed meanwhile holds nothing.
        let info = fs::read_to_string(file?.path()).unwrap_or_default();
        let number = info.lines().find_map(|line| line.strip_prefix("ino:"));
        held.extend(number.and_then(|n| n.trim().parse::<u64>().ok()));
    }
    Ok(())
}

/// The entries whose names are numbers.
fn numbered(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_number = |name: &OsString| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let names: io::Result<Vec<OsString>> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect();
    Ok(names?.iter().filter(|name| is_number(name)).map(|name| dir.join(name)).collect())
}

/// The number of a namespace, from the target of its link.
fn number(link: &Path, kind: &str) -> io::Result<u64> {
    let target = fs::read_link(link)?;
    let number = target.to_str().and_then(|t| in_brackets(t, kind));
    number.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "it names no namespace"))
}

/// The number N in `net:[N]`.
fn in_brackets(text: &str, kind: &str) -> Option<u64> {
    text.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::stale::PathState;
    use super::*;

    #[test]
    fn the_namespace_of_this_process_is_held() {
        let paths = ["/proc/self/ns/net", "/no/such/path", "/proc/self/ns/net/x"];
        let found = namespaces(paths.into_iter());
        let own = fs::metadata(paths[0]).unwrap();
        assert_eq!(found.paths[paths[0]], PathState::Inode(own.dev(), own.ino()));
        assert_eq!(found.paths[paths[1]], PathState::Missing);
        assert_eq!(found.paths[paths[2]], PathState::Missing);
        assert!(found.held.contains(&own.ino()));
        assert!(found.mount_ns.is_some());
    }

    #[test]
    fn mountinfo_lines_are_parsed() {
        let line = "36 25 0:4 net:[4026532300] /run/netns/a\\040b rw shared:1 - nsfs nsfs rw";
        assert_eq!(mounted(line), Some(4_026_532_300));
        assert_eq!(mounted("36 25 0:4 net:[4] /x rw - ext4 /dev/x rw"), None);
        assert_eq!(mounted("36 25 0:4 mnt:[4] /x rw - nsfs nsfs rw"), None);
        assert_eq!(mounted(""), None);
    }
}
