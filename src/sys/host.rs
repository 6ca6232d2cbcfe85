//! Determines the facts about this machine that a program needs: the time, the boot, the node.
//!
//! This module reads the clock, random numbers, `/proc` and `/etc/machine-id`. `main` passes the environment
//! to this module. Invariant: a fact that cannot be read is absent, never guessed. The functions never fail.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::alloc::Context;
use crate::model::{BootId, Face, Netns, Node, StoreSpec, Timestamp};

/// A function that returns the value of an environment variable.
pub type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// The file with the boot ID. Tests bind-mount another file over it to simulate another boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const HOSTNAME: &str = "/proc/sys/kernel/hostname";
const MACHINE_ID: &str = "/etc/machine-id";
const UPTIME: &str = "/proc/uptime";
/// The link to the mount namespace of this process.
const OWN_MOUNTS: &str = "/proc/self/ns/mnt";

/// The facts about the machine at one moment.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The time.
    pub now: Timestamp,
    /// The boot ID; `None` if it cannot be determined.
    pub boot: Option<BootId>,
    /// A function that returns the whole seconds since this boot began; `None` if they cannot be determined.
    /// Called only for a cluster, because other stores do not need the uptime.
    pub uptime: fn() -> Option<u64>,
    /// The node name and the machine-id.
    pub node: Node,
    /// Whether the node name is the host name, because no other name is configured.
    pub by_host_name: bool,
    /// A random number.
    pub seed: u64,
    /// The face that handles the request. The default is the CNI plugin; other faces set their own value.
    pub face: Face,
    /// The trace ID of the request (W3C Trace Context), if the caller has passed one.
    pub trace: Option<String>,
    /// A function that returns the device and inode numbers of the file at a path, following links; `None` if
    /// the path does not exist.
    pub inode: fn(&str) -> Option<(u64, u64)>,
}

impl Facts {
    /// Makes the context for the allocator from these facts.
    pub fn context(&self) -> Context {
        Context {
            now: self.now,
            boot: self.boot.clone(),
            booted: None,
            node: self.node.clone(),
            by_host_name: self.by_host_name,
            seed: self.seed,
            face: self.face,
            trace: self.trace.clone(),
        }
    }

    /// Makes the context for commands on this store. For a cluster, the context also contains the time at
    /// which this boot began.
    pub fn context_of(&self, store: &StoreSpec) -> Context {
        let uptime = if store.is_cluster() { (self.uptime)() } else { None };
        let booted = uptime.and_then(|uptime| self.now.checked_sub(uptime));
        Context { booted, ..self.context() }
    }

    /// Returns the network namespace at a path, in the form that a lease records.
    pub fn netns(&self, path: String) -> Netns {
        let inode = (self.inode)(&path);
        Netns { path, inode, mount_ns: (self.inode)(OWN_MOUNTS).map(|(_, inode)| inode) }
    }

    /// Returns a copy of these facts, with the node name replaced by `name` if it is set.
    #[must_use]
    pub fn named(&self, name: Option<&str>) -> Facts {
        let mut facts = self.clone();
        if let Some(name) = name {
            name.clone_into(&mut facts.node.name);
            facts.by_host_name = false;
        }
        facts
    }
}

/// Parses the value of `--node`, and removes surrounding white space.
pub fn node_name(text: &str) -> Result<String, &'static str> {
    match text.trim() {
        "" => Err("a node needs a name"),
        name => Ok(name.to_owned()),
    }
}

/// Determines the facts. The node name is `NODE_ID` if that is set, otherwise the host name.
pub fn facts(env: &Env<'_>) -> Facts {
    let given = env("NODE_ID").and_then(|v| v.into_string().ok());
    let given = given.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let by_host_name = given.is_none();
    let name = given.or_else(|| line(HOSTNAME)).unwrap_or_default();
    Facts {
        now: now(),
        uptime,
        by_host_name,
        boot: line(BOOT_ID).filter(|id| is_uuid(id)).map(BootId),
        node: Node {
            name,
            machine: line(MACHINE_ID)
                .filter(|id| id.bytes().all(|b| b.is_ascii_hexdigit()))
                .unwrap_or_default(),
        },
        seed: chance(),
        face: Face::default(),
        trace: None,
        inode,
    }
}

/// Returns the time in seconds since 1970; 0 if the clock is set to an earlier time.
pub fn now() -> Timestamp {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Returns the whole seconds since this boot began.
fn uptime() -> Option<u64> {
    line(UPTIME)?.split('.').next()?.parse().ok()
}

/// Returns a random number. It comes from the standard library's hasher, which is seeded with random bytes
/// from the kernel.
pub fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Looks up a path without opening it, because opening a FIFO could block forever.
fn inode(path: &str) -> Option<(u64, u64)> {
    fs::metadata(path).ok().map(|m| (m.dev(), m.ino()))
}

fn line(path: impl AsRef<Path>) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(i, b)| match i {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_id_is_a_uuid_or_nothing() {
        assert!(is_uuid("0f5b7e62-7b9c-4c5a-9d4e-0a1b2c3d4e5f"));
        assert!(!is_uuid("0f5b7e62-7b9c-4c5a-9d4e-0a1b2c3d4e5"));
        assert!(!is_uuid("0f5b7e62x7b9c-4c5a-9d4e-0a1b2c3d4e5f"));
        assert!(!is_uuid(""));
    }

    #[test]
    fn node_id_wins_over_the_host_name() {
        let named = facts(&|name| (name == "NODE_ID").then(|| " n7 ".into()));
        assert_eq!(named.node.name, "n7");
        let blank = facts(&|_| Some(" ".into()));
        assert_eq!(blank.node.name, line(HOSTNAME).unwrap_or_default());
        assert!(blank.now > 1_600_000_000);
    }

    #[test]
    fn one_thing_has_one_inode() {
        assert_eq!(inode("/proc/self/ns/net"), inode("/proc/thread-self/ns/net"));
        assert_eq!(inode("/proc/nope"), None);
    }
}
