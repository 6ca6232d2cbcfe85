//! Tests `sublet import host-local`, with folders that Debian's host-local has written.

use std::fs;

use serde_json::{Value, json};

use crate::import::count;
use crate::lab::{Answer, Call, HOST_LOCAL, Lab, addresses, by_attachment, need_host_local};

/// Folders of two networks in which Debian's host-local has leased addresses to c0 to c9.
struct Folders {
    lab: Lab,
}

impl Folders {
    fn new() -> Folders {
        need_host_local();
        let folders = Folders { lab: Lab::new() };
        for network in ["one", "two"] {
            for n in 0..10 {
                let got =
                    addresses(&folders.host_local("ADD", network, &format!("c{n}")).run().ok());
                assert_eq!(got, [format!("10.1.2.{}", n + 2), format!("2001:db8:1::{:x}", n + 2)]);
            }
        }
        folders
    }

    fn conf(&self, network: &str) -> Value {
        json!({
            "cniVersion": "1.0.0",
            "name": network,
            "type": "bridge",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "2001:db8:1::/64"}]],
                "dataDir": self.lab.data_dir()
            }
        })
    }

    fn sublet(&self, command: &str, network: &str, container: &str) -> Call {
        Call::cni(command, container, &self.conf(network))
    }

    fn host_local(&self, command: &str, network: &str, container: &str) -> Call {
        self.sublet(command, network, container).program(HOST_LOCAL)
    }

    fn import(&self, more: &[&str]) -> Answer {
        let call = Call::sublet().arg("import").arg("host-local").arg(&self.lab.data_dir());
        more.iter().fold(call.arg("--json"), |call, arg| call.arg(arg)).run()
    }
}

#[test]
fn host_locals_networks_are_taken_over_beforehand() {
    for persist in ["boot", "disk"] {
        let folders = Folders::new();
        let one = folders.lab.join("data/one");
        // Add a file in the format that host-local used up to 0.8.6, and an empty file as a killed host-local
        // would leave it.
        fs::write(one.join("10.1.2.6"), "c4").unwrap();
        fs::write(one.join("10.1.2.200"), "").unwrap();
        fs::create_dir(folders.lab.join("data/cache")).unwrap();

        let told = folders.import(&["--dry-run", "--persist", persist]).rows();
        assert_eq!(told.iter().map(|r| count(r, "taken")).collect::<Vec<_>>(), [20, 20]);
        assert!(!folders.lab.store().exists() && !folders.lab.boot_file().exists());

        let reports = folders.import(&["--persist", persist]).rows();
        assert_eq!(reports.iter().map(|r| count(r, "taken")).collect::<Vec<_>>(), [20, 20]);
        assert_eq!(reports[0]["last"], json!(["10.1.2.11", "2001:db8:1::b"]));
        let rows = folders.lab.list();
        assert_eq!(rows.len(), 40);
        assert!(by_attachment(&rows).contains_key("c4/"));

        // The import must have replaced the folders with text files, so that host-local can no longer use
        // them.
        assert!(one.is_file());
        assert!(folders.import(&["--persist", persist]).rows().is_empty());
        assert_eq!(folders.lab.list().len(), 40);

        // ADDs must continue the rotation after the imported leases, and must return imported leases to their
        // containers.
        let mut conf = folders.conf("one");
        conf["ipam"]["persist"] = json!(persist);
        let call = |command, container| Call::cni(command, container, &conf);
        let got = addresses(&call("ADD", "new").run().ok());
        assert_eq!(got, ["10.1.2.12", "2001:db8:1::c"], "the rotation goes on");
        let again = call("ADD", "c3").run();
        assert_eq!(again.ips(), ["10.1.2.5/24", "2001:db8:1::5/64"]);
        call("CHECK", "c4").run().silent();
        for container in ["c3", "c4"] {
            call("DEL", container).run().silent();
        }
        let rows = folders.lab.list();
        let of_one = rows.iter().filter(|r| r["network"] == "one").count();
        // The DELs must free both leases of c3. For c4, the DEL must free only the lease with an interface
        // name, because host-local would also keep the other one.
        assert_eq!(of_one, 20 + 2 - 2 - 1);
    }
}

/// A network that cannot be imported must be reported, and all other networks must be imported.
#[test]
fn a_network_that_cannot_be_taken_over_stops_no_other() {
    let folders = Folders::new();
    fs::write(folders.lab.join("data/one/10.1.2.5"), "\u{1} not an id").unwrap();
    let answer = folders.import(&[]);
    answer.check(answer.code == Some(1), "a failure was expected");
    answer.check(answer.stderr.contains("10.1.2.5") && answer.stderr.contains("1 of 2"), "which");
    let reports: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(count(&reports[0], "taken"), 20);
    assert!(folders.lab.list().iter().all(|row| row["network"] == "two"));
    // After the invalid file has been corrected, the network must be imported too.
    fs::write(folders.lab.join("data/one/10.1.2.5"), "c3\r\neth0").unwrap();
    let only = folders.import(&["--network", "one"]).rows();
    assert_eq!((only.len(), count(&only[0], "taken")), (1, 20));
    assert_eq!(folders.lab.list().len(), 40);
    let none = folders.import(&["--network", "three"]);
    none.check(none.code == Some(1) && none.stderr.contains("three"), "no such network");
}

/// While another process holds host-local's lock of a network, sublet must not import the network.
#[test]
fn host_locals_lock_is_respected() {
    let folders = Folders::new();
    let lock = fs::File::open(folders.lab.join("data/one/lock")).unwrap();
    lock.lock().unwrap();
    let only = folders.import(&["--network", "one"]);
    only.check(only.code == Some(1) && only.stderr.contains("lock"), "it is locked");
    drop(lock);
    assert_eq!(count(&folders.import(&["--network", "one"]).rows()[0], "taken"), 20);
}

/// If the leases are imported into a shared set (`--shared`), a network with the same `shared` key must use
/// them.
#[test]
fn imported_leases_may_be_shared() {
    let folders = Folders::new();
    folders.import(&["--network", "one", "--shared", "lan"]).rows();
    let mut conf = folders.conf("one");
    conf["ipam"]["shared"] = json!("lan");
    let got = addresses(&Call::cni("ADD", "new", &conf).run().ok());
    assert_eq!(got[0], "10.1.2.12");
    folders.sublet("DEL", "two", "c1").run().silent();
}
