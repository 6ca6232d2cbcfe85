//! Tests how the lease file and the policy file are created and replaced. At every moment, the file's name
//! refers either to a complete file or to no file. Once the file exists, its name always refers to a file.

use std::fs;
use std::io::{ErrorKind, Result};
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::contract::{added, addr, at, del, net};
use super::host::{Host, boot, listed, lowest, reserve};
use super::watched::{Before, Watched};
use crate::alloc::{Command, Status};
use crate::error::{Error, StoreError};
use crate::model::{Persist, Wait};
use crate::store::embedded::fs::{Access, FileSystem, Os};
use crate::store::{Embedded, Store, StoreReader};

const MODES: [Persist; 2] = [Persist::Boot, Persist::Disk];

fn watched(
    host: &Host,
    persist: Persist,
    before: impl Fn(&'static str, &Path) -> Result<()> + Send + Sync + 'static,
) -> Embedded<Watched> {
    let before: Arc<Before> = Arc::new(before);
    Embedded::on(Watched { is_shared: false, before }, host.path(""), persist, Wait::Try)
}

#[test]
fn a_new_file_is_made_under_a_temporary_name_and_linked() {
    for persist in MODES {
        let host = Host::new();
        let done = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&done);
        let mut store = watched(&host, persist, move |what, path| {
            let name = path.file_name().unwrap_or_default().display().to_string();
            if ["create", "link", "rename"].contains(&what) && !name.contains(".lock") {
                log.lock().unwrap().push((what, name));
            }
            Ok(())
        });
        added(&mut store, &lowest("c1"), &boot(1));
        let name = if persist == Persist::Disk { "leases.redb" } else { "leases.redb.boot-boot-1" };
        let expected = [("create", format!("{name}.new")), ("link", name.to_owned())];
        assert_eq!(*done.lock().unwrap(), expected);
        assert!(!host.names().iter().any(|name| name.contains(".new")));
    }
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    for persist in MODES {
        let host = Host::new();
        let mut store = watched(&host, persist, |what, path| {
            if what == "link" {
                fs::write(path, "another program's")?;
            }
            Ok(())
        });
        assert!(store.apply(&Command::Add(lowest("c1")), &boot(1)).is_err());
        let file = if persist == Persist::Disk { host.path("") } else { host.of_boot(1) };
        assert_eq!(fs::read_to_string(file).unwrap(), "another program's");
    }
}

#[test]
fn the_name_of_a_store_never_leads_to_nothing() {
    for persist in MODES {
        let host = Host::new();
        added(&mut host.store(persist), &lowest("c1"), &boot(1));
        reserve(&mut host.store(persist), &[addr("10.0.0.9")], &boot(1)).unwrap();
        let file = if persist == Persist::Disk { host.path("") } else { host.of_boot(1) };
        // Damage the file, so that `repair` has to replace it.
        let mut bytes = fs::read(&file).unwrap();
        let last = bytes.len() - 4000;
        bytes[last..].fill(0xff);
        bytes[5000..5100].fill(0xff);
        fs::write(&file, bytes).unwrap();
        let names = [file, host.path(".policy")];
        let mut store = watched(&host, persist, move |what, _| {
            for name in &names {
                assert!(name.exists(), "{} is missing before {what}", name.display());
            }
            Ok(())
        });
        reserve(&mut store, &[addr("10.0.0.11")], &boot(1)).err();
        store.repair(&boot(1)).unwrap();
        reserve(&mut store, &[addr("10.0.0.12")], &boot(1)).unwrap();
        assert!(host.names().iter().any(|name| name.contains(".damaged-")), "{:?}", host.names());
    }
}

