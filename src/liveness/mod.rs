//! Finds out which network namespaces exist on this machine, as evidence of whether a container is gone. A
//! namespace exists as long as a process is in it, it is mounted, or an open file refers to it.
//!
//! This module reads `/proc` for every process and thread, and looks up paths. [`stale`] draws the
//! conclusions.
//! Invariant: if something cannot be read, the evidence records a gap. With a gap, no lease counts as stale
//! because of its network namespace. Two cases are not gaps: a process that ends while this module reads it,
//! and a first process (PID 1) that a sandbox hides.

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

/// The grace period, in seconds. Leases younger than this are not examined, because their containers may
/// still be starting.
const GRACE: u64 = 60;

const PROC: &str = "/proc";
/// The error numbers ESRCH and EINVAL. Reading the `/proc` entries of a process that is ending fails with one
/// of these errors, or with "not found".
const NO_PROCESS: i32 = 3;
const NO_NAMESPACE: i32 = 22;

/// Gathers the evidence on whether the containers of these leases still exist on this machine. Leases that
/// are younger than `grace` seconds are not examined. With `by_netns`, a missing network namespace alone is
/// proof that the container is gone.
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

/// Returns whether a lease's container exists, regardless of the lease's age. If the lease was made in an
/// earlier boot of this machine, its container is gone. `newcomer` is the network namespace of the container
/// that requests the address. If it has the inode number that the lease records, this does not prove that the
/// lease's namespace still exists, because the kernel reuses the inode numbers of namespaces that are gone.
/// No container runtime is queried.
pub fn of(lease: &Lease, newcomer: Option<&Netns>, cx: &Context) -> Liveness {
    if cx.has_ended(lease) {
        return Liveness::Stale("the boot in which the address was leased has ended".to_owned());
    }
    let leases = std::slice::from_ref(lease);
    let mut evidence = evidence(leases, cx, 0, true, Vec::new());
    let recorded = lease.origin.netns.as_ref().and_then(|netns| netns.inode);
    if let Some((device, inode)) = newcomer.and_then(|netns| netns.inode)
        && recorded == Some((device, inode))
    {
        evidence.namespaces.held.remove(&inode);
    }
    let mut found = stale::assess(leases, &evidence);
    found.pop().unwrap_or_else(|| Liveness::Unknown("the container was not examined".to_owned()))
}

/// The number of leases that are examined at a time. This limits how many leases are in memory.
const TOGETHER: usize = 10_000;

/// Calls `each` with every problem of the store, and with a problem for each lease whose network namespace is
/// provably gone. The second argument of `each` is `false` for a problem that the store found itself, and
/// `true` for a lease whose namespace is gone. No container runtime is queried.
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
    // If the store is damaged, its leases may not be readable. The damage has already been reported.
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

/// Describes the holder of a lease in a message: the pod, if it is known, and the container.
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
            what: format!("{} holds the address but is gone: {why}", holder(lease)),
            advice: "run `sublet gc --netns` to free the address".to_owned(),
            repairable: false,
            damage: false,
        }),
        Liveness::Alive(_) | Liveness::Unknown(_) => None,
    });
    problems.collect()
}

/// Returns the network namespaces of this machine, and what exists at each of these paths.
pub fn namespaces<'a>(paths: impl Iterator<Item = &'a str>) -> Namespaces {
    look(&Mounts::own(), paths)
}

fn look<'a>(mounts: &Mounts, paths: impl Iterator<Item = &'a str>) -> Namespaces {
    let mut found = Namespaces {
        mount_ns: mounts.number,
        paths: paths.map(|path| (path.to_owned(), mounts.state_of(path))).collect(),
        ..Namespaces::default()
    };
    // Read all processes twice, because a single pass could miss a new process. Its number may be one that
    // the pass has already gone by, and its parent may end before the pass reaches the parent.
    for _ in 0..2 {
        if let Err(gap) = processes(&mut found.held) {
            found.gap = Some(gap);
        }
    }
    found
}

/// Adds to `held` the network namespaces that this machine's processes hold. If something cannot be read,
/// continues with the other processes, and then returns an error that says what could not be read.
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
            // A sandbox may prevent even root from reading the first process. Skip it: it is in the host's
            // network namespace and older than every container, so it holds no container's namespace.
            Err(e) if e.kind() == ErrorKind::PermissionDenied && process.ends_with("1") => {}
            Err(e) => {
                gap = Err(format!(
                    "cannot inspect {}: {e}; run the command as root with CAP_SYS_PTRACE",
                    process.display()
                ));
            }
            Ok(()) => {}
        }
    }
    gap
}

/// Treats the errors of a process that has ended as success.
fn ignore_ended(read: io::Result<()>) -> io::Result<()> {
    match read {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) if matches!(e.raw_os_error(), Some(NO_PROCESS | NO_NAMESPACE)) => Ok(()),
        read => read,
    }
}

/// Adds the network namespace of a thread, and the network namespaces that are mounted in the thread's mount
/// namespace.
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

/// Returns the inode number of the network namespace that a line of mountinfo (proc(5)) mounts. The fourth
/// field is the root of the mount, and the first field after the hyphen is the file system type.
fn mounted(line: &str) -> Option<u64> {
    let (mount, file_system) = line.split_once(" - ")?;
    let root = mount.split(' ').nth(3)?;
    file_system.starts_with("nsfs ").then(|| in_brackets(root, "net"))?
}

/// Adds the inode numbers of all open files of a process, because an open file may be the only thing that
/// holds a namespace. All kinds of files are added, because the path of an unmounted file does not show its
/// kind, and a stat could block forever. If some other file has the same inode number as a namespace, the
/// namespace counts as held, and its lease stays. Kernels before 5.14 do not report the inode numbers of open
/// files.
fn open_files(process: &Path, held: &mut BTreeSet<u64>) -> io::Result<()> {
    for file in fs::read_dir(process.join("fdinfo"))? {
        // A file that has been closed in the meantime holds nothing.
        let info = fs::read_to_string(file?.path()).unwrap_or_default();
        let number = info.lines().find_map(|line| line.strip_prefix("ino:"));
        held.extend(number.and_then(|n| n.trim().parse::<u64>().ok()));
    }
    Ok(())
}

/// Returns the entries of a folder whose names are numbers.
fn numbered(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_number = |name: &OsString| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let names: io::Result<Vec<OsString>> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect();
    Ok(names?.iter().filter(|name| is_number(name)).map(|name| dir.join(name)).collect())
}

/// Returns the inode number of a namespace, from the target of its link in `/proc`.
fn number(link: &Path, kind: &str) -> io::Result<u64> {
    let target = fs::read_link(link)?;
    let number = target.to_str().and_then(|t| in_brackets(t, kind));
    number
        .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "the link does not name a namespace"))
}

/// Returns the number N in `KIND:[N]`, for example in `net:[4026531840]`.
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
