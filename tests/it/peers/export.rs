//! Tests going back from sublet to host-local: sublet exports its leases to folders, and Debian's host-local
//! continues with them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;

use crate::lab::{Answer, Call, Lab, Network, addresses, by_attachment};

const CONTAINERS: usize = 10;

/// Makes a network in which sublet has leased addresses to c0 to c9.
fn served() -> Network {
    let network = Network::new();
    for n in 0..CONTAINERS {
        network.sublet("ADD", &format!("c{n}")).run().ok();
    }
    network
}

impl Network {
    fn export(&self, more: &[&str]) -> Answer {
        let store = self.lab.store().display().to_string();
        let call = Call::sublet().arg("export").arg("host-local").arg(&self.lab.data_dir());
        more.iter().fold(call.arg("--store").arg(&store).arg("--json"), |c, a| c.arg(a)).run()
    }

    /// Returns the name and the content of each lease file in host-local's folder.
    fn files(&self) -> Vec<(String, String)> {
        let mut files: Vec<_> = fs::read_dir(self.lab.join("data/mynet"))
            .unwrap()
            .map(|e| e.unwrap())
            .map(|e| (e.file_name().into_string().unwrap(), e.path()))
            .filter(|(name, _)| name.parse::<std::net::IpAddr>().is_ok())
            .map(|(name, path)| (name, fs::read_to_string(path).unwrap()))
            .collect();
        files.sort();
        files
    }
}

#[test]
fn host_local_goes_on_where_sublet_stopped() {
    let network = served();
    assert_eq!(network.export(&["--dry-run"]).rows()[0]["written"].as_array().unwrap().len(), 20);
    assert!(!network.lab.join("data/mynet").exists(), "a dry run");
    let report = network.export(&[]).rows().remove(0);
    assert_eq!(report["written"].as_array().unwrap().len(), 2 * CONTAINERS);
    assert_eq!(report["last"], json!(["10.1.2.11", "2001:db8:1::b"]));
    let files = network.files();
    assert_eq!(files.len(), 2 * CONTAINERS);
    assert!(files.contains(&("10.1.2.5".to_owned(), "c3\r\neth0".to_owned())));

    let new = addresses(&network.host_local("ADD", "new").run().ok());
    assert_eq!(new, ["10.1.2.12", "2001:db8:1::c"], "neither a duplicate nor a freed one");
    for n in 0..CONTAINERS {
        let container = format!("c{n}");
        network.host_local("CHECK", &container).run();
        network.host_local("DEL", &container).run().silent();
    }
    let left: Vec<String> = network.files().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, new);
    // After the DELs, host-local must be able to lease all addresses again, each only once.
    let mut seen: BTreeSet<String> = new.into_iter().collect();
    for n in 0..CONTAINERS {
        for addr in addresses(&network.host_local("ADD", &format!("d{n}")).run().ok()) {
            assert!(seen.insert(addr.clone()), "{addr} was given twice");
        }
    }
}

/// Exports the leases, and then restores the state that an export leaves if it is killed just after it has
/// renamed the new folder: both sublet and host-local have the leases.
fn exported_and_killed(network: &Network) {
    let kept = network.lab.join("kept");
    fs::copy(network.lab.boot_file(), &kept).unwrap();
    network.export(&[]).rows();
    assert!(network.lab.list().is_empty(), "host-local has them now");
    put_back(network, &kept);
}

/// Replaces the lease file with an older copy. Also removes the lock file. The header note in the lock file
/// shows that the copy is older than the last commit, so sublet would refuse the copy.
fn put_back(network: &Network, kept: &Path) {
    fs::rename(kept, network.lab.boot_file()).unwrap();
    fs::remove_file(network.lab.join("data/leases.redb.boot.lock")).unwrap();
}

