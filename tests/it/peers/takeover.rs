//! Tests that sublet imports the leases of Debian's host-local. host-local serves a network first, and then
//! sublet replaces it with the same configuration.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::lab::{Network, addresses, by_attachment};

const CONTAINERS: usize = 20;

/// Makes a network in which host-local has leased addresses to c0 to c19.
fn served() -> Network {
    let mut network = Network::new();
    network.conf["ipam"]["lockTimeout"] = json!("300ms");
    for n in 0..CONTAINERS {
        let got = addresses(&network.host_local("ADD", &format!("c{n}")).run().ok());
        assert_eq!(got, pair(n + 2));
    }
    network
}

impl Network {
    fn folder(&self) -> PathBuf {
        self.lab.join("data/mynet")
    }
}

fn pair(n: usize) -> [String; 2] {
    [format!("10.1.2.{n}"), format!("2001:db8:1::{n:x}")]
}

#[test]
fn first_add_adopts_everything() {
    let network = served();
    let got = addresses(&network.sublet("ADD", "new").run().ok());
    assert_eq!(got, pair(CONTAINERS + 2), "the rotation goes on");
    let rows = network.lab.list();
    let distinct: BTreeSet<&str> = rows.iter().filter_map(|r| r["address"].as_str()).collect();
    assert_eq!(distinct.len(), rows.len(), "an address with two holders");
    let listed = by_attachment(&rows);
    assert_eq!(listed.len(), CONTAINERS + 1);
    for n in 0..CONTAINERS {
        assert_eq!(listed[&format!("c{n}/eth0")], pair(n + 2));
    }
}

#[test]
fn a_host_local_that_is_swapped_back_in_fails_instead_of_leasing_an_address_twice() {
    let network = served();
    network.sublet("ADD", "new").run().ok();
    let before = network.lab.list();
    let (_, msg) = network.host_local("ADD", "another").run().error();
    assert!(msg.contains("not a directory"), "{msg}");
    let text = fs::read_to_string(network.folder()).unwrap();
    assert!(text.contains("sublet export host-local") && text.lines().count() == 1, "{text}");
    assert_eq!(network.lab.list(), before);
}

#[test]
fn rotation_goes_on_behind_freed_addresses() {
    let network = served();
    for n in 3..9 {
        let id = format!("c{n}");
        network.host_local("DEL", &id).run().silent();
    }
    let got = addresses(&network.sublet("ADD", "new").run().ok());
    assert_eq!(got, pair(CONTAINERS + 2));
}

#[test]
fn no_address_is_given_twice() {
    let mut network = served();
    // Make the range so small that only six addresses are free.
    network.conf["ipam"]["ranges"] = json!([[{"subnet": "10.1.2.0/24", "rangeEnd": "10.1.2.27"}]]);
    let mut seen: BTreeSet<String> = (0..CONTAINERS).map(|n| pair(n + 2)[0].clone()).collect();
    for n in 0..6 {
        let got = addresses(&network.sublet("ADD", &format!("n{n}")).run().ok());
        assert!(seen.insert(got[0].clone()), "{got:?} was given twice");
    }
    let (code, msg) = network.sublet("ADD", "n6").run().error();
    assert_eq!(code, 100, "{msg}");
}

#[test]
fn adopted_lease_is_checked_repeated_and_freed() {
    let network = served();
    network.sublet("ADD", "new").run().ok();
    network.sublet("CHECK", "c4").run().silent();
    let got = addresses(&network.sublet("ADD", "c4").run().ok());
    assert_eq!(got, pair(6), "a repeated ADD of an adopted container");
    network.sublet("DEL", "c4").run().silent();
    assert!(!by_attachment(&network.lab.list()).contains_key("c4/eth0"));
    let (code, _) = network.sublet("CHECK", "c4").run().error();
    assert_eq!(code, 103);
    // The DEL must free the lease permanently. A later ADD must not import the lease again from host-local's
    // folder.
    network.sublet("ADD", "newer").run().ok();
    assert!(!by_attachment(&network.lab.list()).contains_key("c4/eth0"));
    // Another container must be able to lease the address.
    let asked = network.sublet("ADD", "asks").env("CNI_ARGS", "IgnoreUnknown=1;IP=10.1.2.6");
    assert_eq!(addresses(&asked.run().ok())[0], "10.1.2.6");
}

#[test]
fn repeated_add_may_be_the_first() {
    let network = served();
    let got = addresses(&network.sublet("ADD", "c7").run().ok());
    assert_eq!(got, pair(9));
    assert_eq!(by_attachment(&network.lab.list()).len(), CONTAINERS);
}

