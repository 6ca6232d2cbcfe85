//! Boot files: a boot ID in the name, nothing flushed, and what becomes of the files of earlier boots.

use std::fs;

use super::contract::{add, added, addr, at, del, net, refused};
use super::host::{Host, boot, listed, lowest, range, sticky};
use crate::alloc::{Check, Command, Context, Outcome, Status};
use crate::error::Refusal;
use crate::model::{BootId, History, Node, Persist, Wait};
use crate::store::{Embedded, Store};

#[test]
fn the_leases_of_a_boot_end_with_it() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    assert_eq!(added(&mut store, &lowest("c1"), &boot(1)), [addr("10.0.0.2")]);
    assert_eq!(added(&mut store, &lowest("c2"), &boot(1)), [addr("10.0.0.3")]);
    // Before the first ADD of the new boot nothing is leased, and nothing is touched.
    let before = fs::read(host.of_boot(1)).unwrap();
    assert!(listed(&mut store, &boot(2)).is_empty());
    assert_eq!(store.apply(&del("c1"), &boot(2)).unwrap(), Outcome::Freed(vec![]));
    let owner = super::contract::owner("c1");
    let check = Check { set: net(), owner, sets: range(), expected: None };
    let missing = refused(&mut store, &Command::Check(check), &boot(2));
    assert!(matches!(missing, Refusal::Missing { .. }));
    let status = Status { set: net(), sets: range(), strict: false };
    assert_eq!(store.apply(&Command::Status(status), &boot(2)).unwrap(), Outcome::Ready);
    assert!(!host.of_boot(2).exists());
    // The first ADD makes a file of its own and leaves the old one.
    assert_eq!(added(&mut store, &lowest("c3"), &boot(2)), [addr("10.0.0.2")]);
    assert_eq!(fs::read(host.of_boot(1)).unwrap(), before);
    assert_eq!(listed(&mut store, &boot(2)).len(), 1);
}

#[test]
fn disk_leases_survive_a_reboot() {
    let host = Host::new();
    let mut store = host.store(Persist::Disk);
    let got = added(&mut store, &lowest("c1"), &boot(1));
    assert_eq!(added(&mut store, &lowest("c1"), &boot(2)), got);
    assert_ne!(added(&mut store, &lowest("c2"), &boot(2)), got);
    assert_eq!(host.names(), ["", ".lock"]);
}

#[test]
fn an_earlier_file_torn_or_not_is_never_mistaken_for_this_boot_s() {
    let ended = Host::new();
    added(&mut ended.store(Persist::Boot), &lowest("c1"), &boot(1));
    let whole = fs::read(ended.of_boot(1)).unwrap();
    for bytes in [&whole[..], &whole[..5000], b"", b"torn", &[0; 8192]] {
        let host = Host::new();
        fs::write(host.of_boot(1), bytes).unwrap();
        let mut store = host.store(Persist::Boot);
        assert_eq!(added(&mut store, &lowest("c2"), &boot(2)), [addr("10.0.0.2")]);
        assert_eq!(fs::read(host.of_boot(1)).unwrap(), bytes);
    }
}

#[test]
fn an_address_of_an_earlier_boot_is_remembered_for_a_sticky_pod() {
    let host = Host::new();
    let mut store = host.store(Persist::Boot);
    added(&mut store, &lowest("c0"), &boot(1));
    let former = added(&mut store, &sticky("c1", "db-0"), &boot(1));
    assert_eq!(former, [addr("10.0.0.3")]);
    assert_eq!(added(&mut store, &sticky("c2", "db-0"), &boot(2)), former);
    // A torn file is passed over.
    fs::write(host.of_boot(2), b"torn").unwrap();
    assert_eq!(added(&mut store, &sticky("c3", "db-0"), &boot(3)), former);
}

