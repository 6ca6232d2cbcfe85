//! Tests the automatic import from host-local. An ADD imports the leases of host-local's folder in its own
//! transaction, and then replaces the folder with a text file.

use std::fs;
use std::path::PathBuf;

use super::contract::{added, addr, net, owner};
use super::host::{Host, added_with_warnings, boot, listed, lowest, unreserve};
use crate::alloc::{Add, Context, Cooldown, Del, Target};
use crate::engine;
use crate::engine::HostLocalFolder;
use crate::error::Error;
use crate::model::{Kind, NetworkName, Persist, Wait};
use crate::net::Addr;

const MODES: [Persist; 2] = [Persist::Boot, Persist::Disk];

fn network() -> NetworkName {
    NetworkName::new("net").unwrap()
}

/// Creates host-local's folder of the network "net", with the given leases (address and container ID).
fn folder(host: &Host, leases: &[(&str, &str)]) -> PathBuf {
    let dir = host.folder.path().join("net");
    fs::create_dir_all(&dir).unwrap();
    for (addr, container) in leases {
        fs::write(dir.join(addr), format!("{container}\r\neth0")).unwrap();
    }
    dir
}

fn add(host: &Host, persist: Persist, add: Add, cx: &Context) -> Result<Vec<Addr>, Error> {
    let (network, dir) = (network(), host.folder.path().join("net"));
    let legacy = HostLocalFolder { dir: &dir, network: &network, wait: Wait::Try };
    let added = engine::add(&mut host.store(persist), add, Some(legacy), cx)?;
    Ok(added.grants.iter().map(|grant| grant.addr).collect())
}

#[test]
fn the_folder_is_adopted_and_becomes_a_file_that_says_how_to_go_back() {
    for persist in MODES {
        let host = Host::new();
        let dir = folder(&host, &[("10.0.0.2", "old"), ("10.0.0.3", "older")]);
        let got = add(&host, persist, lowest("new"), &boot(1)).unwrap();
        assert_eq!(got, [addr("10.0.0.4")]);
        assert_eq!(listed(&mut host.store(persist), &boot(1)).len(), 3);
        let text = fs::read_to_string(&dir).unwrap();
        assert!(text.contains("sublet export host-local") && text.lines().count() == 1, "{text}");
        let kept = host.folder.path().join("net~adopted-1000");
        assert!(kept.join("10.0.0.2").exists());
        // A file in the folder's place means that the folder has already been imported, so later ADDs leave
        // the file alone.
        assert_eq!(add(&host, persist, lowest("next"), &boot(1)).unwrap(), [addr("10.0.0.5")]);
        assert_eq!(add(&host, persist, lowest("old"), &boot(1)).unwrap(), [addr("10.0.0.2")]);
    }
}

#[test]
fn a_takeover_that_died_before_the_exchange_is_done_again_by_the_next_add() {
    for persist in MODES {
        let host = Host::new();
        folder(&host, &[("10.0.0.2", "old")]);
        add(&host, persist, lowest("new"), &boot(1)).unwrap();
        // Restore the state in which the leases have been committed but the folder has not been replaced yet.
        fs::remove_file(host.folder.path().join("net")).unwrap();
        fs::rename(host.folder.path().join("net~adopted-1000"), host.folder.path().join("net"))
            .unwrap();
        fs::write(host.folder.path().join("net~adopted-1000"), "left behind").unwrap();
        assert_eq!(add(&host, persist, lowest("next"), &boot(1)).unwrap(), [addr("10.0.0.4")]);
        assert_eq!(listed(&mut host.store(persist), &boot(1)).len(), 3);
        assert!(host.folder.path().join("net").is_file());
    }
}