/// A DEL may arrive after sublet has replaced host-local but before the first ADD, which imports the leases.
/// That ADD must not import the lease that the DEL has freed.
#[test]
fn del_may_come_before_the_first_add() {
    let network = served();
    network.sublet("DEL", "c5").run().silent();
    network.sublet("ADD", "new").run().ok();
    let listed = by_attachment(&network.lab.list());
    assert!(!listed.contains_key("c5/eth0"), "c5 is gone, its lease is not");
    assert_eq!(listed.len(), CONTAINERS);
}

#[test]
fn leases_without_an_interface_name_are_freed() {
    let network = served();
    // Write lease files in the format that host-local used up to 0.8.6, which has no interface name.
    for address in pair(8) {
        fs::write(network.folder().join(address), "c6").unwrap();
    }
    network.sublet("ADD", "new").run().ok();
    assert!(by_attachment(&network.lab.list()).contains_key("c6/"));
    let got = addresses(&network.sublet("ADD", "c6").run().ok());
    assert_eq!(got, pair(8), "a repeated ADD");
    network.sublet("DEL", "c6").run().silent();
    let rows = network.lab.list();
    assert!(rows.iter().all(|row| row["containerID"] != "c6"), "{rows:?}");
}

#[test]
fn a_folder_that_cannot_be_looked_at_is_not_taken_for_absent() {
    let mut network = served();
    let (folder, away) = (network.folder(), network.lab.join("away"));
    fs::rename(&folder, &away).unwrap();
    std::os::unix::fs::symlink(&folder, &folder).unwrap();
    for command in ["ADD", "DEL"] {
        let (code, msg) = network.sublet(command, "c3").run().error();
        assert_eq!(code, 11, "{command}: {msg}");
        assert!(msg.contains("cannot access") && msg.contains("mynet"), "{command}: {msg}");
    }
    fs::remove_file(&folder).unwrap();
    fs::rename(&away, &folder).unwrap();
    network.sublet("ADD", "new").run().ok();
    assert_eq!(by_attachment(&network.lab.list()).len(), CONTAINERS + 1);
    // The network's name is longer than a file name can be, so host-local cannot have created a folder for
    // it.
    network.conf["name"] = json!("n".repeat(300));
    network.sublet("ADD", "long").run().ok();
}

/// An empty lease file must count as a lease of no container. host-local leaves such a file if it is killed
/// after it has created the file and before it writes the content.
#[test]
fn empty_lease_file_is_nobodys() {
    let network = served();
    File::create(network.folder().join("10.1.2.23")).unwrap();
    network.sublet("ADD", "new").run().ok();
    assert_eq!(by_attachment(&network.lab.list()).len(), CONTAINERS + 1);
}

#[test]
fn garbage_lease_file_refuses_the_takeover() {
    let network = served();
    let path = network.folder().join("10.1.2.5");
    fs::write(&path, "\u{1}\u{2} not an id\n").unwrap();
    let (code, msg) = network.sublet("ADD", "new").run().error();
    assert_eq!(code, 11, "{msg}");
    assert!(msg.contains("sublet import host-local"), "{msg}");
    assert!(msg.contains(path.to_str().unwrap()), "{msg}");
    // The failed import must have imported nothing. After the invalid file has been corrected, the next ADD
    // must import everything.
    fs::write(&path, "c3\r\neth0").unwrap();
    network.sublet("ADD", "new").run().ok();
    assert_eq!(by_attachment(&network.lab.list()).len(), CONTAINERS + 1);
}

#[test]
fn held_host_local_lock_is_waited_for_within_its_bound() {
    let network = served();
    let file = File::open(network.folder().join("lock")).unwrap();
    file.lock().unwrap();
    let begin = Instant::now();
    let (code, msg) = network.sublet("ADD", "new").run().error();
    let took = begin.elapsed();
    assert_eq!(code, 11, "{msg}");
    assert!(msg.contains(&std::process::id().to_string()), "{msg}");
    assert!(took >= Duration::from_millis(300), "gave up after {took:?}");
    assert!(took < Duration::from_secs(4), "waited for {took:?}");
    drop(file);
    network.sublet("ADD", "new").run().ok();
    assert_eq!(by_attachment(&network.lab.list()).len(), CONTAINERS + 1);
}

/// Two networks have their leases in the same folder. The first ADD of each network must import the leases of
/// that network only.
#[test]
fn each_network_is_adopted_by_itself() {
    let mut network = served();
    network.conf["name"] = json!("other");
    network.host_local("ADD", "x").run().ok();
    let got = addresses(&network.sublet("ADD", "y").run().ok());
    assert_eq!(got, pair(3));
    let names: BTreeSet<String> =
        network.lab.list().iter().map(|row| row["network"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, BTreeSet::from(["other".to_owned()]));
}