#[test]
fn a_replacement_that_fails_leaves_the_old_file() {
    for fails in ["create", "rename"] {
        let host = Host::new();
        added(&mut host.store(Persist::Disk), &lowest("c1"), &boot(1));
        reserve(&mut host.store(Persist::Disk), &[addr("10.0.0.9")], &boot(1)).unwrap();
        let before = fs::read(host.path(".policy")).unwrap();
        let mut store = watched(&host, Persist::Disk, move |what, path| {
            let is_policy = path.to_str().is_some_and(|path| path.contains(".policy"));
            if what == fails && is_policy { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        });
        let error = reserve(&mut store, &[addr("10.0.0.11")], &boot(1)).unwrap_err();
        assert!(matches!(error, Error::Store(StoreError::Unavailable { .. })), "{error}");
        assert_eq!(fs::read(host.path(".policy")).unwrap(), before);
        assert!(!host.path(".policy.new").exists());
    }
}

#[test]
fn a_full_disk_fails_the_first_add_and_leaves_nothing() {
    for persist in MODES {
        let host = Host::new();
        let mut store = watched(&host, persist, |what, path| {
            let is_lock = path.extension().is_some_and(|end| end == "lock");
            if what == "create" && !is_lock { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
        });
        assert!(store.apply(&Command::Add(lowest("c1")), &boot(1)).is_err());
        assert!(host.names().iter().all(|name| name.contains(".lock")), "{:?}", host.names());
        store.apply(&del("c1"), &boot(1)).unwrap();
        assert_eq!(added(&mut host.store(persist), &lowest("c1"), &boot(1)), [addr("10.0.0.2")]);
    }
}

#[test]
fn a_store_that_cannot_be_written_is_read() {
    for persist in MODES {
        let host = Host::new();
        added(&mut host.store(persist), &lowest("c1"), &boot(1));
        // Remove the lock files, because they could not have been created on a read-only file system.
        let _ = fs::remove_file(host.path(".lock"));
        let _ = fs::remove_file(host.path(".boot.lock"));
        let mut store = watched(&host, persist, |what, _| match what {
            "create" | "link" | "rename" | "remove" => Err(ErrorKind::ReadOnlyFilesystem.into()),
            _ => Ok(()),
        });
        assert_eq!(listed(&mut store, &boot(1)).len(), 1);
        let status = Status {
            set: net(),
            network: super::contract::network(),
            sets: super::host::range(),
            strict: false,
        };
        store.apply(&Command::Status(status), &boot(1)).unwrap();
        assert!(store.apply(&Command::Add(lowest("c2")), &at(1000)).is_err());
        assert!(store.apply(&del("c1"), &boot(1)).is_err());
        assert_eq!(listed(&mut store, &boot(1)).len(), 1);
    }
}

/// If the file system cannot tell whether the file exists, every command must fail and create nothing,
/// because the file may exist.
#[test]
fn a_look_that_fails_is_never_taken_for_absence() {
    for persist in MODES {
        let host = Host::new();
        added(&mut host.store(persist), &lowest("c1"), &boot(1));
        let file = if persist == Persist::Disk { host.path("") } else { host.of_boot(1) };
        for away in [false, true] {
            if away {
                // Move the file away, so that the folder looks as if the volume with the file were not
                // mounted.
                fs::rename(&file, host.path(".away")).unwrap();
            }
            let before = host.names();
            let name = file.clone();
            let mut store = watched(&host, persist, move |what, path| {
                if what == "find" && path == name {
                    return Err(std::io::Error::from_raw_os_error(5));
                }
                Ok(())
            });
            for command in [Command::Add(lowest("c2")), del("c1")] {
                let answer = store.apply(&command, &boot(1));
                assert!(matches!(answer, Err(Error::Store(_))), "{answer:?}");
            }
            assert!(store.list(&boot(1), &mut |_| ()).is_err());
            let mut after = host.names();
            after.retain(|name| name != ".lock");
            assert_eq!(after, before.into_iter().filter(|n| n != ".lock").collect::<Vec<_>>());
        }
    }
}

#[test]
fn only_enoent_means_that_there_is_no_file() {
    let host = Host::new();
    assert!(Os.open(&host.path(""), Access::Read).unwrap().is_none());
    assert!(Os.find(&host.path("")).unwrap().is_none());
    fs::write(host.path(""), "a file").unwrap();
    let (inside, long) = (host.path("/leases"), host.path(&"x".repeat(300)));
    for name in [inside, long] {
        assert!(Os.open(&name, Access::Read).is_err(), "{}", name.display());
        assert!(Os.find(&name).is_err(), "{}", name.display());
        assert!(Os.list(&name).is_err(), "{}", name.display());
    }
}

/// If one of the store's files is a symbolic link, a command must fail and leave the link's target unchanged.
/// In particular, it must not write the header note (a copy of the lease file's header, kept in the lock
/// file) to the target.
#[test]
fn a_symbolic_link_is_not_followed() {
    for name in ["", ".lock", ".policy"] {
        let host = Host::new();
        fs::write(host.path(".victim"), "a file of another program").unwrap();
        std::os::unix::fs::symlink(host.path(".victim"), host.path(name)).unwrap();
        let answer = host.store(Persist::Disk).apply(&Command::Add(lowest("c1")), &boot(1));
        assert!(matches!(answer, Err(Error::Store(_))), "{name}: {answer:?}");
        let victim = fs::read_to_string(host.path(".victim")).unwrap();
        assert_eq!(victim, "a file of another program", "{name}");
    }
}

/// If the disk fills up during a write, a file may be left empty or truncated. No command may overwrite or
/// trust such a file.
#[test]
fn an_empty_or_torn_file_is_neither_overwritten_nor_trusted() {
    for persist in MODES {
        for bytes in [&b""[..], b"redb", b"redb\x1a\x0a\xa9\x0d\x0a"] {
            let host = Host::new();
            let file = if persist == Persist::Disk { host.path("") } else { host.of_boot(1) };
            fs::write(&file, bytes).unwrap();
            let mut store = host.store(persist);
            let status = Status {
                set: net(),
                network: super::contract::network(),
                sets: super::host::range(),
                strict: false,
            };
            for command in [Command::Add(lowest("c1")), del("c1"), Command::Status(status)] {
                let answer = store.apply(&command, &boot(1));
                assert!(matches!(answer, Err(Error::Store(_))), "{persist:?}: {answer:?}");
            }
            assert!(store.list(&boot(1), &mut |_| ()).is_err());
            assert_eq!(fs::read(&file).unwrap(), bytes);
        }
    }
}

#[test]
fn an_older_copy_of_the_file_is_refused() {
    for persist in MODES {
        let host = Host::new();
        let file = if persist == Persist::Disk { host.path("") } else { host.of_boot(1) };
        added(&mut host.store(persist), &lowest("c1"), &boot(1));
        let older = fs::read(&file).unwrap();
        added(&mut host.store(persist), &lowest("c2"), &boot(1));
        fs::write(&file, older).unwrap();
        for command in [Command::Add(lowest("c3")), del("c1")] {
            let answer = host.store(persist).apply(&command, &boot(1));
            let is_damage = matches!(&answer, Err(Error::Store(StoreError::Damaged { .. })));
            assert!(is_damage, "{persist:?}: {answer:?}");
        }
    }
}