#[test]
fn if_the_exchange_fails_the_add_fails_and_undoes_its_own_lease() {
    for persist in MODES {
        let host = Host::new();
        // Replacing the folder fails, because its new name `NAME~adopted-TIME` is too long for the file
        // system.
        let long = "n".repeat(250);
        let dir = host.folder.path().join(&long);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("10.0.0.2"), "old\r\neth0").unwrap();
        let network = NetworkName::new(&*long).unwrap();
        let legacy = HostLocalFolder { dir: &dir, network: &network, wait: Wait::Try };
        let failed = engine::add(&mut host.store(persist), lowest("new"), Some(legacy), &boot(1));
        assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
        let left = listed(&mut host.store(persist), &boot(1));
        assert!(left.iter().all(|lease| lease.owner != owner("new")), "{left:?}");
        assert!(dir.join("10.0.0.2").exists());
    }
}

#[test]
fn del_of_a_container_that_host_local_served_unlinks_its_file() {
    let host = Host::new();
    let dir = folder(&host, &[("10.0.0.2", "old"), ("10.0.0.3", "older")]);
    let network = network();
    let legacy = HostLocalFolder { dir: &dir, network: &network, wait: Wait::Try };
    let target = Target::Owner(owner("old"));
    let del = Del { set: net(), target, rewind: false, undo: false, legacy: None };
    engine::del(&mut host.store(Persist::Boot), del, Some(legacy), &boot(1)).unwrap();
    assert!(!dir.join("10.0.0.2").exists() && dir.join("10.0.0.3").exists());
    assert_eq!(add(&host, Persist::Boot, lowest("new"), &boot(1)).unwrap(), [addr("10.0.0.2")]);
}

#[test]
fn an_address_that_both_sides_claim_is_reserved_with_both_named_and_the_rest_is_adopted() {
    for persist in MODES {
        let host = Host::new();
        added(&mut host.store(persist), &lowest("ours"), &boot(1));
        folder(&host, &[("10.0.0.2", "theirs"), ("10.0.0.3", "other")]);
        let (network, dir) = (network(), host.folder.path().join("net"));
        let legacy = HostLocalFolder { dir: &dir, network: &network, wait: Wait::Try };
        let done = engine::add(&mut host.store(persist), lowest("new"), Some(legacy), &boot(1));
        let done = done.unwrap();
        assert_eq!(done.grants[0].addr, addr("10.0.0.4"));
        let warning = done.warnings.join("\n");
        for word in ["ours", "theirs", "sublet unreserve net 10.0.0.2"] {
            assert!(warning.contains(word), "{warning}");
        }
        // The address is reserved, so a DEL of either container does not free it.
        for container in ["ours", "theirs"] {
            let del = super::contract::del(container);
            crate::store::Store::apply(&mut host.store(persist), &del, &boot(1)).unwrap();
        }
        assert_eq!(
            added_with_warnings(&mut host.store(persist), &lowest("c5"), &boot(1)).0,
            [addr("10.0.0.5")]
        );
        let all = listed(&mut host.store(persist), &boot(1));
        let reserved = all.iter().find(|lease| lease.kind == Kind::Reserved).unwrap();
        let note = reserved.origin.note.clone().unwrap();
        assert!(note.contains("ours") && note.contains("theirs"), "{note}");
        unreserve(&mut host.store(persist), &[addr("10.0.0.2")], &boot(1)).unwrap();
        assert_eq!(
            added_with_warnings(&mut host.store(persist), &lowest("c2"), &boot(1)).0,
            [addr("10.0.0.2")]
        );
    }
}

#[test]
fn an_address_with_an_ended_cooldown_that_host_local_has_leased_is_adopted() {
    for persist in MODES {
        let host = Host::new();
        let cooldown = Cooldown { seconds: 5, strict: false };
        let cooled = |name: &str| Add { cooldown, ..lowest(name) };
        added(&mut host.store(persist), &cooled("c1"), &boot(1));
        added(&mut host.store(persist), &cooled("c2"), &boot(1));
        let del = super::contract::del("c1");
        crate::store::Store::apply(&mut host.store(persist), &del, &boot(1)).unwrap();
        folder(&host, &[("10.0.0.2", "theirs")]);
        let later = Context { now: 1900, ..boot(1) };
        assert_eq!(add(&host, persist, cooled("new"), &later).unwrap(), [addr("10.0.0.4")]);
        assert_eq!(listed(&mut host.store(persist), &later).len(), 3);
    }
}