#[test]
fn an_export_that_was_killed_is_repeated_and_another_containers_file_stays() {
    let network = served();
    exported_and_killed(&network);
    let before = network.files();
    let kept = network.lab.join("kept");
    fs::copy(network.lab.boot_file(), &kept).unwrap();
    let again = network.export(&[]).rows().remove(0);
    assert_eq!(again["written"], json!([]));
    assert_eq!(again["present"].as_array().unwrap().len(), 2 * CONTAINERS);
    assert_eq!(network.files(), before);
    assert!(network.lab.list().is_empty());
    let third = network.export(&[]);
    third.check(third.stderr.contains("no leases to export"), "nothing is left");
    assert_eq!(network.files(), before);
    put_back(&network, &kept);
    let theirs = network.lab.join("data/mynet/10.1.2.5");
    fs::write(&theirs, "other\r\neth0").unwrap();
    let refused = network.export(&[]);
    refused.check(refused.code == Some(1) && refused.stdout.is_empty(), "a refusal was expected");
    refused.check(refused.stderr.contains("10.1.2.5") && refused.stderr.contains("other"), "which");
    assert_eq!(fs::read_to_string(&theirs).unwrap(), "other\r\neth0");
    assert_eq!(network.lab.list().len(), 2 * CONTAINERS, "a refusal frees nothing");
    fs::remove_file(&theirs).unwrap();
    network.export(&[]).rows();
    assert_eq!(network.files(), before);
}

/// sublet must be able to export its leases to host-local, and to import them again after host-local has
/// changed them. A second export must also work.
#[test]
fn there_and_back_and_there_again() {
    let network = served();
    for n in 0..5 {
        network.sublet("DEL", &format!("c{n}")).run().silent();
    }
    network.export(&[]).rows();
    network.host_local("DEL", "c7").run().silent();
    let given = addresses(&network.host_local("ADD", "theirs").run().ok());
    // The first ADD must read host-local's folder again. Otherwise, it could lease addresses that host-local
    // has leased since the export.
    let got = addresses(&network.sublet("ADD", "ours").run().ok());
    let listed = by_attachment(&network.lab.list());
    assert_eq!(listed["theirs/eth0"], given);
    assert_ne!(got, given);
    // Leases that host-local has freed must not be imported.
    assert!(!listed.contains_key("c7/eth0") && listed.contains_key("c8/eth0"));
    // After the import, a text file has replaced the folder. The next export must replace this file with a
    // folder that contains the current leases.
    assert!(network.lab.join("data/mynet").is_file());
    network.sublet("DEL", "theirs").run().silent();
    for n in 0..250 {
        network.sublet("ADD", &format!("e{n}")).run();
    }
    let listed = network.lab.list().len();
    network.export(&[]).rows();
    assert!(!network.lab.join("data/mynet~export").exists());
    assert_eq!(network.files().len(), listed);
}

/// host-local has leased an address that another container already holds in sublet. The first ADD must report
/// this conflict. The address must never be leased again, and other containers must not be affected.
#[test]
fn a_clash_on_the_way_back_to_sublet_names_both_and_reserves_the_address() {
    let network = served();
    exported_and_killed(&network);
    network.host_local("DEL", "c3").run().silent();
    let asked = network.host_local("ADD", "thief").env("CNI_ARGS", "IP=10.1.2.5");
    assert_eq!(addresses(&asked.run().ok())[0], "10.1.2.5");
    let answer = network.sublet("ADD", "new").run();
    assert!(answer.succeeded() && !addresses(&answer.json()).contains(&"10.1.2.5".to_owned()));
    for word in ["10.1.2.5", "c3", "thief"] {
        answer.check(answer.stderr.contains(word), word);
    }
    // No matter which of the two containers ends first, no other container may get the address.
    network.sublet("DEL", "c3").run().silent();
    for n in 0..250 {
        let got = network.sublet("ADD", &format!("e{n}")).run();
        assert!(!got.succeeded() || !addresses(&got.json()).contains(&"10.1.2.5".to_owned()));
    }
}

#[test]
fn what_is_no_containers_is_left_out() {
    let lab = Lab::new();
    let store = lab.store().display().to_string();
    let conf = json!({"cniVersion": "0.3.0", "ipam": {"id": "task", "ipv4-subnet": "10.0.0.0/24"}});
    Call::cni("ADD", "", &conf).env("IPAM_DB_PATH", &store).run().ok();
    let args = ["export", "host-local", &lab.data_dir(), "--store", &store].map(str::to_owned);
    let answer = args.iter().fold(Call::sublet(), |call, arg| call.arg(arg)).run();
    answer.check(answer.succeeded() && answer.stdout.is_empty(), "nothing to write");
    answer.check(answer.stderr.contains("10.0.0.2") && answer.stderr.contains("id task"), "why");
    assert!(!lab.join("data/ecs").exists());
}