#[test]
fn earlier_files_are_removed_beyond_the_retention_of_history_if_they_name_this_machine() {
    let host = Host::new();
    let mut store = Embedded::new(host.path(""), Persist::Boot, Wait::Try)
        .keeping(History::Kept { count: 10, age: 1500 });
    let other = Context { node: Node { name: "b".into(), machine: "another".into() }, ..boot(1) };
    let other = Context { boot: Some(BootId("theirs".into())), ..other };
    added(&mut store, &lowest("x"), &other);
    for n in 1..=5 {
        added(&mut store, &lowest(&format!("c{n}")), &boot(n));
    }
    // Boot 3 ended at 4000, at most 1500 s ago; boot 2 at 3000.
    let kept: Vec<bool> = (1..=5).map(|n| host.of_boot(n).exists()).collect();
    assert_eq!(kept, [false, false, true, true, true]);
    assert!(host.path(".boot-theirs").exists(), "another machine's file was removed");
    // The newest stays for sticky pods, however old.
    added(&mut store, &lowest("late"), &Context { now: 90_000, ..boot(6) });
    assert!(host.of_boot(5).exists() && !host.of_boot(4).exists());
}

#[test]
fn on_a_network_file_system_boot_is_refused() {
    use crate::error::{Error, StoreError};
    use crate::store::embedded::fs::{Access, FileId, FileSystem, Os};
    use std::ffi::OsString;
    use std::io::Result;
    use std::path::Path;
    use std::time::Duration;

    /// The kernel's files, in a folder that is shared.
    #[derive(Clone, Debug)]
    struct Shared;
    impl FileSystem for Shared {
        type File = fs::File;
        fn open(&self, path: &Path, access: Access) -> Result<Option<fs::File>> {
            Os.open(path, access)
        }
        fn create(&self, path: &Path) -> Result<fs::File> {
            Os.create(path)
        }
        fn find(&self, path: &Path) -> Result<Option<FileId>> {
            Os.find(path)
        }
        fn link(&self, from: &Path, to: &Path) -> Result<()> {
            Os.link(from, to)
        }
        fn rename(&self, from: &Path, to: &Path) -> Result<()> {
            Os.rename(from, to)
        }
        fn exchange(&self, one: &Path, other: &Path) -> Result<()> {
            Os.exchange(one, other)
        }
        fn remove(&self, path: &Path) -> Result<bool> {
            Os.remove(path)
        }
        fn list(&self, folder: &Path) -> Result<Vec<OsString>> {
            Os.list(folder)
        }
        fn make_folder(&self, folder: &Path) -> Result<()> {
            Os.make_folder(folder)
        }
        fn sync_folder(&self, folder: &Path) -> Result<()> {
            Os.sync_folder(folder)
        }
        fn is_shared(&self, _: &Path) -> Result<bool> {
            Ok(true)
        }
        fn lock_holders(&self, file: FileId) -> Vec<u32> {
            Os.lock_holders(file)
        }
        fn pause(&self, time: Duration) -> Duration {
            Os.pause(time)
        }
    }

    let host = Host::new();
    let store = |persist| Embedded::on(Shared, host.path(""), persist, Wait::Try);
    let got = store(Persist::Boot).apply(&Command::Add(add("c1", &range())), &boot(1));
    assert!(matches!(got, Err(Error::Store(StoreError::SharedFolder { .. }))), "{got:?}");
    let status = Command::Status(Status { set: net(), sets: range(), strict: false });
    assert!(store(Persist::Boot).apply(&status, &at(1)).is_err());
    added(&mut store(Persist::Disk), &add("c1", &range()), &boot(1));
}

#[test]
fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
    for persist in [Persist::Boot, Persist::Disk] {
        let host = Host::new();
        let mut store = host.store(persist);
        for n in 1..4 {
            added(&mut store, &lowest(&format!("c{n}")), &boot(1));
        }
        let end = if persist == Persist::Disk { "" } else { ".boot-boot-1" };
        std::fs::rename(host.path(end), host.path(".away")).unwrap();
        assert_eq!(added(&mut store, &lowest("c4"), &boot(1)), [addr("10.0.0.2")]);
        assert_eq!(added(&mut store, &lowest("c5"), &boot(1)), [addr("10.0.0.3")]);
    }
}