#[test]
fn an_add_waits_for_host_locals_lock_and_looks_for_the_folder_again() {
    for persist in MODES {
        let host = Host::new();
        let dir = folder(&host, &[("10.0.0.2", "old")]);
        let held = crate::store::lock_file(&dir.join("lock"), Wait::Try).unwrap();
        // While another process holds host-local's lock, the ADD fails and leases nothing.
        assert!(add(&host, persist, lowest("new"), &boot(1)).is_err());
        assert!(listed(&mut host.store(persist), &boot(1)).is_empty());
        let got = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let network = network();
                let wait = Wait::For(std::time::Duration::from_secs(20));
                let legacy = HostLocalFolder { dir: &dir, network: &network, wait };
                engine::add(&mut host.store(persist), lowest("new"), Some(legacy), &boot(1))
            });
            crate::store::FileSystem::pause(
                &crate::store::Os,
                std::time::Duration::from_millis(50),
            );
            // Simulate another process, with another store, that has already imported the folder.
            fs::rename(&dir, host.folder.path().join("net~adopted-1")).unwrap();
            drop(held);
            waiting.join().unwrap().unwrap()
        });
        assert_eq!(got.grants[0].addr, addr("10.0.0.2"));
        assert_eq!(listed(&mut host.store(persist), &boot(1)).len(), 1);
    }
}

#[test]
fn a_file_or_nothing_in_the_place_of_the_folder_means_done() {
    for persist in MODES {
        let host = Host::new();
        assert_eq!(add(&host, persist, lowest("c1"), &boot(1)).unwrap(), [addr("10.0.0.2")]);
        fs::write(host.folder.path().join("net"), "adopted").unwrap();
        assert_eq!(add(&host, persist, lowest("c2"), &boot(1)).unwrap(), [addr("10.0.0.3")]);
        assert_eq!(fs::read_to_string(host.folder.path().join("net")).unwrap(), "adopted");
    }
}

#[test]
fn the_rotation_goes_on_behind_host_locals_last_address() {
    for persist in MODES {
        let host = Host::new();
        let dir = folder(&host, &[("10.0.0.2", "old")]);
        fs::write(dir.join("last_reserved_ip.0"), "10.0.0.7").unwrap();
        let strategy = crate::alloc::Strategy::RoundRobin;
        let got = add(&host, persist, Add { strategy, ..lowest("new") }, &boot(1)).unwrap();
        assert_eq!(got, [addr("10.0.0.8")]);
    }
}

/// The leases must be committed before the folder is replaced, so that a failed commit loses no lease.
#[test]
fn a_takeover_that_cannot_commit_leaves_the_folder_to_host_local() {
    use super::watched::Watched;
    for persist in MODES {
        let host = Host::new();
        let dir = folder(&host, &[("10.0.0.2", "old")]);
        let full = |what: &str, path: &std::path::Path| {
            let is_lock = path.extension().is_some_and(|end| end == "lock");
            if what == "create" && !is_lock {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            Ok(())
        };
        let files = Watched { is_shared: false, before: std::sync::Arc::new(full) };
        let mut store = crate::store::Embedded::on(files, host.path(""), persist, Wait::Try);
        let network = network();
        let legacy = HostLocalFolder { dir: &dir, network: &network, wait: Wait::Try };
        let failed = engine::add(&mut store, lowest("new"), Some(legacy), &boot(1));
        assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
        assert!(dir.join("10.0.0.2").exists());
        assert_eq!(add(&host, persist, lowest("new"), &boot(1)).unwrap(), [addr("10.0.0.3")]);
    }
}
