//! A host in a temporary folder, for tests of the embedded store's files.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::contract::{add, at, net, set};
use crate::alloc::{Add, Command, Context, Outcome, Reserve, Strategy, Unreserve};
use crate::error::Error;
use crate::model::{
    Attachment, BootId, Lease, NetworkName, Origin, Owner, Persist, Pod, SetName, Wait,
};
use crate::net::{Addr, RangeSet};
use crate::store::{Embedded, Store};

pub struct Host {
    pub folder: TempDir,
}

impl Host {
    pub fn new() -> Host {
        Host { folder: tempfile::tempdir().unwrap() }
    }

    /// Returns the path of a file of the store: the name of the lease file, followed by `suffix`.
    pub fn path(&self, suffix: &str) -> PathBuf {
        self.folder.path().join(format!("leases.redb{suffix}"))
    }

    /// Returns the path of the boot file of the n-th boot.
    pub fn of_boot(&self, n: u32) -> PathBuf {
        self.path(&format!(".boot-boot-{n}"))
    }

    pub fn store(&self, persist: Persist) -> Embedded {
        Embedded::new(self.path(""), persist, Wait::Try)
    }

    /// Returns the names of the files in the folder, sorted, without the prefix `leases.redb`.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let name = |e: std::io::Result<fs::DirEntry>| e.unwrap().file_name().into_string().unwrap();
        let mut names: Vec<String> =
            entries.map(|e| name(e).trim_start_matches("leases.redb").to_owned()).collect();
        names.sort();
        names
    }
}

/// Returns the context of a command in the n-th boot, at time n * 1000.
pub fn boot(n: u32) -> Context {
    Context { boot: Some(BootId(format!("boot-{n}"))), ..at(u64::from(n) * 1000) }
}

/// Returns a range set with the addresses 10.0.0.2 to 10.0.0.254.
pub fn range() -> Vec<RangeSet> {
    vec![set("10.0.0.0/24")]
}

/// Makes an ADD that leases the lowest free address.
pub fn lowest(container: &str) -> Add {
    Add { strategy: Strategy::Lowest, ..add(container, &range()) }
}

/// Changes the network of an ADD to `name`. Its leases are in a set with the same name.
pub fn of_network(name: &str, add: Add) -> Add {
    let network = NetworkName::new(name).unwrap();
    let of = |attachment: Attachment| Attachment { network: network.clone(), ..attachment };
    let owner = match add.owner {
        Owner::Attachment(attachment) => Owner::Attachment(of(attachment)),
        other => other,
    };
    let origin = Origin { attachment: add.origin.attachment.map(of), ..add.origin };
    Add { set: SetName(name.to_owned()), network, owner, origin, ..add }
}

/// Makes an ADD for the pod `name` with the option `sticky`: a pod that returns gets its former address
/// again.
pub fn sticky(container: &str, name: &str) -> Add {
    let pod = Pod { namespace: "ns".into(), name: name.into(), uid: String::new() };
    let origin = Origin { pod: Some(pod), ..lowest(container).origin };
    Add { sticky: true, origin, ..lowest(container) }
}

/// Runs an ADD. Returns the leased addresses and the warnings.
pub fn added_with_warnings(
    store: &mut dyn Store,
    add: &Add,
    cx: &Context,
) -> (Vec<Addr>, Vec<String>) {
    match store.apply(&Command::Add(add.clone()), cx) {
        Ok(Outcome::Added(added)) => {
            (added.grants.iter().map(|g| g.addr).collect(), added.warnings)
        }
        other => panic!("{other:?}"),
    }
}

pub fn reserve(store: &mut dyn Store, addrs: &[Addr], cx: &Context) -> Result<Vec<Addr>, Error> {
    let (addrs, note) = (addrs.to_vec(), Some("printer".to_owned()));
    match store.apply(
        &Command::Reserve(Reserve { set: net(), addrs, note, holder: None, name: None }),
        cx,
    )? {
        Outcome::Reserved(new) => Ok(new),
        other => panic!("{other:?}"),
    }
}

pub fn unreserve(store: &mut dyn Store, addrs: &[Addr], cx: &Context) -> Result<Vec<Addr>, Error> {
    match store.apply(&Command::Unreserve(Unreserve { set: net(), addrs: addrs.to_vec() }), cx)? {
        Outcome::Freed(freed) => Ok(freed.iter().map(|lease| lease.addr).collect()),
        other => panic!("{other:?}"),
    }
}

pub fn listed(store: &mut dyn Store, cx: &Context) -> Vec<Lease> {
    let mut all = Vec::new();
    store.list(cx, &mut |lease| all.push(lease)).unwrap();
    all
}
