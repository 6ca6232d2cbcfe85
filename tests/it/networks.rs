//! Tests many networks that use one store at the same time.

use std::collections::BTreeMap;
use std::sync::{Barrier, Mutex};
use std::thread;

use serde_json::{Value, json};

use crate::lab::{Call, Lab, addresses};

const NETWORKS: usize = 50;
const RUNTIMES: usize = 20;

/// Makes a network. All networks in this test use the same addresses, as separate VLANs may do. If one
/// network affected another, an address would be skipped or leased twice.
fn network(lab: &Lab, name: &str) -> Value {
    json!({
        "cniVersion": "1.1.0", "name": name, "type": "bridge",
        "ipam": {
            "type": "sublet",
            "ranges": [[{"subnet": "10.5.0.0/27"}], [{"subnet": "fd05::/64"}]],
            "dataDir": lab.data_dir(),
            // The test runs a thousand processes on a few processors, so a process may wait a long time for
            // the lock. The test checks the leases, not the speed.
            "lockTimeout": "120s"
        }
    })
}

/// The addresses that containers hold, by network and container.
type Held = BTreeMap<String, BTreeMap<String, Vec<String>>>;

fn listed(lab: &Lab) -> Held {
    let mut held = Held::new();
    for row in lab.list() {
        let text = |key: &str| row[key].as_str().unwrap().to_owned();
        let containers = held.entry(text("network")).or_default();
        containers.entry(text("containerID")).or_default().push(text("address"));
    }
    held
}

/// Uses 50 networks at the same time. Each has 20 runtimes, and each call is a process. Each runtime adds two
/// containers and deletes one of them. The container IDs are the same in all networks. Then a GC frees all
/// leases of one network, and ADDs fill another network. The leases of a third network must stay unchanged.
#[test]
fn fifty_networks_with_twenty_runtimes_each() {
    let lab = Lab::new();
    let answered: Mutex<Held> = Mutex::default();
    let start = Barrier::new(RUNTIMES);
    thread::scope(|scope| {
        for runtime in 0..RUNTIMES {
            let (lab, answered, start) = (&lab, &answered, &start);
            scope.spawn(move || {
                start.wait();
                for turn in 0..NETWORKS {
                    // In every turn, make each runtime use a different network.
                    let name = format!("net{}", (turn + runtime * 7) % NETWORKS);
                    let conf = network(lab, &name);
                    let (stays, goes) = (format!("c{runtime}"), format!("gone{runtime}"));
                    let got = addresses(&Call::cni("ADD", &stays, &conf).run().ok());
                    Call::cni("ADD", &goes, &conf).run().ok();
                    Call::cni("DEL", &goes, &conf).run().silent();
                    answered.lock().unwrap().entry(name).or_default().insert(stays, got);
                }
            });
        }
    });
    let mut expected = answered.into_inner().unwrap();
    assert_eq!(expected.len(), NETWORKS);
    for (name, containers) in &expected {
        let mut all: Vec<&String> = containers.values().flatten().collect();
        assert_eq!(all.len(), 2 * RUNTIMES, "{name}: {containers:?}");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 2 * RUNTIMES, "{name}: an address twice: {containers:?}");
    }
    assert_eq!(listed(&lab), expected);

    // Free all leases of one network.
    let mut conf = network(&lab, "net7");
    conf["cni.dev/valid-attachments"] = json!([{"containerID": "c3", "ifname": "eth0"}]);
    Call::cni("GC", "", &conf).run().silent();
    expected.get_mut("net7").unwrap().retain(|container, _| container == "c3");
    assert_eq!(listed(&lab), expected);

    // Fill another network: a /27 has 29 addresses in addition to its gateway.
    let conf = network(&lab, "net8");
    for n in RUNTIMES..29 {
        let id = format!("more{n}");
        let got = addresses(&Call::cni("ADD", &id, &conf).run().ok());
        expected.get_mut("net8").unwrap().insert(id, got);
    }
    assert_eq!(Call::cni("ADD", "too-many", &conf).run().error().0, 100);
    // By default, STATUS only warns if a range is full.
    let answer = Call::cni("STATUS", "", &conf).run();
    assert_eq!(answer.code, Some(0));
    assert!(answer.stderr.contains("no IP addresses available"), "{}", answer.stderr);
    let mut fails = conf.clone();
    fails["ipam"]["statusWhenFull"] = "fail".into();
    assert_eq!(Call::cni("STATUS", "", &fails).run().error().0, 50);
    Call::cni("STATUS", "", &network(&lab, "net9")).run().silent();
    assert_eq!(listed(&lab), expected);
}
